"""The forecast of a run: steps, arithmetic, time, memory and traffic, and the recomputation that it needs to fit.

It is an estimate for choosing, not a promise; docs/plan.md sets it beside published steps. The time is that of
step_time.py. A step without recomputation is up to 1.3 times faster, so the forecast uses none where it fits.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from ropewalk.partition.choose import Sharing, choose_partition, make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.partition.partition import partition_tokens
from ropewalk.partition.recurrent_cost import RecurrentStates
from ropewalk.partition.ulysses import UlyssesPartition
from ropewalk.plan.fit import find_fit, fits, split_stage
from ropewalk.plan.flops import Recompute, token_flops
from ropewalk.plan.hardware import KNOWN, Machine
from ropewalk.plan.links import context_seconds, state_seconds
from ropewalk.plan.plan import Plan, Split
from ropewalk.plan.planned_machine import assume_gpu, choose_machine
from ropewalk.plan.step_time import Work, estimate_step_time
from ropewalk.plan.traffic import Exchange, attention_traffic, recurrent_traffic, state_traffic
from ropewalk.plan.trained import count_trained
from ropewalk.recipe.parallel import require_even
from ropewalk.recipe.spec import Parallel, Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stretch import stretch_stages
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.shared_heads import limit_sharing

_PINNING = ("recompute", "mlp_tile_tokens", "offload", "states")
_TOLD = 1.02
"""A pinned setting that costs less than 2 % is not told."""


def forecast(
    shape: ModelShape,
    *,
    context_tokens: int,
    tokens: int,
    step_tokens: int | None = None,
    ranks: int = 1,
    document_tokens: Sequence[int] | None = None,
    split: Split | None = None,
    machine: Machine = KNOWN["h200-sxm"],
) -> Plan:
    """Forecast a run of ``tokens`` tokens in sequences of ``context_tokens`` on ``ranks`` ranks.

    ``step_tokens`` is rounded down to whole sequences for all data ranks, with at least one each; None means exactly
    one each. ``document_tokens`` are the document lengths of a typical sequence; None means a single document.

    Raises UserError if the ranks cannot be split so.
    """
    split = split or Split()
    require_even(ranks, context=split.context_ranks, replicas=split.replicas)
    wave_tokens = ranks // split.context_ranks * split.micro_batch_size * context_tokens  # of all data ranks
    waves = max(1, (step_tokens or 0) // wave_tokens)
    savings, memory = find_fit(shape, context_tokens, ranks=ranks, split=split, machine=machine)
    again = savings.recompute
    context_bytes = waves * _context_bytes(shape, context_tokens, document_tokens, split=split, recompute=again)
    shared = {"replicas": split.replicas, "element_bytes": split.element_bytes}
    state_bytes = waves * state_traffic(shape, ranks=ranks, lora=split.lora, **shared)
    steps = max(1, tokens // (waves * wave_tokens))
    work = Work(
        tokens=waves * wave_tokens / ranks,
        flops=token_flops(shape, context_tokens, document_tokens=document_tokens, lora=split.lora),
        ranks=ranks // split.replicas,
        micro_batches=waves,
        imbalance=split.imbalance,
        trained_parameters=count_trained(shape, split.lora).parameters,
        context_seconds=context_seconds(context_bytes, split.context_ranks, split.exchange, machine),
        state_seconds=state_seconds(state_bytes, ranks, machine),
        element_bytes=split.element_bytes,
    )
    times = estimate_step_time(shape, work, savings=savings, machine=machine, software=split.software)
    return Plan(
        context_tokens=context_tokens,
        tokens=tokens,
        steps=steps,
        step_tokens=waves * wave_tokens,
        ranks=ranks,
        flops=work.flops,
        savings=savings,
        memory=memory,
        fits=fits(memory, machine),
        context_bytes=context_bytes,
        state_bytes=state_bytes,
        work=work,
        times=times,
        step_seconds=times.total,
        seconds=steps * times.total,
        tokens_per_second=waves * wave_tokens / times.total,
        machine=machine,
        cut=split.why,
    )


def forecast_recipe(recipe: Recipe, shape: ModelShape, *, machine: Machine | None = None) -> list[Plan]:
    """One plan per stage of ``recipe``. Each is an upper bound: sequences of one document each.

    ``machine`` None means what the recipe names, or this machine (planned_machine.py). Ranks that cannot be split and
    stages whose positions do not fit have no plan; recipe/check reports them.
    """
    parallel = recipe.parallel
    if any(parallel.ranks % count for count in (parallel.context_parallel, parallel.replicas)) or (
        parallel.ulysses_degree != "auto" and parallel.context_parallel % parallel.ulysses_degree
    ):
        return []
    machine = machine or choose_machine(recipe, shape)
    return [
        _compare_auto(forecast_stage(parallel, stage, extended, machine=machine), parallel, stage, extended, machine)
        for stage, extended in zip(recipe.stages, stretch_stages(recipe, shape), strict=False)
    ]


def _compare_auto(plan: Plan, parallel: Parallel, stage: Stage, extended: ModelShape, machine: Machine) -> Plan:
    """``plan`` with what its pinned savings cost: the time over that of ``auto``."""
    pinned = [key for key in _PINNING if getattr(parallel, key) not in ("auto", "8bit")]
    if not pinned:
        return plan
    free = parallel.model_copy(update=dict.fromkeys(pinned, "auto"))
    best = forecast_stage(free, stage, extended, machine=machine)
    ratio = plan.step_seconds / best.step_seconds
    if not best.fits or ratio < _TOLD:
        return plan
    words = ", ".join(f"{key}: {getattr(parallel, key)}" for key in pinned)
    return replace(plan, pinned=f"{words} is slower than auto by {ratio:.2f} x; auto: {best.savings.describe()}")


def forecast_stage(parallel: Parallel, stage: Stage, extended: ModelShape, *, machine: Machine) -> Plan:
    """The plan of one stage; ``extended`` is the shape of its model, with its positions. See ``forecast_recipe``."""
    machine = assume_gpu(parallel, extended, machine)
    split = split_stage(parallel, stage, extended, machine=machine)
    return forecast(
        extended,
        context_tokens=stage.context_length,
        tokens=_most_tokens(stage),
        step_tokens=stage.step_tokens,
        ranks=parallel.ranks,
        split=_share(split, parallel, extended, stage, machine),
        machine=machine,
    )


def plan_sharing(parallel: Parallel, shape: ModelShape, *, device: str, element_bytes: int) -> Sharing:
    """The ways in which context ranks may share a batch, with costs for a model of ``shape`` on a kind of device."""
    asked = None if parallel.ulysses_degree == "auto" else parallel.ulysses_degree
    return make_sharing(
        Heads(shape.heads, shape.kv_heads, shape.head_dim, shape.sent_width if shape.latent else None),
        device=device,
        element_bytes=element_bytes,
        layout=parallel.layout,
        exchange=parallel.exchange,
        ulysses_degree=limit_sharing(asked, recurrent=shape.recurrent is not None),
        recurrent=RecurrentStates.of_shape(shape),
    )


def _share(split: Split, parallel: Parallel, shape: ModelShape, stage: Stage, machine: Machine) -> Split:
    """The split by sequence, by heads or by both that would be chosen for sequences of one document each."""
    rows = np.repeat(np.arange(split.micro_batch_size, dtype=np.int32)[:, None], stage.context_length, axis=1)
    if rows.size % split.context_ranks:
        return split  # recipe/check reports this fault
    device = "cpu" if machine.name == "cpu" else "cuda"
    sharing = plan_sharing(parallel, shape, device=device, element_bytes=split.element_bytes)
    choice = choose_partition(rows, ranks=split.context_ranks, sharing=sharing)
    chosen = choice.partition
    token_partition, ulysses_degree = (
        (chosen.token_partition, chosen.ulysses_degree) if isinstance(chosen, UlyssesPartition) else (chosen, 1)
    )
    states = RecurrentStates.of_shape(shape)
    needed_share = token_partition.traffic_tokens.sum() / max((token_partition.ranks - 1) * token_partition.tokens, 1)
    return replace(
        split,
        ulysses_degree=ulysses_degree,
        exchange=cast(Exchange, token_partition.exchange),
        imbalance=token_partition.balance,
        needed_share=float(needed_share),
        recurrent_traffic=states and recurrent_traffic(token_partition, states, element_bytes=split.element_bytes),
        why=choice.explain(),
    )


def _most_tokens(stage: Stage) -> int:
    return stage.tokens if stage.stop is None else min(stage.tokens, stage.stop.max_steps * stage.step_tokens)


def _context_bytes(
    shape: ModelShape,
    context_tokens: int,
    document_tokens: Sequence[int] | None,
    *,
    split: Split,
    recompute: Recompute,
) -> float:
    """Bytes that one rank sends for attention and recurrent layers of one micro-batch."""
    documents, total = document_tokens or (context_tokens,), 0.0
    forwards = 2 if recompute == "full" else 1
    # Ulysses groups: each group holds one part of the sequence
    split = replace(split, context_ranks=split.context_ranks // split.ulysses_degree)
    tokens = context_tokens * split.micro_batch_size
    swap = attention_traffic(
        shape,
        tokens // split.context_ranks,
        ranks=split.ulysses_degree,
        exchange="heads",
        element_bytes=split.element_bytes,
    )
    windows = Counter(layer.window_tokens for layer in shape.positions if layer.mixer is None)
    for window, layers in windows.items():
        layer = attention_traffic(
            shape,
            tokens,
            ranks=split.context_ranks,
            exchange=split.exchange,
            element_bytes=split.element_bytes,
            needed_share=_needed_share(context_tokens, documents, split=split, window=window),
        )
        # each rank of a group sends only its own heads
        rows = layer.training_bytes(forwards=forwards) / split.ulysses_degree
        total += layers * (rows + swap.training_bytes(forwards=forwards))
    if shape.recurrent is not None and split.recurrent_traffic is not None:
        total += len(shape.recurrent.layers) * split.recurrent_traffic.training_bytes(forwards=forwards)
    return total


def _needed_share(context_tokens: int, document_tokens: Sequence[int], *, split: Split, window: int | None) -> float:
    """The share of other ranks' keys that a rank needs.

    A layer with a window takes it from a partition; a layer without a window takes ``split.needed_share``.
    """
    ranks = split.context_ranks
    if window is None or ranks == 1 or context_tokens * split.micro_batch_size % ranks:
        return split.needed_share
    ids = np.full((split.micro_batch_size, context_tokens), -1, dtype=np.int32)
    row = np.repeat(np.arange(len(document_tokens)), document_tokens)
    ids[:, : len(row)] = row + len(document_tokens) * np.arange(split.micro_batch_size)[:, None]
    # One partition serves all layers, so it is chosen for the layers without a window.
    partition = partition_tokens(ids, ranks=ranks, layout=split.layout).with_window(window)
    needed_tokens = int(partition.traffic_tokens.sum())
    return min(split.needed_share, needed_tokens / ((ranks - 1) * partition.tokens))
