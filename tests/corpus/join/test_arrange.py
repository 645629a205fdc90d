"""Texts cut into chunks that stand among those of others: every text comes back from its chunks, letter by letter."""

import json
import re
from collections import defaultdict
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from corpus.conftest import write_records
from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.join.arrange import Chunk, interleave, put_between
from ropewalk.corpus.join.cut_places import TextCutter
from ropewalk.corpus.join.rare_terms import list_related
from ropewalk.corpus.join_rules import JoinRules, RelatedRules
from ropewalk.corpus.mix.dataset import open_dataset
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.joined_documents import JoinedDocuments
from ropewalk.corpus.tokens.store import all_documents
from ropewalk.corpus.tokens.tokenizer import Tokenizer

EVENTS, OF_EACH = 6, 6
BORDER = "\n#####\n"


def report(event: int, at: int) -> str:
    """Lines of words of all texts, and names that only the reports on this event have."""
    names = [f"Q{event}{sign}x" for sign in "jkvz"]
    lines = [f"{sentence(100 * event + 10 * at + line, 4)} {names[(at + line) % 4]}" for line in range(9)]
    return "\n".join([*lines, han(100 * event + at, 12)])


TEXTS = [report(event, at) for event in range(EVENTS) for at in range(OF_EACH)]
COPIES = [text.replace(text.split()[3], "winter", 1) for text in TEXTS[::OF_EACH]]
"""Of the first report on each event, with one word changed."""


def make(folder: Path, tokenizer: Tokenizer, texts: list[str], name: str = "corpus", **related: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    path = write_records(folder, "x.jsonl", [{"text": text} for text in texts])
    join = {"related": {"target_tokens": 900, **related}, "separator": BORDER}
    source = {"name": "x", "path": str(path), "role": "general", "profile": "markup", "join": join}
    made = {"store": str(folder / "store"), "mix": {"x": 1}, "repeated_sections": None, "worker_count": 1}
    spec = CorpusSpec.model_validate({**made, "sources": [source], "near_duplicates": None, "held_out": 0.1})
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder / name))


def read(corpus: Corpus, tokenizer: Tokenizer, *, held_out: bool = False) -> list[list[str]]:
    """The chunks of each document."""
    documents = all_documents(corpus.held_out("x")) if held_out else corpus.train("x")
    found = [documents.read(at)[0].tolist() for at in range(len(documents))]
    assert all(ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id for ids in found)
    assert not any({tokenizer.bos_id, tokenizer.eos_id} & {*ids[1:-1]} for ids in found)
    return [tokenizer.decode(ids[1:-1]).split(BORDER) for ids in found]


def place(chunk: str, texts: list[str], own: Collection[str]) -> tuple[str, int]:
    """The text with a chunk, and where in it; found in all texts. A chunk of a near copy may be in its original too;
    ``own`` are the texts that the document has so far."""
    found = [text for text in texts if chunk in text]
    if len(found) > 1:
        found = [text for text in found if text in own]
    assert len(found) == 1, chunk
    return found[0], found[0].index(chunk)


def by_text(chunks: list[str], texts: list[str]) -> dict[str, list[tuple[int, int, str]]]:
    """(place in the text, place in the document, chunk) of each text of a document, in the document's order."""
    own: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for number, chunk in enumerate(chunks):
        text, at = place(chunk, texts, own)
        own[text].append((at, number, chunk))
    return own


@pytest.fixture(scope="module")
def chained(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("arranged"), tokenizer, TEXTS + COPIES)


@pytest.fixture(scope="module")
def interleaved(chained: Corpus, tokenizer: Tokenizer) -> Corpus:
    return make(chained.folder.parent, tokenizer, TEXTS + COPIES, "cut", arrange="interleave", chunks=3)


def test_all_first_chunks_stand_before_all_second_ones(
    chained: Corpus, interleaved: Corpus, tokenizer: Tokenizer
) -> None:
    """The same texts make a document as without; by a search for each chunk in all texts."""
    texts = TEXTS + COPIES
    whole, cut = read(chained, tokenizer), read(interleaved, tokenizer)
    assert len(whole) == len(cut) and max(map(len, whole)) > 3
    for own, chunks in zip(whole, cut, strict=True):
        found = by_text(chunks, texts)
        assert [*found] == own  # the first chunks stand in the order of the chain
        for text, places in found.items():
            assert places == sorted(places) and "".join(chunk for *_, chunk in places) == text
            assert len(places) == (3 if len(own) > 1 else 1)
            assert all(chunk.endswith("\n") for *_, chunk in places[:-1])  # lines stay whole
        turns = [[number for _, number, _ in places] for places in found.values()]
        assert [number for turn in zip(*turns, strict=True) for number in turn] == [*range(len(chunks))]
    told = interleaved.ledger["x"]["joins"]["train"]
    assert told["cut"] == sum(len(own) for own in whole if len(own) > 1)
    assert told["tokens_in"] == chained.ledger["x"]["joins"]["train"]["tokens_in"]


