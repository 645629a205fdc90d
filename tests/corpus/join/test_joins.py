"""Joined documents are exactly their parts, in order, once each, whatever the order of the input."""

import random
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from corpus.conftest import write_records
from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.core.record import Batch
from ropewalk.corpus.join.natural_order import order_naturally, read_numeral
from ropewalk.corpus.join_rules import JoinRules
from ropewalk.corpus.mix.dataset import Dataset, open_dataset
from ropewalk.corpus.mix.packing import pack
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.ledger import format_ledger
from ropewalk.corpus.read.bad_input import Place
from ropewalk.corpus.read.join_parts import describe_part
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.joined_documents import JoinedDocuments
from ropewalk.corpus.tokens.store import all_documents
from ropewalk.corpus.tokens.tokenizer import Tokenizer

BOOKS = 30
HEADER = "{title}（{chapter}）\n"


def chapters(books: int = BOOKS) -> list[dict[str, Any]]:
    """Books of 1 to 3 chapters, and every tenth of 12: their numbers are written in Chinese, 第十章 follows 第九章."""
    numerals = [*"一二三四五六七八九", "十", "十一", "十二"]
    return [
        {"id": f"b{book}-{at}", "book": book, "chapter": f"第{numerals[at]}章", "title": f"书{book}",
         "text": han(100 * book + at, 90 + 7 * at) if book % 2 else sentence(100 * book + at, 25 + at)}
        for book in range(books)
        for at in range(1 + book % 3 if book % 10 else 12)
    ]  # fmt: skip


def make(folder: Path, files: list[list[dict[str, Any]]], tokenizer: Tokenizer, **keys: Any) -> Corpus:
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for number, records in enumerate(files):
        write_records(folder / "text", f"{number:03}.jsonl", records)
    return join(folder, "corpus", tokenizer, **keys)


def join(folder: Path, name: str, tokenizer: Tokenizer, **keys: Any) -> Corpus:
    """A corpus of the text in ``folder``. What differs in the rules of a join alone is not tokenised again."""
    rules = keys.pop("join", {"by": "book", "order": "chapter", "header": HEADER})
    source = {"name": "books", "path": str(folder / "text"), "role": "general", "profile": "markup", "join": rules}
    spec = CorpusSpec.model_validate(
        {
            "store": str(folder / "store"),
            "sources": [{**source, **keys}],
            "mix": {"books": 1},
            "near_duplicates": None,
            "repeated_sections": None,
            "held_out": 0.1,
            "worker_count": 1,
        }
    )
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder / name))


def shuffled(records: list[dict[str, Any]], seed: int, files: int) -> list[list[dict[str, Any]]]:
    held = random.Random(seed).sample(records, len(records))
    return [held[number::files] for number in range(files)]


def dataset(corpus: Corpus, context_tokens: int = 512, sequences: int = 12) -> Dataset:
    return open_dataset(
        corpus, mix={"books": 1}, context_tokens=context_tokens, sequences=sequences, seed=0, stage=0, max_repeats=4
    )


