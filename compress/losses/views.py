"""Views: capture values inside a model during a forward pass, by hooks on its modules.

Hooks see the inputs of fused attention (queries, keys, values), whatever its implementation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from compress.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.structure.sites import Site

__all__ = ["Watch", "attention_at", "head_count", "layer_paths"]


class Watch:
    """Captures the outputs of some modules in the last forward pass; of a tuple, only the first element.

    A context manager: the hooks are removed at exit.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], *, only_training: bool = False) -> None:
        """Add hooks to modules.

        Args:
            only_training: don't capture in evaluation mode, where nobody would release the tensors.
        """
        self._seen: dict[str, Tensor] = {}
        self._only_training = only_training
        self._handles = [
            model.get_submodule(path).register_forward_hook(self._look(path)) for path in sorted(set(paths))
        ]

    def _look(self, path: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if module.training or not self._only_training:
                self._seen[path] = output[0] if isinstance(output, tuple) else output

        return hook

    def take(self) -> dict[str, Tensor]:
        """Return and release the outputs since the last call, by path."""
        seen, self._seen = self._seen, {}
        return seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._seen = {}
        for handle in self._handles:
            handle.remove()


def layer_paths(model: nn.Module) -> list[str]:
    """Paths of a model's layers in order.

    Raises:
        ModelError: if the model's structure doesn't give them.
    """
    from compress.model.structure.find import lacking, structure_of

    path = structure_of(model).layers
    if path is None:
        raise ModelError(lacking(model, "layers", "layers"))
    return [f"{path}.{name}" for name, _ in model.get_submodule(path).named_children()]


def attention_at(model: nn.Module, layer: int) -> Site:
    """The attention site of a layer, with its query, key and value projections.

    Raises:
        ModelError: if there is none.
    """
    from compress.model.structure.find import structure_of

    for site in structure_of(model).attention:
        if site.layer == layer and len(site.producers) == 3:
            return site
    raise ModelError(
        f"layer {layer} of {type(model).__name__} has no attention with separate projections of queries, "
        "keys and values; omit losses.attention and losses.relations"
    )


def head_count(model: nn.Module, site: Site, producer: int = 0) -> int:
    """Number of heads that a projection of an attention site outputs."""
    made = site.producers[producer]
    return int(getattr(model.get_submodule(made.path), "out_features")) // made.rows  # noqa: B009
