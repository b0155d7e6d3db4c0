"""Blocks that are cut out of an exported graph answer as the submodules that they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.errors import ExportError
from compress.export import export_onnx, extract_blocks
from compress.measure import create_session
from compress.model import keep_units_, structure_of
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.stage import Context


@pytest.mark.parametrize("cut", [False, True])
def test_a_block_answers_as_its_layer(model: nn.Module, splits: Splits, tmp_path: Path, cut: bool) -> None:
    if cut:
        keep_units_(model, structure_of(model).sites[2], [])
    path = export_onnx(model, splits.validation, splits.task, tmp_path / "model.onnx")
    features = next(splits.validation.batches(3))["features"]
    blocks = extract_blocks(path, ["layers.0", "layers.1"], {"features": features}, tmp_path)
    for index, block in enumerate(blocks):
        (given,) = (array for array in block.feeds.values() if array.shape == (3, 5, 32))
        outputs = create_session(block.path, threads=1).run(None, dict(block.feeds))
        (answer,) = (output for output in outputs if output.shape == (3, 5, 32))  # others share their sizes
        with torch.inference_mode():
            expected = model.get_submodule(f"layers.{index}")(torch.from_numpy(given))
        np.testing.assert_allclose(answer, expected.numpy(), rtol=1e-4, atol=1e-5)  # two engines' fp32


def test_blocks_of_a_quantized_model_hold_its_integer_products(
    model: nn.Module, splits: Splits, context: Context, tmp_path: Path
) -> None:
    quantized = Int8Dynamic().apply(model, context).model
    path = export_onnx(quantized, splits.validation, splits.task, tmp_path / "model.onnx")
    features = next(splits.validation.batches(3))["features"]
    (block,) = extract_blocks(path, ["layers.1"], {"features": features}, tmp_path)
    import onnx

    assert sum(node.op_type == "MatMulInteger" for node in onnx.load(block.path).graph.node) == 6
    create_session(block.path, threads=1).run(None, dict(block.feeds))


def test_a_submodule_that_left_no_node_is_named(model: nn.Module, splits: Splits, tmp_path: Path) -> None:
    path = export_onnx(model, splits.validation, splits.task, tmp_path / "model.onnx")
    features = next(splits.validation.batches(3))["features"]
    with pytest.raises(ExportError, match=r"layers\.7"):
        extract_blocks(path, ["layers.7"], {"features": features}, tmp_path)
