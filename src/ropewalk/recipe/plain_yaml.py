"""Parses YAML as plain data, without its traps: a duplicate key is an error, and no object is ever constructed.

YAML's own error messages use grammar terms. The cause is nearly always one of a few common mistakes, so the errors here
name these.
"""

import re
from typing import Any

import yaml

from ropewalk.core.error import UserError
from ropewalk.core.translate import keep

_MERGE = "tag:yaml.org,2002:merge"
_TWICE = re.compile("given twice")
_CURES = (
    (_TWICE, "keep one of the two"),
    (re.compile("\\\\t"), "YAML is indented by spaces: replace the tab by spaces"),
    (
        re.compile("mapping values are not allowed"),
        "put quotes around a value that contains ': ', and indent all keys of a mapping equally",
    ),
    (
        re.compile("could not find expected ':'"),
        "write `key: value`, with a space after the colon; put quotes around a text of several lines",
    ),
    (re.compile("unexpected end of stream"), "close the open quotes or the open bracket"),
    (re.compile("quoted scalar"), "close the open quotes"),
    (re.compile("expected ',' or"), "close the bracket, or put a comma between its entries"),
    (
        re.compile("expected <block end>"),
        "indent all entries of a list or mapping equally, and begin a list with `- ` or with [",
    ),
    (re.compile("cannot start any token"), "put quotes around a value that begins with this character"),
    (re.compile("undefined alias"), "define the anchor (&name) before you use it (*name)"),
    (re.compile("could not determine a constructor"), "remove the !tag: a recipe is plain data"),
    (re.compile("expected alphabetic or numeric"), "put quotes around a value that begins with & or *"),
)


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that refuses a duplicate key; YAML itself keeps the last one."""


def _construct_mapping(loader: _PlainLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue  # ``<<`` merges another mapping, and its keys are meant to be overridden
        key = str(loader.construct_object(key_node))
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_PlainLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse ``text`` as plain data. Raises UserError with line, column and a fix; ``where`` is the file."""
    try:
        # _PlainLoader is a SafeLoader: no object is ever constructed.
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        problem = str(error.problem)
        why = problem if _TWICE.search(problem) else keep(problem)  # PyYAML's words have no translation
        raise UserError("this is not YAML", where=place, why=why, fix=_cure(error)) from None
    except yaml.YAMLError as error:
        raise UserError(
            "this is not YAML", where=where, why=keep(str(error)), fix="remove the part that the reason names"
        ) from None
    except (ValueError, RecursionError) as error:  # a date such as 2024-13-01, or brackets without end
        raise UserError(
            "this is not YAML", where=where, why=keep(str(error)), fix="put quotes around that value"
        ) from None


def _cure(error: yaml.MarkedYAMLError) -> str:
    told = f"{error.context} {error.problem}"
    return next((cure for sign, cure in _CURES if sign.search(told)), "correct that line")
