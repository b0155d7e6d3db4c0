"""A Hugging Face configuration as plain data, without what is not part of the model."""

from __future__ import annotations

import json
from typing import Any

from compress.model.files.hf.own_code import NAMES_CODE

__all__ = ["plain_config"]

_OF_BACKBONES = ("out_features", "out_indices", "stage_names")  # named by depth; only detectors read them
_OF_FILES = ("_name_or_path", "transformers_version", "_attn_implementation_autoset", "architectures")


def plain_config(config: Any) -> dict[str, Any]:
    """All settings, except the directory's name, the library's version, code, and what detectors read."""
    arguments: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    left_out = (*_OF_BACKBONES, *_OF_FILES, *NAMES_CODE)
    return {key: value for key, value in arguments.items() if key not in left_out}
