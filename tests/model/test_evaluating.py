"""What runs a model for its outputs leaves each of its modules in the mode that it had."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.model import structure_of
from compress.model.forward import predict_logits, to_tensors
from compress.model.observe.attention_view import attention_of_row
from compress.model.observe.capture import inputs_of_sites
from compress.prune.importance.sensitivity import felt_inputs
from compress.prune.importance.silencing import Batches, answers_of
from compress.prune.importance.unit_gates import gate_gradients
from compress.train import evaluate


def _gates(model: nn.Module, splits: Splits) -> object:
    return list(gate_gradients(model, structure_of(model).sites, splits.validation, splits.task))


def _felt(model: nn.Module, splits: Splits) -> object:
    sites = structure_of(model).sites
    return list(felt_inputs(model, sites, splits.validation, splits.task, seed=0, batch_size=32))


def _captured(model: nn.Module, splits: Splits) -> object:
    return list(inputs_of_sites(model, structure_of(model).sites, splits.validation, splits.task))


def _watched(model: nn.Module, splits: Splits) -> object:
    batch = to_tensors(next(splits.validation.batches(1)), splits.task.input_names)
    return attention_of_row(model, structure_of(model).attention, batch)


@pytest.mark.parametrize(
    "use",
    [
        _gates,
        _felt,
        _captured,
        _watched,
        lambda model, splits: predict_logits(model, splits.validation, splits.task),
        lambda model, splits: evaluate(model, splits.validation, splits.task),
        lambda model, splits: answers_of(model, Batches.of(splits.validation, splits.task)),
    ],
)
def test_each_module_keeps_its_own_mode(
    use: Callable[[nn.Module, Splits], object], model: nn.Module, splits: Splits
) -> None:
    model.train()
    frozen = structure_of(model).attention[0].consumer
    model.get_submodule(frozen).eval()  # as a user freezes one layer of a model in training
    before = {name: each.training for name, each in model.named_modules()}
    assert {True, False} == set(before.values())
    use(model, splits)
    assert {name: each.training for name, each in model.named_modules()} == before
    assert all(each.device == torch.device("cpu") for each in model.parameters())
