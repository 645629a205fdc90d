"""Every embedded source: sized as asked, the same for the same seed, whole sentences, facts that can be looked up."""

import ast
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import islice, pairwise

import pytest

from ropewalk.core.error import UserError
from ropewalk.core.record import ROLES, Document
from ropewalk.corpus.clean.quality import find_text_fault, measure_text
from ropewalk.corpus.embedded import EMBEDDED, embedded_documents
from ropewalk.corpus.text.profile import PROFILES, ProfileName

SIZE_BYTES = 150_000
SIZE_OF = {"prose_zh": 60_000}
"""Of sources that have less text than SIZE_BYTES."""
WRITTEN = ["stories_en", "stories_zh", "encyclopedia_zh", "statutes_zh", "story_questions", "prose_zh"]
PROFILE_OF: dict[str, ProfileName] = {
    "stories_en": "prose_en",
    "stories_zh": "prose_zh",
    "encyclopedia_zh": "prose_zh",
    "prose_zh": "prose_zh",
    "statutes_zh": "law",
    "python_code": "code",
}
PUNCTUATION = "，。：；？！、,.:;?!"


def read(name: str, *, size_bytes: int = SIZE_BYTES, seed: int = 0, **options: object) -> list[Document]:
    """Documents of a source; those that several tests look at are made once."""
    return _read_once(name, size_bytes, seed) if not options else _read(name, size_bytes, seed, options)


def _read(name: str, size_bytes: int, seed: int, options: dict[str, object]) -> list[Document]:
    return list(embedded_documents(name, seed=seed, size_bytes=size_bytes, options=options))


@cache
def _read_once(name: str, size_bytes: int, seed: int) -> list[Document]:
    return _read(name, size_bytes, seed, {})


@pytest.fixture(scope="module", params=list(EMBEDDED))
def source(request: pytest.FixtureRequest) -> tuple[str, list[Document]]:
    return request.param, read(request.param, size_bytes=SIZE_OF.get(request.param, SIZE_BYTES))


def test_documents_are_whole_records(source: tuple[str, list[Document]]) -> None:
    name, documents = source
    assert len({document.id for document in documents}) == len(documents)
    for document in documents:
        assert (document.source, document.role) == (name, EMBEDDED[name].role) and document.role in ROLES
        assert document.text.strip() and "\r" not in document.text and "\0" not in document.text
        assert (document.loss_spans is not None) == (document.role == "instruction")
        spans = document.loss_spans or ()
        assert all(0 <= begin < end <= len(document.text) for begin, end in spans)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
        assert (document.role != "instruction") or spans


def test_the_size_is_reached_within_one_document(source: tuple[str, list[Document]]) -> None:
    name, documents = source
    sizes = [len(document.text.encode()) for document in documents]
    assert sum(sizes[:-1]) < SIZE_OF.get(name, SIZE_BYTES) <= sum(sizes)