def expect(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """For each book its chapters as they must be read, by a sort of our own."""
    found: dict[str, list[str]] = {}
    for record in records:
        found.setdefault(record["title"], []).append(f"{record['title']}（{record['chapter']}）\n{record['text']}")
    return found


@pytest.fixture(scope="module")
def joined(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("joined"), shuffled(chapters(), seed=0, files=2), tokenizer)


def read_all(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    """Each document, without the BOS at its begin and the EOS at its end."""
    train, held = corpus.train("books"), all_documents(corpus.held_out("books"))
    found = [documents.read(at)[0].tolist() for documents in (train, held) for at in range(len(documents))]
    assert all(ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id for ids in found)
    return [tokenizer.decode(ids[1:-1]) for ids in found]


def test_every_book_is_one_document_of_its_chapters_in_order(joined: Corpus, tokenizer: Tokenizer) -> None:
    texts = read_all(joined, tokenizer)
    assert sorted(texts) == sorted("\n\n".join(parts) for parts in expect(chapters()).values())
    held = joined.facts("books").held_out_documents
    assert 0 < held < BOOKS / 3 and joined.facts("books").documents == BOOKS - held


def test_tokens_in_are_tokens_out(joined: Corpus) -> None:
    """Counted here from the store, the table and the shards; the corpus asserts its own sums."""
    documents, stored = joined.train("books"), joined.stored("books")
    assert isinstance(documents, JoinedDocuments)
    used = np.zeros(stored.tokens, dtype=np.int64)
    first = np.cumsum([0, *stored.lengths])
    added = 0
    for document in range(len(documents)):
        for segment in documents.origin(document, 0, int(documents.lengths[document])):
            if segment["document"] < 0:
                added += segment["tokens"]
            else:
                used[first[segment["document"]] + segment["start"] :][: segment["tokens"]] += 1
    train = np.load(joined.folder / "books" / "train.npy")
    told = joined.ledger["books"]["joins"]["train"]
    assert used.max() == 1 and used.sum() + told["border_tokens"] == stored.lengths[train].sum() == told["tokens_in"]
    assert used.sum() + added == documents.tokens == told["tokens_out"] and added == told["added_tokens"]
    assert told["parts"] == len(train) and told["documents"] == len(documents)
    assert documents.part_counts.tolist() == [len(documents.part_starts(at)) for at in range(len(documents))]


def test_a_shuffled_input_gives_the_same_bytes(joined: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    other = make(tmp_path, shuffled(chapters(), seed=2, files=3), tokenizer)
    assert other.digest == joined.digest and read_all(other, tokenizer) == read_all(joined, tokenizer)
    one, two = (dataset(corpus).batch(0, 12) for corpus in (joined, other))
    assert all((getattr(one, name) == getattr(two, name)).all() for name in Batch.__annotations__)


def test_a_joined_document_is_one_document_to_the_mask_unless_the_recipe_says_otherwise(
    joined: Corpus, tokenizer: Tokenizer
) -> None:
    rules = {"by": "book", "order": "chapter", "header": HEADER, "attend": "parts"}
    parts = join(joined.folder.parent, "parts", tokenizer, join=rules)
    whole, split = dataset(joined, 4096, 2), dataset(parts, 4096, 2)
    documents = joined.train("books")
    assert isinstance(documents, JoinedDocuments)
    assert {size for sequence in range(2) for size in whole.document_tokens(sequence)} <= {*documents.lengths.tolist()}
    own = {
        int(size)
        for document in range(len(documents))
        for size in np.diff(np.append(documents.part_starts(document), documents.lengths[document]))
    }
    assert {size for sequence in range(2) for size in split.document_tokens(sequence)} <= own
    batch = split.batch(0, 1)
    for at in np.flatnonzero(np.diff(batch.document[0])):
        assert batch.weights[0, at] == 0 and batch.positions[0, at + 1] in (0, batch.positions[0, at] + 1)
    assert whole.batch(0, 1).document.max() < batch.document.max()


def test_no_part_of_a_held_out_book_is_trained_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Also where a chapter of one book is a copy of one of another: both books are on one side."""
    records = [record for record in chapters(30) if record["chapter"] in ("第一章", "第二章")]
    for book in range(0, 28, 4):  # a chain of books that share a text
        records.append(
            {**records[0], "id": f"x{book}", "book": book, "chapter": "第九十章", "text": han(7000 + book, 150)}
        )
        records.append(
            {
                **records[0],
                "id": f"y{book}",
                "book": book + 1,
                "chapter": "第九十章",
                "text": han(7000 + book, 150) + "。",
            }
        )
    corpus = make(tmp_path, [records], tokenizer, near_duplicates=None)
    splits = corpus.splits("books")
    book_of = {record["id"]: record["book"] for record in records}
    ids = corpus.ids("books", set(range(len(splits))))
    sides: dict[int, set[int]] = {}
    for number, split in enumerate(splits.tolist()):
        sides.setdefault(book_of[ids[number]], set()).add(split)
    assert all(len(side & {0, 1}) == 1 for side in sides.values())
    assert all(sides[book] == sides[book + 1] for book in range(0, 28, 4))
    assert {side for held in sides.values() for side in held} >= {0, 1}


@pytest.mark.parametrize("fault", [{"book": None}, {"chapter": None}, {"title": []}, {"book": True}, {"book": " "}])
def test_a_record_without_its_key_is_an_error_or_is_counted(
    tokenizer: Tokenizer, tmp_path: Path, fault: dict[str, Any]
) -> None:
    records = chapters(3)
    records[5] = {key: value for key, value in {**records[5], **fault}.items() if value is not None}
    with pytest.raises(UserError, match=f"no place in a join.*\n.*line 6.*\n.*'{next(iter(fault))}' must hold"):
        make(tmp_path / "a", [records], tokenizer)
    if fault == {"book": None}:
        plain = "没有字段的文本。"
        (tmp_path / "b" / "text").mkdir(parents=True)
        (tmp_path / "b" / "text" / "plain.txt").write_text(plain, encoding="utf-8")
        corpus = make(tmp_path / "b", [records], tokenizer, faults="skip")
        texts = [plain, *(value for value in records[5].values() if isinstance(value, str))]
        dropped = corpus.ledger["books"]["dropped"]["no place in a join"]
        assert dropped["documents"] == 2 and dropped["bytes"] == sum(len(text.encode()) for text in texts)


def test_dates_of_parquet_are_an_order() -> None:
    rules = {"by": "day", "order": "at", "header": "{at}: "}
    source = Source.model_validate({"name": "a", "path": "a.parquet", "role": "general", "join": rules})
    record = {"day": date(2026, 1, 31), "at": datetime(2026, 1, 31, 23, 59)}
    part = describe_part(record, source, Place("a.parquet", "a.parquet"))
    assert part == {"key": ["2026-01-31"], "order": ["2026-01-31T23:59:00"], "header": "2026-01-31T23:59:00: "}


def test_records_need_an_order(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A field without an order is refused before anything is read: ``faults: skip`` would drop all text for it."""
    with pytest.raises(ValidationError, match="records need an order"):
        make(tmp_path, [chapters(3)], tokenizer, join={"by": "book"})
    of_files = Source.model_validate({"name": "a", "hub": "me/books", "role": "general", "join": {"by": "folder"}})
    assert "records need an order" in str(describe_part({"text": "a"}, of_files, Place("a", "a")))


def test_a_reply_to_that_no_record_has_is_told(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posts = [{"id": n, "at": n, "thread": 1, "text": sentence(n, 30), "to": n - 1 if n else None} for n in range(9)]
    make(tmp_path / "right", [posts], tokenizer, join={"by": "thread", "order": "at", "reply_to": "to"})
    assert "reply_to" not in capsys.readouterr().err
    make(tmp_path / "wrong", [posts], tokenizer, join={"by": "thread", "order": "at", "reply_to": "too"})
    told = "warning: source books: join.reply_to: none of 9 documents has an id in 'too': each begins a thread"
    assert told in capsys.readouterr().err


def test_a_join_that_exceeds_the_limit_goes_on_in_another_document(joined: Corpus, tokenizer: Tokenizer) -> None:
    rules = {"by": "book", "order": "chapter", "header": HEADER, "most_tokens": 300}
    corpus = join(joined.folder.parent, "short", tokenizer, join=rules)
    documents, told = corpus.train("books"), corpus.ledger["books"]["joins"]["train"]
    assert isinstance(documents, JoinedDocuments) and told["continued"] > 5
    assert told["documents"] - told["continued"] == joined.facts("books").documents
    for document, length in enumerate(documents.lengths.tolist()):
        parts = len(documents.part_starts(document))
        assert parts == 1 or length <= 300  # with headers and separators
    assert documents.lengths.max() > 270
    assert told["tokens_in"] == joined.ledger["books"]["joins"]["train"]["tokens_in"]


def relatives() -> list[dict[str, str]]:
    """Texts of which every ninth speaks of the same."""
    return [
        {"text": f"{sentence(n, 30)} {' '.join(han(9000 + n % 9, 4 + n % 3) for _ in range(5))}"} for n in range(36)
    ]


def test_a_chain_of_related_texts_counts_its_separators(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rules = {"related": {"target_tokens": 600}, "separator": "\n\n" + "- " * 40 + "\n\n"}
    documents = make(tmp_path, [relatives()], tokenizer, join=rules).train("books")
    assert isinstance(documents, JoinedDocuments)
    joined = [number for number in range(len(documents)) if len(documents.part_starts(number)) > 1]
    assert joined and max(documents.lengths[joined]) <= 600


def test_rules_without_any_effect_are_told(joined: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A join of which no two parts are in one document, and tasks of documents that are all too short."""
    corpus = make(tmp_path, [chapters(12)], tokenizer, join={"by": "id", "order": "chapter"}, tasks={"share": 0.02})
    told = format_ledger(corpus.ledger)
    train = corpus.ledger["books"]["joins"]["train"]
    assert f"not joined (train): {train['parts']} parts, each in a document of its own" in told
    assert "no task behind any document" in told
    assert "not joined" not in (other := format_ledger(joined.ledger)) and "no task" not in other


def test_a_key_may_be_a_whole_number_of_any_size() -> None:
    source = Source.model_validate(
        {"name": "a", "path": "x", "role": "general", "join": {"by": "book", "order": "chapter"}}
    )
    record = {"book": 10**400, "chapter": 1.0}
    assert describe_part(record, source, Place("x", "x")) == {"key": [str(10**400)], "order": [1.0]}
    assert describe_part({**record, "chapter": float("inf")}, source, Place("x", "x")) == (
        "'chapter' must hold a text or a number; found inf"
    )


def test_a_thread_is_read_depth_first(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """1 <- 2 <- 4, 1 <- 3; 5 answers a post that is not there; 6 and 7 answer each other."""
    answers = {"1": None, "4": "2", "3": "1", "2": "1", "5": "gone", "6": "7", "7": "6"}
    posts = [
        {"id": f"{id}-{thread}", "at": int(id), "thread": thread,
         "text": f"post {id}. {sentence(int(id) + 50 * thread, 30)}",
         "to": answered and f"{answered}-{thread}"}
        for thread in range(5)
        for id, answered in answers.items()
    ]  # fmt: skip
    corpus = make(tmp_path, [posts], tokenizer, join={"by": "thread", "order": "at", "reply_to": "to"})
    texts = read_all(corpus, tokenizer)
    told = corpus.ledger["books"]["joins"]
    assert len(texts) == 5 and (told["in_circle"], told["unanswerable"]) == (10, 5)
    assert "5 documents in answer to an id that is not there" in format_ledger(corpus.ledger)
    for text in texts:
        assert [text[part + 5] for part in range(len(text)) if text.startswith("post ", part)] == [*"1243567"]


def test_headers_of_answers_are_not_trained_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    turns = [{"q": sentence(n, 12), "a": sentence(500 + n, 9), "session": n // 3, "turn": n % 3} for n in range(15)]
    options = {"prompt_key": "q", "answer_key": "a"}
    rules = {"by": "session", "order": "turn", "header": "Turn {turn}:\n"}
    corpus = make(tmp_path, [turns], tokenizer, join=rules, options=options, role="instruction")
    documents = corpus.train("books")
    ids, mask = documents.read(0)
    trained, text = tokenizer.decode(ids[1:][mask[1:] > 0]), tokenizer.decode(ids[1:])
    record = next(turn for turn in turns if text.startswith(f"Turn 0:\n{turn['q']}\n"))
    own = [turn["a"] for turn in turns if turn["session"] == record["session"]]
    assert all(answer in trained for answer in own) and "Turn" not in trained and record["q"] not in trained
    assert int(documents.labels[0]) == int(mask[1:].sum())


def test_a_long_join_is_cut_where_a_part_begins() -> None:
    lengths, starts = np.array([1000, 90, 250]), {0: [0, 60, 130, 199, 420, 500], 1: [0], 2: [0, 30, 240]}
    packed = pack(
        lengths,
        context_tokens=200,
        random=np.random.default_rng(0),
        part_starts=lambda document: np.array(starts[document]),
    )
    found = sorted(zip(packed.document.tolist(), packed.start.tolist(), packed.tokens.tolist(), strict=True))
    assert found == [
        (0, 0, 199), (0, 199, 200), (0, 399, 101), (0, 500, 200), (0, 700, 200), (0, 900, 100),
        (1, 0, 90),
        (2, 0, 30), (2, 30, 200), (2, 230, 20),
    ]  # fmt: skip
    assert packed.sequence_tokens.max() <= 200 and packed.tokens.sum() == lengths.sum()


def test_natural_order() -> None:
    texts = ["第二章", "第九章", "第十章", "第二十一章", "第一百章", "chapter 2", "chapter 10", "chapter １１"]
    for first, second in pairwise(texts[:5]):
        assert order_naturally(first) < order_naturally(second)
    assert order_naturally("chapter 2") < order_naturally("chapter 10") < order_naturally("chapter １１")
    assert order_naturally("2021年3月") < order_naturally("2021年12月") and order_naturally(3) < order_naturally(10.5)
    assert order_naturally("2019-12-31") < order_naturally("2020-01-02T10:00") < order_naturally("a")
    numerals = {
        "十": 10,
        "二十三": 23,
        "一百零五": 105,
        "二〇二一": 2021,
        "三千二百": 3200,
        "一万二千": 12000,
        "两千": 2000,
    }
    assert {numeral: read_numeral(numeral) for numeral in numerals} == numerals


def test_related_texts_of_a_corpus_are_joined_once_each(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = relatives()
    rules = {"related": {"target_tokens": 600}}
    corpus = make(tmp_path, shuffled(texts, seed=3, files=2), tokenizer, join=rules)
    found = "\n\n".join(read_all(corpus, tokenizer)).split("\n\n")
    assert sorted(found) == sorted(text["text"] for text in texts)
    told = corpus.ledger["books"]["joins"]["train"]
    assert told["documents"] < told["parts"] / 2 and corpus.train("books").lengths.max() <= 600


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ({}, "either by"),
        ({"by": "book", "related": {"target_tokens": 9}}, "either by"),
        ({"related": {"target_tokens": 9}, "header": "{x}"}, "have no header"),
        ({"by": "book", "header": "{x!r}"}, "nothing else"),
        ({"by": "book", "header": "{x"}, "write {{ for a brace"),
        ({"by": "book", "order": "dependency"}, "stands alone"),
        ({"by": "folder", "reply_to": "x"}, "is of files"),
    ],
)
def test_rules_that_make_no_sense(rules: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        JoinRules.model_validate(rules)


def test_two_sources_with_one_name_and_text_without_fields_are_refused() -> None:
    source = {"name": "a", "path": "x", "role": "general"}
    with pytest.raises(ValidationError, match="two sources are named a"):
        CorpusSpec.model_validate({"sources": [source, source], "mix": {"general": 1}})
    with pytest.raises(ValidationError, match="have no fields to join by"):
        Source.model_validate(
            {"name": "a", "embedded": "licences", "role": "domain", "join": {"by": "x", "order": "y"}}
        )
