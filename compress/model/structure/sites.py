"""What can be cut in a model, as data: sites, coupled features, and the structure that holds them.

A **site** has equal, parallel units: heads of an attention block, neurons of a feed-forward. A unit is some
rows of each producer and the matching columns of the consumer; without both, the model computes without the
unit. Features that more than one pair of layers shares are **coupled**: the hidden width between layers, the
filters of convolutions, the hidden units of recurrent layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from compress.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Coupled", "Producer", "Site", "Structure", "Stub", "UnknownStructureError"]


class UnknownStructureError(ModelError):
    """A model doesn't declare what can be cut; not raised for wrong declarations."""

    see = "how-to/own-modules"


@dataclass(frozen=True)
class Stub:
    """Replacement of a module whose site has no unit left: the arguments of `Removed`."""

    path: str
    returns: Literal["input", "bias"]
    as_tuple: bool = False


class Producer(NamedTuple):
    """A projection whose output rows belong to the units of a site.

    Attributes:
        path: of the module.
        parts: rows of one unit in each of the consecutive parts of the output: one part of a head's queries;
            three if queries, keys and values of all units follow one another, as in GPT-2 and Phi-3; one part
            of all three where they are interleaved by head, as in GPT-NeoX.
    """

    path: str
    parts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of one unit."""
        return sum(self.parts)


@dataclass(frozen=True)
class Site:
    """One place where units can be cut.

    Attributes:
        name: path of the block, for people and reports.
        kind: what a unit is: a head, or a feed-forward neuron.
        layer: index of the layer that holds it.
        producers: projections whose output rows belong to the units; queries, keys and values in this order.
        consumer: path of the projection whose input columns belong to the units.
        unit_size: columns of the consumer per unit.
        removal: what replaces the block without units; empty: one unit is always kept.
        tied: a module outside the site that shares its weights, so that the site can't be cut.
        queries: query heads of a unit, all of which read its one key/value head.
        numbers: path of a buffer with the original index of each unit, which selects the block's part of a
            table that layers share; None: not needed.
    """

    name: str
    kind: Literal["attention", "feed_forward"]
    layer: int
    producers: tuple[Producer, ...]
    consumer: str
    unit_size: int
    removal: tuple[Stub, ...] = ()
    tied: str | None = None
    queries: int = 1
    numbers: str | None = None

    def units(self, model: nn.Module) -> int:
        """Current number of units; 0 if the site was removed."""
        try:
            consumer = model.get_submodule(self.consumer)
        except AttributeError:
            return 0
        names = ("in_features", "in_channels", "input_size")  # of a Linear, a convolution, a recurrent layer
        features = next((getattr(consumer, name) for name in names if hasattr(consumer, name)), 0)
        return int(features) // self.unit_size if isinstance(features, int) else 0

    @property
    def unit_name(self) -> str:
        """The word for a unit."""
        if self.kind == "attention":
            return "head" if self.queries == 1 else "key-value group"
        return "neuron"

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all projections: producers, then the consumer."""
        return (*(each.path for each in self.producers), self.consumer)

    def inside(self, prefix: str) -> Site:
        """Return the site with paths relative to a module that contains it, e.g. a layer."""

        def cut(path: str) -> str:
            return path.removeprefix(f"{prefix}.")

        return replace(
            self,
            producers=tuple(each._replace(path=cut(each.path)) for each in self.producers),
            consumer=cut(self.consumer),
            removal=tuple(replace(stub, path=cut(stub.path)) for stub in self.removal),
            numbers=None if self.numbers is None else cut(self.numbers),
        )


@dataclass(frozen=True)
class Coupled:
    """Coupled features: everything that holds one entry (row, column, number) for each of them.

    The hidden width between the layers of a Transformer; the filters of convolutions joined by a skip
    connection; the hidden units of a recurrent layer.

    Attributes:
        name: for people and reports.
        embeddings: nn.Embedding, columns.
        writers: Linear, convolution, LSTM or GRU whose outputs are the features.
        readers: Linear, convolution, LSTM or GRU whose inputs are the features; a Linear may read several
            adjacent values per feature, e.g. after a flattened image.
        norms: LayerNorm, RMSNorm, BatchNorm or depthwise convolution over them. With a convolution of
            several channels in each of its groups, a feature is such a group, and all have several values.
        tables: buffers or parameters that are added to or concatenated with them; last dimension.
    """

    name: str = "hidden"
    embeddings: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Structure:
    """What can be cut; None or empty: the module doesn't declare it.

    Attributes:
        sites: those that have units, in the order of the forward pass.
        removed: sites that were removed.
        layers: path of the nn.ModuleList of layers.
        token_embedding: path of the token embedding.
        hidden: what is coupled by the hidden width.
        channels: filters and hidden units, by group.
        whole_attention: why no head can be cut, as the end of a sentence; empty: heads can be cut.
    """

    sites: tuple[Site, ...]
    removed: tuple[Site, ...] = ()
    layers: str | None = None
    token_embedding: str | None = None
    hidden: Coupled | None = None
    channels: tuple[Coupled, ...] = ()
    whole_attention: str = ""

    def nothing(self, what: str) -> str:
        """Words for a stage that finds none of what it cuts."""
        why = f": {self.whole_attention}" if self.whole_attention else ""
        return f"the model has no {what} to cut{why}"

    @property
    def attention(self) -> tuple[Site, ...]:
        """Sites of heads."""
        return tuple(site for site in self.sites if site.kind == "attention")

    @property
    def feed_forward(self) -> tuple[Site, ...]:
        """Sites of neurons."""
        return tuple(site for site in self.sites if site.kind == "feed_forward")
