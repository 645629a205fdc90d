"""Conversations keep their answers: no row ends in one, and none is a copy for the document or prompt it shares."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.dedup.minhash import FEWEST_WORDS, sign_answers
from ropewalk.corpus.mix.dataset import Dataset, open_dataset
from ropewalk.corpus.mix_rules import MixRules
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.ledger import SourceLedger
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.foreign_formats import write_tokens
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from shared_folder import SHARED

CASES = SHARED / "cases" / "conversations"
CONTEXT = 512
PLAIN: Mapping[str, Any] = {}


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def make(
    folder: Path,
    tokenizer: Tokenizer,
    records: Sequence[dict[str, Any]],
    *,
    source: Mapping[str, Any] = PLAIN,
    **keys: Any,
) -> Corpus:
    """A corpus of conversations, with a little text of another role beside them."""
    for name, lines in (("chat", records), ("web", [{"text": sentence(n, 200)} for n in range(30)])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    conversations = {"name": "chat", "path": str(folder / "chat.jsonl"), "role": "instruction"}
    conversations |= {"options": {"messages_key": "messages"}} | {**source}
    web = {"name": "web", "path": str(folder / "web.jsonl"), "role": "general"}
    data = {"store": str(folder / "store"), "sources": [conversations, web], "held_out": 0, "repeated_sections": None}
    spec = CorpusSpec.model_validate({**data, "mix": {"instruction": 1, "general": 1}, **keys})
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder / "corpus"))


def dataset(corpus: Corpus, sequences: int = 20, **keys: Any) -> Dataset:
    plan = {"context_tokens": CONTEXT, "seed": 0, "stage": 0, "max_repeats": 99.0}
    return open_dataset(corpus, mix={"chat": 1}, sequences=sequences, **{**plan, **keys})


def dropped(corpus: Corpus) -> dict[str, int]:
    return {reason: amount["documents"] for reason, amount in corpus.ledger["chat"]["dropped"].items()}


@pytest.mark.parametrize("answer", ["It is {0}.", "{0}", "Yes.", sentence(1, 60) + " {0}"])
def test_forty_questions_on_one_document_are_all_kept(tmp_path: Path, tokenizer: Tokenizer, answer: str) -> None:
    document = sentence(7, 900)
    records = [
        chat(("user", f"{document}\n\nWhat does line {n} say?"), ("assistant", answer.format(n))) for n in range(40)
    ]
    corpus = make(tmp_path, tokenizer, records)
    assert corpus.facts("chat").documents == 40 and dropped(corpus) == {}


def test_one_system_prompt_makes_no_copies_and_a_repeated_chat_is_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    system = "。".join(han(n, 40) for n in range(30))
    records = [chat(("system", system), ("user", han(100 + n, 12)), ("assistant", han(200 + n, 80))) for n in range(30)]
    corpus = make(tmp_path, tokenizer, [*records, records[4]])
    assert corpus.facts("chat").documents == 30 and dropped(corpus) == {"exact duplicate": 1}


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not here")
@pytest.mark.parametrize("name", ["chats_one_system_prompt", "five_questions_one_document"])
@pytest.mark.parametrize("near_duplicates", ["by_role", 0.8])
def test_the_cases_found_from_outside(
    tmp_path: Path, tokenizer: Tokenizer, name: str, near_duplicates: str | float
) -> None:
    records = [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text().splitlines()]
    corpus = make(tmp_path, tokenizer, records, source={"near_duplicates": near_duplicates})
    assert corpus.facts("chat").documents == len(records) and dropped(corpus) == {}


def test_where_it_is_asked_for_long_answers_are_compared_and_nothing_else(tmp_path: Path, tokenizer: Tokenizer) -> None:
    long, short = sentence(3, 120), sentence(4, FEWEST_WORDS - 10)
    records = [
        chat(("user", sentence(10, 300)), ("assistant", long)),
        chat(("user", sentence(11, 300)), ("assistant", f"{long} indeed")),  # the same answer to another question
        chat(("user", f"{sentence(12, 300)} one"), ("assistant", short)),
        chat(("user", f"{sentence(12, 300)} two"), ("assistant", short)),
        chat(("user", f"{sentence(12, 300)} two"), ("assistant", sentence(5, 120))),
    ]
    corpus = make(tmp_path, tokenizer, records, source={"near_duplicates": 0.8})
    assert dropped(corpus) == {"near duplicate": 1} and corpus.facts("chat").documents == 4


def test_a_signature_of_short_answers_is_of_the_whole_text() -> None:
    short, long = "yes it is", sentence(1, FEWEST_WORDS)
    assert np.array_equal(sign_answers(short, 1), sign_answers("no", 1))
    assert np.mean(sign_answers(short, 1) == sign_answers(short, 2)) < 0.1
    assert np.array_equal(sign_answers(long, 1), sign_answers(long, 2))
    assert np.array_equal(sign_answers("", 5), sign_answers("", 5))


def test_each_source_has_its_own_similarity(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Of three versions the loose source loses its own, the strict one keeps it; what stays is never dropped itself."""
    words = sentence(1, 400).split(" ")

    def version(edits: int) -> str:
        return " ".join([*(f"new{n}" for n in range(edits)), *words[edits:]])

    names = {
        "law": ("domain", 0.5, version(0)),
        "web": ("general", 0.5, version(60) + " and a word"),
        "copy": ("general", 0.9, version(60)),
        "old": ("general", None, version(61)),
    }
    sources = []
    for name, (role, similarity, text) in names.items():
        records = [{"text": text}, *({"text": sentence(900 + 100 * len(sources) + n, 300)} for n in range(1, 9))]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        sources.append({"name": name, "path": str(path), "role": role, "near_duplicates": similarity})
    spec = {"store": str(tmp_path / "store"), "sources": sources, "mix": {"general": 1, "domain": 1}, "held_out": 0}
    folder = build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    corpus = open_corpus(folder)
    assert {name: corpus.facts(name).documents for name in names} == {"law": 9, "web": 8, "copy": 8, "old": 9}
    assert corpus.kept("web", 0) == corpus.kept("copy", 0) == ("law", 0), "not the web's, which is gone too"


