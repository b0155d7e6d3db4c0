"""Integers and scales chosen by torchao; the only file that uses torchao's interface.

Imported only when a stage runs: torchao takes a second to import, and logs about it.
Shapes: o = output features or rows, i = input features or columns, g = groups of i.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import StageError

__all__ = ["int4_by_group", "int8_by_row"]


def int8_by_row(weight: Tensor, reduce_range: bool = False) -> tuple[Tensor, Tensor]:
    """Choose int8 values and one scale for each row of a weight; symmetric, without zero points.

    Args:
        weight: [o, i].
        reduce_range: stay within [-64, 63], so that no int16 pair overflows on AVX2 machines without VNNI.

    Returns:
        int8 [o, i] and float32 [o].

    Raises:
        StageError: this torchao version lacks what is needed.
    """
    try:
        with _quiet():
            from torchao.quantization import Int8Tensor
            from torchao.quantization.granularity import PerRow
    except ImportError as error:
        raise _unusable("Int8Tensor", error) from error
    # torchao 0.18 uses one scale in all for a single column; a column of zeros changes no scale.
    padded = F.pad(weight.detach().float(), (0, int(weight.shape[1] == 1)))
    chosen = Int8Tensor.from_hp(padded, PerRow(), reduce_range=reduce_range)
    return chosen.qdata[:, : weight.shape[1]].contiguous(), chosen.scale.flatten()


def int4_by_group(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Choose values in [-8, 7] and one scale for each group of inputs; symmetric, without zero points.

    The scale is the smallest that clips nothing; torchao's plain symmetric one clips a largest positive
    weight by half a step. Relative error on MiniLM's weights: 0.094 (plain 0.097, HQQ 0.091, with zero
    points 0.082).

    Args:
        weight: [o, i]; padded to a multiple of group_size with zeros, which change no scale.
        group_size: inputs that share a scale.

    Returns:
        int8 [o, g * group_size] holding values in [-8, 7], and float32 [o, g].

    Raises:
        StageError: this torchao version lacks what is needed.
    """
    try:
        with _quiet():
            from torchao.quantization import IntxUnpackedToInt8Tensor
            from torchao.quantization.quant_primitives import MappingType
    except ImportError as error:
        raise _unusable("IntxUnpackedToInt8Tensor", error) from error
    padded = F.pad(weight.detach().float(), (0, -weight.shape[1] % group_size))  # [o, g * group_size]
    chosen = IntxUnpackedToInt8Tensor.from_hp(
        padded,
        (1, group_size),
        torch.int4,  # type: ignore[attr-defined]
        mapping_type=MappingType.SYMMETRIC_NO_CLIPPING_ERR,
    )
    return chosen.qdata, chosen.scale


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence a logger that warns about torchao registering its own enums with this torch."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _unusable(name: str, error: ImportError) -> StageError:
    from importlib.metadata import version

    return StageError(
        f"torchao {version('torchao')} has no {name}, which quantizing needs; install 0.17 or later ({error})"
    )
