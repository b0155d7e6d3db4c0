"""Each entry of the table of layouts: a cut model is the one whose cut units are silent, and so is its file.

Tolerances: float32 sums of up to 48 products in another order, through two to four layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress.data import Split, from_arrays
from compress.errors import ModelError
from compress.export import export_onnx
from compress.model import ModelConfig, keep_units_, load_model, load_module, save_module, structure_of
from compress.model.cutting.depth import keep_layers_, with_layers
from compress.model.cutting.width import hidden_width, keep_features_, present_readers
from compress.model.forward import logits
from compress.model.structure.layouts import LAYOUTS
from compress.model.structure.sites import Site

from ..hf_families import FAMILIES, write_family

VISION = ("deit", "vit")  # in test_vit.py
TYPES = sorted(set(LAYOUTS) - set(VISION))
DECODERS = [name for name in TYPES if FAMILIES[name].tokenizer == "decoder"]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
Build = Callable[..., nn.Module]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A function that builds a tiny model of a type, a language model with `decoder`, and other sizes."""

    def made(name: str, *, decoder: bool = False, **changes: object) -> nn.Module:
        directory, scratch = tmp_path / name, tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        write_family(directory, FAMILIES[name], decoder=decoder, **changes)
        task = "language-modelling" if decoder else "classification"
        config = ModelConfig.model_validate({"hf": str(directory)})
        # A copy: transformers maps weights from the file unaligned, and kernels then sum in another order.
        return copy.deepcopy(load_model(config, seed=0, scratch=scratch, task=task).module)

    return made


def _rows(name: str) -> dict[str, Tensor]:
    """Three texts of which two are padded, on the side that the family pads on."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 18, (3, 12), generator=draw)
    mask = torch.ones_like(ids)
    if name in DECODERS:
        mask[1, :3] = 0
    else:
        mask[1, 9:], mask[2, 4:] = 0, 0
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}


def _silence_(model: nn.Module, path: str, columns: Tensor) -> None:
    model.get_submodule(path).weight.data[:, columns] = 0  # type: ignore[union-attr, operator]


def _cut_(cut: nn.Module, silent: nn.Module, keep: Callable[[int], list[int]]) -> None:
    """Keep some units of each site of one model, and silence the others in the other."""
    for site in structure_of(cut).sites:
        kept = keep(site.units(cut))
        gone = torch.ones(site.units(cut), dtype=torch.bool)
        gone[kept] = False
        _silence_(silent, site.consumer, gone.repeat_interleave(site.unit_size))
        if kept or site.removal:
            keep_units_(cut, site, kept)


def _sites(model: nn.Module) -> tuple[Site, ...]:
    """One block a layer that can be cut."""
    return structure_of(model).attention or structure_of(model).feed_forward


def test_every_entry_is_tested_here_or_with_the_vision_models() -> None:
    assert set(TYPES) <= set(FAMILIES)


@pytest.mark.parametrize("name", TYPES)
def test_units_that_are_cut_are_units_that_are_silent(name: str, build: Build, tmp_path: Path) -> None:
    cut = build(name)
    silent, rows = copy.deepcopy(cut), _rows(name)
    before = logits(cut, rows)
    layer_by_layer = iter([[0, 3], [1], [2, 1], [3]] * 8)  # other units in each site
    _cut_(cut, silent, lambda units: sorted({each % units for each in next(layer_by_layer)}))
    answers = logits(cut, rows)
    torch.testing.assert_close(answers, logits(silent, rows), **CLOSE)
    assert not torch.allclose(answers, before, atol=0.01)
    save_module(cut, tmp_path)
    back = load_module(tmp_path)
    assert torch.equal(logits(back, rows), answers) and structure_of(back) == structure_of(cut)
    _cut_(back, silent := copy.deepcopy(back), lambda units: [units - 1])  # and again
    torch.testing.assert_close(logits(back, rows), logits(silent, rows), **CLOSE)


@pytest.mark.parametrize("name", TYPES)
def test_a_block_that_may_go_whole_leaves_its_bias(name: str, build: Build, tmp_path: Path) -> None:
    cut = build(name)
    silent, rows = copy.deepcopy(cut), _rows(name)
    removable = [site for site in structure_of(cut).sites if site.removal]
    assert len(removable) >= len(structure_of(cut).sites) // 2
    for site in removable:
        _silence_(silent, site.consumer, torch.arange(site.units(cut) * site.unit_size))
        keep_units_(cut, site, [])
    answers = logits(cut, rows)
    torch.testing.assert_close(answers, logits(silent, rows), **CLOSE)
    assert len(structure_of(cut).removed) == len(removable)
    save_module(cut, tmp_path)
    assert torch.equal(logits(load_module(tmp_path), rows), answers)


class _Scale(nn.Module):
    """What is left of a norm that doesn't look at other features."""

    def forward(self, x: Tensor) -> Tensor:
        bias = getattr(self, "bias", None)
        return x * self.weight + (0 if bias is None else bias)