def test_the_role_decides_unless_the_source_does() -> None:
    def of(corpus: Mapping[str, Any] = PLAIN, **source: Any) -> tuple[Any, str]:
        made = {"name": "a", "path": "x", "role": "instruction", **source}
        spec = CorpusSpec.model_validate({"sources": [made], "mix": {"a": 1}, **corpus})
        return spec.near_duplicates_of(spec.sources[0]), spec.long_documents_of(spec.sources[0])

    assert of() == (None, "drop") == of({"near_duplicates": 0.9, "long_documents": "split"})
    assert of(near_duplicates=0.7, long_documents="truncate") == (0.7, "truncate")
    assert of({"near_duplicates": 0.9}, role="domain") == (0.9, "split")
    assert of({"near_duplicates": 0.9}, role="domain", near_duplicates=None) == (None, "split")
    made_here = {"path": None, "embedded": "key_value", "size_bytes": 1000}
    assert of({"near_duplicates": 0.9}, **made_here) == (0.9, "split"), "text that ropewalk makes follows the corpus"
    again = Source.model_validate(Source(name="a", path="x", role="domain", near_duplicates=None).model_dump())
    assert again.near_duplicates is None, "null is told apart from what is not given"


@pytest.fixture(scope="module")
def mixed_lengths() -> list[dict[str, Any]]:
    """Chats of 1 to 8 turns; some are longer than a row, one by its first question alone."""
    records = []
    for n in range(60):
        turns: list[tuple[str, str]] = []
        for turn in range(1 + n % 8):
            turns += [("user", sentence(100 * n + turn, 20)), ("assistant", sentence(100 * n + turn + 50, 25))]
        records.append(chat(*turns))
    return [*records, chat(("user", sentence(9999, 900)), ("assistant", "short"))]


def find_answers(records: Sequence[dict[str, Any]]) -> set[str]:
    return {
        message["content"] for record in records for message in record["messages"] if message["role"] == "assistant"
    }


def trained_runs(dataset: Dataset, tokenizer: Tokenizer) -> list[str]:
    """Every run of labels in the feed's rows, as text, read off the batch and nothing else."""
    batch = dataset.batch(0, dataset.sequences)
    runs = []
    for sequence in range(dataset.sequences):
        for order in range(batch.document[sequence].max() + 1):
            here = batch.document[sequence] == order
            weights, labels = batch.weights[sequence][here], batch.labels[sequence][here]
            borders = np.flatnonzero(np.diff(weights, prepend=0, append=0))
            runs += [tokenizer.decode(labels[start:end]) for start, end in borders.reshape(-1, 2).tolist()]
            assert weights.any(), "every piece of a conversation has something to learn"
    return runs


@pytest.mark.parametrize("kind", ["by_role", "truncate"])
@pytest.mark.parametrize("packing", ["fit", "chunk"])
def test_no_row_ends_in_the_middle_of_an_answer(
    tmp_path: Path, tokenizer: Tokenizer, mixed_lengths: list[dict[str, Any]], kind: str, packing: str
) -> None:
    corpus = make(tmp_path, tokenizer, mixed_lengths, source={"long_documents": kind})
    held = corpus.train("chat")
    planned = dataset(corpus, sequences=60, rules=MixRules.model_validate({"packing": packing}))
    answers = find_answers(mixed_lengths)
    end = tokenizer.decode([tokenizer.eos_id])
    runs = [run.removesuffix(end).strip() for run in trained_runs(planned, tokenizer)]
    assert runs and {*runs} <= answers
    long = held.lengths > CONTEXT
    beyond = planned.beyond_sequence["chat"]
    if kind == "by_role":
        assert (beyond.left_out, beyond.cut_short) == (int(long.sum()), 0) and long.sum() > 1
        assert beyond.tokens == int(held.lengths[long].sum())
    else:
        assert (beyond.left_out, beyond.cut_short) == (1, int(long.sum()) - 1)
        starts = {
            segment[1]
            for sequence in range(planned.sequences)
            for segment in planned.describe_sequence(sequence)
            for segment in [segment[1:]]
        }
        assert starts == {0}


