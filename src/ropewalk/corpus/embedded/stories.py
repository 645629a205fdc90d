"""Generates long stories, English and Chinese: people, places, things, and hand-overs that the text repeats much later.

Every story holds a small world: the holder of each thing, and the giver, taker, place and occasion of each hand-over. A
memory late in a story repeats a fact from its beginning, so a model with a short context cannot predict it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.core.spec import Spec
from ropewalk.corpus.embedded.chinese_number import spell_count, spell_digits
from ropewalk.corpus.embedded.grammar import Writer, load_grammar
from ropewalk.probe.prompt import Language

_AN = re.compile(r"\b([Aa]) (?=[aeiou])")
_SENTENCE_START = re.compile(r"(?:^|[.!?] |\.” |“)[a-z]", re.MULTILINE)
PEOPLE, PLACES, THINGS = 8, 10, 14


class StoryDocuments(Spec):
    """Options: a story ends after the first scene that brings it to a length drawn from this range.

    With ``recount``, a last chapter tells every hand-over again, in order: its facts, then its paragraph word by word.
    """

    characters: tuple[PositiveCount, PositiveCount]
    recount: bool = False


class EnglishStories(StoryDocuments):
    """Long enough for 4096 tokens at about three bytes a token."""

    characters: tuple[PositiveCount, PositiveCount] = (15_000, 30_000)


class ChineseStories(StoryDocuments):
    """Long enough for 4096 tokens at about three bytes a token."""

    characters: tuple[PositiveCount, PositiveCount] = (6_000, 12_000)


@dataclass(frozen=True, slots=True)
class Person:
    """A person of a story. The properties stay the same through the whole story."""

    name: str
    woman: bool
    craft: str
    sign: str
    saying: str


@dataclass(slots=True)
class Thing:
    """An object that changes hands. ``holder`` is an index into the people, None before the object first appears."""

    name: str
    mark: str
    number: str
    holder: int | None = None


@dataclass(frozen=True, slots=True)
class Gift:
    """A hand-over: giver, taker, thing, place and occasion."""

    giver: str
    taker: str
    thing: Thing
    place: str
    occasion: str


@dataclass(slots=True)
class Story:
    """A world and the text written about it so far."""

    people: list[Person]
    places: list[str]
    things: list[Thing]
    gifts: list[Gift] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """The paragraph of each hand-over, as ``gifts``."""
    paragraphs: list[str] = field(default_factory=list)
    characters: int = 0


class StoryWriter:
    """Writes stories in one language, one after the other, from one random stream."""

    def __init__(self, language: Language, seed: int, *, purpose: str = "stories") -> None:
        self.language = language
        self.rng = stream("embedded", purpose, language, seed)
        self.writer = Writer(
            load_grammar(*(f"stories_{language}{part}" for part in ("", "_scenes", "_more"))), self.rng
        )

    def tell(self, characters: tuple[int, int], *, recount: bool = False) -> Story:
        """A whole story. Its length in characters is drawn from the range ``characters``, without the recount."""
        story = self._make_world()
        length = int(self.rng.integers(characters[0], characters[1] + 1))
        scene = 0
        while story.characters < length:
            self._tell_scene(story, scene)
            scene += 1
        if recount:
            self._recount(story, chapter=(scene + 3) // 4 + 1)
        facts = self._facts(story, self._cast(story), 0)
        self._add(story, [self.writer.write("end", facts)])
        return story

    def _make_world(self) -> Story:
        write = self.writer.write
        people: list[Person] = []
        while len(people) < PEOPLE:
            woman = bool(self.rng.random() < 0.5)
            name = write("woman" if woman else "man")
            if not _clashes(name, [person.name for person in people]):
                sign = write("sign_of", _pronouns(self.language, woman))
                people.append(Person(name, woman, write("craft_name"), sign, write("maxim")))
        places: list[str] = []
        while len(places) < PLACES:
            if not _clashes(place := write("place"), places):
                places.append(place)
        names = list(dict.fromkeys(f"{write('stuff')}{self._space}{write('noun')}" for _ in range(THINGS)))
        numbers = self.rng.choice(np.arange(11, 990), size=len(names), replace=False).tolist()
        things = [
            Thing(name, write("thing_mark"), self._number(number)) for name, number in zip(names, numbers, strict=True)
        ]
        return Story(people, places, things)

    @property
    def _space(self) -> str:
        return " " if self.language == "en" else ""

    def _number(self, number: int) -> str:
        return str(number) if self.language == "en" else spell_digits(number)

    def _cast(self, story: Story) -> list[int]:
        return [int(i) for i in self.rng.permutation(len(story.people))[:3]]

    def _facts(self, story: Story, cast: list[int], thing: int) -> dict[str, str]:
        """The facts of a scene, under the names that the grammar uses."""
        first, second, third = (story.people[i] for i in cast)
        here, there = self.rng.permutation(len(story.places))[:2].tolist()
        facts = {
            "A": first.name, "B": second.name, "C": third.name,
            "craft": first.craft, "sign": first.sign, "saying": first.saying,
            "bcraft": second.craft, "bsign": second.sign, "bsaying": second.saying,
            "P": story.places[here], "Q": story.places[there],
            "O": story.things[thing].name, "mark": story.things[thing].mark, "num": story.things[thing].number,
            "N": self.writer.write("occasion"),
        }  # fmt: skip
        facts |= _pronouns(self.language, first.woman)
        return facts | {f"b{name}": word for name, word in _pronouns(self.language, second.woman).items()}

    def _tell_scene(self, story: Story, number: int) -> None:
        cast = self._cast(story)
        held = [i for i, thing in enumerate(story.things) if thing.holder == cast[0]]
        unseen = [i for i, thing in enumerate(story.things) if thing.holder is None]
        choice = held if held and (not unseen or self.rng.random() < 0.6) else unseen
        thing = choice[int(self.rng.integers(len(choice)))] if choice else None
        facts = self._facts(story, cast, thing or 0)
        if number % 4 == 0:
            self._add(story, [_heading(self.language, number // 4 + 1, self.writer.write("chapter", facts))])
        self._add(story, self._write(facts, "setting", 2, 4))
        self._add(story, self._write(facts, "arrive", 1, 2) + self._write(facts, "deed", 1, 2))
        for _ in range(int(self.rng.integers(1, 4))):
            self._add(story, self._write(facts, "talk", 1, 2))
        if story.gifts:
            self._add(story, [self._remember(story, facts), *self._write(facts, "reflect", 1, 3)])
        self._add(story, self._write(facts, "deed", 2, 4))
        if thing is not None:
            self._hand_over(story, cast, facts, story.things[thing])
        self._add(story, self._write(facts, "reflect", 0, 2) + self._write(facts, "leave", 1, 3))

    def _write(self, facts: Mapping[str, str], rule: str, fewest: int, most: int) -> list[str]:
        return [self.writer.write(rule, facts) for _ in range(int(self.rng.integers(fewest, most + 1)))]

    def _remember(self, story: Story, facts: dict[str, str]) -> str:
        gift = story.gifts[int(self.rng.integers(len(story.gifts)))]
        return self.writer.write("memory", facts | _facts_of(gift))

    def _recount(self, story: Story, *, chapter: int) -> None:
        self._add(story, [_heading(self.language, chapter, self.writer.write("recount_title"))])
        for gift, paragraph in zip(story.gifts, story.told, strict=True):
            self._add(story, [self.writer.write("recount", _facts_of(gift))])
            self._add(story, [paragraph])

    def _hand_over(self, story: Story, cast: list[int], facts: dict[str, str], thing: Thing) -> None:
        sentences = []
        if thing.holder is None:
            sentences.append(self.writer.write("first_sight", facts))
        sentences.append(self.writer.write("give", facts))
        thing.holder = cast[1]
        story.gifts.append(Gift(facts["A"], facts["B"], thing, facts["P"], facts["N"]))
        self._add(story, sentences + self._write(facts, "talk", 0, 1))
        story.told.append(story.paragraphs[-1])

    def _add(self, story: Story, sentences: list[str]) -> None:
        if sentences:
            story.paragraphs.append(self._space.join(sentences))
            story.characters += len(story.paragraphs[-1]) + 2

    def finish(self, story: Story) -> str:
        """The text of a story, with corrected articles (a, an) and capitals."""
        text = "\n\n".join(story.paragraphs) + "\n"
        if self.language == "en":
            text = _AN.sub(r"\1n ", text)
            text = _SENTENCE_START.sub(lambda found: found[0][:-1] + found[0][-1].upper(), text).replace("'", "’")
        return text


def write_stories(language: Language, options: StoryDocuments, seed: int) -> Iterator[Document]:
    """Yield stories without end."""
    # With a recount the stories are other ones, so that none begins like a story of the same seed without it.
    teller = StoryWriter(language, seed, purpose="stories with recount" if options.recount else "stories")
    source, number = f"stories_{language}", 0
    while True:
        story = teller.tell(options.characters, recount=options.recount)
        yield Document(teller.finish(story), source, "general", language, f"{source}-{seed}-{number}")
        number += 1


def _facts_of(gift: Gift) -> dict[str, str]:
    """A hand-over under the names that the grammar uses for a past one."""
    told = {"G": gift.giver, "T": gift.taker, "M": gift.thing.name, "W": gift.place, "N": gift.occasion}
    return told | {"mmark": gift.thing.mark, "mnum": gift.thing.number}


def _pronouns(language: Language, woman: bool) -> dict[str, str]:
    if language == "en":
        return dict(zip(("he", "him", "his"), ("she", "her", "her") if woman else ("he", "him", "his"), strict=True))
    return {"he": "她" if woman else "他"}


def _clashes(name: str, others: list[str]) -> bool:
    """Whether one name contains another, which would give a question about it two answers."""
    return any(name in other or other in name for other in others)


def _heading(language: Language, number: int, title: str) -> str:
    if language == "en":
        return f"Chapter {number}. {title}"
    return f"第{spell_count(number)}章　{title}"
