"""Prepare a model for training: build it, attach adapters, set up memory savings, fuse, shard, read its weights.

The order matters, and only this file defines it. Tiles and recomputation belong to the model and act inside the units
that sharding gathers, so they come before sharding. Adapters come before them. The compiled code is inside both: inside
a tile, and inside a block that is recomputed. Weights come last: until then the model has no memory, so each rank only
ever holds its own shards.
"""

from pathlib import Path

import torch
from torch import nn

from ropewalk.core.progress import say
from ropewalk.model.adapter import attach_adapter
from ropewalk.model.compiled import compile_in_place
from ropewalk.model.expert_balance import ExpertBalance, find_routers
from ropewalk.model.extend import read_former
from ropewalk.model.fusion import Fusion
from ropewalk.model.liger import PARTS, fuse_with_liger
from ropewalk.model.load import build_model
from ropewalk.model.load_shards import load_shards
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.host_copies import HostCopies, offload_blocks
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.recompute import set_recompute
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.plan.precision import Precision
from ropewalk.plan.savings import Savings
from ropewalk.recipe.expert_training import ExpertTraining
from ropewalk.recipe.stage import Stage


def build_model_with_loss(extended: Path, spec: Stage, *, chunk_tokens: int | None, adapter_seed: int) -> ModelWithLoss:
    """Return the model that a stage begins with, with its loss: unsharded, its weights not yet read.

    Adapters have their first values, the same on every rank. ``prepare_model`` shards the model and reads ``extended``.

    ``extended`` is its folder. The loss takes ``chunk_tokens`` tokens at once. ``adapter_seed`` draws the first weights
    of an adapter. Every rank must call it.
    """
    require_intact(extended, together=True)
    causal = build_model(extended, former=read_former(extended) if spec.rope_interpolation_steps else None)
    if spec.lora is not None:
        attach_adapter(causal, spec.lora, seed=adapter_seed)
    most = 1.0 if spec.long_ce is None else spec.long_ce.most
    learner = ModelWithLoss(causal, chunk_tokens=chunk_tokens, z_loss=spec.z_loss, most=most).train()
    learner.balance = balance_experts(causal, spec)
    return learner


def balance_experts(causal: nn.Module, spec: Stage) -> ExpertBalance | None:
    """Watch the routers of a mixture of experts, and freeze them where ``spec`` says so; None for a dense model."""
    routers, rules = find_routers(causal), spec.experts or ExpertTraining()
    if not routers:
        return None
    if rules.router == "frozen":
        for router in routers:
            router.module.requires_grad_(False)
    return ExpertBalance(causal, rules)


def prepare_model(
    learner: ModelWithLoss,
    mesh: Mesh,
    *,
    savings: Savings,
    precision: Precision,
    fusion: Fusion = "none",
    weights: Path | None = None,
) -> None:
    """Shard ``learner`` over ``mesh`` in place, with ``savings``, and fuse its elementwise work.

    ``weights`` is the model folder of a learner that was built without memory: each rank reads its shards from there.
    """
    if fusion == "liger":
        fused = fuse_with_liger(learner.causal)
        if (left := [part for part in PARTS if not fused[part]]) and rank_and_ranks()[0] == 0:
            say(f"Liger has no kernel for {', '.join(left)} of {type(learner.causal).__name__}: torch's run there")
    if savings.mlp_tile_tokens is not None:
        if fusion == "compiled":  # each tile by itself
            compile_in_place(block.get_submodule("mlp") for block in learner.blocks)
        tile_mlps(learner.causal, savings.mlp_tile_tokens)
    copies = HostCopies(mesh.device) if savings.offload else None
    keep = copies.keep if copies is not None and savings.attention_on_host else None
    count = savings.count_again(len(learner.blocks))
    set_recompute(learner.causal, savings.recompute, keep=keep, spared=learner.blocks[count:])
    if fusion == "compiled":
        compile_in_place(learner.blocks)
    if copies is not None:
        offload_blocks(learner.blocks[:count], copies)
    shard_model(learner, mesh, precision=precision, states_on_host=savings.states_on_host)
    if weights is not None:
        load_shards(learner, weights, device=torch.device("cpu") if savings.states_on_host else mesh.device)
