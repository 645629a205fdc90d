"""The gain of context against plain transformers in float64, and what a corpus makes of the column."""

import json
from pathlib import Path

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
from ropewalk.evaluate.length_gain import long_texts, make_items, score_lengths

NEAR, CONTEXT = 32, 96


def plain_gain(model: torch.nn.Module, tokens: np.ndarray) -> float:
    """Token by token: the loss with all before it, and with the window that make_items gives it."""
    ids = torch.from_numpy(tokens)[None]

    def losses(text: torch.Tensor) -> torch.Tensor:
        logits = model(text).logits[0, :-1].log_softmax(-1)
        return -logits.gather(1, text[0, 1:, None])[:, 0]

    far, near = [], []
    whole = losses(ids)
    for begin in range(NEAR, len(tokens), NEAR // 4):
        end = min(len(tokens), begin + NEAR // 4)
        window = losses(ids[:, end - NEAR : end])
        for at in range(begin, end):
            far.append(float(whole[at - 1]))
            near.append(float(window[at - (end - NEAR) - 1]))
    return float(np.mean(near) - np.mean(far))


def test_the_gain_is_that_of_plain_transformers(models: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    found = score_lengths(
        models["base"], corpus, truncated_tokens=NEAR, context_tokens=CONTEXT, precision="float32", out=out
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    texts = list(long_texts(corpus, truncated_tokens=NEAR, context_tokens=CONTEXT))
    assert found["documents"] == len(rows) == len(texts) > 50
    assert [(row["id"], row["source"], row["tokens"]) for row in rows] == [
        (text.id, text.source, len(text.tokens)) for text in texts
    ]
    assert {row["source"] for row in rows} == {"prose", "han"}  # prompts are not scored
    model = AutoModelForCausalLM.from_pretrained(models["base"], dtype=torch.float64)
    with torch.inference_mode():
        for number in (0, 7, len(rows) - 1):
            assert rows[number]["gain"] == pytest.approx(plain_gain(model, texts[number].tokens), abs=1e-5)
    assert found["best"][0]["gain"] == max(row["gain"] for row in rows)
    assert found["worst"][0]["gain"] == min(row["gain"] for row in rows)


def test_both_readings_count_the_same_tokens(corpus: Corpus) -> None:
    texts = list(long_texts(corpus, truncated_tokens=NEAR, context_tokens=CONTEXT))[:5]
    items = make_items(texts, truncated_tokens=NEAR)
    counts = np.zeros(2 * len(texts))
    for item in items:
        np.add.at(counts, item.group[item.group >= 0], 1)
        assert item.group[0] == -1
    assert counts.reshape(-1, 2).T.tolist() == [[len(text.tokens) - NEAR for text in texts]] * 2


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
    texts = list(long_texts(open_corpus(folder), truncated_tokens=NEAR, context_tokens=CONTEXT))
    assert [text.id for text in texts] == ["b8"]
    assert "4 joined documents of source books get no score" in capsys.readouterr().err


def test_nothing_to_score_is_an_error(models: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document is long enough"):
        score_lengths(
            models["base"], corpus, truncated_tokens=4096, context_tokens=8192, precision="float32", out=tmp_path / "s"
        )
    assert not (tmp_path / "s").exists()
