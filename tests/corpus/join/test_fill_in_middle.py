"""Filling in the middle is undone here by splitting at the sentinels, which gives every text back, letter by letter."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer as Bpe
from tokenizers import decoders, models, normalizers

from corpus.conftest import write_records
from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.fill_rules import KNOWN_SENTINELS, FillRules
from ropewalk.corpus.join.fill_in_middle import find_sentinels
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.store import all_documents
from ropewalk.corpus.tokens.tokenizer import Tokenizer

PRE, SUF, MID, EOT = "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"
TEXTS = [f"def f{n}():\n    {sentence(n, 12)}\n    # {han(n, 20)}\n{sentence(900 + n, 14)}" for n in range(60)]


def with_tokens(tokenizer: Tokenizer, names: tuple[str, ...]) -> Tokenizer:
    """The tokenizer of these tests with more special tokens."""
    entry = tokenizer.to_json()
    bpe = Bpe.from_str(entry["tokenizer"])
    bpe.add_special_tokens([*names])
    return Tokenizer.from_json({**entry, "tokenizer": bpe.to_str()})


def make(folder: Path, tokenizer: Tokenizer, texts: list[Any] = TEXTS, name: str = "corpus", **keys: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    path = write_records(
        folder,
        "code.jsonl",
        [
            {"repo": n // 4, "n": n, **(text if isinstance(text, dict) else {"text": text})}
            for n, text in enumerate(texts)
        ],
    )
    source = {"name": "code", "path": str(path), "role": "domain", "profile": "markup", "near_duplicates": None, **keys}
    made = {
        "store": str(folder / "store"),
        "sources": [source],
        "mix": {"code": 1},
        "repeated_sections": None,
        "worker_count": 1,
    }
    spec = CorpusSpec.model_validate({**made, "held_out": 0.05})
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder / name))


def undo(text: str) -> str:
    """One text with sentinels as it was."""
    if PRE not in text:
        return text
    before, _, rest = text.partition(PRE)
    assert not before and rest.endswith(EOT)
    prefix, _, rest = rest.removesuffix(EOT).partition(SUF)
    suffix, _, middle = rest.partition(MID)
    return prefix + middle + suffix


def read(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    documents = corpus.train("code")
    return [tokenizer.decode(documents.read(at)[0][1:-1]) for at in range(len(documents))]


@pytest.fixture(scope="module")
def llama(tokenizer: Tokenizer) -> Tokenizer:
    return with_tokens(tokenizer, (PRE, SUF, MID, EOT))


@pytest.fixture(scope="module")
def filled(llama: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("filled"), llama, fill_in_middle={"rate": 0.8})


def test_every_text_comes_back(filled: Corpus, llama: Tokenizer) -> None:
    found = read(filled, llama)
    held = all_documents(filled.held_out("code"))
    rest = [llama.decode(held.read(at)[0][1:-1]) for at in range(len(held))]
    assert Counter([*map(undo, found), *rest]) == Counter(TEXTS) and not any(PRE in text for text in rest)
    moved = [text for text in found if PRE in text]
    assert 0.6 < len(moved) / len(found) < 0.95
    suffix_first = [text for text in moved if text.startswith(PRE + SUF)]
    assert 0.3 < len(suffix_first) / len(moved) < 0.7
    assert all(text.count(name) == 1 for text in moved for name in (PRE, SUF, MID, EOT))


def test_cuts_lie_anywhere_also_within_words(filled: Corpus, llama: Tokenizer) -> None:
    """And each token that is not beside a cut is the store's own."""
    moved = [text for text in read(filled, llama) if PRE in text and not text.startswith(PRE + SUF)]
    ends = [text.partition(PRE)[2].partition(SUF)[0] for text in moved]
    within = [
        end for end, text in zip(ends, moved, strict=True) if end[-1:].isalpha() and undo(text)[len(end)].isalpha()
    ]
    assert len(within) > len(moved) / 4
    told = filled.ledger["code"]["joins"]["train"]
    assert told["filled"] > 0 and 0 < told["recoded_tokens"] < 33 * told["filled"]
    assert told["tokens_in"] == told["tokens_out"] - told["added_tokens"] + told["recoded_tokens"]


def test_files_of_a_join_are_filled_one_by_one(llama: Tokenizer, tmp_path: Path) -> None:
    rules = {"by": "repo", "order": "n", "separator": "\n###\n", "header": "# {n}\n"}
    corpus = make(tmp_path, llama, join=rules, fill_in_middle={"rate": 1, "most_tokens": 10_000})
    for document in read(corpus, llama):
        parts = document.split("\n###\n")
        heads = [part.partition("\n")[0] for part in parts]
        numbers = [int(head.removeprefix("# ")) for head in heads]
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        assert [undo(part.partition("\n")[2]) for part in parts] == [TEXTS[number] for number in numbers]
        assert document.count(MID) == 4


def test_long_and_short_texts_stay_as_they_are(filled: Corpus, llama: Tokenizer) -> None:
    corpus = make(filled.folder.parent, llama, name="short", fill_in_middle={"rate": 1, "most_tokens": 20})
    assert Counter(read(corpus, llama)) <= Counter(TEXTS) and corpus.ledger["code"]["joins"]["train"]["filled"] == 0


