"""What is mended within a document, and what looks like it and is left alone."""

import random
from collections.abc import Sequence
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from made_texts import han, sentence
from ropewalk.core.record import Document
from ropewalk.corpus.clean.boilerplate import remove_boilerplate
from ropewalk.corpus.clean.document import clean_document
from ropewalk.corpus.clean.normalize import _choose_repair, _repair_blocks, normalize_document
from ropewalk.corpus.clean.pii import is_identity_number, mask
from ropewalk.corpus.clean.quality import measure_text
from ropewalk.corpus.text import blocks
from ropewalk.corpus.text.blocks import blocks_of_lines
from ropewalk.corpus.text.chinese import convert_script, fit_marks, narrow_letters, traditional_share
from ropewalk.corpus.text.profile import ALL_BOILERPLATE, ALL_PERSONAL, PROFILES, Boilerplate, Profile
from ropewalk.corpus.text.reject import Reject


def repair_decoding(text: str) -> str:
    """The step of normalize_document that repairs wrongly decoded text, by itself."""
    return "".join(_repair_blocks([text], _choose_repair(text)))


def without(text: str, kinds: Sequence[Boilerplate]) -> str:
    """The text without boilerplate, which is the same in blocks however small they are."""
    whole = "".join(remove_boilerplate([text], kinds))
    assert "".join(remove_boilerplate(list(blocks_of_lines(text)), kinds)) == whole
    return whole


CHINESE = "第一章　总则\n为了规范市场秩序，保护消费者的合法权益，制定本法。\n本章完结之后，人们继续前行。\n"


@pytest.mark.parametrize(
    "line",
    [
        "（本章完）",
        "(本章未完，请点击下一页继续阅读)",
        "上一章 目录 下一章",
        "« Previous | Table of Contents | Next »",
        "天才一秒记住本站地址：www.example.com",
        "手机用户请浏览m.example.com阅读，更优质的阅读体验。",
        "求推荐票！求收藏！",
        "第 3 页 共 12 页",
        "Page 3 of 12",
        "Advertisement",
        "Copyright © 2019 Example Ltd. All rights reserved.",
        "当前位置：首页 > 法律 > 民法",
        "Produced by Anna Meier and the Online Distributed Proofreading Team",
        "ISBN: 978-7-02-000220-7",
        "<!-- INFO END -->",
    ],
)
def test_what_was_put_around_a_text_goes(line: str) -> None:
    text = f"{CHINESE}{line}\n{CHINESE}"
    assert without(text, ALL_BOILERPLATE) == CHINESE + CHINESE
    assert without(text, ()) == text


@pytest.mark.parametrize(
    "line",
    [
        "他翻到下一章，又看了一眼目录，然后合上了书。",
        "On the next page she found the table of contents and read it aloud.",
        "本章完全不同于上一章所讲的内容。",
        "他求了三天，终于求得一张推荐信。",
        "Home is where the menu is printed.",
        "He is the advertisement of his own success.",
    ],
)
def test_a_sentence_about_such_things_stays(line: str) -> None:
    assert without(f"{CHINESE}{line}\n", ALL_BOILERPLATE) == f"{CHINESE}{line}\n"


def test_page_numbers_go_where_they_count_up_and_numbers_stay_where_they_do_not() -> None:
    pages = "".join(f"{sentence(n)}\n- {n + 7} -\n" for n in range(6))
    assert without(pages, ("page_numbers",)) == "".join(f"{sentence(n)}\n" for n in range(6))
    table = "".join(f"{sentence(n)}\n{value}\n" for n, value in enumerate((812, 3, 77, 41, 9)))
    assert without(table, ("page_numbers",)) == table


