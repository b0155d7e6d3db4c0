"""Attention reads masks in the file as in PyTorch: of any form, at both opsets, and where all is padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data import Splits, from_arrays
from compress.export import export_onnx

WIDTH, HEADS = 16, 4


class _Classifier(nn.Module):
    """One layer of attention, read at the first position, which may be padding."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.embedding, self.head = nn.Embedding(50, WIDTH), nn.Linear(WIDTH, 2)
        self.projections = nn.Linear(WIDTH, 3 * WIDTH)
        nn.init.normal_(self.projections.weight)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.1, batch_first=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, seen = self.embedding(input_ids), attention_mask.bool()
        if self.form == "nn.TransformerEncoderLayer":
            return self.head(self.layer(x, src_key_padding_mask=~seen)[:, 0])
        each = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.projections(x).chunk(3, -1))
        return self.head(
            (x + F.scaled_dot_product_attention(*each, self.mask(seen)).transpose(1, 2).flatten(2))[:, 0]
        )

    def mask(self, seen: Tensor) -> Tensor:
        mask, length = seen[:, None, None, :], seen.shape[1]  # [b, 1, 1, s]
        zeros = torch.zeros(mask.shape)
        return {
            "one row": lambda: mask,
            "square": lambda: mask.expand(-1, 1, length, -1),
            "by head": lambda: mask.expand(-1, HEADS, -1, -1),
            "infinite": lambda: zeros.masked_fill(~mask, float("-inf")),
            "smallest": lambda: zeros.masked_fill(~mask, torch.finfo(torch.float32).min),
        }[self.form]()


@pytest.fixture(scope="module")
def rows() -> Splits:
    def some(seed: int) -> dict[str, object]:
        draw = np.random.default_rng(seed)
        ids = [draw.integers(1, 50, int(length)) for length in draw.integers(3, 12, 24)]
        return {
            "input_ids": ids,
            "attention_mask": [np.ones_like(row) for row in ids],
            "labels": np.arange(24) % 2,
        }

    return from_arrays(some(0), some(1))


@pytest.mark.parametrize("opset", [21, 23])
@pytest.mark.parametrize(
    "form", ["one row", "square", "by head", "infinite", "smallest", "nn.TransformerEncoderLayer"]
)
def test_a_mask_is_read_as_in_pytorch(rows: Splits, tmp_path: Path, form: str, opset: int) -> None:
    module = _Classifier(form).eval()
    path = export_onnx(module, rows.validation, rows.task, tmp_path / "model.onnx", opset=opset)
    ids = np.random.default_rng(2).integers(1, 50, (4, 7))
    mask = (np.arange(7) < np.array([7, 4, 1, 0])[:, None]).astype(np.int64)
    (found,) = ort.InferenceSession(path).run(None, {"input_ids": ids, "attention_mask": mask})
    with torch.inference_mode():
        expected = module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    # The last row is all padding, where PyTorch's own kernel for a whole layer gives NaN.
    there = slice(None, 3 if form == "nn.TransformerEncoderLayer" else 4)
    assert np.isfinite(found).all()
    # float32 sums in another order: a few units in the last place.
    np.testing.assert_allclose(found[there], expected[there], atol=1e-5)
