"""Finished pieces are kept whole, found by their key, and made again when damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import OutputError
from compress.keys import fingerprint
from compress.model.files.save import module_fingerprint
from compress.pipeline.cache import Cache

KEY = "0" * 64


class _Maker:
    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, 0

    def module(self) -> tuple[nn.Module, dict[str, Any]]:
        self.calls += 1
        return self.model, {"curve": [1.0]}

    def file(self, directory: Path) -> dict[str, Any]:
        self.calls += 1
        (directory / "model.onnx").write_bytes(b"graph")
        return {"rows": 2}


def test_a_kept_module_comes_back_bit_equal_with_its_record(tmp_path: Path, model: nn.Module) -> None:
    maker = _Maker(model)
    first = Cache(tmp_path).module(KEY, maker.module)
    second = Cache(tmp_path).module(KEY, maker.module)
    assert (first.reused, second.reused, maker.calls) == (False, True, 1)
    assert second.record == first.record == {"curve": [1.0]}
    assert module_fingerprint(second.module) == module_fingerprint(model)


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json", "definition.py", "record.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_module_is_made_again(tmp_path: Path, model: nn.Module, name: str, damage: str) -> None:
    maker, cache = _Maker(model), Cache(tmp_path)
    cache.module(KEY, maker.module)
    _damage(tmp_path / KEY / name, damage)
    assert not cache.module(KEY, maker.module).reused
    assert cache.module(KEY, maker.module).reused
    assert maker.calls == 2


@pytest.mark.parametrize("name", ["model.onnx", "record.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_file_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    maker, cache = _Maker(nn.Linear(1, 1)), Cache(tmp_path)
    cache.file(KEY, maker.file)
    _damage(tmp_path / KEY / name, damage)
    directory, record = cache.file(KEY, maker.file)
    assert (directory / "model.onnx").read_bytes() == b"graph"
    assert record == {"rows": 2}
    assert maker.calls == 2
    assert cache.file(KEY, maker.file) == (directory, record)
    assert maker.calls == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_work_that_ends_early_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def make(directory: Path) -> dict[str, Any]:
        (directory / "half").write_text("x")
        raise error

    with pytest.raises(error):
        Cache(tmp_path).file(KEY, make)
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path, model: nn.Module) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/\.cache"):
        Cache(tmp_path / "file" / ".cache").module(KEY, _Maker(model).module)


def test_fingerprints_tell_weights_and_settings_apart(model: nn.Module) -> None:
    before = module_fingerprint(model)
    with torch.no_grad():
        next(model.parameters()).flatten()[0].add_(1e-6)
    assert module_fingerprint(model) != before
    assert fingerprint({"a": 1}, "x") == fingerprint({"a": 1}, "x") != fingerprint({"a": 2}, "x")


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        # The middle byte of a record is in its text; `{` breaks JSON wherever it stands.
        middle = len(content) // 2
        path.write_bytes(
            content[:middle] + (b"{" if content[middle] != ord("{") else b"}") + content[middle + 1 :]
        )
