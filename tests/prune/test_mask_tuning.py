"""The units that stay are scaled to put out what all did; the scales are then part of the weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.data import Splits
from compress.data.split import Split
from compress.errors import ModelError, StageError
from compress.model import structure_of
from compress.model.files.config import ModelConfig
from compress.model.files.load import load_model
from compress.model.forward import predict_logits
from compress.model.observe.capture import inputs_of_sites
from compress.model.structure.sites import Producer, Site
from compress.prune.importance.unit_gates import gated
from compress.prune.structured.mask_tuning import fold_gates_, normal_equations, solve_scales, tune_masks
from compress.tasks import Classification, InputSpec

TASK = Classification(
    (InputSpec("x", "float32", ("s", 2)), InputSpec("attention_mask", "int64", ("s",))), labels=("no", "yes")
)
FIRST = Site("first", "feed_forward", 0, (Producer("up", (1,)),), "down", 1)
SECOND = Site("second", "feed_forward", 1, (Producer("down", (1,)),), "last", 1)


class Chain(nn.Module):
    """x goes through `down`, then `last`; padded positions are left as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Identity()
        self.down, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
        self.down.weight.data.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        self.down.bias.data.copy_(torch.tensor([5.0, 0.0]))
        self.last.weight.data.copy_(torch.eye(2))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        answer: Tensor = self.last(self.down(self.up(x))).sum(1)
        return answer


@pytest.fixture
def undamped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.prune.structured.mask_tuning._DAMPING", 1e-12)


def rows(*values: list[list[float]]) -> Split:
    given = tuple(
        {"x": np.array(v, dtype=np.float32), "attention_mask": np.ones(len(v), dtype=np.int64)}
        for v in values
    )
    return Split("train", given, np.zeros(len(given), dtype=np.int64), TASK.inputs)


@pytest.mark.usefixtures("undamped")
def test_the_scale_of_the_unit_that_stays_is_the_least_squares_one() -> None:
    # down puts out x0 + x1; of x0 alone, s * (1, 2, 1) shall be near (2, 2, 3): s = (2 + 4 + 3) / 6. The bias
    # of 5 is no part of it, and the shorter row's padding (0, 0) adds nothing here but see the next test.
    model = Chain()
    split = rows([[1, 1], [2, 0]], [[1, 2]])
    (scales,) = tune_masks(model, model, [FIRST], [torch.tensor([1.0, 0.0])], split, TASK)
    assert scales.tolist() == [pytest.approx(1.5), 0]  # exact up to fp32: damping is off


@pytest.mark.usefixtures("undamped")
def test_a_later_site_makes_up_for_the_error_that_an_earlier_one_leaves_and_padding_does_not_count() -> None:
    # With x1 = -0.5 x0 a first site of x0 alone is tuned to 0.5 and leaves no error: second stays at 1.
    # Where the first site has lost both units it puts out its bias 5; all 4 tokens of the dense model put out
    # 5 + x0 / 2 = 6, 7, 8, 9, so s * 5 is nearest with s = 30 / 20. Two padded positions would put out 5
    # each, and make that 40 / 30.
    model = Chain()
    split = rows([[2, -1], [4, -2], [6, -3]], [[8, -4]])
    sites = [FIRST, SECOND]
    one, both = torch.tensor([1.0, 0.0]), torch.ones(2)
    first, second = tune_masks(model, model, sites, [one, both], split, TASK)
    assert first.tolist() == [pytest.approx(0.5), 0] and second[0] == pytest.approx(1.0)
    first, second = tune_masks(model, model, sites, [torch.zeros(2), both], split, TASK)
    assert first.tolist() == [0, 0] and second[0] == pytest.approx(1.5)
    assert second[1] == 1  # puts out nothing: it has no scale to find