def _without_norms_(model: nn.Module) -> nn.Module:
    hidden = structure_of(model).hidden
    assert hidden is not None
    for path in hidden.norms:
        norm = model.get_submodule(path)
        norm.weight.data.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
        norm.__class__ = type(type(norm).__name__, (_Scale, type(norm)), {})
    return model


WIDE = [name for name in TYPES if LAYOUTS[name].hidden is not None]
KINDS = [(name, False) for name in WIDE] + [(name, True) for name in DECODERS]


@pytest.mark.parametrize(("name", "decoder"), KINDS)
def test_but_for_norms_a_narrower_model_is_the_one_with_silent_features(
    name: str, decoder: bool, build: Build
) -> None:
    cut = _without_norms_(build(name, decoder=decoder))
    silent, rows, kept = copy.deepcopy(cut), _rows(name), range(0, 32, 2)
    for path in present_readers(silent):
        _silence_(silent, path, torch.arange(1, 32, 2))
    keep_features_(cut, kept)
    assert hidden_width(cut) == 16
    wanted = logits(silent, rows)
    torch.testing.assert_close(
        logits(cut, rows), wanted, rtol=1e-4, atol=1e-5 * float(wanted.detach().abs().max())
    )


@pytest.mark.parametrize(("name", "decoder"), KINDS)
def test_a_narrower_model_is_saved_with_its_heads_as_they_were(
    name: str, decoder: bool, build: Build, tmp_path: Path
) -> None:
    model, rows = build(name, decoder=decoder), _rows(name)
    heads = [(site.units(model), site.unit_size, site.queries) for site in structure_of(model).attention]
    parameters = sum(each.numel() for each in model.parameters())
    keep_features_(model, range(3, 19))
    answers = logits(model, rows)
    assert answers.isfinite().all() and sum(each.numel() for each in model.parameters()) < 0.65 * parameters
    found = [(site.units(model), site.unit_size, site.queries) for site in structure_of(model).attention]
    assert found == heads
    save_module(model, tmp_path)
    back = load_module(tmp_path)
    assert torch.equal(logits(back, rows), answers)
    keep_features_(back, range(8))
    assert hidden_width(back) == 8 and logits(back, rows).isfinite().all()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_output_that_is_the_embedding_is_cut_once_and_stays_it(
    name: str, build: Build, tmp_path: Path
) -> None:
    model = build(name, decoder=True, tie_word_embeddings=True)
    embedding = model.get_submodule(structure_of(model).token_embedding or "")
    assert model.lm_head.weight is embedding.weight
    keep_features_(model, range(0, 32, 3))
    assert model.lm_head.weight is embedding.weight and tuple(embedding.weight.shape)[1] == 11
    save_module(model, tmp_path)
    back = load_module(tmp_path)
    assert torch.equal(logits(back, _rows(name)), logits(model, _rows(name)))
    assert back.lm_head.weight is back.get_submodule(structure_of(back).token_embedding or "").weight


