"""The past of an ONNX decoder, as its graph says: what can be read, and what can't."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from compress.data.past import empty_past
from compress.errors import ModelError


@dataclass
class _Value:
    name: str
    shape: list[Any]
    type: str = "tensor(float)"


def test_an_empty_past_has_the_shapes_and_types_of_the_inputs() -> None:
    inputs = [
        _Value("input_ids", ["b", "s"], "tensor(int64)"),
        _Value("past_key_values.0.key", ["b", 2, "p", 8]),
        _Value("past_key_values.0.value", ["b", 2, "p", 4], "tensor(float16)"),
    ]
    key, value = empty_past(inputs, 3).values()
    assert key.shape == (3, 2, 0, 8) and key.dtype == np.float32
    assert value.shape == (3, 2, 0, 4) and value.dtype == np.float16


@pytest.mark.parametrize("shape", [["b", "heads", "p", 8], ["b", 2, 8]])
def test_a_graph_that_says_no_heads_is_refused(shape: list[Any]) -> None:
    with pytest.raises(ModelError, match=r"past_key_values\.0\.key has shape"):
        empty_past([_Value("past_key_values.0.key", shape)], 1)
