"""`precision: auto` goes by the device and the model, and never by a clock."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.stage import Context, StageResult
from compress.train import fit_
from compress.train.precision import use_bf16
from compress.train_config import TrainConfig

AUTO = TrainConfig(epochs=1, batch_size=8)


@pytest.mark.parametrize(
    ("amx", "width", "expected"), [(True, 256, True), (True, 128, False), (False, 256, False)]
)
def test_auto_is_bf16_on_matrix_units_for_wide_models(
    monkeypatch: pytest.MonkeyPatch, amx: bool, width: int, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    module = nn.Sequential(nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.Linear(2 * width, 3))
    assert use_bf16(module, AUTO, "cpu") is expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_auto_is_bf16_on_gpus_that_have_it_in_their_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert use_bf16(nn.Linear(512, 512), AUTO, "cuda:0") is expected


def test_a_large_table_of_narrow_rows_makes_no_model_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    module = nn.Sequential(nn.Embedding(30_000, 64), nn.Linear(256, 256))
    assert not use_bf16(module, AUTO, "cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: precision == "fp32")
    config = AUTO.model_copy(update={"precision": precision})
    assert use_bf16(nn.Linear(512, 512), config, "cpu") is (precision == "bf16")


def test_no_clock_decides(model: nn.Module, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)) ** 2)  # each step takes longer
    long = splits.train.joined(splits.test)
    assert fit_(model, long, splits.validation, splits.task, AUTO).precision == "fp32"


def test_a_stage_says_each_precision_that_it_trained_in(model: nn.Module, context: Context) -> None:
    made = StageResult(model)
    for precision in ("bf16", "fp32", "fp32"):
        made.fit_(context, AUTO.model_copy(update={"precision": precision}), "training")
    assert made.facts["precision"] == "bf16, then fp32"
