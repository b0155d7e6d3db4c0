"""Replace float layers by quantized ones: shared code of the quantize stages.

Decides which layers can be replaced, which stay float and why, and handles layers used in several places.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from compress.data import PIXELS
from compress.errors import StageError
from compress.model.files.computed_weights import check_plain
from compress.model.layers.multihead import leave_fast_paths_
from compress.model.layers.quantized import QuantizedModule
from compress.quantize.patterns import check_names
from compress.quantize.recurrent import objection_to
from compress.quantize.unusual_layers import unusual_use

__all__ = [
    "Replaced",
    "convolutions_to_replace",
    "copy_to_change",
    "facts_of_change",
    "linears_to_replace",
    "recurrent_to_replace",
    "replace_layers",
    "replaced_share",
    "tables_by_weight",
    "tensor_bytes",
]

# A table below this fraction of the model's bytes (token types, short positions) is not worth an operator.
SMALL_TABLE_FRACTION = 0.001
_READ_BY_ATTENTION = "nn.MultiheadAttention reads its weight itself"
_PATCHES = "patch_embeddings.projection"  # of Hugging Face vision Transformers
Make = Callable[[str, Any], QuantizedModule]
Layer = nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.RNNBase
Found = list[tuple[str, Layer]]


@dataclass(frozen=True)
class Replaced:
    """Result of `replace_layers`.

    Attributes:
        model: the new model, in eval mode.
        facts: as returned by `facts_of_change`.
    """

    model: nn.Module
    facts: dict[str, Any]


def facts_of_change(before: nn.Module, after: nn.Module, left_float: Mapping[str, str]) -> dict[str, Any]:
    """Facts for the report: number of new layers of each kind, what stays float, and sizes.

    Args:
        left_float: name -> reason, for linear, convolution, embedding and recurrent layers that were not
            replaced, and for all other parameters with two or more dimensions.
    """
    kinds = Counter(each.kind for each in after.modules() if isinstance(each, QuantizedModule))
    return {
        "layers": dict(sorted(kinds.items())),
        "left_float": dict(left_float),
        "share_of_weights_replaced": replaced_share(_weights(before), after),
        "bytes_before": tensor_bytes(before),
        "bytes_after": tensor_bytes(after),
    }


def replace_layers(
    model: nn.Module,
    linear: Make,
    embedding: Make | None,
    skip: Sequence[str] = (),
    convolution: Make | None = None,
    recurrent: Make | None = None,
) -> Replaced:
    """Copy a model and replace its linear and embedding layers, convolutions and recurrent layers.

    A layer used in several places is replaced by one layer in the same places. A weight that two layers share
    (an embedding tied to the output) is quantized by each, unless `embedding` returns a table that reads the
    linear layer's.

    Args:
        model: left unchanged.
        linear: makes the new layer of an nn.Linear, given its (first) name and itself.
        embedding: makes the new layer of an nn.Embedding; None: embeddings stay float.
        skip: patterns of layer names (`classifier`, `bert.encoder.layer.0.*`) to leave float.
        convolution: makes the new layer of an nn.Conv1d or nn.Conv2d; None: convolutions stay float.
        recurrent: makes the new layer of an nn.LSTM; None: recurrent layers stay float.

    Raises:
        StageError: a pattern matches no layer, or nothing is left to quantize.
    """
    original, total = model, tensor_bytes(model)
    taken = (embedding is not None, skip, convolution is not None, recurrent is not None)
    going, left = _choose(model, *taken)
    model = _copied_around(model, [layer for _, layer in going if id(layer) not in left])
    found, left = _choose(model, *taken)
    made: dict[int, QuantizedModule] = {}
    for name, layer in found:
        if id(layer) in left:
            continue
        if id(layer) not in made:
            makers = {nn.Linear: linear, nn.Embedding: embedding, nn.LSTM: recurrent}
            make = makers.get(_plain(layer), convolution)
            assert make is not None
            made[id(layer)] = make(name, layer).to(_weight(layer).device).eval()
        model = _put(model, name, made[id(layer)])
    leave_fast_paths_(model)
    named = {name: left[id(layer)] for name, layer in found if id(layer) in left}
    left_float = {**named, **_floats_outside(model, named, total)}
    return Replaced(model, facts_of_change(original, model, left_float))


def linears_to_replace(
    model: nn.Module,
    embeddings: bool,
    skip: Sequence[str] = (),
    convolutions: bool = False,
    recurrent: bool = False,
) -> list[str]:
    """Names of the linear layers that `replace_layers` would replace; checks, cheaply, that it could.

    Args:
        embeddings: whether to replace embeddings too.
        convolutions: whether to replace convolutions.
        recurrent: whether to replace LSTMs.

    Raises:
        StageError: as `replace_layers` would.
    """
    found, left = _choose(model, embeddings, skip, convolutions, recurrent)
    return _first_names(found, left, (nn.Linear,))


def convolutions_to_replace(model: nn.Module, embeddings: bool, skip: Sequence[str] = ()) -> list[str]:
    """Names of the convolutions that would be replaced, together with LSTMs; see `linears_to_replace`."""
    found, left = _choose(model, embeddings, skip, True, True)
    return _first_names(found, left, (nn.Conv1d, nn.Conv2d))


def recurrent_to_replace(
    model: nn.Module, embeddings: bool, skip: Sequence[str] = (), convolutions: bool = False
) -> list[str]:
    """Names of the LSTMs that would be replaced; see `linears_to_replace`."""
    found, left = _choose(model, embeddings, skip, convolutions, True)
    return _first_names(found, left, (nn.LSTM,))


def _first_names(found: Found, left: dict[int, str], kinds: tuple[type[nn.Module], ...]) -> list[str]:
    names = {id(layer): name for name, layer in reversed(found) if id(layer) not in left}
    return [name for name, layer in found if isinstance(layer, kinds) and names.get(id(layer)) == name]


def copy_to_change(model: nn.Module, names: Sequence[str], device: str) -> nn.Module:
    """Copy a model whose weights will be changed, sharing the embedding tables with the original.

    Tables are half of a small model, and never changed before they are replaced.

    Args:
        names: linear layers that will be changed; a table that shares a weight with one of them is copied.
        device: where the copy will run. On any device but the CPU tables are copied, since they'd be moved.
    """
    changed = {id(p) for name in names for p in model.get_submodule(name).parameters()}
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    stay = [t for t in tables if id(t) not in changed and t.device.type == device == "cpu"]
    return copy.deepcopy(model, {id(table): table for table in stay}).eval()


def _copied_around(model: nn.Module, going: Sequence[nn.Module]) -> nn.Module:
    """Copy a model in eval mode, without copying the weights of layers that are replaced immediately."""
    replaced = {id(layer) for layer in going}
    kept = {id(p) for m in model.modules() if id(m) not in replaced for p in m.parameters(recurse=False)}
    memo = {id(p): p for m in going for p in m.parameters(recurse=False) if id(p) not in kept}
    return copy.deepcopy(model, memo).eval()


def _choose(
    model: nn.Module, embeddings: bool, skip: Sequence[str], convolutions: bool, recurrent: bool
) -> tuple[Found, dict[int, str]]:
    """Find all layers by name, and the reasons, by layer id, why some stay float."""
    check_plain(model)
    done = next((name for name, each in model.named_modules() if isinstance(each, QuantizedModule)), None)
    if done is not None:
        raise StageError(f"{done} is already quantized; start from the float model")
    found: Found = [
        (name, layer)
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, Layer)
    ]
    check_names("skip", skip, [name for name, _ in found])
    total = tensor_bytes(model)
    reasons = {
        name: "skipped by the recipe"
        if any(fnmatchcase(name, pattern) for pattern in skip)
        else _reason_to_leave(name, layer, model, total, embeddings, convolutions, recurrent)
        or unusual_use(layer)
        for name, layer in found
    }
    # A layer in two places is quantized in both or in neither.
    left = {id(layer): reasons[name] for name, layer in found if reasons[name]}
    if len(left) == len({id(layer) for _, layer in found}):
        raise StageError(_nothing_to_quantize(model, reasons))
    for name, layer in found:
        if id(layer) not in left:
            _check_float32(name, _weight(layer))
    return found, left


def _floats_outside(model: nn.Module, layers: Collection[str], total: int) -> dict[str, str]:
    """Parameters with two or more dimensions outside replaceable layers, and why they stay float.

    Args:
        model: after the replacement.
        layers: names of replaceable layers that stayed float.
        total: bytes of the original model.
    """
    found = {}
    for name, parameter in model.named_parameters():
        path, _, own = name.rpartition(".")
        if parameter.dim() < 2 or path in layers:
            continue
        holder = model.get_submodule(path)
        if parameter.nbytes < SMALL_TABLE_FRACTION * total:
            found[name] = "too small to matter"
        elif isinstance(holder, nn.MultiheadAttention):
            found[name] = _READ_BY_ATTENTION
        elif type(holder).__module__.startswith("torch.nn."):
            found[name] = f"no stage quantizes nn.{type(holder).__name__}"
        else:
            found[name] = f"{type(holder).__name__} uses {own} directly; only layers are replaced"
    return found


def replaced_share(weights: int, model: nn.Module) -> float:
    """Share of the original number of weights that are no longer parameters of the model."""
    return round(1 - _weights(model) / max(weights, 1), 4)


def _weights(model: nn.Module) -> int:
    """Number of elements in parameters, and in the float biases of layers without parameters."""
    biases = (
        each
        for layer in model.modules()
        if isinstance(layer, QuantizedModule)
        for name, each in layer.named_buffers(recurse=False)
        if name.startswith("bias")
    )
    return sum({id(each): each.numel() for each in (*model.parameters(), *biases)}.values())


def tensor_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; shared storage counts once."""
    tensors: Iterable[Tensor] = (*model.parameters(), *model.buffers())
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _reason_to_leave(
    name: str,
    layer: Layer,
    model: nn.Module,
    total: int,
    embeddings: bool,
    convolutions: bool,
    recurrent: bool,
) -> str:
    """Why a layer stays float; empty if it doesn't."""
    if type(layer).forward is not _plain(layer).forward:
        return f"{type(layer).__name__} overrides forward"
    if isinstance(layer, nn.Linear):
        parent = model.get_submodule(name.rpartition(".")[0]) if name else None
        inside = isinstance(parent, nn.MultiheadAttention)
        return _READ_BY_ATTENTION if inside else ""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        if not convolutions:
            return "this stage leaves convolutions float"
        if name.endswith(_PATCHES) and getattr(model, "main_input_name", "") == PIXELS:
            return "the model reads its weight's type itself"  # vision models of transformers do
        return "" if layer.padding_mode == "zeros" else f"padding_mode: {layer.padding_mode}"
    if isinstance(layer, nn.RNNBase):
        return objection_to(layer) if recurrent else "this stage leaves recurrent layers float"
    if not embeddings:
        return "embeddings: false"
    if layer.max_norm is not None:
        return "max_norm changes its rows when they are read"
    return "too small to matter" if layer.weight.nbytes < SMALL_TABLE_FRACTION * total else ""


