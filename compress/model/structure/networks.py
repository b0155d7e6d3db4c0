"""Layouts of image networks that depend on the model: stages of other widths, blocks of several kinds.

Each function maps a Hugging Face model of its type to a layout. What reads and writes the same channels is
one group: those of a stage, which skip connections add, and those inside a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from compress.model.structure.layouts import Attention, FeedForward, Layout
from compress.model.structure.sites import Coupled

__all__ = ["NETWORKS"]

_POSITIONS = "each head has its column in a table of relative positions; its neurons can be cut"


class _Groups:
    """Groups of channels while a network is walked through: the last one is that of the skip connections."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[str]]] = {}
        self.name = ""

    def start(self, name: str) -> None:
        """Begin a group; what follows without a name belongs to it."""
        self.name = name

    def add(self, role: str, *paths: str, name: str = "") -> None:
        """Add paths to a group."""
        self.found.setdefault(name or self.name, {}).setdefault(role, []).extend(paths)

    def made(self) -> tuple[Coupled, ...]:
        """All groups that something writes and reads."""
        whole = ((name, each) for name, each in self.found.items() if {"writers", "readers"} <= each.keys())
        return tuple(
            Coupled(name, **{role: tuple(paths) for role, paths in each.items()}) for name, each in whole
        )


def _resnet(model: Any) -> Layout:
    groups, base = _Groups(), model.resnet
    groups.start("stem")
    _write(groups, "resnet.embedder.embedder")
    for path, layer in _layers_of(base.encoder.stages, "resnet.encoder.stages"):
        chain = [f"{path}.layer.{index}" for index in range(len(layer.layer))]
        groups.add("readers", f"{chain[0]}.convolution")
        if not isinstance(layer.shortcut, nn.Identity):
            groups.add("readers", f"{path}.shortcut.convolution")
            groups.start(path.rpartition(".layers.")[0].removeprefix("resnet.encoder."))
            _write(groups, f"{path}.shortcut")
        for before, after in zip(chain, chain[1:], strict=False):
            _write(groups, before, name=before.removeprefix("resnet.encoder."))
            groups.add("readers", f"{after}.convolution", name=before.removeprefix("resnet.encoder."))
        _write(groups, chain[-1])
    groups.add("readers", *_heads(model, "classifier.1"))
    return Layout(channels=groups.made())


def _mobilenet_v2(model: Any) -> Layout:
    groups, base, stem = _Groups(), model.mobilenet_v2, "mobilenet_v2.conv_stem"
    groups.start("first_conv")
    _write(groups, f"{stem}.first_conv")
    inner = groups.name
    if getattr(base.conv_stem, "expand_1x1", None) is not None:
        inner = _expand(groups, stem)
    groups.start("stem")
    _reduce(groups, stem, inner)
    for index, layer in enumerate(base.layer):
        path = f"mobilenet_v2.layer.{index}"
        inner = _expand(groups, path)
        if not layer.use_residual:
            groups.start(f"layers from {index}")
        _reduce(groups, path, inner)
    groups.add("readers", "mobilenet_v2.conv_1x1.convolution")
    groups.start("conv_1x1")
    _write(groups, "mobilenet_v2.conv_1x1")
    groups.add("readers", *_heads(model, "classifier"))
    return Layout(channels=groups.made())


def _expand(groups: _Groups, path: str) -> str:
    """An inverted residual's first convolution; returns the name of the group that it writes."""
    name = path.removeprefix("mobilenet_v2.")
    groups.add("readers", f"{path}.expand_1x1.convolution")
    _write(groups, f"{path}.expand_1x1", name=name)
    return name


def _reduce(groups: _Groups, path: str, inner: str) -> None:
    """An inverted residual's depthwise convolution, and the last one, which writes the current group."""
    groups.add("norms", f"{path}.conv_3x3.convolution", f"{path}.conv_3x3.normalization", name=inner)
    groups.add("readers", f"{path}.reduce_1x1.convolution", name=inner)
    _write(groups, f"{path}.reduce_1x1")


def _write(groups: _Groups, path: str, name: str = "") -> None:
    """A convolution with its norm."""
    groups.add("writers", f"{path}.convolution", name=name)
    groups.add("norms", f"{path}.normalization", name=name)


