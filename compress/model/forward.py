"""Call any module the same way: named inputs in, logits out."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model.evaluating import evaluating
from compress.tasks import LABELS_KEY, Task

__all__ = ["accepted_inputs", "device_of", "logits", "logits_of", "predict_logits", "to_tensors"]

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # what a tokenizer can return


def logits(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Call a module by keyword and return its logits: a tensor, `.logits`, or the first item of a tuple.

    Raises:
        ModelError: it returns none of these.
    """
    return logits_of(module(**inputs), module)


def logits_of(output: Any, module: nn.Module) -> Tensor:
    """The logits in what a module returned; see `logits`.

    Raises:
        ModelError: there are none.
    """
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, tuple | list) and output:
        found = output[0]
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if not isinstance(found, Tensor):
        raise ModelError(
            f"{type(module).__name__}.forward() returned {type(output).__name__}; it must return logits, an "
            "object with .logits, or a tuple whose first item is logits"
        )
    return found


def device_of(module: nn.Module) -> torch.device:
    """Device of a module's weights; a fully quantized module has only buffers."""
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def to_tensors(batch: Mapping[str, Any], names: tuple[str, ...], device: str = "cpu") -> dict[str, Tensor]:
    """Convert the named arrays of a batch to tensors on a device."""
    return {name: torch.from_numpy(batch[name]).to(device) for name in names}


def predict_logits(
    module: nn.Module, split: Any, task: Task, *, batch_size: int = 32, device: str = "cpu"
) -> Tensor:
    """Logits of all scored units of a split, in order, [u, c], on the CPU."""
    with torch.no_grad(), evaluating(module):
        parts = [
            task.judged(
                logits(module, to_tensors(batch, task.input_names, device)).float().cpu(),
                torch.from_numpy(batch[LABELS_KEY]),
            )
            for batch in split.batches(batch_size)
        ]
    return torch.cat(parts)


def accepted_inputs(module: nn.Module, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of a module's text inputs: those that its forward takes and its tokenizer provides.

    The mask is kept even if the tokenizer doesn't provide one: rows of different lengths are padded.

    Args:
        given: the tokenizer's `model_input_names`; None: unknown.
    """
    parameters = inspect.signature(getattr(module, "wrapped", module).forward).parameters
    names = [name for name in _TEXT_INPUTS if name in parameters]
    if "token_type_ids" not in names or parameters["token_type_ids"].default is inspect.Parameter.empty:
        return tuple(names)
    config = getattr(module, "config", None)
    if given is not None:
        typed = "token_type_ids" in given
    else:
        # Models without a table of types use them differently: GPT-2 adds token embeddings.
        typed = config is None or int(getattr(config, "type_vocab_size", 0) or 0) > 1
    return tuple(name for name in names if typed or name != "token_type_ids")
