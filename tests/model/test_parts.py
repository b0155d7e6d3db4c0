"""Where the bytes of a model are: each tensor in one part, all of them in some."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compress.model import ModelConfig, load_model
from compress.model.counts import stored_bytes
from compress.model.parts import PARTS, bytes_by_part
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.stage import Context


def test_parts_of_a_transformer_by_hand(model: nn.Module) -> None:
    found = bytes_by_part(model)
    # 2 layers 32 wide: q, k, v and output with biases; 32 to 64 and back with biases; 8 positions of 32.
    assert found["attention"] == 4 * 2 * 4 * (32 * 32 + 32)
    assert found["feed-forward"] == 4 * 2 * (2 * 32 * 64 + 64 + 32)
    assert found["embeddings"] == 4 * 8 * 32
    assert list(found) == list(PARTS) and sum(found.values()) == stored_bytes(model)


def test_parts_of_a_quantized_model_are_those_of_its_integers(model: nn.Module, context: Context) -> None:
    done = Int8Dynamic().apply(model, context).model
    before, after = bytes_by_part(model), bytes_by_part(done)
    assert sum(after.values()) == stored_bytes(done)
    # A byte for each weight; scales and biases stay float32, of which small layers have many.
    for part in ("attention", "feed-forward"):
        assert before[part] / 4 < after[part] < before[part] / 2


def test_parts_of_a_hugging_face_model(bert_directory: Path, tmp_path: Path) -> None:
    loaded = load_model(ModelConfig(hf=str(bert_directory)), seed=0, scratch=tmp_path)
    found = bytes_by_part(loaded.module)
    words = loaded.module.get_input_embeddings().weight  # type: ignore[operator]
    assert found["embeddings"] > words.numel() * 4 and all(found.values())
    assert sum(found.values()) == stored_bytes(loaded.module)


def test_a_shared_weight_counts_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)
            self.out = nn.Linear(4, 10, bias=False)
            self.out.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.out(self.table(ids))
            return y

    assert bytes_by_part(Tied()) == {"embeddings": 160, "attention": 0, "feed-forward": 0, "rest": 0}


def test_attention_and_bags_of_torch_are_parts_by_themselves() -> None:
    model = nn.Sequential(nn.EmbeddingBag(16, 32), nn.TransformerEncoderLayer(32, 4, 64))
    found = bytes_by_part(model)
    assert found["embeddings"] == 4 * 16 * 32
    assert found["attention"] == 4 * (4 * 32 * 32 + 4 * 32)
    assert sum(found.values()) == stored_bytes(model)


def test_a_model_that_says_nothing_of_its_parts_is_rest() -> None:
    assert bytes_by_part(nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU()))["rest"] == 4 * (18 + 3)
