"""``ropewalk check``: the rules that a recipe breaks, the forecast cost of its stages, and why it is planned so."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ropewalk.commands.check_inputs import look_at_inputs
from ropewalk.commands.check_mix_study import find_unmeasured
from ropewalk.commands.claim import read_base_shape
from ropewalk.commands.decide_open import count_ranks_started, settle_given
from ropewalk.core.artifact import is_finished
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.plan.explain_plan import explain_terms, tabulate_front
from ropewalk.plan.flops import count_pair_flops
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.named_hardware import check_hardware
from ropewalk.plan.plan import Plan
from ropewalk.plan.search import find_front
from ropewalk.plan.settle import open_recipe_space
from ropewalk.plan.simulate import simulate_plan, weigh_sequences
from ropewalk.plan.totals import describe_next_length, total_up
from ropewalk.plan.unfit import find_unfit
from ropewalk.plan.why_not import explain_why_not
from ropewalk.recipe.check import base_context, check
from ropewalk.recipe.check_corpus import check_corpus, describe_long_share
from ropewalk.recipe.missing_paths import find_missing_paths
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.recipe.stretch import describe_stages, stretch_stages
from ropewalk.shape.guessed import describe_guess
from ropewalk.shape.model_shape import ModelShape

_READ_SEQUENCES = 2048


def check_recipe(
    recipe: Recipe, *, why_not: Sequence[str] = (), explain: bool = False, simulate: bool = False
) -> dict[str, Any]:
    """Every rule that the recipe breaks, and the forecast cost of its stages. Its open counts are decided first.

    ``why_not`` are overrides that the plan is compared with; ``explain`` adds the plan's terms, and all settings that
    no other one beats. Raises UserError where one of the two is asked of a model without a plan.
    """
    settled, shape = settle_given(recipe), read_base_shape(recipe)
    given, recipe = recipe, settled.recipe
    folder = RunFolder(Path(recipe.run))
    findings = [*check(recipe, shape), *find_unmeasured(recipe)]
    prepared = is_finished(folder.corpus)
    missing = find_missing_paths(recipe, prepared=prepared)
    findings += missing
    long_shares: list[str] = []
    if prepared:
        corpus = open_corpus(folder.corpus)
        findings += check_corpus(recipe, corpus, base_context(recipe, shape))
        if {*corpus.sources} == {source.name for source in recipe.corpus.sources}:
            long_shares = [*describe_long_share(recipe, corpus)]
    inputs = look_at_inputs(recipe, shape)
    findings += inputs.findings
    plans = [] if shape is None else forecast_recipe(recipe, shape)
    if shape is not None and plans:
        findings += [*check_hardware(recipe, plans[0].machine), *find_unfit(recipe, shape, plans)]
    errors = sum(finding.level == "error" for finding in findings)
    lines = [*inputs.lines, *map(str, findings)]
    positions = [] if shape is None else list(describe_stages(recipe, shape))
    guessed = "" if shape is None else describe_guess(shape.architecture)
    lines += [guessed, *long_shares] if guessed else long_shares
    lines += [f"stage {index} positions: {words}" for index, layers in enumerate(positions) for words in layers]
    for index, plan in enumerate(plans):
        lines += [f"stage {index}", plan.describe(), *(explain_terms(plan) if explain else ())]
    totals = total_up(recipe, shape, plans) if shape is not None and plans else None
    if shape is not None and totals is not None:
        lines += [*totals.describe(plans[-1].machine.name), describe_next_length(recipe, shape, plans)]
    lines += settled.lines
    if simulate:
        lines += [f"{'simulated':<11} stage {index}: {line}" for index, line in simulate_stages(recipe, shape, plans)]
    answers = _answer(given, shape, plans, why_not, explain=explain)
    warnings = len(findings) - errors
    lines.extend(answers.values())
    lines.append(f"{format_count(errors, 'error')}, {format_count(warnings, 'warning')}")
    return {
        "errors": errors,
        "findings": [asdict(finding) for finding in findings],
        **({"missing_paths": [finding.key for finding in missing]} if missing else {}),
        "inputs": list(inputs.lines),
        "positions": positions,
        **({"guessed": guessed} if guessed else {}),
        **({"long_shares": long_shares} if long_shares else {}),
        "plans": [asdict(plan) for plan in plans],
        **({"totals": asdict(totals)} if totals else {}),
        **({"chosen": list(settled.lines)} if settled.lines else {}),
        **({"answers": answers} if answers else {}),
        "text": "\n".join(lines),
    }


def simulate_stages(recipe: Recipe, shape: ModelShape | None, plans: Sequence[Plan]) -> Iterator[tuple[int, str]]:
    """The number of each stage, with a line; its sequences are those of the corpus, if it is prepared.

    Raises UserError where there is no plan.
    """
    corpus = RunFolder(Path(recipe.run)).corpus
    _require_plans(shape, plans)
    assert shape is not None
    stages = zip(plans, recipe.stages, stretch_stages(recipe, shape), strict=False)
    for index, (plan, stage, extended) in enumerate(stages):
        work: tuple[float, ...] = (1.0,)
        if is_finished(corpus):
            dataset = open_stage(recipe, index, open_corpus(corpus))
            held = [dataset.document_tokens(number) for number in range(min(dataset.sequences, _READ_SEQUENCES))]
            work = weigh_sequences(held, linear_flops=plan.flops.linear, pair_flops=count_pair_flops(extended))
        yield index, simulate_plan(plan, save_steps=stage.checkpoint_steps, work=work)


def _require_plans(shape: ModelShape | None, plans: Sequence[Plan]) -> Sequence[Plan]:
    if shape is None or not plans:
        raise UserError(
            "there is no plan to explain",
            where="model" if shape is None else "the recipe",
            why="it starts from nothing" if shape is None else "its stages cannot be planned",
            fix="leave out --why-not, --explain and --simulate, and correct what `ropewalk check` finds",
        )
    return plans


def _answer(
    recipe: Recipe, shape: ModelShape | None, plans: Sequence[Plan], why_not: Sequence[str], *, explain: bool
) -> dict[str, str]:
    """What was asked beside the plan, by the question."""
    if not why_not and not explain:
        return {}
    _require_plans(shape, plans)
    assert shape is not None
    started = count_ranks_started()
    answers = {each: explain_why_not(recipe, shape, each, plans, started=started) for each in why_not}
    if explain:
        space = open_recipe_space(
            recipe, shape, started=started, all_degrees=True, changes_rounding=True, measured=True
        )
        priced = plans[0].machine.dollars_per_hour is not None
        front = find_front(space.stages, space.layouts)
        answers["explain"] = "\n".join(tabulate_front(front, priced=priced))
    return answers