def test_texts_with_sentinels_or_with_prompts_stay_as_they_are(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Some bases have sentinels that are no special tokens, so that a text about them is encoded with them."""
    entry = tokenizer.to_json()
    bpe = Bpe.from_str(entry["tokenizer"])
    bpe.add_tokens([PRE, SUF, MID])
    own = Tokenizer.from_json({**entry, "tokenizer": bpe.to_str()})
    about, asked = f"{TEXTS[0]} {MID} {TEXTS[1]}", {"text": TEXTS[2], "loss_spans": [[9, len(TEXTS[2])]]}
    rules = {"rate": 1, "sentinels": [PRE, SUF, MID]}
    corpus = make(tmp_path, own, [about, asked, *TEXTS[3:9]], fill_in_middle=rules)
    found = read(corpus, own)
    assert {text for text in found if PRE not in text} == {about, TEXTS[2]} and len(found) == 8


@pytest.mark.parametrize("names", KNOWN_SENTINELS, ids=lambda names: names[0])
def test_tokens_of_known_bases_are_found(tokenizer: Tokenizer, names: tuple[str, ...]) -> None:
    own = with_tokens(tokenizer, names)
    ids = find_sentinels(FillRules(), own, where="source x")
    assert [own.decode([id]) for id in ids] == [*names]


def test_a_base_without_such_tokens_is_refused_before_anything_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokens for filling in the middle.*\n.*source code"):
        make(tmp_path / "a", tokenizer, fill_in_middle={})
    assert not (tmp_path / "a" / "store").exists()
    rules = {"sentinels": ["<|begin|>", "<X>", "<Y>"]}
    with pytest.raises(UserError, match=r"not in its vocabulary: <X>, <Y>"):
        make(tmp_path / "b", tokenizer, fill_in_middle=rules)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["<A>", "<B>", "<A>"], "a token stands for one place"),
        (["<my_prefix>", "<my_middle>", "<my_suffix>"], "<my_middle> is given as the suffix"),
        ([PRE, MID, SUF], "the order is prefix, suffix, middle: "),
        (["<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜fim▁hole｜>"], "middle: <｜fim▁begin｜>, <｜fim▁hole｜>"),
    ],
)
def test_sentinels_in_another_order_are_refused(names: list[str], told: str) -> None:
    """Trained so, the base would write the suffix where the middle is asked for."""
    with pytest.raises(ValidationError, match=re.escape(told)):
        FillRules.model_validate({"sentinels": names})
    assert FillRules.model_validate({"sentinels": ["<A>", "<B>", "<C>", "<D>"]}).sentinels


def test_the_end_of_documents_is_no_sentinel(tokenizer: Tokenizer) -> None:
    end = tokenizer.decode([tokenizer.eos_id])
    own = with_tokens(tokenizer, ("<A>", "<B>", "<C>"))
    rules = FillRules(sentinels=("<A>", "<B>", "<C>", end))
    with pytest.raises(UserError, match="begins or ends every document of this base"):
        find_sentinels(rules, own, where="source x")


def test_tokens_of_ordinary_text_are_no_sentinels(tokenizer: Tokenizer) -> None:
    """Tokens of words, with and without a blank before them, of blanks that were added, and of a byte of a letter."""
    from_words = {tokenizer._bpe.id_to_token(int(id)) for id in tokenizer.encode(sentence(1, 200) + han(1, 50))}
    word, inner, byte = "Ġ" + max((name[1:] for name in from_words if name[0] == "Ġ"), key=len), "t", "ä"
    marked = with_tokens(tokenizer, ("<A>", "<B>", "<C>"))
    bpe = Bpe.from_str(marked.to_json()["tokenizer"])
    bpe.add_tokens(["   "])
    spaced = Tokenizer.from_json({**marked.to_json(), "tokenizer": bpe.to_str()})
    assert find_sentinels(FillRules(sentinels=("<A>", "<B>", "<C>")), spaced, where="")
    for name in (word, inner, byte, "   "):
        with pytest.raises(UserError, match=rf"token of ordinary text[\s\S]*with {name!r}, so"):
            find_sentinels(FillRules(sentinels=("<A>", "<B>", name)), spaced, where="")


@pytest.mark.parametrize("merged", [False, True])
def test_sentencepiece_tokens_are_sentinels_unless_text_makes_them(merged: bool) -> None:
    """Converted vocabularies hold such pieces without marking them as added; no merge of letters leads to them."""
    pieces = ["<unk>", "</s>", "▁", "<", "P", ">", *(f"<0x{byte:02X}>" for byte in range(256)), PRE, SUF, MID]
    merges = [("▁", "<"), ("▁<", "P"), ("▁<P", ">")] if merged else []
    pieces += ["▁<", "▁<P", "▁<P>"] if merged else []
    model = models.BPE({name: at for at, name in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    bpe = Bpe(model)
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.add_special_tokens(["<unk>", "</s>"])
    llama = Tokenizer(bpe, bos_id=None, eos_id=1)
    ids = [bpe.token_to_id(name) for name in (PRE, SUF, MID)]
    assert find_sentinels(FillRules(sentinels=(PRE, SUF, MID)), llama, where="") == ids
    for name in ["<0xE2>", "P", *(["▁<P>"] if merged else [])]:
        with pytest.raises(UserError, match="token of ordinary text"):
            find_sentinels(FillRules(sentinels=(PRE, SUF, name)), llama, where="")


def test_instructions_are_not_filled(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="not for instructions"):
        make(tmp_path, tokenizer, fill_in_middle={}, role="instruction")


def test_another_order_of_the_texts_gives_the_same_documents(filled: Corpus, llama: Tokenizer, tmp_path: Path) -> None:
    other = make(tmp_path, llama, TEXTS[::-1], fill_in_middle={"rate": 0.8})
    assert other.digest == filled.digest and np.array_equal(other.train("code").lengths, filled.train("code").lengths)
