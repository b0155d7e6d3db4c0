"""What is built is what people install: its files, and its command in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A model, data and measurement that are a minute's work at most; what is learnt does not matter here.
QUICK = [
    "model.args.d_model=32",
    "model.args.nhead=4",
    "model.args.num_layers=2",
    "model.args.dim_feedforward=64",
    "model.train.epochs=1",
    "data.train_limit=200",
    "prune/heads.recovery=null",
    "export.min_agreement=0.9",
    "measure.batch=[1]",
    "measure.threads=[1]",
    "measure.rounds=3",
    "measure.seconds=0.01",
]

# What only the [hf] extra brings is as absent as where pip did not install it.
WITHOUT_HF = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("datasets", "pyarrow", "tokenizers", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def _call(*command: str | Path, cwd: Path) -> str:
    """Run a command without this process's own Python settings, and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**environment, "COLUMNS": "200", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-5000:]}"
    return done.stdout


def _build(source: Path, kind: str, directory: Path) -> Path:
    _call(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", directory, cwd=source)
    (built,) = directory.iterdir()
    return built


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def _environment(directory: Path) -> tuple[Path, Path]:
    """Make an empty environment; return its folder of programs and its folder of packages."""
    venv.create(directory, with_pip=True)
    scheme = "nt" if os.name == "nt" else "posix_prefix"
    paths = sysconfig.get_paths(scheme, vars={"base": str(directory), "platbase": str(directory)})
    return Path(paths["scripts"]), Path(paths["purelib"])


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A new environment with the wheel in it; its dependencies are those of the environment of this test."""
    directory = tmp_path_factory.mktemp("environment")
    programs, packages = _environment(directory)
    _call(programs / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=directory)
    # Of a folder that a .pth names the own .pth files, such as an editable modelpress's, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    (packages / "sitecustomize.py").write_text(WITHOUT_HF, encoding="utf-8")
    yield programs, packages
    shutil.rmtree(directory)


def _run_starter(programs: Path, work: Path) -> None:
    """Do what the README's first lines say, and look at what came of it."""
    where = _call(programs / "python", "-c", "import compress; print(compress.__file__)", cwd=work)
    assert Path(where.strip()).is_relative_to(programs.parent), where
    wrote = _call(programs / "modelpress", "init", "demo", cwd=work)
    assert "demo/recipes" in wrote.replace("\\", "/")
    recipe = Path("demo") / "recipes" / "digits" / "prune-heads.yaml"
    printed = _call(programs / "modelpress", "run", recipe, *QUICK, cwd=work)
    bundle = work / "reports" / "digits-prune-heads"
    for name in ("onnx/model.onnx", "manifest.json", "report.json", "report.md", "report.html", "README.md"):
        assert (bundle / name).stat().st_size, f"{name}\n{printed}"
    assert "prune/heads" in _call(programs / "modelpress", "list", cwd=work)
    pages = Path(_call(programs / "modelpress", "docs", "--path", cwd=work).strip())
    assert pages.is_relative_to(programs.parent)
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert _call(programs / "modelpress", "docs", "extending", cwd=work) == page
    assert "digits-prune-heads" in _call(programs / "modelpress", "compare", "reports", cwd=work)


def test_wheel_contains_types_templates_models_recipes_docs_and_one_package(wheel: Path) -> None:
    names = set(_contents(wheel))
    assert "compress/py.typed" in names
    for folder, inside in (
        ("compress/report/templates", "compress/report/templates"),
        ("models", "compress/_starter/models"),
        ("recipes", "compress/_starter/recipes"),
        ("docs", "compress/_docs"),
    ):
        files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file()]
        wanted = {f"{inside}/{file.as_posix()}" for file in files if "__pycache__" not in file.parts}
        assert wanted and wanted <= names, wanted - names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"compress"}
    assert not [name for name in names if "test" in name or name.endswith(".pyc")]


def test_wheel_built_from_the_source_archive_is_the_same(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(_build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        # Python 3.11.0 to 3.11.3 has no filters; 3.12 warns without one.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    assert _contents(_build(source, "wheel", tmp_path / "wheel")) == _contents(wheel)


def test_editable_install_is_a_path_to_the_repository_and_copies_nothing(tmp_path: Path) -> None:
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    _call(sys.executable, "-c", code, cwd=ROOT)
    (editable,) = tmp_path.iterdir()
    contents = _contents(editable)
    outside = {name: text for name, text in contents.items() if ".dist-info/" not in name}
    assert [text.decode().strip() for text in outside.values()] == [str(ROOT)]
    assert all(name.endswith(".pth") for name in outside)


def test_installed_wheel_runs_a_starter_recipe_without_the_hf_extra(
    environment: tuple[Path, Path], tmp_path: Path
) -> None:
    programs, _ = environment
    _run_starter(programs, tmp_path)


@pytest.mark.slow
def test_wheel_and_its_dependencies_in_an_empty_environment_run_a_starter_recipe(
    wheel: Path, tmp_path: Path
) -> None:
    """As `pip install modelpress` is for a user: three minutes and 6 GB, nearly all of it torch from PyPI."""
    programs, packages = _environment(tmp_path / "environment")
    try:
        _call(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
        assert not (packages / "transformers").exists()
        _run_starter(programs, tmp_path)
    finally:
        shutil.rmtree(tmp_path / "environment")