def _plain(layer: Layer) -> type[Layer]:
    """The torch class of a layer, or the one that it derives from."""
    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU, nn.RNN, nn.RNNBase)
    return next(kind for kind in kinds if isinstance(layer, kind))


def _weight(layer: Layer) -> Tensor:
    """A layer's weight; the first one for a recurrent layer."""
    weight = layer.weight_ih_l0 if isinstance(layer, nn.RNNBase) else layer.weight
    assert isinstance(weight, Tensor)
    return weight


def tables_by_weight(model: nn.Module) -> dict[int, str]:
    """Map the id of each embedding table's weight to the table's name."""
    return {id(x.weight): name for name, x in model.named_modules() if isinstance(x, nn.Embedding)}


def _check_float32(name: str, weight: Tensor) -> None:
    if weight.dtype != torch.float32:
        raise StageError(
            f"{name}: weights are {weight.dtype}; load the model in float32, which quantizing needs"
        )


def _nothing_to_quantize(model: nn.Module, reasons: dict[str, str]) -> str:
    if not reasons:
        kinds = "nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d or nn.LSTM"
        return f"{type(model).__name__} has no {kinds} to quantize"
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return f"no layer of {type(model).__name__} is left to quantize ({listed})"


def _put(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Set a submodule; return the new module itself if the name is empty."""
    if not name:
        return new
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
    return model
