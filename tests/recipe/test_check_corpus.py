"""What check says of a built corpus is what the feed then does: shares, repeats, rows without labels, held-out text."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.mix.strata import Stratum
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.store import StoredDocuments
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.corpus.tokens.train_tokenizer import train_tokenizer
from ropewalk.recipe.check_corpus import check_corpus, check_repeats, describe_long_share
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage, plan_stage_strata

CONTEXT, ROWS = 256, 120
NONE: Mapping[str, Any] = {}


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def ask(question: int, words: int, answer_words: int) -> dict[str, Any]:
    said = [("user", sentence(question, words)), ("assistant", sentence(question + 5000, answer_words))]
    return {"messages": [{"role": role, "content": content} for role, content in said]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [sentence(number) + "\n" + han(number) for number in range(50)]
    return load_tokenizer(train_tokenizer(texts, vocabulary=400, folder=tmp_path_factory.mktemp("tokenizer") / "made"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two general sources of two languages each, unlike in size and length; long and short chats."""
    folder = tmp_path_factory.mktemp("texts")
    both = [{"text": sentence(n, 60 + 200 * (n % 4 == 0)) if n % 3 else han(n, 300)} for n in range(120)]
    more = [{"text": han(500 + n, 200) if n % 5 else sentence(500 + n, 90)} for n in range(50)]
    chats = [ask(n, 30 if n % 4 else 500, 20) for n in range(120)]
    return {
        "store": str(folder / "store"),
        "sources": [
            {"name": "web", "path": write(folder / "web.jsonl", both), "role": "general", "profile": "law"},
            {"name": "notes", "path": write(folder / "notes.jsonl", more), "role": "general", "profile": "law"},
            {
                "name": "chat",
                "path": write(folder / "chat.jsonl", chats),
                "role": "instruction",
                "options": {"messages_key": "messages"},
                "long_documents": "split",
            },
        ],
        "mix": {"general": 8, "instruction": 2},
        "near_duplicates": None,
        "repeated_sections": None,
        "max_repeats": 50,
    }


def make(texts: Mapping[str, Any], stage: Mapping[str, Any] = NONE, **keys: Any) -> Recipe:
    rows = {"context_length": CONTEXT, "tokens": ROWS * CONTEXT, "step_tokens": CONTEXT, "lr": 1e-4}
    data = {"model": "base", "run": "run", "corpus": {**texts, **keys.pop("corpus", {})}}
    return parse_recipe({**data, "stages": [{"rope": {"kind": "unchanged"}, **rows, **stage}], **keys}, where="test")


def source_shares(recipe: Recipe, corpus: Corpus) -> dict[str, float]:
    """The share of a stage's tokens that each source gives, over all of its strata."""
    shares = dict.fromkeys(corpus.sources, 0.0)
    for stratum in plan_stage_strata(recipe, 0, corpus):
        shares[stratum.source] += stratum.share
    return shares


@pytest.fixture(scope="module")
def corpus(texts: dict[str, Any], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    return open_corpus(build(make(texts).corpus, tokenizer=tokenizer, seed=0, folder=folder))


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"languages": {"zh": 3, "other": 1}},
        {"lengths": {0: 1, 128: 4}},
        {"languages": {"zh": 1, "other": 0}, "lengths": {0: 2, 200: 1}, "mix": {"general": 1}},
        {"languages": {"zh": 5, "other": 1}, "mix": {"web": 3, "general": 1, "chat": 1}},
        {"languages": {"zh": 9, "other": 1}, "when_dry": "spread", "max_repeats": 2},
    ],
)
def test_shares_are_those_that_the_rows_have(texts: dict[str, Any], corpus: Corpus, rules: dict[str, Any]) -> None:
    recipe = make(texts, corpus=rules)
    shares, batch = (
        source_shares(recipe, corpus),
        (dataset := open_stage(recipe, 0, corpus)).batch(0, dataset.sequences),
    )
    assert sum(shares.values()) == pytest.approx(1) and set(shares) == {"web", "notes", "chat"}
    given = {name: int((batch.source == number).sum()) for number, name in enumerate(dataset.sources)}
    total = sum(given.values())
    for name, share in shares.items():
        assert abs(given.get(name, 0) - share * total) <= CONTEXT, name
    if rules.get("languages"):  # what the recipe's mix alone, spread by size, would say
        tokens = {name: corpus.facts(name).tokens for name in ("web", "notes")}
        naive = 0.8 * tokens["notes"] / sum(tokens.values())
        assert rules.get("mix") or abs(shares["notes"] - naive) > 0.02


