"""Each loss by hand on a tiny case, and what padding may not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from compress.losses.attention import attention_divergence, log_maps, rows_divergence
from compress.losses.embedding import cosine_distance, pooled
from compress.losses.hidden import hidden_distance
from compress.losses.relations import relation_divergence, relation_heads
from compress.tasks.embeddings.similarity import similarity_divergence
from compress.tasks.softmax import softmax_divergence

MASK = torch.tensor([[1, 1, 1, 0]])


def _states(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_softmax_divergence_is_the_formula_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]])
    p, q = F.softmax(teacher / 2, -1), F.softmax(student / 2, -1)
    expected = 4 * (p * (p / q).log()).sum()
    assert float(softmax_divergence(student, teacher, 2.0)) == pytest.approx(float(expected), rel=1e-5)


def test_softmax_divergence_of_equal_answers_is_zero() -> None:
    answer = torch.tensor([[1.0, -3.0, 0.5]])
    assert float(softmax_divergence(answer, answer, 4.0)) == pytest.approx(0.0, abs=1e-6)


def test_hidden_distance_is_zero_for_equals_and_one_for_the_mean() -> None:
    states = torch.arange(12.0).reshape(1, 3, 4)
    other = states.clone()
    other[0, 2] = 99
    assert float(hidden_distance(other, states, torch.tensor([[1, 1, 0]]))) == 0
    mean = states.mean((0, 1)).expand_as(states)
    assert float(hidden_distance(mean, states, None)) == pytest.approx(1)


def test_a_map_is_the_softmax_of_scaled_products_over_the_tokens_alone() -> None:
    query, key = _states(0, 1, 4, 6), _states(1, 1, 4, 6)
    maps = log_maps(query, key, 2, MASK).exp()
    scores = query[0, :, 3:] @ key[0, :3, 3:].T / math.sqrt(3)  # the second head; three tokens
    # float32, one product and a softmax in another order
    torch.testing.assert_close(maps[0, 1, :, :3], scores.softmax(-1), rtol=1e-5, atol=1e-6)
    assert float(maps[..., 3].abs().max()) == 0


def test_divergence_of_maps_by_hand_counts_the_rows_that_are_tokens() -> None:
    teacher = torch.tensor([[[[0.5, 0.5], [0.9, 0.1]]]]).log()
    student = torch.tensor([[[[0.25, 0.75], [0.9, 0.1]]]]).log()
    first = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert float(rows_divergence(student, teacher, None)) == pytest.approx(first / 2, rel=1e-5)
    assert float(rows_divergence(student, teacher, torch.tensor([[1, 0]]))) == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("heads", [(2, 2), (2, 3), (1, 2)])
def test_equal_attention_costs_nothing_and_padding_is_not_looked_at(heads: tuple[int, int]) -> None:
    query, key = _states(0, 1, 4, 6), _states(1, 1, 4, 6)
    same = attention_divergence((query, key), (query, key), (heads[0], heads[0]), MASK)
    assert float(same) == pytest.approx(0, abs=1e-6)
    other = (_states(2, 1, 4, 6), _states(3, 1, 4, 6))
    apart = attention_divergence((query, key), other, heads, MASK)
    padded = [each.clone() for each in other]
    for each in padded:
        each[:, 3] = 1e3
    assert float(apart) > 1e-3 and torch.isfinite(apart)
    assert float(attention_divergence((query, key), (padded[0], padded[1]), heads, MASK)) == float(apart)


def test_heads_of_other_numbers_are_averaged_before_they_are_compared() -> None:
    query, key = _states(0, 1, 3, 4), _states(1, 1, 3, 4)
    twice = (torch.cat((query, query), -1), torch.cat((key, key), -1))  # two heads that look alike
    assert float(attention_divergence((query, key), twice, (1, 2), None)) == pytest.approx(0, abs=1e-6)


def test_relations_by_hand() -> None:
    mine, wanted = _states(0, 1, 3, 4), _states(1, 1, 3, 6)

    def relation(x: torch.Tensor, width: int) -> torch.Tensor:
        return (x @ x.T / math.sqrt(width)).softmax(-1)

    expected = 0.0
    for head in range(2):
        p = relation(wanted[0, :, 3 * head : 3 * head + 3], 3)
        q = relation(mine[0, :, 2 * head : 2 * head + 2], 2)
        expected += float((p * (p / q).log()).sum(-1).mean()) / 2
    found = relation_divergence([mine] * 3, [wanted] * 3, 2, None)
    assert float(found) == pytest.approx(3 * expected, rel=1e-4)
    assert float(relation_divergence([mine] * 3, [mine] * 3, 2, None)) == pytest.approx(0, abs=1e-6)


def test_relations_do_not_see_padding() -> None:
    mine, wanted = _states(0, 1, 4, 4), _states(1, 1, 4, 4)
    changed = wanted.clone()
    changed[:, 3] = -50
    pair = [float(relation_divergence([mine] * 3, [each] * 3, 2, MASK)) for each in (wanted, changed)]
    assert pair[0] == pair[1] > 0


def test_relation_heads_divide_both_widths() -> None:
    assert relation_heads(384, 768, None) == 48 and relation_heads(384, 768, 12) == 12
    assert relation_heads(5, 7, None) == 1
    with pytest.raises(
        ValueError, match=r"relation heads 5 must divide .* \(384 and 768\); possible: 1, 2, 3"
    ):
        relation_heads(384, 768, 5)


def test_an_embedding_is_the_mean_of_the_tokens_and_its_distance_is_one_minus_the_cosine() -> None:
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    mean = pooled(hidden, torch.tensor([[1, 1, 0]]))
    assert mean.tolist() == [[0.5, 0.5]]
    assert pooled(hidden[:, :2], None).tolist() == [[0.5, 0.5]]
    assert float(cosine_distance(mean, torch.tensor([[1.0, 0.0]]))) == pytest.approx(1 - math.sqrt(0.5))
    assert float(cosine_distance(mean, -mean)) == pytest.approx(2)


def test_similarity_is_the_divergence_of_each_texts_cosines_to_the_others_by_hand() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])  # cosines 0, -1 and 0
    student = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 9.0]])  # all 0
    p = torch.tensor([[0.0, -1.0], [0.0, 0.0], [-1.0, 0.0]]).div(0.5).softmax(-1)
    expected = (p * (p / 0.5).log()).sum(-1).mean()
    found = similarity_divergence(student, teacher, 0.5)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    turned = teacher @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) * 7
    assert float(similarity_divergence(turned, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(similarity_divergence(student[:2], teacher[:2])) == 0  # nothing to compare
