"""Sections and files of an Inspection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from compress.page import (
    Bullets,
    Chart,
    Heat,
    Page,
    Pairs,
    Part,
    Row,
    Section,
    Text,
    heat_cells,
    parts_of,
)
from compress.page.format import capital, duration
from compress.report.charts.attention import attention_legend, attention_map
from compress.report.charts.curves import silencing_curve
from compress.report.inspection.data import INSPECTION_FILES, Inspection, Sentence
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
from compress.report.render.html import page_html
from compress.report.render.markdown import page_markdown
from compress.system.disk import cannot_write
from compress.tasks.spec import TaskWords

__all__ = ["inspection_html", "inspection_markdown", "write_inspection"]

_JOINT = "Heads of all layers together, the least important first (scores are normalized per layer)."
_ALONE = (
    "One layer at a time, its least important heads silenced one by one: change in validation {change}. "
    "* marks a measurable change (its 95 % interval excludes 0). Each chart has its own scale."
)
_LIKE = (
    "Linear CKA (Kornblith et al. 2019) of the contributions of each pair of heads of a layer to the "
    "residual stream: 1 means equal up to rotation and scale."
)
_NEURONS = (
    "Share of a layer's importance in its most important neurons, and the number of neurons with 90 and 99 % "
    "of it."
)
_LOOKS = (
    "Mean share of each head's attention over {rows} validation rows. A position counts for the first "
    "category that applies: itself, first position, separator, previous, next, other."
)
_QUANTIZED = (
    "Each group of layers quantized alone, all others in float: divergence from the float model's outputs "
    "in thousandths (for classes and tokens KL, of a nat), mean over {rows} validation rows; in brackets, "
    "the change in {change}, which is mostly noise. quantize/mixed uses such figures to choose a scheme for "
    "each group."
)
_NEEDED = (
    "Rows are layers, columns heads. Taylor score divided by each layer's L2 norm; a stronger shade is more "
    "important. Outlined, or marked with *: the {count} heads needed for the task."
)
_CURVE = (
    "Vertical lines: 95 % interval of the difference from the full model, whose {score} is the horizontal "
    "dashed line. Filled: the heads needed for the task. The vertical axis does not start at 0."
)
_SQUARES = (
    "Each square is a head (layer.head): rows are attending positions, columns attended positions, the first "
    "at the top left. Below it: where the head attends most, over all rows. Recomputed from q and k, and "
    "verified against the model's own outputs."
)


def write_inspection(inspection: Inspection, directory: Path) -> None:
    """Write inspection.json, inspection.md and inspection.html; create the directory if it is missing.

    Raises:
        OutputError: the directory cannot be written.
    """
    page = _page(inspection)
    texts = (inspection.model_dump_json(indent=2) + "\n", page_markdown(page), page_html(page))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in zip(INSPECTION_FILES, texts, strict=True):
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(error, directory) from error


def inspection_markdown(inspection: Inspection) -> str:
    """The inspection as GitHub-flavoured Markdown."""
    return page_markdown(_page(inspection))


def inspection_html(inspection: Inspection) -> str:
    """The inspection as one self-contained HTML page."""
    return page_html(_page(inspection))


def _page(inspection: Inspection) -> Page:
    neurons = neuron_sentence(inspection)
    doubts = (*map(capital, inspection.notes), *method(inspection))
    sections = (
        _importance(inspection),
        Section("Method and limits", (Bullets(doubts),), "doubts", style="warnings"),
        _silenced(inspection),
        _alike(inspection),
        _neurons(inspection),
        _quantized(inspection),
        _attention(inspection),
        Section("About", (Pairs(tuple(_facts(inspection))),), "about"),
    )
    return Page(
        name=f"Inspection of {inspection.name}",
        title=f"Inspection of {inspection.name} · modelpress",
        lead=needed_heads(inspection),
        notes=(neurons,) if neurons else (),
        sections=tuple(section for section in sections if section is not None),
    )


def _importance(inspection: Inspection) -> Section:
    heads = inspection.heads
    most = max(max(each.importance) for each in heads)
    columns = tuple(map(str, range(max(len(each.importance) for each in heads))))
    rows = tuple((str(x.layer), heat_cells(x.importance, most, x.needed)) for x in heads)
    title = "Importance of each head"
    count = sum(len(each.importance) for each in heads) - inspection.need.silenced
    numbers = replace(importance_table(inspection), folded="Values, and number of heads needed")
    note = Text(_NEEDED.format(count=count), "note")
    parts = (Heat("Taylor scores", "layer", columns, rows), note, numbers)
    return Section(title, parts, "importance", nav="Importance")


def _silenced(inspection: Inspection) -> Section:
    words = inspection.words
    title = f"Validation {words.score} by number of silenced heads"
    draw = partial(
        silencing_curve, title, inspection.joint, "heads", inspection.need.silenced, scale=words.scale
    )
    together = Section(
        "All layers together",
        (
            Text(_JOINT, "note"),
            Chart(draw, _CURVE.format(score=words.score)),
            replace(curve_table(inspection.joint, "heads", words), folded="Values of the curve"),
        ),
    )
    left_out = Text("Curves of single layers are not available with --quick.", "note")
    alone = _alone(inspection) if inspection.heads[0].curve else left_out
    return Section(f"{capital(words.score)} as heads are silenced", (together, alone), "silenced")


def _change(words: TaskWords) -> str:
    """What a column of differences shows: `accuracy, in points`."""
    unit = words.scale.change_unit.strip()
    return f"{words.score}, in {unit}" if unit else words.score


def _alone(inspection: Inspection) -> Section:
    words = inspection.words
    charts = [
        Chart(
            partial(
                silencing_curve,
                f"{capital(words.score)} by number of silenced heads of layer {x.layer}",
                x.curve,
                "heads",
                scale=words.scale,
            ),
            title=f"Layer {x.layer}",
        )
        for x in inspection.heads
        if len(x.curve) > 1
    ]
    change = _change(words)
    folded = f"Values: change in {change}, by number of silenced heads"
    numbers = replace(layers_table(inspection), folded=folded)
    return Section(
        "One layer at a time", (Text(_ALONE.format(change=change), "note"), Row(tuple(charts)), numbers)
    )


def _alike(inspection: Inspection) -> Section:
    named = alike_pairs(inspection)
    words = Text("Pairs above 0.9:" if named else _no_pairs(inspection))
    found = pairs_table(inspection) if named else None
    maps = [
        Heat(
            f"CKA of the heads of layer {x.layer}",
            "head",
            tuple(map(str, range(len(x.likeness)))),
            tuple((str(head), heat_cells(row, 1.0)) for head, row in enumerate(x.likeness)),
        )
        for x in inspection.heads
    ]
    every = Section("All pairs, by layer", (Row(tuple(maps)),), folded=True)
    return Section("Similar heads", parts_of(Text(_LIKE, "note"), words, found, every), "alike")


def _neurons(inspection: Inspection) -> Section | None:
    if not inspection.neurons:
        return None
    words = inspection.words
    draw = partial(
        silencing_curve,
        f"{capital(words.score)} by number of silenced neurons",
        inspection.neuron_curve,
        "neurons",
        scale=words.scale,
    )
    caption = "Feed-forward neurons of all layers together, the least important first, with all heads active."
    numbers = replace(curve_table(inspection.neuron_curve, "neurons", words), folded="Values of the curve")
    parts = (Text(_NEURONS, "note"), neurons_table(inspection), Chart(draw, caption), numbers)
    return Section("Neurons", parts, "neurons")


def _quantized(inspection: Inspection) -> Section | None:
    groups = inspection.quantization
    if not groups:
        return None
    largest = max((value for group in groups for value in group.divergence.values()), default=0.0)
    rows = tuple(
        (group.name, heat_cells([1000 * value for value in group.divergence.values()], 1000 * largest))
        for group in groups
    )
    parts = (
        Heat("Divergence by scheme", "layers", tuple(groups[0].divergence), rows),
        Text(_QUANTIZED.format(rows=inspection.quantization_rows, change=_change(inspection.words)), "note"),
        replace(quantization_table(inspection), folded=f"Values, and change in {inspection.words.score}"),
    )
    return Section("Cost of quantizing each group of layers", parts, "quantized", nav="Quantization")


def _attention(inspection: Inspection) -> Section:
    facts, title = inspection.attention, "What each head attends to"
    if facts.left_out:
        return Section(title, (Text(facts.left_out),), "looks", nav="Attention")
    numbers = replace(looks_table(inspection), folded="Values: where each head attends")
    shown = [x for x in facts.sentences if x.maps]
    maps = [Section("Attention of single rows", tuple(_maps(inspection, shown)))] if shown else []
    parts = parts_of(Text(_LOOKS.format(rows=facts.rows), "note"), numbers, maps)
    return Section(title, parts, "looks", nav="Attention")


def _maps(inspection: Inspection, sentences: Iterable[Sentence]) -> Iterable[Part]:
    """The legend, then each sentence with an attention map of every head."""
    facts = inspection.attention
    words = {(x.layer, x.head): look_words(x, facts.first_token) for x in facts.looks}
    yield Chart(attention_legend, _SQUARES)
    for at, sentence in enumerate(sentences):
        tokens = " · ".join(f"{number} {token}" for number, token in enumerate(sentence.tokens, start=1))
        layers = [
            Section(
                f"Layer {heads.layer}",
                (
                    Row(
                        tuple(
                            Chart(
                                partial(
                                    attention_map, f"attention of head {head} in layer {heads.layer}", weights
                                ),
                                f"{heads.layer}.{head} {words[heads.layer, head]}",
                            )
                            for head, weights in enumerate(per_head)
                        ),
                        dense=True,
                    ),
                ),
            )
            for heads, per_head in zip(inspection.heads, sentence.maps, strict=False)
        ]
        title = " ".join(sentence.tokens[:12]) + (" …" if len(sentence.tokens) > 12 else "")
        yield Section(title, parts_of(Text(tokens, "note"), layers), folded=True, open=at == 0)


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
        else f"; the most similar are {best[2]} and {best[3]} of layer {best[1]}: {best[0]:.2f}"
    )
    return f"No pair is above 0.9{nearest}."


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    words, scale = inspection.words, inspection.words.scale
    ends = f"{scale.number(inspection.accuracy_low)} to {scale.number(inspection.accuracy_high)}"
    return [
        ("model", inspection.model),
        ("data", inspection.data),
        (words.score, f"{scale.text(inspection.accuracy)} (95 % interval {ends}), validation"),
        (
            "rows",
            f"{inspection.calibration_rows:,} train, {inspection.validation_rows:,} validation, no test",
        ),
        (
            "evaluations",
            f"{inspection.evaluations}; the whole inspection took {duration(inspection.seconds)}",
        ),
        ("command", inspection.command or "called from Python"),
        ("made", f"{inspection.created}, modelpress {inspection.modelpress_version}"),
    ]
