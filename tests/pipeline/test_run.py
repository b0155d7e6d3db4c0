"""Whole runs: what they publish is whole and true, and what fails or is interrupted publishes nothing."""

from __future__ import annotations

import contextlib
import copy
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import compress
from compress.data import Split, Splits, load_splits
from compress.errors import OutputError, ParityError
from compress.model.forward import predict_logits
from compress.pipeline import Outcome, run
from compress.recipe import load_recipe
from compress.report import load_report
from compress.stage import Context

EXPORTED = import_module("compress.pipeline.exported")
MEASURED = import_module("compress.pipeline.measuring")
PUBLISH = import_module("compress.pipeline.publish")
STAGES_OF_RUN = import_module("compress.pipeline.stages")
RECOVERY = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "precision": "fp32"}
STAGES: dict[str, list[Any]] = {
    "heads": [{"prune/heads": {"sparsity": 0.5, "steps": 1, "calibration_rows": 32, "recovery": RECOVERY}}],
    "magnitude": [{"prune/magnitude": {"sparsity": 0.5, "recovery": RECOVERY}}],
    "int8": ["quantize/int8_dynamic"],
    "distill": [
        {"distill/logits": {"student": {"num_layers": 1}, "train": RECOVERY}},
        "quantize/int4_weight_only",
    ],
}
MEASURE = {"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.01, "ladder": True}
NO_LADDER = {**MEASURE, "ladder": False}
JOINT = [
    {"distill/logits": {"student": {"num_hidden_layers": 1}, "train": RECOVERY}},
    *STAGES["heads"],
    *STAGES["int8"],
]
NAMES = [*STAGES, "joint"]


@dataclass
class _Interrupting:
    """Progress that presses Ctrl-C at the third step of the bar of this name."""

    name: str
    steps: int = 0

    def bar(self, description: str, total: int) -> Self:
        self.current = description
        return self

    def say(self, line: str) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def advance(self, steps: int = 1, facts: str = "") -> None:
        self.steps += self.current == self.name
        if self.steps == 3:
            raise KeyboardInterrupt


@dataclass
class _Runs:
    output: Path
    recipes: dict[str, Path]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    contexts: list[Context] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)
    left_by_interrupts: dict[str, list[str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[..., Path], bert_directory: Path
) -> Iterator[_Runs]:
    """One run of each pipeline, in one folder; heads and magnitude after an attempt that was interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    recipes = {
        name: write_recipe(
            folder / f"{name}.yaml", *stages, name=name, measure=MEASURE if len(stages) == 1 else NO_LADDER
        )
        for name, stages in STAGES.items()
    }
    _write_reviews(folder / "reviews.csv")
    recipes["joint"] = write_recipe(
        folder / "joint.yaml",
        *JOINT,
        name="joint",
        model={"hf": str(bert_directory), "train": RECOVERY},
        data={"source": "file", "train": str(folder / "reviews.csv"), "max_length": 8},
        measure=MEASURE,
    )
    made = _Runs(folder / "reports", recipes)
    with pytest.MonkeyPatch.context() as patch:
        _spy(patch, made)
        for name, recipe in recipes.items():
            interrupted = {"heads": "training the model", "magnitude": "prune/magnitude recovery"}.get(name)
            if interrupted:
                with pytest.raises(KeyboardInterrupt):
                    run(recipe, made.output, progress=_Interrupting(interrupted))
                made.left_by_interrupts[name] = _everything_in(made.output)
            made.outcomes[name] = run(recipe, made.output)
        yield made


def _spy(patch: pytest.MonkeyPatch, made: _Runs) -> None:
    write, fit = PUBLISH.write_bundle_, STAGES_OF_RUN.fit_

    def write_bundle_(directory: Path, module: nn.Module, *args: Any, **options: Any) -> None:
        made.modules[directory.name.split(".")[1]] = copy.deepcopy(module)
        write(directory, module, *args, **options)

    def fit_(*args: Any, **options: Any) -> Any:
        made.trainings.append(options["description"])
        return fit(*args, **options)

    def context(**fields: Any) -> Context:
        made.contexts.append(Context(**fields))
        return made.contexts[-1]

    patch.setattr(PUBLISH, "write_bundle_", write_bundle_)
    patch.setattr(STAGES_OF_RUN, "fit_", fit_)
    patch.setattr(STAGES_OF_RUN, "Context", context)


def _write_reviews(path: Path) -> None:
    draw, rows = np.random.default_rng(0), set()
    while len(rows) < 150:
        label = int(draw.integers(2))
        middle = draw.choice(["film", "plot", "a", "the", "was", "very", "not"], int(draw.integers(2, 9)))
        rows.add((" ".join([*middle, ("bad", "good")[label]]), label))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *sorted(rows)])


def _everything_in(folder: Path) -> list[str]:
    """Files and folders, but for the locks', which are empty and stay."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if not name.startswith(".cache/locks"))


def _test_rows(recipe: Path) -> Split:
    loaded = load_recipe(recipe)
    assert loaded.model.hf is None
    return load_splits(loaded.data).test


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_is_laid_out_as_the_hub_does_and_nothing_else_is_in_it(runs: _Runs, name: str) -> None:
    expected = {
        "onnx/model.onnx",
        "config.json",
        "manifest.json",
        "pytorch/model.safetensors",
        "pytorch/structure.json",
        "recipe.resolved.yaml",
        "report.json",
        "report.md",
        "report.html",
        "README.md",
    }
    expected |= {"tokenizer.json", "tokenizer_config.json"} if name == "joint" else {"pytorch/definition.py"}
    directory = runs.outcomes[name].directory
    assert directory == runs.output / name
    assert {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} == expected


def test_the_reference_names_every_key_of_a_manifest(runs: _Runs) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "bundle.md").read_text(encoding="utf-8")
    for name in NAMES:
        manifest = json.loads((runs.outcomes[name].directory / "manifest.json").read_text())
        assert [key for key in manifest if f"| `{key}` |" not in page] == []


