"""Pages in a real browser: no errors, nothing wider than the screen, tables that sort. Needs Chromium."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.report import RunReport, compare_reports, load_report, to_html, write_reports

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
REFERENCE = Path(__file__).resolve().parents[2] / "reports" / "reference"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

# A frame of the width that is asked for: a window can't be as narrow as a phone.
_HARNESS = """<!DOCTYPE html><meta charset="utf-8"><pre id="found"></pre>
<iframe id="page" style="width: {width}px; height: 900px; border: 0" srcdoc="{page}"></iframe>
<script>
document.getElementById("page").addEventListener("load", event => {{
  const inside = event.target.contentDocument, root = inside.documentElement;
  for (const each of inside.querySelectorAll("details")) each.open = true;
  const wide = [...inside.querySelectorAll("main *")].filter(
    x => !x.closest(".scroll, svg, pre") && x.getBoundingClientRect().right > {width} + 1);
  const small = [...inside.querySelectorAll("svg text")].map(x => x.getBoundingClientRect().height);
  const table = inside.querySelector("table.sorts");
  const read = () => [...table.tBodies[0].rows].map(row => row.cells[{column}].textContent.trim());
  const orders = [];
  if (table) for (let i = 0; i < 2; i++) {{
    table.tHead.rows[0].cells[{column}].querySelector("button").click();
    orders.push(read());
  }}
  const boxes = [...inside.querySelectorAll("#charts svg text, #ladder svg text")].map(x => [
    x.closest("svg"), x.textContent, x.getBoundingClientRect()]);
  const crossing = boxes.flatMap(([svg, text, a], i) => boxes.slice(i + 1).filter(([other, , b]) =>
    svg === other && a.left < b.right - 1 && b.left < a.right - 1 && a.top + 3 < b.bottom - 3 &&
    b.top + 3 < a.bottom - 3).map(([, more]) => [text, more]));
  const figures = inside.querySelector("#figures .scroll");
  document.getElementById("found").textContent = JSON.stringify({{
    sideways: figures ? figures.scrollWidth - figures.clientWidth : 0, crossing,
    first: inside.querySelector(".tile, .warnings")?.className,
    overflow: root.scrollWidth - root.clientWidth, wide: wide.map(x => x.outerHTML.slice(0, 80)),
    smallest: Math.min(...small), orders }});
}});
</script>"""


def _opened(page: str, width: int, folder: Path, column: int = 0) -> dict[str, Any]:
    """What the page is like in a frame of this many pixels, after a table's column was clicked twice."""
    harness = folder / "harness.html"
    harness.write_text(_HARNESS.format(page=html.escape(page), width=width, column=column), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000", "--dump-dom"]
    done = subprocess.run(
        [*command, harness.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    text = done.stdout.partition('<pre id="found">')[2].partition("</pre>")[0]
    found: dict[str, Any] = json.loads(html.unescape(text))
    return found


@pytest.mark.parametrize("width", [320, 360, 481, 640, 769, 1024, 1440])
@pytest.mark.parametrize("run", ["digits-joint", "digits-prune-structured", "digits-quantize-mixed"])
def test_a_report_fits_the_screen_without_console_messages(run: str, width: int, tmp_path: Path) -> None:
    found = _opened(to_html(load_report(REFERENCE / run), ("patches",)), width, tmp_path)
    assert found["overflow"] <= 0 and not found["wide"]
    assert width < 360 or found["smallest"] >= 9  # pixels of a line of text in a chart
    assert found["first"] == "tile" and found["sideways"] <= 0 and not found["crossing"]
    up, down = found["orders"]
    assert sorted(up) == sorted(down) and up != down


@pytest.mark.parametrize("width", [360, 1440])
def test_a_comparison_fits_the_screen_and_sorts_by_the_figures(width: int, tmp_path: Path) -> None:
    comparison = compare_reports(REFERENCE)
    column = 2 + comparison.columns.index("smaller")  # after the name and the difference
    found = _opened(comparison.to_html(tmp_path), width, tmp_path, column)
    assert found["overflow"] <= 0 and not found["wide"] and not found["crossing"]
    ratios = [row.smaller for row in comparison.rows if not row.is_baseline]
    up, down = (
        [float(text.rstrip("x*†")) for text in order[1:]] for order in found["orders"]
    )  # the baseline stays first
    assert up == sorted(up) and down == sorted(down, reverse=True)
    assert up[-1] == pytest.approx(max(ratios), rel=0.02)


def test_markup_in_names_does_nothing(make_report: Callable[..., RunReport], tmp_path: Path) -> None:
    bad = '"><img src=x onerror="console.error(1)"><script>console.error(2)</script>'
    report = make_report(name=bad)
    write_reports(report, tmp_path / "run")
    for page in (to_html(report, (bad,)), compare_reports(tmp_path / "run").to_html(tmp_path)):
        _opened(page, 1440, tmp_path)  # which sees that nothing is on the console
