"""Checks a recipe against the field's rules that span several of its parts; each rule has its source.

An error would waste the run. A warning may be intended. The checks here read only the recipe and the base's shape.
"""

import sys
from collections.abc import Iterator

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, format_count, format_length
from ropewalk.core.record import Role
from ropewalk.corpus.embedded import read_options
from ropewalk.corpus.mix_rules import OTHER
from ropewalk.corpus.spec import Source
from ropewalk.recipe.check_evaluate import check_lengths
from ropewalk.recipe.check_joins import check_joins
from ropewalk.recipe.check_layers import check_layers
from ropewalk.recipe.check_units import check_units
from ropewalk.recipe.expert_training import find_misfits, find_unusual
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.offer_ranks import count_sequences
from ropewalk.recipe.parallel import require_blocks, require_even
from ropewalk.recipe.role_shares import role_shares
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.recipe.stage import Schedule, Stage
from ropewalk.recipe.stretch import keeps_positions, stretch_stage
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.shared_heads import count_shared_heads, limit_sharing

# Critical share of domain text after 20B tokens, by model size in parameters, as predicted by the scaling law of Gu et
# al., CMR (2407.17467).
_CRITICAL_SHARE = {0.46e9: 0.298, 0.94e9: 0.349, 1.6e9: 0.414, 3.1e9: 0.478}
_CRITICAL_TOKENS = 20e9
# The largest published learning rates at 7B and at 30B and above: PI, YaRN, Code Llama, Llama 2 Long.
_LR_7B, _LR_30B = 2e-5, 1e-5
_SMALLEST_STUDIED = 1e9
_STEP_ROUNDING = 0.1


def check(recipe: Recipe, shape: ModelShape | None) -> list[Finding]:
    """Check ``recipe`` against the rules and return all findings.

    ``shape`` is the shape of the base model. No count of the recipe may be open. The rules that need the built corpus
    are in check_corpus.py.
    """
    assert not recipe.open_keys, "plan/settle.py decides them first"
    findings = [*_check_ranks(recipe), *_check_heads(recipe, shape), *_check_writing(recipe, shape)]
    findings += [*_check_embedded(recipe), *_check_weights(recipe)]
    try:
        require_blocks(recipe.parallel, sys.maxsize if shape is None else shape.layers)
    except UserError as error:
        findings.append(Finding("error", error.where, f"{error.what}: {error.why}; {error.fix}", "arithmetic"))
    before = shape
    for index, stage in enumerate(recipe.stages):
        key = f"stages.{index}"
        if stage.lora is not None and index == 0 and not isinstance(recipe.model, str):
            message = (
                "adapters cannot train a model that starts from random weights, because the frozen weights stay random"
            )
            findings.append(Finding("error", f"{key}.lora", message, "Hu et al. 2021 (2106.09685)"))
        if stage.lora is not None and shape is not None and shape.recurrent is not None:
            message = "adapters do not support recurrent layers yet: their matrices have other names and counts"
            findings.append(Finding("error", f"{key}.lora", message, "docs/recurrence.md"))
        findings += _check_schedule(stage, key)
        if isinstance(recipe.model, str):
            stretches = before is None or not (keeps_positions(stage) and stage.reach_tokens <= before.context_tokens)
            findings += [*_check_budget(stage, key, shape, stretches=stretches), *_check_replay(recipe, stage, key)]
        if before is not None:
            misfits = find_misfits(stage.experts, recipe.parallel.mlp_tile_tokens, before)
            findings += [Finding("error", _place(name, key), reason, "experts") for name, reason in misfits]
            unusual = find_unusual(stage.experts, stage.lora, before)
            findings += [Finding("warning", f"{key}.{name}", *told) for name, *told in unusual]
            findings += _check_domain_share(recipe, stage, key, before)
            if stage.reach_tokens < before.context_tokens and not keeps_positions(stage):
                findings += _check_length(stage, key, before.context_tokens)
                continue
            same = isinstance(recipe.model, str) and index == 0 and stage.reach_tokens == before.context_tokens
            if same and not keeps_positions(stage):
                findings.append(_tell_no_gain(key, before.context_tokens))
            try:
                after = stretch_stage(stage, before)
            except UserError as error:
                findings.append(_tell(error, key))
                before = None  # the shapes of the following stages cannot be computed
                continue
            findings += check_layers(stage, key, before, after, trained=index > 0 or isinstance(recipe.model, str))
            before = after
    findings += [*check_joins(recipe), *check_units(recipe)]
    base_tokens = base_context(recipe, shape)
    return findings if base_tokens is None else [*findings, *check_lengths(recipe, base_tokens)]


def base_context(recipe: Recipe, shape: ModelShape | None) -> int | None:
    """The base's context in tokens; None if the base's shape is not given. Evaluated lengths are multiples of it."""
    if isinstance(recipe.model, ModelSource):
        return recipe.model.init.context_length
    return None if shape is None else shape.context_tokens


def _place(name: str, stage: str) -> str:
    return name if name.startswith("parallel.") else f"{stage}.{name}"