@pytest.mark.parametrize("arrange", ["interleave", "negatives"])
def test_each_token_of_the_store_stands_there_once(interleaved: Corpus, tokenizer: Tokenizer, arrange: str) -> None:
    corpus = interleaved
    if arrange == "negatives":
        corpus = make(corpus.folder.parent, tokenizer, TEXTS + COPIES, "negatives", arrange=arrange, knots=True)
    documents, stored, told = corpus.train("x"), corpus.stored("x"), corpus.ledger["x"]["joins"]["train"]
    assert isinstance(documents, JoinedDocuments)
    used, first = np.zeros(stored.tokens, dtype=np.int64), np.cumsum([0, *stored.lengths])
    for document in range(len(documents)):
        for piece in documents.origin(document, 0, int(documents.lengths[document])):
            if piece["document"] >= 0:
                used[first[piece["document"]] + piece["start"] :][: piece["tokens"]] += 1
    train = np.load(corpus.folder / "x" / "train.npy")
    assert used.max() == 1 and used.sum() + told["border_tokens"] == stored.lengths[train].sum() == told["tokens_in"]
    assert used.sum() + told["added_tokens"] == documents.tokens == told["tokens_out"] and told["parts"] == len(train)


def walk(corpus: Corpus, target_tokens: int) -> list[list[int]]:
    """Which stored texts make a document, the one that is cut first: by a search of our own among the neighbours."""
    chosen = np.load(corpus.folder / "x" / "train.npy")
    signatures = np.load(corpus.store("x") / "signatures.npy")
    digests = np.load(corpus.store("x") / "digests.npy")
    order = sorted(chosen.tolist(), key=lambda number: int(digests[number]))
    stored = corpus.stored("x")
    near = [*list_related(stored.take(np.array(order)), RelatedRules(target_tokens=target_tokens))]
    left, found = sorted(range(len(order)), key=lambda at: len(near[at])), list[list[int]]()
    while left:
        centre = left.pop(0)
        own, taken = [centre], [centre]
        while True:
            fit = [
                at
                for at in near[own[0]]
                if at in left and all((signatures[order[at]] == signatures[order[one]]).mean() < 0.3 for one in own)
            ]
            if not fit:
                break
            left.remove(fit[0])
            if sum(int(stored.lengths[order[at]]) for at in [*own, fit[0]]) > target_tokens:
                found.append(own)
                own = []
            own.append(fit[0])
            taken.append(fit[0])
        found.append(own)
    return [[order[at] for at in own] for own in found]


def test_the_nearest_texts_stand_between_the_chunks_of_the_first(chained: Corpus, tokenizer: Tokenizer) -> None:
    texts = TEXTS + COPIES
    rules = {"arrange": "negatives", "chunks": 4, "target_tokens": 700}
    corpus = make(chained.folder.parent, tokenizer, texts, "between", **rules)
    stored, gaps = corpus.stored("x"), set[int]()
    for chunks, own in zip(read(corpus, tokenizer), walk(corpus, 700), strict=True):
        found = by_text(chunks, texts)
        assert [*found] == [tokenizer.decode(stored.read(number)[0][1:-1]) for number in own]
        centre, *others = found
        assert "".join(chunk for *_, chunk in found[centre]) == centre
        assert all(len(found[text]) == 1 and found[text][0][2] == text for text in others)
        places = [number for _, number, _ in found[centre]]
        if others:
            assert places[0] == 0 and places[-1] == len(chunks) - 1 and len(places) == min(4, len(others) + 1)
            gaps |= {b - a for a, b in pairwise(places)}
    assert min(gaps) > 1 and max(gaps) < 6


@pytest.mark.parametrize("name", ["cut", "negatives"])
def test_near_copies_and_their_originals_are_never_in_one_document(
    interleaved: Corpus, tokenizer: Tokenizer, name: str
) -> None:
    rules = {"chunks": 3, "arrange": "interleave"} if name == "cut" else {"arrange": "negatives", "knots": True}
    corpus = make(interleaved.folder.parent, tokenizer, TEXTS + COPIES, name, **rules)
    originals = dict(zip(COPIES, TEXTS[::OF_EACH], strict=True))
    for chunks in read(corpus, tokenizer):
        whole = "".join(chunks)
        assert not any(copy[:60] in whole and original[:60] in whole for copy, original in originals.items())