def test_damping_pulls_to_one() -> None:
    # (6 + 0.001 * 6) s = 9 + 0.001 * 6.
    found = solve_scales(torch.tensor([[6.0]]), torch.tensor([9.0]))
    assert found.tolist() == [pytest.approx(9.006 / 6.006)]
    assert solve_scales(torch.zeros(2, 2), torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.usefixtures("undamped")
def test_a_scale_beyond_ten_becomes_one_and_the_others_are_solved_with_it_there() -> None:
    # s = (50, 2) by itself. With s_0 = 1: [[1, 0.1], [0.1, 1]] gives s_1 = b_1 - 0.1 * 1 = 6.9.
    normal = torch.tensor([[1.0, 0.1], [0.1, 1.0]], dtype=torch.float64)
    right = normal @ torch.tensor([50.0, 2.0], dtype=torch.float64)
    assert solve_scales(normal, right).tolist() == [1, pytest.approx(6.9)]


def test_normal_equations_are_those_of_the_written_out_contributions() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 6, generator=draw), torch.randn(7, 3, generator=draw)
    weight = torch.randn(3, 6, generator=draw)
    for size in (1, 2, 6):
        columns = [x[:, at : at + size] @ weight[:, at : at + size].T for at in range(0, 6, size)]
        written_out = torch.stack([column.flatten() for column in columns], 1).double()  # [t*o, k]
        normal, right = normal_equations([(x[:4], y[:4]), (x[4:], y[4:])], weight, size)
        # Products of fp32 against products of fp64.
        torch.testing.assert_close(normal, written_out.T @ written_out, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(right, written_out.T @ y.flatten().double(), rtol=1e-5, atol=1e-5)


def half_of_each(sites: tuple[Site, ...], model: nn.Module) -> list[Tensor]:
    return [(torch.arange(site.units(model)) % 2).float() for site in sites]


def test_tuned_units_come_nearer_to_the_dense_output_at_every_site(model: nn.Module, splits: Splits) -> None:
    sites, split = structure_of(model).sites, splits.train
    gates = half_of_each(sites, model)
    before = copy.deepcopy(model.state_dict())
    tuned = tune_masks(model, copy.deepcopy(model), sites, gates, split, splits.task, batch_size=40)
    for index, site in enumerate(sites):
        assert bool((tuned[index][gates[index] == 0] == 0).all())
        weight = model.get_submodule(site.consumer).weight.detach()
        dense = torch.cat([x for (x,) in inputs_of_sites(model, [site], split, splits.task)]) @ weight.T
        with gated(model, sites[:index], tuned[:index]):
            x = torch.cat([x for (x,) in inputs_of_sites(model, [site], split, splits.task)])
        errors = [
            float(((x * gate.repeat_interleave(site.unit_size)) @ weight.T - dense).square().sum())
            for gate in (gates[index], tuned[index])
        ]
        assert errors[1] < 0.99 * errors[0]  # a step of rounding would not be one percent
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert gates[0].tolist() == [0, 1, 0, 1]


def test_hugging_face_models_are_tuned_the_same_whatever_the_padding(
    hf_directory: Path, tmp_path: Path
) -> None:
    loaded = load_model(ModelConfig.model_validate({"hf": str(hf_directory)}), seed=0, scratch=tmp_path)
    model, sites = loaded.module, structure_of(loaded.module).sites
    inputs = tuple(InputSpec(name, "int64", ("s",)) for name in ("input_ids", "attention_mask"))
    draw = np.random.default_rng(0)
    given = tuple(
        {"input_ids": draw.integers(5, 16, length), "attention_mask": np.ones(length, dtype=np.int64)}
        for length in (3, 9, 4, 12, 2, 7)
    )
    split = Split("train", given, np.zeros(6, dtype=np.int64), inputs)
    gates = half_of_each(sites, model)
    found = [
        tune_masks(model, model, sites, gates, split, Classification(inputs, ("0", "1")), batch_size=size)
        for size in (1, 6)
    ]
    for alone, padded, gate in zip(*found, gates, strict=True):
        assert bool((alone != gate).any())
        # fp32 sums in another order; the equations, of 37 tokens, make the difference some ten times larger.
        torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-4)


def test_sites_that_lost_nothing_after_sites_that_lost_nothing_stay_as_they_are(
    model: nn.Module, splits: Splits
) -> None:
    sites = structure_of(model).sites
    gates = [torch.ones(site.units(model)) for site in sites]
    gates[2][0] = 0
    tuned = tune_masks(model, model, sites, gates, splits.train, splits.task)
    moved = [bool((a != b).any()) for a, b in zip(tuned, gates, strict=True)]
    assert moved == [False, False, True, True]  # the last makes up for the third


def test_folded_gates_answer_as_open_ones(model: nn.Module, splits: Splits) -> None:
    sites = structure_of(model).sites
    draw = torch.Generator().manual_seed(0)
    gates = [torch.rand(site.units(model), generator=draw) * 2 for site in sites]
    with gated(model, sites, gates):
        wanted = predict_logits(model, splits.validation, splits.task)
    for site, gate in zip(sites, gates, strict=True):
        fold_gates_(model, site, gate)
    # The factor meets the weight instead of the input: fp32 rounding.
    torch.testing.assert_close(
        predict_logits(model, splits.validation, splits.task), wanted, rtol=1e-4, atol=1e-5
    )


def test_what_does_not_fit_is_refused_before_work(model: nn.Module, splits: Splits) -> None:
    task, split, (attention, *_) = splits.task, splits.train, structure_of(model).sites
    with pytest.raises(StageError, match="2 gates for 1 sites"):
        tune_masks(model, model, [attention], [torch.ones(4)] * 2, split, task)
    with pytest.raises(StageError, match=r"has 4.*\[3\]"):
        tune_masks(model, model, [attention], [torch.ones(3)], split, task)
    with pytest.raises(StageError, match=r"has 4 heads, .*\[32\]"):
        fold_gates_(model, attention, torch.ones(32))
    with pytest.raises(StageError, match="no calibration rows"):
        empty = Split("train", (), split.labels[:0], split.inputs)
        tune_masks(model, model, [attention], [torch.ones(4)], empty, task)
    narrow = copy.deepcopy(model)
    narrow.set_submodule(attention.consumer, nn.Linear(32, 16))
    with pytest.raises(StageError, match="32 features in the student and 16 in the teacher"):
        tune_masks(model, narrow, [attention], [torch.ones(4)], split, task)
    with pytest.raises(StageError, match="the teacher has no nowhere"):
        tune_masks(
            narrow, nn.Module(), [replace(attention, consumer="nowhere")], [torch.ones(0)], split, task
        )
    model.set_submodule(attention.consumer, nn.Bilinear(32, 1, 32))
    with pytest.raises(ModelError, match="not a float Linear"):
        fold_gates_(model, attention, torch.ones(4))


def test_outputs_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(StageError, match="contain NaN"):
        solve_scales(torch.tensor([[float("inf")]]), torch.ones(1))
