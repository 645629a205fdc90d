"""Skip-wise positions in training: drawn by the row's number, never a border of the mask, the same on any ranks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from place import Place
from ropewalk.checkpoint.load import newest
from ropewalk.core.record import TIMED, Metric, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.seed import stream
from ropewalk.corpus.mix.dataset import Dataset, open_dataset
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.partition.choose import make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.recipe.spec import Recipe
from ropewalk.rope.pose import Pose, pose_positions
from ropewalk.train.batches import make_batches
from ropewalk.train.stage import train_stage
from tiny_run import CONTEXT_TOKENS, make_recipe

SKIP = {"reach": 1024, "chunks": 3}
SHORT = {"tokens": 6 * 4 * CONTEXT_TOKENS, "checkpoint_steps": 3, "pose": SKIP}
SHARING = make_sharing(Heads(4, 2, 8), device="cpu", element_bytes=4)
Prepared = tuple[Path, Path]
Losing = Callable[[int], AbstractContextManager[None]]


def open_tiny(recipe: Recipe, corpus: Path, *, seed: int = 3, stage: int = 0) -> Dataset:
    return open_dataset(
        open_corpus(corpus),
        mix=recipe.corpus.mix,
        context_tokens=CONTEXT_TOKENS,
        sequences=24,
        seed=seed,
        stage=stage,
        max_repeats=100,
    )


def read_positions(
    dataset: Dataset, recipe: Recipe, *, data: int = 1, context: int = 1, cursor: int = 4, sequences: int = 6
) -> np.ndarray:
    """Positions of all rows as the ranks get them, put together again: [rows, context]."""
    found = []
    for data_rank in range(data):
        packed: list[np.ndarray] = []
        for context_rank in range(context):
            mesh = Place(data_ranks=data, context_ranks=context, data_rank=data_rank, context_rank=context_rank)
            batches = make_batches(
                dataset, cursor, sequences=sequences, spec=recipe.stages[0], mesh=mesh, sharing=SHARING
            )
            for number, micro in enumerate(batches.micro):
                if context_rank == 0:
                    packed.append(np.zeros(micro.partition.tokens, np.int32))
                packed[number][micro.partition.owned(context_rank)] = micro.positions.numpy()
        found.append(np.concatenate(packed))
    return np.concatenate(found).reshape(sequences, CONTEXT_TOKENS)


def test_positions_are_the_row_s_own_on_any_ranks_and_the_mask_knows_nothing(prepared: Prepared) -> None:
    recipe, plain = make_recipe(**SHORT), make_recipe()
    dataset = open_tiny(recipe, prepared[1])
    wanted = read_positions(dataset, recipe)
    for data, context, micro_batch_size in ((2, 1, 1), (1, 2, 3), (3, 2, 2)):
        other = make_recipe(**SHORT, micro_batch_size=micro_batch_size)
        found = read_positions(dataset, other, data=data, context=context)
        assert sorted(found.tolist()) == sorted(wanted.tolist()), "the same rows, whoever has them"
    late = read_positions(dataset, recipe, cursor=7, sequences=3)
    assert (late == wanted[3:]).all(), "a row's positions do not depend on where a step begins"
    assert wanted.max() > 10 * CONTEXT_TOKENS and wanted.max() < SKIP["reach"]
    batch = dataset.batch(4, 6)
    streams = [stream("pose", dataset.digest, number) for number in range(4, 10)]
    assert (wanted == pose_positions(batch.document, Pose(**SKIP), random=streams)).all()
    with_skip, without = (
        make_batches(dataset, 0, sequences=4, spec=each.stages[0], mesh=Place(), sharing=SHARING)
        for each in (recipe, plain)
    )
    for ours, theirs in zip(with_skip.micro, without.micro, strict=True):
        for name in ("tokens", "labels", "weights", "source"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert (ours.partition.pairs == theirs.partition.pairs).all()
        assert ours.partition.segments.document.tolist() == theirs.partition.segments.document.tolist()
    for seed, stage in ((4, 0), (3, 1)):
        elsewhere = read_positions(open_tiny(recipe, prepared[1], seed=seed, stage=stage), recipe)
        assert (elsewhere != wanted).any()


def test_a_jump_is_no_border(prepared: Prepared) -> None:
    """Against plain attention with an explicit mask; transformers' own reading of the jump would be two documents."""
    model = load_model(prepared[0] / "stages" / "0" / "extended")
    tokens, positions = torch.arange(12) % 7, torch.tensor([0, 1, 2, 3, 4, 500, 501, 502, 503, 504, 505, 506])
    partition = partition_tokens(np.zeros((1, 12), np.int32), ranks=1)
    with torch.no_grad():
        ours = ModelWithLoss(model).read(tokens, positions, partition=partition)
        model.set_attn_implementation("sdpa")
        settings: dict[str, Any] = {"input_ids": tokens[None], "position_ids": positions[None], "use_cache": False}
        causal = torch.full((1, 1, 12, 12), -torch.inf).triu(1)
        exact = model.model(**settings, attention_mask=causal).last_hidden_state[0]
        guessed = model.model(**settings).last_hidden_state[0]
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)
    assert (guessed[:5] - exact[:5]).abs().max() < 1e-5 < 1e-2 < (guessed[5:] - exact[5:]).abs().max()


def train(recipe: Recipe, run: Path, corpus: Path) -> str:
    def on_rank() -> str:
        return train_stage(recipe, stage=0, run=run, corpus=corpus)

    return run_ranks(on_rank, recipe.parallel.ranks, threads=1)[0]


def rows_of(run: Path) -> list[Metric]:
    return [metric for metric in read_metrics(run / "metrics.jsonl") if metric.name not in TIMED]


def losses_of(run: Path) -> dict[tuple[int, str], float]:
    return {(metric.step, metric.name): metric.value for metric in rows_of(run) if metric.name.startswith("loss/")}


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest(RunFolder(run).checkpoints(0))
    assert checkpoint is not None
    return {name: value for path in checkpoint.glob("*.safetensors") for name, value in load_file(path).items()}


def test_a_stage_that_skips_trains_resumes_and_shares_its_rows(
    prepared: Prepared, new_run: Callable[[str], Path], losing: Losing
) -> None:
    two, killed, one = (new_run(name) for name in ("two", "killed", "one"))
    assert train(make_recipe(**SHORT), two, prepared[1]) == "limit"
    with losing(4):
        train(make_recipe(**SHORT), killed, prepared[1])
    assert train(make_recipe(**SHORT), killed, prepared[1]) == "limit"
    assert rows_of(killed) == rows_of(two)
    after, wanted = weights_of(killed), weights_of(two)
    assert after.keys() == wanted.keys() and all(torch.equal(after[name], wanted[name]) for name in wanted)
    single = {"parallel": {"ranks": 1, "context_parallel": 1}}
    train(make_recipe(**SHORT, **single), one, prepared[1])
    assert losses_of(two) == pytest.approx(losses_of(one), rel=2e-4)
    names = {name for _, name in losses_of(two)}
    assert "loss/position/512-1024" in names, "figures by position go as far as positions do"