def test_a_shuffled_input_gives_the_same_bytes(interleaved: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    other = make(tmp_path, tokenizer, (TEXTS + COPIES)[::-1], arrange="interleave", chunks=3)
    assert other.digest == interleaved.digest and read(other, tokenizer) == read(interleaved, tokenizer)


def test_it_is_one_document_to_the_mask_and_held_out_text_is_not_cut(
    chained: Corpus, interleaved: Corpus, tokenizer: Tokenizer
) -> None:
    rows = open_dataset(interleaved, mix={"x": 1}, context_tokens=1024, sequences=4, seed=0, stage=0, max_repeats=4)
    lengths = {*interleaved.train("x").lengths.tolist()}
    assert {size for row in range(4) for size in rows.document_tokens(row)} <= lengths
    held = read(interleaved, tokenizer, held_out=True)
    assert held == read(chained, tokenizer, held_out=True) and {text for own in held for text in own} <= {
        *TEXTS,
        *COPIES,
    }


def test_knots_number_the_chunks_and_ask_for_them(chained: Corpus, tokenizer: Tokenizer) -> None:
    texts = TEXTS + COPIES
    corpus = make(chained.folder.parent, tokenizer, texts, "knots", arrange="interleave", knots=True)
    several = [chunks for chunks in read(corpus, tokenizer) if len(chunks) > 1]
    documents = corpus.train("x")
    for at in range(len(documents)):  # no loss on the numbers of chunks
        ids, mask = documents.read(at)
        chunks = tokenizer.decode(ids[1:-1]).split(BORDER)
        trained = BORDER.join(re.sub(r"^\[\d+\]\n", "", chunk) for chunk in chunks)
        assert tokenizer.decode(ids[1:-1][mask[1:-1] > 0]) == trained
    for chunks in several:
        lists: dict[str, str] = {}
        numbers: dict[str, list[str]] = defaultdict(list)
        for number, chunk in enumerate(chunks, 1):
            head, _, rest = chunk.partition("\n")
            assert head == f"[{number}]"
            body, _, last = rest.rpartition("\n")
            ended = body if last.startswith("[") else rest
            text, _ = place(ended, texts, numbers)
            numbers[text].append(str(number))
            if ended != rest:
                lists[text] = last
        assert lists == {text: f"[{' '.join(own)}]" for text, own in numbers.items()}
        assert all(len(own) == 2 for own in numbers.values())
    assert len(several) > 3


def test_orders_by_hand() -> None:
    a, b, c = ([Chunk(text, at, at + 1) for at in range(count)] for text, count in ((0, 3), (1, 1), (2, 2)))
    assert interleave([a, b, c]) == [a[0], b[0], c[0], a[1], c[1], a[2]]
    others = [Chunk(9, at, at + 1) for at in range(5)]
    assert put_between(a, others) == [a[0], *others[:2], a[1], *others[2:], a[2]]
    assert put_between(b, others) == [*b, *others]


def test_a_text_is_cut_at_lines_and_never_within_a_character(tokenizer: Tokenizer) -> None:
    cutter = TextCutter(tokenizer, fewest_tokens=4)
    for text in (han(7, 200), "🌲🌊" * 30, report(0, 0), "a", sentence(5, 60)):
        ids = tokenizer.encode_inside(text)
        borders = cutter.cut(ids, 5)
        parts = [tokenizer.decode(ids[begin:end]) for begin, end in pairwise(borders)]
        assert borders[0] == 0 and borders[-1] == len(ids) and "".join(parts) == text
        assert len(parts) == (1 if text == "a" else 5)


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ({"chunks": 3}, "a chain has whole texts"),
        ({"knots": True}, "a chain has whole texts"),
        ({"arrange": "negatives", "control": True}, "negatives are the nearest ones"),
        ({"arrange": "interleave", "chunks": 1}, "is cut into 2 to 16 chunks"),
    ],
)
def test_rules_that_make_no_sense(rules: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        JoinRules.model_validate({"related": {"target_tokens": 9, **rules}})


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"role": "instruction"}, "an answer would be cut"),
        ({"tasks": {}}, "need whole texts"),
        ({"fill_in_middle": {}}, "need whole texts"),
        ({"join": {"related": {"target_tokens": 9, "arrange": "interleave"}, "attend": "parts"}}, "leave out one"),
    ],
)
def test_what_cut_texts_cannot_stand_with(keys: dict[str, Any], fault: str) -> None:
    join = {"related": {"target_tokens": 9, "arrange": "interleave"}}
    with pytest.raises(ValidationError, match=fault):
        Source.model_validate({"name": "a", "path": "x", "role": "general", "join": join, **keys})


@pytest.mark.parametrize("keys", [{}, {"arrange": "chain", "chunks": 2, "knots": False}])
def test_plain_chains_of_before_the_keys_of_arrangements_are_taken_again(
    keys: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """A folder says nothing of keys that came later, or has them with their defaults; nothing else may differ."""
    made = make(tmp_path, tokenizer, TEXTS[:20])
    manifest = made.folder / "manifest.json"
    held = json.loads(manifest.read_text())
    related = held["inputs"]["corpus"]["sources"][0]["join"]["related"]
    assert not {"arrange", "chunks", "knots"} & related.keys()
    related.update(keys)
    del held["digest"]
    manifest.write_text(json.dumps(held))
    assert make(tmp_path, tokenizer, TEXTS[:20]).digest == made.digest
    with pytest.raises(UserError, match="another corpus"):
        make(tmp_path, tokenizer, TEXTS[:20], arrange="interleave")
