"""The timer passed to stages: modules in, milliseconds of their ONNX files on this machine out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import Split, Splits
from compress.errors import StageError
from compress.export import export_onnx, extract_blocks, sha256_of
from compress.keys import timed_key
from compress.measure import create_session, environment
from compress.measure.latency import compare_latency, rounds_in_turns
from compress.measure.rows import resolve_sequence, steady_batch
from compress.measure.runtimes.session import feeds
from compress.model import logits, to_tensors
from compress.model.counts import stored_bytes
from compress.pipeline.cache import Cache
from compress.progress import Progress
from compress.recipe import Recipe
from compress.stage import Context, Stage
from compress.system.cores import available_cores
from compress.system.disk import scratch_directory
from compress.system.distributed import from_main
from compress.timing import BlockTimes, Compared, Setting

__all__ = ["OnnxTimer", "check_setting", "machine_facts", "timing_setting"]

_BLOCK_ROUNDS = 9
_BLOCK_SECONDS = 0.03
_MODEL_ROUNDS = 61
_MODEL_SECONDS = 0.05  # short turns, because a shared machine changes speed within seconds


def machine_facts() -> dict[str, str]:
    """The machine that latencies hold for, as plain data."""
    here = environment()
    return {
        "cpu": here.cpu,
        "cores": str(here.cores),
        "instruction_sets": " ".join(here.instruction_sets),
        "onnxruntime": here.packages.get("onnxruntime", ""),
    }


def timing_setting(
    recipe: Recipe, splits: Splits, batch: int | None, sequence: int | None, threads: int | None
) -> Setting:
    """Complete a stage's setting with the first of each value that the recipe measures.

    Raises:
        MeasureError: the data has another fixed length.
        StageError: more threads than there are cores.
    """
    measured = recipe.measure
    wanted = sequence if sequence is not None else (measured.sequence or (None,))[0]
    # Only the lengths of test rows are used, so that targets apply to the setting that is measured.
    setting = Setting(
        batch=batch or measured.batch[0],
        sequence=resolve_sequence(splits.test, wanted),
        threads=threads or measured.threads[0],
    )
    if setting.threads > available_cores():
        raise StageError(
            f"threads: {setting.threads} can't be timed here: this process may use {available_cores()} cores"
        )
    return setting


def check_setting(module: nn.Module, splits: Splits, setting: Setting) -> None:
    """Check that the model accepts a batch of this size.

    Raises:
        StageError: it does not.
    """
    import torch

    batch = steady_batch(splits.validation, setting.batch, setting.sequence)
    try:
        with torch.inference_mode():
            logits(module.eval(), to_tensors(batch, splits.task.input_names))
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StageError(f"the model can't take {setting}: {first}") from error


@dataclass(frozen=True)
class OnnxTimer:
    """Times modules as ONNX files.

    Attributes:
        baseline: ONNX file of the recipe's uncompressed model.
        later: the recipe's subsequent quantize stages, applied to everything that is timed.
        context: passed to those stages.
    """

    recipe: Recipe
    splits: Splits
    baseline: Path
    later: tuple[Stage, ...]
    context: Context
    cache: Cache
    progress: Progress

    @property
    def precision(self) -> str:
        """Precision of the timed modules."""
        return " + ".join(stage.name for stage in self.later) or "fp32"

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all stages of the recipe."""
        return tuple(stage.name for stage in self.recipe.stages)

    @property
    def machine(self) -> dict[str, str]:
        """The machine for which the times hold."""
        return machine_facts()

    def setting(self, batch: int | None, sequence: int | None, threads: int | None) -> Setting:
        """Complete a setting with values from the recipe; see `timing_setting`."""
        return timing_setting(self.recipe, self.splits, batch, sequence, threads)

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
            files = [(block.path, block.feeds) for block in blocks]
            smallest = self._least(least, folder / "least.onnx")
            wholes = [self._export(model, folder / "model.onnx"), self.baseline]
            wholes += [] if smallest is None else [smallest]
            files += [(path, batch) for path in wholes]
            calls: list[Callable[[], object]] = []
            for path, values in files:
                session = create_session(path, threads=setting.threads)
                calls.append(partial(session.run, None, feeds(values, session)))
            with self.progress.bar(f"timing {len(blocks)} widths, {setting}", _BLOCK_ROUNDS + 1) as bar:
                turns = rounds_in_turns(
                    calls,
                    rounds=_BLOCK_ROUNDS,
                    seconds=_BLOCK_SECONDS,
                    on_round=lambda: bar.advance(1),
                )
        model_ms, baseline_ms, *rest = turns.medians_ms[len(paths) :]
        return BlockTimes(
            tuple(turns.medians_ms[: len(paths)]),
            model_ms,
            rest[0] if rest else None,
            baseline_ms,
            rounds=_BLOCK_ROUNDS,
            disturbed_rounds=turns.disturbance.rounds,
            used_by_others=turns.disturbance.used_by_others,
        )

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
                sequence=setting.sequence,
                threads=setting.threads,
                rounds=_MODEL_ROUNDS,
                seconds=_MODEL_SECONDS,
                seed=self.recipe.seed,
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
            opset=self.recipe.export.opset,
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
                self.progress.say(
                    "the latency table in the cache is of another machine or version "
                    f"({', '.join(differs)}): refused, measured again"
                )
            disturbed = record["times"].get("disturbed_rounds")
            if disturbed and not differs:
                self.progress.say(
                    "the latency table in the cache was timed beside other work: measured again"
                )
            return not (differs or disturbed)

        _, record = self.cache.file(key, write, what="the same latency table", usable=is_of_here)
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
        rows: Split = self.splits.validation
        opset = self.recipe.export.opset
        return export_onnx(self._finished(model), rows, self.splits.task, path, opset=opset, check=False)
