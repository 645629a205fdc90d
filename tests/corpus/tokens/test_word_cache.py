"""The memory of words gives what the tokenizer gives, on every character that it takes and on texts of all of them."""

import json
import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import regex
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Bpe

from made_texts import han, sentence
from ropewalk.corpus.tokens import apart_pairs, gigatoken, word_cache
from ropewalk.corpus.tokens.apart_pairs import ApartPairs
from ropewalk.corpus.tokens.safe_splits import CUTTABLE
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.corpus.tokens.word_cache import SETTLED, in_common, load_words

ALL = "".join(chr(code) for first, last in SETTLED for code in range(first, last + 1))
ODD = [
    " ", "  ", "\n", "\r\n", "\t", " \n ", "'s", "'LL", "'\u017f", "'", "\u00a0", "\u3000", "x", "Q", "7", "½", "天地",
    "ㅋ", "\u212a", "\u212b", "🙂", "。", "=", "\u0301", "\u208f", "\U00031350", "\ufeff",
]  # fmt: skip


def make(tokenizer_folder: Path, pattern: str, normalizer: object) -> Tokenizer:
    made_of = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    made_of["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    made_of["normalizer"] = normalizer
    return Tokenizer(Bpe.from_str(json.dumps(made_of)), bos_id=None, eos_id=0)


@pytest.mark.parametrize("kind", [r"\p{L}", r"\p{N}", r"\p{M}", r"\p{Han}", r"\s", r"(?i:[sdmtlrve])"])
def test_both_libraries_know_the_same_characters(kind: str) -> None:
    remove = pre_tokenizers.Split(Regex(kind), "removed")
    parts = (ALL[at : at + 4096] for at in range(0, len(ALL), 4096))
    left = "".join(piece for part in parts for piece, _ in remove.pre_tokenize_str(part))
    assert regex.sub(kind, "", ALL, flags=regex.V1) == left


def test_no_character_joins_the_one_before_it() -> None:
    found = [unicodedata.normalize("NFD", chr(code)) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert not {mark for decomposed in found for mark in decomposed[1:]} & set(ALL)
    assert not any(unicodedata.combining(character) for character in ALL)


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}])
@pytest.mark.parametrize("pattern", sorted(CUTTABLE))
def test_a_text_has_the_ids_of_its_words(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, normalizer: object
) -> None:
    monkeypatch.setattr(word_cache, "_KEPT_WORDS", 300)
    monkeypatch.setattr(word_cache, "_MOST_HAN", 1.0)  # takes Han, too
    tokenizer = make(tokenizer_folder, pattern, normalizer)
    memory = load_words(tokenizer._made_of, tokenizer._encode_all)
    assert memory is not None
    draw = random.Random(0)
    texts = [*gigatoken.TRAPS, *(sentence(n, 20) + han(n, 20) for n in range(20))]
    for _ in range(400):
        texts.append("".join(draw.choice([*ODD, draw.choice(ALL)]) for _ in range(draw.randrange(1, 30))))
    together = memory.encode_all(texts)
    for text, ids, grouped in zip(texts, tokenizer._encode_all(texts), together, strict=True):
        assert np.array_equal(memory.encode(text), ids), ascii(text)
        assert np.array_equal(grouped, ids), ascii(text)


@pytest.mark.parametrize("pattern", sorted(CUTTABLE))
def test_common_characters_are_split_in_the_same_way(pattern: str) -> None:
    split, draw = pre_tokenizers.Split(Regex(pattern), "isolated"), random.Random(1)
    everything = re.findall(f"[{word_cache.COMMON}]", "".join(map(chr, range(0x10000))))
    assert set(everything) <= set(ALL)
    signs = [
        "a", "Q", "é", "7", "'s", "'Ll", "'", " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x1c", "\x00", "_", "=", ".",
        "天", "\u3000", "，", "×", "“",
    ]  # fmt: skip
    texts = ["".join(everything), *("".join(draw.choices([*signs, *everything[:128]], k=200)) for _ in range(200))]
    texts += ["".join(draw.choices([*signs, *everything[128:400], *everything[-60:]], k=200)) for _ in range(200)]
    texts += [f"{draw.choice(signs)}{each}{draw.choice(signs)}{each}" for each in everything]
    take = re.compile(in_common(pattern), re.ASCII).findall
    for text in texts:
        assert take(text) == [word for word, _ in split.pre_tokenize_str(text)], ascii(text)


@pytest.mark.parametrize("parts", [[], ["\x80\xe5", "\xa4\xa9\xe5\x9c", "\x9c\xb0\xe7\x8e\x84", "a\xe5", "\xb0"]])
def test_han_is_cut_only_where_no_token_crosses(parts: list[str]) -> None:
    """``parts``: tokens of bytes, some of which hold only a part of a character."""
    signs = {byte: sign for sign, byte in apart_pairs.byte_of_sign().items()}
    tokens = [token.encode() for token in ("天地", "地玄黄", "和", "，天")] + [part.encode("latin-1") for part in parts]
    pairs = ApartPairs(["".join(signs[byte] for byte in token) for token in tokens] + ["<|not a text|>"])
    text = "天地玄黄，宇宙洪荒天天地地玄\u4dc0\u3400黄\U00020000黄" + han(3, 300)
    cuts = pairs.find_cuts(np.array([*map(ord, text)], dtype=np.uint32)).tolist()
    for at in range(1, len(text)):
        before, after = text[at - 1].encode(), text[at].encode()
        crosses = any(
            (before.endswith(token[:n]) or token[:n].endswith(before))
            and (after.startswith(token[n:]) or token[n:].startswith(after))
            for token in tokens
            for n in range(1, len(token))
        )
        both = all(re.fullmatch("[\u3400-\u4dbf\u4e00-\u9fff]", sign) for sign in text[at - 1 : at + 1])
        assert cuts[at] == (both and not crosses), (at, text[at - 1 : at + 1])
    assert not cuts[0] and sum(cuts) > 200


