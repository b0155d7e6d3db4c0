"""AutoRound: the block's output is nearer than with rounding to nearest, from integers of the grid."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.model.forward import logits, to_tensors
from compress.quantize.integers.auto_round import Call, learned_integers
from compress.quantize.integers.grid import Grid, dequantize, fit_steps, round_to
from compress.quantize.weight_only import Int4WeightOnly
from compress.stage import Context

GRIDS = [Grid(bits, size, symmetric) for bits in (3, 4) for size in (None, 16) for symmetric in (True, False)]


def block(inputs: int = 24) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 20), nn.GELU(), nn.Linear(20, inputs)).eval()


def calls_of(module: nn.Module, count: int = 3, inputs: int = 24) -> list[Call]:
    draw = torch.Generator().manual_seed(1)
    mixed = torch.randn(inputs, inputs, generator=draw)
    given = [torch.randn(4, 5, inputs, generator=draw) @ mixed for _ in range(count)]
    return [Call(lambda x=x: module(x), module(x).detach(), None) for x in given]


def error(module: nn.Module, weights: dict[str, Tensor], calls: list[Call]) -> float:
    changed = copy.deepcopy(module)
    before = {name: layer.weight for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    for name, weight in weights.items():
        module.get_submodule(name).weight = nn.Parameter(weight)
    found = sum(float((call.run() - call.output).square().mean().detach()) for call in calls)
    for name, weight in before.items():
        module.get_submodule(name).weight = weight
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), changed.parameters(), strict=True))
    return found


@pytest.mark.parametrize("grid", GRIDS)
def test_outputs_are_nearer_than_with_rounding(grid: Grid) -> None:
    module = block()
    layers = {name: each for name, each in module.named_modules() if isinstance(each, nn.Linear)}
    before, calls = copy.deepcopy(module.state_dict()), calls_of(module)
    found = learned_integers(layers, lambda _: grid, calls)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    nearest = {}
    for name, layer in layers.items():
        values, steps = found[name]
        plain = round_to(layer.weight, fit_steps(layer.weight, grid), grid)
        nearest[name] = dequantize(plain, fit_steps(layer.weight, grid), grid)
        assert values.dtype == plain.dtype and values.shape == layer.weight.shape
        assert values.min() >= grid.low and values.max() <= grid.high
        # Each weight goes to one of its two neighbours, unless it was clipped.
        assert (dequantize(values, steps, grid).abs() <= layer.weight.abs().max() + steps.scale.max()).all()
    learned = {name: dequantize(*found[name], grid) for name in layers}
    assert error(module, learned, calls) < 0.9 * error(module, nearest, calls)


def test_the_same_seed_gives_the_same_integers() -> None:
    module = block()
    layers = {"0": module[0]}
    runs = [learned_integers(layers, lambda _: Grid(4, 16), calls_of(module), steps=10) for _ in range(2)]
    assert torch.equal(runs[0]["0"][0], runs[1]["0"][0])
    assert torch.equal(runs[0]["0"][1].scale, runs[1]["0"][1].scale)


def test_padding_does_not_count() -> None:
    module, grid = block(), Grid(3, None)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1.0] * 5, [1.0] * 2 + [0.0] * 3]).unsqueeze(-1)
    other = torch.where(mask.bool(), x, 1000.0)
    found = []
    for given in (x, other):
        target = torch.where(mask.bool(), module(given), 0.0).detach()
        call = Call(lambda given=given: module(given), target, mask)
        found.append(learned_integers({"0": module[0]}, lambda _: grid, [call], steps=10)["0"][0])
    assert torch.equal(found[0], found[1])


def test_weights_that_are_not_finite_are_refused() -> None:
    module = block()
    calls = calls_of(module)
    module[0].weight.data[0, 0] = torch.nan
    with pytest.raises(StageError):
        learned_integers({"0": module[0]}, lambda _: Grid(4, None), calls, steps=2)


def test_a_model_answers_more_like_the_float_one(text_model: nn.Module, text_context: Context) -> None:
    rows = text_context.validation
    inputs = to_tensors(next(rows.batches(len(rows))), text_context.task.input_names)
    outputs = {}
    with torch.no_grad():
        for algorithm in ("rtn", "auto_round"):
            stage = Int4WeightOnly(algorithm=algorithm, group_size=128, embeddings=False, calibration_rows=16)
            made = stage.apply(text_model, text_context)
            outputs[algorithm] = logits(made.model, inputs) - logits(text_model.eval(), inputs)
    assert outputs["auto_round"].square().mean() < outputs["rtn"].square().mean()


class Chain(nn.Module):
    """Blocks that are called by position or by keyword, and return a tensor or a tuple."""

    class Block(nn.Module):
        def __init__(self, in_tuple: bool) -> None:
            super().__init__()
            self.up, self.down, self.in_tuple = nn.Linear(4, 16), nn.Linear(16, 4), in_tuple

        def forward(self, hidden: Tensor, scale: float) -> Tensor | tuple[Tensor, None]:
            found = hidden + scale * self.down(self.up(hidden).tanh())
            return (found, None) if self.in_tuple else found

    def __init__(self, by_name: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([self.Block(by_name) for _ in range(3)])
        self.head, self.by_name = nn.Linear(4, 3), by_name

    def forward(self, features: Tensor) -> Tensor:
        for each in self.blocks:
            found = each(hidden=features, scale=2.0) if self.by_name else each(features, 2.0)
            features = found[0] if isinstance(found, tuple) else found
        return self.head(features.mean(1))


def test_blocks_are_found_however_they_are_called(context: Context) -> None:
    stage = Int4WeightOnly(algorithm="auto_round", group_size=16, skip=("blocks.1.*",), calibration_rows=16)
    made = [stage.apply(Chain(by_name).eval(), context).model for by_name in (False, True)]
    for name, value in made[0].state_dict().items():
        assert torch.equal(value, made[1].state_dict()[name])
    nearest = stage.model_copy(update={"algorithm": "gptq"}).apply(Chain(False).eval(), context).model
    learned = {name for name, value in made[0].state_dict().items() if name.startswith("blocks.0")}
    assert any(not torch.equal(made[0].state_dict()[name], nearest.state_dict()[name]) for name in learned)
    assert torch.equal(made[0].state_dict()["blocks.1.up.weight"], Chain(False).blocks[1].up.weight)