def test_more_sequences_begin_with_those_that_were_planned(texts: dict[str, Any], corpus: Corpus) -> None:
    """After a rollback a stage needs more; their number must not change the shares of a spread mix."""
    rules = {"languages": {"zh": 9, "other": 1}, "when_dry": "spread", "max_repeats": 2}
    recipe = make(texts, corpus=rules)
    planned, longer, shorter = (open_stage(recipe, 0, corpus, sequences=each) for each in (None, ROWS + 40, 30))
    assert planned.digest == longer.digest == shorter.digest
    assert np.array_equal(planned.batch(0, ROWS).tokens, longer.batch(0, ROWS).tokens)
    assert np.array_equal(planned.batch(0, 30).tokens, shorter.batch(0, 30).tokens)
    assert (longer.batch(ROWS, 40).source >= 0).any(axis=1).all()


@pytest.mark.parametrize("lengths", [None, {0: 1, 128: 4}])
def test_the_share_of_long_documents_is_that_of_the_rows(
    texts: dict[str, Any], corpus: Corpus, lengths: dict[int, int] | None
) -> None:
    """Counted over the documents of all rows: those that have at least half a sequence."""
    recipe = make(texts, corpus={"lengths": lengths} if lengths else {})
    (line,) = describe_long_share(recipe, corpus)
    strata = plan_stage_strata(recipe, 0, corpus)
    long = [sum(n for n in each.lengths.tolist() if n >= CONTEXT // 2) / sum(each.lengths.tolist()) for each in strata]
    share = sum(each.share * own for each, own in zip(strata, long, strict=True))
    assert line.startswith(f"stage 0 long documents: {share:.0%} of the tokens") and "34 to 40%" in line


def test_a_stage_s_own_weights_count(texts: dict[str, Any], corpus: Corpus) -> None:
    plain, own = (make(texts, stage) for stage in ({}, {"languages": {"zh": 8, "other": 1}, "mix": {"general": 1}}))
    assert source_shares(own, corpus) != source_shares(plain, corpus) and source_shares(own, corpus)["chat"] == 0


def test_repeats_are_of_the_part_of_a_source_that_runs_dry(texts: dict[str, Any], corpus: Corpus) -> None:
    """All of the general text is enough, its Chinese is not: the feed stops, and check says so before."""
    most = 1.3 * ROWS * CONTEXT / (corpus.facts("web").tokens + corpus.facts("notes").tokens)
    rules = {"mix": {"general": 1}, "max_repeats": most}
    assert [*check_corpus(make(texts, corpus=rules), corpus, None)] == []
    mostly = {**rules, "languages": {"zh": 99, "other": 1}}
    recipe = make(texts, corpus=mostly)
    found = [*check_corpus(recipe, corpus, None)]
    assert {f.level for f in found} == {"error"} and any("web/zh would be read" in f.message for f in found)
    offered = re.search(r"set stages\.0\.tokens=(\d+K) at most", next(f.fix for f in found))
    assert (
        offered is not None and [*check_corpus(make(texts, {"tokens": offered[1]}, corpus=mostly), corpus, None)] == []
    )
    with pytest.raises(UserError, match="runs dry"):
        open_stage(recipe, 0, corpus)


def test_repeats_are_counted_from_tokens() -> None:
    def stratum(name: str, tokens: int, share: float) -> Stratum:
        documents = StoredDocuments((), np.zeros(1, np.int64))
        return Stratum(name, None, None, documents, np.array([tokens], np.int64), share)

    sources = [{"name": "chat", "path": "a", "role": "general"}]
    stage = {"context_length": 1024, "tokens": "20Mi", "step_tokens": 1024}
    recipe = make({"sources": sources, "mix": {"chat": 1}, "max_repeats": 6}, stage)
    found = [*check_repeats(recipe, 0, [stratum("chat", 3 << 20, 1.0), stratum("web", 4 << 20, 0.9)])]
    assert [f.level for f in found] == ["error", "warning"] and "chat would be read 6.7 times" in found[0].message
    assert found[0].fix == ("set stages.0.tokens=18874K at most, add text, or raise max_repeats to 6.7"), (
        "it is the only one"
    )
    small = {"context_length": 1024, "tokens": "20Mi", "step_tokens": "4Mi"}
    chat = stratum("chat", 100_000, 1.0)
    (found_small,) = check_repeats(make({"sources": sources, "mix": {"chat": 1}}, small), 0, [chat])
    offered = re.findall(r"stages\.0\.(tokens|step_tokens)=(\w+)", found_small.fix)
    less = make({"sources": sources, "mix": {"chat": 1}}, {**small, **dict(offered)})
    assert len(offered) == 2 and [*check_repeats(less, 0, [chat])] == [] and less.stages[0].steps >= 8
    spread = make({"sources": sources, "mix": {"chat": 1}, "when_dry": "spread"}, stage)
    assert [*check_repeats(spread, 0, [stratum("chat", 3 << 20, 1.0)])] == [], "others give what it cannot"


def test_what_no_row_can_be_made_of_is_a_finding(texts: dict[str, Any], corpus: Corpus) -> None:
    found = [*check_corpus(make(texts, corpus={"languages": {"en": 1}}), corpus, None)]
    assert [(f.level, f.key) for f in found] == [("error", "stages.0.mix")] and "zh" in found[0].message


def row_faults(recipe: Recipe, corpus: Corpus) -> list[Finding]:
    return [f for f in check_corpus(recipe, corpus, None) if f.key.startswith("corpus.sources.")]


def test_rows_without_a_label_are_counted_and_told(texts: dict[str, Any], corpus: Corpus) -> None:
    recipe = make(texts)
    dataset = open_stage(recipe, 0, corpus)
    batch, own = dataset.batch(0, dataset.sequences), dataset.sources.index("chat")
    ours = (batch.source == own).any(axis=1)
    without = int((ours & (batch.weights == 0).all(axis=1)).sum())
    assert dataset.unlabelled == {"web": (0, int((batch.source == 0).any(axis=1).sum())),
                               "notes": (0, int((batch.source == 1).any(axis=1).sum())),
                               "chat": (without, int(ours.sum()))}  # fmt: skip
    assert 0.01 * ours.sum() < without
    (found,) = row_faults(recipe, corpus)
    assert found.level == "warning" and found.key == "corpus.sources.2.long_documents"
    assert f"{without:,} of the {ours.sum():,} sequences of chat" in found.message and "split" in found.message


@pytest.mark.parametrize("kind", ["by_role", "truncate"])
def test_no_row_lacks_a_label_where_conversations_stay_whole(
    texts: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path, kind: str
) -> None:
    *others, chat = texts["sources"]
    recipe = make(texts, corpus={"sources": [*others, {**chat, "long_documents": kind}], "held_out": 0})
    held = open_corpus(build(recipe.corpus, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    dataset = open_stage(recipe, 0, held)
    assert dataset.unlabelled["chat"][0] == 0
    (found,) = row_faults(recipe, held)
    assert "of the 120 documents of chat, 30 are left out" in found.message and "256" in found.message
    share = sum(n for n in held.train("chat").lengths if n > CONTEXT) / held.facts("chat").tokens
    assert f"({share:.1%})" in found.message


def test_too_little_held_out_text_is_told_before_training(texts: dict[str, Any], corpus: Corpus) -> None:
    def keys(base_tokens: int, **rest: Any) -> dict[str, str]:
        recipe = make(texts, rest.pop("stage", {}), **rest)
        found = check_corpus(recipe, corpus, base_tokens)
        return {f.key: f.message for f in found if not f.key.startswith("corpus.sources.")}

    assert keys(16, evaluate={"documents": 3}) == {}
    few = keys(64, evaluate={"documents": 500})
    assert (
        list(few) == ["evaluate.documents"] and "of 500 held-out documents have 256 tokens" in few["evaluate.documents"]
    )
    found = [*check_corpus(make(texts, evaluate={"documents": 500}), corpus, 64)]
    assert [each.fix.partition(", or ")[2] for each in found if each.key == "evaluate.documents"] == [
        "add more long documents"
    ], "no share of this text holds 500"
    panel = {"validation": {"documents": 400, "truncated_tokens": 64}, "gate": {"window_loss": 0.1, "documents": 300}}
    assert list(keys(64, evaluate={"documents": 1}, stage=panel)) == [
        "stages.0.validation.documents",
        "stages.0.gate.documents",
    ]


def test_a_weight_of_which_no_document_is_read_is_told_once(texts: dict[str, Any], corpus: Corpus) -> None:
    weights = {"languages": {"en": 1, "zh": 1, "de": 2, "fr": 0, "other": 1}, "lengths": {"0": 1, "64Ki": 4}}
    recipe = make(texts, corpus=weights)
    stages = [recipe.stages[0], recipe.stages[0].model_copy(update={"languages": {"zh": 1, "it": 1, "other": 1}})]

    def find(recipe: Recipe) -> list[str]:
        found = check_corpus(recipe, corpus, None)
        return [each.key for each in found if "no document that stage" in each.message]

    assert find(recipe.model_copy(update={"stages": (*stages, stages[0])})) == [
        "corpus.languages.de",
        "corpus.lengths.64Ki",
        "stages.1.languages.it",
    ]
    assert find(make(texts)) == []


@pytest.mark.parametrize("count", [2, 5, 9, 10])
def test_a_source_of_which_nothing_is_held_out_is_named(
    texts: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path, count: int
) -> None:
    few = write(tmp_path / "few.jsonl", [{"text": sentence(7000 + n, 90)} for n in range(count)])
    sources = [texts["sources"][0], {"name": "few", "path": few, "role": "general", "language": "en"}]

    def find(held_out: float | None = None) -> list[Finding]:
        given = {} if held_out is None else {"held_out": held_out}
        recipe = make(texts, corpus={"sources": sources, "mix": {"web": 1, "few": 1}, "near_duplicates": None, **given})
        folder = tmp_path / f"corpus-{held_out}"
        built = open_corpus(build(recipe.corpus, tokenizer=tokenizer, seed=0, folder=folder))
        return [each for each in check_corpus(recipe, built, None) if each.key == "corpus.held_out"]

    found = find()
    assert len(found) == (count < 10)
    for each in found:
        assert f"nothing is held out of few ({count} documents): " in each.message
        offered = re.search(r"corpus\.held_out=([\d.]+),", each.fix)
        assert offered is not None and find(float(offered[1])) == [] and find(0) == []


def test_the_share_to_hold_out_that_is_offered_is_enough(
    texts: dict[str, Any], corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    asked = {"evaluate": {"documents": 12}}

    def find(recipe: Recipe, built: Corpus) -> list[str]:
        return [each.fix for each in check_corpus(recipe, built, 64) if each.key == "evaluate.documents"]

    (fix,) = find(make(texts, **asked), corpus)
    offered = re.search(r"corpus\.held_out=([\d.]+) with a new run folder", fix)
    assert offered is not None
    larger = make(texts, corpus={"held_out": float(offered[1])}, **asked)
    built = open_corpus(build(larger.corpus, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    assert find(larger, built) == []


def test_a_plan_is_no_more_than_its_shares(texts: dict[str, Any], corpus: Corpus) -> None:
    assert sum(stratum.share for stratum in plan_stage_strata(make(texts), 0, corpus)) == pytest.approx(1)


def test_a_corpus_of_other_sources_says_nothing(texts: dict[str, Any], corpus: Corpus) -> None:
    web, notes, _ = texts["sources"]
    recipe = make(texts, corpus={"sources": [web, {**notes, "name": "other"}], "mix": {"general": 1}})
    (found,) = check_corpus(recipe, corpus, 64)
    assert (found.level, found.key) == ("warning", "corpus.sources") and "web, notes, chat" in found.message
