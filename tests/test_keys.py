"""Everything that changes what is kept changes its key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compress import keys
from compress.data import ImageProcessor, Split, Splits
from compress.model import structure_of
from compress.model.files.definition import Definition
from compress.pipeline.cache import Cache
from compress.pipeline.prepare import Run, prepare
from compress.pipeline.timer import OnnxTimer
from compress.progress import Silent
from compress.prune.structured.latency_table import measure_table
from compress.recipe import load_recipe
from compress.timing import Setting

RUN_KEYS = import_module("compress.pipeline.run_keys")
TIMED = {"prune/structured": {"speedup": 1.5}}


class _Asked(Exception):
    """What a table would be kept by."""


class _Clock:
    """A timer that measures nothing."""

    def remembered(self, about: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        raise _Asked(json.dumps(about))


def _table_of(definition: Definition) -> str:
    model = definition.build()
    structure, clock = structure_of(model), _Clock()
    with pytest.raises(_Asked) as asked:
        measure_table(
            model,
            structure,
            clock,  # type: ignore[arg-type]
            Setting(batch=1, sequence=5, threads=1),
            least=[0] * len(structure.sites),
        )
    return str(asked.value)


@pytest.mark.parametrize(
    "change", [{"nhead": 8}, {"activation": "relu"}, {"norm_first": False}, {"positions": "rope"}]
)
def test_models_of_one_width_and_other_parts_share_no_latency_table(
    definition: Definition, change: dict[str, Any]
) -> None:
    other = definition.changed(change)
    assert _table_of(definition) == _table_of(definition) != _table_of(other)


def test_a_module_that_we_did_not_build_is_known_by_what_it_says_of_itself() -> None:
    from torch import nn

    plain, gelu = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert keys.architecture(plain) != keys.architecture(gelu)


@pytest.fixture
def prepared(tmp_path: Path, write_recipe: Callable[..., Path]) -> Callable[..., Run]:
    def make(*stages: Any, **changes: Any) -> Run:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        return prepare(load_recipe(write_recipe(tmp_path / "r.yaml", *stages, **changes)), scratch)

    return make


def test_what_is_timed_is_kept_by_the_opset(prepared: Callable[..., Run]) -> None:
    found = [
        prepared(stage, export={"opset": opset})
        for stage in (TIMED, "quantize/float16")
        for opset in (21, 23)
    ]
    timed, others = found[:2], found[2:]
    assert timed[0].keys.stages != timed[1].keys.stages and timed[0].keys.base == timed[1].keys.base
    assert others[0].keys.stages == others[1].keys.stages  # no clock is looked at
    assert others[0].keys.run != others[1].keys.run


@pytest.mark.parametrize("change", ["opset", "baseline", "later"])
def test_a_latency_table_is_measured_again_where_something_else_is_timed(
    tmp_path: Path, write_recipe: Callable[..., Path], change: str
) -> None:
    def timer(opset: int = 21, baseline: bytes = b"fp32", later: tuple[Any, ...] = ()) -> OnnxTimer:
        recipe = load_recipe(write_recipe(tmp_path / "r.yaml", export={"opset": opset}))
        (tmp_path / "baseline.onnx").write_bytes(baseline)
        run: Any = SimpleNamespace(recipe=recipe, cache=Cache(tmp_path), progress=Silent())
        nothing: Any = None
        return OnnxTimer(run, nothing, tmp_path / "baseline.onnx", later, nothing)

    stage = load_recipe(write_recipe(tmp_path / "r.yaml")).stages[0]
    other: dict[str, Any] = {
        "opset": {"opset": 23},
        "baseline": {"baseline": b"int8"},
        "later": {"later": (stage,)},
    }
    assert timer().remembered("model", lambda: {"ms": 1}) == {"ms": 1}
    assert timer(**other[change]).remembered("model", lambda: {"ms": 2}) == {"ms": 2}
    assert timer().remembered("model", lambda: {"ms": 3}) == {"ms": 1}


@pytest.mark.parametrize(
    ("package", "changed"),
    [
        ("torch", {"base", "stage", "timed", "graph", "table", "run"}),
        ("torchao", {"base", "stage", "timed", "graph", "table", "run"}),
        ("transformers", {"base", "stage", "timed", "graph", "table", "run"}),
        ("onnx", {"timed", "graph", "table", "run"}),  # a training goes on with another ONNX Runtime
        ("onnx-ir", {"timed", "graph", "table", "run"}),
        ("onnxscript", {"timed", "graph", "table", "run"}),
        ("onnxruntime", {"timed", "graph", "table", "run"}),
        ("openvino", {"run"}),
    ],
)
def test_another_version_of_what_computes_it_is_another_key(
    monkeypatch: pytest.MonkeyPatch, package: str, changed: set[str]
) -> None:
    def found() -> dict[str, str]:
        common: Any = {"files": [], "seed": 0, "unlabelled": None, "later": None}
        return {
            "base": keys.fingerprint("base"),
            "stage": keys.stage_key("a", "b", ("name", {}), **common, timed=None),
            "timed": keys.stage_key("a", "b", ("name", {}), **common, timed=["machine"]),
            "graph": keys.graph_key("a", "baseline", {}),
            "table": keys.timed_key("model", later=[], opset=21, baseline="0"),
            "run": keys.run_key("a", export={}, measure={}, machine={}, shipped=[]),
        }

    before, known = found(), keys.version
    monkeypatch.setattr(keys, "version", lambda name: "99.0" if name == package else known(name))
    after = found()
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_run_is_kept_by_the_runtimes_version_and_the_machine(
    prepared: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, known = prepared(), keys.version
    with monkeypatch.context() as patch:
        patch.setattr(keys, "version", lambda name: "99.0" if name == "onnxruntime" else known(name))
        upgraded = prepared()
    monkeypatch.setattr(RUN_KEYS, "machine_facts", lambda: {"cpu": "another"})
    moved = prepared()
    assert len({first.keys.run, upgraded.keys.run, moved.keys.run}) == 3
    assert first.keys.stages == upgraded.keys.stages == moved.keys.stages


def test_names_of_labels_are_part_of_what_data_is_known_by(splits: Splits) -> None:
    renamed = replace(splits, task=replace(splits.task, labels=("bad", "good", "other")))
    assert splits.fingerprint() == replace(splits).fingerprint() != renamed.fingerprint()


def test_padding_pixels_and_bytes_are_part_of_what_data_is_known_by(splits: Splits) -> None:
    (spec,) = splits.task.inputs
    sized = replace(splits.test, label_bytes=np.ones(len(splits.test), dtype=np.int64))
    others = [
        replace(splits, task=replace(splits.task, inputs=(replace(spec, pad_value=1.0),))),
        replace(splits, reader=ImageProcessor()),
        replace(splits, reader=ImageProcessor(resample=0)),
        replace(splits, test=sized),
        replace(splits, test=replace(sized, label_bytes=np.zeros(len(splits.test), dtype=np.int64))),
    ]
    assert len({each.fingerprint() for each in (splits, *others)}) == 6


def test_a_run_is_kept_by_the_files_that_it_ships(
    prepared: Callable[..., Run], tmp_path: Path, bert_directory: Path
) -> None:
    model = tmp_path / "bert"
    shutil.copytree(bert_directory, model)
    words = ["film", "plot", "good", "bad", "fine", "poor", "was", "very"]
    rows = [f"{word} {'the ' * times},{times % 2}" for word in words for times in range(4)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    data = {"source": "file", "train": str(tmp_path / "rows.csv"), "max_length": 16}

    def made(**changes: Any) -> Run:
        return prepared(model={"hf": str(model)}, data=data | changes)

    before, shorter = made(), made(max_length=8)  # no text is as long
    assert before.splits.train.fingerprint() == shorter.splits.train.fingerprint()
    config = model / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "cls_token": "[CLS]", "x": "y"}))
    assert len({each.keys.run for each in (before, shorter, made())}) == 3


def test_another_source_of_ours_is_another_key(tmp_path: Path) -> None:
    def digests() -> tuple[str, str]:
        keys._source.cache_clear()
        return keys.source_digest((), tmp_path), keys.source_digest(("report",), tmp_path)

    for name in ("report/html.py", "train/loop.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    first = digests()
    (tmp_path / "report" / "html.py").write_text("2")
    second = digests()
    (tmp_path / "train" / "loop.py").write_text("2")
    third = digests()
    assert len({first[0], second[0], third[0]}) == 3
    assert first[1] == second[1] != third[1]


def test_teachers_answers_are_kept_by_all_that_makes_them(definition: Definition, splits: Splits) -> None:
    def key(change: dict[str, Any] | None = None, rows: Split = splits.train, device: str = "cpu") -> str:
        return keys.targets_key([definition.changed(change or {}).build()], rows, [], device)

    assert key() == key()
    assert len({key(), key({"activation": "relu"}), key(rows=splits.test), key(device="cuda")}) == 4


def test_what_is_left_out_of_keys_is_there() -> None:
    package = Path(keys.__file__).parent
    named = {*keys._SHOWING, *keys._BEHIND_WEIGHTS} - {"_starter"}  # which only a wheel has
    assert [name for name in sorted(named) if not (package / name).exists()] == []