def test_same_seed_same_text_and_a_longer_run_begins_with_it(source: tuple[str, list[Document]]) -> None:
    name, documents = source
    shorter = list(embedded_documents(name, seed=0, size_bytes=SIZE_BYTES // 4))
    assert shorter == documents[: len(shorter)] and len(shorter) < len(documents)
    if name != "licences":  # has one order
        assert next(embedded_documents(name, seed=1, size_bytes=1)).text != documents[0].text


def sentences(text: str) -> Iterator[str]:
    yield from (piece for piece in re.split(r"(?<=[.!?。！？])", text) if piece.strip())


@pytest.mark.parametrize("name", WRITTEN)
def test_written_text_has_the_shape_of_language(name: str) -> None:
    for document in read(name):
        text = document.text
        assert not re.search(r"[{}|\[\]]", text), "an unfilled slot"
        doubled = re.search(rf"[{PUNCTUATION}][，。：；、,;]|。。|\.\.|  ", text)
        assert not doubled, text[max(0, doubled.start() - 40) : doubled.end() + 20]
        for paragraph in text.splitlines():
            depth = 0
            for character in paragraph:
                depth += {"“": 1, "”": -1}.get(character, 0)
                assert depth in (0, 1), f"quotes in {paragraph}"
            assert depth == 0 and paragraph.count("《") == paragraph.count("》"), paragraph
        if document.language == "en":
            assert not re.search(r"(?:^|[.!?] )[a-z]", text, re.MULTILINE), "a sentence begins small"
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiouAEIOU]", text), "a or an"


@pytest.mark.parametrize(("name", "low", "high"), [
    ("stories_en", 0.25, 0.45), ("stories_zh", 0.30, 0.50), ("encyclopedia_zh", 0.25, 0.45), ("statutes_zh", 0.2, 0.4),
])  # fmt: skip
def test_written_text_is_about_as_varied_as_real_text(name: str, low: float, high: float) -> None:
    documents = read(name, size_bytes=300_000)
    ratio = sum(len(zlib.compress(document.text.encode())) for document in documents) / sum(
        len(document.text.encode()) for document in documents
    )
    assert low < ratio < high


@pytest.mark.parametrize(("name", "share"), [("stories_en", 0.02), ("stories_zh", 0.06)])
def test_stories_seldom_repeat_thirteen_in_a_row(name: str, share: float) -> None:
    repeated = total = 0
    for document in read(name, size_bytes=300_000):
        units = document.text.split() if document.language == "en" else [c for c in document.text if not c.isspace()]
        grams = Counter(tuple(units[i : i + 13]) for i in range(len(units) - 12))
        repeated += sum(count for count in grams.values() if count > 1)
        total += sum(grams.values())
    assert repeated < share * total


@pytest.mark.parametrize("name", ["stories_en", "stories_zh", "encyclopedia_zh", "statutes_zh"])
def test_documents_are_long_enough_to_need_a_long_context(name: str) -> None:
    sizes = [len(document.text.encode()) for document in read(name)]
    assert min(sizes) > 3 * 4096


@pytest.mark.parametrize(
    "name", ["stories_en", "stories_zh", "encyclopedia_zh", "statutes_zh", "prose_zh", "python_code"]
)
def test_the_projects_own_cleaning_keeps_what_it_wrote(name: str) -> None:
    profile = PROFILES[PROFILE_OF[name]]
    assert [find_text_fault(measure_text(document.text), profile) for document in read(name)] == [None] * len(
        read(name)
    )


def test_penalties_cite_the_articles_they_punish() -> None:
    for document in read("statutes_zh"):
        articles = dict(re.findall(r"^(第[〇一二三四五六七八九十百零]+条)　(.*)$", document.text, re.MULTILINE))
        cited = re.findall(r"(?<!对)违反本..(第\S+?条)规定，未(\S+?)(?:，造成\S+)?的，", document.text)
        assert len(cited) > 5
        assert all(breach in articles[article] for article, breach in cited)


def test_entries_agree_on_who_built_what_and_when() -> None:
    agreed = 0
    for document in read("encyclopedia_zh"):
        built = dict(re.findall(r"境内(\S+?)建于(\d+)年", document.text))
        for work, year in re.findall(r"^【(\S+?)】.*?[，。](\d+)年(?:由|落成|动工)", document.text, re.MULTILINE):
            if work in built:
                agreed += 1
                assert built[work] == year
    assert agreed > 10


def test_encyclopedias_can_be_bilingual() -> None:
    text = read("encyclopedia_zh", bilingual=True)[0].text
    assert re.search(r"^\S+ is an? .* about \d+ kilometres", text, re.MULTILINE)


def test_answers_about_stories_are_in_the_story_beside_what_was_asked() -> None:
    """The answer stands in a sentence with the thing asked about; for who gave and took it is the most frequent."""
    kinds: Counter[str] = Counter()
    for document in read("story_questions", size_bytes=300_000):
        heading = document.text.index("Questions about the story" if document.language == "en" else "关于上文的问题")
        story = document.text[:heading].replace("’", "'")
        assert document.loss_spans and len(document.loss_spans) >= 4
        for kind, (begin, end) in zip(document.metadata["kinds"], document.loss_spans, strict=True):
            answer = document.text[begin:end].strip().replace("’", "'")
            question = document.text[:begin].rsplit("\n\n", 1)[1].replace("’", "'")
            assert answer in story, (question, answer)
            beside = [sentence for sentence in sentences(story) if answer in sentence and shares(sentence, question)]
            assert beside, (question, answer)
            kinds[kind] += 1
    assert set(kinds) == {"giver", "taker", "place", "number", "holder"}


def shares(sentence: str, question: str) -> bool:
    """Whether a sentence names the thing of a question: three characters in a row, or two words, that are rare."""
    if "Question" in question:
        words = re.findall(r"[a-z-]+", question)
        return any(f"{first} {second}" in sentence for first, second in pairwise(words))
    return any(question[i : i + 3] in sentence for i in range(2, len(question) - 2))


def test_code_questions_are_answered_by_code_that_parses() -> None:
    for document in islice(read("code_questions"), 20):
        assert document.loss_spans
        for begin, end in document.loss_spans:
            ast.parse(f"def answer():\n{document.text[begin:end]}")


def test_key_value_documents_have_the_lengths_asked_for() -> None:
    documents = read("key_value", words=[20, 40], pairs=[2, 4], language="zh")
    assert {len(document.text.split()) for document in documents} == {20, 40}
    assert all(document.language == "zh" for document in documents)


def test_story_length_is_an_option() -> None:
    assert all(900 < len(document.text) < 4000 for document in read("stories_zh", characters=[1000, 2000]))


@pytest.mark.parametrize(("name", "options", "message"), [
    ("stories_fr", {}, "no embedded source"),
    ("stories_en", {"words": 3}, "cannot take these options"),
    ("key_value", {"pairs": [9, 2]}, "cannot take these options"),
])  # fmt: skip
def test_what_is_not_there_is_refused_by_name(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(embedded_documents(name, seed=0, size_bytes=1000, options=options))


def test_an_endless_source_wants_a_size() -> None:
    with pytest.raises(UserError, match="needs a size"):
        embedded_documents("stories_en", seed=0)
    assert sum(1 for _ in embedded_documents("licences", seed=0)) > 3
