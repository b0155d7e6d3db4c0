"""What is wrong is found before work starts, and the message says what and where."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.data import TextEncoder
from compress.errors import DataError, ModelError, OutputError, RecipeError
from compress.export import write_bundle_, write_manifest_
from compress.pipeline.output import check_output
from compress.pipeline.prepare import Run, prepare
from compress.pipeline.requirements import check_files
from compress.pipeline.run_keys import files_named
from compress.recipe import load_recipe
from compress.stage import Context

from ..conftest import write_hf_model

WriteRecipe = Callable[..., Path]
GOOD = "text,label\n" + "".join(
    f"{'a ' * (i % 7)}film {('bad', 'good')[i % 2]} the plot {'very ' * (i // 14)},{i % 2}\n"
    for i in range(70)
)


@pytest.fixture
def prepared(tmp_path: Path, write_recipe: WriteRecipe) -> Callable[..., Run]:
    """Write a recipe, load and prepare it."""

    def make(*stages: Any, **changes: Any) -> Run:
        (tmp_path / "scratch").mkdir(exist_ok=True)
        return prepare(
            load_recipe(write_recipe(tmp_path / "r.yaml", *stages, **changes)), tmp_path / "scratch"
        )

    return make


@pytest.fixture
def on_text(tmp_path: Path, bert_directory: Path, prepared: Callable[..., Run]) -> Callable[..., Run]:
    """Prepare a recipe of the tiny BERT on a CSV file of this text."""

    def make(csv: str = GOOD, *, hf: Path | None = None, **data: Any) -> Run:
        (tmp_path / "rows.csv").write_text(csv, encoding="utf-8")
        source = {"source": "file", "train": str(tmp_path / "rows.csv"), "max_length": 16} | data
        source = {key: value for key, value in source.items() if value is not None}
        return prepared(model={"hf": str(hf or bert_directory)}, data=source)

    return make


def _model(tmp_path: Path, code: str, **args: Any) -> dict[str, Any]:
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    return {"file": str(tmp_path / "mine.py"), "builder": "build", "args": args}


def test_what_fits_together_is_prepared(on_text: Callable[..., Run]) -> None:
    found = on_text()
    assert isinstance(found.splits.reader, TextEncoder)
    assert found.splits.task.labels == ("0", "1")
    assert len(found.keys.stages) == 1
    assert found.keys.run not in (found.keys.base, *found.keys.stages)


def test_keys_follow_what_they_depend_on(prepared: Callable[..., Run]) -> None:
    half = {"prune/magnitude": {"sparsity": 0.5}}
    both = prepared(half, "quantize/int8_dynamic")
    first = prepared(half)
    seeded = prepared(half, seed=1)
    assert both.keys.base == first.keys.base != seeded.keys.base
    assert both.keys.stages[0] == first.keys.stages[0] != seeded.keys.stages[0]
    assert both.keys.run != first.keys.run


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("", r"rows\.csv: is empty"),
        ("text,label\n", r"rows\.csv: has no rows"),
        ("sentence,label\ngood,1\n", r"'text'.*sentence, label"),
        ("text,labels\ngood,1\n", r"'label'.*'labels'"),
        (
            "text,label\na film,1\nthe plot,1\n",
            r"label '1'",
        ),
        ("text,label\ngood,1\n,0\n", r"'text'.*line 3"),
        (
            GOOD.replace(",1\n", ",yes\n"),
            r"label yes: .*0, yes.* 0, 1",
        ),
    ],
)
def test_data_that_cannot_be_learned_from(on_text: Callable[..., Run], csv: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        on_text(csv)


def test_a_label_of_the_test_rows_that_training_lacks(on_text: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("text,label\nwas not,0\nvery fine,2\n")
    with pytest.raises(DataError, match=r"test\.csv: .*'2' .*line 3.*rows\.csv.*0, 1"):
        on_text(test=str(tmp_path / "test.csv"))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_data_file_that_is_missing(on_text: Callable[..., Run], part: str) -> None:
    with pytest.raises(DataError, match=rf"data\.{part}: .*nowhere\.csv"):
        on_text(**{part: "nowhere.csv"})


def test_a_model_file_that_is_missing(prepared: Callable[..., Run]) -> None:
    with pytest.raises(ModelError, match=r"model\.file: .*gone\.py"):
        prepared(model={"file": "gone.py", "builder": "build"})


def test_a_bundle_that_is_missing(prepared: Callable[..., Run]) -> None:
    with pytest.raises(ModelError, match=r"model\.bundle: .*gone"):
        prepared(model={"bundle": "gone"})


def test_a_model_file_that_raises_is_named_with_its_line(
    prepared: Callable[..., Run], tmp_path: Path
) -> None:
    code = "import torch\nraise OSError('no licence')\n"
    with pytest.raises(ModelError, match=r"mine\.py:2 .*OSError: no licence"):
        prepared(model=_model(tmp_path, code))


def test_a_builder_that_raises_is_named(prepared: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"mine\.py: .*ZeroDivisionError: division by zero"):
        prepared(model=_model(tmp_path, "def build():\n    return 1 / 0\n"))


def test_a_model_that_takes_other_inputs(prepared: Callable[..., Run], tmp_path: Path) -> None:
    code = (
        "from torch import nn\n"
        "class Pixels(nn.Linear):\n    def forward(self, pixels):\n        return super().forward(pixels)\n"
        "def build():\n    return Pixels(4, 10)\n"
    )
    with pytest.raises(ModelError, match=r"mine\.py: build .*features; .*TypeError"):
        prepared(model=_model(tmp_path, code))


def test_a_model_with_too_few_classes(prepared: Callable[..., Run], tmp_path: Path) -> None:
    code = (
        "from torch import nn\n"
        "class Mean(nn.Linear):\n"
        "    def forward(self, features):\n        return super().forward(features).mean(1)\n"
        "def build(classes):\n    return Mean(4, classes)\n"
    )
    with pytest.raises(ModelError, match=r"\[3, 7\].* 10 labels .*\[3, 10\]"):
        prepared(model=_model(tmp_path, code, classes=7))


LONG = GOOD + f"{'very ' * 60}good film,1\n"


@pytest.mark.parametrize(("model_type", "limit"), [("bert", 40), ("roberta", 39)])
def test_texts_are_cut_to_the_model_s_positions(
    on_text: Callable[..., Run], model_type: str, limit: int, tmp_path: Path
) -> None:
    """RoBERTa counts from behind its padding's position, which is 0 here: of 40 there are 39."""
    directory = write_hf_model(tmp_path / model_type, model_type)
    found = on_text(LONG, hf=directory, max_length=None)
    assert getattr(found.recipe.data, "max_length", None) == limit
    longest = max(len(row["input_ids"]) for row in found.splits.train.rows + found.splits.test.rows)
    assert longest <= limit
    with pytest.raises(ModelError, match=f"{limit} tokens"):
        on_text(hf=directory, max_length=limit + 1)
    assert on_text(hf=directory, max_length=limit).recipe.data == found.recipe.data


