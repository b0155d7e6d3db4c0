"""Make transformers modules that store a width derive it from their projections instead, so they can be cut.

Outputs and weight names are unchanged; a module's class becomes a subclass of the same name.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["HEAD_NUMBERS", "adapted_"]

HEAD_NUMBERS = "head_numbers"
"""Buffer of an attention module, int64 [heads]: the original index of each head, once some were cut."""


def adapted_(module: nn.Module) -> nn.Module:
    """Adapt a Hugging Face model in place: transposed Linears; attention of GPT-2, MPNet and DeBERTa-v2."""
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
        own, kind = vars(child), type(child)
        fused = getattr(child, "c_attn", None)
        if isinstance(fused, nn.Linear) and fused.out_features == 3 * own.get("split_size", 0):
            del child.split_size
            made[kind] = made.get(kind) or _splitting_by_width(kind)
            child.__class__ = made[kind]
        elif kind.__name__ == "MPNetSelfAttention" and "all_head_size" in own:
            del child.all_head_size
            made[kind] = made.get(kind) or _biased_by_number(kind)
            child.__class__ = made[kind]
        elif kind.__name__ == "DisentangledSelfAttention" and "num_attention_heads" in own:
            del child.num_attention_heads
            made[kind] = made.get(kind) or _counting_heads(kind)
            child.__class__ = made[kind]
    return module


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
