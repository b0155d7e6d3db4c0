"""Sensitivity of the model's logits to each token and each output of a consumer.

To second order a change e of a consumer's output costs e' (J' J) e of squared logits, with J the derivative
of the logits. Its diagonal is estimated as the mean over rows of g^2, g = J' v for a random v over classes
(Hutchinson), and factored into one value per token and one per output, as in Kronecker-factored curvature
(Martens and Grosse 2015, arXiv 1503.05671). No labels are needed. This makes errors of different sites
comparable, gives little weight to tokens that a classifier never looks at, and keeps an outlier feature of
large variance, which the next LayerNorm divides out, from dominating the others.
Shapes: t = tokens of a batch without padding, i = inputs and o = outputs of a consumer, b = rows,
c = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compress.model.observe.capture import without_padding

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.structure.sites import Site
    from compress.tasks import Task

__all__ = ["felt_inputs", "token_weights"]

_MASK = "attention_mask"
_FLOOR = 0.05  # of the mean: a token without influence now may matter once other sites are cut


def felt_inputs(
    model: nn.Module,
    sites: Sequence[Site],
    split: Split,
    task: Task,
    *,
    seed: int,
    batch_size: int,
    device: str = "cpu",
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield, per batch and site, the consumer's inputs [t, i] and squared derivatives [t, o].

    On the CPU, without padding. The graph of one batch is held, from the first consumer on and without what
    weight gradients would need, so a small batch keeps memory low.

    Raises:
        StageError: one of them is not finite; the message names the site.
    """
    import torch

    from compress.model.evaluating import evaluating
    from compress.model.forward import logits, to_tensors

    draw = torch.Generator().manual_seed(seed)
    inputs: list[Any] = [None] * len(sites)
    outputs: list[Any] = [None] * len(sites)
    with evaluating(model, device), _watched(model, sites, inputs, outputs):
        for batch in split.batches(batch_size):
            tensors = to_tensors(batch, task.input_names, device)
            slopes = _slopes(logits(model, tensors), outputs, draw)  # frees the graph
            mask = tensors.get(_MASK)
            # Inputs first: a non-finite input makes all derivatives non-finite, also those of earlier sites.
            given = [without_padding(x, mask, site).cpu() for site, x in zip(sites, inputs, strict=True)]
            felt = [
                without_padding(slope, mask, site).square().cpu()
                for site, slope in zip(sites, slopes, strict=True)
            ]
            inputs[:], slopes = [None] * len(sites), ()
            yield list(zip(given, felt, strict=True))
            del given, felt


@contextmanager
def _watched(
    model: nn.Module, sites: Sequence[Site], inputs: list[Any], outputs: list[Any]
) -> Iterator[None]:
    """Fill the lists with the consumers' inputs and outputs of each pass; no weight needs a gradient."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    handles = [
        model.get_submodule(site.consumer).register_forward_hook(_keep(inputs, outputs, index))
        for index, site in enumerate(sites)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in learning:
            parameter.requires_grad_(True)


def _slopes(answers: Tensor, outputs: list[Any], draw: torch.Generator) -> tuple[Tensor, ...]:
    """Derivatives of a random sum of the logits [b, c] with respect to each output; clears `outputs`."""
    import torch

    direction = torch.randn(answers.shape, generator=draw).to(answers.device)
    direction = direction - direction.mean(-1, keepdim=True)  # a constant added to all logits has no effect
    slopes = torch.autograd.grad((answers * direction).sum(), outputs)
    outputs[:] = [None] * len(outputs)
    return slopes


def token_weights(squared: Tensor) -> Tensor:
    """Weight of each token, [t], 1 on average: squared derivatives [t, o] summed over outputs."""
    weights = squared.sum(1)
    relative = weights / weights.mean().clamp(min=1e-30)
    return (relative + _FLOOR) / (1 + _FLOOR)


def _keep(inputs: list[Any], outputs: list[Any], index: int) -> Callable[..., None]:
    def hook(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if not output.requires_grad:  # the first consumers, with nothing differentiable before them
            output.requires_grad_()
        inputs[index], outputs[index] = given[0].detach(), output

    return hook
