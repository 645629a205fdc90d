"""The data card says what the corpus has, against counts of the records that it was built from."""

import json
from dataclasses import replace
from pathlib import Path

from made_texts import sentence
from ropewalk.corpus.inspect.card import _filters, describe_data, write_card
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.read.provenance import describe_unseen_fields
from ropewalk.corpus.selection_rules import Provenance
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer


def test_the_card_counts_origins_licences_dates_and_what_was_left_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = [
        {
            "text": sentence(n, 60),
            "meta": {
                "url": f"https://{'a' if n % 3 else 'b'}.example/page/{n}" if n else "http://[no",
                "when": f"2026-01-{n + 1:02d}",
            },
            **({"rights": "CC-BY-4.0" if n % 2 else "CC0"} if n != 5 else {}),
        }
        for n in range(20)
    ]
    records += [{"text": "short"}, {"text": sentence(3, 60), "meta": {"url": "https://copy.example"}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    known = {"address": "meta.url", "license": "rights", "date": "meta.when"}
    sources = [
        {"name": "a", "path": str(tmp_path / "a.jsonl"), "role": "general", "language": "en", "provenance": known},
        {"name": "law", "embedded": "statutes_zh", "role": "domain", "size_bytes": 20_000},
    ]
    keys = {"store": str(tmp_path / "store"), "sources": sources, "mix": {"general": 7, "law": 3}, "held_out": 0}
    spec = CorpusSpec.model_validate({**keys, "worker_count": 1})
    corpus = open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    card = write_card(corpus, spec)
    assert "| a | general | 20 | " in card and "general 7, law 3" in card
    assert "addresses: 20 of 20 documents; a.example 13, b.example 6, no host 1" in card and "copy.example" not in card
    assert "licences: 19 of 20 documents; CC0 10, CC-BY-4.0 9" in card
    assert "dates: 2026-01-01 to 2026-01-20" in card and "made by ropewalk: statutes_zh" in card
    told = describe_data(corpus, spec)
    assert told["origin"][0].startswith(f"a: {tmp_path / 'a.jsonl'}; addresses: 20 of 20 documents; a.example 13")
    assert "a: profile by role and language" in told["filters"] and "- a: profile by role and language" in card
    assert "| a | too short | 1 | 5 B |" in card and "| a | exact duplicate | 1 |" in card and "`short`" in card
    joined = {**sources[0], "join": {"related": {"target_tokens": 4096}}}
    spec_of_joins = CorpusSpec.model_validate({**keys, "sources": [joined, sources[1]], "worker_count": 1})
    corpus = open_corpus(build(spec_of_joins, tokenizer=tokenizer, seed=0, folder=tmp_path / "joined"))
    assert corpus.facts("a").documents < 20
    assert "addresses: 20 of 20 parts; a.example 13" in write_card(corpus, spec_of_joins)
    count, parts = corpus.facts("a").documents, "20 parts"
    assert f"  - joined by related texts: {parts} in {count} document" in write_card(corpus, spec_of_joins)
    answers = {"name": "qa", "path": str(tmp_path / "a.jsonl"), "role": "instruction"}  # by_role: copies of them stay
    strict = {"name": "b", "path": str(tmp_path / "a.jsonl"), "role": "general", "near_duplicates": 0.6}
    many = CorpusSpec.model_validate({**keys, "sources": [*sources, answers, strict], "worker_count": 1})
    told = [line for line in _filters(many) if "near copies" in line]
    assert told == [
        "near copies: of documents of a similarity from 0.8 on one stays",
        "qa: its near copies are kept",
        "b: near copies are dropped from a similarity of 0.6 on",
    ]
    plain = spec.model_copy(update={"sources": (spec.sources[0].model_copy(update={"provenance": None}),)})
    assert "provenance" not in plain.content["sources"][0] and "addresses" not in write_card(corpus, plain)
    named = spec.sources[0].model_copy(update={"provenance": Provenance(address="meta.link", license="rights")})
    told = [*describe_unseen_fields([{"id": "0", "origin": {"license": "CC0"}}, {"id": "1"}], named)]
    assert told == ["warning: source a: provenance.address: none of 2 documents has 'meta.link'"]
    assert not [*describe_unseen_fields([{"id": "0"}], plain.sources[0])]


def test_the_card_tells_what_was_made_of_the_texts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Else whoever gets the tokens takes questions for a part of the texts, and those of a model for nobody's."""
    path = tmp_path / "a.jsonl"
    lines = "".join(f"{sentence(n % 3, 30)} and {sentence(n, 8)}.\n" for n in range(40))
    path.write_text("".join(json.dumps({"text": f"{n}\n{lines}", "book": "x", "n": n}) + "\n" for n in range(6)))
    source = {"name": "a", "path": str(path), "role": "general", "profile": "markup", "near_duplicates": None}
    source |= {"language": "en", "join": {"by": ["book"], "order": ["n"]}}
    written = {"endpoint": "http://127.0.0.1:1/v1", "model": "some-model", "key_from": None}
    tasks = {"from_tokens": 100, "documents": 1, "share": 0.1}
    keys = {"store": str(tmp_path / "store"), "mix": {"a": 1}, "held_out": 0, "worker_count": 1}
    spec, of_model = (
        CorpusSpec.model_validate({**keys, "repeated_sections": None, "sources": [{**source, "tasks": rules}]})
        for rules in (tasks, {**tasks, "written": written})
    )
    corpus = open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    made = corpus.ledger["a"]["joins"]["train"]
    told = f"    - joined by book: 6 parts in 1 document\n    - {made['tasks']} tasks about the text behind it,"
    told += f" {made['task_tokens']:,} tokens"
    assert made["tasks"] > 1 and f"{told}\n" in write_card(corpus, spec)
    joins = {**corpus.ledger["a"]["joins"], "written": {"requests": 3, "kept": 2}}
    asked = replace(corpus, ledger={"a": {**corpus.ledger["a"], "joins": joins}})
    by = "; 2 of them written by the model some-model, the others made by ropewalk\n"
    assert f"{told}{by}" in write_card(asked, of_model)
    filled = replace(corpus, ledger={"a": {**corpus.ledger["a"], "joins": {"train": {**made, "filled": 5}}}})
    assert "    - fill in the middle: 5 texts with the middle at the end\n" in write_card(filled, spec)
    chance = {"target_tokens": 9, "control": True}
    control = CorpusSpec.model_validate({**keys, "sources": [{**source, "join": {"related": chance}}]})
    assert "    - joined by chance: 6 parts in 1 document\n" in write_card(corpus, control)