def test_a_recipe_of_several_stages_has_a_ladder_on_validation_rows(runs: _Runs) -> None:
    report = runs.outcomes["joint"].report
    rungs = report.ladder
    assert [rung.name for rung in rungs] == ["original", *(stage.name for stage in report.stages)]
    assert {rung.rows for rung in rungs} == {report.data.validation_rows}
    assert rungs[0].agreement == 1.0 and rungs[0].speedup.value == 1.0
    measured = report.measurement
    assert rungs[0].file_bytes == measured.baseline.size.file_bytes
    assert rungs[-1].file_bytes == measured.candidate.size.file_bytes
    # PyTorch's metric after a stage is that of its file, unless a row is a tie for one of them.
    for rung, stage in zip(rungs[1:], report.stages, strict=True):
        assert abs(rung.accuracy - stage.validation_metric) <= 1.01 / rung.rows


def test_a_recipe_of_one_stage_has_none_and_one_that_wants_none(runs: _Runs) -> None:
    assert all(runs.outcomes[name].report.ladder == () for name in STAGES)


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_has_the_hash_of_every_other_file(runs: _Runs, name: str) -> None:
    directory = runs.outcomes[name].directory
    hashes = json.loads((directory / "manifest.json").read_text())["sha256"]
    files = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    assert set(hashes) == files - {"manifest.json"}
    for file, digest in hashes.items():
        assert hashlib.sha256((directory / file).read_bytes()).hexdigest() == digest, file


@pytest.mark.parametrize("name", list(STAGES))
def test_onnxruntime_alone_reproduces_the_reports_accuracy_exactly(runs: _Runs, name: str) -> None:
    directory, rows = runs.outcomes[name].directory, _test_rows(runs.recipes[name])
    session = ort.InferenceSession(directory / "onnx" / "model.onnx")
    answers = [session.run(["logits"], {"features": row["features"][None]})[0].argmax() for row in rows.rows]
    stated = runs.outcomes[name].report.measurement.candidate.accuracy
    assert (np.array(answers) == rows.labels).mean() == stated.value
    assert len(rows) == stated.rows
    assert json.loads((directory / "manifest.json").read_text())["accuracy"]["value"] == stated.value


