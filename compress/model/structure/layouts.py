"""Layouts: where an architecture's parts are. One table entry per known Hugging Face model type.

A `Layout` has the fields that a module's `structure()` returns. In its paths `{layer}` is the path of each
layer in turn and `{base}` the model's `base_model_prefix`; a path in a tuple that ends in `?` is optional,
e.g. a pooler. To add an architecture, add an entry here and its sizes in tests/hf_families.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from compress.model.structure.sites import Coupled, Stub

__all__ = ["Attention", "FeedForward", "LAYOUTS", "Layout"]


@dataclass(frozen=True)
class Attention:
    """Projections of an attention block: q, k and v, or qkv if one Linear makes all three.

    Attributes:
        interleaved: the outputs of qkv are those of the first head (or group), then of the second ...;
            otherwise the queries of all heads, then all keys, then all values.
        head_size: features of a head; 0: from the model's configuration.
        queries_per_group: query heads that share a key/value head, those of one group adjacent in the outputs
            of q; such a group is then a unit. 0: from the configuration.
        removed: what replaces the block when no head is left; empty: one head is always kept.
        positions: projections of relative positions with a part for each head, other than q and k.
        numbers: a buffer for the original index of each head, see `Site`.
        name: of the block; empty: the common prefix of its paths.
    """

    out: str
    q: str | None = None
    k: str | None = None
    v: str | None = None
    qkv: str | None = None
    head_size: int = 0
    queries_per_group: int = 0
    removed: tuple[Stub, ...] = ()
    positions: tuple[str, ...] = ()
    numbers: str | None = None
    interleaved: bool = False
    name: str = ""

    @property
    def producers(self) -> tuple[str, ...]:
        """Paths of the projections to queries, keys and values, and of positions."""
        own = (path for path in (self.qkv, self.q, self.k, self.v) if path is not None)
        return (*own, *self.positions)


@dataclass(frozen=True)
class FeedForward:
    """Projections of a feed-forward: up and optionally gate, or gate_up if one Linear makes both.

    Attributes:
        removed: what replaces the block when no neuron is left; empty: one neuron is always kept.
        name: of the block; empty: the common prefix of its paths.
    """

    down: str
    up: str | None = None
    gate: str | None = None
    gate_up: str | None = None
    removed: tuple[Stub, ...] = ()
    name: str = ""

    @property
    def producers(self) -> tuple[str, ...]:
        """Paths of the projections to the neurons."""
        return tuple(path for path in (self.gate_up, self.up, self.gate) if path is not None)


@dataclass(frozen=True)
class Layout:
    """Where the parts of an architecture are; what is None or empty can't be cut.

    Attributes:
        layers: path of the nn.ModuleList of layers; with `*` several lists, whose layers are called more than
            once, so that none can be removed or timed by itself.
        attention: blocks; one whose paths have `{layer}` occurs in each layer.
        feed_forward: blocks, likewise.
        token_embedding: path of the token embedding.
        hidden: everything that has the hidden width.
        channels: filters and hidden units, by group.
        embeddings_project: optional projection after embeddings that may be narrower than the hidden width;
            if it exists, it writes the hidden features, and `{base}.embeddings` doesn't.
        since: first transformers version whose modules have these paths; empty: all supported versions.
        whole_attention: why no head can be cut, as the end of a sentence that names the architecture.
    """

    layers: str | None = None
    attention: tuple[Attention, ...] = ()
    feed_forward: tuple[FeedForward, ...] = ()
    token_embedding: str | None = None
    hidden: Coupled | None = None
    channels: tuple[Coupled, ...] = ()
    embeddings_project: str | None = None
    since: str = ""
    whole_attention: str = ""


def _transformer(
    layers: str,
    attention: Attention,
    feed_forward: FeedForward,
    token_embedding: str | None = None,
    *,
    norms: Sequence[str],
    heads: Sequence[str] = (),
    embeddings: Sequence[str] = (),
    writers: Sequence[str] = (),
    tables: Sequence[str] = (),
) -> Layout:
    """Layout of layers that all read and write one residual stream.

    Args:
        norms: norms of the stream.
        heads: modules that read the stream after the last layer; with `|` between, the first that is present.
        embeddings: those other than `token_embedding`.
        writers: modules that write the stream before the first layer.
        tables: as in `Coupled`.
    """
    return Layout(
        layers=layers,
        attention=(attention,),
        feed_forward=(feed_forward,),
        token_embedding=token_embedding,
        hidden=Coupled(
            embeddings=(*((token_embedding,) if token_embedding else ()), *embeddings),
            writers=(*writers, attention.out, feed_forward.down),
            readers=(*attention.producers, *feed_forward.producers, *heads),
            norms=tuple(norms),
            tables=tuple(tables),
        ),
    )


_BERT_FEED_FORWARD = FeedForward(
    up="{layer}.intermediate.dense",
    down="{layer}.output.dense",
    removed=(Stub("{layer}.intermediate", "input"), Stub("{layer}.output.dense", "bias")),
    name="{layer}.output",
)
_BERT = _transformer(
    "{base}.encoder.layer",
    Attention(
        q="{layer}.attention.self.query",
        k="{layer}.attention.self.key",
        v="{layer}.attention.self.value",
        out="{layer}.attention.output.dense",
        removed=(
            Stub("{layer}.attention.self", "input", as_tuple=True),
            Stub("{layer}.attention.output.dense", "bias"),
        ),
    ),
    _BERT_FEED_FORWARD,
    "{base}.embeddings.word_embeddings",
    embeddings=("{base}.embeddings.position_embeddings?", "{base}.embeddings.token_type_embeddings?"),
    norms=("{base}.embeddings.LayerNorm", "{layer}.attention.output.LayerNorm", "{layer}.output.LayerNorm"),
    heads=("{base}.pooler.dense|classifier.dense|classifier?",),
)
# Without `hidden`: the table of distances is read by q and k too, and is not a token embedding.
_DEBERTA_V2 = Layout(
    layers="{base}.encoder.layer",
    attention=(
        Attention(
            q="{layer}.attention.self.query_proj",
            k="{layer}.attention.self.key_proj",
            v="{layer}.attention.self.value_proj",
            positions=("{layer}.attention.self.pos_key_proj?", "{layer}.attention.self.pos_query_proj?"),
            out="{layer}.attention.output.dense",
            removed=(
                Stub("{layer}.attention.self", "input", as_tuple=True),
                Stub("{layer}.attention.output.dense", "bias"),
            ),
        ),
    ),
    feed_forward=(_BERT_FEED_FORWARD,),
    token_embedding="{base}.embeddings.word_embeddings",
)
_DISTILBERT = _transformer(
    "{base}.transformer.layer",
    Attention(
        q="{layer}.attention.q_lin",
        k="{layer}.attention.k_lin",
        v="{layer}.attention.v_lin",
        out="{layer}.attention.out_lin",
        removed=(Stub("{layer}.attention", "bias", as_tuple=True),),
    ),
    FeedForward(up="{layer}.ffn.lin1", down="{layer}.ffn.lin2", removed=(Stub("{layer}.ffn", "bias"),)),
    "{base}.embeddings.word_embeddings",
    embeddings=("{base}.embeddings.position_embeddings",),
    norms=("{base}.embeddings.LayerNorm", "{layer}.sa_layer_norm", "{layer}.output_layer_norm"),
    heads=("pre_classifier|classifier",),
)
_VIT = replace(
    _transformer(
        "{base}.layers",
        Attention(
            q="{layer}.attention.q_proj",
            k="{layer}.attention.k_proj",
            v="{layer}.attention.v_proj",
            out="{layer}.attention.o_proj",
            removed=(Stub("{layer}.attention", "bias", as_tuple=True),),
        ),
        FeedForward(up="{layer}.mlp.fc1", down="{layer}.mlp.fc2", removed=(Stub("{layer}.mlp", "bias"),)),
        norms=("{base}.layernorm", "{layer}.layernorm_before", "{layer}.layernorm_after"),
        heads=("classifier?", "cls_classifier?", "distillation_classifier?"),
        writers=("{base}.embeddings.patch_embeddings.projection",),
        tables=(
            "{base}.embeddings.cls_token",
            "{base}.embeddings.distillation_token?",
            "{base}.embeddings.position_embeddings",
        ),
    ),
    since="5.10",  # earlier, attention took its number of heads from the configuration, so fewer didn't work
)


_LLAMA_ATTENTION = Attention(  # without `removed`: a cache expects keys and values from each layer
    q="{layer}.self_attn.q_proj",
    k="{layer}.self_attn.k_proj",
    v="{layer}.self_attn.v_proj",
    out="{layer}.self_attn.o_proj",
)
_LLAMA_FEED_FORWARD = FeedForward(
    up="{layer}.mlp.up_proj",
    gate="{layer}.mlp.gate_proj",
    down="{layer}.mlp.down_proj",
    removed=(Stub("{layer}.mlp", "bias"),),
)


def _llama(
    *more_norms: str,
    attention: Attention = _LLAMA_ATTENTION,
    feed_forward: FeedForward = _LLAMA_FEED_FORWARD,
    before: str = "{layer}.input_layernorm",
) -> Layout:
    """Layers like Llama's, with further norms; `before`: the norm in front of attention, if there is one."""
    return _transformer(
        "{base}.layers",
        attention,
        feed_forward,
        "{base}.embed_tokens",
        norms=(before, "{layer}.post_attention_layernorm", "{base}.norm", *more_norms),
        heads=("lm_head?", "score?"),
    )


