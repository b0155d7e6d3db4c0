"""Render report.md and report.html again from the report.json of each run directory; no figure changes.

python .ci/render.py reports/reference/*
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from compress.report import load_report, to_html, to_markdown


def main() -> None:
    for each in map(Path, sys.argv[1:]):
        if (each / "report.json").is_file():
            report, inputs = load_report(each), input_names(each)
            (each / "report.md").write_text(to_markdown(report, inputs), encoding="utf-8")
            (each / "report.html").write_text(to_html(report, inputs), encoding="utf-8")


def input_names(directory: Path) -> list[str]:
    """The ONNX model's inputs, for the Deploy section: from the manifest, or from an earlier report.md."""
    manifest, page = directory / "manifest.json", directory / "report.md"
    if manifest.is_file():
        return [each["name"] for each in json.loads(manifest.read_text(encoding="utf-8"))["inputs"]]
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    return re.findall(r'"(\w+)": ', text.partition("\n## Deploy\n")[2])


if __name__ == "__main__":
    main()
