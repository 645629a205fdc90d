"""A plan term by term, and the settings that no other setting beats in time, memory and money at once."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

from ropewalk.core.columns import pad_columns
from ropewalk.core.quantity import format_amount, format_bytes, format_seconds
from ropewalk.core.translate import keep, translate_label
from ropewalk.plan.plan import Plan
from ropewalk.plan.search import LayoutPlan
from ropewalk.plan.step_time import StepTime

_PARTS = {
    "states": "states",
    "gathered": "gathered weights",
    "kept": "activations",
    "last_block": "one block at work, or",
    "loss": "the loss, or",
    "border": "the last recomputed block, with activations and gradients, or",
    "first_block": "the first block, with its activations and all gradients, or",
    "root": "all gradients, as embedding and head are reduced",
    "host": "on the host",
}
_LABEL_COLUMNS = 20


def explain_terms(plan: Plan) -> Iterator[str]:
    """Lines: the seconds of a step and the bytes of a rank, term by term."""
    yield f"a step of {plan.step_seconds:.3g} s:"
    for field in fields(StepTime):
        seconds = getattr(plan.times, field.name)
        yield f"  {_pad(field.name.replace('_', ' '))} {seconds:>9.3g} s {seconds / plan.step_seconds:>6.1%}"
    yield f"memory of a rank, {format_bytes(plan.memory.peak_bytes)} at its peak:"
    for name, words in _PARTS.items():
        if part := getattr(plan.memory, name):
            yield f"  {_pad(words)} {format_bytes(part)}"


def tabulate_front(front: Sequence[LayoutPlan], *, priced: bool) -> Iterator[str]:
    """Lines of a table, one for each candidate, the fastest first."""
    if not front:
        yield "no settings fit: see the error above for what does"
        return
    yield f"{'time':>11} {'memory':>9} {'dollars':>8}  settings that no other beats in all three"
    for candidate in front:
        dollars = format_amount(candidate.dollars) if priced else ""
        time, memory = format_seconds(candidate.seconds), format_bytes(candidate.peak_bytes)
        yield f"{time:>11} {memory:>9} {dollars:>8}  {describe_layout_plan(candidate)}"


def describe_layout_plan(candidate: LayoutPlan) -> str:
    """The layout and each stage's settings in words."""
    layout = candidate.layout
    words = [f"ranks {layout.ranks}, context ranks {layout.context_ranks}, replicas {layout.replicas}"]
    for index, option in enumerate(candidate.options):
        own = [option.savings.describe()]
        own += [f"micro-batch {option.split.micro_batch_size}"] if option.split.micro_batch_size > 1 else []
        own += [f"Ulysses degree {option.split.ulysses_degree}"] if option.split.ulysses_degree > 1 else []
        own += [f"keys by {option.split.exchange}, for memory"] if option.split.held_tokens is not None else []
        words.append((f"stage {index}: " if len(candidate.options) > 1 else "") + ", ".join(own))
    return "; ".join(words)


def _pad(words: str) -> str:
    return keep(pad_columns(translate_label(words), _LABEL_COLUMNS))
