"""What can be cut is found, and cutting a head is the same as silencing it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.model import (
    Definition,
    keep_units_,
    known_architectures,
    load_module,
    save_module,
    structure_of,
)
from compress.model.structure.sites import UnknownStructureError
from compress.prune.structured.stitch import unit_norms


def silenced(model: nn.Module, path: str, heads: list[int], size: int) -> None:
    """Make the output projection deaf to some heads: what cutting them must equal."""
    out = model.get_submodule(path)
    assert isinstance(out, nn.Linear)
    for head in heads:
        out.weight.data[:, head * size : (head + 1) * size] = 0


def test_a_cut_head_answers_like_a_silenced_head(definition: Definition) -> None:
    cut, quiet = definition.build(seed=1), definition.build(seed=1)
    site = structure_of(cut).attention[0]
    keep_units_(cut, site, [0, 2])
    silenced(quiet, site.consumer, [1, 3], site.unit_size)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    # Not equal to the bit: the cut product sums fewer terms, in another order.
    torch.testing.assert_close(cut(x), quiet(x), rtol=1e-5, atol=1e-6)
    assert site.units(cut) == 2
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in quiet.parameters())


def test_an_unknown_architecture_is_refused_with_what_is_known() -> None:
    with pytest.raises(UnknownStructureError) as raised:
        structure_of(nn.Linear(2, 2))
    assert "Linear" in str(raised.value) and ", ".join(known_architectures()) in str(raised.value)


def test_a_wrong_structure_names_what_is_wrong() -> None:
    class Odd(nn.Module):
        def structure(self) -> dict[str, object]:
            return {
                "attention": [{"q": "nowhere", "k": "k", "v": "v", "out": "o", "head_size": 2}],
                "layers": "",
            }

    with pytest.raises(ModelError, match=r"Odd\.structure\(\) .*consumer o "):
        structure_of(Odd())


@pytest.mark.parametrize("heads", [[0, 4], [-1]])
def test_impossible_heads_are_refused(model: nn.Module, heads: list[int]) -> None:
    with pytest.raises(ModelError, match=r"some of 0\.\.3, at least 0"):
        keep_units_(model, structure_of(model).attention[0], heads)


def test_a_site_of_our_transformer_goes_whole_and_comes_back(definition: Definition, tmp_path: Path) -> None:
    cut, quiet = definition.build(seed=1), definition.build(seed=1)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for site in structure_of(cut).sites[:3]:
        silenced(quiet, site.consumer, range(site.units(quiet)), site.unit_size)
        keep_units_(cut, site, [])
    torch.testing.assert_close(cut(x), quiet(x), rtol=1e-5, atol=1e-6)
    save_module(cut, tmp_path)
    assert torch.equal(load_module(tmp_path)(x), cut(x))


class _Gated(nn.Module):
    """A gated feed-forward without a bias, as decoders have it, that doesn't say what stands in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
        self.down = nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))

    def structure(self) -> dict[str, object]:
        return {"attention": [], "feed_forward": [{"up": "up", "gate": "gate", "down": "down"}]}


def test_gated_neurons_go_from_both_producers() -> None:
    torch.manual_seed(0)
    cut, x = _Gated(), torch.randn(3, 4)
    quiet = _Gated()
    quiet.load_state_dict(cut.state_dict())
    (site,) = structure_of(cut).sites
    silenced(quiet, "down", [0, 4, 5], 1)
    keep_units_(cut, site, [1, 2, 3])
    torch.testing.assert_close(cut(x), quiet(x))
    assert (cut.up.out_features, cut.gate.out_features, cut.down.in_features) == (3, 3, 3)
    with pytest.raises(ModelError, match="at least 1"):
        keep_units_(cut, site, [])


