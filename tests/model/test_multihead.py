"""nn.MultiheadAttention as a block of Linear layers: equal answers, quantized, cut, saved and loaded."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.data import Split
from compress.model import load_module, save_module, structure_of
from compress.model.cutting.units import keep_units_
from compress.model.files.computed_weights import plain_weights_
from compress.model.files.definition import Definition
from compress.model.layers.multihead import LinearAttention
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.stage import Context
from compress.tasks import Classification, InputSpec

KINDS: dict[str, dict[str, Any]] = {
    "sequence first": {},
    "without biases": {"bias": False, "batch_first": True},
    "other keys and values": {"kdim": 12, "vdim": 20, "batch_first": True},
}
CODE = """
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask):
        kept = attention_mask.bool()
        x = self.body(self.table(input_ids), src_key_padding_mask=~kept)
        weights = kept.unsqueeze(-1).float()
        return self.head((x * weights).sum(1) / weights.sum(1))
"""


def _randomized(model: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    for each in model.parameters():
        each.data.normal_(0, 0.3, generator=draw)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batched", [True, False])
def test_all_arguments_have_their_meaning(kind: str, batched: bool) -> None:
    theirs = _randomized(nn.ModuleList([nn.MultiheadAttention(32, 4, **KINDS[kind])]))
    ours = plain_weights_(copy.deepcopy(theirs))
    given: Any = theirs[0]  # type: ignore[index]
    made: Any = ours[0]  # type: ignore[index]
    assert isinstance(made, LinearAttention)
    query, key, value = torch.randn(3, 5, 32), torch.randn(3, 7, given.kdim), torch.randn(3, 7, given.vdim)
    padded = torch.arange(7) >= torch.tensor([7, 4, 1])[:, None]
    inputs = [query, key, value]
    if not batched:
        inputs, padded = [each[0] for each in inputs], padded[1]
    elif not given.batch_first:
        inputs = [each.transpose(0, 1) for each in inputs]
    causal = torch.ones(5, 7).triu(1).bool()
    masks = [None, causal, torch.randn(5, 7), torch.randn(12 if batched else 4, 5, 7)]
    for mask, padding, weights, mean in itertools.product(
        masks, [None, padded], [True, False], [True, False]
    ):
        if padding is not None and mask is not None and mask.dtype != torch.bool:
            padding = torch.zeros(padding.shape).masked_fill(padding, -1e4)
        options = {"attn_mask": mask, "key_padding_mask": padding}
        options |= {"need_weights": weights, "average_attn_weights": mean}
        for found, wanted in zip(made(*inputs, **options), given(*inputs, **options), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_replaced_stays() -> None:
    class Own(nn.MultiheadAttention):
        pass

    hooked, shared = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2)
    hooked.register_forward_hook(lambda *_: None)
    other = nn.MultiheadAttention(8, 2)
    other.in_proj_weight = shared.in_proj_weight
    stay = [Own(8, 2), nn.MultiheadAttention(8, 2, add_bias_kv=True), hooked, shared, other]
    stay.append(nn.MultiheadAttention(8, 2, add_zero_attn=True))
    twice = nn.MultiheadAttention(8, 2)
    made = plain_weights_(nn.ModuleList([*stay, twice, twice]))
    assert [isinstance(each, LinearAttention) for each in made.children()] == [False] * 6 + [True]
    assert made[6] is made[7]  # type: ignore[index]


def _encoder(tmp_path: Path, *, plain: bool = True) -> nn.Module:
    (tmp_path / "encoder.py").write_text(CODE)
    return _randomized(Definition.from_file(tmp_path / "encoder.py", "Encoder", {}).build(plain=plain))


def _answers(model: nn.Module) -> Tensor:
    ids = torch.arange(36).reshape(4, 9) % 20
    mask = (torch.arange(9) < torch.tensor([9, 3, 5, 1])[:, None]).long()
    with torch.no_grad():
        answers: Tensor = model(input_ids=ids, attention_mask=mask)
    return answers


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_encoder_of_torch_answers_as_on_its_fast_path(tmp_path: Path) -> None:
    theirs = _encoder(tmp_path, plain=False)
    ours = plain_weights_(copy.deepcopy(theirs))
    assert sum(isinstance(each, LinearAttention) for each in ours.modules()) == 2
    torch.testing.assert_close(_answers(ours), _answers(theirs), rtol=1e-4, atol=1e-5)


def test_heads_neurons_and_layers_of_torchs_encoder_are_known_and_cut(tmp_path: Path) -> None:
    model = _encoder(tmp_path)
    structure = structure_of(model)
    assert [site.units(model) for site in structure.attention] == [4, 4]
    assert [site.units(model) for site in structure.feed_forward] == [64, 64]
    assert structure.layers == "body.layers"
    for site in structure.sites:
        silent, cut = copy.deepcopy(model), copy.deepcopy(model)
        kept = list(range(1, site.units(model)))
        silent.get_submodule(site.consumer).weight.data[:, : site.unit_size] = 0  # type: ignore[index, union-attr]
        keep_units_(cut, site, kept)
        torch.testing.assert_close(_answers(cut), _answers(silent), rtol=1e-5, atol=1e-5)
    keep_units_(model, structure.attention[0], [1, 3])
    save_module(model, tmp_path)
    torch.testing.assert_close(_answers(load_module(tmp_path)), _answers(model), rtol=0, atol=0)


def test_weights_that_were_saved_before_the_replacement_are_loaded(tmp_path: Path) -> None:
    model = _encoder(tmp_path, plain=False)
    save_module(model, tmp_path)
    again = load_module(tmp_path)
    assert sum(isinstance(each, LinearAttention) for each in again.modules()) == 2
    torch.testing.assert_close(_answers(again), _answers(model), rtol=1e-4, atol=1e-5)


def test_each_projection_is_quantized(tmp_path: Path) -> None:
    model = _encoder(tmp_path)
    inputs = (
        InputSpec("input_ids", "int64", ("sequence",)),
        InputSpec("attention_mask", "int64", ("sequence",)),
    )
    task = Classification(inputs, ("a", "b", "c"))
    nothing = Split.without_labels("none", (), inputs)
    made = Int8Dynamic().apply(model, Context(task, nothing, nothing))
    assert made.facts["layers"]["int8_linear"] == 2 * 6 + 1
    assert not any("attn" in name for name in made.facts["left_float"])
    before, after = _answers(model), _answers(made.model)
    assert 0 < (before - after).abs().max() < 0.3 * before.std() + 0.1
