"""Channels that are always zero or constant, as training leaves them: each scheme keeps finite numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.evaluating import evaluating
from compress.quantize.float16 import Float16
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.stage import Context, Stage

STAGES: dict[str, Stage] = {
    "float16": Float16(),
    "int8_dynamic": Int8Dynamic(),
    **{
        f"int8_static {each}": Int8Static(calibration_rows=32, algorithm=each)
        for each in ("rtn", "mse", "gptq")
    },
    **{f"int8_static {each}": Int8Static(calibration_rows=32, range=each) for each in ("percentile",)},
    "int8_weight_only": Int8WeightOnly(),
    **{f"int4_weight_only {each}": Int4WeightOnly(algorithm=each) for each in ("rtn", "mse", "hqq", "gptq")},
    "qat": Int8Static.model_validate({"calibration_rows": 32, "qat": {"epochs": 1}}),
}
DEAD = ("weights", "variance", "both", "factor", "whole layer")


class Normed(nn.Module):
    """[b, s, 4] to [b, 3]: a convolution with a batch norm, a depthwise one, and linear layers."""

    def __init__(self, dead: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(4, 32, 3, padding=1, bias=False), nn.BatchNorm1d(32)
        self.deep, self.after = nn.Conv1d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm1d(32)
        self.body, self.head = nn.Linear(32, 32), nn.Linear(32, 3)
        channels = slice(None) if dead == "whole layer" else slice(0, 1)
        for layer, norm in ((self.conv, self.norm), (self.deep, self.after)):
            if dead in ("weights", "both", "whole layer"):
                layer.weight.data[channels] = 0
            if dead in ("variance", "both"):
                norm.running_var[channels] = 0  # type: ignore[index]
            if dead == "factor":
                norm.weight.data[channels] = 0
            if dead == "variance":
                layer.weight.data[channels] *= 1e-8  # what such a variance was measured on
        self.body.weight.data[channels] = 0

    def forward(self, features: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(features.transpose(1, 2))))
        x = F.relu6(self.after(self.deep(x)))
        logits: Tensor = self.head(F.relu(self.body(x.mean(2))))
        return logits


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("name", STAGES)
def test_a_dead_channel_leaves_all_numbers_finite_and_all_steps_above_zero(
    name: str, dead: str, context: Context
) -> None:
    model = Normed(dead).eval()
    made = STAGES[name].apply(model, context).model
    for path, each in (*made.named_buffers(), *made.named_parameters()):
        if each.is_floating_point():
            assert torch.isfinite(each).all(), path
            assert "scale" not in path or bool((each > 0).all()), path
    rows: Any = torch.stack([torch.from_numpy(row["features"]) for row in context.validation.rows])
    with torch.no_grad(), evaluating(made):
        found, wanted = made(rows).float(), model(rows)
    assert torch.isfinite(found).all()
    if name != "qat" and dead != "whole layer":  # the one trains, the other has a single answer for all rows
        # 4 bits of 32 columns with one scale.
        limit = 0.3 if "int4" in name else 0.05
        assert (found - wanted).abs().max() <= limit * max(float(wanted.std()), 0.2)
