"""Compare ways to choose the integers of weights: rounding, torchao, clipping, HQQ, GPTQ.

    python tests/benchmarks/integers.py MODEL_DIR [--texts FILE.csv] [--rows 256] [--layers 6]

MODEL_DIR is a Hugging Face classifier. Every linear weight is quantized in each way, and two relative errors
are printed, each a mean over the layers: of the weight, |W' - W| / |W|, and of the outputs,
|X W' - X W| / |X W|. The inputs X are those that the model itself sees: --texts names a CSV file with a
column `text`, of which the first --rows are for calibration and the next 64 for the error. Without it X is
Gaussian with correlated features (see `gaussian`). One thread; nothing else should run when seconds matter.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.quantize.integers.clipping import mse_clip
from compress.quantize.integers.gptq import gptq
from compress.quantize.integers.grid import Grid, Steps, dequantize, fit_steps, round_to
from compress.quantize.integers.hqq import hqq
from compress.quantize.integers.torchao_weights import int4_by_group, int8_by_row

_MEASURED_ROWS = 64
_MEASURED_TOKENS = 1024
_MOST_TOKENS = 128  # of one text
_GRIDS = {
    "int8, rows": Grid(8, None),
    "int4, 32, symmetric": Grid(4, 32),
    "int4, 32, zero points": Grid(4, 32, symmetric=False),
    "int4, 128, symmetric": Grid(4, 128),
    "int4, 128, zero points": Grid(4, 128, symmetric=False),
}


@dataclass
class Layer:
    """A weight, the second moments of its inputs, and inputs to measure with, [t, i]."""

    weight: Tensor
    moments: Tensor
    inputs: Tensor


Way = Callable[[Layer, Grid], Tensor]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--layers", type=int, help="only the first so many linear layers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = captured(given.model, given.texts, given.rows) if given.texts else gaussian(given.model)
    layers = list(found.values())[: given.layers]
    print(f"{len(layers)} layers, {sum(layer.weight.numel() for layer in layers) / 1e6:.1f} M weights\n")
    print("| grid | way | weight error | output error | seconds |\n| --- | --- | ---: | ---: | ---: |")
    for grid_name, grid in _GRIDS.items():
        for name, way in ways(grid).items():
            print(f"| {grid_name} | {name} | {row(way, grid, layers)} |", flush=True)


def row(way: Way, grid: Grid, layers: list[Layer]) -> str:
    """Errors and seconds of one way."""
    weight_errors, output_errors, seconds = [], [], 0.0
    for layer in layers:
        began = time.perf_counter()
        near = way(layer, grid)
        seconds += time.perf_counter() - began
        error = near - layer.weight
        weight_errors.append(float(error.norm() / layer.weight.norm()))
        output_errors.append(float((layer.inputs @ error.T).norm() / (layer.inputs @ layer.weight.T).norm()))
    means = [sum(errors) / len(errors) for errors in (weight_errors, output_errors)]
    return f"{means[0]:.4f} | {means[1]:.4f} | {seconds:.1f}"


def ways(grid: Grid) -> dict[str, Way]:
    """What can choose integers of this grid; each gives the weights that they stand for."""

    def nearest(steps: Callable[[Layer], Steps]) -> Way:
        def way(layer: Layer, grid: Grid) -> Tensor:
            chosen = steps(layer)
            return dequantize(round_to(layer.weight, chosen, grid), chosen, grid)

        return way

    def compensated(steps: Callable[[Layer], Steps], activation_order: bool = True) -> Way:
        def way(layer: Layer, grid: Grid) -> Tensor:
            chosen = steps(layer)
            found = gptq(layer.weight, layer.moments, chosen, grid, activation_order=activation_order)
            return dequantize(found, chosen, grid)

        return way

    def plain(layer: Layer) -> Steps:
        return fit_steps(layer.weight, grid)

    def clipped(layer: Layer) -> Steps:
        return mse_clip(layer.weight, grid, None)

    def aware(layer: Layer) -> Steps:
        return mse_clip(layer.weight, grid, layer.moments.diagonal())

    def half_quadratic(layer: Layer) -> Steps:
        return hqq(layer.weight, grid)[1]

    ours = {
        "round to nearest": nearest(plain),
        "MSE clip": nearest(clipped),
        "MSE clip by importance": nearest(aware),
        "HQQ": nearest(half_quadratic),
        "GPTQ": compensated(plain),
        "GPTQ, inputs in their own order": compensated(plain, activation_order=False),
        "GPTQ, MSE clip by importance": compensated(aware),
        "GPTQ, HQQ": compensated(half_quadratic),
    }
    if not grid.symmetric:
        ours["HQQ, scales left"] = nearest(lambda layer: hqq(layer.weight, grid, refit_scale=False)[1])
    return {**torchao(grid), **ours}


def torchao(grid: Grid) -> dict[str, Way]:
    """What this torchao can do on a CPU for a grid."""

    def by_row(layer: Layer, grid: Grid) -> Tensor:
        values, scale = int8_by_row(layer.weight)
        return values * scale[:, None]

    def by_group(layer: Layer, grid: Grid) -> Tensor:
        assert grid.group_size is not None
        values, scale = int4_by_group(layer.weight, grid.group_size)
        return (values * scale.repeat_interleave(grid.group_size, 1))[:, : layer.weight.shape[1]]

    def scale_only(layer: Layer, grid: Grid) -> Tensor:
        from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_scale_only_hqq

        values, scale = _choose_qparams_and_quantize_scale_only_hqq(
            layer.weight, [1, grid.group_size or layer.weight.shape[1]], grid.low, grid.high
        )
        return values * scale.repeat_interleave(grid.group_size or layer.weight.shape[1], 1)

    def float_zero_points(layer: Layer, grid: Grid) -> Tensor:
        from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_affine_hqq

        assert grid.group_size is not None
        values, scale, zero_point, _ = _choose_qparams_and_quantize_affine_hqq(
            layer.weight,
            nbits=grid.bits,
            group_size=grid.group_size,
            compute_dtype=torch.float32,
            device="cpu",
            raw_output=True,
        )
        wide = [each.repeat_interleave(grid.group_size, 1) for each in (scale, zero_point)]
        return (values - wide[1]) * wide[0]

    if not grid.symmetric:
        return {"torchao HQQ, zero points not whole": float_zero_points}
    return {"torchao": by_group if grid.group_size else by_row, "torchao HQQ, scale only": scale_only}


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and layer.weight.shape[1] % 128 == 0:  # as torchao's HQQ needs it
            yield name, layer


def load(directory: Path) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(directory)
    return model.eval()


def captured(directory: Path, texts: Path, rows: int) -> dict[str, Layer]:
    """Run texts one at a time, so that nothing is padding, and keep what each layer reads."""
    from transformers import AutoTokenizer

    model, tokenizer = load(directory), AutoTokenizer.from_pretrained(directory)
    with texts.open(encoding="utf-8", newline="") as file:
        lines = [line["text"] for line in csv.DictReader(file)][: rows + _MEASURED_ROWS]
    moments: dict[str, Tensor] = {}
    measured: dict[str, list[Tensor]] = {}
    tokens: dict[str, int] = {}
    calibrating = True

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2)  # [t, i]
            if calibrating:
                moments[name] = moments.get(name, torch.zeros(())) + x.T @ x
                tokens[name] = tokens.get(name, 0) + len(x)
            else:
                measured.setdefault(name, []).append(x)

        return hook

    for name, layer in linears(model):
        layer.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for number, line in enumerate(lines):
            calibrating = number < len(lines) - _MEASURED_ROWS
            model(**tokenizer(line, return_tensors="pt", truncation=True, max_length=_MOST_TOKENS))
    return {
        name: Layer(
            layer.weight.detach(),
            moments[name] / tokens[name],
            torch.cat(measured[name])[:_MEASURED_TOKENS],
        )
        for name, layer in linears(model)
    }


def gaussian(directory: Path) -> dict[str, Layer]:
    """Features of a few strong common causes each, and a little of their own."""
    draw = torch.Generator().manual_seed(0)
    made = {}
    for name, layer in linears(load(directory)):
        features = layer.weight.shape[1]
        causes = torch.randn(features // 8, features, generator=draw)

        def inputs(tokens: int, causes: Tensor = causes) -> Tensor:
            common = torch.randn(tokens, len(causes), generator=draw) @ causes / len(causes) ** 0.5
            return common + 0.3 * torch.randn(common.shape, generator=draw)

        seen = inputs(4096)
        made[name] = Layer(layer.weight.detach(), seen.T @ seen / len(seen), inputs(_MEASURED_TOKENS))
    return made


if __name__ == "__main__":
    main()
