"""Generates Chinese statutes: definitions, duties and bans by article, and penalties that cite and repeat them later.

To predict the chapter on liability, a model must use the articles that it cites: a breach repeats the duty word by
word, with the number of its article. Every topic, term and article is invented.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.core.spec import Spec
from ropewalk.corpus.embedded.chinese_number import spell_count, spell_digits
from ropewalk.corpus.embedded.grammar import Writer, load_grammar

_GENERAL, _LIABILITY, _CLOSING = "总则", "法律责任", "附则"
_SHARE_OF_LIABILITY = 0.3
_MOST_CHAPTERS = 20


class StatuteDocuments(Spec):
    """Options: a statute has about so many characters, drawn from this range."""

    characters: tuple[PositiveCount, PositiveCount] = (5_000, 9_000)


@dataclass(frozen=True, slots=True)
class Rule:
    """An article that can be broken: its number, and the breach in the words of the article."""

    article: int
    breach: str


@dataclass(slots=True)
class Statute:
    """A statute in progress."""

    facts: dict[str, str]
    terms: dict[str, str]
    articles: int = 0
    rules: list[Rule] = field(default_factory=list)
    chapters: list[tuple[str, list[str]]] = field(default_factory=list)

    @property
    def characters(self) -> int:
        """Number of characters of all articles."""
        return sum(len(text) + 1 for _, texts in self.chapters for text in texts)


class Drafter:
    """Writes statutes, one after the other, from one random stream."""

    def __init__(self, seed: int) -> None:
        self.rng = stream("embedded", "statutes", seed)
        self.writer = Writer(load_grammar("statutes_zh"), self.rng)

    def draft(self, characters: tuple[int, int]) -> tuple[str, str]:
        """Title and text of a statute. Its length in characters is drawn from the range ``characters``."""
        length = int(self.rng.integers(characters[0], characters[1] + 1))
        statute = self._open()
        while statute.characters < length * (1 - _SHARE_OF_LIABILITY):
            self._write_chapter(statute)
        self._write_liability(statute)
        self._write_closing(statute)
        return statute.facts["title"], self._print(statute)

    def _open(self) -> Statute:
        write = self.writer.write
        topic, kind = write("topic"), write("kind")
        place = write("place_front") + write("place_kind")
        facts = {"X": topic, "place": place, "title": f"{place}{topic}{kind}", "self": f"本{kind[-2:]}"}
        facts |= {"organ_full": write("organ_name", facts), "organ": write("organ_short")}
        terms: dict[str, str] = {}
        while len(terms) < 6:
            terms[write("term_name", facts)] = write("meaning_of", facts)
        statute = Statute(facts, terms)
        statute.chapters.append((_GENERAL, []))
        self._add(statute, write("purpose", facts | self._who(statute)))
        self._add(statute, write("scope", facts))
        for term, meaning in terms.items():
            self._add(statute, write("define", facts | {"term": term, "meaning": meaning}))
        self._add(statute, write("authority", facts))
        self._add(statute, write("principles", facts))
        return statute

    def _who(self, statute: Statute) -> dict[str, str]:
        names = list(statute.terms)
        return {
            "who": self.writer.write("who_name", statute.facts),
            "term": names[int(self.rng.integers(len(names)))],
        }

    def _add(self, statute: Statute, text: str) -> None:
        statute.articles += 1
        statute.chapters[-1][1].append(f"第{spell_count(statute.articles)}条　{text}")

    def _cite(self, statute: Statute, article: int | None = None) -> str:
        number = article or int(self.rng.integers(1, statute.articles + 1))
        return f"{statute.facts['self']}第{spell_count(number)}条"

    def _write_chapter(self, statute: Statute) -> None:
        used = {name for name, _ in statute.chapters}
        name = self.writer.write("chapter_name")
        while name in used and len(used) < _MOST_CHAPTERS:
            name = self.writer.write("chapter_name")
        statute.chapters.append((name, []))
        for _ in range(int(self.rng.integers(6, 15))):
            facts = statute.facts | self._who(statute) | {"ref": self._cite(statute)}
            draw = self.rng.random()
            if draw < 0.45:
                self._oblige(statute, facts, rule="duty_article", duty=self.writer.write("act", facts), prefix="未")
            elif draw < 0.65:
                self._oblige(statute, facts, rule="ban_article", duty=self.writer.write("ban", facts), prefix="")
            else:
                self._add(statute, self.writer.write("other_article", facts))

    def _oblige(self, statute: Statute, facts: Mapping[str, str], *, rule: str, duty: str, prefix: str) -> None:
        self._add(statute, self.writer.write(rule, {**facts, "duty": duty}))
        statute.rules.append(Rule(statute.articles, f"{prefix}{duty}"))

    def _write_liability(self, statute: Statute) -> None:
        statute.chapters.append((_LIABILITY, []))
        chosen = sorted(self.rng.permutation(len(statute.rules))[: max(3, len(statute.rules) * 2 // 3)].tolist())
        for number in chosen:
            rule = statute.rules[number]
            cited = {"ref_breach": self._cite(statute, rule.article), "breach": rule.breach}
            self._add(statute, self.writer.write("penalty", statute.facts | self._who(statute) | cited))
        self._add(statute, self.writer.write("misconduct", statute.facts | {"ref": self._cite(statute)}))

    def _write_closing(self, statute: Statute) -> None:
        statute.chapters.append((_CLOSING, []))
        for _ in range(2):
            self._add(statute, self.writer.write("closing", statute.facts | {"ref": self._cite(statute)}))
        self._add(statute, f"{statute.facts['self']}自{self._date()}起施行。")

    def _date(self) -> str:
        year, month, day = (int(self.rng.integers(low, high)) for low, high in ((1985, 2026), (1, 13), (1, 29)))
        return f"{spell_digits(year)}年{spell_count(month)}月{spell_count(day)}日"

    def _print(self, statute: Statute) -> str:
        place, session = statute.facts["place"], spell_count(int(self.rng.integers(2, 60)))
        names = [f"第{spell_count(i)}章　{name}" for i, (name, _) in enumerate(statute.chapters, start=1)]
        lines = [
            statute.facts["title"],
            f"（{self._date()}{place}人民代表大会常务委员会第{session}次会议通过）",
            "",
            "目　录",
            *names,
        ]
        for name, (_, texts) in zip(names, statute.chapters, strict=True):
            lines += ["", name, "", *texts]
        return "\n".join(lines) + "\n"


def write_statutes(options: StatuteDocuments, seed: int) -> Iterator[Document]:
    """Yield statutes without end."""
    drafter, number = Drafter(seed), 0
    while True:
        title, text = drafter.draft(options.characters)
        yield Document(text, "statutes_zh", "domain", "zh", f"statutes_zh-{seed}-{number}", metadata={"title": title})
        number += 1
