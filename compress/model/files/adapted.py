"""Make transformers modules that store a width derive it from their projections instead, so they can be cut.

Outputs and weight names are unchanged; a module's class becomes a subclass of the same name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.model.limits import LONG_FREQUENCIES

__all__ = ["HEAD_NUMBERS", "adapted_"]

HEAD_NUMBERS = "head_numbers"
"""Buffer of an attention module, int64 [heads]: the original index of each head, once some were cut."""


def adapted_(module: nn.Module) -> nn.Module:
    """Adapt a transformers model in place: transposed Linears, scaled tables, attention of stored widths."""
    from transformers.pytorch_utils import Conv1D

    for path, child in list(module.named_modules()):
        if isinstance(child, Conv1D):
            features_in, features_out = child.weight.shape
            linear = nn.Linear(features_in, features_out, device="meta")
            linear.weight = nn.Parameter(child.weight.detach().t().contiguous())
            linear.bias = child.bias
            module.set_submodule(path, linear.train(child.training))
    made: dict[type[nn.Module], type[nn.Module]] = {}
    for child in module.modules():
        subclass, kind = _subclass_for_(child), type(child)
        if subclass is not None:
            made[kind] = made.get(kind) or subclass(kind)
            child.__class__ = made[kind]
    return module


def _subclass_for_(child: nn.Module) -> Callable[[type[nn.Module]], type[nn.Module]] | None:
    """What makes the class that derives what this module stores, which is removed; None: nothing to adapt."""
    own: dict[str, Any] = vars(child)
    table: Any = getattr(child, "embed_tokens", None)
    if type(table).__name__.endswith("TextScaledWordEmbedding"):
        own["embed_scale"] = float(table.scalar_embed_scale)
        del table.scalar_embed_scale, table.embed_scale
        table.__class__ = nn.Embedding
        return _scaling_its_table
    if type(child).__name__ in _ROTARY and own.get("rope_type") == "longrope":
        _add_long_frequencies_(child)
        return _choosing_by_row
    fused = getattr(child, "c_attn", None)
    if isinstance(fused, nn.Linear) and fused.out_features == 3 * own.get("split_size", 0):
        stored, subclass = "split_size", _splitting_by_width
    else:
        stored, subclass = _STORED.get(type(child).__name__, ("", _splitting_by_width))
    if stored not in own or (subclass is _counting_heads and not hasattr(child, "value_proj")):
        return None  # the first DeBERTa has a class of that name too, with one projection
    delattr(child, stored)
    return subclass


def _scaling_its_table(decoder: type[nn.Module]) -> type[nn.Module]:
    """Decoder class that scales its embeddings itself, so that their table is a plain one."""

    @functools.wraps(decoder.forward)
    def forward(self: Any, input_ids: Any = None, *others: Any, **rest: Any) -> Any:
        if input_ids is not None and rest.get("inputs_embeds") is None:
            rest["inputs_embeds"] = self.embed_tokens(input_ids) * self.embed_scale
            input_ids = None
        return decoder.forward(self, input_ids, *others, **rest)

    return type(decoder.__name__, (decoder,), {"forward": forward, "__module__": __name__})


def _choosing_by_row(rotary: type[nn.Module]) -> type[nn.Module]:
    """Rotary class that chooses the frequencies of long or short rows by the length of each row.

    transformers' looks at the longest row of a batch, so that a row's answers depend on the others.
    """

    def forward(self: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        is_long = position_ids.amax(-1, keepdim=True)[..., None] >= self.short_length  # [b, 1, 1]
        frequencies = torch.where(is_long, getattr(self, LONG_FREQUENCIES), self.original_inv_freq)
        half = position_ids[..., None].float() * frequencies
        angles = torch.cat((half, half), dim=-1)
        scale = self.attention_scaling
        return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)

    return type(rotary.__name__, (rotary,), {"forward": forward, "__module__": __name__})


def _add_long_frequencies_(rotary: Any) -> None:
    """Compute a rotary module's frequencies of long rows (Ding et al. 2024, "LongRoPE", arXiv 2402.13753)."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rotary.short_length = rotary.config.rope_parameters["original_max_position_embeddings"]
    compute = ROPE_INIT_FUNCTIONS["longrope"]
    found, _ = compute(rotary.config, rotary.original_inv_freq.device, seq_len=rotary.short_length + 1)
    rotary.register_buffer(LONG_FREQUENCIES, found, persistent=False)


class _WithHeads:
    """A configuration with another number of heads."""

    def __init__(self, config: Any, heads: int) -> None:
        self._config, self.num_attention_heads = config, heads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def _splitting_by_heads(attention: type[nn.Module]) -> type[nn.Module]:
    """Attention class that derives from the width of its output projection where its queries and keys end.

    It reads the number of query heads from its configuration, which all layers share.
    """
    heads = property(lambda self: self.o_proj.in_features // self.head_dim)
    groups = property(lambda self: self.heads // self.num_key_value_groups)
    config = property(lambda self: _WithHeads(vars(self)["config"], self.heads))
    members = {"heads": heads, "num_key_value_heads": groups, "config": config, "__module__": __name__}
    return type(attention.__name__, (attention,), members)


def _splitting_by_width(attention: type[nn.Module]) -> type[nn.Module]:
    """Attention class whose `split_size` is a third of its projection's outputs."""
    split_size = property(lambda self: self.c_attn.out_features // 3)
    return type(attention.__name__, (attention,), {"split_size": split_size, "__module__": __name__})


def _counting_heads(attention: type[nn.Module]) -> type[nn.Module]:
    """Attention class that derives its number of heads from the width of its values."""
    heads = property(lambda self: self.value_proj.out_features // self.attention_head_size)
    return type(attention.__name__, (attention,), {"num_attention_heads": heads, "__module__": __name__})


def _biased_by_number(attention: type[nn.Module]) -> type[nn.Module]:
    """Attention class that selects its heads' part of the position bias, which all layers share.

    The bias [b, h, s, s] has every head of the uncut model; `head_numbers` has those left in this layer.
    """

    def forward(
        self: Any, hidden_states: Tensor, attention_mask: Any = None, position_bias: Any = None, **rest: Any
    ) -> Any:
        left = getattr(self, HEAD_NUMBERS, None)
        if left is not None and position_bias is not None:
            position_bias = position_bias.index_select(1, left)
        return attention.forward(self, hidden_states, attention_mask, position_bias, **rest)

    width = property(lambda self: self.q.out_features)
    members = {"all_head_size": width, "forward": forward, "__module__": __name__}
    return type(attention.__name__, (attention,), members)


_ROTARY = [f"{name}RotaryEmbedding" for name in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3", "SmolLM3")]
_STORED = {  # by class: the width that it stores, and what makes the class that derives it
    "DisentangledSelfAttention": ("num_attention_heads", _counting_heads),
    "MPNetSelfAttention": ("all_head_size", _biased_by_number),
    "Phi3Attention": ("num_key_value_heads", _splitting_by_heads),
}
