"""Choose the integers of a model's layers, one by one: by rounding, clipping, HQQ or GPTQ.

Algorithms that use data see each layer's inputs as computed by the already quantized layers before it, as in
deployment; activations stay float in that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compress.errors import StageError
from compress.quantize.integers.grid import Grid, Steps, dequantize, fit_steps, round_to

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.observe.gram import Gram
    from compress.quantize.calibrate import SharedInput
    from compress.stage import Context

__all__ = ["Algorithm", "Integers", "choose_integers_", "integers_of", "integers_of_table", "settle_"]

_TABLE_ROWS = 2048

Algorithm = Literal["rtn", "mse", "hqq", "gptq", "auto_round"]


@dataclass(frozen=True)
class Integers:
    """The result for one weight.

    Attributes:
        values: int8, or uint8 with zero points, [o, i].
        bias: [o], corrected for the mean effect of rounding; None: unchanged.
    """

    grid: Grid
    values: Tensor
    steps: Steps
    bias: Tensor | None = None


def integers_of(
    weight: Tensor, grid: Grid, algorithm: Algorithm, gram: Gram | None = None
) -> tuple[Tensor, Steps]:
    """Choose the integers of one weight.

    Args:
        weight: [o, i].
        algorithm: rtn: round to nearest. mse: the range of least error, weighted by the importance of inputs
            if there is a gram. hqq: half-quadratic, without data. gptq: weights rounded later compensate for
            those rounded before; needs a gram. auto_round: as gptq, for layers outside all blocks.
        gram: of the layer's inputs.
    """
    if algorithm == "rtn":
        if grid.symmetric and (grid.bits, grid.group_size is None) in ((8, True), (4, False)):
            return _by_torchao(weight, grid)
        steps = fit_steps(weight, grid)
    elif algorithm == "hqq":
        from compress.quantize.integers.hqq import hqq

        return hqq(weight, grid)
    else:
        from compress.quantize.integers.clipping import mse_clip

        moments = None if gram is None else gram.matrix[:-1, :-1] / gram.tokens
        steps = mse_clip(weight, grid, None if moments is None else moments.diagonal())
        if algorithm != "mse":
            from compress.quantize.integers.gptq import gptq

            assert moments is not None
            return gptq(weight, moments, steps, grid), steps
    return round_to(weight, steps, grid), steps


def integers_of_table(weight: Tensor, grid: Grid, algorithm: Literal["rtn", "mse"]) -> tuple[Tensor, Steps]:
    """Choose the integers of an embedding table in chunks of rows, since it can be half of a small model.

    Args:
        weight: [v, d].
        algorithm: one that treats rows independently.
    """
    import torch

    values, scales, zero_points = [], [], []
    for start in range(0, len(weight), _TABLE_ROWS):
        chosen, steps = integers_of(weight[start : start + _TABLE_ROWS], grid, algorithm)
        values.append(chosen)
        scales.append(steps.scale)
        zero_points += [] if steps.zero_point is None else [steps.zero_point]
    return torch.cat(values), Steps(torch.cat(scales), torch.cat(zero_points) if zero_points else None)


def _by_torchao(weight: Tensor, grid: Grid) -> tuple[Tensor, Steps]:
    from compress.quantize.integers.grid import check_finite
    from compress.quantize.integers.torchao_weights import int4_by_group, int8_by_row

    check_finite(weight, "weights")
    if grid.group_size is None:
        values, scale = int8_by_row(weight, grid.reduce_range)
        return values, Steps(scale[:, None], None)
    values, scale = int4_by_group(weight, grid.group_size)
    return values[:, : weight.shape[1]], Steps(scale, None)


def choose_integers_(
    model: nn.Module,
    places: Sequence[SharedInput],
    grid_of: Callable[[str], Grid],
    algorithm: Algorithm,
    rows: Split | None,
    context: Context,
    *,
    bias_correction: bool = False,
) -> dict[str, Integers]:
    """Choose the integers of linear layers in the order in which the model runs them.

    Args:
        model: each weight is replaced by its dequantized integers.
        places: the layers, grouped by input.
        grid_of: returns a layer's grid, given its name.
        rows: calibration rows, if the algorithm uses data.
        bias_correction: correct the bias for the mean effect of rounding; needs rows.

    Returns:
        By layer name.

    Raises:
        StageError: weights or inputs are not finite; the message names the layer.
    """
    from compress.quantize.calibrate import gram_at, relayed
    from compress.quantize.integers.learned import Learned

    looks = algorithm in ("mse", "gptq", "auto_round") or bias_correction
    chosen: dict[str, Integers] = {}
    with ExitStack() as open_things:
        bar = open_things.enter_context(context.progress.bar("choosing integers", len(places)))
        relay = None
        if rows is not None and looks:
            relay = open_things.enter_context(relayed(model, places, rows, context))
        learned = None
        if algorithm == "auto_round":
            assert relay is not None
            learned = Learned(model, places, grid_of, relay, context)
        for place in places:
            done = {} if learned is None else learned.integers_of(place)
            gram = None
            if rows is not None and relay is not None and (bias_correction or not done):
                gram = gram_at(model, place, rows, context, relay)
            for name in place.layers:
                layer: nn.Linear = model.get_submodule(name)  # type: ignore[assignment]
                chosen[name] = settle_(
                    layer,
                    name,
                    grid_of(name),
                    algorithm,
                    [gram],
                    bias_correction=bias_correction,
                    done=done.get(name),
                )
            bar.advance(1)
    return chosen


def settle_(
    layer: nn.Linear | nn.Conv1d | nn.Conv2d,
    name: str,
    grid: Grid,
    algorithm: Algorithm,
    grams: Sequence[Gram | None],
    *,
    bias_correction: bool,
    done: tuple[Tensor, Steps] | None = None,
) -> Integers:
    """Choose the integers of one layer, and replace its weight by the dequantized one.

    Args:
        grams: of the layer's inputs; for a convolution one per channel group, each with equally many outputs.
        done: the integers, if they are chosen already.

    Raises:
        StageError: weights or inputs are not finite; the message names the layer.
    """
    import torch

    from compress.quantize.integers.bias import corrected_bias

    weight = layer.weight.detach().flatten(1)  # [o, i]
    parts = weight.chunk(len(grams))
    try:
        found = (
            [done]
            if done
            else [integers_of(part, grid, algorithm, gram) for part, gram in zip(parts, grams, strict=True)]
        )
    except StageError as error:
        raise StageError(f"{name}: {error}") from error
    values, scale = (torch.cat(each) for each in zip(*((v, s.scale) for v, s in found), strict=True))
    zeros = [steps.zero_point for _, steps in found if steps.zero_point is not None]
    steps = Steps(scale, torch.cat(zeros) if zeros else None)
    near, bias = dequantize(values, steps, grid), None
    if bias_correction and layer.bias is not None:
        means = [gram.matrix[-1, :-1] / gram.tokens for gram in grams if gram is not None]
        pieces = zip(parts, near.chunk(len(parts)), layer.bias.detach().chunk(len(parts)), means, strict=True)
        bias = torch.cat([corrected_bias(*each) for each in pieces])
    # New parameters: another layer that shares the weight is still to be rounded, from the original.
    layer.weight = torch.nn.Parameter(near.reshape(layer.weight.shape), requires_grad=False)
    if bias is not None and layer.bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return Integers(grid, values, steps, bias)