def _convnext(model: Any) -> Layout:
    groups, base = _Groups(), model.convnext
    groups.start("stage 0")
    groups.add("writers", "convnext.embeddings.patch_embeddings")
    groups.add("norms", "convnext.embeddings.layernorm")
    blocks: list[FeedForward] = []
    for number, stage in enumerate(base.encoder.stages):
        at = f"convnext.encoder.stages.{number}"
        if len(stage.downsampling_layer):
            groups.add("norms", f"{at}.downsampling_layer.0")
            groups.add("readers", f"{at}.downsampling_layer.1")
            groups.start(f"stage {number}")
            groups.add("writers", f"{at}.downsampling_layer.1")
        for index, layer in enumerate(stage.layers):
            path = f"{at}.layers.{index}"
            groups.add("norms", f"{path}.dwconv", f"{path}.layernorm")
            groups.add("readers", f"{path}.pwconv1")
            groups.add("writers", f"{path}.pwconv2")
            if layer.layer_scale_parameter is not None:
                groups.add("tables", f"{path}.layer_scale_parameter")
            blocks.append(FeedForward(up=f"{path}.pwconv1", down=f"{path}.pwconv2", name=path))
    groups.add("norms", "convnext.layernorm")
    groups.add("readers", *_heads(model, "classifier"))
    return Layout(channels=groups.made(), feed_forward=tuple(blocks))


def _swin(model: Any) -> Layout:
    """Neurons only: each head has its column in a table of relative positions."""
    stages = model.swin.encoder.layers
    return Layout(
        feed_forward=tuple(
            FeedForward(
                up=f"swin.encoder.layers.{stage}.blocks.{index}.mlp.fc1",
                down=f"swin.encoder.layers.{stage}.blocks.{index}.mlp.fc2",
            )
            for stage, each in enumerate(stages)
            for index in range(len(each.blocks))
        ),
        whole_attention=_POSITIONS,
    )


def _dinov2(model: Any) -> Layout:
    """Without the width: the classifier reads the class token and then the mean of the others."""
    gated = hasattr(model.dinov2.encoder.layer[0].mlp, "weights_in")
    return Layout(
        layers="{base}.encoder.layer",
        attention=(
            Attention(
                q="{layer}.attention.q_proj",
                k="{layer}.attention.k_proj",
                v="{layer}.attention.v_proj",
                out="{layer}.attention.o_proj",
            ),
        ),
        feed_forward=(
            FeedForward(gate_up="{layer}.mlp.weights_in", down="{layer}.mlp.weights_out")
            if gated
            else FeedForward(up="{layer}.mlp.fc1", down="{layer}.mlp.fc2"),
        ),
    )


def _beit(model: Any) -> Layout:
    """Heads only without relative positions, which have a number for each head."""
    config = model.config
    biased = config.use_relative_position_bias or config.use_shared_relative_position_bias
    attention = Attention(
        q="{layer}.attention.q_proj",
        k="{layer}.attention.k_proj",
        v="{layer}.attention.v_proj",
        out="{layer}.attention.o_proj",
    )
    return Layout(
        layers="{base}.layers",
        attention=(attention,),
        feed_forward=(FeedForward(up="{layer}.mlp.fc1", down="{layer}.mlp.fc2"),),
        whole_attention=_POSITIONS if biased else "",
    )


def _layers_of(stages: Any, path: str) -> Iterator[tuple[str, Any]]:
    for number, stage in enumerate(stages):
        for index, layer in enumerate(stage.layers):
            yield f"{path}.{number}.layers.{index}", layer


def _heads(model: nn.Module, path: str) -> tuple[str, ...]:
    """The classifier's path, if there is one."""
    try:
        return (path,) if not isinstance(model.get_submodule(path), nn.Identity) else ()
    except AttributeError:
        return ()


NETWORKS: dict[str, Callable[[Any], Layout]] = {
    "beit": _beit,
    "convnext": _convnext,
    "dinov2": _dinov2,
    "mobilenet_v2": _mobilenet_v2,
    "resnet": _resnet,
    "swin": _swin,
}
