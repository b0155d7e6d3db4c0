"""models/transformer.py, loaded by path as a user's own file is.

Tolerances: all tests run in float64, where two orders of the same sums differ by some 1e-15; 1e-12 leaves
room for a few layers and would not hide a wrong formula.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-12}
POSITIONS = ["sinusoidal", "learned", "rope"]
SMALL: dict[str, Any] = {"nhead": 2, "num_layers": 2, "d_model": 8, "dim_feedforward": 12, "max_length": 16}


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "models" / "transformer.py"
    spec = importlib.util.spec_from_file_location("transformer_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


transformer = _load()


@pytest.fixture(autouse=True)
def _float64_and_seed() -> Iterator[None]:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_rng_state(state)


def _tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, 20, (batch, length))


def _padded(mask: list[list[int]]) -> Tensor:
    return torch.tensor(mask, dtype=torch.int64)


def test_attention_of_two_tokens_is_what_a_hand_computes() -> None:
    # d_k = 4, so scores are halved. Query 1 scores (2 ln 3, 0) / 2 = (ln 3, 0): weights 3/4 and 1/4.
    query = torch.tensor([[2 * math.log(3.0), 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])[None, None]
    key = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])[None, None]
    value = torch.tensor([[4.0, 0.0, 8.0, 0.0], [0.0, 4.0, 0.0, 0.0]])[None, None]
    expected = torch.tensor([[3.0, 1.0, 6.0, 0.0], [2.0, 2.0, 4.0, 0.0]])[None, None]
    assert_close(transformer.scaled_dot_product_attention(query, key, value, None), expected, **EXACT)


def test_masked_key_gets_no_weight() -> None:
    query, key, value = torch.randn(3, 1, 1, 2, 4).unbind()
    mask = torch.tensor([[True, False], [True, False]])
    attended = transformer.scaled_dot_product_attention(query, key, value, mask)
    assert torch.equal(attended, value[:, :, :1].expand_as(value))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "mask", [None, [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], [[0, 0, 0, 0, 0], [0, 1, 1, 0, 1]]]
)
def test_module_equals_the_written_out_formula(mask: list[list[int]] | None, causal: bool) -> None:
    attention = transformer.MultiHeadAttention(d_model=8, nhead=2).eval()
    hidden = torch.randn(2, 5, 8)
    visible = transformer.visible_positions(hidden, None if mask is None else _padded(mask), causal)

    def heads(projected: Tensor) -> Tensor:
        return projected.view(2, 5, 2, 4).transpose(1, 2)

    attended = transformer.scaled_dot_product_attention(
        heads(attention.q_proj(hidden)),
        heads(attention.k_proj(hidden)),
        heads(attention.v_proj(hidden)),
        visible,
    )
    expected = attention.out_proj(torch.cat([attended[:, 0], attended[:, 1]], dim=-1))
    assert_close(attention(hidden, visible), expected, **EXACT)


def test_visible_positions_of_a_padded_causal_row_are_the_earlier_tokens_and_itself() -> None:
    visible = transformer.visible_positions(torch.zeros(1, 3, 4), _padded([[0, 1, 1]]), causal=True)
    assert visible.tolist() == [[[[True, False, False], [False, True, False], [False, True, True]]]]


def test_visible_positions_of_a_padded_row_are_the_tokens_and_itself() -> None:
    visible = transformer.visible_positions(torch.zeros(1, 3, 4), _padded([[1, 1, 0]]), causal=False)
    assert visible.tolist() == [[[[True, True, False], [True, True, False], [True, True, True]]]]


def test_nothing_to_mask_needs_no_mask() -> None:
    assert transformer.visible_positions(torch.zeros(1, 3, 4), None, causal=False) is None


@pytest.mark.parametrize("d_model", [1, 6, 7])
def test_sinusoidal_positions_follow_the_papers_formula(d_model: int) -> None:
    added, rotation = transformer.SinusoidalPositions(9, d_model)(torch.zeros(1, 9, d_model))
    expected = torch.zeros(1, 9, d_model)
    for position in range(9):
        for feature in range(d_model):
            angle = position / 10_000 ** ((feature - feature % 2) / d_model)
            expected[0, position, feature] = math.cos(angle) if feature % 2 else math.sin(angle)
    assert_close(added, expected, **EXACT)
    assert rotation is None


def test_learned_positions_add_one_row_of_the_table_per_position() -> None:
    positions = transformer.LearnedPositions(9, 4)
    added, _ = positions(torch.ones(2, 3, 4))
    assert torch.equal(added, (1 + positions.embedding.weight[:3]).expand(2, 3, 4))


def test_rotation_by_one_position_turns_the_first_pair_by_one_radian() -> None:
    _, rotation = transformer.RotaryPositions(4, 4)(torch.zeros(1, 2, 8))
    rotated = transformer.rotate(torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 1, 2, 4), rotation)
    # The pair of feature 0 is feature 0 + d / 2.
    expected = torch.tensor([[1.0, 0.0, 0.0, 0.0], [math.cos(1.0), 0.0, math.sin(1.0), 0.0]])
    assert_close(rotated[0, 0], expected, **EXACT)


def test_rotary_scores_depend_only_on_relative_position() -> None:
    _, rotation = transformer.RotaryPositions(12, 6)(torch.zeros(1, 12, 6))
    query, key = (torch.randn(6).expand(1, 1, 12, 6) for _ in range(2))
    rotated_query, rotated_key = (transformer.rotate(x, rotation) for x in (query, key))
    scores = (rotated_query @ rotated_key.transpose(-2, -1))[0, 0]  # [12, 12]
    for offset in range(-11, 12):
        diagonal = scores.diagonal(offset)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), **EXACT)
    assert scores[0, 0] != pytest.approx(scores[0, 1].item())


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_layer_equals_torch_encoder_layer_with_its_weights(norm_first: bool, activation: str) -> None:
    theirs = nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    ).eval()
    ours = transformer.TransformerLayer(8, 2, 12, norm_first=norm_first, activation=activation).eval()
    for (
        parameter
    ) in theirs.parameters():  # theirs starts with biases of 0 and norms of 1, which would hide a swap
        nn.init.normal_(parameter, std=0.5)
    weights = theirs.state_dict()
    renamed = {}
    for kind in ("weight", "bias"):
        projections = weights[f"self_attn.in_proj_{kind}"].chunk(3)
        for name, part in zip(("q_proj", "k_proj", "v_proj"), projections, strict=True):
            renamed[f"attention.{name}.{kind}"] = part
        renamed[f"attention.out_proj.{kind}"] = weights[f"self_attn.out_proj.{kind}"]
        renamed[f"feed_forward.up.{kind}"] = weights[f"linear1.{kind}"]
        renamed[f"feed_forward.down.{kind}"] = weights[f"linear2.{kind}"]
        renamed[f"attention_norm.{kind}"] = weights[f"norm1.{kind}"]
        renamed[f"feed_forward_norm.{kind}"] = weights[f"norm2.{kind}"]
    ours.load_state_dict(renamed)
    hidden, mask = torch.randn(2, 5, 8), _padded([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = theirs(hidden, src_key_padding_mask=mask == 0)
    got = ours(hidden, transformer.visible_positions(hidden, mask, causal=False))
    keep = mask.bool()  # what padded positions hold is nobody's business
    assert_close(got[keep], expected[keep], **EXACT)


@pytest.mark.parametrize("positions", POSITIONS)
def test_more_padding_leaves_logits_unchanged(positions: str) -> None:
    model = transformer.token_classifier(20, 3, positions=positions, **SMALL).eval()
    tokens, mask = _tokens(2, 5), _padded([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    longer = torch.cat([tokens, _tokens(2, 4)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(2, 4, dtype=torch.int64)], dim=1)
    # Not bit for bit: padding adds exact zeros, but to sums that the kernels then group otherwise.
    assert_close(model(longer, longer_mask), model(tokens, mask), **EXACT)
    assert_close(model(tokens[1:, :3]), model(tokens, mask)[1:], **EXACT)


def test_mask_of_ones_equals_no_mask() -> None:
    tokens = _tokens(2, 5)
    classifier = transformer.token_classifier(20, 3, **SMALL).eval()
    language_model = transformer.causal_lm(20, **SMALL).eval()
    for model in (classifier, language_model):
        assert_close(model(tokens, torch.ones_like(tokens)), model(tokens), **EXACT)


@pytest.mark.parametrize("builder", ["token_classifier", "causal_lm"])
def test_sequence_of_padding_alone_stays_finite_and_leaves_its_neighbour_alone(builder: str) -> None:
    model = getattr(transformer, builder)(20, 20, **SMALL).eval()
    tokens = _tokens(2, 4)
    both = model(tokens, _padded([[0, 0, 0, 0], [1, 1, 1, 1]]))
    assert both.isfinite().all()
    assert_close(both[1:], model(tokens[1:]), **EXACT)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_later_token_leaves_earlier_logits_unchanged(positions: str) -> None:
    model = transformer.causal_lm(20, positions=positions, **SMALL).eval()
    tokens = _tokens(2, 6)
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 20
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 6, 20)
    assert_close(after[:, :4], before[:, :4], **EXACT)
    assert not torch.isclose(after[:, 4:], before[:, 4:]).all(dim=-1).any()


def test_language_model_padded_on_the_left_equals_unpadded_with_rotary_positions() -> None:
    model = transformer.causal_lm(20, positions="rope", **SMALL).eval()
    tokens = _tokens(1, 5)
    padded = model(tokens, _padded([[0, 0, 1, 1, 1]]))
    assert_close(padded[:, 2:], model(tokens[:, 2:]), **EXACT)


def test_order_of_patches_matters() -> None:
    for positions in POSITIONS:
        model = transformer.patch_classifier(5, 3, positions=positions, **SMALL).eval()
        features = torch.randn(2, 6, 5)
        assert model(features).shape == (2, 3)
        assert not torch.allclose(model(features), model(features.flip(1)), atol=1e-6)


def test_tied_embeddings_are_one_parameter() -> None:
    model = transformer.causal_lm(20, tie_embeddings=True, **SMALL)
    assert model.classifier.weight is model.embedding.weight
    assert not any(name.startswith("classifier") for name, _ in model.named_parameters())


def test_tied_logits_start_at_a_scale_of_one() -> None:
    sizes = {**SMALL, "d_model": 64}
    spread = transformer.causal_lm(500, tie_embeddings=True, **sizes).eval()(_tokens(4, 16)).std().item()
    assert (
        0.7 < spread < 1.4
    )  # unit-norm rows times a LayerNorm output; one draw of 500 rows varies by some 10 %


@pytest.mark.parametrize(
    ("builder", "arguments", "message"),
    [
        ("token_classifier", {"nhead": 3}, "nhead=3 is not allowed: it must divide d_model=8"),
        ("token_classifier", {"num_layers": 0}, "num_layers=0 is not allowed: a whole number of at least 1"),
        ("token_classifier", {"d_model": "8"}, "d_model='8' is not allowed: a whole number of at least 1"),
        (
            "token_classifier",
            {"output_dim": -1},
            "output_dim=-1 is not allowed: a whole number of at least 1",
        ),
        (
            "token_classifier",
            {"dim_feedforward": 0},
            "dim_feedforward=0 is not allowed: a whole number of at",
        ),
        ("patch_classifier", {"input_dim": 0}, "input_dim=0 is not allowed: a whole number of at least 1"),
        (
            "patch_classifier",
            {"max_length": 2.5},
            "max_length=2.5 is not allowed: a whole number of at least 1",
        ),
        ("patch_classifier", {"dropout": 1.0}, "dropout=1.0 is not allowed: a number in [0, 1)"),
        ("patch_classifier", {"norm_first": "no"}, "norm_first='no' is not allowed: true or false"),
        ("causal_lm", {"dropout": -0.1}, "dropout=-0.1 is not allowed: a number in [0, 1)"),
        (
            "causal_lm",
            {"positions": "alibi"},
            "positions='alibi' is not allowed: one of learned, rope, sinusoidal",
        ),
        ("causal_lm", {"activation": "silu"}, "activation='silu' is not allowed: one of gelu, relu"),
        (
            "causal_lm",
            {"nhead": 8, "positions": "rope"},
            "positions='rope' is not allowed with a head size of 1",
        ),
        ("causal_lm", {"tie_embeddings": True}, "output_dim=3 is not allowed with tie_embeddings=True"),
    ],
)
def test_wrong_argument_is_named_with_what_is_allowed(
    builder: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        getattr(transformer, builder)(**{"input_dim": 20, "output_dim": 3, **SMALL, **arguments})
    assert message in str(caught.value)


@pytest.mark.parametrize("positions", POSITIONS)
def test_sequence_over_max_length_is_refused(positions: str) -> None:
    model = transformer.token_classifier(20, 3, positions=positions, **SMALL).eval()
    model(_tokens(1, 16))
    with pytest.raises(ValueError, match="sequence length 17 is over max_length 16; truncate the input"):
        model(_tokens(1, 17))


@pytest.mark.parametrize("positions", POSITIONS)
def test_cutting_a_head_whose_output_is_unused_changes_nothing(positions: str) -> None:
    model = transformer.token_classifier(20, 3, positions=positions, **SMALL).eval()
    attention = model.layers[0].attention
    with torch.no_grad():
        attention.out_proj.weight[:, :4] = 0.0  # nobody reads head 0
    tokens = _tokens(2, 5)
    expected = model(tokens)
    for name in ("q_proj", "k_proj", "v_proj"):
        whole = getattr(attention, name)
        cut = nn.Linear(8, 4)
        cut.load_state_dict({"weight": whole.weight[4:], "bias": whole.bias[4:]})
        setattr(attention, name, cut)
    narrow = nn.Linear(4, 8)
    narrow.load_state_dict({"weight": attention.out_proj.weight[:, 4:], "bias": attention.out_proj.bias})
    attention.out_proj = narrow
    assert_close(model(tokens), expected, **EXACT)


def test_narrower_feed_forward_and_fewer_layers_still_run() -> None:
    model = transformer.token_classifier(20, 3, **SMALL).eval()
    model.layers[0].feed_forward.up = nn.Linear(8, 5)
    model.layers[0].feed_forward.down = nn.Linear(5, 8)
    del model.layers[1]
    assert model(_tokens(2, 5)).shape == (2, 3)
    assert [site["up"] for site in model.structure()["feed_forward"]] == ["layers.0.feed_forward.up"]


@pytest.mark.parametrize(
    ("builder", "positions", "embeddings"),
    [
        ("token_classifier", "sinusoidal", ["embedding"]),
        ("token_classifier", "learned", ["positions.embedding", "embedding"]),
        ("patch_classifier", "rope", []),
        ("causal_lm", "rope", ["embedding"]),
    ],
)
def test_structure_names_modules_that_exist(builder: str, positions: str, embeddings: list[str]) -> None:
    model = getattr(transformer, builder)(20, 3, positions=positions, **SMALL)
    structure = model.structure()
    assert list(structure) == [
        "attention",
        "feed_forward",
        "layers",
        "token_embedding",
        "hidden",
    ]
    assert structure["attention"][1] == {
        "q": "layers.1.attention.q_proj",
        "k": "layers.1.attention.k_proj",
        "v": "layers.1.attention.v_proj",
        "out": "layers.1.attention.out_proj",
        "head_size": 4,
        "removed": [("layers.1.attention", "bias", False)],
    }
    assert isinstance(model.get_submodule(structure["layers"]), nn.ModuleList)
    sites = [*structure["attention"], *structure["feed_forward"]]
    assert len(sites) == 4
    linears = [name for site in sites for key, name in site.items() if key not in ("head_size", "removed")]
    hidden = structure["hidden"]
    linears += hidden["writers"] + hidden["readers"]
    for name in hidden["norms"]:
        assert isinstance(model.get_submodule(name), nn.LayerNorm)
    for name in hidden["tables"]:
        assert isinstance(model.get_buffer(name), Tensor)
    for name in linears:
        assert isinstance(model.get_submodule(name), nn.Linear)
    assert hidden["embeddings"] == embeddings
    for name in embeddings:
        assert isinstance(model.get_submodule(name), nn.Embedding)


def test_feed_forward_is_four_times_d_model_unless_given() -> None:
    model = transformer.patch_classifier(5, 3, nhead=2, num_layers=1, d_model=6)
    assert model.layers[0].feed_forward.up.out_features == 24


@pytest.mark.parametrize("norm_first", [True, False])
def test_last_norm_is_there_only_when_layers_norm_first(norm_first: bool) -> None:
    model = transformer.token_classifier(20, 3, norm_first=norm_first, **SMALL)
    assert isinstance(model.norm, nn.LayerNorm) is norm_first


def test_same_seed_gives_the_same_model_and_the_same_dropout() -> None:
    tokens = _tokens(2, 5)

    def trained_mode_logits() -> Tensor:
        torch.manual_seed(7)
        return transformer.token_classifier(20, 3, dropout=0.5, **SMALL).train()(tokens)

    first = trained_mode_logits()
    assert torch.equal(first, trained_mode_logits())
    model = transformer.token_classifier(20, 3, dropout=0.5, **SMALL)
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


def test_every_parameter_gets_a_gradient() -> None:
    for builder in ("token_classifier", "causal_lm"):
        model = getattr(transformer, builder)(20, 3, positions="learned", **SMALL)
        model(_tokens(2, 5), _padded([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])).logsumexp(-1).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("positions", POSITIONS)
def test_token_classifier_exports_with_any_batch_and_sequence(positions: str) -> None:
    model = transformer.token_classifier(20, 3, positions=positions, **{**SMALL, "num_layers": 1}).eval()
    dynamic = {0: Dim("batch"), 1: Dim("sequence")}  # no maximum: the export may not bound either
    example = (_tokens(2, 5), _padded([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))
    exported = torch.export.export(model, example, dynamic_shapes=(dynamic, dynamic)).module()
    other = (_tokens(3, 7), _padded([[1] * 7, [1, 1, 0, 0, 0, 0, 0], [0] * 7]))
    for inputs in (example, other):
        assert_close(exported(*inputs), model(*inputs), **EXACT)


def test_patch_classifier_exports_with_any_batch_and_sequence() -> None:
    model = transformer.patch_classifier(5, 3, **{**SMALL, "num_layers": 1}).eval()
    dynamic = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    exported = torch.export.export(model, (torch.randn(2, 6, 5),), dynamic_shapes=(dynamic,)).module()
    features = torch.randn(3, 9, 5)
    assert_close(exported(features), model(features), **EXACT)


def test_language_model_exports_with_any_batch_and_sequence() -> None:
    model = transformer.causal_lm(20, tie_embeddings=True, **{**SMALL, "num_layers": 1}).eval()
    dynamic = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    example = (_tokens(2, 5), _padded([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))
    exported = torch.export.export(model, example, dynamic_shapes=(dynamic, dynamic)).module()
    other = (_tokens(3, 7), _padded([[1] * 7, [1, 1, 0, 0, 0, 0, 0], [1] * 7]))
    assert_close(exported(*other), model(*other), **EXACT)


def test_the_core_class_is_built_by_its_sizes_or_a_configuration() -> None:
    config = transformer.TransformerConfig(4, 3, **SMALL)
    torch.manual_seed(1)
    model = transformer.Transformer(4, 3, **SMALL)
    torch.manual_seed(1)
    same = transformer.Transformer.from_config(config)
    torch.manual_seed(1)
    built = transformer.patch_classifier(4, 3, **SMALL, dropout=0.1)
    x = torch.randn(2, 5, 4)
    for other in (same, built):
        assert type(other) is transformer.PatchClassifier is transformer.Transformer
        assert_close(other.eval()(x), model.eval()(x), **EXACT)
    with pytest.raises(ValueError, match="nhead=3"):
        transformer.Transformer(4, 3, nhead=3)
