"""Files of any kind and JSON of any shape: read, or one of the two errors that callers expect."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from compress.system.files import parse_json, read_json, read_regular


def test_a_regular_file_is_read_to_the_end_or_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("a")
    assert read_regular(tmp_path / "link") == b"0123456789"
    assert read_regular(tmp_path / "a", most_bytes=3) == b"012"


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes in a folder")
def test_what_may_have_no_end_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="is a pipe or a device") as refused:
            read_regular(path)
        assert refused.value.filename == str(path)
    with pytest.raises(IsADirectoryError) as refused_directory:
        read_regular(tmp_path)
    assert refused_directory.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "gone")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5_000, "[1", ""])
def test_text_that_python_cannot_parse_is_a_json_error(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)


def test_json_is_read_and_other_bytes_are_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"é": [1]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"é": [1]}
    (tmp_path / "b.json").write_bytes(b"\xff")
    with pytest.raises(ValueError):
        read_json(tmp_path / "b.json")
