"""Runs a model's own chat template as transformers runs it, and finds the text that it marks as generated.

The environment is that of transformers, by its documentation: sandboxed Jinja with loop controls, ``raise_exception``,
``strftime_now`` and ``{% generation %}``. Private-use characters are put around the text of a generation block.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ropewalk.corpus.read.special_token_text import ANSWER_CLOSE, ANSWER_OPEN, any_of

FAILURES = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""The exceptions that a template raises for a conversation that it cannot write."""


def run_template(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    asks: bool = False,
) -> str:
    """Render ``messages`` as text. With ``asks``, the text ends where the next answer begins.

    Raises one of FAILURES where the template cannot write the messages.
    """
    given = {"documents": None, **variables, "add_generation_prompt": asks}
    return str(_compile(source).render(messages=messages, tools=list(tools) or None, **given))


def split_answers(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Remove the marks of answers from a rendered text. Return the text and the spans between the marks."""
    pieces, spans, start, at = [], [], 0, 0
    rest = text
    while rest:
        found = _BORDERS.search(rest)
        piece, border = (rest, "") if found is None else (rest[: found.start()], found[0])
        pieces.append(piece)
        at += len(piece)
        rest = "" if found is None else rest[found.end() :]
        if border == ANSWER_OPEN:
            start = at
        elif border and at > start:
            spans.append((start, at))
    return "".join(pieces), spans


_BORDERS = any_of((ANSWER_OPEN, ANSWER_CLOSE))


class _Generation(Extension):
    """Defines the Jinja block ``{% generation %}``."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{ANSWER_OPEN}{caller()}{ANSWER_CLOSE}"


@lru_cache(maxsize=8)
def _compile(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **how)

    environment.filters["tojson"] = to_json
    # The date is fixed: with the date of today, every day would give another rendering.
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: date(2024, 7, 26).strftime(form)}
    return environment.from_string(source)
