"""The one template, and what it is given: a head with a verdict and tiles, sections, and at the end a recipe if any.

The page loads nothing and runs nothing: no script, no font, no picture from elsewhere, and a policy that would refuse
them. Every word that comes from outside is escaped by the template; only our own drawings go in as they are.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ropewalk.report.section import Section
from ropewalk.report.table import Mark, Table


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure at the head of the page: what it is, before, after, what was asked."""

    name: str
    before: str
    after: str
    asked: str
    mark: Mark


@dataclass(frozen=True)
class Page:
    """What one page says, top to bottom. ``made_from`` is told in its last line."""

    title: str
    what: str
    verdict: str
    verdict_mark: Mark
    tiles: Sequence[Tile]
    summary: Table | None
    sections: Sequence[Section]
    made_from: str
    recipe: str = ""


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("ropewalk.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hash": _hash_style, "drawing": Markup}
    return environment.get_template("page.html").render(vars(page))


def _hash_style(style: str) -> str:
    """How a content security policy names this very style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode()
