"""Find a model's structure: by its Hugging Face model type, from its own `structure()`, or torch's layers.

`structure()` returns a dict of module paths, as in `models/transformer.py`:
    {"attention": [{"q": path, "k": path, "v": path, "out": path, "head_size": int}, ...],
     "feed_forward": [{"up": path, "down": path}, ...],  (with "gate": path if it is gated)
                      (if one Linear makes queries, keys and values, or gates and neurons, concatenated:
                      "qkv": path in place of q, k and v, "gate_up": path in place of gate and up;
                      "interleaved": True if the parts of qkv follow one another head by head)
     "layers": path,           (of the nn.ModuleList: to distil, and to time a layer)
     "token_embedding": path,  (to cut the vocabulary)
     "hidden": {"embeddings": [], "writers": [], "readers": [], "norms": [], "tables": []},  (the width)
     "channels": {name: {"writers": [], "readers": [], "norms": []}, ...}}  (filters, hidden units)
Only what is given can be cut; unknown keys are refused. These are the fields of `Layout`, which known
architectures use too, and in paths "{layer}" is the path of each layer in turn. A site's optional
"removed": [[path, "input" or "bias", as_tuple]] says what replaces it when no unit is left (see `Removed`);
without it one unit is always kept.

If several query heads share one key/value head (grouped-query or multi-query attention), an attention site
says how many:
    {"q": path, "k": path, "v": path, "out": path, "head_size": int, "queries_per_group": int}
q has groups * queries_per_group * head_size outputs, those of one group adjacent, and k and v have
groups * head_size. A unit is then a group: its key/value head with all queries that read it. Derive the
number of groups from the outputs of k, not from a stored number: some groups may have been cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn

from compress.errors import ModelError, did_you_mean
from compress.model.layers.removed import Removed
from compress.model.structure.build import structure_from
from compress.model.structure.layouts import LAYOUTS, Attention, FeedForward, Layout
from compress.model.structure.networks import NETWORKS
from compress.model.structure.sites import Coupled, Site, Structure, Stub, UnknownStructureError
from compress.model.structure.torch_blocks import torch_layout

__all__ = [
    "Coupled",
    "Site",
    "Structure",
    "Stub",
    "UnknownStructureError",
    "known_architectures",
    "lacking",
    "structure_of",
]

_KEYS = ("attention", "feed_forward", "layers", "token_embedding", "hidden", "channels")
_KNOWN: dict[str, Layout | Callable[[Any], Layout]] = {**LAYOUTS, **NETWORKS}
_ONCE_KNOWN = ("embeddings", "classifier")  # in bundles of earlier versions; never read


def known_architectures() -> list[str]:
    """Hugging Face model types whose structure is known."""
    return sorted(_KNOWN)


def lacking(model: nn.Module, what: str, key: str) -> str:
    """Words for a model of known structure that has no such thing, as the start of a message.

    Args:
        key: where a module of one's own names it in `structure()`.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type and not callable(getattr(model, "structure", None)):
        return f"no {what} are known of Hugging Face model type '{model_type}'"
    return f"{type(model).__name__}.structure() names no {what} ('{key}')"


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
                f"{type(model).__name__}.structure() raised {type(error).__name__}: {error}",
                see="how-to/own-modules",
            ) from error
        return _from_module(model, given)
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    layout = _KNOWN.get(str(model_type))
    if layout is not None:
        return _from_table(model, layout, str(model_type))
    own = torch_layout(model) if model_type is None else None
    if own is not None:
        return structure_from(model, own)
    known = ", ".join(known_architectures())
    if model_type:
        raise UnknownStructureError(
            f"the structure of Hugging Face model type '{model_type}' is unknown, so it can't be cut; "
            "quantize, distill and export work without it. An entry in compress/model/structure/layouts.py "
            f"makes it known (docs/extending.md, An architecture); known: {known}"
        )
    raise UnknownStructureError(
        f"the structure of module {type(model).__name__} is unknown; known: {known}, and any module with "
        "structure() (example: models/transformer.py)"
    )


def _from_table(model: nn.Module, given: Layout | Callable[[Any], Layout], model_type: str) -> Structure:
    try:
        layout = given if isinstance(given, Layout) else given(model)
    except AttributeError as error:
        raise UnknownStructureError(
            f"{type(model).__name__}: only image classifiers can be cut ({error})"
        ) from error
    readers = getattr(model, "hidden_readers", ())
    if readers and layout.hidden is not None:
        hidden = replace(layout.hidden, readers=(*layout.hidden.readers, *readers))
        layout = replace(layout, hidden=hidden)
    try:
        return structure_from(model, layout)
    except AttributeError as error:
        needed = f"transformers {layout.since} or newer" if layout.since else "a newer transformers"
        raise UnknownStructureError(
            f"cutting a Hugging Face {model_type} needs {needed}; install that, or quantize without cutting "
            f"({error})"
        ) from error


def _from_module(model: nn.Module, offered: Mapping[str, Any]) -> Structure:
    try:
        structure = structure_from(model, _layout(offered))
        _paths_exist(model, structure)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{type(model).__name__}.structure() is not valid: {error}", see="how-to/own-modules"
        ) from error
    return structure


