"""Kernels of one layer as a GPU would launch them: the difference between two models that differ in depth alone."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from emulated_gpu import EmulatedGPU
from emulated_liger import NAMESPACE, emulate_liger
from packs import pack
from ropewalk.model.attention_interface import NAME
from ropewalk.model.liger import fuse_with_liger
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import local_shard, partition_tokens

VIEWS = ("view", "t", "transpose", "slice", "select", "expand", "detach", "unsqueeze", "squeeze", "split", "permute")
VIEWS += ("split_with_sizes", "as_strided", "alias", "unbind", "_unsafe_view", "empty", "empty_like", "chunk", "unfold")
VIEWS += ("_reshape_alias", "lift_fresh", "new_empty", "resize_", "set_", "empty_strided", "new_empty_strided")
PRODUCTS = ("mm", "addmm", "bmm", "addmm_")
ATTENTION = ("_flash_attention_forward", "_flash_attention_backward")
ATTENTION += ("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_cudnn_attention_backward")


class CountKernels(TorchDispatchMode):
    """Operators that launch a kernel; views and allocations do not."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        if namespace in ("aten", NAMESPACE) and name not in VIEWS:
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))


class CountProducts(TorchDispatchMode):
    """FLOPs of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := func._schema.name) in ("aten::mm", "aten::addmm", "aten::addmm_"):
            left, right = args[:2] if name == "aten::mm" else args[1:3]
            self.flops += 2 * left.numel() * right.shape[1]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fake_ranks() -> Any:
    """``join(ranks)``: this process is rank 3 or the last of that many, whose messages all arrive at once."""

    def join(ranks: int) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=min(3, ranks - 1), world_size=ranks)

    yield join
    dist.destroy_process_group()


def count_kernels(
    layers: int, ranks: int, document: np.ndarray, recompute: Any, tile_tokens: int | None, *, fuses: bool = False
) -> list[Counter[str]]:
    """Of forward and of backward."""
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        attn_implementation=NAME,
    )
    learner = ModelWithLoss(LlamaForCausalLM(config).to(torch.bfloat16), chunk_tokens=128).train()
    if fuses:
        fuse_with_liger(learner.causal)
    if tile_tokens is not None:
        tile_mlps(learner.causal, tile_tokens)
    set_recompute(learner.causal, recompute)
    partition = partition_tokens(document, ranks=ranks)
    fields = (np.zeros_like(document), np.zeros_like(document), np.zeros_like(document), document >= 0)
    mine = [torch.from_numpy(local_shard(partition, dist.get_rank(), field)) for field in fields]
    group = dist.group.WORLD if ranks > 1 else None
    with CountKernels() as forward:
        loss, *_ = learner(*mine[:3], mine[3].float(), partition=partition, context_group=group)
    with CountKernels() as backward:
        loss.backward()
    return [forward.kernels, backward.kernels]


def share(counts: Counter[str], names: tuple[str, ...]) -> int:
    return sum(counts[name] for name in names)


# Forward and backward, beside products and attention: of transformers' blocks as they are, and with Liger's kernels.
# The number of tokens changes no count, so they are few.
ONE, MANY = pack([512], 512), pack([25] * 20, 512)
BUDGETS = {
    "one rank": (1, ONE, "none", None, (30, 61), (6, 16)),
    "one rank, a pack": (1, MANY, "none", None, (36, 71), (12, 26)),
    "8 ranks": (8, ONE, "none", None, (45, 110), (21, 65)),
    "8 ranks, a pack": (8, MANY, "none", None, (42, 104), (18, 59)),
    "8 ranks, recomputed in tiles": (8, ONE, "save_attention", 16, (55, 182), (28, 104)),
}


@pytest.mark.parametrize("fuses", [False, True], ids=["torch", "liger"])
@pytest.mark.parametrize("name", BUDGETS)
def test_kernels_of_a_layer(name: str, fuses: bool, strict_gpu: EmulatedGPU, fake_ranks: Any) -> None:
    ranks, document, recompute, tile_tokens, *budgets = BUDGETS[name]
    fake_ranks(ranks)
    with emulate_liger():
        shallow, deep = (
            count_kernels(layers, ranks, document, recompute, tile_tokens, fuses=fuses) for layers in (2, 4)
        )
    layer = [{key: (deep[way][key] - shallow[way][key]) / 2 for key in deep[way]} for way in (0, 1)]
    rest = [sum(count for key, count in way.items() if key not in PRODUCTS + ATTENTION) for way in layer]
    budget = budgets[fuses]
    assert rest[0] <= budget[0] and rest[1] <= budget[1], (rest, layer)


@pytest.mark.parametrize(("recompute", "tile_tokens"), [("none", None), ("save_attention", None), ("full", 32)])
def test_a_block_that_runs_again_leaves_out_its_last_product(recompute: Any, tile_tokens: int | None) -> None:
    """torch stops the second run when all that is saved is there: before the MLP's last product. Tiles run it again.

    The head is in no block, so its products run three times whatever is recomputed.
    """
    tokens, width, mlp_width, vocabulary = 128, 64, 224, 128

    def count(layers: int) -> int:
        config = LlamaConfig(
            hidden_size=width,
            intermediate_size=mlp_width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=1,
            vocab_size=vocabulary,
            attn_implementation=NAME,
        )
        learner = ModelWithLoss(LlamaForCausalLM(config), chunk_tokens=64).train()
        if tile_tokens is not None:
            tile_mlps(learner.causal, tile_tokens)
        set_recompute(learner.causal, recompute)
        ids = torch.zeros(tokens, dtype=torch.int64)
        with CountProducts() as products:
            partition = partition_tokens(pack([tokens], tokens), ranks=1)
            learner(ids, ids, ids, torch.ones(tokens), partition=partition)[0].backward()
        return products.flops

    last, block = width * mlp_width, 2 * width**2 + 2 * width * width // 4 + 3 * width * mlp_width
    passes = {"none": 3 * block, "save_attention": 4 * block - last, "full": 4 * block}[recompute]
    assert count(2) - count(1) == 2 * tokens * passes
    assert 2 * count(1) - count(2) == 2 * tokens * 3 * width * vocabulary
