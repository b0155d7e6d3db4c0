"""Sections on validity and reproduction: parity, data, environment, command and recipe.

Environment says what int8 figures are worth on x86 processors without VNNI, whose sums can overflow.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from compress.facts import Saturation
from compress.measure.environment import sums_are_exact
from compress.page import Code, Pairs, Section, Table, Text
from compress.page.format import capital, counted, duration, size
from compress.recipe.gates import METRIC_DROPS
from compress.report.plain_facts import plain
from compress.report.schema import RunReport
from compress.safe_text import visible
from compress.tasks import task_of_measurement

__all__ = [
    "data",
    "environment",
    "parity",
    "recipe_yaml",
    "reproduce",
    "saturation_matters",
    "saturation_sentence",
    "saturation_summary",
]

_MOST_LABELS = 20
_NO_VNNI = "x86 processors without VNNI"


def parity(report: RunReport) -> Section:
    """Each ONNX file compared with its PyTorch model."""
    words = task_of_measurement(report.measurement).words
    scale = words.scale
    rows = tuple(
        (
            who,
            f"{p.rows:,}",
            f"{100 * p.agreement:.2f} % (at least {100 * p.min_agreement:.2f})",
            f"{scale.signed(p.metric_difference, 1)} (at most {scale.number(p.max_metric_difference, 1)})",
            f"{p.max_abs_error:.2g}",
            "–" if p.relative_error is None else f"{p.relative_error:.2g} (at most {p.max_relative_error:g})",
            "holds" if p.holds else "does not hold",
        )
        for who, p in (("baseline", report.model.parity), ("candidate", report.parity))
    )
    columns = (
        "file",
        "rows",
        words.agreement,
        f"metric difference{words.scale.of_change(',')}",
        "largest logit error",
        "output difference relative to spread",
        "parity",
    )
    note = Text("Each ONNX file compared with its PyTorch model, on validation rows.", "note")
    return Section("Parity", (note, Table(columns, rows, "lrrrrrl")), "parity")


def data(report: RunReport) -> Section:
    """Source and number of rows."""
    found = report.data
    more = f" and {len(found.labels) - _MOST_LABELS:,} more" if found.labels[_MOST_LABELS:] else ""
    labels = ", ".join(found.labels[:_MOST_LABELS]) + more
    rows = [
        ("source", found.source),
        (
            "rows: train, validation, test",
            f"{found.train_rows:,}, {found.validation_rows:,}, {found.test_rows:,}",
        ),
        *([(f"labels ({len(found.labels):,})", labels)] if found.labels else []),
        ("fingerprint of the test rows", found.test_fingerprint),
        *(("note", note) for note in found.notes),
    ]
    return Section("Data", (Pairs(tuple(rows)),), "data")


def environment(report: RunReport) -> Section:
    """The machine and versions of the measurement, validity on others, and the operators that ran."""
    machine, saturation = report.measurement.environment, report.saturation
    score = task_of_measurement(report.measurement).words.score
    rows = [
        ("processor", machine.cpu),
        ("cores", str(machine.cores)),
        ("instruction sets", ", ".join(machine.instruction_sets) or "not known"),
        ("memory", size(machine.memory_bytes)),
        ("system", machine.system),
        ("Python", machine.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items()))),
        ("session options", ", ".join(f"{key}={value}" for key, value in machine.session_options.items())),
        ("fingerprint", machine.fingerprint),
    ]
    if saturation is not None:
        rows.insert(3, (_NO_VNNI, saturation_sentence(saturation, machine.instruction_sets, score)))
    return Section("Environment", (Pairs(tuple(rows)), _operators(report)), "environment")


def saturation_matters(report: RunReport) -> bool:
    """Whether overflowing int8 sums change a larger share of answers than the recipe's gates allow.

    Without gates on accuracy, the limit is that of parity between ONNX file and PyTorch model.
    """
    found = report.saturation
    if found is None or not found.rows:
        return False
    limits = {gate.name: gate.limit for gate in report.gates}
    drops = [limits[name] for name in METRIC_DROPS if name in limits]
    allowed = [1 - report.parity.min_agreement]
    if drops or "min_agreement" in limits:
        allowed = [*drops, 1 - limits.get("min_agreement", 0.0)]
    return found.answers_changed / found.rows > min(allowed) + 1e-9


def saturation_summary(found: Saturation) -> str:
    """Number of answers that change, in one short sentence."""
    rows = counted(found.rows, "validation row")
    return f"On {_NO_VNNI}, integer overflow changes the answers of {found.answers_changed:,} of {rows}."


def saturation_sentence(found: Saturation, instruction_sets: Sequence[str], score: str) -> str:
    """Validity of int8 figures on x86 processors without VNNI.

    Args:
        found: counts for this model.
        instruction_sets: of the processor used for the measurement.
        score: the task's metric.
    """
    others = f"{_NO_VNNI} (AVX2 only, or early AVX-512)"
    if not found.is_possible:
        counts = (
            (found.layers, "int8 layer"),
            (found.convolutions, "int8 convolution"),
            (found.lstms, "int8 LSTM"),
        )
        layers = " and ".join(counted(count, what) for count, what in counts if count)
        return (
            f"Answers are the same on {others}, where pairs of int8 products are added in 16 bits: no "
            f"pair of weights in the {layers} of this model is large enough to overflow."
        )
    exact = sums_are_exact(instruction_sets)
    if exact is None:
        where = "It is not known whether this processor has VNNI."
    elif exact:
        where = f"{capital(score)} was measured with exact int8 sums."
    else:
        where = f"This processor has no VNNI, so {score} measured here is valid for such processors only."
    return (
        f"{where} On {others}, pairs of int8 products are added in 16 bits, which large weights overflow: "
        f"{'; '.join([*_of_layers(found), *_of_others(found)])}. To prevent it, set reduce_range: true in "
        "the quantize stage or, according to ONNX Runtime's documentation, the slower session option "
        "session.x64quantprecision=1."
    )


def _of_layers(found: Saturation) -> list[str]:
    if not found.pairs_at_risk:
        return []
    pairs, outputs = _share(found.pairs_at_risk, found.pairs), _share(found.outputs_at_risk, found.outputs)
    layers, rows = counted(found.layers, "int8 layer"), counted(found.rows, "validation row")
    return [
        f"{pairs} of the weight pairs, in {outputs} of the outputs of {layers}, are large enough; in an "
        f"emulation on {rows}, {_share(found.sums_cut, found.sums)} of the sums overflow and "
        f"{counted(found.answers_changed, 'answer')} changed"
    ]


def _of_others(found: Saturation) -> list[str]:
    kinds = (
        (found.convolutions_at_risk, found.convolutions, "int8 convolution"),
        (found.lstms_at_risk, found.lstms, "int8 LSTM"),
    )
    return [
        f"{at_risk:,} of {counted(count, what)} can overflow, which was not emulated"
        for at_risk, count, what in kinds
        if at_risk
    ]


def _share(part: int, whole: int) -> str:
    """A share as percent with two significant digits; a nonzero share is never shown as 0."""
    value = 100 * part / whole if whole else 0.0
    if value == 0 or value >= 10:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def _operators(report: RunReport) -> Table:
    """Number of nodes of each kind that ONNX Runtime runs, most frequent first."""
    before, after = report.measurement.baseline.operators, report.measurement.candidate.operators
    names = sorted(before.keys() | after.keys(), key=lambda x: (-max(before.get(x, 0), after.get(x, 0)), x))
    rows = tuple((name, f"{before.get(name, 0):,}", f"{after.get(name, 0):,}") for name in names)
    title = "Operators that ONNX Runtime runs"
    return Table(("operator", "baseline", "candidate"), rows, "lrr", title, folded=title)


def reproduce(report: RunReport) -> Section:
    """The command and the resolved recipe."""
    made = Text(
        f"Made {report.created} by modelpress {report.modelpress_version} in {duration(report.seconds)}, of "
        f"which measuring took {duration(report.measurement.seconds)}."
    )
    recipe = Code(recipe_yaml(report), "yaml", folded="The resolved recipe")
    return Section("Reproduce", (made, Code(report.command, "sh"), recipe), "reproduce")


def recipe_yaml(report: RunReport) -> str:
    """The resolved recipe as YAML; hidden characters are escaped as in YAML."""
    recipe = plain(report.recipe)
    text = str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    return text if visible(text) == text else str(yaml.safe_dump(recipe, sort_keys=False))