def _layout(offered: Mapping[str, Any]) -> Layout:
    """The result of `structure()` as a layout.

    Raises:
        KeyError, TypeError, ValueError: it has another form.
    """
    _check_keys("structure()", offered, (*_KEYS, *_ONCE_KNOWN))
    layers, hidden = offered.get("layers"), offered.get("hidden")
    return Layout(
        layers=None if layers is None else str(layers),
        attention=tuple(_attention(each) for each in _list("attention", offered.get("attention", ()))),
        feed_forward=tuple(
            _feed_forward(each) for each in _list("feed_forward", offered.get("feed_forward", ()))
        ),
        token_embedding=offered.get("token_embedding"),
        hidden=None if hidden is None else _coupled("hidden", hidden),
        channels=tuple(_coupled(name, each) for name, each in offered.get("channels", {}).items()),
    )


def _attention(given: Mapping[str, Any]) -> Attention:
    _check_keys("an attention block", given, [each.name for each in fields(Attention)])
    _one_of(given, "qkv", ("q", "k", "v"))
    size, queries = int(given["head_size"]), int(given.get("queries_per_group", 1))
    if min(size, queries) < 1:
        raise ValueError(f"head_size {size}, queries_per_group {queries}: at least 1 each")
    needed = ("out",) if "qkv" in given else ("q", "k", "v", "out")
    checked: dict[str, Any] = {key: str(given[key]) for key in needed}
    checked |= {"head_size": size, "queries_per_group": queries, "removed": _stubs(given)}
    checked["interleaved"] = bool(given.get("interleaved", False))
    return Attention(
        **{**given, **checked, "positions": tuple(_list("positions", given.get("positions", ())))}
    )


def _feed_forward(given: Mapping[str, Any]) -> FeedForward:
    _check_keys("a feed-forward block", given, [each.name for each in fields(FeedForward)])
    _one_of(given, "gate_up", ("up", "gate"))
    needed = ("down", "gate_up" if "gate_up" in given else "up")
    return FeedForward(**{**given, **{key: str(given[key]) for key in needed}, "removed": _stubs(given)})


def _one_of(given: Mapping[str, Any], whole: str, parts: tuple[str, ...]) -> None:
    """Refuse a fused projection together with a separate one."""
    twice = [key for key in parts if given.get(key) is not None]
    if whole in given and twice:
        raise TypeError(f"a block can't have both '{whole}' and '{twice[0]}'")


def _stubs(given: Mapping[str, Any]) -> tuple[Stub, ...]:
    stubs = tuple(Stub(*_list("removed", each)) for each in _list("removed", given.get("removed", ())))
    for stub in stubs:
        if stub.returns not in ("input", "bias"):
            raise ValueError(f"removed: {stub.path} returns '{stub.returns}'; allowed: input, bias")
    return stubs


def _coupled(name: str, given: Mapping[str, Any]) -> Coupled:
    _check_keys(f"'{name}'", given, [each.name for each in fields(Coupled) if each.name != "name"])
    return Coupled(name=str(name), **{role: tuple(_list(role, paths)) for role, paths in given.items()})


def _check_keys(what: str, given: Any, allowed: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict, not {type(given).__name__}")
    for key in given:
        if key not in allowed:
            raise TypeError(f"{what} has no '{key}'{did_you_mean(str(key), allowed)}")


def _list(what: str, given: Any) -> Sequence[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"'{what}' must be a list, not {type(given).__name__}")
    return given


def _paths_exist(model: nn.Module, structure: Structure) -> None:
    """Check that each site is either whole or removed; anything else is a mistake in `structure()`."""
    for site in structure.sites:
        for path, parts in site.producers:
            features = getattr(model.get_submodule(path), "out_features", None)
            if features != sum(parts) * site.units(model):
                rows = " + ".join(map(str, parts))
                raise ValueError(
                    f"{path} returns {features} features, but {site.consumer} takes {site.units(model)} "
                    f"units of {rows}{_grouped(model, site)}"
                )
    for site in structure.removed:
        if not any(_is_removed(model, stub.path) for stub in site.removal):
            raise AttributeError(f"the consumer {site.consumer} does not exist")
    for path in filter(None, (structure.layers, structure.token_embedding)):
        model.get_submodule(path)


def _grouped(model: nn.Module, site: Site) -> str:
    """Hint for a site that looks like undeclared grouped queries; otherwise empty."""
    if site.kind != "attention" or len(site.producers) != 3:
        return ""
    q, k, v = (getattr(model.get_submodule(each.path), "out_features", 0) for each in site.producers)
    if k != v or k < 1 or q <= k or q % k or site.producers[0].rows != site.producers[1].rows:
        return ""
    return f"; if {q // k} query heads share a key/value head, set queries_per_group: {q // k}"


def _is_removed(model: nn.Module, path: str) -> bool:
    try:
        return isinstance(model.get_submodule(path), Removed)
    except AttributeError:
        return False
