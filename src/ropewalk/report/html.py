"""The one template and its data: a head with a verdict and tiles, sections, and at the end a recipe if there is one.

Its words are translated here, on the way into the template (core/translate.py).

The page loads nothing and runs nothing: it has no script, no font and no external picture, and a policy that would
refuse them. Only a page that is watched has one script of ours, which asks its server whether the run's files have
changed; the policy allows this script by its digest. The template escapes every word from outside. Only our own
drawings are inserted without escaping.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ropewalk.core.translate import get_language, translate_label, translate_text
from ropewalk.report.section import Section, Strip
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
    environment.filters |= {"hash": _hash_inline, "drawing": Markup, "label": translate_label}
    return environment.get_template("page.html").render(vars(_translate(page)) | {"language": get_language()})


def _translate(page: Page) -> Page:
    """The page in the language that was asked for; names, and the words of documents, stay as they are."""
    tiles = [replace(each, name=translate_text(each.name), asked=translate_label(each.asked)) for each in page.tiles]
    return replace(
        page,
        title=translate_text(page.title),
        what=translate_text(page.what),
        verdict=translate_text(page.verdict),
        tiles=tiles,
        summary=None if page.summary is None else page.summary.translated(),
        sections=[*map(_translate_section, page.sections)],
        made_from=translate_text(f"Written by ropewalk from {page.made_from}."),
    )


def _translate_section(section: Section) -> Section:
    return replace(
        section,
        title=translate_label(section.title),
        lead=translate_text(section.lead),
        tables=[table.translated() for table in section.tables],
        note=translate_text(section.note),
        points=[*map(translate_text, section.points)],
        strips=[*map(_translate_strip, section.strips)],
    )


def _translate_strip(strip: Strip) -> Strip:
    runs = [replace(run, aside=translate_text(run.aside)) for run in strip.runs]
    return replace(strip, title=translate_text(strip.title), runs=runs, more=translate_text(strip.more))


def _hash_inline(text: str) -> str:
    """The hash that allows this style sheet or script in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
