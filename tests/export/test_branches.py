"""A module that branches on values is refused before it is trained: by file and line, with what to write."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from compress.cli import app
from compress.data import Splits, from_arrays
from compress.errors import CompressError, ExportError, ModelError, ParityError, RecipeError
from compress.export import check_branches, check_parity, export_onnx
from compress.model import Definition
from compress.pipeline import run
from compress.pipeline.prepare import prepare
from compress.recipe import load_recipe

MODULE = """\
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.classifier = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, features):
        x = self.embed(features)
        BRANCH
        return self.classifier(x.relu())
"""
RECIPE = """\
# modelpress run own.yaml
# A model of one's own.
model: {file: models/own.py, builder: Model, train: {epochs: 1, batch_size: 8}}
data: {source: arrays, train: rows.npz}
stages:
  - quantize/int8_dynamic
"""


def _rows() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"features": draw.normal(size=(60, 3)), "labels": np.arange(60) % 2}


def _write(folder: Path, line: str) -> Path:
    (folder / "models").mkdir()
    (folder / "models/own.py").write_text(MODULE.replace("BRANCH", line.replace("\n", "\n        ")))
    return folder / "models/own.py"


def _check(folder: Path, line: str) -> None:
    module = Definition.from_file(_write(folder, line), "Model", {}).build()
    data = from_arrays(_rows(), {name: each[:4] + 7 * (name != "labels") for name, each in _rows().items()})
    check_branches(module, data.train, data.task)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("if x.sum() > 0:\n    x = x * 2", "own.py:12, `if x.sum() > 0:`"),
        ("for row in range(x.argmax()):\n    x = x + row", "own.py:12, `for row in range(x.argmax()):`"),
    ],
)
def test_a_branch_on_values_is_named_by_its_line(tmp_path: Path, line: str, where: str) -> None:
    with pytest.raises(ModelError) as caught:
        _check(tmp_path, line)
    said = str(caught.value)
    assert said.startswith("Model ") and where in said and "torch.where" in said and "torch.cond" in said
    assert "\n" not in said


@pytest.mark.parametrize("line", ["x = torch.where(x.sum() > 0, x * 2, x)", "x = x[: max(int(len(x)), 1)]"])
def test_what_a_graph_can_do_is_no_branch(tmp_path: Path, line: str) -> None:
    _check(tmp_path, line)


def test_a_module_of_one_length_is_told_of_fixed_rows_and_exported_with_them(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Flatten(), nn.Linear(5 * 8, 2)).eval()
    module.forward = lambda features: nn.Sequential.forward(module, features)  # type: ignore[method-assign]
    rows = np.random.default_rng(0).normal(size=(40, 5, 4)).astype("float32")
    parts = [{"features": part, "labels": np.arange(len(part)) % 2} for part in (rows[:30], rows[30:])]
    data = from_arrays(*parts)
    with pytest.raises(ModelError, match=r"'features' .*\b5\b.* axis 1\b.*fixed") as caught:
        check_branches(module, data.train, data.task)
    assert caught.value.see == "how-to/own-modules"
    data = from_arrays(*parts, fixed=True)
    check_branches(module, data.train, data.task)
    file = export_onnx(module, data.validation, data.task, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(file))
    assert [each.shape for each in session.get_inputs()] == [["batch_size", 5, 4]]
    (found,) = session.run(None, {"features": rows[:7]})
    np.testing.assert_allclose(found, module(torch.from_numpy(rows[:7])).detach(), atol=1e-5)


def test_a_recipe_with_such_a_model_ends_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, "if x.sum() > 0:\n    x = x * 2")
    np.savez(tmp_path / "rows.npz", **_rows())
    (tmp_path / "own.yaml").write_text(RECIPE)
    monkeypatch.setattr(
        sys.modules["compress.pipeline.stages"], "fit_", lambda *_, **__: pytest.fail("was trained")
    )
    with pytest.raises(ModelError, match=r"own\.py:12, `if x\.sum\(\) > 0:`"):
        run(tmp_path / "own.yaml", tmp_path / "reports")


LANGUAGE_MODEL = """\
from torch import arange, nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.embed, self.head = nn.Embedding(257, width), nn.Linear(width, 257)

    def forward(self, input_ids, attention_mask, past_key_values=None):
        x = self.embed(input_ids)
        BRANCH
        k = v = q = x[:, None]
        before = 0 if past_key_values is None else past_key_values.get_seq_length()
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, 0)
        at = arange(k.shape[2])
        visible = at[None] <= before + at[: q.shape[2], None]
        return self.head(x + F.scaled_dot_product_attention(q, k, v, visible)[:, 0])
