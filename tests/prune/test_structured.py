"""prune/structured: each budget is met, what can't be is refused, and a promise that fails is mended."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.data import Splits, from_arrays
from compress.data.split import Split
from compress.errors import StageError
from compress.model import logits, structure_of, to_tensors
from compress.model.counts import stored_bytes
from compress.model.observe.capture import positions_of
from compress.prune.importance.sensitivity import felt_inputs, token_weights
from compress.prune.structured.stage import StructuredPruning
from compress.prune.structured.stitch import unit_norms
from compress.recovery import RecoveryConfig, recover_
from compress.stage import Context, StageResult
from compress.timing import BlockTimes, Compared, Setting

HEAD_MS, NEURON_MS, FIXED_MS = 1.0, 0.05, 2.0


@dataclass
class FakeTimer:
    """A machine on which heads and neurons cost their own time; the table shows it to a power, `optimism`."""

    optimism: float = 1.0
    luck: tuple[float, ...] = (1.0,)  # of each comparison; then again from the first
    compared: int = 0
    precision: str = "fp32"
    stages: tuple[str, ...] = ("prune/structured",)
    disturbed: int = 0  # rounds of the table, and of each comparison
    speed: float = 1.0  # of the model that is timed, by the stages that follow

    @property
    def machine(self) -> dict[str, str]:
        return {"cpu": "made up"}

    def setting(self, batch: int | None, sequence: int | None, threads: int | None) -> Setting:
        return Setting(batch=batch or 1, sequence=sequence or 5, threads=threads or 1)

    def blocks(
        self, chain: nn.Module, paths: Sequence[str], model: nn.Module, least: nn.Module, setting: Setting
    ) -> BlockTimes:
        per_layer = _times(chain)
        blocks = [per_layer.get(path, 0.0) for path in paths]
        full, few = (FIXED_MS + sum(_times(each).values()) for each in (model, least))
        return BlockTimes(
            tuple((0.1 + block**self.optimism) / self.speed for block in blocks),
            full / self.speed,
            few / self.speed,
            full,
            rounds=9,
            disturbed_rounds=self.disturbed,
        )

    def compare(self, model: nn.Module, setting: Setting) -> Compared:
        speedup = _true_speedup(model) * self.luck[self.compared % len(self.luck)]
        self.compared += 1
        return Compared(speedup, speedup, speedup, 1, disturbed_rounds=self.disturbed)

    def remembered(self, about: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return make()

    def size_bytes(self, model: nn.Module) -> int:
        return stored_bytes(model)


def _times(model: nn.Module) -> dict[str, float]:
    times: dict[str, float] = {}
    for index in range(len(list(model.get_submodule("layers").children()))):
        times[f"layers.{index}"] = 0.0
    for site in structure_of(model).sites:
        each = HEAD_MS if site.kind == "attention" else NEURON_MS
        times[f"layers.{site.layer}"] += each * site.units(model)
    return times


def _true_speedup(model: nn.Module) -> float:
    dense = FIXED_MS + 2 * (4 * HEAD_MS + 64 * NEURON_MS)
    return dense / (FIXED_MS + sum(_times(model).values()))


def timed(context: Context, timer: FakeTimer | None = None) -> Context:
    return replace(context, timer=timer or FakeTimer())


FAST = {"calibration_rows": 32, "search_rows": 16, "search_steps": 5}


@pytest.mark.parametrize("importance", ["obs", "fisher", "taylor", "magnitude"])
def test_a_speedup_is_met_by_every_importance(model: nn.Module, context: Context, importance: Any) -> None:
    context = timed(context)
    before = copy.deepcopy(model.state_dict())
    result = StructuredPruning(speedup=2.0, importance=importance, **FAST).apply(model, context)
    pruned = result.model
    time = FIXED_MS + sum(_times(pruned).values())
    dense = FIXED_MS + sum(_times(model).values())
    assert 1.96 <= dense / time <= 2.3  # 2 % is what a promise may miss; a tiny model has few widths
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = [site["kept"] for site in result.facts["sites"]]
    assert kept != [site["before"] for site in result.facts["sites"]]
    assert result.facts["checked"]["speedup"] == pytest.approx(dense / time)
    assert result.facts["latency_table"]["machine"] == {"cpu": "made up"}


def test_a_table_that_promises_too_much_is_found_out_and_the_search_repeated(
    model: nn.Module, context: Context
) -> None:
    timer = FakeTimer(optimism=1.15)  # narrow layers look cheaper than they are
    made = StructuredPruning(speedup=1.8, **FAST).apply(model, timed(context, timer))
    assert timer.compared > 1
    assert made.facts["checked"]["speedup"] >= 1.8 * 0.97


@pytest.mark.parametrize("luck", [(1.15, 0.9, 0.97), (0.9, 1.1), (1.0, 0.87, 1.13)])
def test_one_lucky_timing_does_not_decide(
    luck: tuple[float, ...], model: nn.Module, context: Context
) -> None:
    stage, timer = StructuredPruning(speedup=1.8, **FAST), FakeTimer(luck=luck)
    fair = _true_speedup(stage.apply(model, timed(context)).model)
    made = stage.apply(model, timed(context, timer))
    assert 2 <= timer.compared <= 5
    # The readings are 13 to 15 % off, their mean is not; the steps of so small a model are 5 % each.
    assert 0.95 * 1.8 <= _true_speedup(made.model) <= 1.08 * fair
    checked = made.facts["checked"]
    assert checked["low"] <= checked["speedup"] <= checked["high"]


def test_the_other_budgets_are_met_by_counting(model: nn.Module, context: Context) -> None:
    made = StructuredPruning(macs=0.5, **FAST).apply(model, context)
    half = made.model
    assert 0.4 <= made.facts["macs"]["after"] / made.facts["macs"]["before"] <= 0.5
    sparse = StructuredPruning(sparsity=0.7, **FAST).apply(model, context).model
    small = StructuredPruning(size_mb=0.05, **FAST).apply(model, timed(context)).model
    assert stored_bytes(small) <= 50_000 < stored_bytes(model)
    for pruned in (half, sparse, small):
        assert structure_of(pruned) is not None
    weights = [sum(p.numel() for p in each.parameters()) for each in (model, sparse)]
    assert weights[1] < 0.45 * weights[0]


class Mixer(nn.Module):
    """One layer over positions and one over channels, which see different numbers of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 24)
        self.t_up, self.t_down = nn.Linear(16, 20), nn.Linear(20, 16)
        self.c_up, self.c_down = nn.Linear(24, 48), nn.Linear(48, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        x = self.embed(signal[:, 0])  # [b, 16, 24]
        x = x + self.t_down(self.t_up(x.transpose(1, 2)).relu()).transpose(1, 2)
        x = x + self.c_down(self.c_up(x).relu())
        return self.head(x.mean(1))  # type: ignore[no-any-return]

    def structure(self) -> dict[str, Any]:
        return {"feed_forward": [{"up": f"{each}_up", "down": f"{each}_down"} for each in "tc"]}


def mixer_data() -> Splits:
    signals = np.random.default_rng(0).normal(size=(96, 1, 16, 6)).astype("float32")
    train, validation = (
        {"signal": part, "labels": np.arange(len(part)) % 3} for part in (signals[:64], signals[64:])
    )
    return from_arrays(train, validation)


def test_multiply_adds_are_those_of_the_rows_that_each_layer_sees() -> None:
    data, mixer = mixer_data(), Mixer()
    context = Context(task=data.task, train=data.train, validation=data.validation)
    made = StructuredPruning(macs=0.5, **FAST).apply(mixer, context)
    tokens, channels = (site.units(made.model) for site in structure_of(made.model).sites)
    before = 24 * 2 * 16 * 20 + 16 * 2 * 24 * 48  # the layer over positions runs once per channel
    assert made.facts["macs"] == {"before": before, "after": 24 * 2 * 16 * tokens + 16 * 2 * 24 * channels}
    assert made.facts["promised"]["macs"] == made.facts["macs"]["after"] / before <= 0.5
    row = data.train.rows[0]
    assert positions_of(mixer, structure_of(mixer).sites, row, data.task) is None  # they see 24 and 16


def test_multiply_adds_of_a_transformer_are_its_projections_and_pairs_of_positions(
    model: nn.Module, context: Context
) -> None:
    made = StructuredPruning(macs=0.5, **FAST).apply(model, context)
    s = max(len(row["features"]) for row in context.train.rows)
    assert made.facts["macs"]["before"] == 2 * (s * (4 * 32 * 32 + 2 * 32 * 64) + 2 * s * s * 32)


def test_a_latency_is_met_and_whole_sublayers_may_go(model: nn.Module, context: Context) -> None:
    context = timed(context)
    pruned = StructuredPruning(latency_ms=FIXED_MS + 1.2, **FAST).apply(model, context).model
    assert FIXED_MS + sum(_times(pruned).values()) <= (FIXED_MS + 1.2) * 1.01
    assert structure_of(pruned).removed
    tensors = to_tensors(next(context.validation.batches(4)), context.task.input_names)
    assert logits(pruned, tensors).shape == (4, 3)


def test_only_what_may_be_cut_is_cut_and_floors_hold(model: nn.Module, context: Context) -> None:
    pruned = (
        StructuredPruning(sparsity=0.6, cut=("neurons",), min_neurons=16, **FAST).apply(model, context).model
    )
    assert [site.units(pruned) for site in structure_of(pruned).attention] == [4, 4]
    assert all(site.units(pruned) >= 16 for site in structure_of(pruned).feed_forward)


def test_a_budget_that_is_met_or_out_of_reach_is_refused_with_what_can_be_had(
    model: nn.Module, context: Context
) -> None:
    with pytest.raises(StageError, match=r"latency_ms.*100 is.*latency_ms.*16\.\d+"):
        StructuredPruning(latency_ms=100, **FAST).apply(model, timed(context))
    with pytest.raises(StageError, match=r"speedup 50 can't be met: speedup [78]\.\d+x is the best"):
        StructuredPruning(speedup=50, **FAST).apply(model, timed(context))


def test_a_refusal_says_what_is_counted_in_and_advises_no_stage_that_the_recipe_has(
    model: nn.Module, context: Context
) -> None:
    def refused(timer: FakeTimer, **budget: Any) -> str:
        with pytest.raises(StageError) as caught:
            StructuredPruning(**budget, **FAST).apply(model, timed(context, timer))
        return str(caught.value)

    stages = ("prune/vocabulary", "prune/structured", "quantize/int8_dynamic")
    int8 = FakeTimer(precision="quantize/int8_dynamic", stages=stages, speed=2.5)
    met = refused(int8, speedup=2)
    assert "2.50x before the cut, including quantize/int8_dynamic, which follows" in met
    for out_of_reach in ({"speedup": 50}, {"size_mb": 0.0001}):
        words = refused(int8, **out_of_reach)
        assert "including quantize/int8_dynamic" in words
        assert "prune/vocabulary" not in words and words.count("quantize/int8_dynamic") == 1
    assert "prune/embeddings" in refused(int8, size_mb=0.0001)
    assert refused(FakeTimer(), speedup=50).endswith("quantize/int8_dynamic")
    floors = refused(FakeTimer(), macs=0.01, min_heads=4, min_neurons=64)
    assert "min_heads" in floors and "quantize" not in floors


def test_a_table_timed_beside_other_work_says_of_no_budget_that_it_is_met_or_out_of_reach(
    model: nn.Module, context: Context
) -> None:
    # So seen: an int8 model that is 2 to 3 times as fast as fp32 was 10.8 times as fast beside other work.
    busy = FakeTimer(precision="quantize/int8_dynamic", speed=10.8, disturbed=9)
    for speedup in (2, 500):
        with pytest.raises(StageError, match="9 of.*the 9") as caught:
            StructuredPruning(speedup=speedup, **FAST).apply(model, timed(context, busy))
        assert "met already" not in str(caught.value) and "can't be met" not in str(caught.value)
    with pytest.raises(StageError, match="is already met"):  # a quiet machine is no slower
        StructuredPruning(latency_ms=100, **FAST).apply(model, timed(context, busy))
    with pytest.raises(StageError, match="can't tell"):
        StructuredPruning(latency_ms=0.01, **FAST).apply(model, timed(context, busy))


@dataclass
class BusyTimer(FakeTimer):
    """The whole model takes `factor` times as long, as long calls do beside other work, in `busy` tables."""

    busy: int = 0
    factor: float = 6.0
    seen: int = 9  # rounds in which other work was seen
    tables: int = 0
    least_is_known: bool = True

    def blocks(self, *given: Any) -> BlockTimes:
        found = super().blocks(*given)
        self.tables += 1
        if not self.least_is_known:
            found = replace(found, least_ms=None)
        if self.tables > self.busy:
            return found
        model_ms = found.model_ms * (self.factor if self.least_is_known else 1 / self.factor)
        return replace(found, model_ms=model_ms, disturbed_rounds=self.seen, used_by_others=0.84)


@pytest.mark.parametrize("least_is_known", [True, False])
def test_a_table_that_contradicts_itself_is_timed_again(
    least_is_known: bool, model: nn.Module, context: Context
) -> None:
    timer = BusyTimer(busy=2, least_is_known=least_is_known)
    made = StructuredPruning(speedup=2.0, **FAST).apply(model, timed(context, timer))
    table = made.facts["latency_table"]
    dense = FIXED_MS + 2 * (4 * HEAD_MS + 64 * NEURON_MS)
    assert timer.tables == 3 and table["disturbed_rounds"] == 0
    assert table["dense_ms"] == pytest.approx(dense) and table["fixed_ms"] == pytest.approx(FIXED_MS)


def test_a_table_that_keeps_contradicting_itself_is_refused_naming_the_load_and_not_kept(
    model: nn.Module, context: Context
) -> None:
    kept: list[dict[str, Any]] = []

    class KeepingTimer(BusyTimer):
        def remembered(self, about: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            kept.append(made := make())
            return made

    timer = KeepingTimer(busy=100)
    with pytest.raises(StageError, match="84% of.*machine's"):
        StructuredPruning(speedup=2.0, **FAST).apply(model, timed(context, timer))
    assert kept == [] and timer.tables == 3


def test_a_quiet_machine_may_differ_more_and_what_no_load_explains_is_refused_too(
    model: nn.Module, context: Context
) -> None:
    for seen, tables in ((0, 1), (9, 3)):
        timer = BusyTimer(busy=2, factor=2.0, seen=seen)
        StructuredPruning(speedup=2.0, **FAST).apply(model, timed(context, timer))
        assert timer.tables == tables
    with pytest.raises(StageError, match="98.40 ms.*no other work was seen"):
        StructuredPruning(speedup=2.0, **FAST).apply(model, timed(context, BusyTimer(busy=9, seen=0)))


def test_a_table_ends_at_the_whole_files_that_were_timed(model: nn.Module, context: Context) -> None:
    # Layers by themselves take a tenth less than in the whole model, where their weights are in no cache.
    class CachedTimer(FakeTimer):
        def blocks(self, *given: Any) -> BlockTimes:
            found = super().blocks(*given)
            return replace(found, blocks_ms=tuple(0.9 * ms for ms in found.blocks_ms))

    made = StructuredPruning(speedup=2.0, **FAST).apply(model, timed(context, CachedTimer()))
    table = made.facts["latency_table"]
    heads = next(kind for kind in table["kinds"] if kind["kind"] == "attention")
    assert heads["ms"] == pytest.approx([HEAD_MS * units for units in heads["units"]])
    assert table["fixed_ms"] == pytest.approx(FIXED_MS)


def test_what_other_work_disturbed_is_in_the_facts(model: nn.Module, context: Context) -> None:
    made = StructuredPruning(speedup=2.0, **FAST).apply(model, timed(context, FakeTimer(disturbed=1)))
    checked = made.facts["checked"]
    assert checked["disturbed_rounds"] == checked["rounds"] >= 2
    assert made.facts["latency_table"]["disturbed_rounds"] == 1


def test_one_budget_and_a_recovery_between_steps_are_needed() -> None:
    with pytest.raises(ValidationError, match="speedup, latency_ms.*got 2"):
        StructuredPruning(speedup=2, macs=0.5)
    with pytest.raises(ValidationError, match="got 0"):
        StructuredPruning()
    with pytest.raises(ValidationError, match="steps above 1 need recovery"):
        StructuredPruning(macs=0.5, steps=2)


def test_too_few_rows_or_one_label_are_refused(model: nn.Module, context: Context) -> None:
    train = context.train
    with pytest.raises(StageError, match="3 training rows are too few"):
        StructuredPruning(macs=0.5).apply(model, replace(context, train=train.take(3, seed=0)))
    one = Split("train", train.rows, np.zeros(len(train), dtype=np.int64), train.inputs)
    with pytest.raises(StageError, match="same label.*targets: teacher"):
        StructuredPruning(macs=0.5, importance="taylor").apply(model, replace(context, train=one))
    StructuredPruning(macs=0.5, **FAST).apply(model, replace(context, train=one))  # needs no labels


def test_labels_drawn_from_the_dense_model_stand_in_for_the_rows_own(
    model: nn.Module, context: Context
) -> None:
    def kept(labels: np.ndarray, targets: Any) -> list[int]:
        rows = replace(context.train, labels=labels)
        stage = StructuredPruning(macs=0.5, importance="taylor", targets=targets, **FAST)
        made = stage.apply(model, replace(context, train=rows))
        return [site["kept"] for site in made.facts["sites"]]

    own = context.train.labels
    assert kept(own, "teacher") == kept((own + 1) % 3, "teacher")


def test_protected_blocks_stay_whole_and_unknown_ones_are_refused(model: nn.Module, context: Context) -> None:
    pruned = StructuredPruning(sparsity=0.4, protect=("layers.0.*",), **FAST).apply(model, context).model
    assert [site.units(pruned) for site in structure_of(pruned).sites[:2]] == [4, 64]
    with pytest.raises(StageError, match=r"'encoder\.\*'.*layers\.0\.attention"):
        StructuredPruning(sparsity=0.4, protect=("encoder.*",)).rehearse(model)


def test_a_time_without_a_recipe_is_refused(model: nn.Module, context: Context) -> None:
    with pytest.raises(StageError, match="speedup needs a timer"):
        StructuredPruning(speedup=2, **FAST).apply(model, context)


def test_a_nan_in_calibration_names_the_site(model: nn.Module, context: Context) -> None:
    model.get_submodule("layers.1.feed_forward.up").weight.data.fill_(math.nan)
    with pytest.raises(StageError, match=r"layers\.1\.(attention|feed_forward)"):
        StructuredPruning(macs=0.5, **FAST).apply(model, context)


def test_steps_come_nearer_to_the_budget_and_recover_each_time(model: nn.Module, context: Context) -> None:
    recovery = RecoveryConfig(epochs=2, batch_size=32, learning_rate=1e-3)
    made = StructuredPruning(macs=0.4, steps=2, recovery=recovery, **FAST).apply(model, context)
    first, second = made.facts["steps"]
    assert first["promised"] > second["promised"] and 0.3 <= second["promised"] <= 0.4
    # Of the model that the stage was given, not of what the first step left.
    macs = made.facts["macs"]
    assert macs["after"] / macs["before"] == pytest.approx(second["promised"])
    assert first["validation_recovered"] is not None
    assert len(made.curve) == 3  # an epoch between the steps, two at the end


def test_least_squares_keep_more_of_the_answers_than_plain_magnitude(
    model: nn.Module, context: Context
) -> None:
    def error(importance: Any) -> float:
        pruned = StructuredPruning(macs=0.5, importance=importance, **FAST).apply(model, context).model
        tensors = to_tensors(next(context.validation.batches(48)), context.task.input_names)
        return float((logits(pruned, tensors) - logits(model, tensors)).square().mean().detach())

    assert error("obs") < 0.5 * error("magnitude")


def test_recovery_learns_from_the_dense_model_alone(model: nn.Module, context: Context) -> None:
    pruned = StructuredPruning(macs=0.3, importance="magnitude", **FAST).apply(model, context).model
    tensors = to_tensors(next(context.validation.batches(48)), context.task.input_names)

    def distance() -> float:
        return float((logits(pruned, tensors) - logits(model, tensors)).square().mean().detach())

    before = distance()
    config = RecoveryConfig(epochs=8, batch_size=16, learning_rate=3e-3, labels=0, patience=None)
    recover_(StageResult(pruned), model, config, context, "recovery")
    assert distance() < 0.7 * before


def test_what_is_felt_is_the_squared_slope_of_the_answers(model: nn.Module, splits: Splits) -> None:
    sites = structure_of(model).sites
    rows = splits.train.take(4, seed=0)
    ((inputs, squared), *_) = next(
        iter(felt_inputs(model, sites[-1:], rows, splits.task, seed=0, batch_size=32))
    )
    assert inputs.shape == (20, 64) and squared.shape == (20, 32)
    assert bool((squared >= 0).all()) and float(squared.sum()) > 0
    assert float(token_weights(squared).mean()) == pytest.approx(1)
    again = next(iter(felt_inputs(model, sites[-1:], rows, splits.task, seed=0, batch_size=32)))[0][1]
    assert torch.equal(squared, again)


def test_unit_norms_sum_the_squares_of_all_weights_of_a_unit() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
            self.up.weight.data = torch.tensor([[1.0], [2.0]])
            self.down.weight.data = torch.tensor([[3.0, 4.0]])

        def structure(self) -> dict[str, object]:
            return {"attention": [], "feed_forward": [{"up": "up", "down": "down"}]}

    two = Two()
    assert unit_norms(two, structure_of(two).sites[0]).tolist() == [10.0, 20.0]
