from __future__ import annotations

import gzip

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure.size import model_files, model_size


def test_model_size_counts_one_file_and_what_gzip_6_makes_of_it(token_model):
    path = token_model()
    size = model_size(path)
    assert size.file_bytes == path.stat().st_size
    assert size.gzip_bytes == len(gzip.compress(path.read_bytes(), compresslevel=6, mtime=0))


@pytest.mark.parametrize("name", ["model.onnx_data", "weights-of-another-name.bin"])
def test_model_size_counts_the_external_data_that_the_file_names(token_model, tmp_path, name):
    path = token_model(external=name, evidence=np.zeros((1000, 2), dtype=np.float32))
    (tmp_path / "model.onnx.bak").write_bytes(b"not part of the model")
    assert model_files(path) == (path, tmp_path / name)
    size = model_size(path)
    assert size.file_bytes == path.stat().st_size + (tmp_path / name).stat().st_size
    assert size.file_bytes > 8000
    assert size.gzip_bytes < 2000  # zeros


def test_model_files_is_not_led_astray_by_weights_that_spell_an_entry(tmp_path):
    path = tmp_path / "model.onnx"
    (tmp_path / "sub").mkdir()
    entries = (b"\x02\xff\xfe", b"\x03a\x00b", b"\x03sub", b"\x07missing", b"\x7f")
    path.write_bytes(b"".join(b"\x0a\x08location\x12" + entry for entry in entries))
    assert model_files(path) == (path,)


def test_external_data_outside_of_its_folder_is_refused(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_bytes(b"not the model's")
    path = tmp_path / "inside" / "model.onnx"
    for name in ("../secret", str(tmp_path / "secret")):
        path.write_bytes(b"\x0a\x08location\x12" + bytes([len(name)]) + name.encode())
        with pytest.raises(MeasureError, match=r"model\.onnx: .*secret"):
            model_files(path)


def test_external_data_may_be_a_link_to_elsewhere_as_in_a_download(tmp_path):
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "data").symlink_to(tmp_path / "blob")
    path = tmp_path / "inside" / "model.onnx"
    path.write_bytes(b"\x0a\x08location\x12\x04data")
    assert model_files(path) == (path, tmp_path / "inside" / "data")


def test_model_size_refuses_an_empty_file(tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(MeasureError, match=r"model\.onnx.* empty"):
        model_size(tmp_path / "model.onnx")
