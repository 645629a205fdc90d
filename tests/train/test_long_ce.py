"""LongCE on any ranks is what reading every document whole, and every near context by itself, gives on one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from place import Place
from ropewalk.core.record import Batch, read_metrics
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.model.load import load_model
from ropewalk.model.loss import LossRules, score_labels
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition.choose import make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.recipe.long_ce import LongCE
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.train.batches import make_batches
from ropewalk.train.long_ce import cut_blocks, list_readings
from ropewalk.train.stage import train_stage
from tiny_run import CONTEXT_TOKENS, make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
SPEC = LongCE(truncated_tokens=16, most=1.2, readings=3)
LONG_CE = {"long_ce": SPEC.model_dump()}


@pytest.mark.parametrize(("near", "readings"), [(16, 2), (16, 3), (12, 5), (4, 2)])
def test_each_token_with_far_context_is_asked_once_with_enough_near_context(near: int, readings: int) -> None:
    spec = LongCE(truncated_tokens=near, readings=readings)
    lengths = [[40, 24, 64], [1, 127, 0], [128, 0, 0], [20, 20, 20]]
    document = np.full((4, 128), -1, dtype=np.int32)
    for sequence, held in zip(document, lengths, strict=True):
        sequence[: sum(held)] = np.repeat(np.arange(3), held)
    asked = np.zeros(document.shape, dtype=int)
    for number in range(readings):
        blocks = cut_blocks(document, spec, number)
        assert bool(blocks.counts.any()) == (number in list_readings(128, spec))
        asked += blocks.counts
        for sequence, at in np.argwhere(blocks.counts):
            begin = at - blocks.positions[sequence, at]
            assert near <= at - begin < near + near // (readings - 1)
            assert (document[sequence, begin : at + 1] == document[sequence, at]).all(), "a block stays in its document"
            assert (blocks.document[sequence, begin : at + 1] == blocks.document[sequence, at]).all()
            assert (blocks.positions[sequence, begin : at + 1] == np.arange(at + 1 - begin)).all()
            assert begin == 0 or blocks.document[sequence, begin - 1] != blocks.document[sequence, at]
    far = np.zeros(document.shape, dtype=int)
    for sequence, held in enumerate(lengths):
        for end, tokens in zip(np.cumsum(held), held, strict=True):
            far[sequence, end - tokens + spec.block_tokens : end] = 1
    assert (asked == far).all()
    assert list_readings(spec.block_tokens, spec) == [] and list_readings(spec.block_tokens + 1, spec) == [1]


def test_the_weight_is_applied_and_not_differentiated() -> None:
    torch.manual_seed(0)
    hidden, head = (torch.randn(size, 8, dtype=torch.float64, requires_grad=True) for size in (30, 11))
    labels, weights = torch.randint(11, (30,)), torch.rand(30).double() * (torch.rand(30) > 0.3)
    truncated_nll = torch.where(torch.rand(30) > 0.5, 3 * torch.rand(30).double(), torch.nan)
    logits = hidden @ head.T
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    factor = torch.where(truncated_nll.isnan(), 1.0, torch.exp(truncated_nll - nll.detach()).clamp(max=2.0))
    assert (factor == 2.0).any() and (factor < 1).any()
    expected = (weights * factor * (nll + 1e-2 * logits.logsumexp(1) ** 2)).sum()
    wanted = torch.autograd.grad(expected, (hidden, head))
    rules: dict[str, Any] = {"rules": LossRules(7, z_loss=1e-2, most=2.0), "truncated_nll": truncated_nll}
    found, plain, _ = score_labels(hidden, head, labels, weights, **rules)
    assert torch.allclose(found, expected, rtol=1e-12)
    assert torch.allclose(plain, nll * (weights > 0), rtol=1e-12), "what is told is the plain nll"
    for mine, theirs in zip(torch.autograd.grad(found, (hidden, head)), wanted, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-14)
    with torch.no_grad():
        assert torch.allclose(score_labels(hidden, head, labels, weights, **rules)[0], expected, rtol=1e-12)


def read_by_brute_force(recipe: Recipe, prepared: Prepared) -> dict[str, float]:
    """The first step's rows, document by document and block by block, through a plain model."""
    causal = load_model(prepared[0] / "stages" / "0" / "extended")
    spec = recipe.stages[0]
    batch: Batch = open_stage(recipe, 0, open_corpus(prepared[1]), sequences=spec.step_sequences).batch(
        0, spec.step_sequences
    )
    total, weight_sum, factors = torch.zeros(()), 0.0, []
    for sequence in range(spec.step_sequences):
        for number in range(batch.document[sequence].max() + 1):
            here = batch.document[sequence] == number
            tokens, labels = (torch.from_numpy(field[sequence, here]).long() for field in (batch.tokens, batch.labels))
            weights = torch.from_numpy(batch.weights[sequence, here])

            def read(
                first: int, end: int, tokens: torch.Tensor = tokens, labels: torch.Tensor = labels
            ) -> torch.Tensor:
                logits = causal(input_ids=tokens[None, first:end]).logits[0]
                return torch.nn.functional.cross_entropy(logits, labels[first:end], reduction="none")

            nll, factor = read(0, len(tokens)), torch.ones(len(tokens))
            for begin in range(SPEC.stride_tokens, len(tokens) - SPEC.truncated_tokens, SPEC.stride_tokens):
                last = slice(begin + SPEC.truncated_tokens, begin + SPEC.block_tokens)
                with torch.no_grad():
                    near = read(begin, begin + SPEC.block_tokens)[SPEC.truncated_tokens :]
                    factor[last] = torch.exp(near - nll[last]).clamp(max=SPEC.most)
                factors += factor[last][weights[last] > 0].tolist()
            total = total + (weights * factor * nll).sum()
            weight_sum += float(weights.sum())
    (total / weight_sum).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in causal.parameters()]).norm()
    return {"grad_norm": float(norm), "long_ce/weight": float(np.mean(factors)), "readings": len(factors)}


