"""Run reports as data, JSON, Markdown and HTML, and their comparison. No torch, no onnxruntime."""

from compress.facts import Parity, Saturation
from compress.report.cards.model_card import to_model_card
from compress.report.cards.variants_card import to_variants_card, variants_table
from compress.report.check import (
    CheckRecord,
    CheckReport,
    check_lines,
    check_summary,
    gate_checks,
    junit_xml,
    run_summary,
)
from compress.report.compare.comparison import Comparison
from compress.report.compare.data import ComparisonRow
from compress.report.compare.read import compare_reports
from compress.report.compare.select import best_run, comparison_csv, known_column, sorted_by
from compress.report.inspection.data import Inspection
from compress.report.inspection.sections import inspection_html, inspection_markdown, write_inspection
from compress.report.inspection.words import needed_heads, neuron_sentence
from compress.report.schema import (
    SCHEMA_VERSION,
    DataFacts,
    EpochRecord,
    GateRecord,
    ModelFacts,
    PartSize,
    RunReport,
    StageRecord,
    load_report,
)
from compress.report.sections import report_page, report_sections
from compress.report.sections.about import saturation_sentence
from compress.report.sections.explanation import explanation_parts
from compress.report.sections.gates import commonest_words, gate_sentence, judged
from compress.report.sections.promise import last_promise
from compress.report.sections.runtimes import fastest_sentence
from compress.report.sections.verdict import Caveat, caveats, verdict
from compress.report.shapes import Shape, shapes_note, shapes_table
from compress.report.write import to_html, to_markdown, write_reports

__all__ = [
    "Caveat",
    "CheckRecord",
    "CheckReport",
    "Comparison",
    "ComparisonRow",
    "DataFacts",
    "EpochRecord",
    "GateRecord",
    "Inspection",
    "ModelFacts",
    "Parity",
    "PartSize",
    "RunReport",
    "SCHEMA_VERSION",
    "Saturation",
    "Shape",
    "StageRecord",
    "best_run",
    "caveats",
    "check_lines",
    "check_summary",
    "commonest_words",
    "compare_reports",
    "comparison_csv",
    "explanation_parts",
    "fastest_sentence",
    "gate_checks",
    "gate_sentence",
    "inspection_html",
    "inspection_markdown",
    "judged",
    "junit_xml",
    "known_column",
    "last_promise",
    "load_report",
    "needed_heads",
    "neuron_sentence",
    "report_page",
    "report_sections",
    "run_summary",
    "saturation_sentence",
    "shapes_note",
    "shapes_table",
    "sorted_by",
    "to_html",
    "to_markdown",
    "to_model_card",
    "to_variants_card",
    "variants_table",
    "verdict",
    "write_inspection",
    "write_reports",
]