def test_split_is_still_there_for_who_asks(
    tmp_path: Path, tokenizer: Tokenizer, mixed_lengths: list[dict[str, Any]]
) -> None:
    corpus = make(tmp_path, tokenizer, mixed_lengths, source={"long_documents": "split"})
    planned = dataset(corpus)
    assert planned.beyond_sequence["chat"].tokens == 0
    assert sum(stratum.held_tokens for stratum in planned.strata) == corpus.facts("chat").tokens


def test_a_weight_for_conversations_that_are_all_too_long_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records = [chat(("user", sentence(n, 900)), ("assistant", sentence(n + 50, 9))) for n in range(5)]
    corpus = make(tmp_path, tokenizer, records)
    with pytest.raises(UserError, match="are longer than a sequence") as caught:
        dataset(corpus)
    assert "chat" in caught.value.why and "truncate" in caught.value.fix
    assert dataset(corpus, context_tokens=8192, sequences=1).beyond_sequence["chat"].left_out == 0


def test_sections_are_surveyed_without_taking_chats_for_copies(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Before a chat is laid out nobody knows its answers: its prompt makes no document of another source a copy."""
    book = "\n".join(sentence(n, 30) for n in range(60))
    records = [chat(("user", book), ("assistant", "Read.")), chat(("user", book), ("assistant", "Done."))]
    corpus = make(tmp_path, tokenizer, records, repeated_sections=1000)
    assert corpus.facts("chat").documents == 2


def test_a_document_with_spans_of_another_role_is_signed_by_them_too(tmp_path: Path, tokenizer: Tokenizer) -> None:
    shared, said = sentence(1, 500), [sentence(50 + n, 60) for n in range(6)]
    records = [
        {"text": f"{shared} {text}", "loss_spans": [[len(shared) + 1, len(shared) + 1 + len(text)]]} for text in said
    ]
    source = {"role": "domain", "options": {}}
    corpus = make(tmp_path, tokenizer, records, source=source, mix={"domain": 1, "general": 1})
    assert corpus.facts("chat").documents == 6


@pytest.mark.parametrize("profile", [None, {"like": "instruction", "mask": ["email", "ip"]}])
def test_a_masked_answer_is_counted_and_by_default_there_is_none(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str], profile: dict[str, Any] | None
) -> None:
    """Of four chats one answers with an address, one asks with one, one has a version that is no address."""
    records = [
        chat(("user", "Whom may I write to?"), ("assistant", "Write to jane.doe@firma.de, she answers.")),
        chat(("user", "What is tom@firma.de for?"), ("assistant", "It is an address.")),
        chat(("user", "Which one?"), ("assistant", "Version 98.0.47.102, from git@firma.de:a/b.git.")),
        chat(("user", "Why not?"), ("assistant", "No reason.")),
    ]
    corpus = make(tmp_path, tokenizer, records, source={"profile": profile})
    text = "".join(tokenizer.decode(tokens) for tokens in corpus.train("chat"))
    assert ("jane.doe@firma.de" in text, "tom@firma.de" in text) == (profile is None, profile is None)
    assert "98.0.47.102" in text and "git@firma.de:a/b.git" in text
    ledger = corpus.ledger["chat"]
    assert ledger["masked_answers"] == (0 if profile is None else 1)
    assert {**SourceLedger.from_json(ledger).to_json(), "not_read": []} == ledger
    told = capsys.readouterr().err
    assert ("answers with masks" in told) == (profile is not None)


def test_token_ids_with_a_mask_are_conversations_too(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """What another trainer tokenised: one prompt before six answers, and one that is longer than a row."""
    prompt = tokenizer.encode(sentence(1, 60))
    answers = [tokenizer.encode(" " + sentence(20 + n, 40 if n else 400)) for n in range(6)]
    documents = [
        (np.concatenate([prompt, answer]), np.repeat(np.array([0, 1], np.uint8), [len(prompt), len(answer)]))
        for answer in answers
    ]
    files = write_tokens(documents, tmp_path / "ids", format="datatrove", vocabulary=tokenizer.vocabulary)
    source = {"path": str(files[0]), "tokens": "datatrove", "options": {}, "near_duplicates": 0.8}
    corpus = make(tmp_path, tokenizer, [], source=source)
    assert corpus.facts("chat").documents == 6 and dropped(corpus) == {}
    planned = dataset(corpus, sequences=4)
    assert planned.beyond_sequence["chat"].left_out == 1 and planned.unlabelled == {"chat": (0, 4)}
