"""Compare a running stage with its plan, once, after the third step, and name the term that is off.

The first step compiles and allocates, so the time is the mean of the second and the third. The plan is made for the
documents of that step and the chosen device; on a CPU for the rates that the stage measured in its precision.
``ropewalk check`` plans before either is known, so its figure is another one, and the line says why.
A CPU tells a rank's own work from its wait for other ranks; a GPU works ahead of its host, so there they are one term.
"""

from dataclasses import dataclass, replace

from ropewalk.core.quantity import format_amount, format_bytes
from ropewalk.model.fusion import choose_fusion
from ropewalk.parallel.device import find_own_machine
from ropewalk.plan.flops import token_flops
from ropewalk.plan.forecast import forecast_stage
from ropewalk.plan.plan import Plan
from ropewalk.plan.planned_machine import describe_measured_cpu
from ropewalk.plan.receipt import Rig
from ropewalk.plan.step_time import Software, StepTime, estimate_step_time
from ropewalk.train.batches import StepBatches
from ropewalk.train.stage_context import StageContext

COMPARED_STEP = 3
_FAR, _FAR_MEMORY = 1.25, 1.1
"""How far a time and a memory may be from the plan before their term is named."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the second and third step took: the mean step, the busiest rank's own part of it, the peak of any rank."""

    step_seconds: float
    own_seconds: float
    peak_bytes: float
    imbalance: float


def compare_with_plan(context: StageContext, rig: Rig, batches: StepBatches, measured: Measured) -> str:
    """One line for people: the step beside its plan, with the term that is furthest off, if any is far off."""
    plan = _plan_own(context, rig)
    tokens = max(1, int(batches.document_tokens.sum()))
    flops = token_flops(context.shape, tokens, document_tokens=batches.document_tokens, lora=context.spec.lora)
    work = replace(plan.work, flops=flops, imbalance=measured.imbalance, tokens=tokens / context.mesh.ranks)
    fusion = choose_fusion(context.parallel, context.shape, context.mesh.device)
    times = estimate_step_time(
        context.shape, work, savings=plan.savings, machine=plan.machine, software=Software(fused=fusion != "none")
    )
    parts = [
        f"a step takes {measured.step_seconds:.3g} s, planned {times.total:.3g} s "
        f"({measured.step_seconds / times.total:.2f} x; most of the plan is {times.largest()})"
    ]
    if is_far(measured.step_seconds, times.total, _FAR):
        parts.append(name_term(times, measured, on_cpu=context.mesh.device.type == "cpu"))
    parts.append(
        describe_basis(flops.model, plan, on_cpu=context.mesh.device.type == "cpu", precision=context.precision)
    )
    planned_bytes = plan.memory.peak_bytes
    if context.mesh.device.type == "cuda" and is_far(measured.peak_bytes, planned_bytes, _FAR_MEMORY):
        parts.append(f"memory is off: {format_bytes(measured.peak_bytes)}, planned {format_bytes(planned_bytes)}")
    return f"stage {context.number}, plan: " + "; ".join(parts)


def describe_basis(document_flops: float, plan: Plan, *, on_cpu: bool, precision: str) -> str:
    """The assumptions of the planned step, beside those of `check`: the documents and, on a CPU, the rate.

    ``document_flops`` are the FLOPs per token of the step's documents, ``plan`` is that of one document a sequence.
    """
    flops, checked = format_amount(document_flops), format_amount(plan.flops.model)
    if not on_cpu:
        return (
            f"planned with its documents, {flops} FLOP per token; `check` plans with one document a sequence, {checked}"
        )
    return (
        f"planned with its documents, {flops} FLOP per token, and {format_amount(plan.machine.matmul_flops)} FLOP/s a "
        f"rank, measured now in {precision}; `check` plans with one document a sequence, {checked}, and a rate "
        "measured in float32 before the ranks began"
    )


def name_term(times: StepTime, measured: Measured, *, on_cpu: bool) -> str:
    """The term with the largest difference between a measured step and its plan, in words."""
    waits = times.messages + times.fixed
    if on_cpu:
        own = min(measured.own_seconds, measured.step_seconds)
        terms = {"compute": (own, times.total - waits), "messages and waits": (measured.step_seconds - own, waits)}
    else:
        terms = {f"compute, of it mostly {times.largest()}, or messages": (measured.step_seconds, times.total)}
    name, (took, planned) = max(terms.items(), key=lambda term: abs(term[1][0] - term[1][1]))
    return f"off is {name}: {took:.3g} s, planned {planned:.3g} s"


def is_far(found: float, planned: float, ratio: float) -> bool:
    """Whether two values differ by more than the factor ``ratio``."""
    return not planned / ratio <= found <= planned * ratio


def _plan_own(context: StageContext, rig: Rig) -> Plan:
    """The plan of this stage on this rank's device."""
    device = context.mesh.device
    machine = (
        find_own_machine(ranks=rig.ranks)
        if device.type == "cuda"
        else describe_measured_cpu(rig, context_tokens=context.spec.context_length)
    )
    real = context.parallel.model_copy(update={"device": device.type, "precision": context.precision})
    return forecast_stage(real, context.spec, context.shape, machine=machine)
