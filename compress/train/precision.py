"""Which precision a training computes in: bf16 where it is asked for, or measured to be faster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from compress.alone import alone
from compress.data.split import Split
from compress.task import Task
from compress.train.forward import LossFunction, forward_loss
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["use_bf16"]

_MUST_BE_FASTER_BY = 1.25  # below this the loss of digits isn't worth it, and a timing could go either way


def use_bf16(
    module: nn.Module, train: Split, task: Task, config: TrainConfig, device: str, loss: LossFunction
) -> bool:
    """Decide on bf16: asked for, or (auto) the device has it and two steps are measurably faster."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if not _has_bf16(device) or len(train) < config.batch_size * 8:
        return False
    batch = next(train.batches(config.batch_size))
    seconds = {}
    with alone():
        for bf16 in (False, True, False, True):  # in turns; the first of each is its warm-up
            began = time.perf_counter()
            for _ in range(2):
                value = forward_loss(module, batch, task, loss, device=device, bf16=bf16)
                value.backward()  # type: ignore[no-untyped-call]
            seconds[bf16] = time.perf_counter() - began
    module.zero_grad()
    return seconds[False] > _MUST_BE_FASTER_BY * seconds[True]


def _has_bf16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    capability = torch.backends.cpu.get_cpu_capability()
    return bool(capability.startswith("AVX512") and torch.ops.mkldnn._is_mkldnn_bf16_supported())
