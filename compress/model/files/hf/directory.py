"""Checks on the files of a Hugging Face directory or name, before its weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.data.paths import near_path
from compress.data.readers.tokenize import has_words
from compress.errors import ModelError, Problem
from compress.model.files.definition import _transformers, auto_class
from compress.model.files.hf.own_code import check_code, needs_own_code
from compress.model.files.hf.served_tasks import no_classes, task_of_files
from compress.model.files.hf.weight_files import check_weight_files, refuse_adapter
from compress.tasks.registry import all_heads, task_class
from compress.tasks.spec import HubHead

__all__ = [
    "architectures_of",
    "check_head",
    "check_vocabulary",
    "config_json",
    "explained",
    "file_of",
    "may_be_name",
    "outputs_of",
    "settings_of",
]


def explained(name: str, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a transformers function on a model's files; turn any failure into one clear error.

    Raises:
        ModelError: it can't be loaded, or only with its own code.
    """
    # transformers raises OSError, ValueError, SafetensorError... for what is the same to a user.
    try:
        return function(*arguments, **options)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise needs_own_code(name) from error
        if "backend tokenizer" in str(error):
            raise _no_tokenizer(name, {"vocab.txt", "vocab.json", "*.model"}) from error
        where = "directory" if Path(name).exists() else "directory or Hub name (check the network)"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if type(error).__name__ == "SafetensorError":
            raise ModelError(
                f"a weight file of {name} is damaged or incomplete ({first}); copy it again"
            ) from error
        near = near_path(Path(name))
        hint = "; set model.hf to another one" if near is None else f"; did you mean '{near}'?"
        text = f"cannot load the Hugging Face model from {where} '{name}': {first}{hint}"
        nearest = None if near is None else str(near)
        raise ModelError(Problem(text, key="model.hf", value=name, nearest=nearest)) from error


def may_be_name(name: str) -> bool:
    """Whether this can be a name on the Hugging Face Hub, not only a path."""
    return not name.startswith(("/", ".", "~", "\\")) and name.count("/") <= 1


def config_json(name: str, *, is_needed: bool = True) -> dict[str, Any]:
    """The config.json of a directory, or of a Hub name (from its cache, or over the network).

    Args:
        is_needed: refuse a sentence-transformers directory whose encoder is in a folder; otherwise empty.

    Raises:
        ModelError: there is none, or it can't be read; or the directory is a bundle.
    """
    path = Path(name)
    if not path.exists() and not may_be_name(name):
        raise ModelError(f"'{name}' is neither a directory nor a valid name on the Hugging Face Hub")
    _refuse_bundle(path)
    if (path / "modules.json").is_file() and not (path / "config.json").is_file():
        if not is_needed:
            return {}
        task = task_of_files((), None, is_encoder_decoder=False, is_sentence_transformer=True)
        assert task is not None
        raise ModelError(task.refusal(name, ()), see="reference/tasks")
    refuse_adapter(name)
    found, _ = explained(name, _transformers().PretrainedConfig.get_config_dict, name)
    return dict(found)


def _refuse_bundle(path: Path) -> None:
    """Refuse a directory that modelpress wrote, whose weights transformers can't read."""
    is_bundle = (path / "manifest.json").is_file() and (path / "onnx").is_dir()
    if not is_bundle or any(path.glob("*.safetensors")):
        return
    text = f"{path} is a bundle, whose model may be compressed already; set model.hf to what it was made of"
    if (path / "pytorch").is_dir():
        text += f", or model.bundle={path} to go on from it"
    raise ModelError(Problem(text, key="model.hf", value=str(path)))


def settings_of(name: str, config: dict[str, Any]) -> Any:
    """The configuration as parsed by transformers.

    Args:
        config: its config.json.

    Raises:
        ModelError: it can't be read, or the model needs its own code; or as `check_weight_files`.
    """
    transformers = _transformers()
    check_weight_files(name, config)
    known = [each for each in architectures_of(config) if hasattr(transformers, each)]
    has_type = config.get("model_type") in transformers.CONFIG_MAPPING
    check_code(name, config, known if has_type else None)
    return explained(name, transformers.AutoConfig.from_pretrained, name, trust_remote_code=False)


