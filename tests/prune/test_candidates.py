"""Candidates that are put away in files answer as those that are held."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import StageError
from compress.model.structure.find import structure_of
from compress.prune.structured.candidates import Candidate, put_

WEIGHT = torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
BIAS = torch.arange(32.0)


def test_a_candidate_in_a_file_is_the_same(model: nn.Module, tmp_path: Path) -> None:
    held = Candidate(tuple(range(48)), 0.5, WEIGHT, BIAS)
    away = held.put_away(tmp_path / "one.safetensors")
    assert (away.kept, away.loss, away.weight, away.bias) == (held.kept, held.loss, None, None)
    site = structure_of(model).feed_forward[0]
    consumer = model.get_submodule(site.consumer)
    original = (torch.zeros(32, 64), torch.zeros(32))
    states = []
    for candidate in (held, away):
        put_(model, site, candidate, *original)
        states.append((consumer.weight.detach().clone(), consumer.bias.detach().clone()))
    assert all(torch.equal(*each) for each in zip(*states, strict=True))
    assert torch.equal(states[0][0][:, :48], WEIGHT) and torch.equal(states[0][1], BIAS)


def test_a_candidate_without_a_bias_has_none_in_its_file(tmp_path: Path) -> None:
    weight, bias = Candidate((0,), 0.0, WEIGHT).put_away(tmp_path / "one.safetensors").consumer()
    assert weight is not None and torch.equal(weight, WEIGHT) and bias is None


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="can't write to .*nowhere"):
        Candidate((0,), 0.0, WEIGHT).put_away(tmp_path / "nowhere" / "one.safetensors")
