"""Structure of the Hugging Face encoders that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from compress.model.structure import Coupled, Site, Structure, Stub, sorted_sites

__all__ = ["ENCODERS", "encoder_structure"]


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
ENCODERS = {
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


def encoder_structure(model: nn.Module, encoder: _Encoder) -> Structure:
    """What can be cut in such a model."""
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
    return sorted_sites(
        model,
        sites,
        layers=layers,
        token_embedding=f"{base}.embeddings.word_embeddings",
        hidden=_hf_hidden(model, encoder, base, [f"{layers}.{index}" for index in range(count)]),
    )


def _under(at: str, stubs: Sequence[Stub]) -> tuple[Stub, ...]:
    return tuple(replace(stub, path=f"{at}.{stub.path}") for stub in stubs)


def _hf_hidden(model: nn.Module, encoder: _Encoder, base: str, layers: Sequence[str]) -> Coupled:
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
    return Coupled(
        embeddings=tuple(path for path in embeddings if path in names),
        writers=writers,
        readers=readers,
        norms=norms,
    )