"""


def _write_language_recipe(folder: Path, line: str) -> Path:
    (folder / "own.py").write_text(LANGUAGE_MODEL.replace("BRANCH", line))
    (folder / "text.txt").write_text("".join(f"line {number}: {number * number}\n" for number in range(400)))
    (folder / "own.yaml").write_text(
        "model: {file: own.py, builder: Model, tokenizer: bytes, train: {epochs: 1}}\n"
        "data: {source: corpus, train: text.txt, max_length: 16}\n"
        "stages: [quantize/int4_weight_only]\n"
    )
    return folder / "own.yaml"


@pytest.mark.parametrize("line", ["if x.max() > 9: x = x / 2", "if attention_mask.min() == 0: x = x * 2"])
def test_a_language_model_that_branches_is_refused_when_rehearsed(tmp_path: Path, line: str) -> None:
    recipe = _write_language_recipe(tmp_path, line)
    result = CliRunner().invoke(app, ["run", str(recipe), "--dry-run"])
    error = result.exception
    assert isinstance(error, ModelError) and error.exit_code == 2
    assert f"own.py:12, `{line}`" in str(error)


def test_one_that_asks_for_its_past_alone_is_not_refused(tmp_path: Path) -> None:
    recipe = _write_language_recipe(tmp_path, "x = x.where(attention_mask[:, -x.shape[1] :, None] > 0, 0)")
    assert prepare(load_recipe(recipe), tmp_path).splits.task.vocabulary == 257


def test_a_student_of_another_file_that_branches_is_refused_too(tmp_path: Path) -> None:
    _write(tmp_path, "x = x.relu()")
    branching = (tmp_path / "models/own.py").read_text().replace("x.relu()", "x if x.sum() > 0 else -x")
    (tmp_path / "models/other.py").write_text(branching)
    np.savez(tmp_path / "rows.npz", **_rows())
    student = "{model: {file: models/other.py, builder: Model}}"
    settings = f"{{student: {student}, losses: {{labels: 1, logits: 1}}, train: {{epochs: 1}}}}"
    stages = f"stages: [{{distill/student: {settings}}}]\n"
    (tmp_path / "own.yaml").write_text(RECIPE.split("stages:")[0] + stages)
    with pytest.raises(RecipeError, match=r"other\.py:12, `x = x if x\.sum\(\) > 0 else -x"):
        prepare(load_recipe(tmp_path / "own.yaml"), tmp_path)


TEXT_MODULE = """\
import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.classifier = nn.Embedding(30, 8), nn.Linear(8, 2)
        self.positions = nn.Parameter(torch.randn(24, 8))

    def forward(self, input_ids):
        x = self.embed(input_ids)
        BRANCH
        return self.classifier(x.mean(1))
"""
ON_LENGTH = "if input_ids.shape[1] <= 16: x = x * 3"
ON_PARITY = "if input_ids.shape[1] % 2 == 0: x = x * 3"
ON_BATCH = "if input_ids.shape[0] > 1: x = x * 3"
ON_ONE_ROW = "if input_ids.shape[0] == 1: x = x * 3"


def _texts(lengths: range) -> Splits:
    draw = np.random.default_rng(0)

    def rows(count: int) -> dict[str, object]:
        ids = [draw.integers(1, 30, draw.choice(lengths)) for _ in range(count)]
        return {"input_ids": ids, "labels": np.arange(count) % 2}

    return from_arrays(rows(60), rows(40))


def _text_module(folder: Path, line: str) -> nn.Module:
    (folder / "own.py").write_text(TEXT_MODULE.replace("BRANCH", line))
    return Definition.from_file(folder / "own.py", "Model", {}).build().eval()


def test_a_branch_on_the_length_is_refused_with_its_range(tmp_path: Path) -> None:
    module, data = _text_module(tmp_path, ON_LENGTH), _texts(range(3, 21))
    with pytest.raises(ModelError, match=r"sequence_length.* 17 .* 1 to 20 "):
        check_branches(module, data.train, data.task)


def test_what_rows_of_another_length_may_meet_counts_as_well(tmp_path: Path) -> None:
    module, data = _text_module(tmp_path, ON_LENGTH), _texts(range(3, 12))
    with pytest.raises(ModelError, match=r"sequence_length.* 16,.* 1 to 20 "):
        check_branches(module, data.train, data.task, longest=20)
    check_branches(module, data.train, data.task, longest=16)


def test_a_module_that_has_fewer_positions_than_rows_may_have_is_refused(tmp_path: Path) -> None:
    module, data = _text_module(tmp_path, "x = x + self.positions[: x.shape[1]]"), _texts(range(3, 12))
    with pytest.raises(ModelError, match=r"25 positions"):
        check_branches(module, data.train, data.task, longest=25)
    check_branches(module, data.train, data.task, longest=24)


def test_a_module_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    module, data = _text_module(tmp_path, "x = F.dropout(x, training=True)"), _texts(range(3, 12))
    with pytest.raises(ModelError, match=r"F\.dropout"):
        check_branches(module, data.train, data.task)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (ON_LENGTH, ExportError),
        (ON_BATCH, ParityError),  # ranges leave out a size of one, for which transformers has harmless tests
        (ON_ONE_ROW, ParityError),
        (ON_PARITY, ParityError),
    ],
)
def test_an_export_proves_other_sizes_by_itself(
    tmp_path: Path, line: str, error: type[CompressError]
) -> None:
    module, data = _text_module(tmp_path, line), _texts(range(3, 21))
    path = tmp_path / "model.onnx"
    with pytest.raises(error):
        export_onnx(module, data.validation, data.task, path)
    assert not path.exists()


def test_a_file_that_lost_a_branch_is_found_when_rows_are_alone(tmp_path: Path) -> None:
    lost, kept = (_text_module(tmp_path, line) for line in (ON_LENGTH, "x = x"))
    lost.load_state_dict(kept.state_dict())
    data = _texts(range(17, 21))  # of which none takes the branch
    path = export_onnx(kept, data.validation, data.task, tmp_path / "model.onnx")
    limits = {"min_agreement": 0.98, "max_metric_difference": 0.02}
    check_parity(lost, path, data.validation, data.task, **limits)
    with pytest.raises(ParityError, match=r"a row of 5 "):
        check_parity(lost, path, data.validation, data.task, **limits, lengths=(18, 5))


def test_a_module_that_fixes_a_size_that_the_data_leaves_open_is_refused(splits: Splits) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(20, 3))

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.body(features)
            return answer

    with pytest.raises(ModelError, match="Flat"):
        check_branches(Flat().eval(), splits.train, splits.task)
