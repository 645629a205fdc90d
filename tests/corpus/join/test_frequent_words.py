"""The frequent words of a text are those of a slow search that reads it word by word and counts substrings."""

import random
import re
from collections import Counter, defaultdict
from itertools import islice

import pytest

from made_texts import WORDS, han
from ropewalk.corpus.join.frequent_words import FEWEST, MOST, TERMS, find_frequent_words, find_han_words

ODD = ["'", "’", "-", "_", " ", "\n", "é", "ï", "x", "9", "\u0130", "\u212a", ".", "中", "İstanbul", "Kelvin"]


def choose(found: dict[str, list[int]], text: str) -> dict[str, list[int]]:
    folded = text.lower()
    order = sorted(found, key=lambda word: (-len(found[word]), word))
    alone = (word for word in order if folded.count(word.lower()) == len(found[word]))
    return {word: found[word] for word in islice(alone, TERMS)}


def find_slowly(text: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for match in re.finditer(r"(?<!\w)[A-Za-z_][A-Za-z0-9_'’-]*(?!\w)", text):
        found[match[0]].append(match.start())
    return choose({word: at for word, at in found.items() if len(word) >= 5 and FEWEST <= len(at) <= MOST}, text)


def find_han_slowly(text: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    beside: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for match in re.finditer("[\u4e00-\u9fff]{2,}", text):
        run = match[0]
        for size in (2, 3, 4):
            for at in range(len(run) - size + 1):
                word = run[at : at + size]
                found[word].append(match.start() + at)
                beside[word][0].add(run[at - 1] if at else "")
                beside[word][1].add(run[at + size] if at + size < len(run) else "")
    fit = {word for word, at in found.items() if FEWEST <= len(at) <= MOST}
    free = [word for word in fit if min(map(len, beside[word])) >= FEWEST]
    inner = {w[at : at + n] for w in free for n in range(2, len(w)) for at in range(len(w) - n + 1)}
    return choose({word: found[word] for word in free if word not in inner}, text)


@pytest.mark.parametrize("number", range(40))
def test_words_are_those_of_the_slow_search(number: int) -> None:
    draw = random.Random(number)
    stems = [
        *WORDS[:12],
        "limit_one",
        "don't",
        "re-use",
        "Apple",
        "apple",
        "applesauce",
        "kelvin",
        "istanbul",
        "_under",
    ]
    odd = ODD if number % 2 else ODD[:9] if number % 4 else ["'", "-", "_", " ", "\n", "x", "9", ".", "\t", "\r"]
    pieces = [
        draw.choice(stems) + draw.choice(["", " ", " ", " ", draw.choice(odd)]) for _ in range(draw.choice([9, 900]))
    ]
    text = "".join(pieces)
    assert [*find_frequent_words(text).items()] == [*find_slowly(text).items()]


def test_some_words_are_found_and_the_frequent_ones_are_not() -> None:
    text = " ".join(
        [*["orchard"] * 5, *["meadow"] * (MOST + 1), *["meadows"] * 4, *["Harbour", "harbour"] * 3, "oncehere"]
    )
    assert Counter({word: len(at) for word, at in find_frequent_words(text).items()}) == {"orchard": 5, "meadows": 4}
    assert find_frequent_words("") == find_han_words("") == find_han_words("天") == find_frequent_words("x") == {}


@pytest.mark.parametrize("number", range(40))
def test_chinese_words_are_those_of_the_slow_search(number: int) -> None:
    draw = random.Random(number)
    names = ["张三", "李四光", "王五赵六", "哈哈", "哈哈哈", "三张", "来往来往", han(number, 5)]
    signs = ["。", "，", "\n", "a", "\u3400", "\U00020000", ""]
    pieces = [
        draw.choice(names) + han(draw.randrange(90), draw.randrange(1, 4)) + draw.choice(signs) for _ in range(400)
    ]
    text = "".join(pieces[: draw.choice([3, 400])])
    assert [*find_han_words(text).items()] == [*find_han_slowly(text).items()]
