"""Sections on validity and reproduction: parity, data, environment, command and recipe."""

from __future__ import annotations

import yaml

from compress.page import Code, Pairs, Section, Table, Text
from compress.page.format import duration, size
from compress.report.plain_facts import plain
from compress.report.schema import RunReport
from compress.report.sections.saturation import saturation_sentence
from compress.safe_text import visible
from compress.tasks import task_of_measurement

__all__ = ["data", "environment", "parity", "recipe_yaml", "reproduce"]

_MOST_LABELS = 20


def parity(report: RunReport) -> Section:
    """Each ONNX file compared with its PyTorch model."""
    rows = tuple(
        (
            who,
            f"{p.rows:,}",
            f"{100 * p.agreement:.2f} % (at least {100 * p.min_agreement:.2f})",
            f"{100 * p.metric_difference:+.2f} (at most {100 * p.max_metric_difference:.2f})".replace(
                "-", "−"
            ),
            f"{p.max_abs_error:.2g}",
            "–" if p.relative_error is None else f"{p.relative_error:.2g} (at most {p.max_relative_error:g})",
            "holds" if p.holds else "does not hold",
        )
        for who, p in (("baseline", report.model.parity), ("candidate", report.parity))
    )
    columns = (
        "file",
        "rows",
        f"same {task_of_measurement(report.measurement).words.answer}",
        "metric difference, points",
        "largest logit error",
        "difference of outputs over their spread",
        "parity",
    )
    note = Text("Each ONNX file against the PyTorch model that it came from, on validation rows.", "note")
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
    """The machine and versions that the figures hold for, and the operators that ran."""
    machine = report.measurement.environment
    rows = [
        ("processor", machine.cpu),
        ("cores", str(machine.cores)),
        ("instruction sets", ", ".join(machine.instruction_sets) or "not known"),
        *_where_int8_holds(report),
        ("memory", size(machine.memory_bytes)),
        ("system", machine.system),
        ("Python", machine.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items()))),
        ("session options", ", ".join(f"{key}={value}" for key, value in machine.session_options.items())),
        ("fingerprint", machine.fingerprint),
    ]
    return Section("Environment", (Pairs(tuple(rows)), _operators(report)), "environment")


def _where_int8_holds(report: RunReport) -> list[tuple[str, str]]:
    """Shown here if nothing is at risk; otherwise it is among the warnings."""
    found = report.saturation
    if found is None or found.is_possible:
        return []
    return [("other processors", saturation_sentence(found, report.measurement.environment.instruction_sets))]


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
