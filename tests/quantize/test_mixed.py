"""Mixed precision: each group its own scheme, never worse than the best uniform one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compress.data.config import DigitsData
from compress.data.split import Split
from compress.errors import StageError
from compress.model.forward import predict_logits
from compress.model.layers.grouped import Int4Linear
from compress.model.layers.int8 import Int8Linear
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.mixed.assignment import cheapest_first, where_to_try
from compress.quantize.mixed.sensitivity import FLOAT, Damage, Group, Parts, answers, damage_of, damages
from compress.quantize.mixed.stage import Mixed
from compress.quantize.weight_only import Int4WeightOnly
from compress.stage import Context
from compress.tasks.embeddings.sentence import SentenceEmbedding
from compress.timing import Compared, Setting

STAGES = {"int8_dynamic": Int8Dynamic(), "int4_weight_only": Int4WeightOnly()}


def test_moves_that_lose_least_for_what_they_save_come_first() -> None:
    costs = [{"float": 32.0, "int8": 8.0, "int4": 4.0}, {"float": 32.0, "int8": 8.0, "int4": 4.0}]
    losses = [{"float": 0.0, "int8": 0.24, "int4": 0.5}, {"float": 0.0, "int8": 0.024, "int4": 0.026}]
    # Losses a byte: group 1 to int8 0.001, on to int4 0.0005 (so at once, 0.026 / 28 = 0.00093, is better);
    # group 0 to int8 0.01, on to int4 0.065.
    assert cheapest_first(costs, losses, "float") == [(1, "int4"), (0, "int8"), (0, "int4")]


def test_a_scheme_that_saves_nothing_is_no_move() -> None:
    costs = [{"float": 1.0, "int8": 0.5, "int4": 1.2}]
    assert cheapest_first(costs, [{"float": 0.0, "int8": 0.1, "int4": 0.0}], "float") == [(0, "int8")]


def test_a_try_is_where_the_drop_should_reach_the_limit() -> None:
    reached = [0.0, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert where_to_try(0.01, (0, 0.0), (5, 0.02), reached) == 3
    assert where_to_try(0.019, (0, 0.0), (5, 0.02), reached) == 4  # not again the one that failed
    assert where_to_try(0.001, (0, 0.0), (5, 0.02), reached) == 1  # nor the one that held
    assert where_to_try(0.01, (2, -0.01), (5, 0.03), reached) == 3  # a gain counts


def test_layers_that_share_an_input_and_tables_are_groups(model: nn.Module, context: Context) -> None:
    groups = Parts.of(model, STAGES, context).groups
    names = [group.name for group in groups]
    assert "layers.0.attention.{q_proj, k_proj, v_proj}" in names
    assert names.index("layers.0.attention.out_proj") < names.index("layers.1.feed_forward.up")
    sizes = {group.name: group.products for group in groups}
    assert sizes["layers.1.feed_forward.up"] == 32 * 64
    assert sizes["layers.0.attention.{q_proj, k_proj, v_proj}"] == 3 * 32 * 32


def test_parts_put_together_answer_as_the_whole_they_come_from(model: nn.Module, context: Context) -> None:
    parts = Parts.of(model, STAGES, context)
    rows = context.validation
    for scheme in (FLOAT, *STAGES):
        together = answers(parts.together([scheme] * len(parts.groups)), rows, context)
        assert torch.equal(together, predict_logits(parts.whole[scheme], rows, context.task))
    assert torch.equal(answers(parts.whole[FLOAT], rows, context), predict_logits(model, rows, context.task))


def test_damage_is_that_of_the_one_group(model: nn.Module, context: Context) -> None:
    parts = Parts.of(model, STAGES, context)
    found = damages(parts, context.validation, context)
    assert len(found) == len(parts.groups)
    index = next(i for i, group in enumerate(parts.groups) if group.name == "layers.1.feed_forward.down")
    schemes = [FLOAT] * len(parts.groups)
    schemes[index] = "int4_weight_only"
    alone = answers(parts.together(schemes), context.validation, context)
    truth = predict_logits(model, context.validation, context.task)
    p, q = truth.softmax(-1), alone.softmax(-1)
    expected = float((p * (p / q).log()).sum(1).mean())
    # Differences of logarithms in float32 around 1e-5.
    assert found[index]["int4_weight_only"].divergence == pytest.approx(expected, rel=0.02, abs=1e-7)
    total = {name: sum(group[name].divergence for group in found) for name in STAGES}
    assert total["int8_dynamic"] < total["int4_weight_only"] / 5


class Twice(nn.Module):
    """One layer in two places, and one that another scheme alone can't be told from."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.head = nn.Linear(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(features).relu()
        logits: Tensor = self.head(self.again(hidden).mean(1))
        return logits


