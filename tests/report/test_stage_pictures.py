"""Pictures of single stages: heads kept, and the sensitivity map."""

from __future__ import annotations

from compress.report import RunReport, to_html
from compress.report.sections.stage_charts import kept_pictures, sensitivity_map

MAP = {
    "up": {"scheme": "int4", "divergence_int8": 0.0001, "divergence_int4": 0.001},
    "down": {"scheme": "float", "divergence_int8": 0.002, "divergence_int4": 0.007},
}


def test_the_map_has_a_cell_for_each_group_and_scheme_and_outlines_what_was_chosen() -> None:
    found = sensitivity_map({"map": MAP, "sensitivity_rows": 1200})
    assert found is not None and found.columns == ("int8", "int4") and "1,200 validation rows" in found.note
    (up, low), (down, high) = found.rows
    assert (up, down) == ("up", "down")
    assert [cell.text for cell in (*low, *high)] == ["0.10", "1.00", "2.00", "7.00"]
    assert [cell.marked for cell in (*low, *high)] == [False, True, False, False]
    assert low[0].step < high[0].step < high[1].step == 6


def test_stages_that_asked_nothing_have_no_map() -> None:
    assert sensitivity_map({}) is None and sensitivity_map({"map": "none"}) is None
    assert sensitivity_map({"map": {"up": {"scheme": "int8"}}}) is None


def test_heads_kept_are_drawn_where_heads_were_removed() -> None:
    ((words, picture),) = kept_pictures({"heads_before": [8, 4], "heads_kept": [3, 4]})
    assert "Heads kept" in words and ">3 of 8<" in picture and ">4 of 4<" in picture
    assert not kept_pictures({}) and not kept_pictures({"heads_before": 8, "heads_kept": [1]})


def test_channels_kept_are_drawn_by_their_groups() -> None:
    channels = {
        "stage 0": {"before": 32, "kept": 20},
        "blocks.0.with.a.very.long.name": {"before": 8, "kept": 8},
    }
    ((words, picture),) = kept_pictures({"channels": channels})
    assert "Channels kept" in words and ">stage 0<" in picture and ">20 of 32<" in picture
    assert "very.long.name<" in picture and "blocks.0.with" not in picture
    assert not kept_pictures({"channels": 3})


def test_reports_show_both(int8: RunReport) -> None:
    facts = {"map": MAP, "sensitivity_rows": 12, "heads_before": [8], "heads_kept": [2]}
    stage = int8.stages[0].model_copy(update={"facts": facts})
    page = to_html(int8.model_copy(update={"stages": (stage,)}))
    assert "Sensitivity map" in page and '<td class="h6">7.00</td>' in page and ">2 of 8<" in page
    assert "Sensitivity map" not in to_html(int8)
