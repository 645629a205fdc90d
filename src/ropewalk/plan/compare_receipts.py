"""The ratio of two receipts, and what it is made of: skipped pairs x balance x recompute x kernel x exchange.

Two receipts are compared only if they did the same work: the same model, sequences, precision and first loss. The
factors are found by changing the slower side into the faster one, one term after the other, so their product is the
ratio exactly. The order is fixed. A step's seconds are products and attention, from FLOPs and measured rates, and a
rest; the rest is what the exchange, elementwise work and the optimizer take.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, format_count
from ropewalk.core.translate import translate_label
from ropewalk.plan.receipt import ENOUGH_STEPS, Receipt, Rig, StageReceipt, StepTotals, compute_seconds

FACTORS = ("skipped pairs", "balance", "recompute", "kernel", "exchange")
_RECOMPUTED = ("recompute", "recompute_blocks", "linear_again", "attention_again", "linear_flops")
"""The totals that are one factor: what runs again, and products."""
SAME_LOSS: Mapping[str, float] = {"float32": 1e-5, "bfloat16": 2e-3, "float16": 2e-3}
"""Largest relative difference of the first step's loss, by precision."""


@dataclass(frozen=True, slots=True)
class StageRatio:
    """How many times as fast the first receipt's stage is as the second's; ``factors`` multiply to ``ratio``."""

    stage: int
    ratio: float
    factors: Mapping[str, float]
    notes: tuple[str, ...]

    def describe(self) -> str:
        """The ratio in a line, such as ``1.52 = skipped pairs 1.40 x balance 1.02 x ...``, and the notes below."""
        parts = " x ".join(f"{translate_label(name)} {factor:.2f}" for name, factor in self.factors.items())
        return "\n".join([f"stage {self.stage}: {self.ratio:.2f} = {parts}", *(f"  {note}" for note in self.notes)])


def compare_receipts(ours: Receipt, theirs: Receipt) -> list[StageRatio]:
    """The ratio of each stage. Raises UserError where the two did not do the same work."""
    _require_same("model", ours.model_digest, theirs.model_digest, why="another model has another speed")
    _require_same("number of stages", len(ours.stages), len(theirs.stages), why="stages are compared one by one")
    pairs = list(zip(ours.stages, theirs.stages, strict=True))
    for number, (mine, its) in enumerate(pairs):
        _require_same_work(number, mine, its)
    return [compare_stages(number, mine, its) for number, (mine, its) in enumerate(pairs)]


def compare_stages(number: int, ours: StageReceipt, theirs: StageReceipt) -> StageRatio:
    """The ratio of two stages that did the same work."""
    notes = [
        f"only {format_count(stage.tokens_per_second.count, 'step')} of {who}: {ENOUGH_STEPS} make a claim"
        for who, stage in (("the first", ours), ("the second", theirs))
        if stage.tokens_per_second.count < ENOUGH_STEPS
    ]
    if ours.rig.device != theirs.rig.device or ours.rig.ranks != theirs.rig.ranks:
        told = [f"{rig.ranks} x {rig.device}" for rig in (ours.rig, theirs.rig)]
        notes.append(f"other hardware: {told[0]} against {told[1]}; `kernel` holds this difference")
    my_rig, its_rig = _fit_rates(ours, notes, "the first"), _fit_rates(theirs, notes, "the second")
    seconds = _list_seconds(ours, theirs, my_rig=my_rig, its_rig=its_rig)
    factors = {name: before / after for name, before, after in zip(FACTORS, seconds, seconds[1:], strict=False)}
    return StageRatio(number, seconds[0] / seconds[-1], factors, tuple(notes))


def _list_seconds(ours: StageReceipt, theirs: StageReceipt, *, my_rig: Rig, its_rig: Rig) -> list[float]:
    """Seconds of the other's step, then with one more term of ours each, to those of our step."""
    totals, rest = theirs.totals, theirs.step_seconds - sum(compute_seconds(theirs.totals, its_rig))
    steps: list[tuple[StepTotals, Rig]] = [(totals, its_rig)]
    for changed in (
        {"attention_flops": ours.totals.attention_flops},
        {"balance": ours.totals.balance},
        {name: getattr(ours.totals, name) for name in _RECOMPUTED},
    ):
        totals = replace(totals, **changed)  # type: ignore[arg-type]
        steps.append((totals, its_rig))
    steps.append((totals, my_rig))
    return [*(sum(compute_seconds(each, rig)) + rest for each, rig in steps), ours.step_seconds]


def _fit_rates(stage: StageReceipt, notes: list[str], who: str) -> Rig:
    """The rig, with higher rates where the measured ones would make compute alone longer than the step."""
    computed = sum(compute_seconds(stage.totals, stage.rig))
    excess = computed / stage.step_seconds
    if excess <= 1:
        return stage.rig
    notes.append(f"{who} is {excess:.2f} times as fast as its measured rates allow; its rest is taken as 0")
    return replace(
        stage.rig,
        products_flops=stage.rig.products_flops * excess,
        attention_flops=stage.rig.attention_flops * excess,
    )


def _require_same_work(number: int, ours: StageReceipt, theirs: StageReceipt) -> None:
    where = f"stage {number}: "
    mine, its = ours.sequences, theirs.sequences
    _require_same(f"{where}sequences", mine.digest, its.digest, why="other text packs other documents")
    _require_same(f"{where}tokens of a step", mine.step_tokens, its.step_tokens, why="a step is another amount of work")
    _require_same(f"{where}precision", ours.precision, theirs.precision, why="it decides the kernels")
    largest = SAME_LOSS.get(ours.precision, min(SAME_LOSS.values()))
    if abs(ours.first_loss - theirs.first_loss) > largest * abs(theirs.first_loss):
        raise UserError(
            f"{where}the loss of the first step differs: {ours.first_loss:.7g} and {theirs.first_loss:.7g}",
            where="receipt A B",
            why=f"in {ours.precision} the same work agrees to {largest:g}, so one of them computes something else",
            fix="find the difference first: the mask, the weights of labels, or the positions",
        )


def _require_same(what: str, mine: object, its: object, *, why: str) -> None:
    if mine != its:
        told = [format_amount(each) if isinstance(each, int) else str(each)[:16] for each in (mine, its)]
        raise UserError(
            f"{what} differs: {told[0]} and {told[1]}",
            where="receipt A B",
            why=why,
            fix="compare two runs of the same work",
        )
