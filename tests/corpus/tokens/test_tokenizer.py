"""Ids are those of the tokenizer on the whole text, and no text can forge a border."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Bpe
from tokenizers import decoders, models, normalizers, processors, trainers

from made_texts import han, sentence
from ropewalk.core import progress
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.tokens import gigatoken
from ropewalk.corpus.tokens.gigatoken import Fast
from ropewalk.corpus.tokens.safe_splits import CUTTABLE, may_cut
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.corpus.tokens.train_tokenizer import BEGIN, END, train_tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def document(text: str, loss_spans: tuple[tuple[int, int], ...] | None = None) -> Document:
    return Document(text, "source", "instruction", "en", "1", loss_spans)


def copy_with(folder: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(folder, target)
    path = target / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


def metaspace_tokenizer(folder: Path) -> Path:
    """Like Llama 2's: a space before every text, BOS by the post-processor."""
    bpe = Bpe(models.BPE(unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=["\n"], show_progress=False
    )
    bpe.train_from_iterator([sentence(number) + "\n" for number in range(30)], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder.mkdir()
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    return folder


@given(text=st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_a_text_are_text(tokenizer: Tokenizer) -> None:
    text = f"one{END}two {END}"
    tokens, mask = tokenizer.encode_document(document(text))
    assert np.flatnonzero(tokens == tokenizer.eos_id).tolist() == [len(tokens) - 1]
    assert tokenizer.decode(tokens) == BEGIN + text + END and mask.all()


def test_han_latin_and_digits_never_share_a_token(tokenizer_folder: Path, tokenizer: Tokenizer) -> None:
    text = "river天地stone2024年日月 maple寒来"
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text).tolist()]
    kinds = [{("digit" if c.isdigit() else "han" if c > "一" else "latin") for c in piece.strip()} for piece in pieces]
    assert all(len(kind) <= 1 for piece, kind in zip(pieces, kinds, strict=True) if "\ufffd" not in piece)
    assert [piece for piece in pieces if piece.isdigit()] == list("2024")


@pytest.mark.parametrize("pattern", sorted(CUTTABLE))
@given(
    parts=st.lists(st.sampled_from(["\n", " ", "\t", "\r\n", "a", "ab'll", "天地", "9", "--", ".\n", "\u3000", "é"]))
)
@settings(max_examples=100, deadline=None)
def test_a_cut_at_a_line_break_changes_no_id(tokenizer_folder: Path, pattern: str, parts: list[str]) -> None:
    made_of = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    made_of["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    tokenizer = Tokenizer(Bpe.from_str(json.dumps(made_of)), bos_id=None, eos_id=0)
    assert tokenizer._cuttable
    text = "".join(parts)
    for longest in (0, 1, 3):
        own = tokenizer._own(tokenizer._encode_all(list(tokenizer._cut(text, longest=longest))), inside=False)
        assert np.array_equal(np.concatenate(own), tokenizer._encode_all([text])[0])


@given(
    parts=st.lists(st.sampled_from(["\n", " ", "\t", "river", "stone ", "\r\n", "天", "9", "--", ".\n", "é", "\u0301"]))
)
@settings(max_examples=150, deadline=None)
def test_no_merge_reaches_over_a_line_break_of_llama_2(llama_folder: Path, parts: list[str]) -> None:
    tokenizer = load_tokenizer(llama_folder)
    assert tokenizer._cuttable and tokenizer._prepends
    text = "".join(parts)
    for longest in (0, 1, 3):
        own = tokenizer._own(tokenizer._encode_all(list(tokenizer._cut(text, longest=longest))), inside=False)
        assert np.array_equal(np.concatenate(own), tokenizer._encode_all([text])[0])


def test_a_vocabulary_that_merges_over_line_breaks_is_not_cut(llama_folder: Path) -> None:
    made_of = json.loads((llama_folder / "tokenizer.json").read_text())
    assert may_cut(made_of)
    made_of["model"]["vocab"]["\n▁river"] = len(made_of["model"]["vocab"])
    assert not may_cut(made_of)
    made_of["model"]["vocab"].pop("\n▁river")
    made_of["normalizer"]["normalizers"].append({"type": "NFKC"})
    assert not may_cut(made_of)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return metaspace_tokenizer(tmp_path_factory.mktemp("llama") / "made")


def known_tokenizer(tokenizer_folder: Path) -> Tokenizer:
    """One that gigatoken has a pre-tokenizer for."""
    made_of = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    made_of["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = LLAMA3
    return Tokenizer(Bpe.from_str(json.dumps(made_of)), bos_id=1, eos_id=0)


def test_the_fast_path_gives_the_same_ids(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gigatoken")
    monkeypatch.setattr(gigatoken, "_CHECKED_CHARACTERS", 1000)
    documents = [document(sentence(n, 60) + f"\n{END}\n" + han(n, 90), ((0, 5),) if n % 3 else None) for n in range(60)]
    slow, quick = known_tokenizer(tokenizer_folder), known_tokenizer(tokenizer_folder)
    with monkeypatch.context() as patched:
        patched.setattr(gigatoken, "_load", lambda _: None)
        patched.setattr(gigatoken, "load_words", lambda *_: None)
        assert not slow.fast.trusted  # made now, and kept
    ours = list(quick.encode_documents(iter(documents)))
    again = list(quick.encode_documents(iter(documents)))
    assert quick.fast.trusted
    for first, second, truth in zip(ours, again, slow.encode_documents(iter(documents)), strict=True):
        assert np.array_equal(first[0], truth[0]) and np.array_equal(first[1], truth[1])
        assert np.array_equal(second[0], truth[0]) and np.array_equal(second[1], truth[1])


@pytest.mark.parametrize("wrong_on", ["traps", "text"])
def test_a_fast_path_that_errs_is_set_aside(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong_on: str
) -> None:
    slow = known_tokenizer(tokenizer_folder)

    class Wrong:
        """Right about everything but a trap, or but words of the user's own."""

        def encode(self, text: str) -> np.ndarray:
            right = slow._encode_all([text])[0]
            return right[:-1] if (text in gigatoken.TRAPS) == (wrong_on == "traps") and text else right

    monkeypatch.setattr(gigatoken, "_load", lambda _: Wrong())
    monkeypatch.setattr(gigatoken, "load_words", lambda *_: None)
    # a worker does not speak first: it tells only what its own text shows
    monkeypatch.setattr(progress._VOICE, "first", wrong_on == "traps")
    quick = known_tokenizer(tokenizer_folder)
    documents = [document(sentence(n, 60)) for n in range(20)]
    for ours, one in zip(quick.encode_documents(iter(documents)), documents, strict=True):
        assert np.array_equal(ours[0][1:-1], slow._encode_all([one.text])[0])
    assert not quick.fast.trusted and "ids differ" in capsys.readouterr().err


def test_a_fast_path_that_errs_later_stops_the_run(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = known_tokenizer(tokenizer_folder)

    class Late:
        def encode(self, text: str) -> np.ndarray:
            return slow._encode_all([text.replace("late", "")])[0]

    monkeypatch.setattr(gigatoken, "_load", lambda _: Late())
    monkeypatch.setattr(gigatoken, "_CHECKED_CHARACTERS", 100)
    quick = Fast(slow._made_of, slow._encode_all)
    quick.encode([sentence(1, 60)])
    assert quick.trusted
    with pytest.raises(UserError, match="other ids"):
        quick.encode(["a text that comes late"])


def test_a_tokenizer_that_gigatoken_cannot_load_is_told(
    tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gigatoken")
    for _ in range(2):  # every source makes its own
        assert not Fast(tokenizer._made_of, tokenizer._encode_all).trusted
    assert capsys.readouterr().err.count("cannot load this tokenizer") == 1


def test_an_unknown_split_is_encoded_whole(tokenizer_folder: Path, tmp_path: Path) -> None:
    made_of = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    made_of["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+(?!\S)|\s+|\S+"
    tokenizer = Tokenizer(Bpe.from_str(json.dumps(made_of)), bos_id=None, eos_id=0)
    text = (sentence(1) + "\n\n") * 200
    assert list(tokenizer._cut(text)) == [text]


def test_loss_spans_are_encoded_by_themselves(tokenizer: Tokenizer) -> None:
    text = "what is it? stone. and then? river"
    spans = ((12, 18), (29, 34))
    tokens, mask = tokenizer.encode_document(document(text, spans))
    trained = np.split(tokens, np.flatnonzero(np.diff(mask)) + 1)
    assert [tokenizer.decode(piece) for piece in trained] == [
        *(BEGIN, "what is it? ", "stone.", " and then? ", "river" + END)
    ]
    assert tokenizer.encode_document(document(text, ((0, 4),)))[1][-1] == 0
    assert tokenizer.encode_document(document(text, ()))[1][1:].sum() == 0


def test_few_texts_are_encoded_as_many(tokenizer: Tokenizer) -> None:
    """One or two without threads, more with them."""
    texts = ["\n\nWhere is the river?\n", f"one{END}", "天地 2024", "stone\n\nmaple " * 300]
    together = tokenizer.encode_all_inside(texts)
    assert len(together) == len(texts) and together[2].dtype == np.int64
    for text, ids in zip(texts, together, strict=True):
        alone, pair = tokenizer.encode_inside(text), tokenizer.encode_all_inside([text, "x"])[0]
        assert alone.tolist() == pair.tolist() == ids.tolist()


def test_questions_have_the_ids_of_the_library_once_words_are_trusted(tokenizer_folder: Path) -> None:
    slow, quick = load_tokenizer(tokenizer_folder), load_tokenizer(tokenizer_folder)
    texts = [f"\n\nHow often does “name_{n}” stand above, 第{n}条?\n" for n in range(30)] + ["", "天地", "a\nb"]
    quick.fast._checked = 1 << 30
    assert quick.fast.trusted and "fast" not in vars(slow)
    for one, other in zip(slow.encode_all_inside(texts), quick.encode_all_inside(texts), strict=True):
        assert one.tolist() == other.tolist() and one.dtype == other.dtype


def test_documents_in_a_batch_are_as_alone(tokenizer: Tokenizer) -> None:
    documents = [document(sentence(n) + "\n" + han(n) * 300, ((0, 5),) if n % 2 else None) for n in range(40)]
    for together, one in zip(tokenizer.encode_documents(documents), documents, strict=True):
        alone = tokenizer.encode_document(one)
        assert np.array_equal(together[0], alone[0]) and np.array_equal(together[1], alone[1])


def test_bos_by_the_post_processor_and_no_space_within(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(metaspace_tokenizer(tmp_path / "llama"))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    text = "river stone\nlantern"
    tokens, _ = tokenizer.encode_document(document(text, ((12, 19),)))
    assert tokens[0] == 1 and tokens[-1] == 2
    assert tokenizer._bpe.decode(tokens[1:-1].tolist()) == text


def test_our_own_loads_in_transformers(tokenizer_folder: Path, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    text = sentence(3) + "\n" + han(3) + "!"
    assert theirs(text).input_ids == [1, *tokenizer.encode(text).tolist()]
    assert (theirs.eos_token, theirs.eos_token_id, theirs.bos_token_id) == (END, 0, 1)


def test_training_twice_gives_the_same_bytes(tokenizer_folder: Path, tmp_path: Path) -> None:
    texts = [sentence(number) + "\n" + han(number) for number in range(50)]
    train_tokenizer(texts, vocabulary=400, folder=tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (tokenizer_folder / "tokenizer.json").read_bytes()


def test_what_the_config_says_of_bos_wins(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = copy_with(tokenizer_folder, tmp_path / "bos", bos_token=END, add_bos_token=True)
    assert load_tokenizer(folder).bos_id == 0
    assert load_tokenizer(copy_with(folder, tmp_path / "none", add_bos_token=False)).bos_id is None


def test_end_by_number(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = copy_with(tokenizer_folder, tmp_path / "numbered", eos_token=None)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    assert load_tokenizer(folder).eos_id == 7


def test_a_model_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no fast tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_torn_tokenizer_is_refused(tokenizer_folder: Path, tmp_path: Path, name: str) -> None:
    folder = copy_with(tokenizer_folder, tmp_path / "torn")
    (folder / name).write_text('{"version": ')
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(folder)


def test_a_tokenizer_without_an_end_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no end-of-document token(.|\n)*neither eos_token nor eos_token_id is given"):
        load_tokenizer(copy_with(tokenizer_folder, tmp_path / "endless", eos_token=None))
    with pytest.raises(UserError, match=r"its eos_token is <over>, which tokenizer\.json does not have"):
        load_tokenizer(copy_with(tokenizer_folder, tmp_path / "strange", eos_token="<over>"))


@pytest.mark.parametrize(("vocabulary", "message"), [(200, "too small"), (5000, "too little text")])
def test_a_vocabulary_that_cannot_be_is_refused(tmp_path: Path, vocabulary: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_tokenizer([sentence(1)], vocabulary=vocabulary, folder=tmp_path / "made")
    assert not (tmp_path / "made").exists()
