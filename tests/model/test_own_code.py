"""No code of a Hugging Face checkpoint runs, whatever it names and whatever standard input answers."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.errors import ModelError
from compress.model import ModelConfig, load_model
from compress.model.files.definition import Definition

Change = Callable[[Path, str], Path]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once any code of a checkpoint has run; standard input says yes to every question."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "code-has-run"


def _with_code(directory: Path, ran: Path, names: dict[str, str], **settings: Any) -> Path:
    """Add a Python file to a checkpoint, and what names it to its config.json."""
    code = f"open({str(ran)!r}, 'w').close()\nfrom transformers import *\nclass Own(BertConfig): pass\n"
    (directory / "own.py").write_text(code)
    (directory / "custom_generate").mkdir()
    (directory / "custom_generate" / "generate.py").write_text(code)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "auto_map": names, **settings}))
    return directory


@pytest.fixture
def checkpoint(bert_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_directory, tmp_path / "checkpoint"))


def _load(directory: Path, scratch: Path, **more: Any) -> Any:
    config = ModelConfig.model_validate({"hf": str(directory), **more})
    return load_model(config, seed=0, scratch=scratch)


ALL = {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own", "AutoTokenizer": "own.Own"}


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (ALL, {"model_type": "own"}),
        (ALL, {"model_type": None}),
        (ALL, {"architectures": ["OwnForSequenceClassification"]}),
        (
            {"AutoModel": "elsewhere/repository--own.Own"},
            {"architectures": ["OwnModel"], "model_type": "own"},
        ),
        ({}, {"attn_implementation": "somebody/kernel"}),
        ({}, {"_attn_implementation": "somebody/kernel"}),
        ({}, {"experts_implementation": {"": "somebody/kernel"}}),
    ],
)
def test_what_needs_its_own_code_is_refused(
    checkpoint: Path, ran: Path, tmp_path: Path, names: dict[str, str], settings: dict[str, Any]
) -> None:
    directory = _with_code(checkpoint, ran, names, **settings)
    for train in (None, {"epochs": 1}):
        with pytest.raises(ModelError, match=r"model\.file"):
            _load(directory, tmp_path, train=train)
    assert not ran.exists()


def test_classes_that_transformers_has_are_taken_without_the_checkpoint_s_code(
    checkpoint: Path, ran: Path, tmp_path: Path
) -> None:
    loaded = _load(_with_code(checkpoint, ran, ALL), tmp_path)
    assert type(loaded.module).__name__ == "BertForSequenceClassification"
    assert any("auto_map" in note for note in loaded.notes)
    assert not ran.exists()


def test_a_tokenizer_of_own_code_is_refused(checkpoint: Path, ran: Path, tmp_path: Path) -> None:
    directory = _with_code(checkpoint, ran, {})
    (directory / "tokenizer.json").unlink()
    (directory / "config.json").unlink()  # whose model_type would name a class of transformers
    names = {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    own = {"file": __file__, "builder": "small_linear", "tokenizer": str(directory)}
    with pytest.raises(ModelError, match=r"model\.file"):
        load_model(ModelConfig.model_validate(own), seed=0, scratch=tmp_path)
    assert not ran.exists()


def test_a_bundle_s_configuration_names_no_code(checkpoint: Path, ran: Path, tmp_path: Path) -> None:
    loaded = _load(checkpoint, tmp_path)
    found = getattr(loaded.module, "_modelpress_definition")  # noqa: B009
    args = {**found.args, "auto_map": ALL, "attn_implementation": "somebody/kernel"}
    built = Definition("hf", args).build()
    assert type(built) is type(loaded.module)
    clip = {
        "model_type": "clip",
        "auto_map": ALL,
        "name_or_path": str(_with_code(checkpoint, ran, {})),
    }  # transformers has no such classifier of its own
    with pytest.raises(ModelError):
        Definition("hf", clip).build()
    assert not ran.exists()


def small_linear() -> Any:
    from torch import nn

    return nn.Linear(2, 2)


def test_a_decoder_s_own_generate_is_not_run(ran: Path, tmp_path: Path, bert_directory: Path) -> None:
    import transformers

    config = transformers.GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=40)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "decoder")
    for file in bert_directory.glob("token*"):
        shutil.copy(file, tmp_path / "decoder")
    directory = _with_code(tmp_path / "decoder", ran, {"AutoModelForCausalLM": "own.Own"})
    config = ModelConfig.model_validate({"hf": str(directory)})
    load_model(config, seed=0, scratch=tmp_path, task="language-modelling")
    assert not ran.exists()
