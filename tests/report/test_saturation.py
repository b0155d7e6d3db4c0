"""Validity of int8 figures on other processors: shown in Environment, and never rounded to nothing."""

from __future__ import annotations

import pytest

from compress.measure import sums_are_exact
from compress.report import Saturation, report_sections, saturation_sentence, to_model_card

AT_RISK = Saturation(
    layers=38,
    pairs=1_000_000,
    pairs_at_risk=3,
    outputs=200,
    outputs_at_risk=50,
    convolutions=2,
    convolutions_at_risk=0,
    rows=64,
    sums=10_000,
    sums_cut=123,
    answers_changed=1,
)
SAFE = AT_RISK.model_copy(
    update={"pairs_at_risk": 0, "outputs_at_risk": 0, "rows": 0, "sums": 0, "sums_cut": 0}
)


@pytest.mark.parametrize(
    ("sets", "exact"),
    [
        (("avx2", "avx512f", "avx512_vnni"), True),
        (("avx2", "avx_vnni"), True),
        (("avx2", "avx512f"), False),
        (("asimd",), True),
        ((), None),
    ],
)
def test_sums_are_exact_with_vnni_and_on_arm(sets, exact):
    assert sums_are_exact(sets) is exact


def _fact(report, **changes):
    """What Environment says about processors without VNNI; None if it says nothing."""
    found = report.model_copy(update=changes)
    (section,) = (x for x in report_sections(found) if x.key == "environment")
    return dict(section.parts[0].rows).get("x86 processors without VNNI")


def test_what_is_at_risk_is_shown_in_figures(int4):
    said = _fact(int4, saturation=AT_RISK)
    # 3 of 1,000,000 is 0.0003 %: no rounding to 0.
    for figure in ("0.0003 %", "25 %", "38 int8 layers", "64 validation rows", "1.2 %", "1 answer "):
        assert figure in said
    assert "convolution" not in said  # none is at risk
    assert "reduce_range" in said and "reduce_range" not in _fact(int4, saturation=SAFE)


@pytest.mark.parametrize(("field", "what"), [("convolutions", "convolution"), ("lstms", "LSTM")])
def test_other_layers_at_risk_are_counted(int4, field, what):
    at_risk = SAFE.model_copy(update={field: 3, f"{field}_at_risk": 2})
    assert at_risk.is_possible
    said = _fact(int4, saturation=at_risk)
    assert f"2 of 3 int8 {what}s" in said and "weight pairs" not in said
    assert f"3 int8 {what}s" in _fact(int4, saturation=SAFE.model_copy(update={field: 3}))


def test_the_fact_depends_on_what_the_measuring_processor_computes():
    said = {saturation_sentence(AT_RISK, sets, "accuracy") for sets in (("avx512_vnni",), ("avx2",), ())}
    assert len(said) == 3


def test_the_fact_names_the_tasks_metric():
    assert "F1" in saturation_sentence(AT_RISK, ("avx2",), "micro F1")
    assert "ccuracy" not in saturation_sentence(AT_RISK, ("avx2",), "micro F1")


def test_a_report_without_int8_has_no_such_fact(int4):
    assert _fact(int4) is None


def test_the_card_of_a_bundle_says_where_its_answers_are_valid(int4):
    card = to_model_card(int4.model_copy(update={"saturation": AT_RISK}), ("patches",))
    assert "without VNNI" in card and "without VNNI" not in to_model_card(int4, ("patches",))
