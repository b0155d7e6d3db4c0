"""Cut the width between layers: a hidden feature goes from everything that has one number for it.

Shapes: m = hidden features, o = output features, i = input features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model.embedding import FactorizedEmbedding
from compress.model.removed import Removed
from compress.model.structure import Structure, structure_of

__all__ = ["hidden_width", "keep_features_", "present_readers"]

_Role = Literal["embedding", "writer", "reader", "norm", "table", "removed"]
_SIZES: dict[_Role, str] = {
    "embedding": "embedding_dim",
    "writer": "out_features",
    "reader": "in_features",
    "removed": "features",
}
_PARTS: dict[_Role, tuple[tuple[str, int], ...]] = {  # parameters, and the dimension that the features have
    "embedding": (("weight", 1),),
    "writer": (("weight", 0), ("bias", 0)),
    "reader": (("weight", 1),),
    "norm": (("weight", 0), ("bias", 0)),
    "removed": (("bias", 0),),
}
# Old parameter by its id, with what took its place: a tied weight is cut once and stays tied.
_Shared = dict[int, tuple[Tensor, nn.Parameter]]


def hidden_width(model: nn.Module) -> int:
    """How many hidden features there are between layers.

    Raises:
        ModelError: the model doesn't say what is coupled, it can't be cut, or the widths don't agree.
    """
    widths = {path: _width(holder, path, role) for path, role, holder in _coupled(model)}
    if not widths:
        raise ModelError(f"{type(model).__name__}.structure() names nothing that has the hidden width")
    first, width = next(iter(widths.items()))
    for path, other in widths.items():
        if other != width:
            raise ModelError(f"{path} has {other} hidden features, but {first} has {width}")
    return width


def present_readers(model: nn.Module) -> tuple[str, ...]:
    """Paths of the Linear layers that read the hidden features; those of removed sub-layers are left out.

    Raises:
        ModelError: as `hidden_width`.
    """
    return tuple(path for path, role, _ in _coupled(model) if role == "reader")


def keep_features_(model: nn.Module, features: Sequence[int]) -> None:
    """Keep only these hidden features, everywhere at once.

    The model then computes as one in which the other features are silent, but for its LayerNorms: they take
    mean and variance over the features that are left.

    Args:
        features: indices, [<= m]; their order doesn't matter.

    Raises:
        ModelError: as `hidden_width`; or a feature that isn't there, or none.
    """
    width = hidden_width(model)
    kept = sorted(set(features))
    if not kept or kept[0] < 0 or kept[-1] >= width:
        raise ModelError(f"hidden features to keep must be some of 0..{width - 1}, at least 1")
    if len(kept) == width:
        return
    index = torch.tensor(kept, dtype=torch.long)
    shared: _Shared = {}
    for path, role, holder in list(_coupled(model)):
        _cut_(holder, path, role, index, shared)


def _coupled(model: nn.Module) -> Iterator[tuple[str, _Role, nn.Module]]:
    """Path, role and module of everything that has one number for each hidden feature, each once."""
    structure = structure_of(model)
    hidden = structure.hidden
    if hidden is None:
        raise ModelError(
            f"{type(model).__name__}.structure() doesn't say what has the hidden width ('hidden'): "
            "the width can't be cut"
        )
    groups: tuple[tuple[_Role, tuple[str, ...]], ...] = (
        ("embedding", hidden.embeddings),
        ("writer", hidden.writers),
        ("reader", hidden.readers),
        ("norm", hidden.norms),
        ("table", hidden.tables),
    )
    seen: set[tuple[int, str]] = set()
    for role, paths in groups:
        for path in paths:
            holder = _holder(model, path, role)
            key = (id(holder), path if role == "table" else role)
            if holder is not None and key not in seen:
                seen.add(key)
                yield path, role, holder
    yield from _stubs(model, structure)


def _stubs(model: nn.Module, structure: Structure) -> Iterator[tuple[str, _Role, nn.Module]]:
    for site in structure.removed:
        for stub in site.removal:
            module = model.get_submodule(stub.path)
            if isinstance(module, Removed) and module.returns == "bias":
                yield stub.path, "removed", module


def _holder(model: nn.Module, path: str, role: _Role) -> nn.Module | None:
    """The module that is cut for a path; none where the sub-layer was removed."""
    at, names = model, path.split(".")
    for name in names[:-1] if role == "table" else names:
        if isinstance(at, Removed):
            return None
        if isinstance(at, FactorizedEmbedding) and name == "table":
            return at  # its own embedding is `rank` wide; what has the hidden width is its projection
        found = getattr(at, name, None)
        if not isinstance(found, nn.Module):
            raise ModelError(f"structure() names {path}, but there is no such module")
        at = found
    if isinstance(at, Removed):
        return None
    kinds: dict[_Role, tuple[type[nn.Module], ...]] = {
        "embedding": (nn.Embedding, FactorizedEmbedding),
        "writer": (nn.Linear,),
        "reader": (nn.Linear,),
        "norm": (nn.LayerNorm,),
    }
    if role in kinds and not isinstance(at, kinds[role]):
        wanted = " or ".join(kind.__name__ for kind in kinds[role])
        raise ModelError(f"{path} is {type(at).__name__}, not {wanted}: the width can't be cut")
    if isinstance(at, FactorizedEmbedding) and not isinstance(at.projection, nn.Linear):
        raise ModelError(f"{path}.projection is quantized: it can't be cut (cut before quantizing)")
    return at


def _width(holder: nn.Module, path: str, role: _Role) -> int:
    if role == "table":
        return int(_table(holder, path).shape[-1])
    if isinstance(holder, nn.LayerNorm):
        return int(holder.normalized_shape[-1])
    return int(getattr(holder, _SIZES[role]))


def _table(holder: nn.Module, path: str) -> Tensor:
    table = getattr(holder, path.rpartition(".")[2], None)
    if not isinstance(table, Tensor):
        raise ModelError(f"structure() names the table {path}, but there is no such buffer")
    return table


def _cut_(holder: nn.Module, path: str, role: _Role, index: Tensor, shared: _Shared) -> None:
    count = len(index)
    if role == "table":
        smaller = _table(holder, path).index_select(-1, index).clone()
        # Persistent from now on: the model's definition would compute a table of the full width.
        holder.register_buffer(path.rpartition(".")[2], smaller, persistent=True)
    elif isinstance(holder, FactorizedEmbedding):
        _cut_(holder.projection, f"{path}.projection", "writer", index, shared)
        holder.embedding_dim = count
    else:
        for name, dim in _PARTS[role]:
            _cut_parameter_(holder, name, dim, index, shared)
        if isinstance(holder, nn.LayerNorm):
            holder.normalized_shape = (count,)
        else:
            setattr(holder, _SIZES[role], count)


def _cut_parameter_(module: nn.Module, name: str, dim: int, index: Tensor, shared: _Shared) -> None:
    old = getattr(module, name, None)
    if old is None:
        return
    if id(old) not in shared:
        smaller = old.detach().index_select(dim, index).clone()
        shared[id(old)] = (old, nn.Parameter(smaller, requires_grad=old.requires_grad))
    setattr(module, name, shared[id(old)][1])
