"""Time of a call by node, from ONNX Runtime's profile.

Files are profiled in alternating turns, as in latency timing, so that a machine that slows down slows all of
them. Each file has a profiled and an unprofiled session; their difference is the cost of profiling.

Profiling makes each node look a few microseconds longer (ONNX Runtime records memory and shapes), which can
exceed the actual work in a file of hundreds of small nodes. So each node is charged its median over calls
less a floor: the time of the cheapest nodes (5th percentile), but at most half of the profiling cost per
node. If the nodes still exceed an unprofiled call, all are scaled down to it. The rest of the call is the
runtime's own: launching nodes.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from compress.data.split import Batch
from compress.errors import MeasureError
from compress.measure.explain.events import Call, Key, calls_of, elements
from compress.measure.explain.graph import Graph, read_graph
from compress.measure.explain.nodes import layer_names, read_nodes
from compress.measure.runtimes.session import create_session, feeds
from compress.system.disk import scratch_directory
from compress.system.exclusive import alone

__all__ = ["NodeTime", "Profile", "charge", "profile_in_turns"]

_TURNS = 5
_TURN_SECONDS = 0.1
_MOST_CALLS = 10
_CHEAPEST = 0.05
_INSIDE_NODES = 0.5  # share of the profiling cost; 0.4 to 0.45 was measured in files of 126 to 529 nodes


@dataclass(frozen=True)
class NodeTime:
    """One node: its kind, its median time per call less the floor, and its number of output elements."""

    kind: str
    ms: float
    numbers: int


@dataclass(frozen=True)
class Profile:
    """One file on one batch.

    Attributes:
        nodes: each node that ran.
        graph: their roles.
        floor_ms: subtracted from each node's time.
        wall_ms: median time of an unprofiled call.
        profiled_ms: median time of a profiled call.
        calls: number of each.
    """

    nodes: dict[Key, NodeTime]
    graph: Graph
    floor_ms: float
    wall_ms: float
    profiled_ms: float
    calls: int

    @property
    def nodes_ms(self) -> float:
        """Sum over all nodes."""
        return sum(node.ms for node in self.nodes.values())


def profile_in_turns(
    files: Sequence[Path],
    batch: Batch,
    *,
    threads: int,
    folder: Path | None = None,
    turns: int = _TURNS,
    turn_seconds: float = _TURN_SECONDS,
) -> tuple[Profile, ...]:
    """Profile one or two ONNX files on one batch; temporary files are removed.

    Args:
        files: each takes the inputs that it needs.
        batch: input of every call.
        threads: intra-op threads.
        folder: parent of the temporary folder; None uses the system's.
        turns: turns per file; the first call of each turn is not counted.
        turn_seconds: approximate duration of a turn, at most 10 calls.

    Raises:
        MeasureError: if ONNX Runtime refuses a file or the batch.
    """
    own = scratch_directory("profile") if folder is None else TemporaryDirectory(dir=folder)
    with own as name:
        opened = []
        try:
            for index, path in enumerate(files):
                home = Path(name) / str(index)
                home.mkdir()
                opened.append(_Opened(path, batch, threads, home))
            with alone():
                for turn in range(turns):
                    for each in opened if turn % 2 == 0 else opened[::-1]:
                        each.turn(turn_seconds)
        finally:
            profiles = [each.end() for each in opened]
        return tuple(each.read(profile) for each, profile in zip(opened, profiles, strict=True))


class _Opened:
    """Both sessions of one file, and the times of their calls."""

    def __init__(self, path: Path, batch: Batch, threads: int, home: Path) -> None:
        self._path, self._optimized = path, home / "optimized.onnx"
        self._plain = create_session(path, threads=threads)
        self._profiled = create_session(
            path, threads=threads, profile_prefix=home / "profile", optimized=self._optimized
        )
        self._feeds = feeds(batch, self._plain)
        self._wall_ms: list[float] = []
        self._profiled_ms: list[float] = []
        self._counted: list[bool] = []

    def turn(self, seconds: float) -> None:
        warm_ms = self._call(self._plain)
        count = int(min(max(seconds * 1e3 / max(warm_ms, 1e-3), 1), _MOST_CALLS))
        self._wall_ms += [self._call(self._plain) for _ in range(count)]
        self._call(self._profiled)
        self._profiled_ms += [self._call(self._profiled) for _ in range(count)]
        self._counted += [False] + [True] * count

    def end(self) -> Path:
        return Path(self._profiled.end_profiling())

    def read(self, profile: Path) -> Profile:
        calls = calls_of(json.loads(profile.read_text(encoding="utf-8")))
        counted = [call for call, counts in zip(calls, self._counted, strict=True) if counts]
        wall_ms, profiled_ms = float(np.median(self._wall_ms)), float(np.median(self._profiled_ms))
        nodes = _medians(counted)
        charged, floor_ms = charge([node.ms for node in nodes.values()], wall_ms, profiled_ms)
        return Profile(
            nodes={
                key: replace(node, ms=float(ms))
                for (key, node), ms in zip(nodes.items(), charged, strict=True)
            },
            graph=read_graph(read_nodes(self._optimized), counted[0], layer_names(self._path)),
            floor_ms=floor_ms,
            wall_ms=wall_ms,
            profiled_ms=profiled_ms,
            calls=len(counted),
        )

    def _call(self, session: Any) -> float:
        begin = time.perf_counter()
        try:
            session.run(None, self._feeds)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in self._feeds.items())
            raise MeasureError(f"{self._path}: ONNX Runtime fails on {shapes}: {error}") from error
        return (time.perf_counter() - begin) * 1e3


def _medians(calls: Sequence[Call]) -> dict[Key, NodeTime]:
    """Median time of each node; a node that a loop repeats within a call counts as the sum."""
    times: dict[Key, list[float]] = defaultdict(list)
    kinds: dict[Key, str] = {}
    numbers: dict[Key, int] = {}
    for call in calls:
        sums: dict[Key, float] = defaultdict(float)
        sizes: dict[Key, int] = defaultdict(int)
        for run in call.nodes:
            sums[run.key] += run.ms
            sizes[run.key] += elements(run.outputs[0]) if run.outputs else 0
            kinds[run.key] = run.kind
        for key, ms in sums.items():
            times[key].append(ms)
        numbers.update(sizes)
    return {key: NodeTime(kinds[key], float(np.median(each)), numbers[key]) for key, each in times.items()}


def charge(node_ms: Sequence[float], wall_ms: float, profiled_ms: float) -> tuple[list[float], float]:
    """Estimate the time of each node in an unprofiled call.

    Args:
        node_ms: median time of each node in a profile.
        wall_ms: time of an unprofiled call.
        profiled_ms: time of a profiled call.

    Returns:
        Node times, which sum to at most `wall_ms`, and the floor that was subtracted from each.
    """
    times = np.asarray(node_ms, dtype=np.float64)
    if not times.size:
        return [], 0.0
    cost = max(profiled_ms - wall_ms, 0.0) / times.size
    floor = min(float(np.quantile(times, _CHEAPEST)), _INSIDE_NODES * cost)
    times = np.maximum(times - floor, 0)
    return list(times * min(1.0, wall_ms / max(times.sum(), 1e-9))), floor
