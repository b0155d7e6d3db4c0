"""Several runs of one model in one directory: what is written, what is refused, what a loader chooses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import compress
from compress import bundle_variants, load, load_variant
from compress.deploy import variants as choosing
from compress.errors import ModelError, OutputError
from compress.pipeline import export_model
from compress.recipe import load_recipe

Change = Callable[[Path, str, Callable[[dict[str, Any]], None]], None]


def _change(directory: Path, file: str, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((directory / file).read_text())
    change(content)
    (directory / file).write_text(json.dumps(content))


def _rename(directory: Path, name: str, *stages: str) -> Path:
    _change(directory, "report.json", lambda report: report.update(name=name))
    if stages:
        _change(directory, "manifest.json", lambda manifest: manifest.update(stages=list(stages)))
    return directory


@pytest.fixture
def runs(digits_run: Path, tmp_path: Path) -> list[Path]:
    """A run of int8, and a copy of it that says it is of 4 bits, half as fast and a point better."""
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        shutil.copytree(digits_run / "reports" / "digits", directory)
    _rename(second, "small", "quantize/int4_weight_only")

    def worse(report: dict[str, Any]) -> None:
        for latency in report["measurement"]["latency"]:
            latency["speedup"] /= 2
        report["measurement"]["candidate"]["accuracy"]["value"] += 0.01
        report["measurement"]["difference"]["value"] += 0.01

    _change(second, "report.json", worse)
    return [first, second]


@pytest.fixture
def baseline(digits_run: Path) -> Path:
    """The uncompressed model of that run, exported by itself; its training is in the cache there."""
    directory = digits_run / "reports" / "exported"
    if not directory.exists():
        export_model(digits_run / "digits.yaml", directory)
    return directory


def test_variants_stand_beside_each_other_with_their_figures(
    runs: list[Path], baseline: Path, tmp_path: Path
) -> None:
    entries = bundle_variants([*runs, baseline], tmp_path / "all")
    assert [(each["name"], each["file"]) for each in entries] == [
        ("digits", "onnx/model_quantized.onnx"),
        ("small", "onnx/model_q4.onnx"),
        ("baseline", "onnx/model.onnx"),
    ]
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert manifest["variants"] == json.loads(json.dumps(entries))
    for each, source in zip(entries, [*runs, baseline], strict=True):
        written = tmp_path / "all" / each["file"]
        assert written.read_bytes() == (source / "onnx" / "model.onnx").read_bytes()
        assert each["size_bytes"] == written.stat().st_size
        assert manifest["sha256"][each["file"]] == each["sha256"]
    report = json.loads((runs[0] / "report.json").read_text())["measurement"]
    assert entries[0]["accuracy"]["value"] == report["candidate"]["accuracy"]["value"]
    assert entries[0]["latency"][0]["speedup"] == report["latency"][0]["speedup"]
    assert entries[2]["accuracy"]["value"] == report["baseline"]["accuracy"]["value"]
    assert (entries[2]["accuracy"]["difference"], entries[2]["latency"][0]["speedup"]) == (0, 1)
    assert entries[2]["figures_hold"]["accuracy"] == "every processor"


def test_the_readme_runs_a_variant_with_onnxruntime_alone(runs: list[Path], tmp_path: Path) -> None:
    bundle_variants(runs, tmp_path / "all")
    readme = (tmp_path / "all" / "README.md").read_text()
    assert "modelpress" not in readme.split("```")[1]
    assert 'InferenceSession("onnx/model_quantized.onnx"' in readme
    assert "onnx/model_q4.onnx" in readme
    rows = [line for line in readme.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1  # heads, rule, two variants
    labels = json.loads((tmp_path / "all" / "config.json").read_text())["id2label"]
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert list(labels.values()) == manifest["labels"]
    session = onnxruntime.InferenceSession(
        str(tmp_path / "all" / "onnx" / "model_q4.onnx"), providers=["CPUExecutionProvider"]
    )
    spec = manifest["inputs"][0]
    assert [value.name for value in session.get_inputs()] == [spec["name"]]


def test_a_loader_chooses_by_the_manifest(runs: list[Path], baseline: Path, tmp_path: Path) -> None:
    def slow(manifest: dict[str, Any]) -> None:  # as measured the tiny int8 model may be slower than fp32
        for each, speedup in zip(manifest["variants"], (3.0, 2.0, 1.0), strict=True):
            each["latency"][0]["speedup"] = speedup
        for each, value, drop in zip(manifest["variants"], (0.7, 0.8, 0.9), (0.2, 0.1, 0.0), strict=True):
            each["accuracy"] |= {"value": value, "difference": -drop}

    bundle_variants([*runs, baseline], tmp_path / "all")
    _change(tmp_path / "all", "manifest.json", slow)
    assert load_variant(tmp_path / "all").name == "digits"
    assert load_variant(tmp_path / "all", "accurate").name == "baseline"
    assert load_variant(tmp_path / "all", "fastest", max_drop=0.15).name == "small"
    chosen = load_variant(tmp_path / "all", "smallest")
    assert chosen.name == "digits"  # both files are the same here, so the faster one
    assert chosen.path.stat().st_size == chosen.size_bytes
    inputs = {x.name: np.zeros((1, 16, 4), np.float32) for x in chosen.session().get_inputs()}
    assert chosen.session().run(None, inputs)[0].shape == (1, 10)
    with pytest.raises(ModelError, match=r"max_drop: .*-0\.1; .* 0\.0000"):
        load_variant(tmp_path / "all", max_drop=-0.1)
    with pytest.raises(ModelError, match="prefer: .*'smalest'.*'smallest'"):
        load_variant(tmp_path / "all", "smalest")


def test_a_processor_without_vnni_is_not_given_sums_that_overflow(
    runs: list[Path], baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in runs:
        _change(run, "manifest.json", lambda x: x["figures_hold"].update(accuracy="x86 with VNNI, Arm"))
    bundle_variants([*runs, baseline], tmp_path / "all")
    bundle_variants(runs, tmp_path / "int8")
    monkeypatch.setattr(choosing, "sums_are_exact", lambda sets: False)
    assert load_variant(tmp_path / "all").name == "baseline"
    with pytest.raises(ModelError, match="no VNNI.*reduce_range: true"):
        load_variant(tmp_path / "int8")
    monkeypatch.setattr(choosing, "sums_are_exact", lambda sets: True)
    assert load_variant(tmp_path / "int8").name in ("digits", "small")


def test_a_file_that_was_changed_or_is_gone_is_not_loaded(runs: list[Path], tmp_path: Path) -> None:
    bundle_variants(runs, tmp_path / "all")
    chosen = load_variant(tmp_path / "all").path
    chosen.write_bytes(chosen.read_bytes()[:-1])
    with pytest.raises(ModelError, match="SHA-256"):
        load_variant(tmp_path / "all")
    chosen.unlink()
    with pytest.raises(ModelError, match="missing"):
        load_variant(tmp_path / "all")


def test_a_directory_of_one_model_or_of_none_holds_no_variants(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"onnx/model\.onnx"):
        load_variant(runs[0])
    with pytest.raises(ModelError, match=r"manifest\.json"):
        load_variant(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("manifest.json", lambda x: x["labels"].reverse(), "their labels differ"),
        ("manifest.json", lambda x: x.pop("figures_hold"), "b was written by an older modelpress"),
        ("manifest.json", lambda x: x["inputs"][0].update(name="other"), "their inputs differ"),
        ("manifest.json", lambda x: x.update(max_length=64), "their max_length differ"),
        (
            "manifest.json",
            lambda x: (
                x["sha256"].update({"tokenizer.json": "0"}),
                x["stages"].insert(0, "prune/vocabulary"),
            ),
            r"their tokenizer\.json differ; prune/vocabulary in .*b ",
        ),
        ("report.json", lambda x: x["data"].update(test_fingerprint="0"), "their test rows differ"),
        (
            "report.json",
            lambda x: x["measurement"]["baseline"]["accuracy"].update(correct=0),
            "their baseline's answers differ",
        ),
        (
            "report.json",
            lambda x: x["measurement"]["environment"].update(fingerprint="0"),
            "their machine or ONNX Runtime differ",
        ),
        ("report.json", lambda x: x.update(name="digits"), "named digits"),
        (
            "report.json",
            lambda x: x["measurement"]["latency"][0].update(threads=7),
            "measure:",
        ),
        (
            "manifest.json",
            lambda x: x["sha256"].update({"onnx/model.onnx": "0"}),
            r"model\.onnx .*SHA-256",
        ),
    ],
)
def test_runs_that_do_not_belong_together_are_refused_by_what_differs(
    runs: list[Path], tmp_path: Path, file: str, change: Callable[[Any], None], said: str
) -> None:
    _change(runs[1], file, change)
    with pytest.raises(OutputError, match=said):
        bundle_variants(runs, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_an_export_of_another_model_is_no_baseline(runs: list[Path], baseline: Path, tmp_path: Path) -> None:
    _change(runs[1], "manifest.json", lambda x: x.update(baseline_sha256="0"))
    with pytest.raises(OutputError, match="baseline that .*b "):
        bundle_variants([*runs, baseline], tmp_path / "all")
    with pytest.raises(OutputError, match="two runs; got 1"):
        bundle_variants(runs[:1], tmp_path / "all")
    with pytest.raises(OutputError, match=r"report\.json"):
        bundle_variants([baseline, baseline], tmp_path / "all")


def test_a_recipes_export_settings_hold_for_its_baseline_too(digits_run: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_run / "reports" / ".cache", tmp_path / ".cache")
    values = ["export.opset=23", "name=attention", "measure.ladder=false", "export.parity_rows=40"]
    recipe = load_recipe(digits_run / "digits.yaml", values)
    directory = compress.run(recipe, tmp_path).directory
    parity = export_model(directory / "recipe.resolved.yaml", tmp_path / "baseline")
    assert (parity["rows"], parity["min_agreement"]) == (40, recipe.export.min_agreement) == (40, 0.9)
    bundle_variants([directory, tmp_path / "baseline"], tmp_path / "all")
    opsets = [
        {each.domain: each.version for each in onnx.load(file).opset_import}[""]
        for file in (tmp_path / "all" / "onnx").glob("*.onnx")
    ]
    assert opsets == [23, 23]


def test_a_baseline_without_label_names_gets_those_of_the_runs(
    runs: list[Path], baseline: Path, tmp_path: Path
) -> None:
    unnamed = tmp_path / "unnamed"
    shutil.copytree(baseline, unnamed)
    for file, change in (
        ("manifest.json", lambda x: x.update(labels=[f"LABEL_{i}" for i in range(10)])),
        ("config.json", lambda x: x.update(id2label={})),
    ):
        _change(unnamed, file, change)
    bundle_variants([unnamed, *runs], tmp_path / "all")
    expected = json.loads((runs[0] / "manifest.json").read_text())["labels"]
    assert json.loads((tmp_path / "all" / "manifest.json").read_text())["labels"] == expected
    config = json.loads((tmp_path / "all" / "config.json").read_text())
    assert list(config["id2label"].values()) == expected


def test_a_bundle_of_variants_replaces_another_only_when_told(runs: list[Path], tmp_path: Path) -> None:
    bundle_variants(runs, tmp_path / "all")
    with pytest.raises(OutputError, match="--overwrite"):
        bundle_variants(runs, tmp_path / "all")
    bundle_variants(runs, tmp_path / "all", overwrite=True)
    with pytest.raises(OutputError, match="all contains variants"):
        bundle_variants([runs[0], tmp_path / "all"], tmp_path / "more")


def test_a_second_file_of_the_same_scheme_is_named_after_its_run(runs: list[Path], tmp_path: Path) -> None:
    _rename(runs[1], "small", "quantize/int8_static")
    files = [each["file"] for each in bundle_variants(runs, tmp_path / "all")]
    assert files == ["onnx/model_quantized.onnx", "onnx/model_small.onnx"]


@pytest.mark.parametrize(
    ("stages", "dtype", "file"),
    [
        (["quantize/float16"], "float16", "model_fp16"),
        (["prune/heads", "quantize/float16"], "float16", "model_fp16"),
        (["quantize/float16"], "bfloat16", "model_small"),  # the Hub has no name for it
        (["quantize/int4_weight_only", "quantize/float16"], "float16", "model_q4f16"),
        (["quantize/int4_weight_only"], "float16", "model_q4"),
        (["quantize/mixed"], "float16", "model_small"),
    ],
)
def test_files_have_the_hub_s_suffixes(
    runs: list[Path], tmp_path: Path, stages: list[str], dtype: str, file: str
) -> None:
    _rename(runs[1], "small", *stages)

    def as_made(report: dict[str, Any]) -> None:
        first = report["stages"][0]
        report["stages"] = [{**first, "name": stage, "settings": {"dtype": dtype}} for stage in stages]

    _change(runs[1], "report.json", as_made)
    entries = bundle_variants(runs, tmp_path / "all")
    assert [each["file"] for each in entries] == ["onnx/model_quantized.onnx", f"onnx/{file}.onnx"]


def test_a_directory_of_variants_is_no_model_to_go_on_from(runs: list[Path], tmp_path: Path) -> None:
    bundle_variants(runs, tmp_path / "all")
    with pytest.raises(ModelError, match="has ONNX files but no PyTorch module"):
        load(tmp_path / "all")
