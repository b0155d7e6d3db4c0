"""Attention is recomputed from q and k, and believed only where it explains what the block hands on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.model import ModelConfig, load_model, structure_of
from compress.model.files.definition import Definition
from compress.model.observe.attention_view import LOOKS, attention_of_row, look_shares

TRANSFORMER = Path(__file__).resolve().parents[2] / "models" / "transformer.py"
SIZES = {"nhead": 4, "num_layers": 2, "d_model": 32, "dropout": 0.0, "max_length": 16}


def test_queries_that_share_keys_are_left_out() -> None:
    model = Definition.from_file(Path(__file__).with_name("grouped_queries.py"), "build", {}).build()
    found = attention_of_row(model, structure_of(model).attention, {"features": torch.randn(1, 5, 4)})
    assert [each.error for each in found] == [float("inf")] * 2


def test_each_place_is_counted_once_in_the_order_of_looks() -> None:
    # Three positions, the last a separator. Row by row the places are:
    # itself next separator / first itself separator / first previous itself
    weights = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.1, 0.7]]])
    expected = {"itself": 1.8, "first": 0.3, "separator": 0.5, "previous": 0.1, "next": 0.3, "other": 0.0}
    found = look_shares(weights, [2])[0]
    assert {name: float(x) * 3 for name, x in zip(LOOKS, found, strict=True)} == pytest.approx(expected)


def test_shares_sum_to_1_without_separators() -> None:
    weights = torch.rand(3, 7, 7).softmax(-1)
    # Sums of 49 float32 numbers
    torch.testing.assert_close(look_shares(weights).sum(-1), torch.ones(3), rtol=1e-5, atol=1e-5)


def test_attention_explains_the_outputs_of_every_hugging_face_encoder(
    hf_directory: Path, tmp_path: Path
) -> None:
    loaded = load_model(ModelConfig(hf=str(hf_directory)), seed=0, scratch=tmp_path)
    sites = structure_of(loaded.module).attention
    inputs = {"input_ids": torch.tensor([[2, 5, 9, 6, 3]]), "attention_mask": torch.ones(1, 5).long()}
    found = attention_of_row(loaded.module, sites, inputs)
    for attention in found:
        assert attention.weights.shape == (4, 5, 5)
        assert attention.error < 1e-5  # float32 against the fused kernel: some units in the last place


def test_weights_are_those_that_the_model_itself_gives(bert_directory: Path, tmp_path: Path) -> None:
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        bert_directory, attn_implementation="eager"
    ).eval()
    inputs = {"input_ids": torch.tensor([[2, 5, 9, 6, 3]]), "attention_mask": torch.ones(1, 5).long()}
    with torch.no_grad():
        wanted = model(**inputs, output_attentions=True).attentions
    for attention, own in zip(
        attention_of_row(model, structure_of(model).attention, inputs), wanted, strict=True
    ):
        torch.testing.assert_close(attention.weights, own[0], rtol=1e-4, atol=1e-6)


def test_rotary_positions_are_not_explained() -> None:
    made = Definition.from_file(
        TRANSFORMER, "token_classifier", {"input_dim": 9, "output_dim": 2, "positions": "rope", **SIZES}
    )
    model = made.build(seed=0)
    for name, weight in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            weight.data.mul_(4)  # fresh weights attend almost evenly, rotated or not
    found = attention_of_row(model, structure_of(model).attention, {"input_ids": torch.arange(8)[None]})
    assert found[0].error > 1e-3


def test_causal_attention_is_found_to_be_causal() -> None:
    made = Definition.from_file(TRANSFORMER, "causal_lm", {"input_dim": 9, "positions": "learned", **SIZES})
    model = made.build(seed=0)
    found = attention_of_row(model, structure_of(model).attention, {"input_ids": torch.arange(8)[None]})
    for attention in found:
        assert attention.error < 1e-5
        assert float(attention.weights.triu(1).abs().max()) == 0.0


def test_hooks_are_taken_away(model: nn.Module) -> None:
    features: Tensor = torch.zeros(1, 3, 4)
    attention_of_row(model, structure_of(model).attention, {"features": features})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