def test_onnxruntime_and_tokenizers_alone_reproduce_the_accuracy_on_text(runs: _Runs) -> None:
    from tokenizers import Tokenizer

    recipe, directory = load_recipe(runs.recipes["joint"]), runs.outcomes["joint"].directory
    rows = _texts_of_the_test_rows(recipe)
    manifest = json.loads((directory / "manifest.json").read_text())
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    session = ort.InferenceSession(directory / "onnx" / "model.onnx")
    right = 0
    for text, label in rows:
        encoding = tokenizer.encode(text)
        assert len(encoding.ids) <= manifest["max_length"]
        columns = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        feed = {spec["name"]: np.array([columns[spec["name"]]], spec["dtype"]) for spec in manifest["inputs"]}
        right += manifest["labels"][session.run([manifest["outputs"][0]["name"]], feed)[0].argmax()] == label
    assert right / len(rows) == runs.outcomes["joint"].report.measurement.candidate.accuracy.value
    assert any(len(text.split()) + 2 > manifest["max_length"] for text, _ in rows), "no row is cut: vacuous"


def _texts_of_the_test_rows(recipe: compress.Recipe) -> list[tuple[str, str]]:
    from compress.data import TextEncoder

    names = ("input_ids", "attention_mask", "token_type_ids")
    encoder = TextEncoder.from_directory(str(recipe.model.hf), input_names=names)
    splits = load_splits(recipe.data, reader=encoder, label_order=("0", "1"))
    return [
        (text, splits.task.labels[i]) for text, i in zip(splits.test.texts, splits.test.labels, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_load_gives_the_module_back_bit_equal(runs: _Runs, name: str, splits: Splits) -> None:
    before, after = runs.modules[name], compress.load(runs.outcomes[name].directory)
    assert not after.training
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)
    if name != "joint":
        rows = _test_rows(runs.recipes[name]).take(16, seed=0)
        task = splits.task  # its input is called `features` too
        assert torch.equal(predict_logits(before, rows, task), predict_logits(after, rows, task))


def test_recipes_of_one_model_train_it_once(runs: _Runs) -> None:
    # One attempt was interrupted, then heads trains it; the joint recipe has a model of its own.
    assert runs.trainings == ["training the model"] * 3
    fingerprints = {
        name: outcome.report.measurement.baseline.accuracy.value for name, outcome in runs.outcomes.items()
    }
    assert len({fingerprints[name] for name in STAGES}) == 1
    assert not any(stage.reused for outcome in runs.outcomes.values() for stage in outcome.report.stages)


def test_no_stage_is_given_a_test_row(runs: _Runs) -> None:
    stages = sum(map(len, STAGES.values())) + len(JOINT)
    assert len(runs.contexts) == stages + 1  # one attempt of magnitude was interrupted
    test = {row["features"].tobytes() for row in _test_rows(runs.recipes["heads"]).rows}
    for context in runs.contexts:
        held = [value for value in vars(context).values() if isinstance(value, Split)]
        assert [split.name for split in held] == ["train", "validation"]
        assert not any(isinstance(value, Splits) for value in vars(context).values())
        if "features" in context.task.input_names:
            seen = {row["features"].tobytes() for split in held for row in split.rows}
            assert not seen & test


def test_an_interrupted_training_leaves_nothing_half_written(runs: _Runs) -> None:
    assert runs.left_by_interrupts["heads"] == [".cache"]
    # What was finished before is kept whole; magnitude's own attempt adds nothing to it.
    left = runs.left_by_interrupts["magnitude"]
    assert not [name for name in left if name.startswith("magnitude") or "partial" in name]
    pieces = [name for name in left if name.startswith(".cache/") and name.count("/") == 1]
    assert len(pieces) == 4  # the trained model, its export, the stage of heads, and what its teacher said
    assert all(f"{piece}/record.json" in left for piece in pieces)


def test_the_run_after_an_interrupt_goes_on_from_what_was_finished(runs: _Runs) -> None:
    assert (runs.outcomes["magnitude"].directory / "manifest.json").is_file()
    assert [stage.name for stage in runs.outcomes["magnitude"].report.stages] == ["prune/magnitude"]


def test_nothing_but_runs_and_cache_is_left_in_the_folder(runs: _Runs) -> None:
    assert {path.name for path in runs.output.iterdir()} == {".cache", *NAMES}
    assert not [p for p in (runs.output / ".cache").iterdir() if p.name.startswith(".")]


def test_the_report_on_disk_is_the_one_that_was_returned(runs: _Runs) -> None:
    outcome = runs.outcomes["int8"]
    assert load_report(outcome.directory) == outcome.report


def test_the_resolved_recipe_loads_as_the_same_recipe(runs: _Runs) -> None:
    resolved = load_recipe(runs.outcomes["joint"].directory / "recipe.resolved.yaml")
    assert resolved == load_recipe(runs.recipes["joint"])


def test_the_second_run_of_a_recipe_is_not_repeated(runs: _Runs) -> None:
    manifest = runs.outcomes["int8"].directory / "manifest.json"
    before = manifest.stat().st_mtime_ns
    again = run(runs.recipes["int8"], runs.output)
    assert again.already_done
    assert again.report == runs.outcomes["int8"].report
    assert manifest.stat().st_mtime_ns == before


# From here on: what happens around the work. The work itself is quick: an export that is there already, and a
# measurement that was made before.


@pytest.fixture
def quick(runs: _Runs, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the next run export what a run of that name exported, and measure what it measured."""

    def use(name: str) -> None:
        outcome = runs.outcomes[name]

        def export_onnx(module: nn.Module, split: Split, task: Any, path: Path, **_: Any) -> Path:
            shutil.copyfile(outcome.directory / "onnx" / "model.onnx", path)
            return path

        monkeypatch.setattr(EXPORTED, "export_onnx", export_onnx)
        monkeypatch.setattr(MEASURED, "measure_pair", lambda *_, **__: outcome.report.measurement)

    return use


def _copied(runs: _Runs, folder: Path, name: str) -> Path:
    """Copy one run and the cache, to change them."""
    shutil.copytree(runs.output / name, folder / name)
    shutil.copytree(runs.output / ".cache", folder / ".cache")
    return folder


def test_another_recipe_in_the_same_place_is_refused(runs: _Runs) -> None:
    recipe = load_recipe(runs.recipes["int8"], ["quantize/int8_dynamic.embeddings=false"])
    before = _everything_in(runs.output)
    with pytest.raises(OutputError, match=r"int8 .*--overwrite.*name=\.\.\. or -o"):
        run(recipe, runs.output)
    assert _everything_in(runs.output) == before


def test_overwrite_replaces_a_run_and_the_cache_gives_the_pieces(
    runs: _Runs, tmp_path: Path, quick: Callable[[str], None]
) -> None:
    output = _copied(runs, tmp_path, "heads")
    (output / "heads" / "stray.txt").write_text("of the old run")
    quick("heads")
    recipe = load_recipe(runs.recipes["heads"], ["measure.rounds=4"])
    outcome = run(recipe, output, overwrite=True)
    assert not outcome.already_done
    assert [stage.reused for stage in outcome.report.stages] == [True]
    assert not (output / "heads" / "stray.txt").exists()
    assert {path.name for path in output.iterdir()} == {".cache", "heads"}


def test_a_folder_that_is_no_run_is_never_replaced(runs: _Runs, tmp_path: Path) -> None:
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"int8 .*-o"):
            run(runs.recipes["int8"], tmp_path, overwrite=overwrite)
    assert _everything_in(tmp_path) == ["int8", "int8/thesis.txt"]


def test_damaged_pieces_in_the_cache_are_made_again(
    runs: _Runs, tmp_path: Path, quick: Callable[[str], None]
) -> None:
    output = _copied(runs, tmp_path, "int8")
    for weights in (output / ".cache").glob("*/model.*"):
        weights.write_bytes(weights.read_bytes()[:-100])
    quick("int8")
    trained = len(runs.trainings)
    # The stand-in export is int8's; the baseline is exported anew too, and would not agree with it closely.
    recipe = load_recipe(
        runs.recipes["int8"],
        ["export.min_agreement=0", "export.max_metric_difference=1", "export.max_relative_error=1"],
    )
    outcome = run(recipe, output, overwrite=True)
    assert len(runs.trainings) == trained + 1
    assert [stage.reused for stage in outcome.report.stages] == [False]
    old, new = compress.load(runs.output / "int8"), compress.load(outcome.directory)
    assert all(
        torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True)
    )


def test_an_export_that_answers_otherwise_publishes_nothing(
    runs: _Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs.output / ".cache", tmp_path / ".cache")
    before = _everything_in(tmp_path)

    def export_onnx(module: nn.Module, split: Split, task: Any, path: Path, **_: Any) -> Path:
        graph = onnx.load(runs.output / "heads" / "onnx" / "model.onnx")
        for node in graph.graph.node:
            node.output[:] = ["right" if name == "logits" else name for name in node.output]
        graph.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["logits"]))
        onnx.save(graph, path)
        return path

    monkeypatch.setattr(EXPORTED, "export_onnx", export_onnx)
    with pytest.raises(ParityError, match=r"export\.min_agreement"):
        run(runs.recipes["heads"], tmp_path)
    assert _everything_in(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_replacement_that_fails_keeps_the_old_run(
    runs: _Runs,
    tmp_path: Path,
    quick: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | type[BaseException],
) -> None:
    output = _copied(runs, tmp_path, "int8")
    before = _everything_in(output)
    quick("int8")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PUBLISH, "write_manifest_", fail)
    recipe = load_recipe(runs.recipes["int8"], ["measure.rounds=4"])
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OutputError):
        run(recipe, output, overwrite=True)
    assert _everything_in(output) == before
    assert load_report(output / "int8") == runs.outcomes["int8"].report


def test_an_output_that_cannot_be_written_is_refused_before_training(runs: _Runs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trained = len(runs.trainings)
    with pytest.raises(OutputError, match=r"file/deep/int8: .*file "):
        run(runs.recipes["int8"], tmp_path / "file" / "deep")
    assert len(runs.trainings) == trained


def _read_on(screen: int, word: bytes, seen: threading.Event) -> None:
    """Read all that is drawn: a terminal that nobody reads is soon full, and stops who draws on it."""
    shown = b""
    with contextlib.suppress(OSError):  # the other end was closed
        while part := os.read(screen, 4096):
            shown = shown[-len(word) :] + part
            if word in shown:
                seen.set()


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_ctrl_c_in_training_ends_with_130_and_a_line(
    tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    import pty

    recipe = write_recipe(tmp_path / "long.yaml")
    command = [sys.executable, "-m", "compress", "run", str(recipe), "model.train.epochs=10000"]
    screen, terminal = pty.openpty()  # bars are drawn on a terminal alone
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")],
        stdout=terminal,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        # What a script starts in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(terminal)
    seen = threading.Event()
    reader = threading.Thread(target=_read_on, args=(screen, b"loss", seen), daemon=True)
    reader.start()
    assert seen.wait(120)
    process.send_signal(signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
        reader.join(timeout=10)
        os.close(screen)
    said = stderr.decode()
    assert process.returncode == 130, said
    assert "interrupted: " in said
    assert "Traceback" not in said
    left = [name for name in _everything_in(tmp_path / "out") if not name.startswith(".cache")]
    assert left == []
    # Of the training what it goes on from, if an epoch was done, and nothing else.
    paths = [tmp_path / "out" / name for name in _everything_in(tmp_path / "out")]
    files = [path.name for path in paths if path.is_file()]
    assert files in ([], ["checkpoint.pt"])
