"""prune/channels: which go, how many, what is refused, and that recovery and recipes work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.data import DigitsData, Splits, load_splits
from compress.errors import ModelError, StageError
from compress.model import structure_of
from compress.model.cutting.width import feature_count
from compress.model.files.definition import Definition
from compress.prune.channels import ChannelPruning
from compress.prune.importance.removal import Removal
from compress.prune.width import feature_importance
from compress.stage import Context

MODELS = Path(__file__).resolve().parents[2] / "models"
ARGS = {"input_dim": 4, "output_dim": 10, "grid": 4, "widths": [6, 8], "blocks": 1}


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_splits(DigitsData(train_limit=60))


def _cnn(seed: int = 0) -> nn.Module:
    return Definition.from_file(MODELS / "cnn.py", "patch_classifier", ARGS).build(seed=seed)


def _rnn(**changes: Any) -> nn.Module:
    args = {"input_dim": 4, "output_dim": 10, "hidden": 12, "num_layers": 2, "cell": "gru", **changes}
    return Definition.from_file(MODELS / "rnn.py", "patch_classifier", args).build()


def _context(splits: Splits, **rest: Any) -> Context:
    return Context(splits.task, splits.train, splits.validation, **rest)


def _counts(model: nn.Module) -> dict[str, int]:
    return {group.name: feature_count(model, group) for group in structure_of(model).channels}


class _ByPosition(nn.Module):
    """Convolutions that take each position for a row of its own, as networks over frames of audio do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 5, 3), nn.Conv1d(5, 6, 2)
        self.classifier = nn.Linear(6, 10)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(features.flatten(0, 1).unsqueeze(1)).tanh()).tanh()  # [b * s, 6, 1]
        answers: torch.Tensor = self.classifier(x.reshape(*features.shape[:2], -1).mean(1))
        return answers

    def structure(self) -> dict[str, Any]:
        return {
            "channels": {
                "first": {"writers": ["first"], "readers": ["second"]},
                "second": {"writers": ["second"], "readers": ["classifier"]},
            }
        }


def _by_position() -> nn.Module:
    torch.manual_seed(0)
    return _ByPosition().eval()


@pytest.mark.parametrize("build", [_cnn, _rnn, _by_position])
def test_importance_is_the_derivative_of_a_gate_wherever_the_channel_is_read(
    build: Any, digits: Splits
) -> None:
    model = build()
    rows = digits.train.take(4, seed=0)
    groups = structure_of(model).channels
    found = feature_importance(model, rows, digits.task, groups, batch_size=2)
    group, channel, step = groups[0], 2, 1e-2

    def loss(factor: float, at: int) -> float:
        handles = []
        for path in group.readers:
            reader = model.get_submodule(path)

            def gate(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
                x = given[0].clone()
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    x[:, channel] *= factor
                else:
                    x[..., channel] *= factor
                return (x, *given[1:])

            handles.append(reader.register_forward_pre_hook(gate))
        with torch.no_grad():
            answer = model(torch.from_numpy(rows.rows[at]["features"])[None])
            value = nn.functional.cross_entropy(answer, torch.tensor([int(rows.labels[at])]))
        for handle in handles:
            handle.remove()
        return float(value)

    by_hand = sum(abs(loss(1 + step, i) - loss(1 - step, i)) / (2 * step) for i in range(4)) / 4
    assert float(found[0][channel]) == pytest.approx(by_hand, rel=2e-2)  # fp32, and a step


def test_so_many_go_and_each_group_keeps_some(digits: Splits) -> None:
    model = _cnn()
    before = _counts(model)
    context = _context(digits)
    made = ChannelPruning(sparsity=0.5, min_channels=2).apply(model, context)
    pruned = made.model
    after = _counts(pruned)
    assert sum(after.values()) == sum(before.values()) - round(0.5 * sum(before.values()))
    assert min(after.values()) >= 2 and _counts(model) == before
    assert {name: x["kept"] for name, x in made.facts["channels"].items()} == after


def test_only_the_groups_that_are_named_lose_some_and_evenly_by_layer(digits: Splits) -> None:
    model = _rnn()
    pruned = ChannelPruning(sparsity=0.5, groups=("layers.1",)).apply(model, _context(digits)).model
    assert _counts(pruned) == {"layers.0": 12, "layers.1": 6}
    even = ChannelPruning(sparsity=0.5, scope="layer").apply(model, _context(digits)).model
    assert _counts(even) == {"layers.0": 6, "layers.1": 6}


def test_channels_that_nobody_reads_go_first(digits: Splits) -> None:
    model = _rnn()
    deaf = [1, 5, 7, 10]
    model.get_submodule("classifier").weight.data[:, deaf] = 0
    x = torch.from_numpy(digits.validation.rows[0]["features"])[None]
    pruned = (
        ChannelPruning(sparsity=4 / 12, groups=("layers.1",), steps=1).apply(model, _context(digits)).model
    )
    weight = pruned.get_submodule("classifier").weight
    whole = model.get_submodule("classifier").weight
    assert torch.equal(weight, whole[:, [i for i in range(12) if i not in deaf]])
    assert pruned(x).shape == (1, 10)


def test_what_is_left_is_a_multiple_of_what_kernels_like(digits: Splits) -> None:
    args = {**ARGS, "widths": [16, 32]}
    model = Definition.from_file(MODELS / "cnn.py", "patch_classifier", args).build()
    stage = ChannelPruning(sparsity=0.5, multiple_of=8)
    after = _counts(stage.apply(model, _context(digits)).model)
    assert all(count % 8 == 0 for count in after.values()) and sum(after.values()) <= 64
    assert all(count % 8 == 0 for count in _counts(stage.rehearse(model)).values())


@pytest.mark.parametrize(
    ("count", "most", "left"),
    [(22, 32, 16), (24, 32, 32), (25, 64, 32), (3, 64, 16), (60, 60, 60), (5, 7, 7)],
)
def test_the_nearest_multiple_is_taken_and_no_more_than_there_are(count: int, most: int, left: int) -> None:
    assert Removal(1, 1, "global", 1, multiple_of=16).rounded(count, most) == left


def test_rehearsal_has_the_shape_of_as_many_from_each_group() -> None:
    assert sum(_counts(ChannelPruning(sparsity=0.4).rehearse(_cnn())).values()) == 17


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"sparsity": 0.9}, StageError, r"min_channels 4 .*at most 12; use a sparsity up to 0.43"),
        ({"sparsity": 0.001}, StageError, "removes none"),
        ({"sparsity": 0.5, "groups": ["stage 2"]}, StageError, "no group 'stage 2'.*stage 1"),
    ],
)
def test_what_cannot_be_is_refused_before_work(
    settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ChannelPruning.model_validate(settings).rehearse(_cnn())


def test_a_model_without_channels_is_refused_and_shown_the_way() -> None:
    args = {"input_dim": 4, "output_dim": 10, "d_model": 16, "nhead": 2, "num_layers": 1, "max_length": 16}
    model = Definition.from_file(MODELS / "transformer.py", "patch_classifier", args).build()
    with pytest.raises(ModelError, match="names no channels.*models/cnn.py"):
        ChannelPruning(sparsity=0.5).rehearse(model)
