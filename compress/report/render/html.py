"""A page as one HTML file that needs no network and no fonts; its only script sorts tables."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from compress.page import Page
from compress.page.format import capital
from compress.safe_text import visible

__all__ = ["page_html"]


def _visible(value: Any) -> Any:
    """Finalizer of each `{{ }}`; Markup is ours, and its text has passed through here or `to_svg`."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    # Escape in every template, whatever its name: names come from other people's files.
    environment = Environment(
        loader=PackageLoader("compress.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["first_up"] = capital
    return environment


@cache
def _script() -> dict[str, Markup | str]:
    """The pages' only script, and the hash that allows it and no other."""
    text = (files("compress.report") / "templates" / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "script_hash": f"sha256-{digest}"}


def page_html(page: Page) -> str:
    """Render the page."""
    return _environment().get_template("page.html.j2").render(page=page, **_script())
