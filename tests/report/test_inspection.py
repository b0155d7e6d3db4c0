"""Findings of an inspection, and its pages in Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.errors import OutputError
from compress.page import heat_cells
from compress.report import (
    Inspection,
    inspection_html,
    inspection_markdown,
    needed_heads,
    neuron_sentence,
    write_inspection,
)
from compress.report.charts.attention import attention_map
from compress.report.inspection.data import (
    AttentionFacts,
    HeadLook,
    LayerHeads,
    LayerNeurons,
    Point,
    QuantizedGroup,
    Sentence,
)
from compress.report.inspection.words import (
    alike_pairs,
    first_loss_beyond,
    heads_needed,
    measurable_from,
    method,
    most_neurons,
)


def _point(silenced: int, difference: float) -> Point:
    wide = 0.0 if silenced == 0 else 0.013
    return Point(
        silenced=silenced,
        accuracy=0.834 + difference,
        difference=difference,
        low=difference - wide,
        high=difference + wide,
    )


def _heads(layer: int, needed: tuple[int, ...], alike: float = 0.5) -> LayerHeads:
    return LayerHeads(
        layer=layer,
        name=f"encoder.{layer}.attention",
        importance=(0.9, 0.4, 0.2),
        needed=needed,
        curve=tuple(_point(k, -0.01 * k) for k in range(4)),
        likeness=((1.0, alike, 0.1), (alike, 1.0, 0.2), (0.1, 0.2, 1.0)),
    )


def _look(layer: int, head: int, **changes: Any) -> HeadLook:
    shares = {"itself": 0.1, "first": 0.6, "separator": 0.1, "previous": 0.1, "next": 0.05, "other": 0.05}
    return HeadLook(layer=layer, head=head, **(shares | changes))


def _inspection(**changes: Any) -> Inspection:
    joint = tuple(_point(k, d) for k, d in enumerate((0.0, 0.002, -0.002, -0.006, -0.03, -0.1, -0.2)))
    weights = ((0.6, 0.4), (0.02, 0.98))
    values: dict[str, Any] = {
        "name": "minilm",
        "created": "2026-01-01T00:00:00+00:00",
        "modelpress_version": "0.1.0",
        "command": "modelpress inspect minilm",
        "task": "classification",
        "metric": "accuracy",
        "model": "minilm (bert)",
        "data": "train.csv",
        "calibration_rows": 512,
        "validation_rows": 530,
        "units": 530,
        "unit": "row",
        "tokens": 9000,
        "evaluations": 20,
        "max_drop": 0.01,
        "accuracy": 0.834,
        "accuracy_low": 0.8,
        "accuracy_high": 0.86,
        "need": joint[3],
        "heads": (_heads(0, (0, 1), 0.95), _heads(1, (0,))),
        "joint": joint,
        "neurons": (
            LayerNeurons(layer=0, name="ff", neurons=8, top10=0.5, top25=0.7, top50=0.9, for90=4, for99=6),
        ),
        "neuron_curve": (_point(0, 0.0), _point(4, -0.004), _point(8, -0.2)),
        "attention": AttentionFacts(
            rows=64,
            looks=tuple(_look(layer, head) for layer in (0, 1) for head in range(3)),
            sentences=(Sentence(tokens=("[CLS]", "<b>"), maps=((weights,) * 3,) * 2),),
            first_token="[CLS]",
        ),
        "notes": (),
        "seconds": 61.0,
    }
    return Inspection(**(values | changes))


def test_the_sentence_counts_heads_by_layer_and_gives_the_interval() -> None:
    said = needed_heads(_inspection())
    for figure in ("2, 1 heads", "0-1", "3 of 6", "82.8 %", "83.4 %", "−0.6", "−1.9 to +0.7", "530 rows"):
        assert figure in said
    apart = _inspection(heads=(_heads(0, (0, 1)), _heads(3, (0,))))
    assert "layers 0, 3 (3 of 6)" in needed_heads(apart)


def test_what_quantizing_costs_is_a_table_and_a_heat_map() -> None:
    group = QuantizedGroup(
        name="encoder.{q, k}",
        divergence={"int8_static": 0.0004, "int4_weight_only": 0.0321},
        difference={"int8_static": 0.0, "int4_weight_only": -0.016},
    )
    found = _inspection(quantization=(group,), quantization_rows=128)
    line = "| encoder.{q, k} | 0.40 (0.0) | 32.10 (−1.6) |"
    markdown = inspection_markdown(found)
    assert line in markdown and "mean over 128 validation rows" in markdown
    html = inspection_html(found)
    assert 'id="quantized"' in html and '<td class="h6">32.10</td>' in html and "−1.6" in html
    assert "quantized" not in inspection_html(_inspection()), "with --quick there is none"


def test_all_heads_are_needed_if_none_can_be_silenced() -> None:
    joint = (_point(0, 0.0), _point(1, -0.1))
    said = needed_heads(_inspection(joint=joint, need=joint[0]))
    assert "all 6" in said and "1 point " in said and "silenced, validation" not in said


def test_the_most_neurons_that_can_be_silenced_are_found() -> None:
    found = most_neurons(_inspection())
    assert found is not None and found.silenced == 4
    assert "4 least important" in neuron_sentence(_inspection()) and "(50 %)" in neuron_sentence(
        _inspection()
    )
    bare = _inspection(neurons=(), neuron_curve=())
    assert most_neurons(bare) is None and neuron_sentence(bare) == ""
    lossy = _inspection(neuron_curve=(_point(0, 0.0), _point(4, -0.5), _point(8, -0.6)))
    none = most_neurons(lossy)
    assert none is not None and none.silenced == 0
    assert "33.4 %" in neuron_sentence(lossy)  # accuracy with even 4 silenced


def test_a_curve_that_dips_before_the_chosen_set_makes_the_number_of_heads_a_range() -> None:
    joint = tuple(_point(k, d) for k, d in enumerate((0.0, 0.0, -0.02, -0.006, -0.03, -0.1, -0.2)))
    dips = _inspection(joint=joint, need=joint[3])
    early = first_loss_beyond(dips)
    assert early is not None and early.silenced == 2 and heads_needed(dips) == (3, 5)
    assert first_loss_beyond(_inspection()) is None and heads_needed(_inspection()) == (3, 3)
    assert len(method(dips)) == len(method(_inspection())) + 1
    assert any("2.0 points" in x and "between 3 and 5" in x for x in method(dips))


def test_where_the_loss_becomes_measurable_is_found() -> None:
    # The intervals reach 1.3 points to each side, and the losses are 0.6 and then 3 points.
    assert measurable_from(_inspection()) == (3, 4)
    joint = (_point(0, 0.0), _point(1, -0.01))
    assert measurable_from(_inspection(joint=joint, need=joint[1])) == (1, None)


def test_limits_of_the_method_are_on_every_page() -> None:
    for text in (inspection_markdown(_inspection()), inspection_html(_inspection())):
        for part in ("latency is not measured", "no test rows", "on these same", "retrained"):
            assert part in text


def test_pairs_above_nine_tenths_are_named_once() -> None:
    pairs = alike_pairs(_inspection())
    assert [(x.layer, x.first, x.second, x.cka) for x in pairs] == [(0, 0, 1, 0.95)]
    assert "| 0 | 0 and 1 | 0.95 |" in inspection_markdown(_inspection())
    none = _inspection(heads=(_heads(0, (0, 1)), _heads(1, (0,), 0.8)))
    assert alike_pairs(none) == [] and "0 and 1 of layer 1: 0.80." in inspection_markdown(none)


def test_markdown_marks_needed_heads_and_measurable_losses() -> None:
    text = inspection_markdown(_inspection())
    assert "| 0 | 2 of 3 | 0.90\\* | 0.40\\* | 0.20 |" in text
    assert "| 0 | −1.0 | −2.0\\* | −3.0\\* |" in text  # the interval is 1.3 points to each side
    assert "| 0.0 | [CLS] 60 % |".replace("[", "\\[").replace("]", "\\]") in text


def test_html_is_self_contained_and_escapes_tokens() -> None:
    text = inspection_html(_inspection(name="<i>x</i>"))
    assert "<i>x" not in text and "<b></span>" not in text and "&lt;b&gt;" in text
    outside = text.replace("http://www.w3.org/1999/xlink", "").replace("url(#", "")
    assert "://" not in outside and text.count("<script") == 1 and "url(" not in outside
    assert text.count('<svg class="map"') == 6
    assert '<td class="h6 kept">0.90</td>' in text


def test_a_page_without_attention_curves_or_neurons_names_what_is_missing() -> None:
    heads = tuple(x.model_copy(update={"curve": ()}) for x in _inspection().heads)
    left_out = AttentionFacts(rows=0, left_out="The attention view is left out: rotary.")
    bare = _inspection(heads=heads, attention=left_out, neurons=(), neuron_curve=())
    page, text = inspection_html(bare), inspection_markdown(bare)
    for said in (page, text):
        assert "The attention view is left out: rotary." in said
        assert "Neurons" not in said
    assert "--quick" in page and '<svg class="map"' not in page


def test_a_position_is_named_where_all_rows_have_the_same() -> None:
    look = _look(0, 0, first=0.05, other=0.6, position=5, position_share=0.4)
    found = _inspection(attention=AttentionFacts(rows=4, looks=(look,)))
    assert "| 0.0 | position 6: 40 % |" in inspection_markdown(found)


def test_steps_of_heat_are_shares_of_the_largest() -> None:
    cells = heat_cells((0.0, 0.5, 1.0), 1.0, marked=(1,))
    assert [(x.text, x.step, x.marked) for x in cells] == [
        ("0.00", 0, False),
        ("0.50", 3, True),
        ("1.00", 6, False),
    ]
    assert [x.step for x in heat_cells((0.0, 0.0), 0.0)] == [0, 0]


def test_attention_is_drawn_in_runs_of_one_step() -> None:
    drawn = str(attention_map("x", [[0.35, 0.3, 0.35], [0.0, 1.0, 0.0], [0.04, 0.06, 0.9]]))
    assert '<path class="s4" d="M0 0h3"/>' in drawn
    assert '<path class="s6" d="M1 1h1M2 2h1"/>' in drawn
    assert '<path class="s1" d="M1 2h1"/>' in drawn


def test_files_are_written_and_json_reads_back_without_the_maps(tmp_path: Path) -> None:
    found = _inspection()
    write_inspection(found, tmp_path / "new")
    assert sorted(x.name for x in (tmp_path / "new").iterdir()) == [
        "inspection.html",
        "inspection.json",
        "inspection.md",
    ]
    text = (tmp_path / "new" / "inspection.json").read_text()
    assert "maps" not in text and json.loads(text)["need"]["silenced"] == 3
    back = Inspection.model_validate_json(text)
    assert back.heads == found.heads and back.attention.looks == found.attention.looks


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_inspection(_inspection(), tmp_path / "file" / "new")


def test_names_and_texts_of_an_inspection_can_hide_nothing() -> None:
    evil = "a\x1b[31mb\u202ec"
    found = _inspection(name=evil, model=evil, data=evil, notes=(evil,))
    for text in (inspection_markdown(found), inspection_html(found)):
        assert "\x1b" not in text and "\u202e" not in text and "u001b" in text and "u202e" in text


def test_an_inspection_equals_its_snapshot(same_as_kept: Callable[[str, str], None]) -> None:
    group = QuantizedGroup(
        name="encoder.{q, k}", divergence={"int8_static": 0.0004}, difference={"int8_static": -0.016}
    )
    found = _inspection(quantization=(group,), quantization_rows=128, notes=("few rows",))
    same_as_kept("inspection.md", inspection_markdown(found))
