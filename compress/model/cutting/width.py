"""Cut coupled features: remove a feature at once from every tensor that has an entry for it.

The hidden width between layers is one such group; filters of convolutions and hidden units of recurrent
layers are others.
Shapes: m = features of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model.cutting.narrow import Role, Shared, count_features, keep_in_module_, spread
from compress.model.files.definition import add_dense_
from compress.model.files.embedder import Embedder
from compress.model.layers.embedding import FactorizedEmbedding
from compress.model.layers.removed import Removed
from compress.model.structure.find import lacking, structure_of
from compress.model.structure.sites import Coupled

__all__ = ["feature_count", "hidden_group", "hidden_width", "keep_features_", "own_size_", "present_readers"]


def hidden_group(model: nn.Module) -> Coupled:
    """The group of everything that has the hidden width.

    Raises:
        ModelError: the model doesn't declare it.
    """
    hidden = structure_of(model).hidden
    if hidden is None:
        raise ModelError(
            f"{lacking(model, 'modules of the hidden width', 'hidden')}, so the width can't be cut",
            see="how-to/own-modules",
        )
    return hidden


def own_size_(model: nn.Module) -> None:
    """Give an embedder whose vectors are hidden features a dense layer, so that vectors keep their size.

    The layer is the identity, so no output changes.
    """
    if isinstance(model, Embedder) and not len(model.dense):
        add_dense_(model, torch.eye(hidden_width(model)))


def hidden_width(model: nn.Module) -> int:
    """Number of hidden features between layers.

    Raises:
        ModelError: the model doesn't declare what is coupled, it can't be cut, or the widths differ.
    """
    return feature_count(model, hidden_group(model))


def feature_count(model: nn.Module, group: Coupled) -> int:
    """Number of features of a group.

    Raises:
        ModelError: the group names what doesn't exist or can't be cut, or the counts differ.
    """
    counts = {path: _count(holder, path, role) for path, role, holder in _parts(model, group)}
    if not counts:
        raise ModelError(f"{type(model).__name__}.structure() names no module with {group.name} features")
    first, width = min(counts.items(), key=lambda item: item[1])
    in_groups = any(_is_in_groups(model, path) for path in group.norms if counts.get(path) == width)
    for path, other in counts.items():
        several = other % width == 0 and (in_groups or path in group.readers and _reads_several(model, path))
        if other != width and not several:
            raise ModelError(f"{path} has {other} {group.name} features, but {first} has {width}")
    return width


def present_readers(model: nn.Module, group: Coupled | None = None) -> tuple[str, ...]:
    """Paths of the layers that read a group's features (None: the hidden width), except removed ones.

    Raises:
        ModelError: as `hidden_width`.
    """
    return tuple(path for path, role, _ in _parts(model, group or hidden_group(model)) if role == "reader")


def keep_features_(model: nn.Module, features: Sequence[int], group: Coupled | None = None) -> None:
    """Keep only these features of a group, everywhere at once.

    The model then computes as if the other features were zero, except for LayerNorms: their mean and variance
    are over the remaining features.

    Args:
        features: indices, [<= m]; in any order.
        group: None: the hidden width between layers.

    Raises:
        ModelError: as `hidden_width`; a feature doesn't exist, or none is left; a module outside the group
            shares a weight.
    """
    group = group or hidden_group(model)
    width = feature_count(model, group)
    kept = sorted(set(features))
    if not kept or kept[0] < 0 or kept[-1] >= width:
        raise ModelError(f"{group.name} features to keep must be some of 0..{width - 1}, at least 1")
    if len(kept) == width:
        return
    parts = list(_parts(model, group))
    _nothing_outside(model, group, parts)
    index = torch.tensor(kept, dtype=torch.long)
    shared: Shared = {}
    for path, role, holder in parts:
        _cut_(holder, path, role, index, width, shared)


def _nothing_outside(model: nn.Module, group: Coupled, parts: Sequence[_Part]) -> None:
    """Check that no module outside the group shares a weight that is cut."""
    inside = {id(holder) for _, _, holder in parts}
    cut = {
        id(parameter): path
        for path, role, holder in parts
        for name, parameter in holder.named_parameters(recurse=False)
        if not (role == "reader" and name.startswith("bias"))
    }
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        for parameter in module.parameters(recurse=False):
            if id(parameter) in cut:
                raise ModelError(
                    f"{name} shares the weight of {cut[id(parameter)]} but is not among the {group.name} "
                    "features of structure(), so it would not be cut with it; list both there, or untie them"
                )


_Part = tuple[str, Role | None, nn.Module]
"""Path, role and module; without a role the module holds a table, or is the stub of a removed layer."""


def _parts(model: nn.Module, group: Coupled) -> Iterator[_Part]:
    """Yield each module that has one entry per feature of a group, once."""
    roles: tuple[tuple[Role | None, tuple[str, ...]], ...] = (
        ("embedding", group.embeddings),
        ("writer", group.writers),
        ("reader", group.readers),
        ("norm", group.norms),
        (None, group.tables),
    )
    seen: set[tuple[int, str]] = set()
    for role, paths in roles:
        for path in paths:
            holder = _holder(model, path, is_table=role is None)
            key = (id(holder), path if role is None else role)
            if holder is not None and key not in seen:
                seen.add(key)
                yield path, role, holder
    if group == structure_of(model).hidden:
        yield from _stubs(model)


def _stubs(model: nn.Module) -> Iterator[_Part]:
    seen: set[int] = set()
    for site in structure_of(model).removed:
        for stub in site.removal:
            module = model.get_submodule(stub.path)
            if isinstance(module, Removed) and module.returns == "bias" and id(module) not in seen:
                seen.add(id(module))
                yield stub.path, None, module


def _holder(model: nn.Module, path: str, *, is_table: bool) -> nn.Module | None:
    """The module to cut for a path; None if the sub-layer was removed."""
    at, names = model, path.split(".")
    for name in names[:-1] if is_table else names:
        if isinstance(at, Removed):
            return None
        if isinstance(at, FactorizedEmbedding) and name == "table":
            return at  # its own embedding is `rank` wide; its projection has the hidden width
        found = getattr(at, name, None)
        if not isinstance(found, nn.Module):
            raise ModelError(f"structure() names {path}, which is not a module of the model")
        at = found
    if isinstance(at, FactorizedEmbedding) and not isinstance(at.projection, nn.Linear):
        raise ModelError(
            f"{path}.projection is quantized, so it can't be cut; put prune stages before quantize stages"
        )
    return None if isinstance(at, Removed) else at


def _is_in_groups(model: nn.Module, path: str) -> bool:
    """Whether it is a convolution with several channels in a group, which then is a feature."""
    module = model.get_submodule(path)
    return (
        isinstance(module, nn.Conv1d | nn.Conv2d)
        and not module.groups == module.in_channels == module.out_channels
    )


def _reads_several(model: nn.Module, path: str) -> bool:
    return isinstance(model.get_submodule(path), nn.Linear)


def _count(holder: nn.Module, path: str, role: Role | None) -> int:
    if isinstance(holder, Removed):
        return int(holder.features)
    if isinstance(holder, FactorizedEmbedding):
        return int(holder.embedding_dim)
    return int(_table(holder, path).shape[-1]) if role is None else count_features(holder, path, role)


def _table(holder: nn.Module, path: str) -> Tensor:
    table = getattr(holder, path.rpartition(".")[2], None)
    if not isinstance(table, Tensor):
        raise ModelError(f"structure() names the table {path}, which is not a tensor of the model")
    return table


def _cut_(
    holder: nn.Module, path: str, role: Role | None, index: Tensor, before: int, shared: Shared
) -> None:
    if isinstance(holder, Removed):
        if holder.bias is not None:
            holder.bias = nn.Parameter(holder.bias.detach()[index].clone())
        holder.features = len(index)
    elif isinstance(holder, FactorizedEmbedding):
        keep_in_module_(holder.projection, "writer", index, before, shared)
        holder.embedding_dim = len(index)
    elif role is None:
        chosen = spread(index, _table(holder, path).shape[-1] // before)
        smaller = _table(holder, path).detach().index_select(-1, chosen).clone()
        name = path.rpartition(".")[2]
        if isinstance(_table(holder, path), nn.Parameter):
            setattr(holder, name, nn.Parameter(smaller, requires_grad=_table(holder, path).requires_grad))
        else:
            # Persistent from now on: the model's definition would compute a table of the full width.
            holder.register_buffer(name, smaller, persistent=True)
    else:
        keep_in_module_(holder, role, index, before, shared)
