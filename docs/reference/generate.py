"""Pages of the reference that are made from the code when the site is built: the command line and the Python API.

MkDocs calls ``on_files`` before it reads any page. The pages exist in the built site alone, so they cannot be out of
date. It calls ``on_page_markdown`` for each page: the name of a page in its text (docs/study.md) becomes a link.
"""

import posixpath
import re
from collections.abc import Iterator
from html import escape
from inspect import cleandoc, isclass, isfunction, ismodule
from types import ModuleType
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import ropewalk
from ropewalk.cli.main import app

_TOP = "This page is for people who call ropewalk from the command line. It is made from the code.\n"
_NAMED = re.compile(
    r"^ *```.*?^ *```$|`[^`\n]+`|\[[^\]]*\]\([^)]*\)|\bdocs/(?P<page>[\w./-]+\.md)", re.MULTILINE | re.DOTALL
)
"""A block of code, code in a line and a link, which stay as they are, or the name of a page."""
_API = "This page is for people who call ropewalk from Python. It is made from the code.\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    files.append(File.generated(config, "reference/cli.md", content="\n".join(_command_line())))
    files.append(File.generated(config, "reference/api.md", content="\n".join(_api())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn ``docs/NAME.md`` outside of code into a link to that page. The name of a missing page stays text."""
    folder = posixpath.dirname(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        name = found["page"]
        if name is None or files.get_file_from_path(name) is None:
            return found[0]
        return f"[{posixpath.basename(name).removesuffix('.md')}]({posixpath.relpath(name, folder or '.')})"

    return _NAMED.sub(link, markdown)


def _command_line() -> Iterator[str]:
    yield f"# Command line\n\n{_TOP}"
    yield from _describe(typer.main.get_command(app), "ropewalk")


def _describe(command: Any, path: str) -> Iterator[str]:
    """A command as a section; the commands of a group, one after the other."""
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from _describe(child, f"{path} {name}")
    if children:
        return
    context = command.context_class(command, info_name=path)
    yield f"## {path}\n\n{command.help}\n\n```\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [f"| <code>{_cell(name)}</code> | {_cell(meaning)} |" for name, meaning in filter(None, records)]
    yield "\n".join(["| argument | meaning |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    """Text that stands in one cell of a table, as HTML."""
    return escape(text).replace("|", "&#124;").replace("[", "&#91;").replace("\n", " ")


def _api() -> Iterator[str]:
    """The names that ropewalk exports, then those of its rooms; a name stands once, where it is exported first."""
    yield f"# Python API\n\n{_API}"
    shown: set[str] = set()
    for package in _list_packages(ropewalk):
        yield f"## {package.__name__}\n\n{cleandoc(package.__doc__ or '')}\n"
        for name in getattr(package, "__all__", ()):
            found = getattr(package, name)
            if (isclass(found) or isfunction(found)) and (path := f"{found.__module__}.{name}") not in shown:
                shown.add(path)
                yield f"::: {path}\n    options:\n      heading_level: 3\n"


def _list_packages(package: ModuleType) -> Iterator[ModuleType]:
    """A package, then the packages that it exports."""
    yield package
    for name in getattr(package, "__all__", ()):
        if ismodule(inner := getattr(package, name)):
            yield from _list_packages(inner)
