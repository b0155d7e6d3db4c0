"""Sets up a fresh machine with Python's standard library only: creates .venv, installs, runs one command.

    python3 .ci/dev.py demo       run four recipes on the digits and compare their bundles
    python3 .ci/dev.py test       run the checks and tests, as CI does
    python3 .ci/dev.py reference  remake reports/reference from the shipped recipes
    python3 .ci/dev.py pages      render reports/reference again from its report.json files

An environment that already fits pyproject.toml is reused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("MODELPRESS_VENV", ROOT / ".venv")).resolve()
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
ALONE = ("digits", "cnn", "rnn", "decoder", "vit")
DEMO = ["prune-heads", "quantize-int8", "distill", "joint"]


def main() -> int:
    jobs = {"demo": demo, "test": test, "reference": reference, "pages": pages}
    if len(sys.argv) < 2 or sys.argv[1] not in jobs:
        print(__doc__)
        return 2
    try:
        return jobs[sys.argv[1]](sys.argv[2:])
    except KeyboardInterrupt:
        return 130


def demo(arguments: list[str]) -> int:
    install("")
    recipes = [f"recipes/digits/{name}.yaml" for name in DEMO]
    code = call("modelpress", "run", *recipes, *arguments)
    if code == 0:
        print(f"command {BIN / executable('modelpress')}")
    return code


def test(arguments: list[str]) -> int:
    install("[dev]")
    if arguments:  # e.g. `test -m slow tests/recipes`: only the tests
        return call("python", "-m", "pytest", *arguments)
    checks = [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("lint-imports",),
        ("codespell",),
        ("mkdocs", "build", "--strict"),
        # Most tests use one thread; tests of a file share fixtures and stay in one process.
        (
            "python",
            "-m",
            "pytest",
            "-q",
            "--durations=10",
            "-n",
            str(min(os.cpu_count() or 1, 8)),
            "--dist",
            "loadfile",
            "--no-loadscope-reorder",  # tests/conftest.py sorts the longest files first
        ),
    ]
    for check in checks:
        print(f"== {' '.join(check)}", flush=True)
        code = call(*check)
        if code:
            return code
    return 0


def reference(arguments: list[str]) -> int:
    """Run the recipes that need no files from the user, and keep their reports without the weights."""
    install("[hf]")  # for the decoders' tokenizer
    recipes = sorted(path for each in ALONE for path in (ROOT / "recipes" / each).glob("*.yaml"))
    scratch = ROOT / "reports" / ".reference"
    names = [path.relative_to(ROOT).as_posix() for path in recipes]
    code = call("modelpress", "run", *names, "-o", str(scratch), *arguments)
    if code:
        return code
    for recipe in recipes:
        name = f"{recipe.parent.name}-{recipe.stem}"
        target = ROOT / "reports" / "reference" / name
        target.mkdir(parents=True, exist_ok=True)
        for kept in ("report.json", "report.md", "report.html"):
            shutil.copyfile(scratch / name / kept, target / kept)
    return call("modelpress", "compare", "reports/reference")


def pages(arguments: list[str]) -> int:
    """Render the kept reports again, after a change of their pages."""
    install("")
    kept = arguments or sorted(str(path) for path in (ROOT / "reports" / "reference").iterdir())
    return call("python", ".ci/render.py", *kept)


def install(extra: str) -> None:
    """Create the environment, or reuse it if its stamp shows the same packages from the same place."""
    if sys.version_info < (3, 11):
        sys.exit(f"modelpress needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    stamp = VENV / f"installed{extra.strip('[]')}.sha256"
    # The programs of a repository that was moved or copied start the Python of the old place.
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + f"{ROOT} {VENV}".encode()).hexdigest()
    python = BIN / executable("python")
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return
    if not (python.exists() and pip_works()):
        make_environment()
    print(
        "installing modelpress and its dependencies (a few minutes the first time: torch is large)",
        flush=True,
    )
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "--editable", f"{ROOT}{extra}"]).returncode:
        sys.exit("the installation failed; see pip's message above")
    stamp.write_text(wanted)


def pip_works() -> bool:
    """Whether the environment is complete; creating one can be interrupted before pip is installed in it."""
    try:
        done = subprocess.run([str(BIN / executable("pip")), "--version"], capture_output=True, text=True)
    except OSError:
        return False
    return done.returncode == 0 and str(VENV) in done.stdout


def make_environment() -> None:
    if VENV.is_dir() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").is_file():
        sys.exit(
            f"{VENV} is not a virtual environment and was not changed; set MODELPRESS_VENV to another path"
        )
    print(f"creating {VENV}", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.run([sys.executable, "-m", "venv", str(VENV)]).returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit("Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv")


def executable(name: str) -> str:
    return f"{name}.exe" if os.name == "nt" else name


def call(program: str, *arguments: str) -> int:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    environment.setdefault("NO_MKDOCS_2_WARNING", "1")  # mkdocs-material advertises its successor
    return subprocess.run([str(BIN / executable(program)), *arguments], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
