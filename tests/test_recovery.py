"""What a model learns after a cut: its layers' states too, where it says where its layers are."""

from __future__ import annotations

import pytest
from torch import nn

from compress.errors import ModelError
from compress.recovery import RecoveryConfig, recover_
from compress.stage import Context, StageResult


class Said(nn.Sequential):
    """Two layers, and what structure() is to say of them."""

    def __init__(self, **said: object) -> None:
        super().__init__(nn.Linear(20, 8), nn.ModuleList([nn.Linear(8, 8)]), nn.Linear(8, 3))
        self.said = said

    def structure(self) -> object:
        return self.said


def test_a_structure_that_is_wrong_does_not_leave_a_loss_out(model: nn.Module, context: Context) -> None:
    config = RecoveryConfig(epochs=1, batch_size=32)
    with pytest.raises(ModelError, match="'layer'.*'layers'"):
        recover_(StageResult(Said(layer="1")), model, config, context, "recovery")