_GPT2 = _transformer(
    "{base}.h",
    Attention(qkv="{layer}.attn.c_attn", out="{layer}.attn.c_proj"),
    FeedForward(up="{layer}.mlp.c_fc", down="{layer}.mlp.c_proj", removed=(Stub("{layer}.mlp", "bias"),)),
    "{base}.wte",
    embeddings=("{base}.wpe",),
    norms=("{layer}.ln_1", "{layer}.ln_2", "{base}.ln_f"),
    heads=("lm_head?", "score?"),
)
_GPT_NEOX = _transformer(
    "{base}.layers",
    Attention(qkv="{layer}.attention.query_key_value", out="{layer}.attention.dense", interleaved=True),
    FeedForward(
        up="{layer}.mlp.dense_h_to_4h",
        down="{layer}.mlp.dense_4h_to_h",
        removed=(Stub("{layer}.mlp", "bias"),),
    ),
    "{base}.embed_in",
    norms=("{layer}.input_layernorm", "{layer}.post_attention_layernorm", "{base}.final_layer_norm"),
    heads=("embed_out|lm_head?", "score?"),
)
_MPNET = _transformer(
    "{base}.encoder.layer",
    Attention(
        q="{layer}.attention.attn.q",
        k="{layer}.attention.attn.k",
        v="{layer}.attention.attn.v",
        out="{layer}.attention.attn.o",
        removed=(Stub("{layer}.attention.attn", "bias", as_tuple=True),),
        numbers="{layer}.attention.attn.head_numbers",
    ),
    _BERT_FEED_FORWARD,
    "{base}.embeddings.word_embeddings",
    embeddings=("{base}.embeddings.position_embeddings",),
    norms=("{base}.embeddings.LayerNorm", "{layer}.attention.LayerNorm", "{layer}.output.LayerNorm"),
    heads=("{base}.pooler.dense|classifier.dense|classifier?",),
)
_MODERNBERT = _transformer(
    "{base}.layers",
    Attention(
        qkv="{layer}.attn.Wqkv",
        out="{layer}.attn.Wo",
        removed=(Stub("{layer}.attn", "bias", as_tuple=True),),
    ),
    FeedForward(gate_up="{layer}.mlp.Wi", down="{layer}.mlp.Wo", removed=(Stub("{layer}.mlp", "bias"),)),
    "{base}.embeddings.tok_embeddings",
    norms=("{base}.embeddings.norm", "{layer}.attn_norm?", "{layer}.mlp_norm", "{base}.final_norm"),
    heads=("head.dense?",),
)
_ALBERT = replace(
    _transformer(
        "{base}.encoder.albert_layer_groups.*.albert_layers",
        # Norm and residual are inside the attention module, so it can't be removed.
        Attention(
            q="{layer}.attention.query",
            k="{layer}.attention.key",
            v="{layer}.attention.value",
            out="{layer}.attention.dense",
        ),
        FeedForward(
            up="{layer}.ffn",
            down="{layer}.ffn_output",
            removed=(Stub("{layer}.ffn", "input"), Stub("{layer}.ffn_output", "bias")),
            name="{layer}.ffn",
        ),
        norms=("{layer}.attention.LayerNorm", "{layer}.full_layer_layer_norm"),
        heads=("{base}.pooler|classifier?",),
        writers=("{base}.encoder.embedding_hidden_mapping_in",),
    ),
    token_embedding="{base}.embeddings.word_embeddings",  # its width differs from the hidden width
)
_ROTARY_ATTENTION = replace(_LLAMA_ATTENTION, removed=(Stub("{layer}.self_attn", "bias", as_tuple=True),))


