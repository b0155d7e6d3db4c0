"""Build a structure from a layout, for known architectures and for modules with `structure()` alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import Any, TypeVar

from torch import nn

from compress.model.structure.layouts import Attention, FeedForward, Layout
from compress.model.structure.sites import Coupled, Producer, Site, Structure

__all__ = ["structure_from"]

_Block = TypeVar("_Block", Attention, FeedForward)


def structure_from(model: nn.Module, layout: Layout) -> Structure:
    """The structure of a model with this layout.

    Raises:
        AttributeError: there are no layers at its path.
        ValueError: a block can't be cut into units of the given size.
    """
    paths = _Paths.of(model, layout)
    whole = bool(layout.whole_attention)
    attention = [
        _attention_site(block, position, paths)
        for position, block in enumerate(_blocks(() if whole else layout.attention, paths))
    ]
    feed_forward = [
        _feed_forward_site(block, position, paths)
        for position, block in enumerate(_blocks(layout.feed_forward, paths))
    ]
    embedding = layout.token_embedding
    return Structure(
        **_sorted_sites(model, [*attention, *feed_forward]),
        layers=paths.layers,
        token_embedding=None if embedding is None else paths.full(embedding),
        hidden=None if layout.hidden is None else _hidden(layout.hidden, layout, paths),
        channels=layout.channels,
        whole_attention=layout.whole_attention,
    )


@dataclass(frozen=True)
class _Paths:
    """The paths that `{base}` and `{layer}` mean in a model.

    Attributes:
        layers: path of the list of layers; None if there is none, or several.
        each: path of each layer; empty if no path of the layout has `{layer}`.
    """

    model: nn.Module
    base: str
    layers: str | None
    each: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, layout: Layout) -> _Paths:
        base = str(getattr(model, "base_model_prefix", ""))
        layers = None if layout.layers is None else layout.layers.replace("{base}", base)
        if "{layer}" not in repr(layout):
            return cls(model, base, layers, ())
        if layers is None:
            raise ValueError("a path contains {layer}, but 'layers' is missing")
        outer, star, inner = layers.partition(".*")
        lists = [path + inner for path in _entries(model, outer)] if star else [layers]
        each = tuple(path for found in lists for path in _entries(model, found))
        return cls(model, base, None if star else layers, each)

    def full(self, path: str, layer: str = "") -> str:
        return path.replace("{base}", self.base).replace("{layer}", layer)

    def present(self, paths: Sequence[str], layers: Sequence[str] | None = None) -> tuple[str, ...]:
        """Full paths, one per layer (None: all) if a path has `{layer}`, without absent `?` ones.

        Of paths with `|` between, the first that is present counts, or else the last.
        """
        found = (
            self.full(self.first_present(path, layer), layer)
            for path in paths
            for layer in ((self.each if layers is None else layers) if "{layer}" in path else ("",))
        )
        return tuple(
            path.removesuffix("?")
            for path in found
            if not path.endswith("?") or _exists(self.model, path.removesuffix("?"))
        )

    def first_present(self, path: str, layer: str) -> str:
        *others, last = path.split("|")
        return next((each for each in others if _exists(self.model, self.full(each, layer))), last)

    def layer_index(self, path: str, position: int) -> int:
        """Index of the layer that contains a path; outside the layers, the position among blocks."""
        if self.layers is not None and path.startswith(f"{self.layers}."):
            index = path.removeprefix(f"{self.layers}.").split(".")[0]
            if index.isdigit():
                return int(index)
        return position


def _entries(model: nn.Module, path: str) -> list[str]:
    """The paths of the modules in an nn.ModuleList."""
    container: Any = model.get_submodule(path)
    return [f"{path}.{index}" for index in range(len(container))]


def _blocks(blocks: Sequence[_Block], paths: _Paths) -> Iterator[_Block]:
    """Blocks with full paths, one per layer if theirs have `{layer}`."""
    for block in blocks:
        texts = {each.name: getattr(block, each.name) for each in fields(block)}
        texts = {name: value for name, value in texts.items() if isinstance(value, str)}
        for layer in paths.each if any("{layer}" in text for text in texts.values()) else ("",):
            full: dict[str, Any] = {name: paths.full(text, layer) for name, text in texts.items()}
            stubs = tuple(replace(stub, path=paths.full(stub.path, layer)) for stub in block.removed)
            if isinstance(block, Attention):
                full["positions"] = paths.present(block.positions, (layer,))
            yield replace(block, **full, removed=stubs)


def _attention_site(block: Attention, position: int, paths: _Paths) -> Site:
    size, queries = _head_size(paths.model, block), _queries_per_group(paths.model, block)
    rows = (size * queries, size, size)
    fused = (sum(rows),) if block.interleaved else rows
    parts = [(each,) for each in rows] if block.qkv is None else [fused]
    parts += [(size,) for _ in block.positions]
    return Site(
        name=block.name or _block_name(block.producers[0], block.out),
        kind="attention",
        layer=paths.layer_index(block.out, position),
        producers=tuple(map(Producer, block.producers, parts)),
        consumer=block.out,
        unit_size=size * queries,
        removal=block.removed,
        queries=queries,
        numbers=block.numbers,
    )


def _head_size(model: nn.Module, block: Attention) -> int:
    config: Any = getattr(model, "config", None)
    if block.head_size:
        return block.head_size
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _queries_per_group(model: nn.Module, block: Attention) -> int:
    if block.queries_per_group:
        return block.queries_per_group
    config: Any = getattr(model, "config", None)
    kind = type(config)
    # Any key of a config.json becomes an attribute; GPT-2, say, ignores this one.
    if not hasattr(kind, "num_key_value_heads") and "num_key_value_heads" not in signature(kind).parameters:
        return 1
    heads = int(config.num_attention_heads)
    return heads // int(getattr(config, "num_key_value_heads", None) or heads)


def _feed_forward_site(block: FeedForward, position: int, paths: _Paths) -> Site:
    return Site(
        name=block.name or _block_name(block.producers[0], block.down),
        kind="feed_forward",
        layer=paths.layer_index(block.down, position),
        producers=tuple(
            Producer(path, (1,) if block.gate_up is None else (1, 1)) for path in block.producers
        ),
        consumer=block.down,
        unit_size=1,
        removal=block.removed,
    )


def _block_name(first: str, second: str) -> str:
    # The common prefix of both paths; a block whose projections are apart is named by its consumer.
    common = []
    for a, b in zip(first.split("."), second.split("."), strict=False):
        if a != b:
            break
        common.append(a)
    deep = len(common) > 0 and not common[-1].isdigit()
    return ".".join(common) if deep else second


def _hidden(hidden: Coupled, layout: Layout, paths: _Paths) -> Coupled:
    """The hidden width with full paths, without optional ones that the model doesn't have."""
    roles: dict[str, Any] = {
        each.name: paths.present(getattr(hidden, each.name)) for each in fields(hidden) if each.name != "name"
    }
    projection = paths.full(layout.embeddings_project or "")
    if projection and _exists(paths.model, projection):
        narrow = f"{paths.base}.embeddings."
        roles = {
            role: tuple(path for path in found if not path.startswith(narrow))
            for role, found in roles.items()
        }
        roles["writers"] = (projection, *roles["writers"])
    return replace(hidden, **roles)