class _Fused(nn.Module):
    """One projection for queries, keys and values, one for gates and neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.gate_up, self.down = nn.Linear(12, 20), nn.Linear(10, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in parts)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return x + self.down(gate.sigmoid() * up)

    def structure(self) -> dict[str, object]:
        return {
            "attention": [{"qkv": "qkv", "out": "out", "head_size": 4}],
            "feed_forward": [{"gate_up": "gate_up", "down": "down"}],
        }


@pytest.mark.parametrize("kept", [[1], [0, 2]])
def test_units_go_from_every_part_of_a_fused_projection(kept: list[int]) -> None:
    torch.manual_seed(0)
    model, x = _Fused().eval(), torch.randn(2, 5, 12)
    heads, neurons = structure_of(model).sites
    assert (heads.units(model), neurons.units(model)) == (3, 10)
    norms = unit_norms(model, heads)
    silent = copy.deepcopy(model)
    with torch.no_grad():
        for head in set(range(3)) - set(kept):
            silent.out.weight[:, head * 4 : head * 4 + 4] = 0
        for neuron in set(range(10)) - set(kept):
            silent.down.weight[:, neuron] = 0
        wanted = silent(x)
        keep_units_(model, heads, kept)
        keep_units_(model, neurons, kept)
        torch.testing.assert_close(model(x), wanted)
    assert model.qkv.out_features == 12 * len(kept) and model.gate_up.out_features == 2 * len(kept)
    assert structure_of(model).attention[0].units(model) == len(kept)
    torch.testing.assert_close(unit_norms(model, heads), norms[kept])


def test_a_projection_is_fused_or_not() -> None:
    model = _Fused()
    model.structure = lambda: {"attention": [{"qkv": "qkv", "q": "qkv", "out": "out", "head_size": 4}]}  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="'qkv'.*'q'"):
        structure_of(model)
    model.structure = lambda: {"attention": [{"qkv": "out", "out": "out", "head_size": 4}]}  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"12 features, but out takes 3 units of 4 \+ 4 \+ 4"):
        structure_of(model)


GROUPED = Path(__file__).with_name("grouped_queries.py")


@pytest.mark.parametrize(("groups", "kept"), [(4, [0, 3]), (2, [1])])
def test_a_group_of_queries_of_a_users_module_is_cut_with_its_keys_and_values(
    groups: int, kept: list[int], tmp_path: Path
) -> None:
    definition = Definition.from_file(GROUPED, "build", {"groups": groups})
    cut, quiet = definition.build(seed=1), definition.build(seed=1)
    site = structure_of(cut).attention[1]
    assert site.units(cut) == groups
    keep_units_(cut, site, kept)
    silenced(quiet, site.consumer, [i for i in range(groups) if i not in kept], site.unit_size)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cut(x), quiet(x), rtol=1e-5, atol=1e-6)
    widths = [cut.get_submodule(f"layers.1.{part}").out_features for part in ("q", "k", "v")]
    assert widths == [32 // groups * len(kept), 4 * len(kept), 4 * len(kept)]
    save_module(cut, tmp_path)
    back = load_module(tmp_path)
    assert torch.equal(back(x), cut(x)) and structure_of(back).attention[1].units(back) == len(kept)


def test_grouped_queries_that_a_structure_is_silent_about_are_named() -> None:
    model = Definition.from_file(GROUPED, "build", {}).build()
    model.says.clear()  # type: ignore[operator, union-attr]
    with pytest.raises(ModelError, match="queries_per_group: 2"):
        structure_of(model)
    model.says["queries_per_group"] = 4  # type: ignore[operator, index]
    with pytest.raises(ModelError, match=r"layers\.0\.k.*16"):
        structure_of(model)


class Said(nn.Module):
    """Modules a to d of one width, and a structure."""

    def __init__(self, said: object) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.said = said

    def structure(self) -> object:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


HEADS = {"q": "a", "k": "b", "v": "c", "out": "d", "head_size": 2}


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"layer": "layers"}, "'layer'.*'layers'"),
        ({"attention": [{**HEADS, "head": 2}]}, "'head'.*'head_size'"),
        ({"attention": [{**HEADS, "queries_per_groups": 2}]}, "'queries_per_group'"),
        ({"feed_forward": [{"up": "a", "donw": "b"}]}, "'donw'.*'down'"),
        ({"hidden": {"reader": ["a"]}}, "'reader'.*'readers'"),
        ({"channels": {"c": {"writer": ["a"]}}}, "'writer'.*'writers'"),
        ({"hidden": {"readers": "classifier"}}, "'readers' .*list"),
        ({"attention": HEADS}, "'attention' .*list"),
        ({"attention": [{**HEADS, "head_size": 0}]}, "head_size 0"),
        ({"feed_forward": [{"up": "a", "down": "b", "removed": [("b", "zero")]}]}, "'zero'"),
        ({"attention": [{"k": "b", "v": "c", "out": "d", "head_size": 2}]}, "'q'"),
        (["a"], "list"),
        (KeyError("mine"), "KeyError.*mine"),
    ],
)
def test_a_structure_that_says_something_else_is_refused_by_the_key(said: object, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        structure_of(Said(said))


def test_a_path_may_name_a_module_of_each_layer() -> None:
    model = Definition.from_file(GROUPED, "build", {}).build()
    named = structure_of(model)
    assert [site.queries for site in named.attention] == [2, 2]
    readers = [*(f"{{layer}}.{part}" for part in ("q", "k", "v")), "classifier"]
    heads = {part: f"{{layer}}.{part}" for part in ("q", "k", "v", "out")}
    said = {
        "attention": [{**heads, "head_size": 4, "queries_per_group": 2}],
        "hidden": {"writers": ["embed", "{layer}.out"], "readers": readers},
        "layers": "layers",
    }
    model.structure = lambda: said  # type: ignore[method-assign, assignment]
    found = structure_of(model)
    assert found.attention == named.attention and found.hidden is not None
    assert found.hidden.writers == ("embed", "layers.0.out", "layers.1.out")
    assert len(found.hidden.readers) == 7
    del said["layers"]
    with pytest.raises(ModelError):
        structure_of(model)


def test_what_bundles_of_before_say_too_is_no_error() -> None:
    assert structure_of(Said({"attention": [HEADS], "classifier": "d", "embeddings": []})).attention
