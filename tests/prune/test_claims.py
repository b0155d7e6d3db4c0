"""What a prune stage says that it left is measured on the model that it gives."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.model.structure.find import structure_of
from compress.prune.magnitude import MagnitudePruning
from compress.prune.stage import PruneStage
from compress.registry import STAGES, stage_class
from compress.stage import Context, StageResult


class Claims(PruneStage):
    """Gives the model back, and says that it left something."""

    name: ClassVar[str] = "prune/claims"
    summary: ClassVar[str] = ""
    facts: dict[str, Any]

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        return StageResult(model, dict(self.facts))


def test_every_prune_stage_is_verified() -> None:
    pruning = [name for name in STAGES if name.startswith("prune/")]
    assert pruning and all(issubclass(stage_class(name), PruneStage) for name in pruning)


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ({"heads_kept": [4, 4]}, {"heads_kept": [4, 3]}),
        ({"width_kept": 32}, {"width_kept": 31}),
        ({"layers_kept": [0, 3]}, {"layers_kept": [0]}),
        ({"sparsity_per_layer": {"classifier": 0.0}}, {"sparsity_per_layer": {"classifier": 0.1}}),
    ],
)
def test_what_is_not_so_is_an_error_and_what_is_so_is_none(
    true: dict[str, Any], false: dict[str, Any], model: nn.Module, context: Context
) -> None:
    assert Claims(facts=true).apply(model, context).facts == true
    with pytest.raises(StageError, match=next(iter(false))):
        Claims(facts=false).apply(model, context)
    Claims(facts={"importance": 1}).apply(model, context)


def test_units_that_were_not_cut_are_an_error(model: nn.Module, context: Context) -> None:
    site = structure_of(model).sites[0]
    claim = {"name": site.name, "kind": site.kind, "layer": 0, "before": 4, "kept": 4}
    Claims(facts={"sites": [claim]}).apply(model, context)
    with pytest.raises(StageError, match="sites"):
        Claims(facts={"sites": [claim | {"kept": 3}]}).apply(model, context)


def test_tokens_and_ranks_that_are_not_so_are_an_error(text_model: nn.Module, context: Context) -> None:
    table = text_model.get_input_embeddings().weight  # type: ignore[operator]
    for key, size in (("vocabulary_kept", table.shape[0]), ("rank", table.shape[1])):
        Claims(facts={key: size}).apply(text_model, context)
        with pytest.raises(StageError, match=key):
            Claims(facts={key: size - 1}).apply(text_model, context)


class Doubled(nn.Linear):
    """A weight that is computed when it is read, in a way that nothing can tell."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.raw = self._parameters.pop("weight")

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        assert self.raw is not None
        return 2 * self.raw


def test_zeros_that_went_nowhere_are_an_error(context: Context) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Doubled(4, 3))
    with pytest.raises(StageError, match="'1': 0.5"):
        MagnitudePruning(sparsity=0.5, scope="layer").apply(model, context)


def test_zeros_of_the_weights_own_count(context: Context) -> None:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight[:3] = 0
    made = MagnitudePruning(sparsity=0.5).apply(nn.Sequential(layer), context)
    assert made.facts["sparsity_per_layer"] == {"0": 0.5}
