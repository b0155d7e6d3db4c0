"""MkDocs hook: relative links work on the site as they do in the repository.

Pages link to recipes, sources and CHANGELOG.md by relative paths. MkDocs knows only what is in docs/, so
linked files are copied into the site, README.md leads to the front page, and links to directories become
text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}  # pages from outside of docs/
_PLACES = {**PAGES, "README.md": "index.md"}
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside of docs/, and each file of the repository that a page links to."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    linked = set()
    for page in files.documentation_pages():
        for match in _LINK.finditer(page.content_string):
            path = _in_repository(_source(page.src_uri), match["path"])
            if _is_copied(path):
                linked.add(path)
    for path in sorted(linked):
        files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links that leave docs/ at the copies."""
    source = _source(page.file.src_uri)
    parts = _CODE.split(markdown)
    for i in range(0, len(parts), 2):
        parts[i] = _LINK.sub(lambda match: _link(match, source, page.file.src_uri), parts[i])
    return "".join(parts)


def _link(match: re.Match[str], source: str, page: str) -> str:
    path = _in_repository(source, match["path"])
    if (ROOT / path).is_dir():
        return match["text"]
    if path.startswith("docs/"):
        target = path.removeprefix("docs/")
    elif path in _PLACES:
        target = _PLACES[path]
    elif _is_copied(path):
        target = f"repository/{path}"
    else:
        return match[0]  # MkDocs warns
    relative = os.path.relpath(target, PurePosixPath(page).parent)
    return f"[{match['text']}]({quote(relative)}{match['anchor'] or ''})"


def _source(page: str) -> str:
    """Where a page is in the repository."""
    return next((source for source, target in PAGES.items() if target == page), f"docs/{page}")


def _in_repository(source: str, path: str) -> str:
    return os.path.normpath(PurePosixPath(source).parent / path)


def _is_copied(path: str) -> bool:
    outside = not path.startswith(("docs/", "..")) and path not in _PLACES
    return outside and (ROOT / path).is_file()
