"""What cleaning keeps of each kind of text, and why it drops the rest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_texts import han, sentence
from ropewalk.core.record import Document
from ropewalk.corpus.clean.document import clean_document
from ropewalk.corpus.clean.normalize import normalize_text
from ropewalk.corpus.clean.quality import find_text_fault, measure_text
from ropewalk.corpus.text.language import judge_language
from ropewalk.corpus.text.profile import PROFILES
from ropewalk.corpus.text.reject import Reject

PROSE = "\n".join(sentence(number, 20) + "." for number in range(30))
CODE = "\n".join(f"def name_{n}(value):\n    return value + {n} * {n + 1}" for n in range(40))


def clean(text: str, profile: str, spans: tuple[tuple[int, int], ...] | None = None) -> Document | Reject:
    return clean_document(Document(text, "s", "general", "en", "1", spans), PROFILES[profile]).outcome


@pytest.mark.parametrize(
    ("text", "profile", "reason"),
    [
        (PROSE, "prose_en", None),
        (han(1, 500), "prose_zh", None),
        ("床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。", "prose_zh", None),
        (CODE, "code", None),
        ("yes, of course", "instruction", None),
        ("short", "prose_en", "too short"),
        ("", "instruction", "too short"),
        (CODE, "prose_zh", "little Han"),
        ("1 + 2 = 3; " * 40, "prose_en", "few letters"),
        (PROSE.replace("e", "\ufffd"), "prose_en", "broken characters"),
        ("x = [" + "name, other, 12, " * 2000 + "]", "code", "long lines"),
        ((sentence(1, 10) + ".\n" + sentence(2, 10) + ".\n") * 40, "prose_en", "repeated lines"),
        (" ".join([sentence(1, 12)] * 40), "prose_en", "repeated passages"),
    ],
)
def test_reasons(text: str, profile: str, reason: str | None) -> None:
    result = clean(text, profile)
    assert (result.reason if isinstance(result, Reject) else None) == reason


def test_length_is_no_fault() -> None:
    book = "\n".join(sentence(number, 30) + "." for number in range(5000))
    assert len(book) > 900_000 and find_text_fault(measure_text(book), PROFILES["prose_en"]) is None


def test_what_nobody_sees_goes() -> None:
    text = "\ufeffcafe\u0301 \x00one\u200b  \r\ntwo\t\r\n\n\n\n\n\nthree\x0c" + PROSE
    document = clean(text, "markup")
    assert isinstance(document, Document)
    assert document.text.startswith("café one\ntwo\n\n\nthree\n")
    document = clean(text, "prose_en")
    assert isinstance(document, Document)
    assert document.text.startswith("café one  \ntwo\t\n\n\n\n\n\nthree\n")


def test_a_line_said_four_times_is_said_once() -> None:
    document = clean(PROSE + "\n" + "breaking news\n" * 9 + "end\nend\nend", "prose_en")
    assert isinstance(document, Document) and document.text == PROSE + "\nbreaking news\nend\nend\nend"


VERSES = "".join(f"{number}\n{sentence(number, 18)}.\n" for number in range(1, 40))
CLAUSES = "".join(f"({number})\n{han(number, 60)}。\n" for number in range(1, 30))
STANZAS = "\n".join(f"{n}\n\n    {sentence(n, 5)}\n        {sentence(n + 50, 4)};\n\n\n\n" for n in range(1, 9))
CHAPTERS = "".join(
    f"第{n}章　总则\n\n§ {n}　{han(at, 80)}。\n\n　　{han(at + 9, 40)}。  \n" for at, n in enumerate("一二三四五六")
)
SONG = "\n".join(f"{sentence(n, 7)},\n{sentence(n + 30, 6)};\n" + "hey ho, hey\n" * 6 for n in range(8))
POEM = "\n".join(f"{han(n, 7)}，{han(n + 40, 7)}。\n归去来\n归去来\n归去来\n归去来" for n in range(9))
CELLS = f"{han(5, 300)}。\n" + "是\n是\n是\n是\n是\n-\n-\n-\n-\n-\n0\n0\n0\n0\n0\n" * 9 + f"{han(6, 300)}。"
MARKDOWN = "\n\n".join(
    f"{han(n, 160)}。\n\n| 项目 | 甲 | 乙 | 丙 |\n|---|---|---|---|\n" + "| 是 | 是 | - | 0 |\n" * 12 for n in range(4)
)
SEPARATED = "\n".join(f"{sentence(n, 30)}.\n" + "yes\tno\tyes\tno\tyes\tno\t\n" * 12 for n in range(5))


@pytest.mark.parametrize("text", [VERSES, CLAUSES, STANZAS, CHAPTERS, SONG, POEM, CELLS, MARKDOWN, SEPARATED])
@pytest.mark.parametrize("profile", ["prose_en", "prose_zh", "law"])
def test_white_space_numbers_cells_and_refrains_stay(text: str, profile: str) -> None:
    is_chinese = sum(character >= "一" for character in text) > len(text) / 4
    if profile == "law" or is_chinese == (profile == "prose_zh"):
        document = clean(text, profile)
        assert isinstance(document, Document), document.why
        assert document.text == text.strip("\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("buy now\n" * 400, "repeated passages"),
        ("\n".join(f"{word} is on sale today." for word in sentence(1, 3).split() * 60), "repeated lines"),
        ("| yes | yes | yes | yes |\n" * 200, "few sentences"),
        ("home\tabout\tcontact us\tlogin here\n" * 100, "few sentences"),
        ((f"| {sentence(3, 20)} | yes |\n" + f"| {sentence(4, 20)} | no |\n") * 30 + PROSE, "repeated lines"),
        ("haha " * 500, "repeated passages"),
    ],
)
def test_repeated_junk_goes(text: str, reason: str) -> None:
    result = clean(text, "prose_en")
    assert isinstance(result, Reject) and result.reason == reason


@given(parts=st.lists(st.text(alphabet="ab \x00é\u0301\r\n\ufeff天", max_size=12), min_size=5, max_size=5))
@settings(max_examples=100, deadline=None)
def test_loss_spans_move_with_their_text(parts: list[str]) -> None:
    starts = [sum(map(len, parts[:index])) for index in range(6)]
    spans = ((starts[1], starts[2]), (starts[3], starts[4]))
    text = "".join(parts)
    result = clean("long enough " + text, "instruction", tuple((a + 12, b + 12) for a, b in spans))
    assert isinstance(result, Document) and result.loss_spans is not None
    assert [result.text[a:b] for a, b in result.loss_spans] == [normalize_text(parts[1]), normalize_text(parts[3])]


@given(text=st.text(max_size=100))
@settings(max_examples=100, deadline=None)
def test_mending_twice_is_mending_once(text: str) -> None:
    assert normalize_text(normalize_text(text)) == normalize_text(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The rope is long and the walk is longer", "en"),
        ("绳子很长 is 很长的 rope", "zh"),
        ("縄はとても長いです", "ja"),
        ("밧줄은 길다", "ko"),
        ("Верёвка длинная", "ru"),
        ("123 !?", "none"),
    ],
)
def test_language_by_script(text: str, language: str) -> None:
    assert judge_language(text) == language