def test_damage_to_vectors_is_seen_where_nobody_knows_the_originals() -> None:
    task = SentenceEmbedding((), size=4)
    rows = Split("validation", tuple({} for _ in range(30)), task.no_labels(30), ())
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert damage_of(vectors, vectors, rows, task) == Damage(0.0, 0.0)
    assert damage_of(vectors.flip(0), vectors, rows, task).metric < -0.3


def test_a_layer_in_two_places_goes_with_both(context: Context) -> None:
    torch.manual_seed(0)
    parts = Parts.of(Twice(), {"int8_dynamic": Int8Dynamic()}, context)
    assert [group.layers for group in parts.groups] == [("first", "again"), ("head",)]
    done = parts.together(["int8_dynamic", FLOAT])
    assert done.first is done.again and isinstance(done.first, Int8Linear)
    assert isinstance(done.head, nn.Linear)
    # 4 x 4 integers, 4 scales and 4 biases of 4 bytes, once.
    assert parts.stored_bytes(parts.groups[0], "int8_dynamic") == 16 + 16 + 16


class Normed(nn.Module):
    """A convolution, a norm that static int8 folds into it, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            self.norm.running_mean += 0.3  # type: ignore[operator]
            self.norm.weight *= 3

    def forward(self, features: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv(features.transpose(1, 2)))).mean(2)
        logits: Tensor = self.head(hidden)
        return logits


def test_a_convolution_goes_with_the_norm_that_was_folded_into_it(context: Context) -> None:
    torch.manual_seed(0)
    model = Normed().eval()
    stages = {"int8_static": Int8Static(calibration_rows=32), "int4_weight_only": Int4WeightOnly()}
    parts = Parts.of(model, stages, context)
    assert [group.layers for group in parts.groups] == [("conv", "norm"), ("head",)]
    truth = predict_logits(model, context.validation, context.task)
    assert torch.equal(answers(parts.together([FLOAT, FLOAT]), context.validation, context), truth)
    near = answers(parts.together(["int8_static", FLOAT]), context.validation, context)
    # 256 levels at both ends move logits by some percent of their spread; few rows lie beyond the range.
    assert 0 < float((near - truth).abs().mean()) < 0.05 * float(truth.std())


def mixed(context: Context, **settings: Any) -> tuple[Mixed, Context]:
    return Mixed(sensitivity_rows=32, **settings), context


def test_all_that_is_allowed_is_taken(model: nn.Module, context: Context) -> None:
    stage, context = mixed(context, max_accuracy_drop=0.99)
    made = stage.apply(model, context)
    done = made.model
    found = made.facts["candidates"]
    assert found[made.facts["chosen"]]["weights_mb"] < found["int4_weight_only"]["weights_mb"]
    assert made.facts["map"]["projection"]["scheme"] != "int4_weight_only", "4 inputs fill no group of 32"
    assert all(isinstance(done.get_submodule(f"layers.{i}.feed_forward.up"), Int4Linear) for i in (0, 1))
    assert made.facts["bytes_after"] < made.facts["bytes_before"] / 3


def test_a_fragile_layer_keeps_more_bits(model: nn.Module, context: Context) -> None:
    """One weight is loud, and with 4 bits the others of its group are all rounded to 0."""
    with torch.no_grad():
        model.classifier.weight[:, 0] = 6.0  # the same for every class: no answer hangs on it
        model.classifier.bias -= predict_logits(model, context.validation, context.task).mean(0)
    labels = predict_logits(model, context.validation, context.task).argmax(-1).numpy()
    assert len(set(labels.tolist())) > 1
    context = replace(context, validation=replace(context.validation, labels=labels))
    stage, context = mixed(context, max_accuracy_drop=0.05)
    made = stage.apply(model, context)
    done = made.model
    facts = made.facts
    assert facts["validation_change"] >= -0.05
    assert facts["map"]["classifier"]["scheme"] != "int4_weight_only"
    uniform = facts["candidates"]["int8_dynamic"]
    assert not facts["candidates"]["int4_weight_only"]["within_the_drop"]
    assert facts["candidates"][facts["chosen"]]["weights_mb"] <= uniform["weights_mb"]
    truth, found = (predict_logits(each, context.validation, context.task) for each in (model, done))
    same = float((truth.argmax(-1) == found.argmax(-1)).float().mean())
    assert same - 1 == pytest.approx(facts["validation_change"], abs=1e-6)


def test_what_is_returned_is_no_part_of_what_was_given(model: nn.Module, context: Context) -> None:
    stage, context = mixed(context)
    before = predict_logits(model, context.validation, context.task)
    done = stage.apply(model, context).model
    given = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    assert not given & {id(tensor) for tensor in done.state_dict(keep_vars=True).values()}
    assert torch.equal(predict_logits(model, context.validation, context.task), before)


class Clock:
    """int8 layers save time, 4-bit ones cost some."""

    def setting(self, batch: int | None, sequence: int | None, threads: int | None) -> Setting:
        return Setting(batch=batch or 1, sequence=sequence or 5, threads=threads or 1)

    def compare(self, model: nn.Module, setting: Setting) -> Compared:
        time = 1.0
        for module in model.modules():
            time -= 0.05 * isinstance(module, Int8Linear)
            time += 0.01 * isinstance(module, Int4Linear)
        return Compared(1 / time, 1 / time, 1 / time, 61, disturbed_rounds=2)


def test_the_fastest_is_what_was_timed_whole(model: nn.Module, context: Context) -> None:
    stage, context = mixed(context, objective="latency", max_accuracy_drop=0.99)
    assert stage.is_timed
    with pytest.raises(StageError, match="objective: latency"):
        stage.apply(model, context)
    made = stage.apply(model, replace(context, timer=Clock()))  # type: ignore[arg-type]
    done = made.model
    assert not any(isinstance(module, Int4Linear) for module in done.modules())
    chosen = made.facts["candidates"][made.facts["chosen"]]
    assert chosen["timed"] and made.facts["candidates"]["int4_weight_only"]["timed"]
    assert chosen["times_as_fast"] >= made.facts["candidates"]["int8_dynamic"]["times_as_fast"] > 1
    assert made.facts["disturbed_rounds"] >= 6, "2 of each of float and two schemes at least"
    assert chosen["times_as_fast"] == pytest.approx(
        Clock().compare(done, Setting(batch=1, sequence=5, threads=1)).speedup
    )


def test_nothing_within_the_drop_is_said_with_the_nearest(
    model: nn.Module, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.quantize.mixed import sensitivity

    truth = sensitivity.damage_of

    def worse(logits: Tensor, full: Tensor, rows: Any, task: Any) -> Any:
        return replace(truth(logits, full, rows, task), metric=-0.25)

    monkeypatch.setattr(sensitivity, "damage_of", worse)
    stage, context = mixed(context, max_accuracy_drop=0.1)
    with pytest.raises(StageError, match=r"max_accuracy_drop.*0\.1.*0\.2500.*on 48"):
        stage.apply(model, context)


def test_schemes_that_make_nothing_faster_are_refused(model: nn.Module, context: Context) -> None:
    schemes = {"int4_weight_only": {}}
    stage, context = mixed(context, objective="latency", max_accuracy_drop=0.99, schemes=schemes)
    with pytest.raises(StageError, match="no scheme makes the model faster here within max_accuracy_drop"):
        stage.apply(model, replace(context, timer=Clock()))  # type: ignore[arg-type]


def test_answers_that_are_no_numbers_are_refused(model: nn.Module, context: Context) -> None:
    parts = Parts.of(model, STAGES, context)
    with torch.no_grad():
        parts.whole["int8_dynamic"].classifier.scale[0] = float("nan")
    with pytest.raises(StageError, match="quantized model's outputs for validation rows"):
        damages(parts, context.validation, context)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"schemes": {}}, "name at least one of int8_dynamic, int8_static"),
        ({"schemes": {"int8_static": {"smooth": "awq"}}}, "int8_static: smooth"),
        ({"schemes": {"int2": {}}}, "int2"),
        ({"max_accuracy_drop": -0.1}, "max_accuracy_drop"),
        ({"schemes": {"int4_weight_only": {"group_size": 7}}}, "group_size"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Mixed.model_validate(settings)


def test_patterns_hold_for_every_scheme(model: nn.Module, context: Context) -> None:
    stage, context = mixed(context, max_accuracy_drop=0.99, skip=("classifier",))
    stage.rehearse(model)
    assert isinstance(stage.apply(model, context).model.classifier, nn.Linear)
    with pytest.raises(StageError, match="clasifier"):
        Mixed(skip=("clasifier",)).rehearse(model)


def test_a_scheme_that_lacks_its_rows_is_refused_with_the_recipe() -> None:
    stage = Mixed.model_validate({"schemes": {"int8_static": {"calibration": "unlabelled"}}})
    assert "texts" in (stage.data_objection(DigitsData()) or "")
    assert Mixed().data_objection(DigitsData()) is None


def test_a_group_is_named_by_what_its_layers_share() -> None:
    assert Group(("a.b.q", "a.b.k"), 0).name == "a.b.{q, k}"
    assert Group(("a.q", "b.q"), 0).name == "a.q, b.q"
    assert Group(("head",), 0).name == "head"
