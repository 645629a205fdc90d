"""No rank ever holds the model: what a rank's memory grows by, measured on a model of 512 MiB.

Counted is the peak of the resident memory of the process (VmHWM: private and mapped pages alike) above its resident
memory just before, with all imports done and the ranks connected (peak_growth.py). Weights
are read with plain reads, so pages of the files are the kernel's and not the rank's.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from peak_growth import MIB, grow, needs_peak
from ropewalk.checkpoint.load import load_weights
from ropewalk.checkpoint.save import save_checkpoint
from ropewalk.checkpoint.state import TrainState
from ropewalk.model.architectures import class_of
from ropewalk.model.lazy_weights import LazyWeights, read_weights
from ropewalk.model.load import build_model, load_model
from ropewalk.model.load_shards import load_shards
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.weights import INDEX, are_equal, read_headers, read_stored
from ropewalk.model.write_weights import write_weights
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh

ALLOWED_BYTES = 64 * MIB
pytestmark = needs_peak


def write_model(out: Path, *, layers: int, file_bytes: int = 128 * MIB) -> Path:
    """Zeros with one random row in each tensor: 64 MiB a layer, and 32 MiB each for the embedding and the head."""
    config = LlamaConfig(
        vocab_size=8192, hidden_size=1024, intermediate_size=4096, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=16, head_dim=64, tie_word_embeddings=False,
        max_position_embeddings=128, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(out)
    with torch.device("meta"):
        shapes = {name: tuple(each.shape) for name, each in class_of("LlamaForCausalLM")(config).state_dict().items()}

    def draw(name: str) -> Tensor:
        whole = torch.zeros(shapes[name])
        whole[-1:].normal_(generator=torch.Generator().manual_seed(len(name)))
        return whole

    write_weights(LazyWeights(shapes, draw), out, dtype="float32", where=out, file_bytes=file_bytes)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 MiB in five files."""
    out = write_model(tmp_path_factory.mktemp("large"), layers=7)
    assert len(set(json.loads((out / INDEX).read_text())["weight_map"].values())) == 5
    sizes = [4 * torch.Size(tensor.shape).numel() for tensor in read_headers(out).values()]
    assert max(sizes) == 32 * MIB and 511 * MIB < sum(sizes) < 514 * MIB
    return out


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_grows_by_its_shard(folder: Path, ranks: int) -> None:
    def load() -> tuple[int, int]:
        mesh = make_mesh(ranks, 1)

        def work() -> ModelWithLoss:
            learner = ModelWithLoss(build_model(folder))
            shard_model(learner, mesh, precision="float32")
            load_shards(learner, folder, device=mesh.device)
            return learner

        return grow(work), 512 * MIB // ranks

    for grown, shard in run_ranks(load, ranks, threads=1):
        # Freed memory of a long test process is used again, so growth may be less than the shard.
        assert shard // 2 <= grown <= shard + 32 * MIB + ALLOWED_BYTES, f"{grown // MIB} MiB"


def test_a_load_of_the_whole_model_would_fail(folder: Path) -> None:
    """The measure sees what it must: a load as before, also where its pages are those of a mapped file."""
    (grown,) = run_ranks(lambda: grow(lambda: load_model(folder)), 1, threads=1)
    assert grown > 256 * MIB + 32 * MIB + ALLOWED_BYTES, f"{grown // MIB} MiB"


def test_an_export_grows_by_one_tensor(folder: Path, tmp_path: Path) -> None:
    def export() -> None:
        write_weights(read_weights(folder), tmp_path, dtype="bfloat16", where=tmp_path)

    (grown,) = run_ranks(lambda: grow(export), 1, threads=1)
    assert grown <= 32 * MIB + ALLOWED_BYTES, f"{grown // MIB} MiB"


def test_a_checkpoint_becomes_a_model_folder_by_one_tensor(tmp_path: Path) -> None:
    """From the files of two ranks, 384 MiB with moments; only the weights are asked for."""
    base = write_model(tmp_path / "base", layers=1)

    def train() -> None:
        learner, mesh = ModelWithLoss(build_model(base)), make_mesh(2, 1)
        shard_model(learner, mesh, precision="float32")
        load_shards(learner, base, device=mesh.device)
        save_checkpoint(TrainState(learner, torch.optim.AdamW(learner.parameters()), stage=0), tmp_path)

    def write() -> int:
        out = tmp_path / "out"
        out.mkdir()
        checkpoint = tmp_path / "step-00000000"
        return grow(lambda: write_weights(load_weights(checkpoint), out, dtype="float32", where=out))

    run_ranks(train, 2, threads=1)
    (grown,) = run_ranks(write, 1, threads=1)
    assert grown <= 32 * MIB + ALLOWED_BYTES, f"{grown // MIB} MiB"
    theirs, ours = read_stored(base), read_stored(tmp_path / "out")
    assert set(theirs) == set(ours) and all(are_equal(theirs[name], ours[name]) for name in theirs)
