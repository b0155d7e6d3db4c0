"""Saturation of int8 products on processors that add pairs of them in 16 bits.

x86 without VNNI (AVX2, and AVX512 before VNNI) multiplies uint8 activations with int8 weights by VPMADDUBSW:
the products of inputs 2j and 2j + 1 are added in int16 with saturation (Intel's Software Developer's Manual,
PMADDUBSW). ONNX Runtime's kernels there use it. Whether a pair of weights can ever saturate is known from the
weights; how often it does, from rows.
Shapes: t = tokens, i = input features, o = output features, p = ceil(i / 2) pairs of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data.split import Split
from compress.facts import Saturation
from compress.model.forward import predict_logits
from compress.model.layers.convolution import Int8StaticConv
from compress.model.layers.int8 import Int8Linear
from compress.model.layers.recurrent import Int8LSTM
from compress.tasks import Task

__all__ = ["AtRisk", "pairs_at_risk", "saturation_risk"]

_LARGEST_ACTIVATION = 255
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
_CHUNK = 1 << 22  # sums of pairs at a time, 4 bytes each


def _paired(values: Tensor) -> Tensor:
    """[i, o] to int32 [p, 2, o]; an odd last input is paired with zeros, as in the kernel."""
    even = F.pad(values.to(torch.int32), (0, 0, 0, values.shape[0] % 2))
    return even.reshape(-1, 2, values.shape[1])


def pairs_at_risk(qdata: Tensor) -> Tensor:
    """Mark the pairs of weights whose products exceed int16 for some uint8 activations.

    Args:
        qdata: int8 [i, o].

    Returns:
        Boolean [p, o].
    """
    pairs = _paired(qdata)
    most = pairs.clamp(min=0).sum(1) * _LARGEST_ACTIVATION  # [p, o]
    least = pairs.clamp(max=0).sum(1) * _LARGEST_ACTIVATION
    return (most > _HIGHEST) | (least < _LOWEST)


@dataclass(frozen=True)
class AtRisk:
    """The pairs of one weight that can saturate: their positions and their weights [n, 2]."""

    pair: Tensor
    output: Tensor
    weights: Tensor
    outputs: int

    @classmethod
    def of(cls, qdata: Tensor) -> Self:
        """Find them in a weight, int8 [i, o]."""
        pair, output = pairs_at_risk(qdata).nonzero(as_tuple=True)
        return cls(pair, output, _paired(qdata).transpose(1, 2)[pair, output], qdata.shape[1])

    def lost(self, activations: Tensor) -> Tensor:
        """The exact sums minus those of a processor without VNNI: int32 [t, o].

        Args:
            activations: whole numbers in [0, 255], [t, i].
        """
        lost = torch.zeros(len(activations), self.outputs, dtype=torch.int32)
        inputs = _paired(activations.t())  # [p, 2, t]
        step = max(1, _CHUNK // max(len(activations), 1))
        for begin in range(0, len(self.pair), step):
            some = slice(begin, begin + step)
            sums = (inputs[self.pair[some]] * self.weights[some].unsqueeze(-1)).sum(1, dtype=torch.int32)
            lost.index_add_(1, self.output[some], (sums - sums.clamp(_LOWEST, _HIGHEST)).t())
        return lost


def saturation_risk(module: nn.Module, rows: Split, task: Task) -> Saturation | None:
    """Count the weights that can saturate, and the sums that do on rows.

    Args:
        module: left unchanged.
        rows: evaluated one at a time, without and with saturation.
        task: names the inputs and interprets the outputs.

    Returns:
        None if there is no int8 linear layer, convolution or LSTM.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Int8Linear)]
    convolutions = [layer for layer in module.modules() if isinstance(layer, Int8StaticConv)]
    lstms = [layer for layer in module.modules() if isinstance(layer, Int8LSTM)]
    if not layers and not convolutions and not lstms:
        return None
    risks = [pairs_at_risk(layer.qdata) for layer in layers]
    counts = {
        "layers": len(layers),
        "pairs": sum(risk.numel() for risk in risks),
        "pairs_at_risk": sum(int(risk.sum()) for risk in risks),
        "outputs": sum(risk.shape[1] for risk in risks),
        "outputs_at_risk": sum(int(risk.any(0).sum()) for risk in risks),
        "convolutions": len(convolutions),
        "convolutions_at_risk": sum(_two_at_risk(layer.qdata) for layer in convolutions),
        "lstms": len(lstms),
        "lstms_at_risk": sum(
            any(bool(pairs_at_risk(qdata).any()) for _, qdata, _ in layer.weights()) for layer in lstms
        ),
    }
    if counts["pairs_at_risk"] == 0:
        return Saturation(**counts)
    exact = task.named(predict_logits(module, rows, task, batch_size=1))
    with _without_vnni(layers) as tally:
        found = task.named(predict_logits(module, rows, task, batch_size=1))
    return Saturation(
        **counts,
        rows=len(rows),
        sums=tally.sums,
        sums_cut=tally.cut,
        answers_changed=int((~task.same(exact.numpy(), found.numpy())).sum()),
    )


def _two_at_risk(qdata: Tensor) -> bool:
    """Whether any two weights of one output of a convolution, [o, ...], could saturate if paired."""
    weights = qdata.flatten(1).t()  # [c k, o]
    count = min(2, len(weights))
    extremes = (weights.topk(count, dim=0, largest=largest).values for largest in (True, False))
    return any(bool(pairs_at_risk(each).any()) for each in extremes)


@dataclass
class _Tally:
    sums: int = 0
    cut: int = 0


@contextmanager
def _without_vnni(layers: list[Int8Linear]) -> Iterator[_Tally]:
    """Subtract what saturation would lose from the layers' outputs, and count it."""
    tally = _Tally()
    risks = {layer: AtRisk.of(layer.qdata) for layer in layers}

    def cut(layer: nn.Module, given: tuple[Tensor, ...], answered: Tensor) -> Tensor:
        assert isinstance(layer, Int8Linear)
        activations, step, _ = layer.activations(given[0])
        lost = risks[layer].lost(activations.flatten(0, -2))  # [t, o]
        tally.sums += lost.numel()
        tally.cut += int((lost != 0).sum())
        return answered - lost.float().reshape(answered.shape) * layer.scale * step

    handles = [layer.register_forward_hook(cut) for layer in layers]
    try:
        yield tally
    finally:
        for handle in handles:
            handle.remove()
