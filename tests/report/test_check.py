"""What CI reads of a check."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from compress.report import CheckRecord, CheckReport, junit_xml


def test_junit_xml_of_any_text_can_be_parsed() -> None:
    odd = "a\x00\x1b[31m\ud800\ufffe\uffff<&>\u202e\U0001f600"
    checks = (CheckRecord(name=odd, holds=True, found=odd), CheckRecord(name="b", holds=False, found=odd))
    report = CheckReport(
        bundle=odd,
        against=None,
        created="2026-01-01T00:00:00",
        modelpress_version="1",
        checks=checks,
        measurement=None,
        seconds=1,
    )
    suite = ET.fromstring(junit_xml(report).encode("utf-8")).find("testsuite")
    assert suite is not None
    first, second = suite
    kept = "a\\u0000\\u001b[31m\\ud800<&>\\u202e\U0001f600"
    assert (first.get("name"), first.get("classname"), first[0].text) == (kept, kept, kept)
    assert second[0].get("message") == kept