@pytest.mark.parametrize(
    "parallel",
    [
        {"ranks": 1, "context_parallel": 1},
        {"ranks": 2, "context_parallel": 2},
        {"ranks": 2, "context_parallel": 2, "ulysses_degree": 2},
        {"ranks": 2, "context_parallel": 1},
        {"ranks": 4, "context_parallel": 2, "recompute": "save_attention"},
    ],
    ids=["one", "context", "heads", "data", "both"],
)
def test_a_step_is_the_brute_force_one(prepared: Prepared, new_run: NewRun, parallel: dict[str, Any]) -> None:
    recipe = make_recipe(tokens=2 * 4 * CONTEXT_TOKENS, step_tokens=4 * CONTEXT_TOKENS, **LONG_CE, parallel=parallel)
    run = new_run("weighed")
    run_ranks(lambda: train_stage(recipe, stage=0, run=run, corpus=prepared[1]), recipe.parallel.ranks, threads=1)
    found = {metric.name: metric.value for metric in read_metrics(run / "metrics.jsonl") if metric.step == 1}
    expected = read_by_brute_force(recipe, prepared)
    assert expected["readings"] > 40 and open_corpus(prepared[1]).digest == "made-up"
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    assert found["long_ce/weight"] == pytest.approx(expected["long_ce/weight"], rel=1e-5)
    assert expected["long_ce/weight"] != pytest.approx(1.0, abs=1e-4), "an untrained model sees little, but it does"


def test_tokens_without_a_loss_are_not_weighed(prepared: Prepared) -> None:
    """A source whose labels count nothing: its full nll is not computed, so there is nothing to compare."""
    recipe = make_recipe(**LONG_CE, loss_weights={"counted": 0.0})
    dataset = open_stage(recipe, 0, open_corpus(prepared[1]))
    sharing = make_sharing(Heads(4, 2, 8), device="cpu", element_bytes=4)
    mesh = Place(context_ranks=1, context_rank=0, device=torch.device("cpu"))
    batches = make_batches(dataset, 0, sequences=4, spec=recipe.stages[0], mesh=mesh, sharing=sharing)
    weighed = asked = 0
    for micro in batches.micro:
        assert micro.weighed is not None and (micro.source[micro.weighed] == dataset.sources.index("plain")).all()
        weighed += int(micro.weighed.sum())
        asked += sum(int(reading.weights.sum()) for reading in micro.truncated)
    assert weighed == asked > 20


def test_what_cannot_be_weighed_is_refused() -> None:
    with pytest.raises(ValueError, match="no token has more than the truncated context"):
        make_recipe(long_ce={"truncated_tokens": CONTEXT_TOKENS // 2})
    with pytest.raises(ValueError, match="cannot be divided into 4 equal strides"):
        LongCE(truncated_tokens=17, readings=5)
    with pytest.raises(ValueError, match="long_ce: with pose"):
        make_recipe(long_ce={"truncated_tokens": 8}, pose={"reach": 256, "chunks": 2})
