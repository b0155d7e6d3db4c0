"""Structure: what can be cut in a model, as data.

A **site** is a place where equal units stand side by side: heads of an attention block, neurons of a
feed-forward. A unit is some rows of each producer and the matching columns of the consumer; cut away both and
the model computes without it. Features that more than one pair of layers shares are **coupled**: the width
between layers, the filters of convolutions, the hidden units of recurrent layers.

Known for the Hugging Face models of `encoders.py` and `decoders.py`, and for any module that offers
`structure()`: a dict of module paths, as `models/transformer.py` gives,
    {"attention": [{"q": path, "k": path, "v": path, "out": path, "head_size": int}, ...],
     "feed_forward": [{"up": path, "down": path}, ...],  (with "gate": path where it is gated)
                      (where one Linear makes queries, keys and values, or gates and neurons, one behind the
                      other: "qkv": path in the place of q, k and v, "gate_up": path in that of gate and up)
     "layers": path,           (of the nn.ModuleList: to distil, and to time a layer)
     "token_embedding": path,  (to cut the vocabulary)
     "hidden": {"embeddings": [], "writers": [], "readers": [], "norms": [], "tables": []},  (the width)
     "channels": {name: {"writers": [], "readers": [], "norms": []}, ...}}  (filters, hidden units)
of which only what is offered can be cut; another key is refused. A site's optional
"removed": [[path, "input" or "bias", as_tuple]] says what takes its place when no unit is left (see
`Removed`); without it one unit always stays.

Where several query heads share one head of keys and values (grouped-query or multi-query attention), an
attention site says how many, and queries, keys and values have projections of their own:
    {"q": path, "k": path, "v": path, "out": path, "head_size": int, "queries_per_group": int}
q puts out groups * queries_per_group * head_size features, those of one group side by side, and k and v
groups * head_size. A unit is then a group, its key and value head with all queries that read it. Number the
groups by what k puts out, not by a number that was remembered: some may be gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from compress.errors import ModelError, did_you_mean

__all__ = [
    "Coupled",
    "Site",
    "Structure",
    "Stub",
    "UnknownStructureError",
    "known_architectures",
    "structure_of",
]


class UnknownStructureError(ModelError):
    """A model that doesn't say what can be cut; not one that says it wrongly."""


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
        name: for people and reports: the path of the block.
        kind: what a unit is: a head, or a feed-forward neuron.
        layer: index of the layer that it stands in.
        producers: paths whose output rows belong to the units, with the rows that one unit has there.
        stacked: how many parts of equal size lie one behind another in each producer's rows, each with
            those rows of every unit: 3 where one projection makes queries, keys and values.
        consumer: path of the projection whose input columns belong to the units.
        unit_size: columns of the consumer that one unit has.
        removal: what stands in its place without units; empty: one unit must stay.
        tied: a module that has weights of the site and isn't part of it, so that the site can't be cut.
        queries: heads of queries that a unit has, all of which read its one head of keys and values.
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

    def units(self, model: nn.Module) -> int:
        """How many units stand there now; 0 once the site was removed."""
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

    def inside(self, prefix: str) -> Site:
        """Return the site with paths relative to a module that holds it, as a layer does."""

        def cut(path: str) -> str:
            return path.removeprefix(f"{prefix}.")

        return replace(
            self,
            producers=tuple((cut(path), rows) for path, rows in self.producers),
            consumer=cut(self.consumer),
            removal=tuple(replace(stub, path=cut(stub.path)) for stub in self.removal),
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
            flattened picture, those of one feature side by side.
        norms: LayerNorm, BatchNorm or depthwise convolution over them.
        tables: buffers or parameters that are added to them, or stand among them, last dimension.
    """

    name: str = "hidden"
    embeddings: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Structure:
    """What can be cut; none or empty: that the module doesn't say.

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


def known_architectures() -> list[str]:
    """Hugging Face model types whose structure is known."""
    from compress.model.structure.decoders import DECODERS
    from compress.model.structure.encoders import ENCODERS

    return sorted({**ENCODERS, **DECODERS})


def structure_of(model: nn.Module) -> Structure:
    """Find what can be cut.

    Raises:
        UnknownStructureError: the architecture is not known, and the model has no `structure()`.
        ModelError: `structure()` has another form, or names modules that don't exist.
    """
    offered = getattr(model, "structure", None)
    if callable(offered):
        try:
            given = offered()
        except Exception as error:
            raise ModelError(
                f"{type(model).__name__}.structure() raised {type(error).__name__}: {error}"
            ) from error
        return _from_module(model, given)
    from compress.model.structure.decoders import DECODERS, decoder_structure
    from compress.model.structure.encoders import ENCODERS, encoder_structure

    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type in ENCODERS:
        return encoder_structure(model, ENCODERS[model_type])
    if model_type in DECODERS:
        return decoder_structure(model, DECODERS[model_type])
    what = f"Hugging Face model type '{model_type}'" if model_type else f"module {type(model).__name__}"
    raise UnknownStructureError(
        f"the structure of {what} is not known; known: {', '.join(known_architectures())}, and any module "
        "that offers structure() (models/transformer.py shows how)"
    )


def _from_module(model: nn.Module, offered: Mapping[str, Any]) -> Structure:
    try:
        _check_keys("structure()", offered, (*_KEYS, *_ONCE_KNOWN))
        layers = offered.get("layers")
        sites = [
            _attention_site(given, index, layers)
            for index, given in enumerate(_list("attention", offered.get("attention", ())))
        ]
        sites += [
            _feed_forward_site(given, index, layers)
            for index, given in enumerate(_list("feed_forward", offered.get("feed_forward", ())))
        ]
        hidden = offered.get("hidden")
        structure = sorted_sites(
            model,
            sites,
            layers=None if layers is None else str(layers),
            token_embedding=offered.get("token_embedding"),
            hidden=None if hidden is None else _coupled("hidden", hidden),
            channels=tuple(_coupled(name, each) for name, each in offered.get("channels", {}).items()),
        )
        _paths_exist(model, structure)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{type(model).__name__}.structure() is wrong: {error}; see compress/model/structure for its form"
        ) from error
    return structure


