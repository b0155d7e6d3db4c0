"""Operators that ONNX Runtime runs, counted from the profile of one call.

A profile lists the nodes after all fusions on this machine. It needs neither the onnx package nor a copy of
the weights, unlike writing the optimized model. Branches not taken by this call are not counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compress.data.split import Batch
from compress.measure.explain.events import node_runs
from compress.measure.runtimes.session import answer, create_session

__all__ = ["count_operators", "operators_of"]


def operators_of(path: Path, batch: Batch, *, threads: int, folder: Path) -> dict[str, int]:
    """Run one batch through an ONNX file and count its nodes by kind; leaves the profile in `folder`."""
    session = create_session(path, threads=threads, profile_prefix=folder / "profile")
    answer(session, batch)
    profile = Path(session.end_profiling())
    return count_operators(json.loads(profile.read_text(encoding="utf-8")))


def count_operators(events: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Count a profile's nodes by kind, most frequent first; a loop's body counts once."""
    nodes = {(run.key, run.kind) for run in node_runs(events)}
    counts = Counter(kind for _, kind in nodes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
