"""Eight tasks that no training source teaches, in English and Chinese: they tell learning to read from learning a task.

Each is one family of prompts: a context of short lines, then questions whose answers follow from it. None of their
names, values or wordings stands in a generator of training text (a test compares them), and none is offered as one.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from ropewalk.core.spec import Spec
from ropewalk.probe.haystack import count_words, refuse_length, split_list
from ropewalk.probe.prompt import Language, Prompt

HeldOutName = Literal[
    "latest_value", "counting", "most_frequent", "verbatim_copy",
    "many_shot", "association", "graph_walk", "repeated_request",
]  # fmt: skip
HELD_OUT_NAMES: tuple[HeldOutName, ...] = get_args(HeldOutName)


class HeldOutTask(Spec):
    """One of eight tasks that are only measured, never trained on."""

    kind: Literal["held_out"] = "held_out"
    task: HeldOutName
    """``latest_value`` of overwritten keys, ``counting`` marks, ``most_frequent`` mark, ``verbatim_copy`` of a numbered
    line, ``many_shot`` with random labels, ``association`` of two facts that share no word with the question,
    ``graph_walk`` along edges, ``repeated_request``: the i-th of several alike."""
    language: Language = "en"
    """Of the prompt."""


_WORDS: dict[Language, tuple[str, ...]] = {
    "en": split_list(
        "zinnia|quoll|ibex|fjord|kelp|onyx|yurt|lynx|sphinx|gnu|moth|tapir|krill|rhino|topaz|dingo|newt|auk"
    ),
    "zh": split_list("犰狳|麋鹿|蜻蜓|驼鹿|珊瑚|羚羊|鹦鹉|螳螂|海星|黄鼬|鲟鱼|貔貅|鸵鸟|獾子|水獭|鳄龟"),
}
_MARKS: dict[Language, tuple[str, ...]] = {
    "en": ("vex", "jolt", "gulp", "fizz", "honk", "drab"),
    "zh": ("咚", "嗖", "啪", "哗", "嘀", "嗡"),
}
_PLACES: dict[Language, tuple[tuple[str, str], ...]] = {
    "en": (
        ("lives beside the Kiasma museum", "Helsinki"),
        ("works opposite the Uffizi", "Florence"),
        ("rows past the Rialto each dawn", "Venice"),
        ("sells tea under the Charminar", "Hyderabad"),
        ("guards the gates of Topkapi", "Istanbul"),
        ("sweeps the steps of the Zwinger", "Dresden"),
    ),
    "zh": (
        ("住在黄鹤楼旁边", "武汉"),
        ("在大雁塔下卖茶", "西安"),
        ("每天在苏堤上晨跑", "杭州"),
        ("守着武侯祠的大门", "四川"),
        ("在趵突泉边写生", "济南"),
        ("在拙政园里扫地", "江苏"),
    ),
}
_TEXT: dict[Language, dict[str, str]] = {
    "en": {
        "latest": "Gauge {a} now reads {b}.", "latest?": "\n\nThe last reading of gauge {a} is",
        "counting?": "\n\nThe mark {a}, counted over the whole list, occurs this many times:",
        "frequent?": "\n\nThe mark with the most occurrences in the list is",
        "copy": "Row {a}: {b}.", "copy?": "\n\nRepeat row {a} word for word:",
        "shot": "item {a} -> class", "known": "{a} {b}.", "known?": "\n\nWho has been to {a}? The answer is",
        "edge": "{a} leads to {b}.", "edge?": "\n\nStart at {a} and follow three arrows. The end is",
        "request": "Reply {c} about the {a}: {b}.", "request?": "\n\nRepeat reply number {b} about the {a}:",
    },
    "zh": {
        "latest": "仪表{a}现在读{b}。", "latest?": "\n\n仪表{a}最后一次读数是",
        "counting?": "\n\n记号{a}在整个列表里一共有几个：", "frequent?": "\n\n列表里最多的记号是",
        "copy": "第{a}行：{b}。", "copy?": "\n\n逐字重复第{a}行：",
        "shot": "样品{a}归入类别", "known": "{a}{b}。", "known?": "\n\n谁去过{a}？去过的是",
        "edge": "{a}通向{b}。", "edge?": "\n\n从{a}出发走三步，终点是",
        "request": "关于{a}的答复{c}：{b}。", "request?": "\n\n重复关于{a}的第{b}个答复：",
    },
}  # fmt: skip
_LEAST, _ROUNDS = 12, 24
_Lines = tuple[list[str], str, str, int]
"""The lines of a context, the question, its answer, and the number of the line that decides."""


def make_held_out_prompt(spec: HeldOutTask, rng: np.random.Generator, *, words: int) -> Prompt:
    """A prompt of at most ``words`` words (characters in Chinese) with one answer; raises UserError if too few."""
    write, language = _WRITERS[spec.task], spec.language
    gap, state = " " if language == "en" else "", rng.bit_generator.state
    best: _Lines | None = None
    fills, size = 0, max(_LEAST, words // 3)
    for _ in range(_ROUNDS):  # lines differ in length, so the size that fills the prompt is approached
        rng.bit_generator.state = state  # each size is written with the same draws
        lines, question, answer, decides = write(language, rng, size)
        used = count_words(gap.join(lines) + question + gap + answer, language)
        if fills < used <= words:
            best, fills = (lines, question, answer, decides), used
        if size == _LEAST and used > words:
            raise refuse_length(spec.task, words, used)
        if 0.95 * words <= used <= words:
            break
        size = max(_LEAST, size * words // used - (used > words))
    assert best is not None, "each round comes nearer"
    lines, question, answer, decides = best
    text = gap.join(lines)
    begin = sum(len(line) + len(gap) for line in lines[:decides]) / len(text)
    text += question
    return Prompt(text + gap + answer, ((len(text), len(text + gap + answer)),), (min(begin, 1.0),))


def _name(language: Language, rng: np.random.Generator, number: int) -> list[str]:
    """Different names: two words together, with a number where there are many."""
    words = _WORDS[language]
    pairs = [f"{one}{two}" for one in words for two in words if one != two]
    chosen = rng.permutation(max(number, len(pairs)))[:number].tolist()
    return [pairs[i % len(pairs)] + (str(i // len(pairs)) if i >= len(pairs) else "") for i in chosen]


def _pick_words(language: Language, rng: np.random.Generator, number: int) -> str:
    return (" " if language == "en" else "").join(_WORDS[language][i] for i in rng.integers(16, size=number))


def _write_latest(language: Language, rng: np.random.Generator, size: int) -> _Lines:
    text, keys = _TEXT[language], _name(language, rng, max(2, size // 8))
    drawn = [(keys[int(rng.integers(len(keys)))], str(rng.integers(100, 1000))) for _ in range(size // 4)]
    key = drawn[int(rng.integers(len(drawn)))][0]
    last = max(number for number, (name, _) in enumerate(drawn) if name == key)
    return [text["latest"].format(a=a, b=b) for a, b in drawn], text["latest?"].format(a=key), drawn[last][1], last


def _draw_marks(language: Language, rng: np.random.Generator, size: int) -> list[str]:
    kinds = [_MARKS[language][i] for i in rng.permutation(len(_MARKS[language]))]
    share = 0.5 ** np.arange(1, len(kinds) + 1)
    return [kinds[i] for i in rng.choice(len(kinds), size=size, p=share / share.sum())]


def _write_counting(language: Language, rng: np.random.Generator, size: int) -> _Lines:
    wanted, *others = [_MARKS[language][i] for i in rng.permutation(len(_MARKS[language]))]
    count = int(rng.integers(2, 10))
    marks = [wanted] * count + [others[i] for i in rng.integers(len(others), size=size - count)]
    marks = [marks[i] for i in rng.permutation(size)]
    return marks, _TEXT[language]["counting?"].format(a=wanted), str(count), marks.index(wanted)


def _write_frequent(language: Language, rng: np.random.Generator, size: int) -> _Lines:
    marks = _draw_marks(language, rng, size)
    most = sorted(dict.fromkeys(marks), key=marks.count)  # a set has another order in each process
    if len(most) > 1 and marks.count(most[-1]) == marks.count(most[-2]):  # a short list may have one kind only
        marks[marks.index(most[-2])] = most[-1]
    return marks, _TEXT[language]["frequent?"], most[-1], marks.index(most[-1])


def _write_copy(language: Language, rng: np.random.Generator, size: int) -> _Lines:
    rows = [_pick_words(language, rng, 5) for _ in range(size // 6)]
    asked = int(rng.integers(len(rows)))
    text = _TEXT[language]
    lines = [text["copy"].format(a=number + 1, b=row) for number, row in enumerate(rows)]
    return lines, text["copy?"].format(a=asked + 1), rows[asked], asked


def _write_shots(language: Language, rng: np.random.Generator, size: int) -> _Lines:
    """Labels are drawn at random, so only the examples tell them; an item of the examples is asked again."""
    items, text, gap = _name(language, rng, max(2, size // 8)), _TEXT[language], " " if language == "en" else ""
    label = dict(zip(items, (str(number) for number in rng.integers(1, 6, size=len(items))), strict=True))
    shown = [items[i % len(items)] for i in rng.permutation(size // 5)]
    asked = shown[int(rng.integers(len(shown)))]
    lines = [f"{text['shot'].format(a=item)}{gap}{label[item]}{'.' if gap else '。'}" for item in shown]
    return lines, "\n\n" + text["shot"].format(a=asked), label[asked], shown.index(asked)


def _write_association(language: Language, rng: np.random.Generator, size: int) -> _Lines:
    """The question names a town and the fact a place in it, so no word of the question leads to the fact."""
    text, people = _TEXT[language], _name(language, rng, max(2, size // 5))
    (place, town), *others = [_PLACES[language][i] for i in rng.permutation(len(_PLACES[language]))]
    known = int(rng.integers(len(people)))
    told = [place if number == known else others[int(rng.integers(len(others)))][0] for number in range(len(people))]
    lines = [text["known"].format(a=name, b=where) for name, where in zip(people, told, strict=True)]
    return lines, text["known?"].format(a=town), people[known], known


def _write_graph(language: Language, rng: np.random.Generator, size: int) -> _Lines:
    text, nodes = _TEXT[language], _name(language, rng, max(5, size // 4))
    chain = [nodes[i] for i in rng.permutation(len(nodes))]
    goes = dict(zip(chain, [*chain[1:], chain[0]], strict=True))
    order = [nodes[i] for i in rng.permutation(len(nodes))]
    end = goes[goes[goes[chain[0]]]]
    lines = [text["edge"].format(a=node, b=goes[node]) for node in order]
    return lines, text["edge?"].format(a=chain[0]), end, order.index(chain[0])


def _write_requests(language: Language, rng: np.random.Generator, size: int) -> _Lines:
    text, topics = _TEXT[language], _WORDS[language][:4]
    drawn = [(topics[int(rng.integers(4))], _pick_words(language, rng, 4)) for _ in range(size // 8 + 1)]
    topic = drawn[int(rng.integers(len(drawn)))][0]
    alike = [number for number, (name, _) in enumerate(drawn) if name == topic]
    asked = int(rng.integers(len(alike)))
    lines = [text["request"].format(a=name, b=reply, c="").replace("  ", " ") for name, reply in drawn]
    return lines, text["request?"].format(a=topic, b=asked + 1), drawn[alike[asked]][1], alike[asked]


_WRITERS: dict[HeldOutName, Callable[[Language, np.random.Generator, int], _Lines]] = {
    "latest_value": _write_latest,
    "counting": _write_counting,
    "most_frequent": _write_frequent,
    "verbatim_copy": _write_copy,
    "many_shot": _write_shots,
    "association": _write_association,
    "graph_walk": _write_graph,
    "repeated_request": _write_requests,
}
