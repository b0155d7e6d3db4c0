"""Where the figures of int8 hold is said once, and nothing at risk is never called none."""

from __future__ import annotations

import pytest

from compress.measure import sums_are_exact
from compress.report import Saturation, saturation_sentence, to_html, to_markdown

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


def test_what_is_at_risk_is_said_in_figures():
    said = saturation_sentence(AT_RISK, ("avx2", "avx512_vnni"))
    assert said.startswith("Accuracy was measured where sums of int8 products are exact, as here; on x86")
    # 3 of 1,000,000 is 0.0003 %: no rounding to 0.
    assert "0.0003 % of the pairs of weights, in 25 % of the outputs of 38 int8 layers, can" in said
    assert "int8 convolution" not in said
    assert "on 64 validation rows, 1.2 % of the sums were cut off and 1 answer changed" in said
    assert "reduce_range: true" in said


def test_convolutions_at_risk_are_said_not_to_be_computed():
    said = saturation_sentence(SAFE.model_copy(update={"convolutions_at_risk": 1}), ("avx512_vnni",))
    assert "overflow: 1 of 2 int8 convolutions may, which was not computed. reduce_range" in said
    assert "pairs of weights" not in said


def test_lstms_at_risk_are_said_not_to_be_computed():
    at_risk = SAFE.model_copy(update={"lstms": 2, "lstms_at_risk": 2})
    assert at_risk.is_possible
    said = saturation_sentence(at_risk, ("avx512_vnni",))
    assert "overflow: 2 of 2 int8 LSTMs may, which was not computed. reduce_range" in said
    safe = SAFE.model_copy(update={"lstms": 2})
    assert "int8 convolutions and 2 int8 LSTMs of this model" in saturation_sentence(safe, ("avx2",))


def test_a_machine_without_vnni_and_an_unknown_one_are_not_spoken_of_as_with_it():
    assert saturation_sentence(AT_RISK, ("avx2",)).startswith("This processor has no VNNI")
    assert saturation_sentence(AT_RISK, ()).startswith("It is not known whether this processor has VNNI")


@pytest.mark.parametrize("render", [to_markdown, to_html])
def test_a_report_of_weights_too_small_to_overflow_says_that_answers_hold_elsewhere(int4, render):
    safe = int4.model_copy(update={"saturation": SAFE})
    words = "no pair of weights in the 38 int8 layers and 2 int8 convolutions of this model is large enough"
    assert words in render(safe)
    assert words not in render(int4)
    assert words not in render(int4.model_copy(update={"saturation": AT_RISK}))  # a warning says it then
