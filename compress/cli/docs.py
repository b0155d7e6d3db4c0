"""`modelpress docs`: the documentation in the terminal."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.common import echo
from compress.errors import OutputError, Problem, UnknownNameError, did_you_mean, nearest_name, shortened

__all__ = ["docs", "docs_folder", "docs_pages"]

_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)\.md(?:#[^)\s]*)?\)")


def docs(
    page: Annotated[
        str | None,
        typer.Argument(metavar="PAGE", help="Page to read, such as tutorial. Omit it to list all."),
    ] = None,
    path: Annotated[bool, typer.Option("--path", help="Print the directory of the documentation.")] = False,
) -> None:
    """Read the documentation in the terminal."""
    folder = docs_folder()
    if path:
        echo(str(folder), as_data=True)
    elif page is None:
        _list(folder)
    else:
        _read(folder, _page_named(page, docs_pages(folder)))


def docs_folder() -> Path:
    """Directory of the Markdown pages: in a wheel compress/_docs, in a clone docs/.

    Raises:
        OutputError: the installation lacks it.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_docs", package.parent / "docs"):
        if any(folder.glob("*.md")):
            return folder
    raise OutputError(f"the documentation is missing beside {package}; install modelpress again")


def docs_pages(folder: Path) -> list[str]:
    """Names of all pages, such as how-to/quantize: the top level first, an index before its pages."""
    found = [file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.md")]
    return sorted(
        found, key=lambda name: (name.count("/"), posixpath.dirname(name), name != _index(name), name)
    )


def _index(name: str) -> str:
    return posixpath.join(posixpath.dirname(name), "index")


def _page_named(word: str, pages: Sequence[str]) -> str:
    """The page that a word names: its name, the end of its name if unique, or a folder with an index.

    Raises:
        UnknownNameError: no page, or several.
    """
    name = word.removesuffix(".md").strip("/").removeprefix("docs/")
    for exact in (name, posixpath.join(name, "index")):
        if exact in pages:
            return exact
    ends = [page for page in pages if posixpath.basename(page) == name]
    if len(ends) == 1:
        return ends[0]
    near = nearest_name(name, ends or pages)
    hint = f"; it is {' or '.join(ends)}" if ends else did_you_mean(name, pages)
    raise UnknownNameError(
        Problem(
            f"no page '{shortened(word)}' in the documentation{hint}",
            value=word,
            allowed=tuple(ends or pages),
            nearest=near,
            unknown_name=True,
        )
    )


def _list(folder: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from compress.cli.console import console

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    last = ""
    for name in docs_pages(folder):
        if posixpath.dirname(name) != last:
            last = posixpath.dirname(name)
            table.add_row()
        table.add_row(name, Text(_title(folder / f"{name}.md")))
    console.print(table)
    console.print(Text("\nTo read one: modelpress docs PAGE", style="dim"))


def _title(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    title = next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")
    return title.replace("`", "")


def _read(folder: Path, name: str) -> None:
    """Print a page: plain Markdown in a pipe or file, formatted and paged on a terminal."""
    from compress.cli.console import console

    text = _COMMENT.sub("", (folder / f"{name}.md").read_text(encoding="utf-8"))
    if not console.is_terminal:
        echo(text, nl=False, as_data=True)
        return
    from rich.markdown import Markdown

    page = Markdown(_with_page_names(text, name), hyperlinks=False)
    os.environ.setdefault("LESS", "FRX")  # quit if one screen is enough, pass colours through
    with console.pager(styles=True):
        console.print(page)


def _with_page_names(text: str, name: str) -> str:
    """Replace links between pages by the names that this command takes."""

    def named(link: re.Match[str]) -> str:
        return f"]({posixpath.normpath(posixpath.join(posixpath.dirname(name), link[1]))})"

    return _LINK.sub(named, text)
