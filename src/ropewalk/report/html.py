"""The one template and its data: a head with a verdict and tiles, sections, and at the end a recipe if there is one.

The page loads nothing and runs nothing: it has no script, no font and no external picture, and a policy that would
refuse them. Only a page that is watched has one script of ours, which asks its server whether the run's files have
changed; the policy allows this script by its digest. The template escapes every word from outside. Only our own
drawings are inserted without escaping.
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
class HeadFigure:
    """A figure at the head of the page: its name, the values before and after, and the target."""

    name: str
    before: str
    after: str
    asked: str
    mark: Mark


@dataclass(frozen=True)
class Page:
    """The contents of a page, top to bottom; ``made_from`` is in its last line."""

    title: str
    what: str
    verdict: str
    verdict_mark: Mark
    tiles: Sequence[HeadFigure]
    summary: Table | None
    sections: Sequence[Section]
    made_from: str
    recipe: str = ""
    live: str = ""
    """The state of the files that a watched page was made from; empty for a page in a file."""


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("ropewalk.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hash": _hash_inline, "drawing": Markup}
    return environment.get_template("page.html").render(vars(page))


def _hash_inline(text: str) -> str:
    """The hash that allows this style sheet or script in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
