"""Generates Chinese encyclopedia volumes about invented regions. Their entries cite each other and agree.

A volume holds a small world of towns, people, buildings, goods, feasts and rivers. The entry of a building repeats the
year and the builder that the entry of its town gave pages before, so a model can predict the later entry from the
earlier one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.core.spec import Spec
from ropewalk.corpus.embedded.grammar import Writer, load_grammar

_TOWNS, _RIVERS, _HILLS = 20, 3, 4
_FIRST_YEAR, _LAST_YEAR = 1120, 1890


class EncyclopediaDocuments(Spec):
    """Options: length of a volume, and whether entries on towns and people get a line of English."""

    characters: tuple[PositiveCount, PositiveCount] = (5_000, 9_000)
    bilingual: bool = False


@dataclass(frozen=True, slots=True)
class Town:
    """A town with its builder, building, goods and feast, and the years of the builder and the building."""

    facts: dict[str, str]
    born: int
    died: int
    built: int


class Compiler:
    """Writes volumes, one after the other, from one random stream."""

    def __init__(self, seed: int) -> None:
        self.rng = stream("embedded", "encyclopedia", seed)
        self.writer = Writer(load_grammar("encyclopedia_zh"), self.rng)

    def compile(self, options: EncyclopediaDocuments) -> tuple[str, str]:
        """Title and text of a volume. Its entries are in random order, up to the drawn length in characters."""
        length = int(self.rng.integers(options.characters[0], options.characters[1] + 1))
        region = self.writer.write("region_front") + self.writer.write("region_kind")
        places = self._make_places(region)
        entries = [(kind, place) for place in places for kind in ("town", "person", "work", "goods", "feast")]
        seen_rivers = {place.facts["river"]: place for place in places}
        entries += [("river", place) for place in seen_rivers.values()]
        lines = [f"{region}百科", ""]
        for i in self.rng.permutation(len(entries)).tolist():
            kind, place = entries[i]
            lines += [self._write_entry(kind, place, bilingual=options.bilingual), ""]
            if sum(map(len, lines)) >= length:
                break
        return f"{region}百科", "\n".join(lines)

    def _unlike(self, rule: str, count: int) -> list[str]:
        names: dict[str, None] = {}
        while len(names) < count:
            names[self.writer.write(rule)] = None
        return list(names)

    def _make_places(self, region: str) -> list[Town]:
        write = self.writer.write
        rivers = [f"{name}河" for name in self._unlike("river_name", _RIVERS)]
        hills = [f"{name}山" for name in self._unlike("hill_name", _HILLS)]
        fronts = [front.split("=") for front in self._unlike("place_front", _TOWNS)]
        people = self._name_people()
        places = []
        for number, (front, english) in enumerate(fronts):
            kind, english_kind = write("town_kind").split("=")
            craft, english_craft = write("person_craft").split("=")
            born = int(self.rng.integers(_FIRST_YEAR, _LAST_YEAR))
            facts = {
                "region": region, "town": front + kind, "kind": kind, "person": people[number],
                "teacher": people[(number + 5) % _TOWNS], "craft": craft, "work": front + write("work_kind"),
                "goods": front + write("goods_name"), "feast": front + write("feast_name"),
                "matter": write("matter_name"), "river": rivers[number % _RIVERS], "hill": hills[number % _HILLS],
                "en_town": english, "en_kind": english_kind, "en_craft": english_craft, "en_region": "the region",
            }  # fmt: skip
            places.append(
                Town(facts, born, born + int(self.rng.integers(41, 90)), born + int(self.rng.integers(24, 40)))
            )
        for place, other in zip(places, [*places[1:], places[0]], strict=True):
            side, english_side = write("direction").split("=")
            far = str(self.rng.integers(6, 140))
            place.facts.update(
                other=other.facts["town"], en_other=other.facts["en_town"], side=side, en_side=english_side, far=far
            )
        return places

    def _name_people(self) -> list[str]:
        surnames, given = self._unlike("person_surname", _TOWNS), self._unlike("person_given", _TOWNS)
        return [a + b for a, b in zip(surnames, given, strict=True)]

    def _write_entry(self, kind: str, place: Town, *, bilingual: bool) -> str:
        """One entry, headed by its name in brackets. Its years are consistent with the facts."""
        first, last = (
            (place.born, place.died) if kind == "person" else (place.built, place.built + place.born % 97 + 30)
        )
        numbers = {"year": str(first), "year2": str(last), "years": str(last % 37 + 3), "built": str(place.built)}
        facts = place.facts | numbers | {"name": place.facts[kind]}
        text = f"【{facts['name']}】{self.writer.write(f'{kind}_entry', facts)}"
        if bilingual and kind in ("town", "person"):
            english = {"town": facts["en_town"], "person": facts["person"]}[kind]
            text += "\n" + self.writer.write(f"english_{kind}", facts | {"en_name": english})
        return text


def write_encyclopedia(options: EncyclopediaDocuments, seed: int) -> Iterator[Document]:
    """Yield volumes without end."""
    compiler, number = Compiler(seed), 0
    while True:
        title, text = compiler.compile(options)
        yield Document(
            text, "encyclopedia_zh", "general", "zh", f"encyclopedia_zh-{seed}-{number}", metadata={"title": title}
        )
        number += 1
