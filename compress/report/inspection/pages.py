"""An Inspection as Markdown, HTML and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.report.inspection.data import INSPECTION_FILES, Inspection
from compress.report.inspection.tables import (
    curve_table,
    importance_table,
    layers_table,
    look_words,
    looks_table,
    neurons_table,
    pairs_table,
    quantization_table,
)
from compress.report.inspection.words import alike_pairs, method, needed_heads, neuron_sentence
from compress.report.render.charts import silencing_curve
from compress.report.render.heat import ATTENTION_STEPS, attention_map, heat_row
from compress.report.render.html import render
from compress.report.render.markdown import escape_markdown, table_markdown
from compress.report.words import duration, percent
from compress.system.disk import cannot_write

__all__ = ["inspection_html", "inspection_markdown", "write_inspection"]

_JOINT = "Heads of all layers together, the least important first (after each layer's norm is divided out)."
_ALONE = (
    "Each layer alone, its least important heads silenced one by one: points of validation accuracy. * marks "
    "a difference whose 95 % interval leaves out 0."
)
_LIKE = (
    "Linear CKA (Kornblith et al. 2019) of what each pair of heads of a layer adds to the residual stream: 1 "
    "is the same up to rotation and scale."
)
_NEURONS = (
    "Share of a layer's importance that its most important neurons hold, and how many hold 90 and 99 %."
)
_LOOKS = (
    "Mean share of each head's attention over {rows} validation rows, counted once each in the order itself, "
    "first position, separator, previous, next, other."
)


_QUANTIZED = (
    "Each group of layers quantized alone, all others float: KL from the float model's answers in "
    "thousandths of a nat, mean over {rows} validation rows; in brackets the change of accuracy on them in "
    "points, which is mostly noise. `quantize/mixed` chooses a scheme for each group from such figures."
)


def write_inspection(inspection: Inspection, directory: Path) -> None:
    """Write inspection.json, inspection.md and inspection.html, making the directory where it is missing.

    Raises:
        OutputError: the directory cannot be written.
    """
    texts = (
        inspection.model_dump_json(indent=2) + "\n",
        inspection_markdown(inspection),
        inspection_html(inspection),
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in zip(INSPECTION_FILES, texts, strict=True):
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(error, directory) from error


def inspection_markdown(inspection: Inspection) -> str:
    """Write the inspection as Markdown (GitHub's flavour)."""
    parts = [
        f"# Inspection of {escape_markdown(inspection.name)}",
        f"**{escape_markdown(needed_heads(inspection))}**",
        escape_markdown(neuron_sentence(inspection)),
        "\n".join(f"- {escape_markdown(line)}" for line in (*inspection.notes, *method(inspection))),
        "## Importance of each head",
        "Columns are heads; \\* marks the heads of the set that the task needs.",
        table_markdown(importance_table(inspection)),
        "## Accuracy as heads are silenced",
        _JOINT,
        table_markdown(curve_table(inspection.joint, "heads")),
    ]
    if inspection.heads[0].curve:
        parts += [escape_markdown(_ALONE), table_markdown(layers_table(inspection))]
    parts += ["## Heads that do the same", _LIKE, *_pairs_markdown(inspection)]
    if inspection.neurons:
        parts += ["## Neurons", _NEURONS, table_markdown(neurons_table(inspection))]
        parts += [table_markdown(curve_table(inspection.neuron_curve, "neurons"))]
    if inspection.quantization:
        parts += ["## What quantizing each layer costs", _quantized(inspection)]
        parts += [table_markdown(quantization_table(inspection))]
    parts += ["## What each head looks at", *_looks_markdown(inspection), "## About", *_about(inspection)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _quantized(inspection: Inspection) -> str:
    return _QUANTIZED.format(rows=inspection.quantization_rows)


def _pairs_markdown(inspection: Inspection) -> list[str]:
    if not alike_pairs(inspection):
        return [_no_pairs(inspection)]
    return [table_markdown(pairs_table(inspection))]


def _no_pairs(inspection: Inspection) -> str:
    best = max(
        (
            (each.likeness[i][j], each.layer, i, j)
            for each in inspection.heads
            for i in range(len(each.likeness))
            for j in range(i + 1, len(each.likeness))
        ),
        default=None,
    )
    nearest = (
        ""
        if best is None
        else f"; the most alike are {best[2]} and {best[3]} of layer {best[1]}: {best[0]:.2f}"
    )
    return f"No pair is above 0.9{nearest}."


def _looks_markdown(inspection: Inspection) -> list[str]:
    facts = inspection.attention
    if facts.left_out:
        return [escape_markdown(facts.left_out)]
    return [_LOOKS.format(rows=facts.rows), table_markdown(looks_table(inspection))]


def _about(inspection: Inspection) -> list[str]:
    return [escape_markdown(f"{name}: {value}") for name, value in _facts(inspection)]


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    low, high = 100 * inspection.accuracy_low, 100 * inspection.accuracy_high
    return [
        ("model", inspection.model),
        ("data", inspection.data),
        ("accuracy", f"{percent(inspection.accuracy)} (95 % interval {low:.1f} to {high:.1f}), validation"),
        (
            "rows",
            f"{inspection.calibration_rows:,} train, {inspection.validation_rows:,} validation, no test",
        ),
        ("evaluations", f"{inspection.evaluations}, in {duration(inspection.seconds)} with everything else"),
        ("command", inspection.command or "from Python"),
        ("made", f"{inspection.created}, modelpress {inspection.modelpress_version}"),
    ]


def inspection_html(inspection: Inspection) -> str:
    """Write the inspection as one HTML page that needs nothing else."""
    most = max(max(each.importance) for each in inspection.heads)
    total = sum(len(each.importance) for each in inspection.heads)
    context = {
        "inspection": inspection,
        "needed": needed_heads(inspection),
        "neuron_words": neuron_sentence(inspection),
        "method": method(inspection),
        "texts": {"joint": _JOINT, "alone": _ALONE, "like": _LIKE, "neurons": _NEURONS},
        "widest": max(len(each.importance) for each in inspection.heads),
        "importance": [(x, heat_row(x.importance, most, x.needed)) for x in inspection.heads],
        "joint": silencing_curve(
            "Validation accuracy over silenced heads", inspection.joint, "heads", inspection.need.silenced
        ),
        "joint_table": curve_table(inspection.joint, "heads"),
        "total": total,
        "alone": [
            (x.layer, silencing_curve(f"Accuracy over silenced heads of layer {x.layer}", x.curve, "heads"))
            for x in inspection.heads
            if len(x.curve) > 1
        ],
        "alone_table": layers_table(inspection) if inspection.heads[0].curve else None,
        "likeness": [(x.layer, [heat_row(row, 1.0) for row in x.likeness]) for x in inspection.heads],
        "pairs": pairs_table(inspection) if alike_pairs(inspection) else None,
        "no_pairs": _no_pairs(inspection),
        "neurons": neurons_table(inspection) if inspection.neurons else None,
        "quantized": _quantized_heat(inspection),
        "quantized_table": quantization_table(inspection) if inspection.quantization else None,
        "attention": _attention(inspection),
        "facts": _facts(inspection),
    }
    if inspection.neuron_curve:
        picture = silencing_curve("Accuracy over silenced neurons", inspection.neuron_curve, "neurons")
        context |= {"neuron_curve": picture, "neuron_table": curve_table(inspection.neuron_curve, "neurons")}
    return render("inspection.html.j2", context)


def _quantized_heat(inspection: Inspection) -> dict[str, Any]:
    groups = inspection.quantization
    largest = max((value for group in groups for value in group.divergence.values()), default=0.0)
    return {
        "lead": _quantized(inspection).replace("`", ""),
        "columns": list(groups[0].divergence) if groups else [],
        "rows": [
            (group.name, heat_row([1000 * value for value in group.divergence.values()], 1000 * largest))
            for group in groups
        ],
    }


def _attention(inspection: Inspection) -> dict[str, Any]:
    facts = inspection.attention
    words = {(x.layer, x.head): look_words(x, facts.first_token) for x in facts.looks}
    shown = []
    for sentence in facts.sentences:
        layers = [
            (
                heads.layer,
                [
                    (
                        f"{heads.layer}.{head}",
                        words[heads.layer, head],
                        attention_map(f"attention of head {head} in layer {heads.layer}", weights),
                    )
                    for head, weights in enumerate(per_head)
                ],
            )
            for heads, per_head in zip(inspection.heads, sentence.maps, strict=False)
        ]
        shown.append({"tokens": sentence.tokens, "layers": layers})
    return {
        "left_out": facts.left_out,
        "lead": _LOOKS.format(rows=facts.rows),
        "table": None if facts.left_out else looks_table(inspection),
        "sentences": shown,
        "steps": ATTENTION_STEPS,
    }