_KEYS = ("attention", "feed_forward", "layers", "token_embedding", "hidden", "channels")
_ONCE_KNOWN = ("embeddings", "classifier")  # in bundles of earlier versions; nothing ever read them
_ROLES = ("embeddings", "writers", "readers", "norms", "tables")
_ATTENTION = ("q", "k", "v", "qkv", "out", "head_size", "queries_per_group", "removed")
_FEED_FORWARD = ("up", "gate", "gate_up", "down", "removed")


def _check_keys(what: str, given: Any, allowed: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} is {type(given).__name__}, not a dict")
    for key in given:
        if key not in allowed:
            raise TypeError(f"{what} has no '{key}'{did_you_mean(str(key), allowed)}")


def _list(what: str, given: Any) -> Sequence[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"'{what}' is a list, not {type(given).__name__}")
    return given


def _coupled(name: str, given: Mapping[str, Any]) -> Coupled:
    _check_keys(f"'{name}'", given, _ROLES)
    return Coupled(name=str(name), **{role: tuple(_list(role, paths)) for role, paths in given.items()})


def _attention_site(given: Mapping[str, Any], index: int, layers: str | None) -> Site:
    _check_keys("an attention site", given, _ATTENTION)
    size, queries = int(given["head_size"]), int(given.get("queries_per_group", 1))
    if min(size, queries) < 1:
        raise ValueError(f"head_size {size}, queries_per_group {queries}: at least 1 each")
    keys = _one_of(given, "qkv", ("q", "k", "v"))
    if queries > 1 and len(keys) == 1:
        raise ValueError("queries_per_group needs q, k and v: what makes all three in one can't be cut by it")
    producers = tuple((str(given[key]), size * queries if key == "q" else size) for key in keys)
    return Site(
        name=_block_name(producers[0][0], given["out"]),
        kind="attention",
        layer=_layer_index(given["out"], layers, index),
        producers=producers,
        consumer=str(given["out"]),
        unit_size=size * queries,
        removal=_stubs(given),
        stacked=3 // len(keys),
    )


