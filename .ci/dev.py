"""Everything a fresh machine needs, with Python's own library alone: make .venv, install, and do one thing.

    python3 .ci/dev.py demo       the main job on the embedded digits: four recipes, four bundles, one comparison
    python3 .ci/dev.py test       ruff, mypy, lint-imports and the tests; what CI runs
    python3 .ci/dev.py reference  remake reports/reference from the shipped recipes

Safe to repeat: an environment that fits pyproject.toml already is used as it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("MODELPRESS_VENV", ROOT / ".venv"))
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
DEMO = ["prune-heads", "quantize-int8", "distill", "joint"]


def main() -> int:
    jobs = {"demo": demo, "test": test, "reference": reference}
    if len(sys.argv) < 2 or sys.argv[1] not in jobs:
        print(__doc__)
        return 2
    return jobs[sys.argv[1]](sys.argv[2:])


def demo(arguments: list[str]) -> int:
    install("")
    recipes = [str(Path("recipes") / "digits" / f"{name}.yaml") for name in DEMO]
    return call("modelpress", "run", *recipes, *arguments)


def test(arguments: list[str]) -> int:
    install("[dev]")
    if arguments:  # e.g. `test -m slow tests/recipes`: the tests alone
        return call("python", "-m", "pytest", *arguments)
    checks = [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("lint-imports",),
        ("python", "-m", "pytest", "-q", "--durations=10"),
    ]
    for check in checks:
        print(f"== {' '.join(check)}", flush=True)
        code = call(*check)
        if code:
            return code
    return 0


def reference(arguments: list[str]) -> int:
    """Run the digits recipes and keep their reports, without weights."""
    install("")
    recipes = sorted((ROOT / "recipes" / "digits").glob("*.yaml"))
    scratch = ROOT / "reports" / ".reference"
    names = [str(path.relative_to(ROOT)) for path in recipes]
    code = call("modelpress", "run", *names, "-o", str(scratch), *arguments)
    if code:
        return code
    for recipe in recipes:
        name = f"digits-{recipe.stem}"
        target = ROOT / "reports" / "reference" / name
        target.mkdir(parents=True, exist_ok=True)
        for kept in ("report.json", "report.md", "report.html"):
            shutil.copyfile(scratch / name / kept, target / kept)
    return call("modelpress", "compare", "reports/reference")


def install(extra: str) -> None:
    """Make the environment, or use the one that fits: a stamp holds what was installed from which pyproject."""
    if sys.version_info < (3, 11):
        sys.exit(f"modelpress needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    stamp = VENV / f"installed{extra.strip('[]')}.sha256"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if not (BIN / executable("python")).exists():
        print(f"making {VENV}", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(VENV, ignore_errors=True)
            sys.exit("Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv")
    print("installing (torch is large: minutes the first time)", flush=True)
    pip = [str(BIN / executable("python")), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    code = subprocess.run([*pip, "--editable", f"{ROOT}{extra}"]).returncode
    if code:
        sys.exit("the installation failed; pip's message stands above")
    stamp.write_text(wanted)


def executable(name: str) -> str:
    return f"{name}.exe" if os.name == "nt" else name


def call(program: str, *arguments: str) -> int:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        return subprocess.run([str(BIN / executable(program)), *arguments], cwd=ROOT, env=environment).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
