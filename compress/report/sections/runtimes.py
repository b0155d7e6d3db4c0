"""Runtimes other than ONNX Runtime: the fastest for this bundle on this machine, and agreement of answers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from compress.measure.latency import median_interval
from compress.measure.results import Interval
from compress.measure.runtimes.results import RuntimeFile, Runtimes, RuntimeTiming
from compress.page import Section, Table, Text, parts_of
from compress.page.format import interval_text, milliseconds, percent, ratio_text
from compress.report.schema import RunReport
from compress.tasks import task_of_measurement
from compress.tasks.spec import TaskWords
from compress.timing import Setting

__all__ = [
    "Win",
    "baseline_wins",
    "fastest_runtimes",
    "fastest_sentence",
    "runtime_sentences",
    "runtime_table",
    "section",
]

_OWN = "onnxruntime"
_SHOWN = {
    _OWN: "ONNX Runtime",
    "openvino": "OpenVINO",
    "onnxruntime-openvino": "ONNX Runtime with OpenVINO's provider",
}
_SEED = 0


@dataclass(frozen=True)
class Win:
    """The fastest runtime for a file at one setting.

    Attributes:
        runtime: empty if none is measurably the fastest.
        ratio: speed-up over the file or runtime that it is compared with.
    """

    setting: Setting
    runtime: str
    ratio: Interval


def section(report: RunReport) -> Section | None:
    """Both files in the requested runtimes; None if ONNX Runtime was the only one."""
    found = report.measurement.runtimes
    if found is None:
        return None
    first, *others = runtime_sentences(found, task_of_measurement(report.measurement).words)
    notes = [Text(each, "note") for each in others]
    parts = parts_of(Text(first, "strong"), runtime_table(found), notes)
    return Section("Other runtimes", parts, "runtimes")


def _ratio(of: RuntimeTiming, to: RuntimeTiming) -> Interval:
    """Speed-up of one timing over another from the same rounds."""
    ratios = [there / here for here, there in zip(of.rounds_ms, to.rounds_ms, strict=True)]
    low, high = median_interval(ratios, seed=_SEED)
    return Interval(value=median(ratios), low=low, high=high)


def _ratio_words(ratio: Interval) -> str:
    shown = ratio_text(ratio.value, ratio.low, ratio.high)
    return f"{shown} (95 % interval {interval_text(ratio.value, ratio.low, ratio.high)})"


def _shown(runtime: str) -> str:
    return _SHOWN.get(runtime, runtime)


def _by_setting(found: Runtimes) -> dict[Setting, dict[tuple[str, str], RuntimeTiming]]:
    grouped: dict[Setting, dict[tuple[str, str], RuntimeTiming]] = defaultdict(dict)
    for each in found.timings:
        grouped[each.setting][each.runtime, each.file] = each
    return grouped


def fastest_runtimes(found: Runtimes) -> list[Win]:
    """The fastest runtime for the candidate at each setting; empty if no other runtime can run it.

    The ratio is that to ONNX Runtime, or for ONNX Runtime that to the next.
    """
    wins = []
    for setting, arms in _by_setting(found).items():
        own = arms[_OWN, "candidate"]
        others = [arm for (runtime, file), arm in arms.items() if file == "candidate" and runtime != _OWN]
        if not others:
            return []
        best = min(others, key=_median)
        ratio = _ratio(best, own)
        winner = best.runtime if ratio.low > 1 else _OWN if ratio.high < 1 else ""
        wins.append(Win(setting, winner, ratio if winner != _OWN else _ratio(own, best)))
    return wins


def baseline_wins(found: Runtimes) -> list[Win]:
    """Settings at which the uncompressed file beats the compressed one, each in its best runtime."""
    wins = []
    for setting, arms in _by_setting(found).items():
        best, plain = (
            min((arm for (_, file), arm in arms.items() if file == who), key=_median)
            for who in ("candidate", "baseline")
        )
        ratio = _ratio(plain, best)
        if ratio.low > 1:
            wins.append(Win(setting, plain.runtime, ratio))
    return wins


def _median(arm: RuntimeTiming) -> float:
    return median(arm.rounds_ms)


def fastest_sentence(found: Runtimes) -> str:
    """The fastest runtime for the candidate; none is called faster if the interval contains 1."""
    wins = fastest_runtimes(found)
    if not wins:
        return "No other runtime can run this bundle, so ONNX Runtime is the fastest for it here."
    parts = []
    for runtime in dict.fromkeys(x.runtime for x in wins):
        won = [x for x in wins if x.runtime == runtime]
        where = "every setting" if len(won) == len(wins) else "; ".join(str(x.setting) for x in won)
        values = [x.ratio.value for x in won]
        span = (
            _ratio_words(won[0].ratio)
            if len(won) == 1
            else f"{ratio_text(min(values))} to {ratio_text(max(values))}"
        )
        if not runtime:
            parts.append(f"no runtime is measurably the fastest at {where}")
        else:
            beaten = "ONNX Runtime" if runtime != _OWN else "the next runtime"
            parts.append(f"{_shown(runtime)} is the fastest at {where}, {span} as fast as {beaten}")
    return f"For this bundle on this machine, {', and '.join(parts)}."


def runtime_sentences(found: Runtimes, words: TaskWords) -> list[str]:
    """Fastest runtime, whether compression still pays off there, precision, and agreement.

    Args:
        words: the task's terms, for what agreement and accuracy are shares of.
    """
    said = [fastest_sentence(found)]
    wins = baseline_wins(found)
    if wins:
        where = "; ".join(f"{x.setting} ({_shown(x.runtime)}, {_ratio_words(x.ratio)})" for x in wins)
        said.append(f"The uncompressed model is faster than this bundle in any runtime at {where}.")
    said += [_refusal(each) if each.refused else _agreement(each, words) for each in found.files]
    said.append(
        "All files and runtimes of a setting were timed in turns in one process, with each runtime's "
        "defaults except for threads; ratios are medians over rounds. Other runtimes are not bit-exact with "
        "ONNX Runtime, which all other figures of this report were measured with."
    )
    if any(each.disturbed_rounds for each in found.timings):
        said.append("Other processes disturbed the timing: the ranking may differ on an idle machine.")
    return said


def _refusal(each: RuntimeFile) -> str:
    return f"{_shown(each.runtime)} {each.version} cannot run the {each.file}: {each.refused}."


def _agreement(each: RuntimeFile, words: TaskWords) -> str:
    kinds = ", ".join(f"{count} in {kind}" for kind, count in each.products.items())
    how = [
        *([f"float arithmetic in {each.precision}"] if each.precision else []),
        *([f"matrix products: {kinds}"] if kinds else []),
    ]
    computed = f" ({'; '.join(how)})" if how else ""
    assert each.agreement is not None and each.accuracy is not None
    share = percent(each.agreement)
    agrees = f"its {words.answer} is that of ONNX Runtime for {share} of the test {words.unit}s"
    if words.same:
        agrees = f"{words.same} as in ONNX Runtime: {share}"
    return (
        f"{_shown(each.runtime)} {each.version} runs the {each.file}{computed}; {agrees}, "
        f"{words.right.format(words.scale.text(each.accuracy))}."
    )


def runtime_table(found: Runtimes) -> Table:
    """Every file in every runtime at every setting, relative to the baseline in ONNX Runtime."""
    rows = []
    has_sequence = any(x.sequence is not None for x in found.timings)
    for setting, arms in _by_setting(found).items():
        length = [str(setting.sequence)] if has_sequence else []
        for (runtime, file), arm in arms.items():
            ratio = _ratio(arm, arms[_OWN, "baseline"])
            is_self = (runtime, file) == (_OWN, "baseline")
            rows.append(
                (
                    str(setting.batch),
                    *length,
                    str(setting.threads),
                    _shown(runtime),
                    file,
                    milliseconds(median(arm.rounds_ms), unit=False),
                    "1" if is_self else ratio_text(ratio.value, ratio.low, ratio.high),
                    "" if is_self else interval_text(ratio.value, ratio.low, ratio.high),
                )
            )
    columns = (
        "batch",
        *(["sequence"] if has_sequence else []),
        "threads",
        "runtime",
        "file",
        "median ms",
        "speed-up",
        "95 % interval",
    )
    return Table(columns, tuple(rows), f"{'r' * (len(columns) - 5)}llrrr")
