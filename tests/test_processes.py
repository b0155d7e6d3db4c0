"""Processes that train together agree on what the main one found, and on the sum of what each has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compress.system.distributed import all_of, from_main, is_main, sum_

SCRIPT = """
import os, sys, torch
from compress.errors import StageError
from compress.system.distributed import all_of, from_main, is_main, process_count, process_index, sum_

me = process_index()
assert process_count() == 2 and is_main() == (me == 0)
assert from_main(lambda: f"of process {process_index()}") == "of process 0"
made = []
assert from_main(lambda: made.append(1) or from_main(lambda: 5)) == 5  # what it does inside, it does alone
assert len(made) == (1 if is_main() else 0)
def fail():
    raise StageError("no more layers")
try:
    from_main(fail)
except StageError as error:
    assert str(error) == "no more layers"
else:
    raise AssertionError("both hear of the error")
assert all_of({"me": me}) == [{"me": 0}, {"me": 1}]
tensors = [torch.tensor([1.0 + me, 10.0]), torch.full((2, 2), float(me))]
sum_(tensors)
assert tensors[0].tolist() == [3.0, 20.0] and tensors[1].tolist() == [[1.0, 1.0], [1.0, 1.0]]
open(os.path.join(sys.argv[1], str(me)), "w").close()
"""


def test_two_processes_agree(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()


def test_one_process_just_does_it() -> None:
    tensor = torch.ones(2)
    sum_([tensor])
    assert is_main() and from_main(lambda: 3) == 3 and all_of("a") == ["a"] and tensor.tolist() == [1.0, 1.0]
    with pytest.raises(ZeroDivisionError):
        from_main(lambda: 1 // 0)
