"""Other runtimes: what is asked of them, what is timed, and OpenVINO itself where it is installed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.errors import MeasureError, RecipeError
from compress.measure import FilePair, check_runtimes, installed_runtimes, measure_pair
from compress.measure.latency import Rounds, rounds_in_turns
from compress.measure.process.monitor import LoadMonitor, read_counters
from compress.measure.rows import steady_batch
from compress.measure.runtimes import openvino_session
from compress.measure.runtimes import others as measuring
from compress.measure.runtimes.others import Answered, OpenRuntime, measure_runtimes
from compress.measure.runtimes.session import create_session
from compress.recipe import MeasureConfig
from compress.timing import Setting

from .conftest import TOKENS

needs_openvino = pytest.mark.skipif(not openvino_session.is_installed(), reason="OpenVINO is not installed")
QUICK = Rounds(2, 0.001)


def _as_onnxruntime(name="other", refused=""):
    """A runtime that is ONNX Runtime under another name, or that refuses the file of this name."""

    def create(path, threads):
        if path.name == refused:
            raise MeasureError(f"{path}: cannot run QuantizeLinear")
        return create_session(path, threads=threads)

    return OpenRuntime(name, "1.0", create)


@pytest.fixture
def files(token_model, token_split):
    """The tiny model says 0, 1, 1, 0; the classes of the candidate were noted otherwise on the last row."""
    baseline, candidate = token_model(), token_model("small.onnx")
    return (
        Answered("baseline", baseline, token_split, TOKENS, np.array([0, 1, 1, 0])),
        Answered("candidate", candidate, token_split, TOKENS, np.array([0, 1, 1, 1])),
    )


def test_rounds_in_turns_gives_each_function_its_median_in_each_round():
    now = [0]

    def work(*ms):
        each = iter(ms)

        def call():
            now[0] += next(each) * 1_000_000

        return call

    # 3 calls a round at least; the first round is the warm-up.
    first, second = work(9, 9, 9, 1, 2, 6, 4, 4, 4), work(9, 9, 9, 5, 5, 5, 3, 1, 2)
    reading = read_counters()()  # always the same one: nothing runs beside
    quiet = LoadMonitor(lambda: reading)
    found = rounds_in_turns([first, second], Rounds(2, 0, clock=lambda: now[0], monitor=quiet))
    assert found.rounds_ms == ((2.0, 4.0), (5.0, 2.0))


def test_another_runtime_is_compared_row_by_row_and_timed_beside_onnxruntime(files, token_split):
    steps: list[str] = []
    at = (Setting(batch=2, sequence=3, threads=1), steady_batch(token_split, 2, 3))
    found = measure_runtimes([_as_onnxruntime()], files, [at], QUICK, on_step=steps.append)

    baseline, candidate = found.files
    assert (baseline.file, baseline.agreement, baseline.accuracy) == ("baseline", 1.0, 0.75)
    assert (candidate.file, candidate.agreement, candidate.accuracy) == ("candidate", 0.75, 0.75)
    assert [(x.runtime, x.file) for x in found.timings] == [
        ("onnxruntime", "baseline"),
        ("onnxruntime", "candidate"),
        ("other", "baseline"),
        ("other", "candidate"),
    ]
    assert {(x.batch, x.sequence, x.threads, len(x.rounds_ms)) for x in found.timings} == {(2, 3, 1, 2)}
    assert len(steps) == 3  # two files and one setting, as `Request.steps` counts them


def test_a_file_that_a_runtime_refuses_is_said_and_not_timed(files, token_split):
    way = _as_onnxruntime(refused="small.onnx")
    at = (Setting(batch=1, sequence=3, threads=1), steady_batch(token_split, 1, 3))
    found = measure_runtimes([way], files, [at], QUICK)
    assert found.files[0].refused == ""
    assert found.files[1].refused == "cannot run QuantizeLinear"
    assert found.files[1].agreement is None
    assert ("other", "candidate") not in {(x.runtime, x.file) for x in found.timings}
    assert len(found.timings) == 3


def test_a_recipe_that_asks_for_openvino_without_it_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setattr(measuring, "is_installed", lambda: False)
    with pytest.raises(RecipeError, match=r"measure\.runtimes: openvino .*pip install openvino"):
        check_runtimes(("onnxruntime", "openvino"))
    check_runtimes(None)
    check_runtimes(("onnxruntime",))
    assert installed_runtimes() == ("onnxruntime",)


def test_openvinos_reason_is_the_operator_that_it_could_not_convert():
    said = (
        "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'false' failed at report.cpp:151:\n"
        "-- QuantizeLinear-21 with a message:\nCannot get length of dynamic dimension\n\n"
        "Summary:\n-- Conversion is failed for: QuantizeLinear-21\n\n"
    )
    assert openvino_session._reason(said) == (
        "Cannot get length of dynamic dimension; Conversion is failed for: QuantizeLinear-21"
    )
    assert openvino_session._reason("Check 'x' failed") == "Check 'x' failed"


@needs_openvino
def test_openvino_answers_a_tiny_file_as_onnxruntime_does(token_model, token_split):
    how = MeasureConfig(
        batch=(1,),
        sequence=(3,),
        threads=(1,),
        rounds=3,
        seconds=0.01,
        runtimes=("onnxruntime", "openvino"),
    )
    found = measure_pair(
        FilePair(token_model(), token_model("small.onnx"), token_split, TOKENS), how
    ).runtimes
    assert found is not None
    own = [each for each in found.files if each.runtime == "openvino"]
    # Sums of numbers up to 9 are exact in bfloat16 too.
    assert [(each.agreement, each.accuracy, each.refused) for each in own] == [(1.0, 0.75, "")] * 2
    assert all(each.precision in ("f32", "bf16", "f16") for each in own)
    assert {(x.runtime, x.file) for x in found.timings} >= {
        ("openvino", "baseline"),
        ("openvino", "candidate"),
    }


@needs_openvino
def test_a_quantized_gemm_with_an_integer_bias_is_one_of_integers_in_openvino(tmp_path):
    """The form that quantize/int8_static writes, 4 inputs and 16 outputs; checked against ONNX Runtime."""
    import torch

    from compress.export.lowering.operators import translation_table
    from compress.model.layers.int8 import Int8StaticLinear

    torch.manual_seed(0)
    layer = Int8StaticLinear(64, 16).range_(-1.0, 1.0)
    layer.fill_(
        torch.randint(-127, 128, (16, 64), dtype=torch.int8), torch.full((16,), 0.01), torch.randn(16)
    )
    path = tmp_path / "layer.onnx"
    rows = torch.rand(3, 64) * 2 - 1
    torch.onnx.export(
        torch.nn.Sequential(layer, torch.nn.ReLU()).eval(),
        (rows,),
        path,
        dynamo=True,
        opset_version=21,
        custom_translation_table=translation_table(),
        input_names=["x"],
        output_names=["logits"],
        verbose=False,
    )
    session = openvino_session.create_openvino_session(path, threads=1)
    assert set(session.products) <= {"u8", "i8"}
    assert sum(session.products.values()) == 1
    expected = create_session(path, threads=1).run(None, {"x": rows.numpy()})[0]
    # bfloat16 keeps 8 bits, so an output may be off by 2^-8 of the largest.
    assert np.abs(session.run(None, {"x": rows.numpy()})[0] - expected).max() <= np.abs(expected).max() / 256


@needs_openvino
def test_openvino_names_an_operator_that_it_does_not_have(tmp_path):
    node = helper.make_node("Nonsense", ["x"], ["logits"], domain="of.nobody")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "logits")]
    graph = helper.make_graph([node], "tiny", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("of.nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "nonsense.onnx")
    with pytest.raises(MeasureError, match=r"nonsense\.onnx: .*Nonsense"):
        openvino_session.create_openvino_session(tmp_path / "nonsense.onnx", threads=1)
