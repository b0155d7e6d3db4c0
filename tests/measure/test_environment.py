from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

from compress.measure import environment
from compress.measure.environment import _cpuinfo, _fingerprint, _sets_of_numpy
from compress.measure.process.spawn import python_command, python_environment
from compress.system.cores import available_cores


def test_environment_describes_this_machine():
    found = environment([1, 2])
    assert found.cpu
    assert found.cores == available_cores() >= 1
    assert found.memory_bytes > 0
    assert found.packages["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert found.session_options["intra_op_num_threads"] == "1, 2"
    assert found == environment([1, 2])


def test_fingerprint_changes_with_what_a_time_depends_on():
    same = _fingerprint("a cpu", 2, ("avx2",), "1.32.0")
    assert same == _fingerprint("a cpu", 2, ("avx2",), "1.32.0")
    assert len(same) == 12
    others = [
        _fingerprint("another", 2, ("avx2",), "1.32.0"),
        _fingerprint("a cpu", 4, ("avx2",), "1.32.0"),
        _fingerprint("a cpu", 2, ("avx2", "avx512_vnni"), "1.32.0"),
        _fingerprint("a cpu", 2, ("avx2",), "1.31.0"),
    ]
    assert len({same, *others}) == 5


def test_cpuinfo_reads_the_first_core_and_is_empty_where_there_is_no_such_file(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: Tiny CPU\nflags\t\t: fpu avx2\n\nmodel name\t: second\n")
    assert _cpuinfo(file) == {"model name": "Tiny CPU", "flags": "fpu avx2"}
    assert _cpuinfo(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("features", "sets"),
    [
        ({"AVX2": True, "AVX512VNNI": True, "SVE": False}, {"avx2", "avx512_vnni"}),
        ({"ASIMD": True, "ASIMDDP": True, "NEON": True}, {"asimd", "asimddp"}),
        ({"AVX2": True, "AVX512VNNI": False}, set()),  # it may have AVX-VNNI
        ({}, set()),
    ],
)
def test_without_proc_numpy_says_which_instruction_sets_there_are(monkeypatch, features, sets):
    monkeypatch.setattr("numpy._core._multiarray_umath.__cpu_features__", features)
    monkeypatch.setattr(sys.modules["compress.measure.environment"], "_cpuinfo", dict)
    assert set(environment().instruction_sets) == sets


def test_numpy_finds_the_instruction_sets_that_the_system_lists():
    flags = _cpuinfo().get("flags") or _cpuinfo().get("Features")
    if not flags:
        pytest.skip("the system lists none")
    assert _sets_of_numpy() <= set(flags.split())


def test_importing_measure_and_the_worker_imports_neither_torch_nor_onnx():
    code = (
        "import sys, json, compress.measure; early = set(sys.modules);"
        "import compress.measure.process.worker;"
        "compress.measure.environment();"
        "names = ('torch', 'torchao', 'transformers', 'onnx', 'onnxruntime', 'sklearn');"
        "print(json.dumps([[n for n in names if n in s] for s in (early, set(sys.modules))]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=python_environment(), capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout) == [[], []]


def test_python_processes_find_our_package_from_any_directory_and_not_the_users_files(tmp_path):
    (tmp_path / "compress.py").write_text("raise SystemExit('a file of the user')")
    said = subprocess.run(
        python_command("compress.measure.process.worker", tmp_path / "missing.json"),
        env=python_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert json.loads(said.stdout)["error"].startswith("FileNotFoundError")
