"""All measurements of two models together: what is scored, on the same tokens, by any number of ranks."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch.distributed.tensor import DTensor

from made_texts import sentence
from ropewalk.core.error import UserError
from ropewalk.core.record import Score
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.train_tokenizer import train_tokenizer
from ropewalk.evaluate import evaluate as room
from ropewalk.evaluate.evaluate import evaluate_models
from ropewalk.evaluate.length_gain import score_lengths
from ropewalk.model import open_model as opening
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import choose_reading_dtype, open_model
from ropewalk.model.weights import Dtype
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.precision import Precision
from ropewalk.recipe.spec import EvaluateSpec
from swapped_tokenizer import swap_two_tokens

BASE_TOKENS = 64
SPEC = EvaluateSpec.model_validate(
    {
        "lengths": [1, 2, 4],
        "answers": 40,
        "documents": 6,
        "short_tokens": 600,
        "context_law": True,
        "pairs": [2, 4],
        "probes": [{"kind": "needle", "language": "zh"}],
    }
)


def run(models: dict[str, Path], corpus: Corpus | None) -> list[Score]:
    folder = None if corpus is None else corpus.folder
    scores = evaluate_models(models, SPEC, corpus=folder, base_context_tokens=BASE_TOKENS)
    assert scores is not None
    return scores


def test_both_models_have_every_score(
    models: dict[str, Path], corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = run(models, corpus)
    named = {name: [(s.task, s.context_tokens, s.depth) for s in scores if s.model == name] for name in models}
    changes = [entry for entry in named["extended"] if entry[0].startswith("change/")]
    assert len(named["base"]) == len(set(named["base"]))
    assert set(named["extended"]) - set(changes) == set(named["base"])
    wanted = ["change/nll/base", "change/short/han", "change/short/prose", "change/short_mean"]
    assert sorted(task for task, *_ in changes) == wanted
    tasks = {task for task, *_ in named["base"]}
    assert {"nll/position/48-64", "nll/position/192-256", "nll/gap", "short/han", "retrieval/needle_zh"} <= tasks
    assert [at for task, at, _ in named["base"] if task == "context_law/loss"] == [256, 128, 64, 32, 16, 8]
    grid = [depth for task, tokens, depth in named["base"] if task == "retrieval/key_value" and tokens == 256]
    assert grid[0] is None and grid[1:] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert all(score.low <= score.value <= score.high for score in scores)
    samples = {score.task: score.samples for score in scores if score.depth is None}
    assert samples["nll/gap"] == samples["change/nll/base"] == 6  # documents
    assert 40 / 4 <= samples["retrieval/key_value"] <= 40 / 2  # prompts of two to four answers
    assert samples["change/short_mean"] == samples["change/short/han"] + samples["change/short/prose"]
    told = capsys.readouterr().err
    assert "base: loss" in told and "extended: loss" in told and "in the last of 256 tokens" in told


def test_a_model_does_not_differ_from_itself(models: dict[str, Path], corpus: Corpus) -> None:
    scores = run({"base": models["base"], "again": models["base"]}, corpus)
    values = {name: {(s.task, s.context_tokens, s.depth): s.value for s in scores if s.model == name} for name in ("base", "again")}  # fmt: skip # noqa: E501
    for key, value in values["base"].items():
        assert values["again"][key] == value
    assert all(score.value == 0 for score in scores if score.task.startswith("change/"))


@pytest.mark.parametrize("ranks", [2, 3])
def test_sharded_models_score_what_whole_ones_do(
    models: dict[str, Path], corpus: Corpus, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """Ranks with unequal numbers of sequences, and a model that no rank holds."""
    spec = SPEC.model_copy(update={"answers": 10, "documents": 3, "probes": ()})
    settings = {"spec": spec, "corpus": corpus.folder, "base_context_tokens": BASE_TOKENS}
    alone = evaluate_models(models, **settings)
    opened: list[bool] = []

    def open_sharded(kind: type[ModelWithLoss], folder: Path, *, dtype: Dtype, whole_bytes: int) -> ModelWithLoss:
        learner = open_model(kind, folder, dtype=dtype, whole_bytes=0)
        opened.append(all(isinstance(each, DTensor) for each in learner.parameters()))
        return learner

    def work() -> tuple[list[Score] | None, list[bool]]:
        return evaluate_models(models, **settings), opened

    monkeypatch.setattr("ropewalk.evaluate.evaluate.open_model", open_sharded)
    (first, was_sharded), *_ = run_ranks(work, ranks, threads=1)
    assert was_sharded == [True, True] and alone is not None and len(first) == len(alone)
    for ours, theirs in zip(first, alone, strict=True):
        assert (ours.task, ours.model, ours.n) == (theirs.task, theirs.model, theirs.n)
        assert ours.value == pytest.approx(theirs.value, rel=1e-6, abs=1e-6)


def test_ranks_share_the_work_and_the_first_has_the_scores(models: dict[str, Path], corpus: Corpus) -> None:
    alone = run(models, corpus)

    def work() -> list[Score] | None:
        return evaluate_models(models, SPEC, corpus=corpus.folder, base_context_tokens=BASE_TOKENS)

    first, second = run_ranks(work, 2)
    assert second is None and len(first) == len(alone)
    for ours, theirs in zip(first, alone, strict=True):
        assert (ours.task, ours.model, ours.n) == (theirs.task, theirs.model, theirs.n)
        assert (ours.value, ours.low, ours.high) == pytest.approx(
            (theirs.value, theirs.low, theirs.high), rel=1e-5, abs=1e-6
        )


def test_without_a_corpus_there_is_retrieval(models: dict[str, Path]) -> None:
    assert {score.task for score in run({"one": models["base"]}, None)} == {
        "answer_loss/key_value",
        "answer_loss/needle_zh",
        "retrieval/key_value",
        "retrieval/needle_zh",
    }


def test_models_of_unlike_tokenizers_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(models["base"], other)
    made = train_tokenizer([sentence(n) for n in range(40)], vocabulary=300, folder=tmp_path / "made")
    shutil.copy(made / "tokenizer.json", other / "tokenizer.json")
    with pytest.raises(UserError, match="another tokenizer"):
        run({"base": models["base"], "extended": other}, None)


def test_a_corpus_of_another_tokenizer_is_refused(models: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(models["base"], other)
    made = train_tokenizer([sentence(n) for n in range(40)], vocabulary=300, folder=tmp_path / "made")
    shutil.copy(made / "tokenizer.json", other / "tokenizer.json")
    with pytest.raises(UserError, match="corpus was made with another tokenizer"):
        run({"base": other}, corpus)


def test_a_corpus_of_another_tokenizer_of_the_same_size_is_refused(
    models: dict[str, Path], corpus: Corpus, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(models["base"], other)
    swap_two_tokens(other / "tokenizer.json")
    with pytest.raises(UserError, match="extended has another tokenizer than base"):
        run({"base": models["base"], "extended": other}, None)
    with pytest.raises(UserError, match="corpus was made with another tokenizer"):
        run({"base": other}, corpus)
    with pytest.raises(UserError, match="corpus was made with another tokenizer"):
        score_lengths(other, corpus, truncated_tokens=8, context_tokens=64, precision="float32", out=tmp_path / "gain")


def test_too_few_long_documents_are_told(
    models: dict[str, Path], corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = SPEC.model_copy(update={"documents": 5000})
    evaluate_models({"one": models["base"]}, spec, corpus=corpus.folder, base_context_tokens=BASE_TOKENS)
    assert "of 5000 held-out documents have 256 tokens" in capsys.readouterr().err


def test_bfloat16_is_near_float32(models: dict[str, Path], corpus: Corpus) -> None:
    spec = SPEC.model_copy(update={"precision": "bfloat16", "probes": ()})
    rough = evaluate_models({"base": models["base"]}, spec, corpus=corpus.folder, base_context_tokens=BASE_TOKENS)
    assert rough is not None
    scores = run({"base": models["base"]}, corpus)
    exact = {(score.task, score.context_tokens, score.depth): score.value for score in scores}
    for score in rough:
        if score.metric == "nats" and score.depth is None:  # a depth has few answers here
            found = exact[score.task, score.context_tokens, None]
            assert score.value == pytest.approx(found, abs=0.15 if score.task.startswith("answer_loss") else 0.05)


def test_sums_that_a_cpu_reads_in_float32_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that shares the store reads the other model in bfloat16, and the two make no pair."""
    keys = set()
    for slow in (True, False):
        monkeypatch.setattr(room, "multiplies_slowly", lambda dtype, slow=slow: slow and dtype == "bfloat16")
        keys |= {str(room.describe_written(EvaluateSpec(precision=each), [])) for each in ("bfloat16", "float32")}
    assert len(keys) == 3


@pytest.mark.parametrize(("device", "same"), [("cuda", "bfloat16"), ("cpu", "float32")])
def test_auto_reads_and_keeps_sums_as_the_device_does(device: str, same: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "rank_device", lambda: torch.device(device))
    keys = {each: room.describe_written(EvaluateSpec(precision=each), []) for each in get_args(Precision)}
    assert keys["auto"] == keys[same] and keys["bfloat16"] != keys["float32"]
    assert choose_reading_dtype("auto") == same and choose_reading_dtype("float32") == "float32"