@pytest.mark.parametrize("name", [name for name in TYPES if name != "albert"])
def test_fewer_layers_are_the_model_without_the_others(name: str, build: Build, tmp_path: Path) -> None:
    model, rows = build(name), _rows(name)
    kept = [1, 3] if name == "modernbert" else [1]
    keep_units_(model, _sites(model)[1], [1])
    with with_layers(model, kept):
        wanted = logits(model, rows)
    keep_layers_(model, kept)
    assert torch.equal(logits(model, rows), wanted)
    assert _sites(model)[0].units(model) == 1
    save_module(model, tmp_path)
    assert torch.equal(logits(load_module(tmp_path), rows), wanted)


def test_of_modernbert_the_kinds_of_attention_go_with_their_layers(build: Build) -> None:
    model = build("modernbert")
    full, local = "full_attention", "sliding_attention"
    assert model.config.layer_types == [full, local, local, full]
    keep_layers_(model, [2, 3])
    assert model.config.layer_types == [local, full]
    assert [layer.attention_type for layer in model.model.layers] == [local, full]
    assert [layer.attn.sliding_window for layer in model.model.layers] == [4, None]


def test_layers_that_are_called_again_can_not_be_left_out(build: Build) -> None:
    with pytest.raises(ModelError):
        keep_layers_(build("albert"), [0])
    two = build("albert", inner_group_num=2, num_hidden_groups=2)
    assert [site.layer for site in structure_of(two).attention] == [0, 1, 2, 3]
    keep_features_(two, range(8))
    assert logits(two, _rows("albert")).isfinite().all()


def test_of_deberta_the_projections_of_distances_are_cut_with_their_heads(build: Build) -> None:
    rows = _rows("deberta-v2")
    for shared in (False, True):  # q and k make them, or projections of their own
        cut = build("deberta-v2", share_att_key=shared)
        silent = copy.deepcopy(cut)
        assert [len(site.producers) for site in structure_of(cut).attention] == [3 if shared else 5] * 2
        _cut_(cut, silent, lambda units: [1, units - 1])
        torch.testing.assert_close(logits(cut, rows), logits(silent, rows), **CLOSE)
        with pytest.raises(ModelError):
            hidden_width(cut)


def _split(rows: dict[str, Tensor]) -> tuple[Split, object]:
    arrays = {name: [row.numpy() for row in values] for name, values in rows.items()}
    columns = {**arrays, "labels": np.arange(3)}
    other = {**columns, "input_ids": [row.flip(0).numpy() for row in rows["input_ids"]]}
    made = from_arrays(columns, other)
    return made.train, made.task


def _slow(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    "name", ["modernbert", "mpnet", *_slow("albert", "camembert", "deberta-v2", "xlm-roberta")]
)
def test_the_file_of_a_cut_model_answers_as_the_model(name: str, build: Build, tmp_path: Path) -> None:
    model, rows = build(name), _rows(name)
    for at, site in enumerate(structure_of(model).sites):
        keep_units_(model, site, [0, 1 + at % 3] if at else [2])
    if name in WIDE:
        keep_features_(model, range(4, 28))
    split, task = _split(rows)
    path = export_onnx(model, split, task, tmp_path / "model.onnx")  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count, length in ((3, 12), (1, 12), (1, 4)):
        feed = {key: value[:count, :length].contiguous() for key, value in rows.items()}
        (found,) = session.run(None, {key: value.numpy() for key, value in feed.items()})
        np.testing.assert_allclose(found, logits(model, feed).detach().numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "gpt2", "modernbert"])
def test_a_configuration_key_that_the_model_ignores_changes_no_structure(build: Build, name: str) -> None:
    plain = structure_of(build(name))
    assert structure_of(build(name, num_key_value_heads=2)) == plain
    assert {site.queries for site in plain.sites} == {1}
