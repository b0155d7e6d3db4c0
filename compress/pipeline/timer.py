"""The timer passed to stages: modules in, milliseconds of their ONNX files on this machine out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import Batch, Splits
from compress.errors import StageError
from compress.export import export_onnx, extract_blocks, sha256_of
from compress.keys import timed_key
from compress.measure import create_session
from compress.measure.latency import Rounds, Turns, compare_latency, rounds_in_turns
from compress.measure.rows import steady_batch
from compress.measure.runtimes.session import feeds
from compress.model.counts import stored_bytes
from compress.pipeline.fitting import timing_setting
from compress.pipeline.prepare import Run
from compress.pipeline.run_keys import machine_facts
from compress.stage import Context, Stage
from compress.system.disk import scratch_directory
from compress.system.distributed import from_main
from compress.timing import BlockTimes, Compared, Setting

__all__ = ["OnnxTimer"]

_BLOCK_ROUNDS = Rounds(9, 0.03)
_MODEL_ROUNDS = Rounds(61, 0.05)  # short turns, because a shared machine changes speed within seconds


@dataclass(frozen=True)
class OnnxTimer:
    """Times modules as ONNX files.

    Attributes:
        splits: the run's rows, as the timed modules read them.
        baseline: ONNX file of the recipe's uncompressed model.
        later: the recipe's subsequent quantize stages, applied to everything that is timed.
        context: passed to those stages.
    """

    run: Run
    splits: Splits
    baseline: Path
    later: tuple[Stage, ...]
    context: Context

    @property
    def precision(self) -> str:
        """Precision of the timed modules."""
        return " + ".join(stage.name for stage in self.later) or "fp32"

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all stages of the recipe."""
        return tuple(stage.name for stage in self.run.recipe.stages)

    @property
    def machine(self) -> dict[str, str]:
        """The machine for which the times hold."""
        return machine_facts()

    def setting(self, batch: int | None, sequence: int | None, threads: int | None) -> Setting:
        """Complete a setting with values from the recipe; see `timing_setting`."""
        return timing_setting(self.run.recipe, self.splits, batch, sequence, threads)

    def blocks(
        self, chain: nn.Module, paths: Sequence[str], model: nn.Module, least: nn.Module, setting: Setting
    ) -> BlockTimes:
        """Export the chain and the models, extract the chain's blocks, and time all in alternation."""
        return from_main(lambda: self._blocks(chain, paths, model, least, setting))

    def _blocks(
        self, chain: nn.Module, paths: Sequence[str], model: nn.Module, least: nn.Module, setting: Setting
    ) -> BlockTimes:
        batch = steady_batch(self.splits.validation, setting.batch, setting.sequence)
        with scratch_directory("blocks") as folder:
            whole = self._export(chain, folder / "chain.onnx")
            # A decoder's graph also takes a past, which is empty here.
            given = feeds(batch, create_session(whole, threads=setting.threads))
            blocks = extract_blocks(whole, paths, given, folder)
            smallest = self._least(least, folder / "least.onnx")
            wholes = [self._export(model, folder / "model.onnx"), self.baseline]
            wholes += [] if smallest is None else [smallest]
            files = [*((block.path, block.feeds) for block in blocks), *((path, batch) for path in wholes)]
            turns = self._turns(files, f"timing {len(blocks)} widths, {setting}", setting)
        model_ms, baseline_ms, *rest = turns.medians_ms[len(paths) :]
        return BlockTimes(
            tuple(turns.medians_ms[: len(paths)]),
            model_ms,
            rest[0] if rest else None,
            baseline_ms,
            rounds=_BLOCK_ROUNDS.count,
            disturbed_rounds=turns.disturbance.rounds,
            used_by_others=turns.disturbance.used_by_others,
        )

    def _turns(self, files: Sequence[tuple[Path, Batch]], description: str, setting: Setting) -> Turns:
        """Time files, each on its own batch."""
        calls: list[Callable[[], object]] = []
        for path, values in files:
            session = create_session(path, threads=setting.threads)
            calls.append(partial(session.run, None, feeds(values, session)))
        with self.run.progress.bar(description, _BLOCK_ROUNDS.count + 1) as bar:
            return rounds_in_turns(calls, _BLOCK_ROUNDS, on_round=lambda: bar.advance(1))

    def _least(self, least: nn.Module, path: Path) -> Path | None:
        try:
            return self._export(least, path)
        except StageError:  # a later stage finds nothing to work on in what is left
            return None

    def compare(self, model: nn.Module, setting: Setting) -> Compared:
        """Export the model and time it in alternation with the baseline."""
        return from_main(lambda: self._compare(model, setting))

    def _compare(self, model: nn.Module, setting: Setting) -> Compared:
        with scratch_directory("timed") as folder:
            path = self._export(model, folder / "model.onnx")
            found = compare_latency(
                create_session(self.baseline, threads=setting.threads),
                create_session(path, threads=setting.threads),
                steady_batch(self.splits.validation, setting.batch, setting.sequence),
                setting,
                replace(_MODEL_ROUNDS, seed=self.run.recipe.seed),
            )
        return Compared(
            found.speedup,
            found.speedup_low,
            found.speedup_high,
            found.rounds,
            disturbed_rounds=found.disturbed_rounds or 0,
        )

    def remembered(self, about: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return `make`'s result, cached unless of another machine or version, or disturbed."""
        return from_main(lambda: self._remembered(about, make))

    def _remembered(self, about: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        key = timed_key(
            about,
            later=[(stage.name, stage.model_dump(mode="json")) for stage in self.later],
            opset=self.run.recipe.export.opset,
            baseline=sha256_of(self.baseline),
        )
        machine = self.machine

        def write(directory: Path) -> dict[str, Any]:
            made = make()
            (directory / "times.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
            return {"machine": machine, "times": made}

        def is_of_here(record: dict[str, Any]) -> bool:
            differs = [name for name in machine if record["machine"].get(name) != machine[name]]
            if differs:
                self.run.progress.say(
                    "the latency table in the cache is from another machine or version "
                    f"(different {', '.join(differs)}); it is measured again"
                )
            disturbed = record["times"].get("disturbed_rounds")
            if disturbed and not differs:
                self.run.progress.say(
                    "the latency table in the cache was timed under other load; it is measured again"
                )
            return not (differs or disturbed)

        _, record = self.run.cache.file(key, write, what="the same latency table", usable=is_of_here)
        times: dict[str, Any] = record["times"]
        return times

    def size_bytes(self, model: nn.Module) -> int:
        """Bytes of the weights as the recipe would store them."""
        return stored_bytes(self._finished(model))

    def _finished(self, model: nn.Module) -> nn.Module:
        finished = copy.deepcopy(model).eval()
        for stage in self.later:
            finished = stage.stand_in().apply(finished, self.context).model
        return finished

    def _export(self, model: nn.Module, path: Path) -> Path:
        rows, opset = self.splits.validation, self.run.recipe.export.opset
        return export_onnx(self._finished(model), rows, self.splits.task, path, opset=opset, check=False)
