"""Every supported mixture of experts: read by shards as whole, packed as alone, and opened in each type."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from conformance.test_export import write_base
from ropewalk.model.load import build_model, load_model
from ropewalk.model.load_shards import load_shards
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.model.weights import Dtype
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.shape.expert_families import MIXTURES as WITHOUT_MLP

MIXTURES = (*WITHOUT_MLP, "Gemma4ForCausalLM")
LENGTHS = (1, 11, 7, 12)
TOKENS = torch.from_numpy(np.random.default_rng(5).integers(0, 96, size=sum(LENGTHS)))
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for architecture in MIXTURES:
        found[architecture] = tmp_path_factory.mktemp(architecture)
        write_base(architecture, found[architecture])
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_model_without_memory_becomes_the_one_that_transformers_loads(
    folders: dict[str, Path], architecture: str, dtype: Dtype
) -> None:
    whole, built = (load(folders[architecture], dtype=dtype) for load in (load_model, build_model))
    load_shards(built, folders[architecture], device=torch.device("cpu"))
    assert built.config._experts_implementation == "grouped_mm"
    theirs, ours = whole.state_dict(), built.state_dict()
    assert list(theirs) == list(ours) and dict(whole.named_parameters()).keys() == dict(built.named_parameters()).keys()
    assert all(torch.equal(ours[name], each) for name, each in theirs.items())
    assert {name: each.dtype for name, each in ours.items()} == {name: each.dtype for name, each in theirs.items()}


def read_packed(model: Any) -> torch.Tensor:
    documents = np.repeat(np.arange(len(LENGTHS), dtype=np.int32), LENGTHS)[None]
    partition = partition_tokens(documents, ranks=1)
    with torch.no_grad():
        logits: torch.Tensor = model(
            TOKENS[None], position_ids=POSITIONS[None], use_cache=False, partition=partition
        ).logits[0]
    return logits


@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_document_does_not_depend_on_its_neighbours(folders: dict[str, Path], architecture: str) -> None:
    model = load_model(folders[architecture])
    plain = type(model).from_pretrained(folders[architecture], attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        alone = torch.cat([plain(part[None], use_cache=False).logits[0] for part in TOKENS.split(LENGTHS)])
    difference = (read_packed(model) - alone).abs().max()
    assert difference < 5e-6 * max(1.0, float(alone.abs().max())), difference


@pytest.mark.parametrize("architecture", ["Ernie4_5_MoeForCausalLM", "HunYuanMoEV1ForCausalLM", "MiniMaxM2ForCausalLM"])
def test_ranks_read_a_sharded_mixture_in_bfloat16(folders: dict[str, Path], architecture: str) -> None:
    partition = partition_tokens(np.zeros((1, 20), np.int32), ranks=1)
    tokens, weights = TOKENS[:20], torch.ones(20)

    def score(whole_bytes: int) -> tuple[float, bool]:
        learner = open_model(ModelWithLoss, folders[architecture], dtype="bfloat16", whole_bytes=whole_bytes)
        with torch.no_grad():
            loss, _, _ = learner(tokens, torch.arange(20), tokens, weights, partition=partition)
        return float(loss), any(isinstance(each, DTensor) for each in learner.parameters())

    (whole, _), *_ = run_ranks(score, 1, 1 << 30, threads=1)
    for sharded, is_cut in run_ranks(score, 2, 0, threads=1):
        assert is_cut and sharded == pytest.approx(whole, rel=1e-6)
