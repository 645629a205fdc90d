"""Prompts of the grid: a solver finds the answer, position and filler are as asked, and the facts stay the same."""

import re
from itertools import islice, product

import numpy as np
import pytest

from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.corpus.embedded.registry import EMBEDDED
from ropewalk.probe import grid_prompt as grid
from ropewalk.probe.grid_prompt import FILLERS, GRID_TASKS, GridCell, make_grid_prompt
from ropewalk.probe.haystack import count_words
from ropewalk.probe.prompt import Language

CODE = {"en": r"Locker ({a}) has the code (\d+)\.", "zh": r"({a})号储物柜的密码是(\d+)。"}
LINK = {
    "en": r"Locker {a} opens with the same code as locker (.{{6}})\.",
    "zh": r"{a}号储物柜的密码与(.{{6}})号储物柜相同",
}
CHANGE = {"en": r"From now on locker {a} has the code (\d+)\.", "zh": r"从现在起{a}号储物柜的密码改为(\d+)。"}


def solve(task: str, language: Language, text: str) -> tuple[str, int]:
    """The answer, and where the fact that decides begins."""
    context, question = text.split("\n\n")
    name = re.search(r"[A-Z]{2}-\d{3}", question)[0]
    if task == "latest":
        *_, last = re.finditer(CHANGE[language].format(a=name), context)
        return last[1], last.start()
    begin = None
    if task == "two_hops":
        (link,) = re.finditer(LINK[language].format(a=name), context)
        name, begin = link[1], link.start()
    (fact,) = re.finditer(CODE[language].format(a=name), context)
    return fact[2], fact.start() if begin is None else begin


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_answer_follows_and_lies_where_it_was_asked(language: Language) -> None:
    for task, filler in product(GRID_TASKS, FILLERS):
        found = []
        for depth in (0.1, 0.5, 0.9):
            cell = GridCell(task, filler, depth, language)
            prompt = make_grid_prompt(cell, stream("grid", task), words=1200)
            answer, begin = solve(task, language, prompt.text[: prompt.answers[0][0]])
            assert prompt.answer_texts[0].strip() == answer
            context = len(prompt.text.split("\n\n")[0])
            assert begin / context == pytest.approx(prompt.depths[0]) and abs(begin / context - depth) < 0.06
            assert 0.9 * 1200 <= count_words(prompt.text, language) <= 1200
            found.append(prompt)
        assert len({prompt.answer_texts for prompt in found}) == 1
        assert len({prompt.text.split("\n\n")[1] for prompt in found}) == 1


def test_only_the_place_of_a_fact_differs_along_a_row_and_only_the_filler_down_a_column() -> None:
    """The sentences of two depths are the same ones; the facts of two fillers are."""

    def sentences(filler: grid.FillerName, depth: float) -> list[str]:
        prompt = make_grid_prompt(GridCell("two_hops", filler, depth), stream("row"), words=500)
        return re.findall(r"[^.]+\.", prompt.text.split("\n\n")[0])

    for filler in FILLERS:
        assert sorted(map(str.strip, sentences(filler, 0.1))) == sorted(map(str.strip, sentences(filler, 0.7)))
    told = [{each.strip() for each in sentences(filler, 0.5) if "ocker" in each} for filler in ("repeated", "words")]
    assert told[0] == told[1] and len(told[0]) == 5
    assert told[0] < {each.strip() for each in sentences("facts", 0.5)}


def test_earlier_values_lie_at_thirds_of_the_depth_of_the_last() -> None:
    for depth in (0.3, 0.9):
        prompt = make_grid_prompt(GridCell("latest", "words", depth), stream("thirds"), words=1200)
        context, question = prompt.text.split("\n\n")
        name = re.search(r"[A-Z]{2}-\d{3}", question)[0]
        begins = [found.start() / len(context) for found in re.finditer(CHANGE["en"].format(a=name), context)]
        assert begins == pytest.approx([depth / 3, 2 * depth / 3, depth], abs=0.03)


def test_filler_facts_never_name_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_LETTERS", "B")  # few names, so equal ones would be drawn
    for seed, task in enumerate(GRID_TASKS):
        prompt = make_grid_prompt(GridCell(task, "facts", 0.5), stream("taken", seed), words=3000)
        context, question = prompt.text.split("\n\n")
        name = re.search(r"[A-Z]{2}-\d{3}", question)[0]
        assert context.count(name) == (3 if task == "latest" else 1)


def test_no_training_source_has_its_wordings() -> None:
    texts = []
    for source in EMBEDDED.values():
        if source.endless:
            texts += [document.text for document in islice(source.generate(source.options(), 3), 2)]
    whole = "\n".join(texts)
    for form in (form for texts in grid._TEXT.values() for form in texts.values()):
        wanted = ".{1,12}".join(re.escape(part) for part in re.split(r"\{\w\}", form.strip()) if part)
        assert re.search(wanted, whole) is None, form
    assert "ocker" not in whole and "储物柜" not in whole


def test_a_prompt_that_cannot_hold_its_facts_is_refused() -> None:
    with pytest.raises(UserError, match="too short"):
        make_grid_prompt(GridCell("lookup", "words", 0.5), np.random.default_rng(0), words=20)
