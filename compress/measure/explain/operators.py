"""Which operators ONNX Runtime runs, counted from its own profile of one call.

A profile names the nodes of the graph after all fusions, as they run on this machine, and needs neither the
onnx package nor a copy of the weights, which writing the optimized model would. A branch that this call does
not take is not counted.
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
    """Run one batch through an ONNX file and count its nodes by kind; the profile is left in `folder`."""
    session = create_session(path, threads=threads, profile_prefix=folder / "profile")
    answer(session, batch)
    profile = Path(session.end_profiling())
    return count_operators(json.loads(profile.read_text(encoding="utf-8")))


def count_operators(events: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Count the nodes in a profile's events by kind, most frequent first; a loop's body counts once."""
    nodes = {(run.key, run.kind) for run in node_runs(events)}
    counts = Counter(kind for _, kind in nodes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