def _one_of(given: Mapping[str, Any], whole: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of the producers: one that makes all parts, or those of the parts."""
    if whole not in given:
        return parts
    twice = [key for key in parts if given.get(key) is not None]
    if twice:
        raise TypeError(f"a site has '{whole}' or '{twice[0]}', not both")
    return (whole,)


def _feed_forward_site(given: Mapping[str, Any], index: int, layers: str | None) -> Site:
    _check_keys("a feed-forward site", given, _FEED_FORWARD)
    keys = _one_of(given, "gate_up", ("up", "gate"))
    producers = tuple((str(given[key]), 1) for key in keys if given.get(key) is not None)
    if not {"up", "gate_up"} & set(given):
        raise KeyError("up")
    return Site(
        name=_block_name(producers[0][0], given["down"]),
        kind="feed_forward",
        layer=_layer_index(given["down"], layers, index),
        producers=producers,
        consumer=str(given["down"]),
        unit_size=1,
        removal=_stubs(given),
        stacked=2 if keys == ("gate_up",) else 1,
    )


def _stubs(given: Mapping[str, Any]) -> tuple[Stub, ...]:
    stubs = tuple(Stub(*_list("removed", each)) for each in _list("removed", given.get("removed", ())))
    for stub in stubs:
        if stub.returns not in ("input", "bias"):
            raise ValueError(f"removed: {stub.path} gives back '{stub.returns}'; allowed: input, bias")
    return stubs


def _block_name(first: str, second: str) -> str:
    # What both paths begin with; a block whose projections lie apart is named by its consumer.
    common = []
    for a, b in zip(first.split("."), second.split("."), strict=False):
        if a != b:
            break
        common.append(a)
    deep = len(common) > 0 and not common[-1].isdigit()
    return ".".join(common) if deep else second


def _layer_index(path: str, layers: str | None, position: int) -> int:
    if layers is not None and path.startswith(f"{layers}."):
        index = path.removeprefix(f"{layers}.").split(".")[0]
        if index.isdigit():
            return int(index)
    return position


def sorted_sites(model: nn.Module, sites: Sequence[Site], **rest: Any) -> Structure:
    """A structure of these sites in the order of the forward pass; those without a unit were removed.

    Sites of the same modules, as in layers that share all weights, are one: the first of them.
    """
    ordered = sorted(sites, key=lambda site: (site.layer, site.kind != "attention"))
    present = {_modules_of(model, site): site for site in reversed(ordered) if site.units(model) > 0}
    kept = [site for site in ordered if site in present.values()]
    owners = _owners(model)
    return Structure(
        sites=tuple(replace(site, tied=_tied_to(model, site, kept, owners)) for site in kept),
        removed=tuple(site for site in ordered if site.units(model) == 0),
        **rest,
    )


def _modules_of(model: nn.Module, site: Site) -> tuple[nn.Module, ...]:
    paths = [*(path for path, _ in site.producers), site.consumer]
    return tuple(model.get_submodule(path) for path in paths)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """The paths of the modules that hold each parameter, by its id."""
    found: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            found.setdefault(id(parameter), []).append(path)
    return found


def _tied_to(
    model: nn.Module, site: Site, sites: Sequence[Site], owners: Mapping[int, Sequence[str]]
) -> str | None:
    """A module outside of a site that has one of its weights, or stands in another site too."""
    modules = _modules_of(model, site)
    for other in sites:
        if other is not site:
            paths = [*(path for path, _ in other.producers), other.consumer]
            same = (path for path in paths if any(model.get_submodule(path) is each for each in modules))
            for path in same:
                return path
    for module in modules:
        for parameter in module.parameters(recurse=False):
            for path in owners[id(parameter)]:
                if not any(model.get_submodule(path) is each for each in modules):
                    return path
    return None


def _paths_exist(model: nn.Module, structure: Structure) -> None:
    """A site is whole or removed; a path that is neither is a mistake in `structure()`."""
    for site in structure.sites:
        for path, rows in site.producers:
            features = getattr(model.get_submodule(path), "out_features", None)
            if features != rows * site.units(model) * site.stacked:
                times = f", {site.stacked} times" if site.stacked > 1 else ""
                raise ValueError(
                    f"{path} puts out {features} features, but {site.consumer} takes {site.units(model)} "
                    f"units of {rows}{times}{_grouped(model, site)}"
                )
    for site in structure.removed:
        if not any(_is_removed(model, stub.path) for stub in site.removal):
            raise AttributeError(f"there is no {site.consumer} that takes units")
    for path in filter(None, (structure.layers, structure.token_embedding)):
        model.get_submodule(path)


def _grouped(model: nn.Module, site: Site) -> str:
    """What to say where a site looks like grouped queries that don't say so; else nothing."""
    if site.kind != "attention" or len(site.producers) != 3:
        return ""
    q, k, v = (getattr(model.get_submodule(path), "out_features", 0) for path, _ in site.producers)
    if k != v or k < 1 or q <= k or q % k or site.producers[0][1] != site.producers[1][1]:
        return ""
    return f"; where {q // k} query heads share one head of keys and values: queries_per_group: {q // k}"


def _is_removed(model: nn.Module, path: str) -> bool:
    from compress.model.layers.removed import Removed

    try:
        return isinstance(model.get_submodule(path), Removed)
    except AttributeError:
        return False
