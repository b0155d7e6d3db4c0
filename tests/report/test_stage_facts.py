"""Facts of single stages, typed: heads and channels kept, and the sensitivity map."""

from __future__ import annotations

from compress.facts import CutSite, read_facts
from compress.report import RunReport, to_html
from compress.report.sections.stages import sensitivity_map

MAP = {
    "up": {"scheme": "int4", "divergence_int8": 0.0001, "divergence_int4": 0.001},
    "down": {"scheme": "float", "divergence_int8": 0.002, "divergence_int4": 0.007},
}


def test_the_map_has_a_cell_for_each_group_and_scheme_and_outlines_what_was_chosen() -> None:
    found = read_facts({"map": MAP, "sensitivity_rows": 1200}).sensitivity
    assert found is not None and found.schemes == ("int8", "int4") and found.rows == 1200
    (up, low), (down, high) = sensitivity_map(found).rows
    assert (up, down) == ("up", "down")
    assert [cell.text for cell in (*low, *high)] == ["0.10", "1.00", "2.00", "7.00"]
    assert [cell.marked for cell in (*low, *high)] == [False, True, False, False]
    assert low[0].step < high[0].step < high[1].step == 6


def test_stages_without_sensitivity_have_no_map() -> None:
    for facts in ({}, {"map": "none"}, {"map": {"up": {"scheme": "int8"}}}):
        assert read_facts(facts).sensitivity is None


def test_heads_kept_are_read_where_heads_were_removed() -> None:
    (kept,) = read_facts({"heads_before": [8, 4], "heads_kept": [3, 4]}).kept
    assert [(x.layer, x.before, x.kept) for x in kept.sites] == [(0, 8, 3), (1, 4, 4)]
    assert not read_facts({}).kept and not read_facts({"heads_before": 8, "heads_kept": [1]}).kept


def test_channels_kept_are_read_by_their_groups() -> None:
    (kept,) = read_facts({"channels": {"stage 0": {"before": 32, "kept": 20}}}).kept
    assert kept.sites == (CutSite(name="stage 0", kind="channels", layer=0, before=32, kept=20),)
    assert not read_facts({"channels": 3}).kept


def test_malformed_facts_stay_plain() -> None:
    for facts in (
        {"channels": {"stage 0": {"before": "many", "kept": 2}}},
        {"heads_before": ["x"], "heads_kept": [1]},
        {"map": {"up": {"divergence_int8": "small"}}},
    ):
        found = read_facts(facts)
        assert (found.kept, found.sensitivity, found.plain) == ((), None, facts)


def test_facts_of_a_cut_are_not_shown_raw_as_well(structured: RunReport) -> None:
    assert structured.stages[0].known.plain == {"calibration_rows": 512}


def test_reports_show_heads_and_sensitivity(int8: RunReport) -> None:
    facts = {"map": MAP, "sensitivity_rows": 12, "heads_before": [8], "heads_kept": [2]}
    stage = int8.stages[0].model_copy(update={"facts": facts})
    page = to_html(int8.model_copy(update={"stages": (stage,)}))
    assert "Sensitivity map" in page and '<td class="h6">7.00</td>' in page and ">2 of 8<" in page
    assert "Sensitivity map" not in to_html(int8)