def _rotary_bert(feed_forward: FeedForward) -> Layout:
    """A BERT with rotary positions, and norms after each residual sum."""
    return _transformer(
        "{base}.layers",
        _ROTARY_ATTENTION,
        feed_forward,
        "{base}.embeddings.word_embeddings",
        embeddings=("{base}.embeddings.token_type_embeddings?",),
        norms=(
            "{base}.embeddings.LayerNorm",
            "{layer}.post_attention_layernorm",
            "{layer}.post_mlp_layernorm",
        ),
        heads=("{base}.pooler.dense|classifier.dense|classifier?",),
    )


_GTE = _rotary_bert(_LLAMA_FEED_FORWARD)
_JINA_V3 = _rotary_bert(
    FeedForward(up="{layer}.mlp.fc1", down="{layer}.mlp.fc2", removed=(Stub("{layer}.mlp", "bias"),))
)
_EUROBERT = _transformer(
    "{base}.layers",
    _ROTARY_ATTENTION,
    _LLAMA_FEED_FORWARD,
    "{base}.embed_tokens",
    norms=("{layer}.input_layernorm", "{layer}.post_attention_layernorm", "{base}.norm"),
    heads=("dense|classifier?",),
)
_LLAMA = _llama()
_GEMMA2 = _llama("{layer}.pre_feedforward_layernorm", "{layer}.post_feedforward_layernorm")
_PHI3 = _llama(
    attention=Attention(qkv="{layer}.self_attn.qkv_proj", out="{layer}.self_attn.o_proj"),
    feed_forward=FeedForward(
        gate_up="{layer}.mlp.gate_up_proj",
        down="{layer}.mlp.down_proj",
        removed=(Stub("{layer}.mlp", "bias"),),
    ),
)
_OLMO2 = replace(
    _llama("{layer}.post_feedforward_layernorm", before="{layer}.input_layernorm?"),
    whole_attention="OLMo 2 has norms that span all heads; its neurons, layers and width can be cut",
)

LAYOUTS = {
    "albert": _ALBERT,
    "bert": _BERT,
    "camembert": _BERT,
    "deberta-v2": _DEBERTA_V2,
    "deit": _VIT,
    "distilbert": _DISTILBERT,
    "electra": replace(_BERT, embeddings_project="{base}.embeddings_project"),
    "eurobert": _EUROBERT,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "gte": _GTE,
    "jina_embeddings_v3": _JINA_V3,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "modernbert": _MODERNBERT,
    "mpnet": _MPNET,
    "nomic_bert": _GTE,
    "olmo2": _OLMO2,
    "phi3": _PHI3,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _BERT,
    "smollm3": _LLAMA,
    "vit": _VIT,
    "xlm-roberta": _BERT,
}
