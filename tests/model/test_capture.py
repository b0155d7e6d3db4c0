"""The inputs of a site, token by token: those of a full forward pass, less the padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.data import Splits
from compress.data.split import Split
from compress.errors import StageError
from compress.model import structure_of
from compress.model.observe.capture import input_at, inputs_of_sites
from compress.model.structure.sites import Producer, Site
from compress.prune.importance.unit_gates import gated
from compress.tasks import Classification, InputSpec

TASK = Classification(
    (InputSpec("x", "float32", ("s", 2)), InputSpec("attention_mask", "int64", ("s",))), labels=("no", "yes")
)
SITE = Site("ffn", "feed_forward", 0, (Producer("up", (1,)),), "down", 1)


class FeedForward(nn.Module):
    """x, doubled, goes to `down`; what comes after is only counted."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.finished = nn.Linear(2, 2, bias=False), nn.Linear(2, 1), 0
        self.up.weight.data.copy_(2 * torch.eye(2))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        answer: Tensor = self.down(self.up(x)).sum(1)
        self.finished += 1
        return answer


def rows(*values: list[list[float]]) -> Split:
    given = tuple(
        {"x": np.array(v, dtype=np.float32), "attention_mask": np.ones(len(v), dtype=np.int64)}
        for v in values
    )
    return Split("train", given, np.zeros(len(given), dtype=np.int64), TASK.inputs)


def test_site_inputs_are_the_tokens_of_each_row_without_padding_and_the_rest_is_not_computed() -> None:
    model, split = FeedForward().train(), rows([[1, 2]], [[3, 4], [5, 6]])
    ((found,),) = inputs_of_sites(model, [SITE], split, TASK, batch_size=2)
    assert found.tolist() == [[2, 4], [6, 8], [10, 12]]
    assert model.finished == 0 and model.training and not found.requires_grad


class PositionsFirst(FeedForward):
    """The same, with positions before rows."""

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1), attention_mask)


def test_padding_is_found_where_positions_come_first() -> None:
    split = rows([[1, 2]], [[3, 4], [5, 6], [7, 8]])
    ((found,),) = inputs_of_sites(PositionsFirst(), [SITE], split, TASK, batch_size=2)
    assert sorted(found.tolist()) == [[2, 4], [6, 8], [10, 12], [14, 16]]


def test_open_gates_are_applied_and_the_model_may_be_used_between_batches() -> None:
    model, split = FeedForward(), rows([[1, 2]], [[3, 4]])
    with gated(model, [SITE], [torch.tensor([1.0, 0.5])]):
        found = []
        for (chunk,) in inputs_of_sites(model, [SITE], split, TASK, batch_size=1):
            model(torch.ones(1, 1, 2), torch.ones(1, 1))
            found += chunk.tolist()
    assert found == [[2, 2], [6, 4]] and model.finished == 2


def test_each_site_of_a_transformer_gets_what_a_full_pass_gives_it(model: nn.Module, splits: Splits) -> None:
    split = splits.validation.take(5, seed=0)
    for site in structure_of(model).sites:
        full: list[Tensor] = []
        hook = model.get_submodule(site.consumer).register_forward_hook(
            lambda _, given, __, full=full: full.append(given[0].flatten(0, 1))
        )
        for batch in split.batches(2):
            model.eval()(torch.from_numpy(batch["features"]))
        hook.remove()
        found = torch.cat([x for (x,) in inputs_of_sites(model, [site], split, splits.task, batch_size=2)])
        torch.testing.assert_close(found, torch.cat(full), rtol=0, atol=0)  # the very same computation


@dataclass
class Shape:
    given: tuple[int, ...]
    tokens: int


@pytest.mark.parametrize("shape", [Shape((2, 3, 2), 4), Shape((6, 2), 4), Shape((2, 2), 2)], ids=str)
def test_padding_is_found_in_a_batch_a_flat_batch_and_not_behind_a_pooler(shape: Shape) -> None:
    model = FeedForward()
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    found = input_at(model, SITE, {"x": torch.ones(shape.given), "attention_mask": mask})
    assert found.shape == (shape.tokens, 2)


def test_not_a_number_and_an_unknown_layout_and_a_site_out_of_reach_are_refused_by_name() -> None:
    model, ones = FeedForward(), torch.ones(2, 3)
    with pytest.raises(StageError, match=r"input of down \(ffn\)"):
        list(inputs_of_sites(model, [SITE], rows([[1, float("nan")]]), TASK))
    with pytest.raises(StageError, match=r"down gets \[4, 2, 2\].* attention_mask \[2, 3\]"):
        input_at(model, SITE, {"x": torch.ones(4, 2, 2), "attention_mask": ones})
    model.spare = nn.Linear(2, 1)
    with pytest.raises(StageError, match="ffn: the forward pass does not call spare"):
        idle = Site("ffn", "feed_forward", 0, (Producer("up", (1,)),), "spare", 1)
        input_at(model, idle, {"x": torch.ones(2, 3, 2), "attention_mask": ones})


def test_what_is_the_same_for_all_rows_has_no_padding() -> None:
    x, mask = torch.ones(1, 5, 2), torch.tensor([[1, 1, 1], [1, 0, 0]])  # as a table of relative positions
    assert input_at(FeedForward(), SITE, {"x": x, "attention_mask": mask}).shape == (5, 2)


def test_a_padded_position_may_hold_anything() -> None:
    x = torch.ones(1, 2, 2)
    x[0, 1] = float("nan")
    found = input_at(FeedForward(), SITE, {"x": x, "attention_mask": torch.tensor([[1, 0]])})
    assert found.tolist() == [[2, 2]]


def test_several_sites_are_met_in_one_pass_and_one_that_is_not_called_is_named(
    model: nn.Module, splits: Splits
) -> None:
    sites = structure_of(model).sites
    together = list(inputs_of_sites(model, sites, splits.validation, splits.task))
    for index, site in enumerate(sites):
        alone = [x for (x,) in inputs_of_sites(model, [site], splits.validation, splits.task)]
        assert all(torch.equal(batch[index], one) for batch, one in zip(together, alone, strict=True))
    model.register_module("idle", nn.Linear(64, 1))
    idle = Site("idle", "feed_forward", 9, (), "idle", 1)
    with pytest.raises(StageError, match="idle: the forward pass does not call idle"):
        list(inputs_of_sites(model, [*sites, idle], splits.validation, splits.task))
