"""The two quantize stages: what they replace, what they leave, and that the integers are torchao's."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.data.split import Split
from compress.errors import StageError
from compress.model.layers.grouped import Int4Embedding, Int4Linear
from compress.model.layers.int8 import Int8Embedding, Int8Linear
from compress.quantize.float16 import Float16
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.integers.torchao_weights import int4_by_group, int8_by_row
from compress.quantize.replace import tensor_bytes
from compress.quantize.weight_only import Int4WeightOnly
from compress.stage import Context, Stage
from compress.tasks import Classification, InputSpec

STAGES: list[tuple[Stage, type[nn.Module], type[nn.Module]]] = [
    (Int8Dynamic(), Int8Linear, Int8Embedding),
    (Int4WeightOnly(), Int4Linear, Int4Embedding),
]


class Tiny(nn.Module):
    """[b, s] token ids to [b, 2] logits; `kinds` is a table too small to matter."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1100, 40, padding_idx=0)
        self.kinds = nn.Embedding(1, 40)
        self.up = nn.Linear(40, 33)
        self.head = nn.Linear(33, 2, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.words(ids) + self.kinds(torch.zeros_like(ids))
        logits: Tensor = self.head(torch.tanh(self.up(hidden))).mean(1)
        return logits


@pytest.fixture
def context() -> Context:
    inputs = (InputSpec("ids", "int64", ("sequence",)),)
    empty = Split("train", (), np.zeros(0, dtype=np.int64), inputs)
    return Context(task=Classification(inputs=inputs, labels=("no", "yes")), train=empty, validation=empty)


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(0)
    return Tiny().train()


@pytest.mark.parametrize(("stage", "linear", "embedding"), STAGES)
def test_linears_and_embeddings_are_replaced_and_the_input_is_untouched(
    stage: Stage, linear: type[nn.Module], embedding: type[nn.Module], model: Tiny, context: Context
) -> None:
    before = copy.deepcopy(model.state_dict())
    new = stage.apply(model, context).model
    assert isinstance(new, Tiny)
    assert [type(new.up), type(new.head), type(new.words)] == [linear, linear, embedding]
    assert not any(module.training for module in new.modules())
    assert new.words.padding_idx == 0
    assert model.training and type(model.up) is nn.Linear
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not {p.data_ptr() for p in model.parameters()} & {t.data_ptr() for t in new.state_dict().values()}


@pytest.mark.parametrize(("stage", "linear", "embedding"), STAGES)
def test_the_facts_say_what_was_done_and_what_was_left(
    stage: Stage, linear: type[nn.Module], embedding: type[nn.Module], model: Tiny, context: Context
) -> None:
    made = stage.apply(model, context)
    new = made.model
    assert made.facts["layers"] == {embedding.kind: 1, linear.kind: 2}  # type: ignore[attr-defined]
    assert made.facts["left_float"] == {"kinds": "too small to matter"}
    assert made.facts["bytes_before"] == 4 * sum(p.numel() for p in model.parameters())
    assert made.facts["bytes_after"] == tensor_bytes(new) < made.facts["bytes_before"] / 3


@pytest.mark.parametrize(("stage", "linear", "embedding"), STAGES)
def test_answers_stay_near_those_of_the_float_model(
    stage: Stage, linear: type[nn.Module], embedding: type[nn.Module], model: Tiny, context: Context
) -> None:
    ids = torch.randint(0, 1100, (4, 9))
    with torch.no_grad():
        exact, near = model(ids), stage.apply(model, context).model(ids)
    # 4 bits of a normal weight are off by about 10 %, and the sum of many such errors by less.
    assert (exact - near).abs().max() < 0.2 * exact.abs().max()


def test_int8_integers_and_scales_are_those_that_torchao_chose(model: Tiny, context: Context) -> None:
    new = Int8Dynamic().apply(model, context).model
    values, scale = int8_by_row(model.up.weight)
    assert torch.equal(new.up.qdata, values.t()) and torch.equal(new.up.scale, scale)
    assert torch.equal(new.up.dequantize(), values * scale.unsqueeze(-1))
    # No weight is further from its integer than half a step, or a clipped largest one by half a step more.
    assert ((new.up.dequantize() - model.up.weight).abs() <= 0.501 * scale.unsqueeze(-1)).all()


def test_int4_integers_and_scales_are_those_that_torchao_chose(model: Tiny, context: Context) -> None:
    new = Int4WeightOnly().apply(model, context).model
    values, scale = int4_by_group(model.up.weight, 32)
    assert values.shape == (33, 64) and scale.shape == (33, 2), "40 inputs are padded to two groups"
    assert values.min() >= -8 and values.max() <= 7
    exact = (values.reshape(33, 2, 32) * scale.unsqueeze(-1)).flatten(1)[:, :40]
    assert torch.equal(new.up.dequantize(), exact)
    assert ((exact - model.up.weight).abs() <= 0.501 * scale.repeat_interleave(32, 1)[:, :40]).all()


def test_reduced_range_keeps_weights_of_linears_within_seven_bits(model: Tiny, context: Context) -> None:
    new = Int8Dynamic(reduce_range=True).apply(model, context).model
    assert new.up.qdata.min() >= -64 and new.up.qdata.max() <= 63
    assert new.words.qdata.abs().max() > 64


@pytest.mark.parametrize("choose", [int8_by_row, lambda weight: int4_by_group(weight, 32)])
def test_a_row_of_zeros_stays_a_row_of_zeros(choose: object) -> None:
    values, scale = choose(torch.zeros(2, 32))  # type: ignore[operator]
    assert values.count_nonzero() == 0 and torch.isfinite(scale).all() and (scale > 0).all()


@pytest.mark.parametrize("stage", [Int8Dynamic, Int4WeightOnly])
def test_skipped_layers_stay_float(stage: type[Stage], model: Tiny, context: Context) -> None:
    made = stage(skip=("he*", "words")).apply(model, context)
    new = made.model
    assert type(new.head) is nn.Linear and type(new.words) is nn.Embedding and type(new.up) is not nn.Linear
    assert made.facts["left_float"]["head"] == "skipped by the recipe"


@pytest.mark.parametrize("stage", [Int8Dynamic, Int4WeightOnly])
def test_embeddings_can_be_left_float(stage: type[Stage], model: Tiny, context: Context) -> None:
    made = stage(embeddings=False).apply(model, context)
    new = made.model
    assert type(new.words) is nn.Embedding
    assert made.facts["left_float"]["words"] == "embeddings: false"


def test_a_skip_pattern_that_matches_nothing_is_refused_with_the_nearest_name(
    model: Tiny, context: Context
) -> None:
    with pytest.raises(
        StageError,
        match="'haed' matches no linear, convolution, embedding or recurrent layer; did you mean 'head'",
    ):
        Int8Dynamic(skip=("haed",)).apply(model, context)


def test_nothing_to_quantize_is_refused(model: Tiny, context: Context) -> None:
    with pytest.raises(StageError, match="LayerNorm has no nn.Linear, nn.Embedding, nn.Conv1d"):
        Int8Dynamic().apply(nn.LayerNorm(4), context)
    with pytest.raises(StageError, match="no layer of Tiny is left to quantize"):
        Int4WeightOnly(skip=("*",)).apply(model, context)


def test_half_precision_is_refused_by_name(model: Tiny, context: Context) -> None:
    with pytest.raises(StageError, match=r"words: weights are torch\.float16"):
        Int8Dynamic().apply(model.half(), context)


def test_a_layer_that_stands_twice_is_quantized_once(context: Context) -> None:
    shared = nn.Linear(8, 8)
    made = Int8Dynamic().apply(nn.Sequential(shared, nn.ReLU(), shared), context)
    new = made.model
    assert new[0] is new[2] and made.facts["layers"] == {"int8_linear": 1}


def test_a_model_that_is_one_linear_is_replaced_itself(context: Context) -> None:
    assert isinstance(Int8Dynamic().apply(nn.Linear(4, 4), context).model, Int8Linear)


def test_layers_with_a_forward_of_their_own_stay_float(context: Context) -> None:
    class Doubling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    made = Int8Dynamic().apply(nn.Sequential(nn.Linear(4, 4), Doubling(4, 4)), context)
    assert made.facts["left_float"] == {"1": "Doubling overrides forward"}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
def test_encoder_layers_of_torch_use_their_quantized_linears(context: Context) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    made = Int8Dynamic().apply(encoder, context)
    new = made.model
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        assert 0 < (encoder(x) - new(x)).abs().max() < 0.2
    assert made.facts["layers"] == {"int8_linear": 4}
    assert set(made.facts["left_float"].values()) == {"nn.MultiheadAttention reads its weight itself"}


def test_reading_a_recipe_with_these_stages_imports_no_torch() -> None:
    code = (
        "import sys; import compress.quantize.int8_dynamic, compress.quantize.weight_only as i4;"
        "i4.Int4WeightOnly(skip=('a',)); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Zoo(nn.Module):
    """Weights of every kind that is no linear layer, embedding, convolution or LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.table = nn.EmbeddingBag(16, 32), nn.Parameter(torch.randn(32, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.both, self.up, self.cell = (
            nn.Bilinear(32, 32, 4),
            nn.ConvTranspose1d(32, 8, 2),
            nn.GRUCell(32, 8),
        )
        self.start, self.norm = nn.Parameter(torch.zeros(1, 1, 2)), nn.LayerNorm(32)
        self.first, self.head = nn.Linear(32, 64), nn.Linear(64, 2)


@pytest.mark.parametrize("stage", [Int8Dynamic(), Int4WeightOnly(), Float16()])
def test_every_weight_that_stays_float_is_named(stage: Stage, context: Context) -> None:
    model = Zoo()
    made = stage.apply(model, context)
    new = made.model
    left = made.facts["left_float"]
    assert {*left} == {
        *("bag.weight", "table", "attention.in_proj_weight", "attention.out_proj", "both.weight"),
        *("up.weight", "cell.weight_ih", "cell.weight_hh", "start"),
    }
    assert left["start"] == "too small to matter"
    assert "Zoo" in left["table"] and "EmbeddingBag" in left["bag.weight"]
    assert left["attention.in_proj_weight"] == left["attention.out_proj"]
    # Each number of a parameter is in a layer that is named, is a bias or a norm, or was replaced.
    total = sum(parameter.numel() for parameter in model.parameters())
    assert made.facts["share_of_weights_replaced"] == round((32 * 64 + 64 * 2) / total, 4)
    assert {name for name, each in new.named_parameters() if each.ndim > 1} == {
        f"{name}.weight" if name == "attention.out_proj" else name for name in left
    }


def test_a_model_of_layers_leaves_no_weight_and_all_but_its_biases_are_replaced(
    model: Tiny, context: Context
) -> None:
    made = Int8Dynamic(embeddings=False).apply(model, context)
    assert made.facts["left_float"] == {"words": "embeddings: false", "kinds": "embeddings: false"}
    total = 1100 * 40 + 40 + 40 * 33 + 33 + 33 * 2
    assert made.facts["share_of_weights_replaced"] == round((40 * 33 + 33 * 2) / total, 4)
