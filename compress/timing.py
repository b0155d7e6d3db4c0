"""Timer protocol: stages call it, the pipeline implements it. Also `Setting`, where a latency is measured.

A stage passes modules and gets the latencies of their ONNX files in ms; export and timing are hidden from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BlockTimes", "Compared", "Setting", "Timer"]


class Setting(BaseModel):
    """Where a latency is measured: rows per call, tokens per row, threads within an operator.

    Attributes:
        sequence: None for rows that have no sequence: images and feature vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(ge=1)
    sequence: int | None = Field(default=None, ge=1)
    threads: int = Field(ge=1)

    def __str__(self) -> str:
        length = "" if self.sequence is None else f"sequence {self.sequence}, "
        return f"batch {self.batch}, {length}{self.threads} {'thread' if self.threads == 1 else 'threads'}"

    @property
    def key(self) -> tuple[int, int, int]:
        """What tells settings apart; earlier versions wrote sequence 1 for images."""
        return self.batch, self.sequence or 1, self.threads


@dataclass(frozen=True)
class BlockTimes:
    """Times of blocks of an exported model, measured in alternation with whole models.

    Attributes:
        blocks_ms: one per block.
        model_ms: the whole uncut model, as the recipe would export it.
        least_ms: the model cut to the minimum, likewise; None if a later stage cannot process it.
        baseline_ms: the recipe's uncompressed model in fp32.
        rounds: timings of each.
        disturbed_rounds: rounds disturbed by other processes or a container's CPU quota.
        used_by_others: mean share of the machine's cores used by other processes meanwhile.
    """

    blocks_ms: tuple[float, ...]
    model_ms: float
    least_ms: float | None
    baseline_ms: float
    rounds: int = 1
    disturbed_rounds: int = 0
    used_by_others: float = 0.0


@dataclass(frozen=True)
class Compared:
    """Speed-up of a model over the baseline, with the 95 % interval of this measurement.

    Attributes:
        disturbed_rounds: as in `BlockTimes`.
    """

    speedup: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    low: float
    high: float
    rounds: int
    disturbed_rounds: int = 0


class Timer(Protocol):
    """Times modules as ONNX files on this machine, after the recipe's later quantize stages."""

    @property
    def precision(self) -> str:
        """Precision of the timed modules: fp32, or the names of the quantize stages that follow."""
        ...

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all stages of the recipe."""
        ...

    @property
    def machine(self) -> dict[str, str]:
        """The machine for which the times hold."""
        ...

    def setting(self, batch: int | None, sequence: int | None, threads: int | None) -> Setting:
        """Complete a setting with values from the recipe.

        Raises:
            StageError: not possible with this model or machine.
        """
        ...

    def blocks(
        self, chain: nn.Module, paths: Sequence[str], model: nn.Module, least: nn.Module, setting: Setting
    ) -> BlockTimes:
        """Time submodules of `chain`, in alternation with `model`, `least` and the baseline."""
        ...

    def compare(self, model: nn.Module, setting: Setting) -> Compared:
        """Time a model in alternation with the baseline."""
        ...

    def remembered(self, about: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the cached result of `make` on this machine, or call it."""
        ...

    def size_bytes(self, model: nn.Module) -> int:
        """Bytes of a model's weights after the later quantize stages."""
        ...
