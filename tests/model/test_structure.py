"""What can be cut is found, and cutting a head is the same as silencing it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.model import Definition, ModelConfig, keep_heads_, load_model, structure_of
from compress.model.calls import logits


def silenced(model: nn.Module, path: str, heads: list[int], size: int) -> None:
    """Make the output projection deaf to some heads: what cutting them must equal."""
    out = model.get_submodule(path)
    assert isinstance(out, nn.Linear)
    for head in heads:
        out.weight.data[:, head * size : (head + 1) * size] = 0


def test_a_cut_head_answers_like_a_silenced_head(definition: Definition) -> None:
    cut, quiet = definition.build(seed=1), definition.build(seed=1)
    site = structure_of(cut).attention[0]
    keep_heads_(cut, site, [0, 2])
    silenced(quiet, site.out, [1, 3], site.head_size)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    # Not equal to the bit: the cut product sums fewer terms, in another order.
    torch.testing.assert_close(cut(x), quiet(x), rtol=1e-5, atol=1e-6)
    assert site.heads(cut) == 2
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in quiet.parameters())


def test_heads_of_every_known_hugging_face_encoder_can_be_cut(hf_directory: Path, tmp_path: Path) -> None:
    config = ModelConfig.model_validate({"hf": str(hf_directory)})
    cut = load_model(config, seed=0, scratch=tmp_path).module
    quiet = load_model(config, seed=0, scratch=tmp_path).module
    sites = structure_of(cut).attention
    assert [site.heads(cut) for site in sites] == [4, 4]
    keep_heads_(cut, sites[1], [3])
    silenced(quiet, sites[1].out, [0, 1, 2], sites[1].head_size)
    batch = {
        "input_ids": torch.tensor([[2, 5, 10, 3], [2, 6, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    torch.testing.assert_close(logits(cut, batch), logits(quiet, batch), rtol=1e-5, atol=1e-6)


def test_an_unknown_architecture_is_refused_with_what_is_known() -> None:
    with pytest.raises(
        ModelError, match=r"module Linear is not known; known: bert, distilbert, electra, roberta"
    ):
        structure_of(nn.Linear(2, 2))


def test_a_wrong_structure_names_what_is_wrong() -> None:
    class Odd(nn.Module):
        def structure(self) -> dict[str, object]:
            return {
                "attention": [{"q": "nowhere", "k": "k", "v": "v", "out": "o", "head_size": 2}],
                "layers": "",
            }

    with pytest.raises(ModelError, match=r"Odd\.structure\(\) is wrong: .*nowhere"):
        structure_of(Odd())


@pytest.mark.parametrize("heads", [[], [4], [-1]])
def test_impossible_heads_are_refused(model: nn.Module, heads: list[int]) -> None:
    with pytest.raises(ModelError, match=r"some of 0\.\.3, at least one"):
        keep_heads_(model, structure_of(model).attention[0], heads)
