"""Structure of the Hugging Face decoders that are known.

Where several query heads share one head of keys and values (grouped-query attention), a unit is such a group:
its key and value head with all queries that read it, so that what is left is grouped as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from compress.model.structure.find import Site, Structure, Stub, sorted_sites

__all__ = ["DECODERS", "decoder_structure"]


@dataclass(frozen=True)
class _Decoder:
    """Paths of a Hugging Face decoder, relative to a layer, but for the first two.

    Attributes:
        fused: one projection makes queries, keys and values, one behind the other; `q`, `k` and `v` are it.
    """

    layers: str
    token_embedding: str
    q: str
    k: str
    v: str
    out: str
    gate: str | None
    up: str
    down: str
    fused: bool = False
    feed_forward: str = "mlp"


_LLAMA = _Decoder(
    layers="model.layers",
    token_embedding="model.embed_tokens",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    out="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
)
DECODERS = {
    "gpt2": _Decoder(
        layers="transformer.h",
        token_embedding="transformer.wte",
        q="attn.c_attn",
        k="attn.c_attn",
        v="attn.c_attn",
        out="attn.c_proj",
        gate=None,
        up="mlp.c_fc",
        down="mlp.c_proj",
        fused=True,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
}


def decoder_structure(model: nn.Module, decoder: _Decoder) -> Structure:
    """What can be cut in such a model."""
    config: Any = model.config
    heads = int(config.num_attention_heads)
    kept = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    sites = []
    for index in range(len(list(model.get_submodule(decoder.layers).children()))):
        at = f"{decoder.layers}.{index}"
        group = heads // kept * size
        producers = ((decoder.q, group), (decoder.k, size), (decoder.v, size))[: 1 if decoder.fused else 3]
        sites.append(
            Site(
                name=f"{at}.{decoder.out.split('.')[0]}",
                kind="attention",
                layer=index,
                producers=tuple((f"{at}.{path}", rows) for path, rows in producers),
                consumer=f"{at}.{decoder.out}",
                unit_size=group,
                stacked=3 if decoder.fused else 1,
                queries=heads // kept,
            )
        )
        ups = (decoder.up,) if decoder.gate is None else (decoder.up, decoder.gate)
        sites.append(
            Site(
                name=f"{at}.{decoder.feed_forward}",
                kind="feed_forward",
                layer=index,
                producers=tuple((f"{at}.{path}", 1) for path in ups),
                consumer=f"{at}.{decoder.down}",
                unit_size=1,
                removal=(Stub(f"{at}.{decoder.feed_forward}", "bias"),),
            )
        )
    return sorted_sites(model, sites, layers=decoder.layers, token_embedding=decoder.token_embedding)
