"""Keys: names of what is kept on disk, each a SHA-256 over everything that changes what is kept.

All of them are made here. In every key are the versions of the packages that compute, and a digest of our own
source: 0.1.0 in a working copy is another program every day. What a graph or a clock is part of (ONNX files,
latency tables, runs) also has the versions of the exporter and of the runtime. Only plain data goes in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from compress.data.split import Split, Splits

__all__ = [
    "architecture",
    "base_key",
    "fingerprint",
    "graph_key",
    "run_key",
    "source_digest",
    "stage_key",
    "targets_key",
    "timed_key",
    "training_key",
]

_COMPUTING = ("modelpress", "numpy", "torch", "torchao", "transformers")
_EXPORTING = ("onnx", "onnx-ir", "onnxruntime", "onnxscript")
_MEASURING = ("openvino",)
# Change what is shown, exported or measured, and no weight.
_SHOWING = ("cli", "report", "_starter", "__main__.py", "console.py", "progress.py", "progress_lines.py")
_BEHIND_WEIGHTS = (*_SHOWING, "export", "measure", "generate.py")


def fingerprint(*parts: Any) -> str:
    """SHA-256 over plain data, the versions and the source that weights depend on, hexadecimal."""
    return _digest(parts, _COMPUTING, _BEHIND_WEIGHTS)


def _exported(*parts: Any) -> str:
    """As `fingerprint`, of what is exported or timed too."""
    return _digest(parts, (*_COMPUTING, *_EXPORTING), _SHOWING)


def base_key(module: nn.Module, splits: Splits, *, train: Any, seed: int, device: str) -> str:
    """Of a recipe's model after its own training.

    Args:
        module: as it is loaded.
        train: the training's settings, as plain data; None: it isn't trained.
    """
    return fingerprint(
        "base", architecture(module), _weights(module), splits.fingerprint(), train, seed, device
    )


def stage_key(
    before: str,
    base: str,
    stage: tuple[str, Any],
    *,
    files: Sequence[tuple[str, str]],
    seed: int,
    unlabelled: Split | None,
    later: Any,
    timed: Any,
) -> str:
    """Of a model after a stage.

    Args:
        before: the key of the model that the stage is given.
        base: the key of the recipe's model, which may teach.
        stage: its name and settings.
        files: which its settings name, each with its SHA-256.
        later: the stages that follow, where this one looks at them.
        timed: of a stage that looks at a clock, what the recipe measures and exports, and the machine.
    """
    make = fingerprint if timed is None else _exported
    rows = None if unlabelled is None else unlabelled.fingerprint()
    return make("stage", before, base, stage, files, seed, rows, later, timed)


def graph_key(of: str, what: str, export: Any) -> str:
    """Of an ONNX file.

    Args:
        of: the key of the module.
        export: the export's settings.
    """
    return _exported("graph", of, what, export)


def timed_key(about: Any, *, later: Any, opset: int, baseline: str) -> str:
    """Of a latency table; the machine is noted beside it, so that another one's is refused in words.

    Args:
        about: what is timed and where: see `compress.prune.structured.latency_table`.
        later: the stages that what is timed goes through.
        baseline: SHA-256 of the file that it is timed in turns with.
    """
    return _exported("timed", about, later, opset, baseline)


def run_key(
    last: str, *, export: Any, measure: Any, machine: Mapping[str, str], shipped: Iterable[Path]
) -> str:
    """Of a finished run: its figures are this machine's.

    Args:
        last: the key of the module that is exported.
        shipped: files that are copied into the bundle.
    """
    files = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in shipped]
    parts = ("run", last, export, measure, dict(machine), files)
    return _digest(parts, (*_COMPUTING, *_EXPORTING, *_MEASURING), ())


def training_key(module: nn.Module, train: Split, validation: Split, settings: Any, **others: object) -> str:
    """Of all that a training depends on but its loss.

    Args:
        module: with its weights before the first step.
        others: plain data: the seed, the device...
    """
    rows = (train.fingerprint(), validation.fingerprint())
    return fingerprint("training", architecture(module), _weights(module), rows, settings, others)


def targets_key(teachers: Sequence[nn.Module], rows: Split, places: Sequence[str], device: str) -> str:
    """Of what teachers answer and hold on some rows, whose labels they don't see."""
    asked = [[architecture(each), _weights(each)] for each in teachers]
    return fingerprint("targets", asked, rows.fingerprint(labels=False), list(places), device)


def architecture(module: nn.Module) -> list[Any]:
    """What a module computes, but for its weights, as plain data.

    Its shapes are not enough: heads of another size, another activation or order of norms have the same.
    """
    from compress.model.files.definition import definition_of

    definition = definition_of(module)
    shapes = {name: [str(each.dtype), *each.shape] for name, each in module.state_dict().items()}
    # Of a module that we did not build all that it says of itself.
    return [
        type(module).__qualname__,
        repr(module) if definition is None else definition.fingerprint(),
        shapes,
    ]


def _weights(module: nn.Module) -> str:
    from compress.model.files.save import module_fingerprint

    return module_fingerprint(module)


def _digest(parts: Any, packages: Sequence[str], without: tuple[str, ...]) -> str:
    versions = {name: _version(name) for name in packages}
    text = json.dumps([versions, source_digest(without), parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def source_digest(without: Sequence[str] = (), root: Path = Path(__file__).parent) -> str:
    """SHA-256 over our own source, hexadecimal; files are read once a process.

    Args:
        without: files and folders of `root` that are left out.
    """
    kept = [each for each in _source(root) if each[0].split("/")[0] not in without]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


@cache
def _source(root: Path) -> list[tuple[str, str]]:
    files = sorted(root.rglob("*.py"))
    return [
        (path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
    ]