@pytest.mark.parametrize("number", range(12))
def test_any_merges_give_the_ids_of_the_tokenizer(tokenizer_folder: Path, number: int) -> None:
    """Merges of bytes that are drawn: many begin or end within a character, or hold parts of several."""
    draw = random.Random(number)
    signs = {byte: sign for sign, byte in apart_pairs.byte_of_sign().items()}
    drawn = [*"天地玄黄\u3400\u4e00\u9fff\uf900", "é", "x", "，", "1", "\n", " ", "の"]
    vocabulary, merges = {sign: byte for byte, sign in signs.items()}, list[tuple[str, str]]()
    for _ in range(80):
        text = "".join(signs[byte] for byte in "".join(draw.choices(drawn, k=3)).encode())
        at = draw.randrange(1, len(text))
        before = max((token for token in vocabulary if text[:at].endswith(token)), key=len)
        after = max((token for token in vocabulary if text[at:].startswith(token)), key=len)
        if before + after not in vocabulary:
            vocabulary[before + after] = len(vocabulary)
            merges.append((before, after))
    made_of = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    made_of["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = draw.choice(sorted(CUTTABLE))
    made_of["model"] |= {"vocab": vocabulary, "merges": merges}
    made_of |= {"added_tokens": [], "normalizer": draw.choice([None, {"type": "NFC"}])}
    tokenizer = Tokenizer(Bpe.from_str(json.dumps(made_of)), bos_id=None, eos_id=0)
    memory = load_words(made_of, tokenizer._encode_all)
    assert memory is not None and memory._apart is not None
    texts = ["".join(draw.choices(drawn, k=draw.randrange(1, 40))) for _ in range(60)]
    together = memory.encode_all(texts)
    for text, ids, grouped in zip(texts, tokenizer._encode_all(texts), together, strict=True):
        assert np.array_equal(memory.encode(text), ids), ascii(text)
        assert np.array_equal(grouped, ids), ascii(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("ignore_merges", True), ("fuse_unk", True), ("continuing_subword_prefix", "##"), ("end_of_word_suffix", "</w>")],
)
def test_chinese_goes_without_a_memory_where_words_may_not_be_cut(
    tokenizer: Tokenizer, key: str, value: object
) -> None:
    made_of = {**tokenizer._made_of, "model": {**tokenizer._made_of["model"], key: value}}
    memory = load_words(made_of, tokenizer._encode_all)
    assert memory is not None
    for text, learns in ((han(1, 200) + sentence(1, 20), False), (sentence(2, 200) + han(2, 10), True)):
        assert np.array_equal(memory.encode(text), tokenizer._encode_all([text])[0])
        assert bool(memory._ids) == learns


def test_unknown_bytes_that_join_to_one_token_are_not_cut(tokenizer_folder: Path) -> None:
    """Two characters whose bytes the vocabulary lacks are one unknown token where ``fuse_unk`` holds."""
    made_of = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    signs = {byte: sign for sign, byte in apart_pairs.byte_of_sign().items()}
    lacking = {signs[byte] for byte in "天".encode()}
    model = made_of["model"]
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if not lacking & {*token}}
    model["merges"] = [merge for merge in merges if not lacking & {*"".join(merge)}]
    model |= {"unk_token": "?", "fuse_unk": True}
    tokenizer = Tokenizer(Bpe.from_str(json.dumps(made_of)), bos_id=None, eos_id=0)
    memory = load_words(tokenizer._made_of, tokenizer._encode_all)
    assert memory is not None
    for text in ("天天天", "x 天天 y"):
        assert np.array_equal(memory.encode(text), tokenizer._encode_all([text])[0])


def test_what_is_no_word_is_left_to_the_tokenizer(tokenizer_folder: Path) -> None:
    made_of = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    own = {"id": 399, "content": "<tool>", "special": False, "normalized": False, "single_word": False}
    made_of["added_tokens"].append({**own, "lstrip": False, "rstrip": False})
    tokenizer = Tokenizer(Bpe.from_str(json.dumps(made_of)), bos_id=None, eos_id=0)
    memory = load_words(tokenizer._made_of, tokenizer._encode_all)
    assert memory is not None
    for text in ("a <tool> b", "a <tool b", "ne\u0301e", "\u0e44\u0e17\u0e22 x"):
        assert np.array_equal(memory.encode(text), tokenizer._encode_all([text])[0])
    made_of["model"]["dropout"] = 0.1
    assert load_words(made_of, tokenizer._encode_all) is None
    made_of["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\S+|\s+"
    assert load_words(made_of, tokenizer._encode_all) is None


def test_words_follow_where_gigatoken_errs(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def encode(self, text: str) -> np.ndarray:
            return tokenizer._encode_all([text if text in gigatoken.TRAPS else f"{text}x"])[0]

    monkeypatch.setattr(gigatoken, "_load", lambda _: Wrong())
    monkeypatch.setattr(gigatoken, "_CHECKED_CHARACTERS", 100)
    quick, texts = gigatoken.Fast(tokenizer._made_of, tokenizer._encode_all), [sentence(n, 60) for n in range(6)]
    assert all(map(np.array_equal, quick.encode(texts), tokenizer._encode_all(texts)))
    assert quick.trusted and isinstance(quick._encoder, word_cache.WordCache)