def test_a_module_of_fewer_positions_than_texts_may_have_is_refused(
    prepared: Callable[..., Run], bert_directory: Path, tmp_path: Path
) -> None:
    """It doesn't say how many: only a text as long as max_length shows it, and the data has none."""
    code = """
import torch
from torch import nn
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places, self.out = nn.Embedding(16, 8), nn.Embedding(20, 8), nn.Linear(8, 2)
    def forward(self, input_ids, attention_mask):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        mask = attention_mask[..., None]
        return self.out(((self.words(input_ids) + self.places(places)) * mask).sum(1) / mask.sum(1))
def build():
    return Reader()
"""
    (tmp_path / "rows.csv").write_text(GOOD, encoding="utf-8")
    model = {**_model(tmp_path, code), "tokenizer": str(bert_directory)}
    source = {"source": "file", "train": str(tmp_path / "rows.csv")}
    with pytest.raises(ModelError, match=r"data\.max_length: .* 32 tokens"):
        prepared(model=model, data={**source, "max_length": 32})
    assert prepared(model=model, data={**source, "max_length": 20}).splits.task.classes == 2


def test_a_tokenizer_that_belongs_to_another_model(
    on_text: Callable[..., Run], bert_directory: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(bert_directory, mixed)
    tokenizer = json.loads((mixed / "tokenizer.json").read_text())
    rows = json.loads((mixed / "config.json").read_text())["vocab_size"]
    # Fewer tokens than positions: it is the table of tokens that counts.
    tokenizer["model"]["vocab"]["beyond"] = rows
    (mixed / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=rf"'beyond' the id {rows}, .* only {rows} rows"):
        on_text(hf=mixed)


def test_a_corrupt_safetensors_file(
    on_text: Callable[..., Run], bert_directory: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bert_directory, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"broken"):
        on_text(hf=broken)


def test_digits_for_a_model_that_reads_text(prepared: Callable[..., Run], bert_directory: Path) -> None:
    with pytest.raises(DataError, match=r"labels 2, 3, .*the model has 0, 1"):
        prepared(model={"hf": str(bert_directory)})


def test_the_tokenizer_of_a_quantized_bundle_belongs_to_it(
    tmp_path: Path, bert_directory: Path, on_text: Callable[..., Run]
) -> None:
    found = on_text()
    task, config = found.splits.task, found.recipe.stages[0]
    quantized = config.apply(
        found.loaded.module, Context(task, found.splits.train, found.splits.validation)
    ).model
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (tmp_path / "model.onnx").write_bytes(b"not looked at")
    write_bundle_(bundle, quantized, tmp_path / "model.onnx", task, reader=found.splits.reader, max_length=16)
    write_manifest_(bundle, task, {})
    (tmp_path / "r.yaml").write_text(
        f"model: {{bundle: {bundle}}}\ndata: {{source: file, train: rows.csv, max_length: 16}}\n"
    )
    again = prepare(load_recipe(tmp_path / "r.yaml", need_stages=False), tmp_path)
    assert again.splits.fingerprint() == found.splits.fingerprint()


def test_texts_for_a_model_without_a_tokenizer(prepared: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"model\.tokenizer"):
        prepared(data={"source": "file", "train": str(tmp_path / "rows.csv")})


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"prune/heads": {"sparsity": 0.9}},
            r"r\.yaml: prune/heads: sparsity 0\.9 .*7 of 8 heads.*0\.75",
        ),
        (
            {"prune/heads": {"sparsity": 0.01}},
            r"r\.yaml: prune/heads: sparsity 0\.01 .*8 heads",
        ),
        (
            {"distill/logits": {"student": {"num_layer": 1}}},
            r"'num_layer'.*'num_layers'",
        ),
        (
            {"distill/logits": {"student": {"num_layers": 3}}},
            r"student .*3 layers .* 2",
        ),
        (
            {"prune/magnitude": {"sparsity": 0.5, "skip": ["head*.x"]}},
            r"'head\*\.x'",
        ),
        (
            {"quantize/int8_dynamic": {"skip": ["nothing"]}},
            r"r\.yaml: .*'nothing'",
        ),
    ],
)
def test_a_stage_that_cannot_do_this_to_this_model(
    prepared: Callable[..., Run], stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        prepared(stage)


def test_a_second_stage_is_asked_about_what_the_first_one_leaves(prepared: Callable[..., Run]) -> None:
    half = {"prune/heads": {"sparsity": 0.5}}
    prepared(half, {"prune/heads": {"sparsity": 0.4}})
    with pytest.raises(RecipeError, match=r"3 of 4 heads"):
        prepared(half, {"prune/heads": {"sparsity": 0.75}})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(tmp_path: Path, write_recipe: WriteRecipe) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", device="cuda:0"))
    with pytest.raises(RecipeError, match=r"device: cuda:0.*device=cpu"):
        check_files(recipe)


def test_an_output_that_is_new_or_empty_is_free(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert not check_output(tmp_path / "new" / "run", "key", overwrite=False)
    assert not check_output(tmp_path / "empty", "key", overwrite=False)


def test_an_output_with_the_same_run_is_done(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"run_key": "key"}')
    assert check_output(tmp_path, "key", overwrite=False)
    assert not check_output(tmp_path, "key", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_an_output_with_something_else_is_never_touched(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(OutputError, match=r" -o"):
        check_output(tmp_path, "key", overwrite=overwrite)


def test_an_output_with_another_run_needs_overwrite(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"run_key": "other"}')
    with pytest.raises(OutputError, match=r"--overwrite"):
        check_output(tmp_path, "key", overwrite=False)
    assert not check_output(tmp_path, "key", overwrite=True)


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/run: .*file "):
        check_output(tmp_path / "file" / "run", "key", overwrite=False)


def test_an_output_in_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so what the system would say is put in its mouth.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"new/run: "):
        check_output(tmp_path / "new" / "run", "key", overwrite=False)


def test_rows_without_labels_change_the_stages_but_not_the_training_before_them(
    on_text: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "u.txt").write_text("a film the plot\nvery fine\n", encoding="utf-8")
    plain, more = on_text(), on_text(unlabelled=str(tmp_path / "u.txt"))
    assert more.keys.base == plain.keys.base and more.keys.stages != plain.keys.stages
    assert more.splits.unlabelled is not None and len(more.splits.unlabelled) == 2
    with pytest.raises(DataError, match=r"data\.unlabelled: .*nowhere\.txt"):
        on_text(unlabelled="nowhere.txt")


def test_files_that_a_stage_names_are_known_by_what_they_hold(tmp_path: Path) -> None:
    file, folder = tmp_path / "student.py", tmp_path / "teacher"
    folder.mkdir()
    settings = {"student": {"model": {"file": str(file)}}, "teachers": [{"hf": str(folder)}], "keep": "best"}
    file.write_text("one")
    (folder / "weights").write_bytes(b"1")
    before = files_named(settings)
    assert [Path(name).name for name, _ in before] == ["student.py", "weights"]
    assert files_named(settings) == before
    file.write_text("two")
    changed = files_named(settings)
    assert changed[0] != before[0] and changed[1] == before[1]
    (folder / "weights").write_bytes(b"2")
    assert files_named(settings)[1] != before[1]
    assert not files_named({"file": "models/cnn.py", "other": str(tmp_path / "missing"), "n": 3})


@pytest.mark.parametrize("stages", [["quantize/int8_dynamic"], [{"prune/magnitude": {"sparsity": 0.5}}]])
def test_a_wrong_structure_is_found_whatever_the_stages_are(
    stages: list[Any], prepared: Callable[..., Run], tmp_path: Path
) -> None:
    code = (Path(__file__).resolve().parents[1] / "model" / "grouped_queries.py").read_text()
    prepared(*stages, model=_model(tmp_path, code))
    with pytest.raises(ModelError, match="'layer'.*'layers'"):
        prepared(*stages, model=_model(tmp_path, code.replace('"layers": "layers"', '"layer": "layers"')))


def test_unknown_words_and_second_texts_are_noted(on_text: Callable[..., Run]) -> None:
    assert on_text().notes == ()
    (note,) = on_text(GOOD.replace("film", "xyzzy").replace("plot", "qwertz")).notes
    assert "unknown" in note
    pairs = "\n".join(f"{line},{'x' if at else 'text_pair'}" for at, line in enumerate(GOOD.splitlines()))
    with pytest.raises(DataError, match="text_pair"):
        on_text(pairs)
    (note,) = on_text(pairs, text="text").notes
    assert "text_pair" in note
