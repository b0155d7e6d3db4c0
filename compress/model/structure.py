"""Structure: what can be cut in a model, as data, and the cutting itself.

Known for the Hugging Face encoders named in `_ENCODERS`, and for any module that offers `structure()`: a dict
of module paths,
    {"attention": [{"q": path, "k": path, "v": path, "out": path, "head_size": int}, ...], "layers": path}
as `models/transformer.py` does; `layers`, the path of the nn.ModuleList, is needed to distil alone. Cutting
makes tensors physically smaller.
Shapes: h = heads, d = head size, o = output features, i = input features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.errors import ModelError

__all__ = ["AttentionSite", "Structure", "keep_heads_", "known_architectures", "structure_of"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention block: the paths of its four projections.

    Attributes:
        head_size: features of one head; the number of heads is what the projections hold now.
    """

    q: str
    k: str
    v: str
    out: str
    head_size: int

    def heads(self, model: nn.Module) -> int:
        """How many heads the block has now."""
        return _linear(model, self.q).out_features // self.head_size


@dataclass(frozen=True)
class Structure:
    """What can be cut: attention blocks in order, and the path of the list of layers (none: not said)."""

    attention: tuple[AttentionSite, ...]
    layers: str | None


@dataclass(frozen=True)
class _Encoder:
    layers: str
    q: str
    k: str
    v: str
    out: str


_BERT_LIKE = _Encoder(
    layers="{base}.encoder.layer",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    out="attention.output.dense",
)
_ENCODERS = {
    "bert": _BERT_LIKE,
    "electra": _BERT_LIKE,
    "roberta": _BERT_LIKE,
    "distilbert": _Encoder(
        layers="{base}.transformer.layer",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        out="attention.out_lin",
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


def _from_module(model: nn.Module, offered: dict[str, object]) -> Structure:
    try:
        sites = tuple(AttentionSite(**site) for site in offered["attention"])  # type: ignore[attr-defined]
        layers = offered.get("layers")
        for site in sites:
            for path in (site.q, site.k, site.v, site.out):
                _linear(model, path)
        if layers is not None:
            model.get_submodule(str(layers))
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{type(model).__name__}.structure() is wrong: {error}; see compress/model/structure.py for its "
            "form"
        ) from error
    return Structure(sites, None if layers is None else str(layers))


def _from_hf(model: nn.Module, encoder: _Encoder) -> Structure:
    layers = encoder.layers.format(base=getattr(model, "base_model_prefix", ""))
    sites = []
    for index, _ in enumerate(model.get_submodule(layers).children()):
        at = f"{layers}.{index}"
        config = model.config
        head_size = int(config.hidden_size) // int(config.num_attention_heads)  # type: ignore[union-attr, arg-type]
        sites.append(
            AttentionSite(
                f"{at}.{encoder.q}",
                f"{at}.{encoder.k}",
                f"{at}.{encoder.v}",
                f"{at}.{encoder.out}",
                head_size,
            )
        )
    return Structure(tuple(sites), layers)


def _linear(model: nn.Module, path: str) -> nn.Linear:
    module = model.get_submodule(path)
    if not isinstance(module, nn.Linear):
        raise ModelError(
            f"{path} is {type(module).__name__}, not a float Linear: it can't be cut (cut before quantizing)"
        )
    return module


def keep_heads_(model: nn.Module, site: AttentionSite, heads: Sequence[int]) -> None:
    """Keep only these heads of one block: rows of q, k and v and columns of out go, in place.

    The model's answer is that of the model with the other heads' outputs set to zero, up to rounding.
    """
    kept = sorted(set(heads))
    total = site.heads(model)
    if not kept or kept[0] < 0 or kept[-1] >= total:
        raise ModelError(
            f"{site.out}: heads to keep must be some of 0..{total - 1}, at least one; got {list(heads)}"
        )
    features = (
        torch.tensor(kept)[:, None] * site.head_size + torch.arange(site.head_size)
    ).flatten()  # [h*d]
    for path in (site.q, site.k, site.v):
        linear = _linear(model, path)
        bias = None if linear.bias is None else linear.bias[features.to(linear.weight.device)]
        _replace_(model, path, linear.weight[features.to(linear.weight.device)], bias)
    out = _linear(model, site.out)
    _replace_(model, site.out, out.weight[:, features.to(out.weight.device)], out.bias)


def _replace_(model: nn.Module, path: str, weight: Tensor, bias: Tensor | None) -> None:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    linear.train(model.training)
    model.set_submodule(path, linear)
