"""Timer protocol: stages call it, the pipeline implements it. And `Setting`, where a latency holds.

A stage gives modules and gets milliseconds of their ONNX files; it does not know how they are exported and
timed.
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
    """Where a latency holds: rows a call, tokens a row, threads within an operator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(ge=1)
    sequence: int = Field(ge=1)
    threads: int = Field(ge=1)

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"batch {self.batch}, sequence {self.sequence}, {threads}"


@dataclass(frozen=True)
class BlockTimes:
    """Times of blocks of an exported model, in turns with the whole models.

    Attributes:
        blocks_ms: one a block.
        model_ms: the whole uncut model, as the recipe would export it.
        least_ms: the model that is cut as far as it may be, likewise; None if a later stage can't take it.
        baseline_ms: the recipe's uncompressed model in fp32.
        rounds: how often each was timed.
        disturbed_rounds: of these, those that other work, or a container's CPU quota, disturbed.
        used_by_others: mean share of the machine's cores that other work used meanwhile.
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
    """How much faster than the baseline a model is, with the 95 % interval of this measurement.

    Attributes:
        disturbed_rounds: as of `BlockTimes`.
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
        """What the modules are timed in: fp32, or the names of the quantize stages that follow."""
        ...

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all stages of the recipe."""
        ...

    @property
    def machine(self) -> dict[str, str]:
        """What the times hold for."""
        ...

    def setting(self, batch: int | None, sequence: int | None, threads: int | None) -> Setting:
        """Fill in what is not given from the recipe.

        Raises:
            StageError: the model or the machine can't take it.
        """
        ...

    def blocks(
        self, chain: nn.Module, paths: Sequence[str], model: nn.Module, least: nn.Module, setting: Setting
    ) -> BlockTimes:
        """Time submodules of `chain`, in turns with `model`, with `least` and with the baseline."""
        ...

    def compare(self, model: nn.Module, setting: Setting) -> Compared:
        """Time a model in turns with the baseline."""
        ...

    def remembered(self, about: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `make` returned before on this machine, or make it now."""
        ...

    def size_bytes(self, model: nn.Module) -> int:
        """Bytes of a model's weights after the later quantize stages."""
        ...
