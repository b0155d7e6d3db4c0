"""What linear layers are given on calibration rows: second moments and ranges, streamed, padding left out.

Layers that share an input (queries, keys and values) are found by running the model once, and share all that
is taken here. Memory: one batch, and a matrix of inputs by inputs or a histogram for each input.
Shapes: t = tokens, i = input features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compress.errors import StageError
from compress.model.capture import inputs_of_sites
from compress.model.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.quantize.clipping import Histogram
    from compress.stage import Context

__all__ = [
    "Calibration",
    "LEAST_ROWS",
    "SharedInput",
    "calibration_rows",
    "described",
    "gram_at",
    "histograms_of",
    "loudest_of",
    "shared_inputs",
]


Calibration = Literal["train", "unlabelled", "synthetic"]
LEAST_ROWS = 16
_WORDS: dict[Calibration, str] = {
    "train": "training rows",
    "unlabelled": "rows without labels",
    "synthetic": "synthetic rows",
}
_BATCH = 8  # rows; what a batch holds stays far below the model's own size


@dataclass(frozen=True)
class SharedInput:
    """One tensor that one or more linear layers are given, in the order in which the model runs them."""

    layers: tuple[str, ...]

    @property
    def name(self) -> str:
        """For messages."""
        return self.layers[0]

    @property
    def consumer(self) -> str:
        """Where it is captured."""
        return self.layers[0]


def calibration_rows(context: Context, count: int, source: Calibration = "train") -> Split:
    """Draw rows to calibrate on, shortest first; their labels are not for reading.

    Args:
        source: train: training rows. unlabelled: those that the context has besides. synthetic: none at all;
            random tokens, up to the length at which the tokenizer cuts texts.

    Raises:
        StageError: there are too few, no rows without labels, or no tokenizer to make rows up with.
    """
    if source == "synthetic":
        rows = _made_up(context, count)
    elif source == "unlabelled" and context.unlabelled is None:
        raise StageError("calibration: unlabelled: the context has no rows without labels")
    else:
        pool = context.train if source == "train" else context.unlabelled
        assert pool is not None
        rows = pool.take(count, seed=context.seed)
    if len(rows) < LEAST_ROWS:
        raise StageError(
            f"{len(rows)} {_WORDS[source]} are too few to calibrate on; at least {LEAST_ROWS} are needed"
        )
    return rows.by_length()


def _made_up(context: Context, count: int) -> Split:
    from compress.data.synthetic import random_lengths, synthetic_split

    encoder = context.encoder
    if encoder is None:
        raise StageError(
            "calibration: synthetic: rows can be made up for texts only, from the tokenizer; this model "
            "reads something else: calibrate on train"
        )
    longest = encoder.truncated_at
    if longest is None:
        raise StageError(
            "calibration: synthetic: the tokenizer has not been told where texts are cut: "
            "encoder.tokenizer.enable_truncation(...)"
        )
    lengths = random_lengths(count, longest, seed=context.seed)
    return synthetic_split(encoder, lengths, seed=context.seed)


def described(source: Calibration) -> str:
    """Say in a report what was calibrated on."""
    if source == "synthetic":
        return "synthetic rows (random tokens): no data was looked at"
    return f"{_WORDS[source]}, no label looked at" if source == "train" else _WORDS[source]


def shared_inputs(model: nn.Module, names: Sequence[str], rows: Split, context: Context) -> list[SharedInput]:
    """Group linear layers by the tensor that they are given.

    Raises:
        StageError: the forward pass does not call one of them.
    """
    import torch

    from compress.model.calls import logits, to_tensors

    order: list[tuple[object, str]] = []  # the tensors are held, so that no address is used twice
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: order.append((given[0], name))
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            tensors = to_tensors(next(rows.batches(2)), context.task.input_names, context.device)
            logits(model.to(context.device).eval(), tensors)
    finally:
        for handle in handles:
            handle.remove()
        model.to("cpu")
    missing = set(names) - {name for _, name in order}
    if missing:
        raise StageError(f"calibration: the forward pass does not call {', '.join(sorted(missing))}")
    groups: dict[int, list[str]] = {}
    seen: set[str] = set()
    for given, name in order:
        if name not in seen:  # a layer that is called again is met at its first call
            groups.setdefault(id(given), []).append(name)
            seen.add(name)
    return [SharedInput(tuple(layers)) for layers in groups.values()]


def gram_at(model: nn.Module, place: SharedInput, rows: Split, context: Context) -> Gram:
    """Second moments of one input; the pass goes no further than there.

    Raises:
        StageError: something there is not a number; the message names the layer.
    """
    import torch

    gram: Gram | None = None
    for (tokens,) in inputs_of_sites(
        model, [place], rows, context.task, batch_size=_BATCH, device=context.device
    ):
        if gram is None:
            size = tokens.shape[1] + 1
            gram = Gram(torch.zeros(size, size))
        gram.add_(tokens.cpu())
    assert gram is not None
    return gram


def histograms_of(
    model: nn.Module, places: Sequence[SharedInput], rows: Split, context: Context
) -> list[Histogram]:
    """Values of all inputs, from one pass.

    Raises:
        StageError: something is not a number; the message names the layer.
    """
    from compress.quantize.clipping import Histogram

    found = [Histogram() for _ in places]
    with context.progress.bar("calibrating ranges", len(rows)) as bar:
        for captured in inputs_of_sites(
            model, places, rows, context.task, batch_size=_BATCH, device=context.device
        ):
            for histogram, tokens in zip(found, captured, strict=True):
                histogram.add_(tokens.cpu())
            bar.advance(_BATCH)
    return found


def loudest_of(
    model: nn.Module, places: Sequence[SharedInput], rows: Split, context: Context
) -> list[Tensor]:
    """Largest |value| of each feature of some inputs, [i] each, from one pass.

    Raises:
        StageError: something is not a number; the message names the layer.
    """
    import torch

    found: list[Tensor] = []
    for captured in inputs_of_sites(
        model, places, rows, context.task, batch_size=_BATCH, device=context.device
    ):
        loudest = [tokens.abs().amax(0).cpu() for tokens in captured]
        found = [torch.maximum(*each) for each in zip(found, loudest, strict=True)] if found else loudest
    return found
