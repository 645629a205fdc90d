"""The grammar engine: slots, dealing, and word lists in which every rule is used."""

import re
from collections import Counter

import pytest

from ropewalk.core.seed import stream
from ropewalk.corpus.embedded.chinese_number import spell_count, spell_digits
from ropewalk.corpus.embedded.grammar import Grammar, Writer, load_grammar

FILES = [
    ("stories_en", "stories_en_scenes", "stories_en_more"),
    ("stories_zh", "stories_zh_scenes", "stories_zh_more"),
    ("statutes_zh",),
    ("encyclopedia_zh",),
    ("questions_en",),
    ("questions_zh",),
]


def test_slots_are_facts_first_and_rules_second() -> None:
    writer = Writer(Grammar("facts: A\n[greet]\nhello {A}, {bye}\n[bye]\ngood night | see you"), stream("test"))
    assert {writer.write("greet", {"A": "Ada"}) for _ in range(9)} == {"hello Ada, good night", "hello Ada, see you"}


def test_a_rule_repeats_nothing_before_all_was_dealt() -> None:
    writer = Writer(Grammar("[n]\n1|2|3|4|5|6|7"), stream("test"))
    for _ in range(100):
        assert sorted(writer.write("n") for _ in range(7)) == list("1234567")


@pytest.mark.parametrize("text", ["[a]\n{b}", "[a]\nx\n[a]\ny", "[a]", "facts: a\n[a]\nx", "[+a]\nx"])
def test_a_broken_word_list_is_found_when_it_is_read(text: str) -> None:
    with pytest.raises(AssertionError):
        Grammar(text)


@pytest.mark.parametrize("names", FILES, ids=lambda names: names[0])
def test_word_lists_hold_no_doubles(names: tuple[str, ...]) -> None:
    for name, productions in load_grammar(*names).rules.items():
        texts = Counter(str(production) for production in productions)
        # A production may stand several times where it should come more often; single words never.
        assert not [text for text, count in texts.items() if count > 1 and "{" not in text and "(" not in text], name


@pytest.mark.parametrize("names", FILES, ids=lambda names: names[0])
def test_brackets_and_quotes_of_every_production_match(names: tuple[str, ...]) -> None:
    for name, productions in load_grammar(*names).rules.items():
        for production in productions:
            text = production if isinstance(production, str) else "".join(a + "x" for a, _ in production)
            assert text.count("“") == text.count("”") and text.count("（") == text.count("）"), (name, text)
            assert not re.search(r"[{}\[\]]", text), (name, text)


def test_numbers_are_spelled_as_in_statutes() -> None:
    spelled = {
        1: "一",
        10: "十",
        12: "十二",
        20: "二十",
        101: "一百零一",
        110: "一百一十",
        111: "一百一十一",
        1005: "一千零五",
    }
    assert {number: spell_count(number) for number in spelled} == spelled
    assert spell_digits(2024) == "二〇二四"