def _tell(error: UserError, key: str) -> Finding:
    inside = error.where.startswith(("rope", "layers", "context"))
    where = f"{key}.{error.where}" if inside else key
    return Finding("error", where, f"{error.what}: {error.why}; {error.fix}", "rope")


def _languages(recipe: Recipe, stage: Stage, role: Role) -> set[str | None]:
    """The languages of a role's sources that a stage reads; None stands for a source without a language."""
    weights, languages = recipe.mix(stage), recipe.rules(stage).languages

    def is_read(source: Source) -> bool:
        spoken = languages.get(source.language or OTHER, languages.get(OTHER, 1.0))
        return weights.get(source.name, weights.get(source.role, 0.0)) > 0 and spoken > 0

    return {source.language for source in recipe.corpus.sources if source.role == role and is_read(source)}


def _check_ranks(recipe: Recipe) -> Iterator[Finding]:
    ranks, context = recipe.parallel.ranks, recipe.parallel.context_parallel
    try:
        require_even(ranks, context=context, replicas=recipe.parallel.replicas)
    except UserError as error:
        yield Finding("error", error.where, f"{error.what}: {error.fix}", "arithmetic")
        return
    if recipe.parallel.ulysses_degree != "auto" and context % recipe.parallel.ulysses_degree:
        message = (
            f"{context} context ranks cannot be divided into equal Ulysses groups of {recipe.parallel.ulysses_degree}"
        )
        yield Finding("error", "parallel.ulysses_degree", message, "arithmetic")
    for index, stage in enumerate(recipe.stages):
        sequences = count_sequences(stage)
        if sequences < ranks // context:
            message = (
                f"a step has {format_count(sequences, 'sequence')}, so some of the {ranks // context} data ranks have "
                "no work"
            )
            yield Finding("error", f"stages.{index}.step_tokens", message, "arithmetic")
        whole = stage.step_sequences * stage.context_length
        if abs(whole / stage.step_tokens - 1) > _STEP_ROUNDING:
            message = (
                f"a step of whole sequences has {format_amount(whole)} tokens, not {format_amount(stage.step_tokens)}"
            )
            source = "learning rates are chosen for the tokens of a step"
            fix = f"stages.{index}.step_tokens={whole}, or a length that divides it"
            yield Finding("warning", f"stages.{index}.step_tokens", message, source, fix)
        if stage.context_length * stage.micro_batch_size % context:
            tokens = stage.context_length * stage.micro_batch_size
            message = f"{tokens} tokens cannot be divided equally among {context} context ranks"
            yield Finding("error", f"stages.{index}.context_length", message, "arithmetic")
        if context > 1 and any(rule.bias for rule in stage.layers):
            message = f"a bias needs whole sequences on a rank, but {context} ranks share each sequence"
            yield Finding("error", f"stages.{index}.layers", message, "attention/flex")
        if recipe.parallel.deterministic and any(rule.bias == "fire" for rule in stage.layers):
            message = "the gradient of a learnt bias (fire) is summed in any order on a GPU, so it is not deterministic"
            yield Finding("error", f"stages.{index}.layers", message, "FlexAttention's backward adds atomically")


def _check_heads(recipe: Recipe, shape: ModelShape | None) -> Iterator[Finding]:
    if shape is not None and recipe.parallel.ulysses_degree != "auto":
        try:
            for layer in range(shape.layers):
                kv_heads, degree = shape.heads_of(layer)[0], recipe.parallel.ulysses_degree
                count_shared_heads(shape.heads, kv_heads, degree, context_ranks=recipe.parallel.context_parallel)
            limit_sharing(recipe.parallel.ulysses_degree, recurrent=shape.recurrent is not None)
        except UserError as error:
            yield Finding("error", error.where, f"{error.why}: {error.fix}", "arithmetic")


def _check_writing(recipe: Recipe, shape: ModelShape | None) -> Iterator[Finding]:
    if shape is None or shape.recurrent is None:
        return
    for key in ("ruler", "benchmarks"):
        if getattr(recipe.evaluate, key):
            message = "the models write text for it, and their cache does not keep the states of recurrent layers"
            yield Finding("error", f"evaluate.{key}", message, "model/key_cache")


def _check_embedded(recipe: Recipe) -> Iterator[Finding]:
    for index, source in enumerate(recipe.corpus.sources):
        if source.embedded is not None:
            try:
                read_options(source.embedded, size_bytes=source.size_bytes, options=source.options)
            except UserError as error:
                key = f"corpus.sources.{index}"
                yield Finding("error", key, f"{error.what}: {error.why}; {error.fix}", "docs/embedded.md")


def _check_weights(recipe: Recipe) -> Iterator[Finding]:
    """Warn of text that is prepared and that no stage reads. A weight of 0 says that this is meant."""
    weighed = {key for stage in recipe.stages for key in recipe.mix(stage)}
    for index, source in enumerate(recipe.corpus.sources):
        if not weighed & {source.name, source.role}:
            message = f"no stage trains on {source.name}: no mix has a weight for it or for {source.role}"
            fix = f"corpus.mix.{source.role}=1 or another weight; 0 if it is only held out; or leave the source out"
            yield Finding("warning", f"corpus.sources.{index}", message, "docs/corpus-mix.md", fix)