def _exists(model: nn.Module, path: str) -> bool:
    """Whether there is anything but an nn.Identity at a path."""
    at: Any = model
    for name in path.split("."):
        at = getattr(at, name, None)
    return at is not None and not isinstance(at, nn.Identity)


def _sorted_sites(model: nn.Module, sites: Sequence[Site]) -> dict[str, tuple[Site, ...]]:
    """Sites in the order of the forward pass; those without units were removed.

    Sites of the same modules, as in layers that share all weights, are merged into the first of them.
    """
    ordered = sorted(sites, key=lambda site: (site.layer, site.kind != "attention"))
    present = {_modules_of(model, site): site for site in reversed(ordered) if site.units(model) > 0}
    kept = [site for site in ordered if site in present.values()]
    owners = _owners(model)
    return {
        "sites": tuple(replace(site, tied=_tied_to(model, site, kept, owners)) for site in kept),
        "removed": tuple(site for site in ordered if site.units(model) == 0),
    }


def _modules_of(model: nn.Module, site: Site) -> tuple[nn.Module, ...]:
    return tuple(model.get_submodule(path) for path in site.paths)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Map each parameter's id to the paths of the modules that hold it."""
    found: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            found.setdefault(id(parameter), []).append(path)
    return found


def _tied_to(
    model: nn.Module, site: Site, sites: Sequence[Site], owners: Mapping[int, Sequence[str]]
) -> str | None:
    """A module outside a site that shares one of its weights, or that another site uses too."""
    modules = _modules_of(model, site)
    for other in sites:
        if other is not site:
            same = (
                path for path in other.paths if any(model.get_submodule(path) is each for each in modules)
            )
            for path in same:
                return path
    for module in modules:
        for parameter in module.parameters(recurse=False):
            for path in owners[id(parameter)]:
                if not any(model.get_submodule(path) is each for each in modules):
                    return path
    return None
