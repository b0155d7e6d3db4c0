"""Structure of the Hugging Face encoders that are known: of texts, and of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from compress.model.structure.find import Coupled, Site, Structure, Stub, UnknownStructureError, sorted_sites

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
    patches: str | None = None  # what takes the place of embeddings in a model of pictures
    tables: tuple[str, ...] = ()


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
_VIT = _Encoder(
    layers="{base}.layers",
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    out="attention.o_proj",
    up="mlp.fc1",
    down="mlp.fc2",
    attention_removal=(Stub("attention", "bias", as_tuple=True),),
    feed_forward_removal=(Stub("mlp", "bias"),),
    norms=("layernorm_before", "layernorm_after"),
    head_readers=("classifier", "cls_classifier", "distillation_classifier"),
    embeddings=(),
    patches="{base}.embeddings.patch_embeddings.projection",
    tables=("cls_token", "distillation_token", "position_embeddings"),
)
ENCODERS = {
    "bert": _BERT,
    "deit": _VIT,
    "electra": replace(_BERT, head_readers=("classifier.dense",)),
    "roberta": replace(_BERT, head_readers=("classifier.dense",)),
    "vit": _VIT,
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
    """What can be cut in such a model.

    Raises:
        UnknownStructureError: transformers is too old for models of pictures.
    """
    base = getattr(model, "base_model_prefix", "")
    layers = encoder.layers.format(base=base)
    config: Any = model.config
    if encoder.patches is not None and not hasattr(getattr(model, base, None), "layers"):
        # Before, their attention counted its heads by the configuration: fewer could not be computed.
        raise UnknownStructureError(
            f"a Hugging Face {config.model_type} can be cut with transformers 5.10 or newer; install that, "
            "or quantize without cutting"
        )
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
        token_embedding=None if encoder.patches else f"{base}.embeddings.word_embeddings",
        hidden=_hf_hidden(model, encoder, base, [f"{layers}.{index}" for index in range(count)]),
    )


def _under(at: str, stubs: Sequence[Stub]) -> tuple[Stub, ...]:
    return tuple(replace(stub, path=f"{at}.{stub.path}") for stub in stubs)


def _hf_hidden(model: nn.Module, encoder: _Encoder, base: str, layers: Sequence[str]) -> Coupled:
    names = dict(model.named_modules())
    into = _into_the_stream(encoder, base, names)
    writers, norms, readers = into.writers, into.norms, into.readers
    for at in layers:
        readers += tuple(f"{at}.{path}" for path in (encoder.q, encoder.k, encoder.v, encoder.up))
        writers += tuple(f"{at}.{path}" for path in (encoder.out, encoder.down))
        norms += tuple(f"{at}.{path}" for path in encoder.norms)
    heads = (path.format(base=base) for path in encoder.head_readers)
    return replace(
        into,
        embeddings=tuple(path for path in into.embeddings if path in names),
        writers=writers,
        readers=readers + tuple(path for path in heads if not encoder.patches or path in names),
        norms=norms,
    )


def _into_the_stream(encoder: _Encoder, base: str, names: Mapping[str, nn.Module]) -> Coupled:
    """What has the hidden width before the first layer and, of a model that norms first, behind the last."""
    at = f"{base}.embeddings"
    if encoder.patches is not None:
        return Coupled(
            writers=(encoder.patches.format(base=base),),
            norms=(f"{base}.layernorm",),
            tables=tuple(f"{at}.{name}" for name in encoder.tables if hasattr(names[at], name)),
        )
    if f"{base}.embeddings_project" in names:
        # ELECTRA may embed narrower and project: then the projection alone writes into the stream.
        return Coupled(writers=(f"{base}.embeddings_project",))
    return Coupled(
        embeddings=tuple(f"{at}.{name}" for name in encoder.embeddings), norms=(f"{at}.LayerNorm",)
    )