def _check_replay(recipe: Recipe, stage: Stage, key: str) -> Iterator[Finding]:
    general = _languages(recipe, stage, "general")
    domain = _languages(recipe, stage, "domain") - {None, "code"}
    share = role_shares(recipe, stage)["general"]
    floor, kind = (
        (0.25, "in a language that is absent from the general text")
        if domain - general
        else (0.05, "similar to the base's training text")
    )
    if share < floor:
        message = f"{share:.1%} of the tokens are replayed general text; domain text {kind} needs at least {floor:.0%}"
        source = "Ibrahim et al. 2024 (2403.08763): 5 % for a weak shift, 25 % for a strong shift"
        fix = f"raise the weight of general in the mix until it has {floor:.0%}, in the languages of the domain text"
        yield Finding("warning", f"{key}.mix", message, source, fix)


def _tell_no_gain(key: str, base_tokens: int) -> Finding:
    message = f"the base reads {format_length(base_tokens)} already: its positions change, and it reads no further"
    fix = "a longer context_length, or rope: {kind: unchanged} to train at this length"
    return Finding("warning", f"{key}.context_length", message, "docs/rope.md", fix)


def _check_length(stage: Stage, key: str, before_tokens: int) -> Iterator[Finding]:
    message = (
        f"{format_length(stage.reach_tokens)} is less than the {format_length(before_tokens)} that the model already "
        f"reads; a stage that trains on shorter sequences keeps the positions: rope: {{kind: unchanged}}"
    )
    yield Finding(
        "error",
        f"{key}.{'pose.reach' if stage.pose else 'context_length'}",
        message,
        "a stage cannot shorten the context",
    )


def _check_budget(stage: Stage, key: str, shape: ModelShape | None, *, stretches: bool) -> Iterator[Finding]:
    step_tokens = stage.step_sequences * stage.context_length  # of whole sequences, as a run takes them
    steps = stage.tokens // step_tokens
    if steps < 100 and stretches:
        message = f"{format_count(steps, 'step')}; position interpolation needed 200 steps to converge"
        fix = f"{key}.tokens={format_amount(200 * step_tokens)}, or smaller steps (step_tokens)"
        yield Finding("warning", f"{key}.tokens", message, "Chen et al. 2023 (2306.15595), passkey by steps", fix)
    if shape is None or shape.parameters < _SMALLEST_STUDIED:
        return
    if stage.tokens < 1e9 and stretches:
        message = (
            f"{format_amount(stage.tokens)} tokens; retrieval over the whole context was 38 % after 100M tokens and "
            f"85 % after 1B"
        )
        source = "Fu et al. 2024 (2402.10171), table of data scale"
        yield Finding("warning", f"{key}.tokens", message, source, f"{key}.tokens=1B or more")
    limit = _LR_30B if shape.parameters >= 30e9 else _LR_7B
    if stage.lr > limit:
        message = (
            f"{stage.lr:g} is above {limit:g}, the largest rate that the papers of the methods used at this model size"
        )
        yield Finding("warning", f"{key}.lr", message, "PI, YaRN, Code Llama, Llama 2 Long", f"{key}.lr={limit:g}")


def _check_schedule(stage: Stage, key: str) -> Iterator[Finding]:
    """Refuse a rise and a fall that overlap, and warn of keys that only ``wsd`` reads."""
    schedule = stage.schedule
    if schedule.shape == "wsd" and schedule.warmup + schedule.decay > 1 + 1e-9:  # 0.85 + 0.15 may be above 1
        message = (
            f"warmup, {schedule.warmup:g}, and decay, {schedule.decay:g}, overlap: the rate would drop after its rise"
        )
        yield Finding("error", f"{key}.schedule", message, "arithmetic", "shares of at most 1 together")
    for name in ("decay", "decay_shape"):
        if stage.schedule.shape != "wsd" and getattr(stage.schedule, name) != Schedule.model_fields[name].default:
            message = f"{name} has no effect on {stage.schedule.shape}"
            yield Finding("warning", f"{key}.schedule.{name}", message, "docs/train.md", f"{key}.schedule.shape=wsd")


def _check_domain_share(recipe: Recipe, stage: Stage, key: str, shape: ModelShape) -> Iterator[Finding]:
    if shape.parameters < min(_CRITICAL_SHARE) or not _CRITICAL_TOKENS / 4 <= stage.tokens <= _CRITICAL_TOKENS * 4:
        return  # The law was fitted only in this range of model sizes and token counts.
    sizes = np.log(list(_CRITICAL_SHARE))
    critical = float(np.interp(np.log(shape.parameters), sizes, list(_CRITICAL_SHARE.values())))
    share = role_shares(recipe, stage)["domain"]
    if share > critical:
        size = format_amount(shape.parameters)
        message = (
            f"{share:.1%} domain text is more than the critical mixture ratio of {critical:.1%} for {size} parameters"
        )
        fix = f"lower the weight of domain in the mix until it has {critical:.0%}, and give general the difference"
        yield Finding("warning", f"{key}.mix", message, "Gu et al. 2024 (2407.17467), CMR at 20B tokens", fix)
