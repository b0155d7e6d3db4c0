"""Every name in the registry leads to a stage of that name, and no other name does."""

from __future__ import annotations

import pytest

from compress.errors import UnknownNameError
from compress.registry import STAGES, stage_class, stage_names
from compress.stage import Stage


@pytest.mark.parametrize("name", stage_names())
def test_each_name_leads_to_a_stage_that_knows_its_name(name: str) -> None:
    stage = stage_class(name)
    assert issubclass(stage, Stage)
    assert stage.name == name
    assert stage.kind == name.partition("/")[0]
    assert stage.summary


def test_stage_names_are_in_the_registry_s_order() -> None:
    assert stage_names() == tuple(STAGES)


def test_an_unknown_stage_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        stage_class("prune/headz")
    assert (caught.value.value, caught.value.nearest) == ("prune/headz", "prune/heads")
    assert caught.value.allowed == stage_names()
