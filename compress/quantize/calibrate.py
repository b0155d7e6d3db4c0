"""Statistics of linear layers' inputs on calibration rows: second moments and ranges, without padding.

Layers that share an input (queries, keys and values) are found by running the model once, and share its
statistics. Memory: one batch, and per input a matrix of inputs by inputs or a histogram.
Shapes: t = tokens, i = input features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compress.errors import StageError
from compress.model.observe.capture import placed_batches, visit_inputs
from compress.model.observe.gram import Gram
from compress.model.observe.relay import Relay
from compress.system.disk import scratch_directory

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.quantize.integers.clipping import Histogram
    from compress.stage import Context

__all__ = [
    "Calibration",
    "LEAST_ROWS",
    "SharedInput",
    "batches_of",
    "calibration_rows",
    "described",
    "gram_at",
    "histograms_of",
    "loudest_of",
    "relayed",
    "shared_inputs",
    "sums_over_tokens",
]


Calibration = Literal["train", "unlabelled", "synthetic"]
LEAST_ROWS = 16
_WORDS: dict[Calibration, str] = {
    "train": "training rows",
    "unlabelled": "rows without labels",
    "synthetic": "synthetic rows",
}
# tokens per batch: a pass then needs far less memory than the model itself
_TOKENS = 1024
_BATCH = 8  # rows, where all have the same shape
_COUNTED = 65_536  # values that a histogram counts at once, using ten times their memory


@dataclass(frozen=True)
class SharedInput:
    """One tensor that is the input of one or more linear layers, in the order in which the model runs them.

    Attributes:
        again: the forward pass calls them more than once (layers with shared weights).
    """

    layers: tuple[str, ...]
    again: bool = False

    @property
    def name(self) -> str:
        """The first layer's name, for messages."""
        return self.layers[0]

    @property
    def consumer(self) -> str:
        """Path of the module where the input is captured."""
        return self.layers[0]


def calibration_rows(context: Context, count: int, source: Calibration = "train") -> Split:
    """Draw calibration rows, shortest first; their labels must not be used.

    Args:
        source: train: training rows. unlabelled: the context's unlabelled rows. synthetic: no data; random
            tokens, up to the length at which the tokenizer truncates.

    Raises:
        StageError: there are too few rows, no unlabelled rows, or no tokenizer to make synthetic ones with.
    """
    if source == "synthetic":
        rows = _made_up(context, count)
    elif source == "unlabelled" and context.unlabelled is None:
        raise StageError("calibration: unlabelled: the context has no unlabelled rows")
    else:
        pool = context.train if source == "train" else context.unlabelled
        assert pool is not None
        rows = pool.take(count, seed=context.seed)
    if len(rows) < LEAST_ROWS:
        raise StageError(
            f"{len(rows)} {_WORDS[source]} are too few for calibration; give at least {LEAST_ROWS}"
        )
    return rows.by_length()


def _made_up(context: Context, count: int) -> Split:
    encoder = context.encoder
    if encoder is None:
        raise StageError(
            "calibration: synthetic: synthetic rows need a tokenizer, and this model does not read text; "
            "use calibration: train"
        )
    longest = encoder.truncated_at
    if longest is None:
        raise StageError(
            "calibration: synthetic: the tokenizer has no truncation length; call "
            "encoder.tokenizer.enable_truncation(...)"
        )
    return encoder.synthetic(count, longest, seed=context.seed)


def described(source: Calibration) -> str:
    """Describe the calibration rows for the report."""
    if source == "synthetic":
        return "synthetic rows (random tokens), no data used"
    return f"{_WORDS[source]}, no labels used" if source == "train" else _WORDS[source]


def shared_inputs(model: nn.Module, names: Sequence[str], rows: Split, context: Context) -> list[SharedInput]:
    """Group linear layers by their input tensor.

    Raises:
        StageError: the forward pass does not call one of them.
    """
    import torch

    from compress.model.forward import logits, to_tensors

    order: list[tuple[object, str]] = []  # holds the tensors, so that no id is reused
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
    calls = Counter(name for _, name in order)
    groups: dict[tuple[int, int], list[str]] = {}
    seen: set[str] = set()
    for given, name in order:
        if name not in seen:  # a layer that is called again counts at its first call
            groups.setdefault((id(given), calls[name]), []).append(name)
            seen.add(name)
    return [SharedInput(tuple(layers), again=count > 1) for (_, count), layers in groups.items()]


