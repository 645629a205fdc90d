"""The gain of context against plain transformers in float64, and what a corpus makes of the column."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from corpus.conftest import write_records
from made_texts import sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.gain_sample import choose_stretch, choose_stretches
from ropewalk.evaluate.gain_sections import count_whole, cut_sections
from ropewalk.evaluate.length_gain import LongText, long_texts, make_items, score_lengths, section_items

NEAR, CONTEXT = 32, 96


def plain_gain(model: torch.nn.Module, tokens: np.ndarray) -> float:
    """Token by token, section by section: the loss with all of the section before it, and with the window that
    make_items gives it."""

    def losses(text: torch.Tensor) -> torch.Tensor:
        logits = model(text).logits[0, :-1].log_softmax(-1)
        return -logits.gather(1, text[0, 1:, None])[:, 0]

    far, near, done = [], [], 0
    for start in range(0, len(tokens), CONTEXT):
        start = max(0, min(start, len(tokens) - CONTEXT))
        ids = torch.from_numpy(tokens[start : start + CONTEXT])[None]
        whole = losses(ids)
        for begin in range(max(NEAR, done - start), ids.shape[1], NEAR // 4):
            end = min(ids.shape[1], begin + NEAR // 4)
            window = losses(ids[:, end - NEAR : end])
            for at in range(begin, end):
                far.append(float(whole[at - 1]))
                near.append(float(window[at - (end - NEAR) - 1]))
        done = start + ids.shape[1]
    return float(np.mean(near) - np.mean(far))


def test_the_gain_is_that_of_plain_transformers(models: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    found = score_lengths(
        models["base"], corpus, truncated_tokens=NEAR, context_tokens=CONTEXT, precision="float32", out=out
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    texts = list(long_texts(corpus, truncated_tokens=NEAR))
    assert found["documents"] == len(rows) == len(texts) > 50
    assert [(row["id"], row["source"], row["tokens"]) for row in rows] == [
        (text.id, text.source, len(text.tokens)) for text in texts
    ]
    assert {row["source"] for row in rows} == {"prose", "han"}  # prompts are not scored
    model = AutoModelForCausalLM.from_pretrained(models["base"], dtype=torch.float64)
    with torch.inference_mode():
        longest = int(np.argmax([row["tokens"] for row in rows]))
        assert rows[longest]["tokens"] > CONTEXT  # it is read in two sections
        for number in (0, 7, len(rows) - 1, longest):
            assert rows[number]["gain"] == pytest.approx(plain_gain(model, texts[number].tokens), abs=1e-5)
    assert found["best"][0]["gain"] == max(row["gain"] for row in rows)
    assert found["worst"][0]["gain"] == min(row["gain"] for row in rows)


def test_both_readings_count_the_same_tokens(corpus: Corpus) -> None:
    texts = list(long_texts(corpus, truncated_tokens=NEAR))[:5]
    items = make_items(texts, truncated_tokens=NEAR)
    counts = np.zeros(2 * len(texts))
    for item in items:
        np.add.at(counts, item.group[item.group >= 0], 1)
        assert item.group[0] == -1
    assert counts.reshape(-1, 2).T.tolist() == [[len(text.tokens) - NEAR for text in texts]] * 2


@pytest.mark.parametrize("length", [64, 255, 256, 257, 300, 512, 700, 5000])
def test_every_token_of_a_book_is_read_and_counts_once(length: int) -> None:
    """But for the first ones of each section, which have no truncated context."""
    lengths: dict[str, int] = {"truncated_tokens": 32, "context_tokens": 256}
    sections = cut_sections(length, **lengths)
    counted = np.zeros(length, dtype=int)
    for begin, end, first in sections:
        assert end - begin == min(length, 256) and begin + 32 <= first < end
        counted[first:end] += 1
    assert counted.max() == 1 and counted.sum() >= length - 32 * len(sections) and counted[-1] == 1
    items = [*section_items(LongText("s", "d", np.arange(length)), 6, **lengths)]
    assert sum(len(item.tokens) for item in items) == count_whole(length, **lengths)
    for group in (6, 7):
        own = np.concatenate([item.tokens[item.group == group] for item in items])
        assert sorted(own.tolist()) == np.flatnonzero(counted).tolist()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_sections_of_a_book_are_drawn_evenly(share: float) -> None:
    lengths: dict[str, int] = {"truncated_tokens": 32, "context_tokens": 256}
    for length in (300, 2000, 40_000):
        sections = {section.begin for section in cut_sections(length, **lengths)}
        read = np.zeros(length)
        for number in range(30):
            stretches = choose_stretches(length, share, "s", str(number), **lengths)
            cost = sum(stretch.count_read(32) for stretch in stretches)
            assert cost <= max(2 * 32 + 16, share * count_whole(length, **lengths))
            assert length < 2000 or cost > 0.6 * share * count_whole(length, **lengths)
            begins = [stretch.begin for stretch in stretches]
            assert begins == sorted({*begins}) and stretches[-1].end <= length
            gaps = np.diff(begins)
            assert len(gaps) < 2 or gaps.max() <= gaps.min() + 2 * 256
            for stretch in stretches:
                assert len(stretches) == 1 or (stretch.begin in sections and stretch.end - stretch.begin == 256)
                assert all(stretch.begin + 32 <= at <= stretch.end - 16 for at in stretch.windows)
                read[stretch.begin : stretch.end] += 1
        parts = [part.mean() for part in np.array_split(read, 4)]
        assert length < 2000 or max(parts) < 2.5 * min(parts) + 1


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4, 0.9])
def test_a_stretch_costs_its_share_and_holds_its_windows(share: float) -> None:
    for number, truncated in enumerate([16, 64, 4096]):
        for times in (2, 2.1, 8, 33):
            length = int(times * truncated)
            stretch = choose_stretch(length, truncated, share, "s", str(number))
            windows, step = np.array(stretch.windows), truncated // 2
            assert 0 <= stretch.begin < stretch.end <= length and len(windows) >= 1
            assert (windows >= stretch.begin + truncated).all() and windows[-1] + step == stretch.end
            assert (np.diff(windows) >= step).all()
            least = 2 * truncated + step
            assert stretch.count_read(truncated) <= max(
                least, share * count_whole(length, truncated_tokens=truncated, context_tokens=length)
            )
            assert stretch == choose_stretch(length, truncated, share, "s", str(number))
            assert (
                length < 3 * truncated
                or share > 0.5
                or stretch != choose_stretch(length, truncated, share, "s", "another")
            )


def test_a_sampled_gain_is_that_of_its_windows(models: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    """Each window against plain transformers, and an interval that holds the whole gain most times."""
    outs = [tmp_path / "whole.jsonl", tmp_path / "sample.jsonl"]
    lengths: dict[str, Any] = {"truncated_tokens": NEAR, "context_tokens": CONTEXT, "precision": "float32"}
    found = [
        score_lengths(models["base"], corpus, out=out, share=s, **lengths)
        for out, s in zip(outs, [1, 0.4], strict=True)
    ]
    whole, rows = ([json.loads(line) for line in out.read_text().splitlines()] for out in outs)
    assert found[0]["read"] == 1 and 0.3 < found[1]["read"] < 0.5
    assert sum(row["tokens_read"] for row in rows) == round(
        found[1]["read"]
        * sum(count_whole(row["tokens"], truncated_tokens=NEAR, context_tokens=CONTEXT) for row in rows)
    )
    assert [row["id"] for row in rows] == [row["id"] for row in whole]
    inside = [row["low"] <= each["gain"] <= row["high"] for row, each in zip(rows, whole, strict=True)]
    assert np.mean(inside) > 0.7
    texts = list(long_texts(corpus, truncated_tokens=NEAR))
    model = AutoModelForCausalLM.from_pretrained(models["base"], dtype=torch.float64)
    with torch.inference_mode():
        for text, row in list(zip(texts, rows, strict=True))[:4]:
            ids = torch.from_numpy(text.tokens)[None]

            def loss(begin: int, first: int, end: int, ids: torch.Tensor = ids) -> float:
                """Of tokens [first, end), read from ``begin`` on."""
                logits = model(ids[:, begin:end]).logits[0, first - begin - 1 : -1].log_softmax(-1)
                return -float(logits.gather(1, ids[0, first:end, None]).sum())

            step = NEAR // 2
            begins = {at: begin for at in row["windows"] for begin, end in row["read"] if begin <= at < end}
            gains = [loss(at + step - NEAR, at, at + step) - loss(begins[at], at, at + step) for at in row["windows"]]
            assert row["of_windows"] == pytest.approx(sum(gains) / step / len(gains), abs=1e-5)


def test_joined_documents_get_no_score_and_this_is_told(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The score would be that of the first part, by its id."""
    records = [{"id": f"b{n}", "book": n // 2, "at": n, "text": sentence(n, 90)} for n in range(9)]
    path = write_records(tmp_path, "books.jsonl", records)
    source = {"name": "books", "path": str(path), "role": "general", "profile": "markup"}
    rules = {"join": {"by": "book", "order": "at"}}
    spec = {"store": str(tmp_path / "store"), "sources": [{**source, **rules}], "mix": {"books": 1}, "held_out": 0}
    folder = build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    texts = list(long_texts(open_corpus(folder), truncated_tokens=NEAR))
    assert [text.id for text in texts] == ["b8"]
    assert "source books has 4 joined documents without a score" in capsys.readouterr().err


def test_nothing_to_score_is_an_error(models: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document is long enough"):
        score_lengths(
            models["base"], corpus, truncated_tokens=4096, context_tokens=8192, precision="float32", out=tmp_path / "s"
        )
    assert not (tmp_path / "s").exists()