def outputs_of(config: dict[str, Any]) -> int | None:
    """Numbers that a classification head returns for a row, by a config.json; None if it doesn't say so."""
    names = config.get("id2label")
    count = len(names) if isinstance(names, dict) else config.get("num_labels")
    return count if isinstance(count, int) else None


def file_of(name: str, file: str, *, must_know: bool = False) -> Path | None:
    """Path of a file in a directory or Hub name, or None if it doesn't have it.

    Args:
        must_know: raise if the Hub can't be reached; otherwise the file counts as absent.

    Raises:
        ModelError: the file can't be fetched.
    """
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    _transformers()
    from transformers.utils import cached_file

    tolerant = {"_raise_exceptions_for_missing_entries": False}
    if not must_know:
        tolerant["_raise_exceptions_for_connection_errors"] = False
    found = explained(name, cached_file, name, file, **tolerant)
    return None if found is None else Path(found)


def check_head(
    name: str, settings: Any, head: HubHead, *, is_trained_first: bool
) -> tuple[bool, tuple[str, ...]]:
    """Whether a model has a trained head of a kind; and notes on one that has yet to be trained.

    Args:
        settings: its configuration.
        head: the kind that the data need.
        is_trained_first: whether the model is trained before it is used.

    Raises:
        ModelError: it is for another task, and no head for this one will be trained on it.
    """
    from transformers.models.auto import modeling_auto as known

    architectures = tuple(settings.architectures or ())
    is_trained = any(map(head.fits, architectures))
    if head.wants:
        if is_trained:
            return True, ()
        model = next(task_class(each).words.model for each, known in all_heads() if known == head)
        raise ModelError(
            f"{name} is not a {model} (architectures: {', '.join(architectures) or 'none'}): {head.wants}"
        )
    sees = head.modality == "image"
    # The family's classifier is an encoder-decoder even if the checkpoint is only the encoder.
    families = {} if sees else known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    task = task_of_files(
        architectures,
        head,
        is_encoder_decoder=bool(getattr(settings, "is_encoder_decoder", False))
        or settings.model_type in families,
        is_sentence_transformer=not is_trained and file_of(name, "modules.json") is not None,
        reads_sound=settings.model_type in known.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    )
    if task is None:
        refusal = no_classes(name, getattr(settings, "problem_type", None), settings.num_labels, head)
        if refusal is not None:
            raise ModelError(refusal, see="reference/tasks")
        if head.problem_type is not None and getattr(settings, "problem_type", None) is None:
            return True, (f"config.json has no problem_type; {head.problem_type} is assumed",)
        return True, ()
    if not is_trained_first or task.new_head != "checkpoint":
        raise ModelError(task.refusal(name, architectures), see="reference/tasks")
    if type(settings) not in auto_class(head.name)._model_mapping:
        raise ModelError(
            f"{name}: transformers has no {head.auto_class} for model_type '{settings.model_type}' "
            f"({', '.join(architectures)}), so no head can be trained on it; set model.hf to another model"
        )
    return False, (task.note(architectures),)


def check_vocabulary(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that transformers created empty because files are missing.

    Args:
        name: the directory or Hub name of the tokenizer.
        tokenizer: a fast transformers tokenizer.

    Raises:
        ModelError: it has only special tokens.
    """
    if has_words(tokenizer.backend_tokenizer):
        return
    raise _no_tokenizer(name, set(dict(getattr(tokenizer, "vocab_files_names", {})).values()))


def _no_tokenizer(name: str, files: set[str]) -> ModelError:
    looked_for = ", ".join(["tokenizer.json", *sorted(files - {"tokenizer.json"})])
    return ModelError(
        f"'{name}' has no tokenizer (looked for {looked_for}); copy the files of the model's own tokenizer "
        "into it (tokenizer.save_pretrained writes them)"
    )


def architectures_of(config: dict[str, Any]) -> tuple[str, ...]:
    """Names of the architectures in a config.json."""
    found = config.get("architectures")
    return tuple(str(each) for each in found) if isinstance(found, list) else ()
