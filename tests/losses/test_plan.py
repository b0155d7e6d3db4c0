"""Which places are compared, and what is refused before work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from compress.errors import ModelError
from compress.losses.config import LossConfig
from compress.losses.plan import comparisons, map_layers, spread_layers
from compress.model.cutting.units import keep_units_
from compress.model.files.definition import Definition
from compress.model.structure.find import structure_of


def _config(**given: Any) -> LossConfig:
    return LossConfig.model_validate(given)


def test_spread_layers_end_with_the_last() -> None:
    assert spread_layers(6, 3) == [1, 3, 5] and spread_layers(12, 4) == [2, 5, 8, 11]
    assert spread_layers(4, 4) == [0, 1, 2, 3]


def test_layers_are_mapped_evenly_last_or_as_given() -> None:
    assert map_layers("uniform", 3, 6) == [(0, 1), (1, 3), (2, 5)]
    assert map_layers("last", 3, 6) == [(2, 5)]
    assert map_layers((0, 0, 4), 3, 6) == [(0, 0), (1, 0), (2, 4)]
    for wrong in ((0, 1), (0, 1, 6), (-1, 0, 1)):
        with pytest.raises(ModelError, match="layers .*0 to 5.*3"):
            map_layers(wrong, 3, 6)


def test_places_are_found_on_both_sides(model: nn.Module, definition: Definition) -> None:
    student = definition.changed({"num_layers": 1}).build()
    found = comparisons(_config(hidden=1, attention=1, relations=1, embedding=1), student, model)
    assert [each.term for each in found] == ["hidden", "attention", "relations", "embedding"]
    hidden, attention, relations, embedding = found
    assert (hidden.student, hidden.teacher) == (("layers.0",), ("layers.1",))
    assert [len(each.teacher) for each in (attention, relations, embedding)] == [2, 3, 1]
    assert attention.heads == (4, 4) and relations.heads == (32, 32)


def test_a_cut_students_own_heads_are_counted(model: nn.Module, definition: Definition) -> None:
    student = definition.build()
    site = structure_of(student).attention[1]
    keep_units_(student, site, [0, 2])
    *_, last = comparisons(_config(attention=1), student, model)
    assert last.heads == (2, 4)
    (relation,) = comparisons(_config(relations={"heads": 8}), student, model)
    assert relation.heads == (8, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"relations": {"teacher_layer": 2}}, "teacher_layer: 2 .*allowed: 0 to 1"),
        ({"relations": {"heads": 5}}, "relation heads 5 must divide"),
        ({"hidden": {"layers": [0, 7]}}, "layers .*0 to 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(model: nn.Module, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        comparisons(_config(**given), model, model)


def test_a_layer_without_attention_has_no_relations(model: nn.Module, definition: Definition) -> None:
    student = definition.build()
    keep_units_(student, structure_of(student).attention[1], [])
    with pytest.raises(ModelError, match="layer 1 of Transformer has no attention"):
        comparisons(_config(relations=1), student, model)


def test_a_model_that_does_not_say_where_its_layers_are_is_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="structure of module Linear"):
        comparisons(_config(hidden=1), nn.Linear(2, 2), model)


def test_attention_of_grouped_queries_is_refused_by_the_block() -> None:
    file = Path(__file__).resolve().parents[1] / "model" / "grouped_queries.py"
    model = Definition.from_file(file, "build", {}).build()
    with pytest.raises(ModelError, match=r"layers\.0"):
        comparisons(_config(attention=1), model, model)
