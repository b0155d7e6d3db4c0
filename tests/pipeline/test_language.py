"""A language model through a whole run, and what is done with it: report, gates, check, generate."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import yaml
from typer.testing import CliRunner

from compress import bundle_variants, load, load_variant
from compress.cli import app
from compress.deploy.generate import Sampling, Writer, Written, pick_token
from compress.errors import ModelError, RecipeError
from compress.measure import explain_file
from compress.model.decoder_cache import CachedDecoder
from compress.pipeline import export_model, inspection_recipe, run
from compress.pipeline.bundles.check import check_bundle
from compress.recipe import load_recipe
from compress.report import load_report
from tests.inspecting import inspected

from ..conftest import TRANSFORMER

MEASURED = import_module("compress.pipeline.measuring")
ARGS = {"input_dim": 257, "d_model": 32, "nhead": 2, "num_layers": 2, "dim_feedforward": 48, "max_length": 96}
RECIPE: dict[str, Any] = {
    "model": {
        "file": str(TRANSFORMER),
        "builder": "causal_lm",
        "args": {**ARGS, "dropout": 0.0},
        "tokenizer": "bytes",
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 3e-3, "precision": "fp32"},
    },
    "data": {
        "source": "stdlib",
        "train_bytes": 40_000,
        "max_length": 48,
        "validation_limit": 12,
        "test_limit": 12,
    },
    "stages": [
        {
            "distill/student": {
                "student": {"layers": 1},
                "losses": {"labels": 0.5, "logits": {"weight": 0.5, "temperature": 1}, "hidden": 0.1},
                "train": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "precision": "fp32"},
            }
        },
        {"quantize/int4_weight_only": {"activations": "int8"}},
    ],
    "export": {"parity_rows": 4, "min_agreement": 0.9, "max_metric_difference": 0.1},
    "measure": {"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.01, "ladder": True},
    "gates": {"max_perplexity_ratio": 50, "min_decode_speedup": 0.01},
}


def _write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**RECIPE, **changes}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MEASURED, "wait_until_quiet", lambda seconds, **options: False)
        return run(load_recipe(_write(folder / "tiny.yaml", name="tiny")), folder / "out").directory


def test_the_report_has_perplexity_and_the_time_of_a_token(made: Path) -> None:
    report = load_report(made)
    language = report.measurement.language
    assert language is not None
    accuracy, difference = report.measurement.candidate.accuracy, report.measurement.difference
    assert (accuracy.rows, accuracy.units, accuracy.unit) == (12, 12 * 48, "token")
    assert (difference.rows, difference.units) == (language.rows, language.tokens) == (12, 12 * 48)
    assert 1 < language.baseline.perplexity < 257 and language.text_bytes <= language.tokens
    assert language.candidate.cache_bytes_per_token * 2 == language.baseline.cache_bytes_per_token == 2 * 256
    (write,) = language.decode
    assert (write.batch, write.sequence, write.rounds) == (1, 48, 3)
    assert [gate.name for gate in report.gates] == ["max_perplexity_ratio", "min_decode_speedup"]
    assert not any(gate.fails for gate in report.gates)
    assert [(rung.change.unit, rung.rows, rung.change.units) for rung in report.ladder] == [
        ("token", 12, 12 * 48)
    ] * 3
    text = (made / "report.md").read_text(encoding="utf-8")
    assert "## Language model" in text and "batch 1, token 48, 1 thread |" in text
    assert "next-token accuracy, 576 test tokens" in text and "labels (" not in text
    assert 'id="language"' in (made / "report.html").read_text(encoding="utf-8")
    assert "text-generation" in (made / "README.md").read_text(encoding="utf-8")


def test_the_bundle_has_the_hub_s_names_and_answers_as_its_module(made: Path) -> None:
    session = ort.InferenceSession(str(made / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    shapes = {value.name: value.shape for value in session.get_inputs()}
    assert shapes == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "total_sequence_length"],
        "past_key_values.0.key": ["batch_size", 2, "past_sequence_length", 16],
        "past_key_values.0.value": ["batch_size", 2, "past_sequence_length", 16],
    }
    assert [value.name for value in session.get_outputs()] == ["logits", "present.0.key", "present.0.value"]
    ids = np.array([[72, 101, 108], [10, 11, 12]])
    past = [np.random.default_rng(0).normal(size=(2, 2, 5, 16)).astype(np.float32) for _ in range(2)]
    feed = dict(zip(shapes, (ids, np.ones((2, 8), np.int64), *past), strict=True))
    with torch.no_grad():
        wanted = CachedDecoder(load(made))(*map(torch.from_numpy, feed.values()))
    for got, each in zip(session.run(None, feed), wanted, strict=True):
        np.testing.assert_allclose(got, each.numpy(), rtol=0, atol=2e-4)
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["task"] == "language-modelling" and manifest["context_length"] == 96
    assert manifest["outputs"][0]["shape"] == ["batch_size", "sequence_length", 257]


def test_the_program_of_its_card_runs(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    card = (made / "README.md").read_text(encoding="utf-8")
    program = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(made)
    assert "options.intra_op_num_threads = 1" in program  # ONNX Runtime would take the host's cores
    exec(compile(program, "card", "exec"), {})
    assert capsys.readouterr().out.startswith("Put the text here.")


def test_check_proves_it_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEASURED, "wait_until_quiet", lambda seconds, **options: False)
    report = check_bundle(made, made)
    assert not report.fails, report.checks  # speed may not be judged where other work runs
    assert [record.name for record in report.checks] == [
        f"files of {made.name}",
        f"files of {made.name}",
        "parity",
        "next-token accuracy as reported",
        "gate max_perplexity_ratio",
        "gate min_decode_speedup",
    ]


def test_check_fails_where_the_file_answers_otherwise_than_reported(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_report(made).measurement
    right = found.candidate.accuracy
    less = right.model_copy(update={"correct": right.correct // 4, "value": right.value / 4})
    candidate = found.candidate.model_copy(update={"accuracy": less})
    worse = found.model_copy(update={"candidate": candidate})
    monkeypatch.setattr(import_module("compress.pipeline.measuring"), "measure_pair", lambda *_, **__: worse)
    failed = [record.name for record in check_bundle(made, made).checks if record.fails]
    assert failed == ["next-token accuracy as reported"]


def test_variants_of_language_models_are_chosen_by_perplexity(made: Path, tmp_path: Path) -> None:
    report = load_report(made)
    for name, perplexity, value in (("one", 9.0, 0.5), ("other", 8.0, 0.1)):
        shutil.copytree(made, tmp_path / name)
        measured, language = report.measurement, report.measurement.language
        assert language is not None
        losses = language.candidate.model_copy(update={"perplexity": perplexity})
        accuracy = measured.candidate.accuracy.model_copy(update={"value": value})
        update = {
            "candidate": measured.candidate.model_copy(update={"accuracy": accuracy}),
            "language": language.model_copy(update={"candidate": losses}),
        }
        changed = {"name": name, "measurement": measured.model_copy(update=update)}
        report.model_copy(update=changed).save(tmp_path / name / "report.json")
    entries = bundle_variants([tmp_path / "one", tmp_path / "other"], tmp_path / "both")
    assert [each["perplexity"] for each in entries] == [9.0, 8.0]
    assert (entries[0]["accuracy"]["rows"], entries[0]["tokens"]) == (12, 12 * 48)
    assert load_variant(tmp_path / "both", "accurate").name == "other"
    card = (tmp_path / "both" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-generation"


def test_generate_writes_what_step_by_step_gives(made: Path) -> None:
    written = Written()
    text = "".join(Writer(made).write("import os", most=20, written=written))
    assert written.prompt_tokens == 9 and written.ended in ("length", "end") and 0 < len(written.ids) <= 20
    module, ids = load(made), list(b"import os")
    with torch.no_grad():
        for _ in written.ids:
            ids.append(int(module(torch.tensor([ids]))[0, -1].argmax()))
    assert ids[9:] == written.ids
    assert text == bytes(each for each in ids[9:] if each < 256).decode("utf-8", "replace")


def test_draws_follow_their_seed(made: Path) -> None:
    def drawn(seed: int) -> list[int]:
        written = Written()
        list(Writer(made).write("x", most=30, sampling=Sampling(1.0, 0.9, seed), written=written))
        return written.ids

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_decoder_s_directory_is_exported_as_it_is(made: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 257}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    ends = {"bos_token_id": 256, "eos_token_id": 256}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends)).save_pretrained(tmp_path / "llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(made / name, tmp_path / "llama" / name)
    found = export_model(tmp_path / "llama", tmp_path / "bundle")
    assert found["agreement"] == 1 and found["max_abs_error"] < 1e-4
    written = Written()
    list(Writer(tmp_path / "bundle").write("abc", most=3, written=written))
    assert written.prompt_tokens == 3 and written.ended
    module, ids = load(tmp_path / "bundle"), torch.tensor([[97, 98, 99]])
    with torch.no_grad():
        assert int(module(input_ids=ids).logits[0, -1].argmax()) == (written.ids or [256])[0]


def test_its_heads_are_inspected(tmp_path: Path) -> None:
    found = inspected(inspection_recipe(str(_write(tmp_path / "r.yaml"))), tmp_path / "cache")
    assert found.unit == "token" and found.units == 48 * found.validation_rows
    assert "rotary" in found.attention.left_out or found.attention.looks


def test_its_time_is_explained(made: Path, tmp_path: Path) -> None:
    found = explain_file(made, threads=1)
    assert found.candidate.wall_ms > 0 and found.candidate.low_bits_by_block
    with pytest.raises(RecipeError, match="prune/vocabulary"):
        load_recipe(_write(tmp_path / "v.yaml", stages=["prune/vocabulary"]))


def test_top_p_keeps_the_likeliest() -> None:
    logits, draw = np.log(np.array([0.5, 0.3, 0.15, 0.05])), np.random.default_rng(0)
    assert {pick_token(logits, Sampling(1.0, 0.6), draw) for _ in range(200)} == {0, 1}
    assert {pick_token(logits, Sampling(1.0, 0.01), draw) for _ in range(50)} == {0}
    assert {pick_token(logits, Sampling(1.0, 1.0), draw) for _ in range(500)} == {0, 1, 2, 3}
    assert pick_token(logits, Sampling(), draw) == 0


def test_the_command_says_how_fast_it_wrote(made: Path) -> None:
    result = CliRunner().invoke(app, ["generate", str(made), "def f", "--max-tokens", "5"])
    assert result.exit_code == 0
    assert "5 tokens read in " in result.stderr and "written, " in result.stderr


def _rename(file: Path, name: str) -> None:
    file.rename(file.with_name(name))


def _of_another(made: Path, name: str) -> None:
    (made / name).write_bytes((made / name).read_bytes() + b"\n")


def _classifies(made: Path) -> None:
    manifest = made / "manifest.json"
    manifest.write_text(manifest.read_text().replace("language-modelling", "classification"))


@pytest.mark.parametrize(
    ("change", "prompt", "said"),
    [
        (lambda made: None, "", "the prompt is empty"),
        (lambda made: None, "x" * 96, "the prompt has 96 tokens, .* 96 "),
        (lambda made: (made / "onnx" / "model.onnx").unlink(), "x", r"onnx.model\.onnx"),
        (
            lambda made: _rename(made / "onnx" / "model.onnx", "m.onnx"),
            "x",
            r"--file: onnx/m\.onnx",
        ),
        (lambda made: _of_another(made, "onnx/model.onnx"), "x", r"onnx/model\.onnx .*SHA-256"),
        (
            lambda made: _of_another(made, "tokenizer.json"),
            "x",
            r"tokenizer\.json .*SHA-256",
        ),
        (
            lambda made: _classifies(made),
            "x",
            r"manifest\.json: classification",
        ),
        (lambda made: (made / "tokenizer.json").unlink(), "x", r"tokenizer\.json"),
        (lambda made: shutil.rmtree(made), "x", r"bundle: "),
    ],
)
def test_what_can_t_be_written_from_is_refused(
    change: Callable[[Path], None], prompt: str, said: str, made: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(made, copy)
    change(copy)
    with pytest.raises(ModelError, match=said):
        list(Writer(copy).write(prompt, most=3))


def test_a_hugging_face_directory_is_told_how_to_become_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"modelpress export .* -o DIR"):
        Writer(tmp_path)
    with pytest.raises(ModelError, match=r"safetensors is a file.*modelpress export"):
        Writer(tmp_path / "model.safetensors")


def test_the_context_ends_what_is_written(made: Path) -> None:
    written = Written()
    list(Writer(made).write("x" * 90, most=50, written=written))
    assert written.ended == "end" or (written.ended == "context" and len(written.ids) == 6)


def test_generate_does_with_onnxruntime_and_tokenizers(made: Path) -> None:
    code = (
        "import sys\nfrom compress.cli import main\n"
        f"assert main(['generate', {str(made)!r}, 'def f', '--max-tokens', '3']) == 0\n"
        "print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    )
    others = "torch torchao transformers datasets onnx onnxscript sklearn accelerate psutil safetensors yaml"
    command = [sys.executable, "-c", code, *others.split(), "huggingface_hub"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": {**RECIPE["model"], "args": {**ARGS, "output_dim": 200}}},
            r"257 .* 48 ",
        ),
        ({"model": {**RECIPE["model"], "args": {**ARGS, "max_length": 32}}}, "32 tokens"),
    ],
)
def test_a_model_that_does_not_fit_its_tokens_is_refused(changes: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        run(load_recipe(_write(tmp_path / "r.yaml", **changes)), tmp_path / "out")


def test_rows_longer_than_a_hugging_face_model_sees_are_refused(made: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 257}
    config = LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=40)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(made / name, tmp_path / "llama" / name)
    recipe = _write(tmp_path / "r.yaml", model={"hf": str(tmp_path / "llama")})
    with pytest.raises(ModelError, match=r"40 tokens"):
        run(load_recipe(recipe), tmp_path / "out")


def test_gates_of_language_are_for_language_models(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml"), ["gates.min_decode_speedup=2"])
    with pytest.raises(RecipeError, match=r"gates\.min_decode_speedup .*language model"):
        run(recipe, tmp_path / "out")
