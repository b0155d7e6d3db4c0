"""What can be cut in a model, as data: sites, coupled features, and the structure that holds them.

A **site** is a place with equal, parallel units: heads of an attention block, neurons of a feed-forward. A
unit is some rows of each producer and the matching columns of the consumer; cut away both and the model
computes without it. Features that more than one pair of layers shares are **coupled**: the width between
layers, the filters of convolutions, the hidden units of recurrent layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from compress.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Coupled", "Site", "Structure", "Stub", "UnknownStructureError"]


class UnknownStructureError(ModelError):
    """A model that doesn't declare what can be cut; not one that declares it wrongly."""


@dataclass(frozen=True)
class Stub:
    """What takes a module's place when its site has no unit left: the arguments of `Removed`."""

    path: str
    returns: Literal["input", "bias"]
    as_tuple: bool = False


@dataclass(frozen=True)
class Site:
    """One place where units can be cut.

    Attributes:
        name: path of the block, for people and reports.
        kind: what a unit is: a head, or a feed-forward neuron.
        layer: index of the layer that holds it.
        producers: paths whose output rows belong to the units, with the rows that one unit has there.
        consumer: path of the projection whose input columns belong to the units.
        unit_size: columns of the consumer that one unit has.
        removal: what replaces the block without units; empty: one unit must stay.
        stacked: how many parts of equal size lie one behind another in each producer's rows, each with
            those rows of every unit: 3 where one projection makes queries, keys and values.
        tied: a module that has weights of the site and isn't part of it, so that the site can't be cut.
        queries: query heads of a unit, all of which read its one head of keys and values.
        numbers: path of a buffer with the original index of each unit, by which the block finds its part of
            a table that layers share; None: it needs none.
    """

    name: str
    kind: Literal["attention", "feed_forward"]
    layer: int
    producers: tuple[tuple[str, int], ...]
    consumer: str
    unit_size: int
    removal: tuple[Stub, ...] = ()
    stacked: int = 1
    tied: str | None = None
    queries: int = 1
    numbers: str | None = None

    def units(self, model: nn.Module) -> int:
        """How many units there are now; 0 once the site was removed."""
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
        return (*(path for path, _ in self.producers), self.consumer)

    def inside(self, prefix: str) -> Site:
        """Return the site with paths relative to a module that holds it, as a layer does."""

        def cut(path: str) -> str:
            return path.removeprefix(f"{prefix}.")

        return replace(
            self,
            producers=tuple((cut(path), rows) for path, rows in self.producers),
            consumer=cut(self.consumer),
            removal=tuple(replace(stub, path=cut(stub.path)) for stub in self.removal),
            numbers=None if self.numbers is None else cut(self.numbers),
        )


@dataclass(frozen=True)
class Coupled:
    """Features that go together: everything that holds one number (row, column, entry) for each of them.

    The width between the layers of a Transformer; the filters of convolutions that a skip connection adds;
    the hidden units of a recurrent layer.

    Attributes:
        name: for people and reports.
        embeddings: nn.Embedding, columns.
        writers: Linear, convolution, LSTM or GRU whose outputs the features are.
        readers: the same, whose inputs they are; a Linear may read several values a feature, as behind a
            flattened image, those of one feature side by side.
        norms: LayerNorm, RMSNorm, BatchNorm or depthwise convolution over them.
        tables: buffers or parameters that are added to them, or are among them, last dimension.
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
        sites: those that have units now, in the order of the forward pass.
        removed: sites that were cut away whole.
        layers: path of the nn.ModuleList of layers.
        token_embedding: path of the table of the vocabulary.
        hidden: what is coupled by the width between layers.
        channels: filters and hidden units, group by group.
    """

    sites: tuple[Site, ...]
    removed: tuple[Site, ...] = ()
    layers: str | None = None
    token_embedding: str | None = None
    hidden: Coupled | None = None
    channels: tuple[Coupled, ...] = ()

    @property
    def attention(self) -> tuple[Site, ...]:
        """Sites of heads."""
        return tuple(site for site in self.sites if site.kind == "attention")

    @property
    def feed_forward(self) -> tuple[Site, ...]:
        """Sites of neurons."""
        return tuple(site for site in self.sites if site.kind == "feed_forward")