@pytest.mark.parametrize("form", ["{}", "({})", "[{}]", "（{}）"])
def test_numbers_of_verses_chapters_and_clauses_stay(form: str) -> None:
    chapters = "".join(f"{form.format(n)}\n\n{sentence(n, 80)}.\n\n" for n in range(1, 12))
    stanzas = "".join(f"{form.format(n)}\n{sentence(n, 6)}\n{sentence(n + 1, 5)}\n" for n in range(1, 12))
    lines = "".join(f"{form.format(n)}\n第{n}条　{han(n, 90)}；\n" for n in range(1, 12))
    for text in (chapters, stanzas, lines):
        assert without(text, ("page_numbers",)) == text


def test_bare_numbers_go_where_they_break_sentences_off() -> None:
    pages = [f"{sentence(n, 90)}.\n{sentence(n + 40, 90)}\n" for n in range(12)]
    text = "".join(f"{page}\n{n + 30}\n\n" for n, page in enumerate(pages))
    assert without(text, ("page_numbers",)) == "".join(f"{page}\n\n" for page in pages)


def test_a_refrain_is_no_menu() -> None:
    for line in ("Home, home", "home - home - home", "Top, top, top", "目录 目录"):
        assert without(f"{CHINESE}{line}\n", ALL_BOILERPLATE) == f"{CHINESE}{line}\n"
    assert without("Home | Home | Login\n", ALL_BOILERPLATE) == ""


def test_a_frame_around_a_book_goes() -> None:
    book = (
        "The Project Gutenberg eBook of X\n\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\n"
        "Call me.\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence"
    )
    assert without(book, ("ebook_notices",)).strip() == "Call me."


def test_a_user_can_name_lines_and_profiles() -> None:
    profile = Profile.model_validate({"like": "law", "remove_lines": [r"编号：\d+"], "min_characters": 3})
    assert profile.max_repeated_lines == PROFILES["law"].max_repeated_lines and profile.min_characters == 3
    assert normalize_document("正文\n编号：12\n又：编号：12\n", profile) == "正文\n又：编号：12"
    for wrong in ({"remove_lines": ["("]}, {"like": "poetry"}, {"min_letter": 0.5}):
        with pytest.raises(ValidationError):
            Profile.model_validate(wrong)


def identity_number(seed: int) -> str:
    """A number that passes, by the rule as GB 11643 writes it."""
    rng = random.Random(seed)
    born = date(1950 + rng.randrange(60), 1 + rng.randrange(12), 1 + rng.randrange(28))
    digits = f"{110000 + rng.randrange(500000)}{born:%Y%m%d}{rng.randrange(1000):03d}"
    total = sum(int(digit) * (2 ** (17 - index) % 11) for index, digit in enumerate(digits))
    return digits + "10X98765432"[total % 11]


