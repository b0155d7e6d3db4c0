"""Cache keys: each is a SHA-256 over everything that affects what is stored under it.

All keys are made here. Each includes the versions of the packages that compute, and a digest of our own
source, because a working copy changes daily under one version number. Keys of ONNX files, latency tables and
runs also include the versions of exporter and runtime. Only plain data goes in.
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

    from compress.data.split import Split
    from compress.data.splits import Splits

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
_MEASURING = ("openvino", "scikit-learn")
# These change what is shown, exported or measured, but no weights.
_SHOWING = ("cli", "jobs", "report", "page", "deploy", "_starter", "__main__.py", "progress.py")
_BEHIND_WEIGHTS = (*_SHOWING, "export", "measure")


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex) over plain data, and the versions and source that weights depend on."""
    return _digest(parts, _COMPUTING, _BEHIND_WEIGHTS)


def _exported(*parts: Any) -> str:
    """As `fingerprint`, for results that are exported or timed."""
    return _digest(parts, (*_COMPUTING, *_EXPORTING), _SHOWING)


def base_key(module: nn.Module, splits: Splits, *, train: Any, seed: int, device: str) -> str:
    """Key of a recipe's model after its own training.

    Args:
        module: as loaded.
        train: training settings as plain data; None: not trained.
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
    """Key of a model after a stage.

    Args:
        before: key of the model that the stage receives.
        base: key of the recipe's model, which may be the teacher.
        stage: its name and settings.
        files: files named in its settings, each with its SHA-256.
        later: the stages that follow, if this one depends on them.
        timed: for a stage that measures time: the recipe's measure and export settings, and the machine.
    """
    make = fingerprint if timed is None else _exported
    rows = None if unlabelled is None else unlabelled.fingerprint()
    return make("stage", before, base, stage, files, seed, rows, later, timed)


def graph_key(of: str, what: str, export: Any) -> str:
    """Key of an ONNX file.

    Args:
        of: key of the module.
        export: export settings.
    """
    return _exported("graph", of, what, export)


def timed_key(about: Any, *, later: Any, opset: int, baseline: str) -> str:
    """Key of a latency table; the machine is stored next to it, so that a mismatch gets an explicit message.

    Args:
        about: what is timed and where: see `compress.prune.structured.latency_table`.
        later: the stages applied to what is timed.
        baseline: SHA-256 of the file timed in alternation with it.
    """
    return _exported("timed", about, later, opset, baseline)


def run_key(
    last: str,
    *,
    export: Any,
    measure: Any,
    machine: Mapping[str, str],
    shipped: Iterable[Path],
    texts: str | None = None,
) -> str:
    """Key of a finished run on this machine.

    Args:
        last: key of the exported module.
        shipped: files that are copied into the bundle.
        texts: of the texts that are measured as such, beyond the tokens of their rows.
    """
    files = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in shipped]
    parts = ("run", last, export, measure, dict(machine), files, texts)
    return _digest(parts, (*_COMPUTING, *_EXPORTING, *_MEASURING), ())


def training_key(module: nn.Module, train: Split, validation: Split, settings: Any, **others: object) -> str:
    """Key of everything that a training depends on except its loss.

    Args:
        module: with its weights before the first step.
        others: plain data: seed, device, ...
    """
    rows = (train.fingerprint(), validation.fingerprint())
    return fingerprint("training", architecture(module), _weights(module), rows, settings, others)


def targets_key(teachers: Sequence[nn.Module], rows: Split, places: Sequence[str], device: str) -> str:
    """Key of the teachers' outputs and hidden states on some rows; labels are not used."""
    asked = [[architecture(each), _weights(each)] for each in teachers]
    return fingerprint("targets", asked, rows.fingerprint(labels=False), list(places), device)


def architecture(module: nn.Module) -> list[Any]:
    """What a module computes apart from its weights, as plain data.

    Shapes are not sufficient: they do not show head size, activation or norm order.
    """
    from compress.model.files.definition import definition_of

    definition = definition_of(module)
    shapes = {name: [str(each.dtype), *each.shape] for name, each in module.state_dict().items()}
    # For a module that we did not build, its repr.
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
    """SHA-256 (hex) over our own source; files are read once per process.

    Args:
        without: files and folders of `root` to leave out.
    """
    kept = [each for each in _source(root) if each[0].split("/")[0] not in without]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


@cache
def _source(root: Path) -> list[tuple[str, str]]:
    files = sorted(root.rglob("*.py"))
    return [
        (path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
    ]
