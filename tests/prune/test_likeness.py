"""Linear CKA of what heads add to the residual stream."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.data import Splits, from_arrays
from compress.model import structure_of
from compress.prune.importance.likeness import linear_cka, unit_likeness


def _by_definition(first: Tensor, second: Tensor) -> float:
    """Kornblith et al. 2019, eq. 3 with linear kernels, on centred features [t, m]."""
    a, b = first - first.mean(0), second - second.mean(0)
    return float((a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm()))


def test_cka_is_1_for_a_copy_0_for_what_is_uncorrelated_and_0_for_what_adds_nothing() -> None:
    # Four heads of one column each; t = 4 tokens: x, -3x, a pattern orthogonal to x, and a constant.
    x = torch.tensor([[1.0, -3.0, 1.0, 5.0], [1, -3, -1, 5], [-1, 3, 1, 5], [-1, 3, -1, 5]])
    centred = x - x.mean(0)
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 0.0, 1.0]])
    expected = [[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(linear_cka(centred.T @ centred, weight, 1), torch.tensor(expected))


def test_cka_from_the_covariance_is_cka_by_its_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(50, 12, generator=draw, dtype=torch.float64) + 2.0
    x[:, 4:8] = x[:, :4] @ torch.randn(4, 4, generator=draw, dtype=torch.float64)
    weight = torch.randn(7, 12, generator=draw, dtype=torch.float64)
    centred = x - x.mean(0)
    found = linear_cka(centred.T @ centred / 50, weight, 4)
    for i in range(3):
        for j in range(3):
            pair = (x[:, 4 * k : 4 * k + 4] @ weight[:, 4 * k : 4 * k + 4].T for k in (i, j))
            # found is rounded to float32
            assert float(found[i, j]) == pytest.approx(_by_definition(*pair), abs=1e-6)


def test_likeness_leaves_padding_out_and_does_not_depend_on_the_batches(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(2 + i % 4, 4, generator=draw).numpy() for i in range(12)]
    data = from_arrays(
        {"features": rows, "labels": [0, 1, 2] * 4},
        {"features": [rows[0] + 1, rows[1] + 1, rows[2] + 1], "labels": [0, 1, 2]},
    )
    sites = structure_of(model).attention[:1]  # rows of a patch model see their padding from layer 1 on
    alone, count = unit_likeness(model, sites, data.train, data.task, batch_size=1)
    assert count == sum(map(len, rows))
    seen: list[Tensor] = []
    model.get_submodule(sites[0].consumer).register_forward_pre_hook(lambda _, x: seen.append(x[0][0]))
    with torch.no_grad():
        for row in rows:
            model(features=torch.from_numpy(row)[None])
    x = torch.cat(seen)
    weight = model.get_submodule(sites[0].consumer).weight
    assert isinstance(weight, Tensor)
    heads = [x[:, 8 * k : 8 * k + 8] @ weight.detach()[:, 8 * k : 8 * k + 8].T for k in range(2)]
    # float32 sums over some 40 tokens: five digits
    assert float(alone[0][0, 1]) == pytest.approx(_by_definition(*heads), rel=1e-4)


def test_two_heads_with_the_same_weights_are_named_alike(model: nn.Module, splits: Splits) -> None:
    site = structure_of(model).attention[1]
    for path in site.paths[:-1]:
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        linear.weight.data[8:16] = linear.weight.data[0:8]
        linear.bias.data[8:16] = linear.bias.data[0:8]
    out = model.get_submodule(site.consumer)
    assert isinstance(out, nn.Linear)
    out.weight.data[:, 8:16] = 3 * out.weight.data[:, 0:8]
    found, count = unit_likeness(model, [site], splits.train, splits.task)
    assert float(found[0][0, 1]) == pytest.approx(1.0, abs=1e-5)  # the same up to scale, in float32
    assert float(found[0][0, 2]) < 0.9
    assert count == 96 * 5
