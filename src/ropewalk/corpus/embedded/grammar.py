"""A small grammar of texts: named rules, each a list of productions with slots for facts or other rules.

Productions are drawn like cards: a rule repeats one only after it has used all others, so a long text uses all of its
productions. The rules are in the text files under words/, where people can edit them.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files

import numpy as np

_SLOT = re.compile(r"\{(\w+)\}")
_DEALT_AT_ONCE = 256
Production = str | tuple[tuple[str, str], ...]
"""Plain text, or parts of text, each with the slot that follows it ("" for none)."""


class Grammar:
    """The rules of some files. Every slot is a rule or a declared fact. ``[+rule]`` adds productions to a rule."""

    def __init__(self, text: str) -> None:
        self.facts: frozenset[str] = frozenset()
        self.rules: dict[str, tuple[Production, ...]] = {}
        name, bodies = "", dict[str, list[str]]()
        for line in text.splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            if line.startswith("facts:"):
                self.facts = self.facts | set(line.removeprefix("facts:").split())
            elif line.startswith("["):
                name, adds = line.strip("[]+ "), line.startswith("[+")
                assert adds == (name in bodies), f"the rule {name} stands twice, or [+{name}] before it"
                bodies.setdefault(name, [])
            else:
                bodies[name] += (piece.strip() for piece in line.split("|") if piece.strip())
        self.rules = {name: tuple(map(_compile, body)) for name, body in bodies.items()}
        slots = {slot for body in bodies.values() for text in body for slot in _SLOT.findall(text)}
        assert slots <= self.facts | set(self.rules), f"slots without a rule: {slots - self.facts - set(self.rules)}"
        assert not self.facts & set(self.rules), f"both fact and rule: {self.facts & set(self.rules)}"
        assert all(self.rules.values()), "a rule without a production"


def _compile(text: str) -> Production:
    pieces = _SLOT.split(text)
    return text if len(pieces) == 1 else tuple(zip(pieces[::2], [*pieces[1::2], ""], strict=True))


@cache
def load_grammar(*names: str) -> Grammar:
    """The grammar in ``words/NAME.txt``. Several names are read as one file."""
    folder = files("ropewalk.corpus.embedded") / "words"
    return Grammar("\n".join((folder / f"{name}.txt").read_text("utf-8") for name in names))


class Writer:
    """Writes texts of one grammar. The next text depends on the random stream and on the productions drawn before."""

    def __init__(self, grammar: Grammar, rng: np.random.Generator) -> None:
        self.grammar, self.rng = grammar, rng
        self._decks: dict[str, list[Production]] = {name: [] for name in grammar.rules}

    def write(self, rule: str, facts: Mapping[str, str] | None = None) -> str:
        """One text of a rule. Slots are looked up in ``facts`` first."""
        pieces: list[str] = []
        self._expand(rule, facts or {}, pieces.append)
        return "".join(pieces)

    def _expand(self, rule: str, facts: Mapping[str, str], add: Callable[[str], None]) -> None:
        production = (self._decks[rule] or self._deal(rule)).pop()
        if isinstance(production, str):
            add(production)
            return
        for text, slot in production:
            add(text)
            if slot:
                fact = facts.get(slot)
                if fact is None:
                    self._expand(slot, facts, add)
                else:
                    add(fact)

    def _deal(self, rule: str) -> list[Production]:
        productions = self.grammar.rules[rule]
        rounds = -(-_DEALT_AT_ONCE // len(productions))
        order = self.rng.permuted(np.tile(np.arange(len(productions)), (rounds, 1)), axis=1)
        self._decks[rule] = [productions[i] for i in order.ravel().tolist()]
        return self._decks[rule]
