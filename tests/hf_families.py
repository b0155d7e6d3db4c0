"""Tiny random models of transformers' families, each with the kind of tokenizer that its makers use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

WORDS = (
    "good",
    "bad",
    "fine",
    "poor",
    "film",
    "plot",
    "a",
    "the",
    "was",
    "very",
    "not",
    "really",
    "so",
    "many",
)
TYPED = ["input_ids", "token_type_ids", "attention_mask"]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
WIDE_HEADS = {**GROUPED, "head_dim": 12}


@dataclass(frozen=True)
class Family:
    """A model type of transformers, its sizes, and its tokenizer: bert, roberta or decoder, and settings."""

    model_type: str
    tokenizer: str
    sizes: dict[str, Any] = field(default_factory=lambda: SIZES)
    settings: dict[str, Any] = field(default_factory=dict)


_ROBERTA = {**SIZES, "type_vocab_size": 1}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
_LEFT = {"padding_side": "left"}
_DISTANCES = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
_WINDOW_THEN_ALL = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}
_LONG_ROPE = {
    "original_max_position_embeddings": 20,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0, 1.2, 1.4, 1.6],
        "long_factor": [1.5, 4.0, 8.0, 12.0],
    },
}
FAMILIES = {
    "bert": Family("bert", "bert", settings={"model_input_names": TYPED}),
    "electra": Family("electra", "bert", {**SIZES, "embedding_size": 16}, {"model_input_names": TYPED}),
    "distilbert": Family(
        "distilbert",
        "bert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40},
    ),
    "roberta": Family("roberta", "roberta", _ROBERTA),
    "xlm-roberta": Family("xlm-roberta", "roberta", _ROBERTA),
    "camembert": Family("camembert", "roberta", _ROBERTA),
    "mpnet": Family("mpnet", "roberta"),
    "albert": Family("albert", "bert", {**SIZES, "embedding_size": 16}),
    "modernbert": Family("modernbert", "bert", {**SIZES, "local_attention": 6, "num_hidden_layers": 4}),
    "deberta-v2": Family(
        "deberta-v2", "bert", {**SIZES, **_DISTANCES, "type_vocab_size": 0}, {"model_input_names": TYPED}
    ),
    "nomic_bert": Family("nomic_bert", "bert", settings={"model_input_names": TYPED}),
    "gte": Family("gte", "roberta", _ROBERTA),
    "jina_embeddings_v3": Family("jina_embeddings_v3", "roberta", _ROBERTA),
    "eurobert": Family("eurobert", "bert", {**SIZES, "num_key_value_heads": 2}),
    "gpt2": Family("gpt2", "decoder", _GPT2),
    "gpt2, padded on the left": Family("gpt2", "decoder", _GPT2, _LEFT),
    "llama": Family("llama", "decoder", GROUPED),
    "mistral": Family("mistral", "decoder", {**GROUPED, "sliding_window": 6}, _LEFT),
    "qwen2": Family(
        "qwen2",
        "decoder",
        {**SIZES, "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 6}
        | {"max_window_layers": 1},
        _LEFT,
    ),
    "qwen3": Family("qwen3", "decoder", WIDE_HEADS),
    "gemma": Family("gemma", "decoder", GROUPED),
    "gemma2": Family("gemma2", "decoder", {**GROUPED, "sliding_window": 6}),
    "gemma3_text": Family(
        "gemma3_text",
        "decoder",
        {**WIDE_HEADS, **_WINDOW_THEN_ALL, "query_pre_attn_scalar": 12, "final_logit_softcapping": 4.0},
    ),
    "gpt_neox": Family("gpt_neox", "decoder", {**SIZES, "rotary_pct": 0.25}),
    "olmo2": Family("olmo2", "decoder", {**SIZES, "num_key_value_heads": 2}),
    "phi3": Family("phi3", "decoder", {**WIDE_HEADS, "sliding_window": 6}),
    "phi3, longrope": Family("phi3", "decoder", {**SIZES, "num_key_value_heads": 2, **_LONG_ROPE}),
    "smollm3": Family("smollm3", "decoder", {**WIDE_HEADS, "no_rope_layers": [1, 0]}, _LEFT),
}
_SPECIAL = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "decoder": ["<unk>", "<s>", "</s>", "<pad>"],
}
_PADS = {"bert": 0, "roberta": 1, "decoder": 3}


def write_family(
    directory: Path, family: Family, *, decoder: bool = False, tags: tuple[str, ...] = (), **changes: Any
) -> Path:
    """Save a classifier of three classes, a language model, or a tagger, whose answers differ by text."""
    import transformers

    words = _write_tokenizer(directory, family)
    labels = tags or tuple("abc")
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    classes = {} if decoder else named
    ids = {"pad_token_id": _PADS[family.tokenizer], "bos_token_id": None, "eos_token_id": 2}
    arguments = {"vocab_size": words, **ids, **family.sizes, **classes, **changes}
    config = transformers.AutoConfig.for_model(family.model_type, **arguments)
    kind = "CausalLM" if decoder else "TokenClassification" if tags else "SequenceClassification"
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(config)
    draw, factors = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.ndim > 1 or name.endswith("bias"):
                each.normal_(0, 0.25 if each.ndim > 1 else 0.1, generator=draw)
            else:  # a norm's factors, which a cut must take along
                each.add_(torch.randn(each.shape, generator=factors), alpha=0.1)
    model.save_pretrained(directory)
    return directory


def _write_tokenizer(directory: Path, family: Family) -> int:
    """Save the tokenizer and say how many tokens it has."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = _SPECIAL[family.tokenizer]
    unknown = next(token for token in special if "unk" in token.lower())
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": special[_PADS[family.tokenizer]], "unk_token": unknown}
    if family.tokenizer != "decoder":
        first, last = ("[CLS]", "[SEP]") if family.tokenizer == "bert" else ("<s>", "</s>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            special_tokens=[(token, vocabulary[token]) for token in (first, last)],
        )
        named |= {"cls_token": first, "sep_token": last}
    else:
        named |= {"bos_token": "<s>", "eos_token": "</s>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named, **family.settings)
    fast.save_pretrained(directory)
    return len(vocabulary)
