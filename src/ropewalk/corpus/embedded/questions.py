"""Questions about a long story, placed after it. Only the answers have a loss.

The facts come from the world of the story, so every answer is in the text, mostly far before the question.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.core.spec import Spec
from ropewalk.corpus.embedded.grammar import Writer, load_grammar
from ropewalk.corpus.embedded.stories import ChineseStories, EnglishStories, Story, StoryWriter
from ropewalk.probe.prompt import Language

_FORMS: dict[Language, tuple[str, str, str]] = {
    "en": ("Questions about the story\n\n", "Question: {question}\nAnswer:", " {answer}"),
    "zh": ("关于上文的问题\n\n", "问：{question}\n答：", "{answer}"),
}


class StoryQuestions(Spec):
    """Options: languages in turn, questions per story, and the length of the stories in each language."""

    languages: tuple[Language, ...] = ("zh", "en")
    questions: tuple[PositiveCount, PositiveCount] = (4, 10)
    characters_zh: tuple[PositiveCount, PositiveCount] = ChineseStories().characters
    characters_en: tuple[PositiveCount, PositiveCount] = EnglishStories().characters


@dataclass(frozen=True, slots=True)
class Question:
    """A question of one kind, with its only answer."""

    kind: str
    text: str
    answer: str


def write_story_questions(options: StoryQuestions, seed: int) -> Iterator[Document]:
    """Yield documents without end: a story, then questions with answers."""
    rng = stream("embedded", "story_questions", seed)
    lengths = {"zh": options.characters_zh, "en": options.characters_en}
    tellers = {language: StoryWriter(language, seed, purpose="story_questions") for language in options.languages}
    askers = {language: Writer(load_grammar(f"questions_{language}"), rng) for language in options.languages}
    number = 0
    while True:
        language = options.languages[number % len(options.languages)]
        story = tellers[language].tell(lengths[language])
        questions = ask_about(story, askers[language])
        count = int(rng.integers(options.questions[0], options.questions[1] + 1))
        chosen = [questions[i] for i in rng.permutation(len(questions))[:count]]
        text, spans = _write_down(tellers[language].finish(story), language, chosen)
        yield Document(
            text,
            source="story_questions",
            role="instruction",
            language=language,
            id=f"story_questions-{seed}-{number}",
            loss_spans=spans,
            metadata={"kinds": [question.kind for question in chosen]},
        )
        number += 1


def ask_about(story: Story, writer: Writer) -> list[Question]:
    """Every question about a story's hand-overs with exactly one answer."""
    given = Counter((gift.thing.name, gift.giver) for gift in story.gifts)
    taken = Counter((gift.thing.name, gift.taker) for gift in story.gifts)
    moved = Counter((gift.thing.name, gift.giver, gift.taker) for gift in story.gifts)
    questions = []
    for gift in story.gifts:
        thing = gift.thing
        facts = {"G": gift.giver, "T": gift.taker, "M": thing.name, "W": gift.place}
        kinds = []
        if taken[thing.name, gift.taker] == 1:
            kinds.append(("giver", gift.giver))
        if given[thing.name, gift.giver] == 1:
            kinds.append(("taker", gift.taker))
        if moved[thing.name, gift.giver, gift.taker] == 1:
            kinds.append(("place", gift.place))
        questions += [Question(kind, writer.write(kind, facts), answer) for kind, answer in kinds]
    for thing in {id(gift.thing): gift.thing for gift in story.gifts}.values():
        assert thing.holder is not None
        facts = {"M": thing.name}
        questions.append(Question("number", writer.write("number", facts), thing.number))
        questions.append(Question("holder", writer.write("holder", facts), story.people[thing.holder].name))
    return questions


def _write_down(story: str, language: Language, questions: list[Question]) -> tuple[str, tuple[tuple[int, int], ...]]:
    heading, ask, reply = _FORMS[language]
    text, spans = f"{story}\n{heading}", []
    for question in questions:
        text += ask.format(question=question.text)
        answer = reply.format(answer=question.answer)
        spans.append((len(text), len(text) + len(answer)))
        text += f"{answer}\n\n"
    return text, tuple(spans)
