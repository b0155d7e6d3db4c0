"""Check that each layer-name pattern of a stage's settings matches something."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from compress.errors import StageError, did_you_mean

__all__ = ["check_names", "check_patterns"]


def check_patterns(setting: str, patterns: Sequence[str], model: nn.Module) -> None:
    """Check that each pattern of a setting matches a linear layer or an embedding.

    Raises:
        StageError: a pattern matches none.
    """
    kinds = (nn.Linear, nn.Embedding)
    check_names(setting, patterns, [name for name, x in model.named_modules() if isinstance(x, kinds)])


def check_names(setting: str, patterns: Sequence[str], names: list[str]) -> None:
    """Check that each pattern of a setting matches one of the given layer names.

    Raises:
        StageError: a pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = did_you_mean(pattern, names)
            raise StageError(
                f"{setting}: {pattern!r} matches no linear, convolution, embedding or recurrent layer{near}"
            )
