"""A learner on its ranks: loaded, given its adapters, then what saves memory put in place, compiled, then sharded.

The order matters and stands here once: tiles and recomputing belong to the model and act inside what sharding gathers,
so they come first, and adapters before them. What is compiled is inside both: a tile, and a block that runs again.
"""

from pathlib import Path

from ropewalk.core.seed import seed_for
from ropewalk.model.adapter import attach_adapter
from ropewalk.model.compiled import compile_in_place, require_compiler
from ropewalk.model.extend import read_former
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import Learner
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.collective import share_from_first
from ropewalk.parallel.fsdp import Precision, shard_model
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.recompute import set_recompute
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.plan.choose import forecast_stage
from ropewalk.plan.hardware import find_machine
from ropewalk.plan.savings import Savings, list_savings
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.read import read_shape


def make_learner(recipe: Recipe, stage: int, extended: Path) -> Learner:
    """The model that a stage begins with, whole and on the CPU, the same on every rank. Every rank calls it."""
    spec = recipe.stages[stage]
    require_intact(extended, together=True)
    causal = load_model(extended, former=read_former(extended) if spec.anneal_steps else None)
    if spec.lora is not None:
        attach_adapter(causal, spec.lora, seed=seed_for("lora", recipe.seed, stage))
    most = 1.0 if spec.long_ce is None else spec.long_ce.most
    return Learner(causal, chunk_tokens=recipe.parallel.loss_chunk_tokens, z_loss=spec.z_loss, most=most).train()


def choose_savings(recipe: Recipe, stage: int, extended: Path) -> Savings:
    """What the recipe says; what it leaves open is the fastest way that the plan finds to fit on the first rank's
    machine. Every rank calls it: a CPU's speed is measured, and ranks must not choose apart."""
    shape, parallel = read_shape(extended), recipe.parallel
    ways = list_savings(parallel, shape, host_is_apart=True)
    if len(ways) == 1:
        return ways[0]
    machine = find_machine(ranks=parallel.ranks)
    return share_from_first(forecast_stage(parallel, recipe.stages[stage], shape, machine=machine).savings)


def place_learner(
    learner: Learner, mesh: Mesh, *, savings: Savings, precision: Precision, compiles: bool = False
) -> None:
    """Shard ``learner`` over ``mesh``, in place, with what saves memory, and its blocks compiled if it ``compiles``."""
    if compiles:
        require_compiler(mesh.device)
    if savings.mlp_tile_tokens is not None:
        if compiles:  # each tile by itself
            compile_in_place(block.get_submodule("mlp") for block in learner.blocks)
        tile_mlps(learner.causal, savings.mlp_tile_tokens)
    set_recompute(learner.causal, savings.recompute)
    if compiles:
        compile_in_place(learner.blocks)
    learner.offload = savings.offload
    shard_model(learner, mesh, precision=precision, states_on_host=savings.states_on_host)