@pytest.mark.parametrize("seed", range(20))
def test_an_identity_number_is_known_by_its_date_and_checksum(seed: int) -> None:
    number = identity_number(seed)
    assert is_identity_number(number)
    assert mask(f"身份证号{number}。", ("identity",)) == "身份证号000000000000000000。"
    wrong = number[:-1] + ("1" if number[-1] != "1" else "2")
    assert mask(f"编号{wrong}。", ("identity",)) == f"编号{wrong}。"
    assert not is_identity_number(number[:10] + "13" + number[12:])


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail a.b+c@mail.firma.org.", "mail name@example.com."),
        ("at 93.184.216.34, port 53", "at 192.0.2.1, port 53"),
        ("电话13812345678或138-1234-5678", "电话13000000000或13000000000"),
        ("key AKIAIOSFODNN7EXAMPLE", "key [KEY]"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nafter",
            "[KEY]\nafter",
        ),
        ("ghp_" + "a1B2" * 9, "[KEY]"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert mask(text, ALL_PERSONAL) == masked


@pytest.mark.parametrize(
    "text",
    [
        "192.168.0.1 and 10.0.0.3 are nobody's",
        "version 4.12.3.1 and v 1.2.3.4",
        "1.2.3.4.5 is a section",
        "300.1.1.1",
        "order 2013812345678",
        "π is 3.13812345678",
        "a@b is no address",
        "@decorator and x@y",
        "sk-learn is a library",
    ],
)
def test_what_only_looks_personal_stays(text: str) -> None:
    assert mask(text, ALL_PERSONAL) == text


@pytest.mark.parametrize("text", ["naïve café — “quoted …", "Größe über Füße", "für die Fähigkeit"])
def test_text_read_as_latin_is_read_again(text: str) -> None:
    broken = text.encode().decode("cp1252", "replace")
    assert "\ufffd" not in broken
    assert repair_decoding(f"plain line\n{broken}\n") == f"plain line\n{text}\n"
    assert repair_decoding(text) == text


def test_chinese_read_as_gbk_is_read_again() -> None:
    text = "法律规定，公民的权利\n为了保护公民的权利，制定本法\n" * 3
    broken = "\n".join(line.encode().decode("gb18030", "strict") for line in text.split("\n"))
    assert broken != text and repair_decoding(broken) == text
    assert repair_decoding(text) == text


SOUND = [
    "Il murmura : “Le café, le thé… j’ai été”, puis se tut. “L’été”–“l’hiver”, “né”…",
    "« Enchanté… », dit René ; “Désolé…” — “Ça a été…”",
    "Er rief: „Spaß“, „Größe“ – und ‚Süß‘… „Allee“–„Idee“…",
    "Ela disse: “Não”… “É você?”— “Avô”–“avó”, “fé”…",
    "Ông nói: “Hà Nội”… “được”– “phố cổ”…",
    "Řekl: „Ano“ – „žluťoučký kůň“… ‚ně‘–",
    "他说：“café”——很好，“été”……“naïveté”…",
    "André’s “résumé”— and Zoë’s “naïveté”…",
    "涓涓细流，涓涓不息，涓涓入海，涓涓不止。",
]


@pytest.mark.parametrize("text", SOUND)
def test_accents_beside_typographic_quotes_are_no_mojibake(text: str) -> None:
    assert repair_decoding(text) == text and measure_text(text).mojibake == 0
    assert normalize_document(text, PROFILES["prose_en"]) == text


@pytest.mark.parametrize("text", [*SOUND[:7], "Tiếng Việt lắm", "Łódź żółć", "Привет, мир", "한국어 문장", "Ελλάδα"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_real_mojibake_is_mended_or_told(text: str, encoding: str) -> None:
    broken = text.encode().decode(encoding, "replace")
    normalized = repair_decoding(broken)
    # Five bytes have no character in Windows-1252: what they were part of is lost, and is seen to be.
    assert normalized == text or ("\ufffd" in broken and "\ufffd" in normalized)
    assert measure_text(broken).mojibake > 0.01 and measure_text(normalized).mojibake == 0


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_gbk_read_as_latin_is_read_again_or_told(encoding: str) -> None:
    text = "法律规定，公民的权利是受到保护的。\n任何人 (anyone) 不得侵犯。\nplain line\n"
    broken = text.encode("gbk").decode(encoding)
    assert repair_decoding(broken) == text
    assert measure_text(broken).mojibake > 0.01 and measure_text(text).mojibake == 0
    lost = clean_document(Document(broken * 5, "s", "general", "zh", "1"), Profile(mojibake="keep")).outcome
    assert isinstance(lost, Reject) and lost.reason == "mojibake"


def test_what_cannot_be_repaired_is_dropped_and_says_so() -> None:
    text = "".join(f"{sentence(n, 8)} Ã€\x81 â€\n" for n in range(40)).replace("\x81", "‰Ã")
    result = clean_document(Document(text, "s", "general", "en", "1"), Profile(mojibake="keep", max_mojibake=0.002))
    assert isinstance(result.outcome, Reject)
    assert result.outcome.reason == "mojibake" and "above 0.20%" in result.outcome.why


def test_widths() -> None:
    assert narrow_letters("ＡＢＣ１２３，（天）") == "ABC123，（天）"
    assert fit_marks("天地玄黄,宇宙洪荒;日月?\nplain, text；here") == "天地玄黄，宇宙洪荒；日月？\nplain, text;here"
    assert fit_marks("plain； text") == "plain; text"
    document = clean_document(Document("第１条　" + han(1, 200), "s", "general", "zh", "1"), PROFILES["prose_zh"])
    assert isinstance(document.outcome, Document) and document.outcome.text.startswith("第1条")


def test_scripts_are_told_apart_and_converted_on_demand() -> None:
    traditional, simplified = "舉頭望明月，低頭思故鄉。漢語", "举头望明月，低头思故乡。汉语"
    assert traditional_share(traditional) == 1.0 and traditional_share(simplified) == 0.0
    assert traditional_share("天地") is None
    assert convert_script(traditional, "simplified") == simplified
    assert convert_script(simplified, "traditional") == traditional
    assert measure_text(traditional).traditional == 1.0
    profile = Profile(script="simplified")
    assert normalize_document(traditional, profile) == simplified


@given(text=st.text(alphabet="ab\n\r 天", max_size=40))
@settings(max_examples=100, deadline=None)
def test_blocks_are_the_text(text: str) -> None:
    assert "".join(blocks_of_lines(text)) == text


PIECES = (
    *("*** START OF THE PROJECT GUTENBERG EBOOK X ***", "*** END OF THE PROJECT GUTENBERG EBOOK X ***"),
    *("<!-- a\n b -->", "<!--", "-->", "(本章完)", "3", "4", "5", "6", "", "", "same line", "same line", "  "),
    *(
        "hello \U0001f600 world. Yes",
        "Ã©tÃ© æ³•å¾‹",
        "Page 3 of 12",
        "ａｂｃ１２",
        "求推荐票！",
        "mail a@b.com ok",
        "\r",
    ),
    *("x" * 300, "天地玄黄。宇宙！", "\x0b", "上一章 目录 下一章", " \u3000", "e\u0301", "\n\n\n\n", "same line\n" * 4),
)


@pytest.mark.parametrize("seed", range(40))
def test_in_blocks_a_text_becomes_what_it_becomes_in_one_piece(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    chosen = rng.sample(PIECES, rng.randint(2, len(PIECES)))
    lines = [str(n) if seed % 5 == 0 and n % 2 else rng.choice(chosen) for n in range(rng.choice((3, 20, 120)))]
    text = ("\r\n" if seed % 7 == 0 else "\n").join(lines)
    everything = {"like": "law", "boilerplate": ALL_BOILERPLATE, "width": "all"}
    profiles = [*PROFILES.values(), Profile.model_validate(everything)]
    whole = [normalize_document(text, profile) for profile in profiles]
    for characters in (1, 7, 60):
        monkeypatch.setattr(blocks, "_BLOCK_CHARACTERS", characters)
        assert [normalize_document(text, profile) for profile in profiles] == whole


def test_a_long_text_is_mended_like_its_parts() -> None:
    lines = [f"cafe\u0301 {sentence(n, 30)}\x07. a@b.com" for n in range(8000)]
    text = "\r\n".join(lines)
    assert len(text) > 1_500_000
    profile = PROFILES["prose_en"]
    assert normalize_document(text, profile) == "\n".join(
        normalize_document("\n".join(lines[at : at + 200]), profile) for at in range(0, len(lines), 200)
    )


def test_figures_of_a_text() -> None:
    text = f"{sentence(1, 20)}.\n{sentence(1, 20)}.\n{sentence(2, 20)}"
    figures = measure_text(text)
    line = len(sentence(1, 20)) + 1
    assert figures.characters == len(text) and figures.repeated_lines == pytest.approx(line / len(text))
    assert figures.letters == pytest.approx(sum(c.isalpha() for c in text) / sum(not c.isspace() for c in text))
    assert figures.han == 0 and figures.traditional is None and figures.ended_lines == 1.0
    menu = "\n".join(f"{word} and {word}s by the dozen" for word in sentence(3, 30).split())
    result = clean_document(Document(menu, "s", "general", "en", "1"), PROFILES["prose_en"]).outcome
    assert isinstance(result, Reject) and result.reason in {"few sentences", "repeated lines"}
