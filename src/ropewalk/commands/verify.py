"""The verb ``ropewalk verify``: checks that cutting sequences over ranks does not change the training of a recipe.

It reads the run folder and writes nothing. So it can run before a run or beside one, and with another ``parallel`` than
the run's. (commands/verify_export compares the *export* with the trained model.)
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.plan_growth import require_same_stage
from ropewalk.commands.run_inputs import rank_setup, require
from ropewalk.core.artifact import is_finished
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count, format_length
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.torchrun import is_started
from ropewalk.recipe.spec import Recipe
from ropewalk.report.table import Table, TableCell

if TYPE_CHECKING:
    from ropewalk.train.parity import Parity


@dataclass(frozen=True, slots=True)
class Bar:
    """The largest difference by rounding alone between two ways of computing the same numbers.

    It is relative to the number, or to a tensor's norm.
    """

    loss: float
    gradient: float


BARS = {"float32": Bar(loss=1e-5, gradient=1e-4), "bfloat16": Bar(loss=2e-3, gradient=5e-2)}


def verify_degrees(recipe: Recipe) -> dict[str, Any]:
    """Compare the recipe's degree with degree 1, on its newest extended model and sequences of that stage.

    In the result, ``passed`` is True if all bounds hold, and ``text`` has a table per precision. Raises UserError where
    there is nothing to compare, or where corpus or model are missing.
    """
    if recipe.parallel.context_parallel == 1:
        alone = "" if 2 % recipe.parallel.replicas == 0 else " parallel.replicas=1"
        raise UserError(
            "there is nothing to compare",
            where="parallel.context_parallel",
            why="the recipe does not divide sequences over ranks",
            fix=f"add parallel.ranks=2 parallel.context_parallel=2{alone}, or the values of your run",
        )
    folder = RunFolder(Path(recipe.run))
    require(folder.corpus, verb="prepare")
    made = [stage for stage in range(len(recipe.stages)) if is_finished(folder.extended(stage))]
    stage = made[-1] if made else 0
    require(folder.extended(stage), verb="extend")
    require_same_stage(recipe, folder, stage)
    found: dict[str, Parity] = on_ranks(
        compare_on_ranks,
        recipe.parallel.ranks,
        recipe,
        stage,
        folder,
        setup=rank_setup(recipe, folder.extended(stage)),
    )
    if is_started():
        from ropewalk.parallel.launch import leave_ranks

        leave_ranks()
    faults = [
        f"{precision}: {fault}" for precision, parity in found.items() for fault in find_faults(parity, precision)
    ]
    return {
        "passed": not faults,
        "stage": stage,
        "degree": recipe.parallel.context_parallel,
        "faults": faults,
        "precisions": {precision: asdict(parity) | asdict(BARS[precision]) for precision, parity in found.items()},
        "text": "\n\n".join(_tell(recipe, stage, found, faults)),
    }


def find_faults(parity: "Parity", precision: str) -> Iterator[str]:
    """Yield every difference in ``parity`` that is larger than rounding."""
    bar = BARS[precision]
    for step, (one, cut) in enumerate(parity.losses):
        if not abs(cut - one) <= bar.loss * abs(one):
            yield f"the loss of step {step} is {cut:.6f}, and {one:.6f} at degree 1"
    for layer in parity.layers:
        if not layer.difference <= bar.gradient:
            yield f"{layer.layer}: the gradient of {layer.tensor or 'its weight'} differs by {layer.difference:.1e}"
    if parity.foreign is not None and parity.foreign != 0:
        yield f"a document's loss has a gradient of {parity.foreign:.1e} to a token of another document"
    if not parity.own > 0:
        yield "a document's loss has no gradient to its own tokens"
    if min(parity.calls) < parity.passes or len(set(parity.calls)) > 1:
        yield (
            f"context-parallel attention ran {min(parity.calls)} to {max(parity.calls)} times per layer in "
            f"{format_count(parity.passes, 'pass')}"
        )


def _tell(recipe: Recipe, stage: int, found: "dict[str, Parity]", faults: list[str]) -> Iterator[str]:
    context, parallel = format_length(recipe.stages[stage].context_length), recipe.parallel
    steps = len(next(iter(found.values())).losses)
    yield (
        f"{recipe.run}, stage {stage}: {format_count(steps, 'step')} of "
        f"{format_count(parallel.ranks, 'sequence')} of {context} tokens, degree "
        f"{parallel.context_parallel} against degree 1"
    )
    for precision, parity in found.items():
        crossed = f"In {parity.crossing} of rank 0's {parity.passes} passes keys crossed ranks."
        yield f"{_tabulate(parity, precision).to_text()}\n{crossed}"
    if faults:
        cure = (
            "do not train with these settings; try another parallel.exchange or parallel.layout, and report it "
            "with this table"
        )
        yield "\n".join([*faults, f"FAILED: {cure}"])
    else:
        yield "PASSED: training does not depend on how sequences are divided"


def _tabulate(parity: "Parity", precision: str) -> Table:
    bar = BARS[precision]

    def verdict(fine: bool, bound: str) -> TableCell:
        return TableCell(f"{'pass' if fine else 'FAIL'}, {bound}", "pass" if fine else "fail")

    rows: list[tuple[str | TableCell, ...]] = []
    for step, (one, cut) in enumerate(parity.losses):
        off = abs(cut - one) / max(abs(one), 1e-300)
        rows.append((f"loss, step {step}", f"{one:.6f}", f"{off:.1e}", verdict(off <= bar.loss, f"<= {bar.loss:g}")))
    for layer in parity.layers:
        judged = verdict(layer.difference <= bar.gradient, f"<= {bar.gradient:g}")
        name = f"gradient, {layer.layer}"
        rows.append((name, f"{layer.norm:.2e}", f"{layer.difference:.1e}", judged))
    leak = (
        verdict(not parity.foreign, "0") if parity.foreign is not None else TableCell("no sequence has two documents")
    )
    rows.append(("gradient to another document", f"{parity.own:.1e}", f"{parity.foreign or 0:g}", leak))
    ran = min(parity.calls) >= parity.passes and len(set(parity.calls)) == 1
    counts = str(parity.passes), str(min(parity.calls) - parity.passes)
    rows.append(("runs of context-parallel attention per layer", *counts, verdict(ran, "all layers equally")))
    return Table((precision, "degree 1", "difference", "target"), rows, "lrrl")


def compare_on_ranks(recipe: Recipe, stage: int, folder: RunFolder) -> "dict[str, Parity]":
    """A stage's losses and gradients at degree 1 and at the recipe's degree, by precision."""
    from ropewalk.train.parity import compare_degrees

    return compare_degrees(recipe, stage=stage, model=folder.extended(stage), corpus=folder.corpus)
