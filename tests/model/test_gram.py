"""Second moments, and the least squares that they are for."""

from __future__ import annotations

import pytest
import torch

from compress.errors import StageError
from compress.model.observe.gram import Gram

INPUTS = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])


def _gram(targets: torch.Tensor) -> Gram:
    gram = Gram(torch.zeros(4, 4))
    gram.add_(INPUTS[:50], targets[:50])
    gram.add_(INPUTS[50:], targets[50:])
    return gram


def test_an_affine_map_is_found_again() -> None:
    weight, bias = _gram(INPUTS @ WEIGHT.T + torch.tensor([4.0, -1.0])).solve(damping=0)
    # float32 sums of 200 products
    torch.testing.assert_close(weight, WEIGHT, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias, torch.tensor([4.0, -1.0]), rtol=1e-4, atol=1e-4)


def test_some_inputs_alone_give_their_own_least_squares() -> None:
    targets = INPUTS @ WEIGHT.T
    weight, bias = _gram(targets).solve(torch.tensor([0, 2]), damping=0)
    ones = torch.ones(200, 1)
    expected = torch.linalg.lstsq(torch.cat((INPUTS[:, [0, 2]], ones), 1), targets).solution.T
    torch.testing.assert_close(torch.cat((weight, bias[:, None]), 1), expected, rtol=1e-3, atol=1e-3)


def test_tokens_count_by_their_weights() -> None:
    gram = Gram(torch.zeros(4, 4))
    weights = torch.cat((torch.ones(100), torch.zeros(100)))
    gram.add_(INPUTS, INPUTS @ WEIGHT.T, weights)
    half = Gram(torch.zeros(4, 4))
    half.add_(INPUTS[:100], INPUTS[:100] @ WEIGHT.T)
    assert half.cross is not None and gram.cross is not None
    torch.testing.assert_close(gram.matrix, half.matrix, rtol=1e-5, atol=1e-5)  # float32 sums
    torch.testing.assert_close(gram.cross, half.cross, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", ["nothing", "no targets", "no number"])
def test_what_cannot_be_solved_is_refused(what: str) -> None:
    gram = Gram(torch.zeros(4, 4))
    if what == "no targets":
        gram.add_(INPUTS)
    if what == "no number":
        gram = _gram(INPUTS @ WEIGHT.T)
        gram.matrix[0, 0] = torch.nan
    with pytest.raises(StageError, match="calibration: .*no tokens"):
        gram.solve(damping=0)