def gram_at(
    model: nn.Module, place: SharedInput, rows: Split, context: Context, relay: Relay | None = None
) -> Gram:
    """Second moments of one input over all calls; if called once, the pass stops at the layer.

    Args:
        relay: for the same model and rows, if inputs are requested in order; None: start from the beginning.

    Raises:
        StageError: a value is not finite; the message names the layer.
    """
    import torch

    gram: Gram | None = None

    def add(_: int, tokens: Tensor) -> None:
        nonlocal gram
        if gram is None:
            size = tokens.shape[1] + 1
            gram = Gram(torch.zeros(size, size))
        gram.add_(tokens.cpu())

    if relay is None or place.again:
        _visit_all(model, [place], rows, context, add)
    else:
        for tokens in relay.inputs_at(place):
            add(0, tokens)
    assert gram is not None
    return gram


@contextmanager
def relayed(
    model: nn.Module, places: Sequence[SharedInput], rows: Split, context: Context
) -> Iterator[Relay]:
    """Open passes over calibration rows that resume from the last settled block; see `Relay`."""
    with scratch_directory("calibration") as folder:
        yield Relay(model, places, lambda: batches_of(model, rows, context), folder)


def batches_of(model: nn.Module, rows: Split, context: Context) -> Iterator[dict[str, Tensor]]:
    """Yield batches in order, of few tokens each; the model is in eval mode on the device meanwhile."""
    # Rows of a fixed shape have no token counts.
    fixed = isinstance(rows.inputs[0].shape[0], int)
    batches = rows.batches(_BATCH) if fixed else rows.token_batches(_TOKENS)
    yield from placed_batches(model, batches, context.task, context.device)


def _visit_all(
    model: nn.Module,
    places: Sequence[SharedInput],
    rows: Split,
    context: Context,
    visit: Callable[[int, Tensor], None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Pass over all rows, calling `visit` with each place's inputs; nothing is stored."""
    again = any(place.again for place in places)
    for batch in batches_of(model, rows, context):
        visit_inputs(model, places, batch, visit, again=again)
        advance(len(next(iter(batch.values()))))


def histograms_of(
    model: nn.Module, places: Sequence[SharedInput], rows: Split, context: Context
) -> list[Histogram]:
    """Histograms of all inputs, from one pass.

    Raises:
        StageError: a value is not finite; the message names the layer.
    """
    from compress.quantize.integers.clipping import Histogram

    found = [Histogram() for _ in places]

    def count(at: int, tokens: Tensor) -> None:
        size = max(_COUNTED // tokens.shape[1], 1)
        for start in range(0, len(tokens), size):
            found[at].add_(tokens[start : start + size].cpu())

    with context.progress.bar("calibrating ranges", len(rows)) as bar:
        _visit_all(model, places, rows, context, count, bar.advance)
    return found


def sums_over_tokens(
    model: nn.Module,
    places: Sequence[SharedInput],
    rows: Split,
    context: Context,
    summed: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Sum what a function makes of tokens [t, i], at each place, from one pass.

    Raises:
        StageError: a value is not finite; the message names the layer.
    """
    found: dict[int, Tensor] = {}

    def see(at: int, tokens: Tensor) -> None:
        one = summed(tokens.cpu())
        found[at] = found[at] + one if at in found else one

    _visit_all(model, places, rows, context, see)
    return [found[at] for at in range(len(places))]


def loudest_of(
    model: nn.Module, places: Sequence[SharedInput], rows: Split, context: Context
) -> list[Tensor]:
    """Largest |value| of each feature of the inputs, [i] each, from one pass.

    Raises:
        StageError: a value is not finite; the message names the layer.
    """
    import torch

    found: dict[int, Tensor] = {}

    def see(at: int, tokens: Tensor) -> None:
        loudest = tokens.abs().amax(0).cpu()
        found[at] = torch.maximum(found[at], loudest) if at in found else loudest

    _visit_all(model, places, rows, context, see)
    return [found[at] for at in range(len(places))]
