"""Convert a GGUF file (llama.cpp) to a Hugging Face directory: float weights, and tokenizer files.

Precision lost when the file was quantized stays lost: the float model is the dequantized one, not the one
that the file was made from.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

from compress.errors import ModelError
from compress.model.files.definition import _transformers

__all__ = ["directory_of_gguf"]


def directory_of_gguf(file: Path, scratch: Path) -> Path:
    """Write the language model in a GGUF file into a directory below `scratch`, once.

    Raises:
        ModelError: the gguf package is missing, the file is not GGUF, or transformers doesn't know its
            architecture.
    """
    directory = scratch / f"gguf-{file.stem}"
    if (directory / "config.json").is_file():
        return directory
    transformers = _transformers()
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{file}: reading GGUF files needs the gguf package: pip install gguf")
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ModelError(f"{file} is not a GGUF file: it does not start with the letters GGUF")
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "trust_remote_code": False,  # files next to it may name code
    }
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            read = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype="float32")
            tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    except Exception as error:  # transformers raises ValueError, KeyError, NotImplementedError...
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{file}: transformers {transformers.__version__} cannot read this GGUF file: "
            f"{said[0].rstrip('.')}; convert it to a Hugging Face directory"
        ) from error
    # transformers refuses to save a model read from GGUF, so a plain model of the same weights is saved.
    config = read.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype="float32", trust_remote_code=False)
    plain.load_state_dict(read.state_dict())
    directory.mkdir(parents=True)
    tokenizer.save_pretrained(str(directory))
    plain.save_pretrained(str(directory))
    return directory
