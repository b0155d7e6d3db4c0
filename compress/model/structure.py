"""Structure: what can be cut in a model, as data.

A **site** is a place where equal units stand side by side: heads of an attention block, neurons of a
feed-forward. A unit is some rows of each producer and the matching columns of the consumer; cut away both and
the model computes without it. A site knows its paths, nothing of what kind of model it stands in: filters of
a convolution or hidden units of a recurrent layer are the same thing with other producers.

Known for the Hugging Face encoders in `_ENCODERS`, and for any module that offers `structure()`: a dict of
module paths, as `models/transformer.py` gives,
    {"attention": [{"q": path, "k": path, "v": path, "out": path, "head_size": int}, ...],
     "feed_forward": [{"up": path, "down": path}, ...],  (with "gate": path where it is gated)
     "layers": path,           (of the nn.ModuleList: to distil, and to time a layer)
     "token_embedding": path,  (to cut the vocabulary)
     "hidden": {"embeddings": [], "writers": [], "readers": [], "norms": [], "tables": []}}  (the width)
of which only what is offered can be cut. A site's optional "removed": [[path, "input" or "bias", as_tuple]]
says what stands in its place when no unit is left (see `Removed`); without it one unit always stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from compress.errors import ModelError

__all__ = ["Hidden", "Site", "Structure", "Stub", "known_architectures", "structure_of"]


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
        consumer: path of the projection whose input columns belong to the units.
        unit_size: columns of the consumer that one unit has.
        removal: what stands in its place without units; empty: one unit must stay.
    """

    name: str
    kind: Literal["attention", "feed_forward"]
    layer: int
    producers: tuple[tuple[str, int], ...]
    consumer: str
    unit_size: int
    removal: tuple[Stub, ...] = ()

    def units(self, model: nn.Module) -> int:
        """How many units stand there now; 0 once the site was removed."""
        try:
            consumer = model.get_submodule(self.consumer)
        except AttributeError:
            return 0
        features = getattr(consumer, "in_features", 0)
        return int(features) // self.unit_size if isinstance(features, int) else 0

    @property
    def unit_name(self) -> str:
        """The word for a unit."""
        return "head" if self.kind == "attention" else "neuron"

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
class Hidden:
    """The width between layers: everything that holds one number (row, column, entry) a hidden feature.

    Attributes:
        embeddings: nn.Embedding, columns.
        writers: Linear whose output is added to the residual stream, rows.
        readers: Linear that reads the residual stream, columns.
        norms: LayerNorm over it.
        tables: buffers that are added to it, last dimension.
    """

    embeddings: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...]
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
    """

    sites: tuple[Site, ...]
    removed: tuple[Site, ...] = ()
    layers: str | None = None
    token_embedding: str | None = None
    hidden: Hidden | None = None

    @property
    def attention(self) -> tuple[Site, ...]:
        """Sites of heads."""
        return tuple(site for site in self.sites if site.kind == "attention")

    @property
    def feed_forward(self) -> tuple[Site, ...]:
        """Sites of neurons."""
        return tuple(site for site in self.sites if site.kind == "feed_forward")


@dataclass(frozen=True)
class _Encoder:
    """Paths of a Hugging Face encoder, relative to a layer, or with {base} to the model."""

    layers: str
    q: str
    k: str
    v: str
    out: str
    up: str
    down: str
    attention_removal: tuple[Stub, ...]
    feed_forward_removal: tuple[Stub, ...]
    norms: tuple[str, ...]
    head_readers: tuple[str, ...]
    embeddings: tuple[str, ...] = ("word_embeddings", "position_embeddings", "token_type_embeddings")


_BERT = _Encoder(
    layers="{base}.encoder.layer",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    out="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    attention_removal=(
        Stub("attention.self", "input", as_tuple=True),
        Stub("attention.output.dense", "bias"),
    ),
    feed_forward_removal=(Stub("intermediate", "input"), Stub("output.dense", "bias")),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    head_readers=("{base}.pooler.dense",),
)
_ENCODERS = {
    "bert": _BERT,
    "electra": replace(_BERT, head_readers=("classifier.dense",)),
    "roberta": replace(_BERT, head_readers=("classifier.dense",)),
    "distilbert": _Encoder(
        layers="{base}.transformer.layer",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        out="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        attention_removal=(Stub("attention", "bias", as_tuple=True),),
        feed_forward_removal=(Stub("ffn", "bias"),),
        norms=("sa_layer_norm", "output_layer_norm"),
        head_readers=("pre_classifier",),
        embeddings=("word_embeddings", "position_embeddings"),
    ),
}


def known_architectures() -> list[str]:
    """Hugging Face model types whose structure is known."""
    return sorted(_ENCODERS)


def structure_of(model: nn.Module) -> Structure:
    """Find what can be cut.

    Raises:
        ModelError: the architecture is not known, or its `structure()` names modules that don't exist.
    """
    offered = getattr(model, "structure", None)
    if callable(offered):
        return _from_module(model, offered())
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type in _ENCODERS:
        return _from_hf(model, _ENCODERS[model_type])
    what = f"Hugging Face model type '{model_type}'" if model_type else f"module {type(model).__name__}"
    raise ModelError(
        f"the structure of {what} is not known; known: {', '.join(known_architectures())}, and any module "
        "that offers structure() (models/transformer.py shows how)"
    )


def _from_module(model: nn.Module, offered: Mapping[str, Any]) -> Structure:
    try:
        layers = offered.get("layers")
        sites = [_attention_site(given, index, layers) for index, given in enumerate(offered["attention"])]
        sites += [
            _feed_forward_site(given, index, layers)
            for index, given in enumerate(offered.get("feed_forward", ()))
        ]
        hidden = offered.get("hidden")
        structure = _sorted(
            model,
            sites,
            layers=None if layers is None else str(layers),
            token_embedding=offered.get("token_embedding"),
            hidden=None if hidden is None else Hidden(**{k: tuple(v) for k, v in hidden.items()}),
        )
        _paths_exist(model, structure)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{type(model).__name__}.structure() is wrong: {error}; see compress/model/structure.py for its "
            "form"
        ) from error
    return structure


def _attention_site(given: Mapping[str, Any], index: int, layers: str | None) -> Site:
    unknown = set(given) - {"q", "k", "v", "out", "head_size", "removed"}
    if unknown:
        raise TypeError(f"an attention site has no '{min(unknown)}'")
    size = int(given["head_size"])
    producers = tuple((str(given[key]), size) for key in ("q", "k", "v"))
    return Site(
        name=_block_name(producers[0][0], given["out"]),
        kind="attention",
        layer=_layer_index(given["out"], layers, index),
        producers=producers,
        consumer=str(given["out"]),
        unit_size=size,
        removal=_stubs(given),
    )


def _feed_forward_site(given: Mapping[str, Any], index: int, layers: str | None) -> Site:
    unknown = set(given) - {"up", "gate", "down", "removed"}
    if unknown:
        raise TypeError(f"a feed-forward site has no '{min(unknown)}'")
    producers = tuple((str(given[key]), 1) for key in ("up", "gate") if given.get(key) is not None)
    if "up" not in given:
        raise KeyError("up")
    return Site(
        name=_block_name(producers[0][0], given["down"]),
        kind="feed_forward",
        layer=_layer_index(given["down"], layers, index),
        producers=producers,
        consumer=str(given["down"]),
        unit_size=1,
        removal=_stubs(given),
    )


def _stubs(given: Mapping[str, Any]) -> tuple[Stub, ...]:
    return tuple(Stub(*each) for each in given.get("removed", ()))


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


def _from_hf(model: nn.Module, encoder: _Encoder) -> Structure:
    base = getattr(model, "base_model_prefix", "")
    layers = encoder.layers.format(base=base)
    config: Any = model.config
    head_size = int(config.hidden_size) // int(config.num_attention_heads)
    count = len(list(model.get_submodule(layers).children()))
    sites = []
    for index in range(count):
        at = f"{layers}.{index}"
        sites.append(
            Site(
                name=f"{at}.attention",
                kind="attention",
                layer=index,
                producers=tuple((f"{at}.{path}", head_size) for path in (encoder.q, encoder.k, encoder.v)),
                consumer=f"{at}.{encoder.out}",
                unit_size=head_size,
                removal=_under(at, encoder.attention_removal),
            )
        )
        sites.append(
            Site(
                name=f"{at}.{encoder.down.split('.')[0]}",
                kind="feed_forward",
                layer=index,
                producers=((f"{at}.{encoder.up}", 1),),
                consumer=f"{at}.{encoder.down}",
                unit_size=1,
                removal=_under(at, encoder.feed_forward_removal),
            )
        )
    return _sorted(
        model,
        sites,
        layers=layers,
        token_embedding=f"{base}.embeddings.word_embeddings",
        hidden=_hf_hidden(model, encoder, base, [f"{layers}.{index}" for index in range(count)]),
    )


def _under(at: str, stubs: Sequence[Stub]) -> tuple[Stub, ...]:
    return tuple(replace(stub, path=f"{at}.{stub.path}") for stub in stubs)


def _hf_hidden(model: nn.Module, encoder: _Encoder, base: str, layers: Sequence[str]) -> Hidden:
    # ELECTRA may embed narrower and project: then the projection alone writes into the stream.
    names = dict(model.named_modules())
    projected = f"{base}.embeddings_project" in names
    embeddings = () if projected else tuple(f"{base}.embeddings.{name}" for name in encoder.embeddings)
    writers: tuple[str, ...] = (f"{base}.embeddings_project",) if projected else ()
    norms: tuple[str, ...] = () if projected else (f"{base}.embeddings.LayerNorm",)
    readers: tuple[str, ...] = ()
    for at in layers:
        readers += tuple(f"{at}.{path}" for path in (encoder.q, encoder.k, encoder.v, encoder.up))
        writers += tuple(f"{at}.{path}" for path in (encoder.out, encoder.down))
        norms += tuple(f"{at}.{path}" for path in encoder.norms)
    readers += tuple(path.format(base=base) for path in encoder.head_readers)
    return Hidden(
        embeddings=tuple(path for path in embeddings if path in names),
        writers=writers,
        readers=readers,
        norms=norms,
    )


def _sorted(model: nn.Module, sites: Sequence[Site], **rest: Any) -> Structure:
    ordered = sorted(sites, key=lambda site: (site.layer, site.kind != "attention"))
    return Structure(
        sites=tuple(site for site in ordered if site.units(model) > 0),
        removed=tuple(site for site in ordered if site.units(model) == 0),
        **rest,
    )


def _paths_exist(model: nn.Module, structure: Structure) -> None:
    """A site is whole or removed; a path that is neither is a mistake in `structure()`."""
    for site in structure.sites:
        for path, rows in site.producers:
            features = getattr(model.get_submodule(path), "out_features", None)
            if features != rows * site.units(model):
                raise ValueError(
                    f"{path} puts out {features} features, but {site.consumer} takes {site.units(model)} "
                    f"units of {rows}"
                )
    for site in structure.removed:
        if not any(_is_removed(model, stub.path) for stub in site.removal):
            raise AttributeError(f"there is no {site.consumer} that takes units")
    for path in filter(None, (structure.layers, structure.token_embedding)):
        model.get_submodule(path)


def _is_removed(model: nn.Module, path: str) -> bool:
    from compress.model.removed import Removed

    try:
        return isinstance(model.get_submodule(path), Removed)
    except AttributeError:
        return False
