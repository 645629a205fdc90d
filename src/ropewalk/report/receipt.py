"""The receipt of a run as tables, for the page and for the terminal: measured figures with the planned ones beside."""

from ropewalk.core.quantity import format_amount, format_bytes, format_count
from ropewalk.plan.receipt import ENOUGH_STEPS, Receipt, StageReceipt, StepTotals
from ropewalk.plan.savings import Savings
from ropewalk.report.contents import Contents
from ropewalk.report.section import Section
from ropewalk.report.table import Table


def tabulate_receipt(receipt: Receipt) -> Table:
    """One row for each figure of each stage, with its forecast where the plan has one."""
    rows = [
        ["", "software", f"{receipt.software} {receipt.version}", ""],
        ["", "model", f"{receipt.model}, {receipt.model_digest[:12]}", ""],
        *(["", f"digest of the {name}", digest[:12], ""] for name, digest in receipt.digests.items()),
        *(["", name, version, ""] for name, version in receipt.versions.items()),
    ]
    for number, stage in enumerate(receipt.stages):
        rows += [[str(number), *row] for row in _list_rows(stage)]
    return Table(["stage", "what", "measured", "planned"], rows, "rlll", labels=1)


def make_receipt(contents: Contents) -> Section | None:
    """The section of the page; None where no receipt was made."""
    if contents.receipt is None:
        return None
    lead = (
        "Speeds are medians over steps, with the 10th and 90th percentile; the first two steps of a session are left "
        "out, and of several ways of computing the one that took most steps is told. MFU counts causal pairs within "
        "documents. The plan takes each sequence as one document."
    )
    return Section("receipt", "Receipt", lead, [tabulate_receipt(contents.receipt)])


def _list_rows(stage: StageReceipt) -> list[list[str]]:
    """Name, measured and planned figure of one stage."""
    speed, rig, totals, text = stage.tokens_per_second, stage.rig, stage.totals, stage.sequences
    planned = stage.planned
    few = "" if speed.count >= ENOUGH_STEPS else f"; {ENOUGH_STEPS} steps make a claim"
    link = "" if rig.link_bytes_per_second is None else f"{format_bytes(rig.link_bytes_per_second)}/s"
    power = "not told" if rig.power_watts is None else f"{rig.power_watts:.0f} W"
    lengths = ", ".join(f"{name}: {count:,}" for name, count in text.lengths.items())
    return [
        ["device", f"{rig.ranks} x {rig.device}, {rig.context_ranks} for a sequence; limit of power: {power}", ""],
        ["link", link or "none", ""],
        ["sequences", f"{format_amount(text.context_tokens)} tokens, seed {text.seed}, {text.digest[:12]}", ""],
        ["documents by length", lengths, ""],
        ["precision, first loss", f"{stage.precision}, {stage.first_loss:.6f}", ""],
        [
            "tokens/s",
            f"{format_amount(speed.median)} ({format_amount(speed.p10)} to {format_amount(speed.p90)}, "
            f"{format_count(speed.count, 'step')}{few})",
            _tell(planned.get("tokens_per_second"), speed.median),
        ],
        ["MFU", f"{stage.mfu:.1%} of {rig.describe_peak()}", ""],
        ["pairs that the mask needs", f"{stage.useful_share:.1%} of the computed ones", ""],
        ["attention, busiest rank / mean", f"{totals.balance:.2f}; {describe_recomputation(totals)}", ""],
        # A process also holds code and caches, which the plan leaves out.
        _bytes("peak of the allocator", stage.peak_bytes, planned.get("peak_bytes"))
        if rig.kind == "cuda"
        else ["peak of the process", format_bytes(stage.peak_bytes), ""],
        _bytes("sent for attention, counted", stage.attention_bytes, planned.get("attention_bytes")),
        _bytes("sent for states, counted", stage.state_bytes, planned.get("state_bytes")),
        ["energy of a step", "no device counts it" if stage.joules is None else f"{stage.joules:.3g} J", ""],
    ]


def describe_recomputation(totals: StepTotals) -> str:
    """What is recomputed of which blocks, in the words of a plan."""
    return Savings(totals.recompute, recompute_blocks=totals.recompute_blocks).describe()


def _bytes(name: str, measured: float, planned: float | None) -> list[str]:
    told = "" if planned is None else f"{format_bytes(planned)}{_compare(planned, measured)}"
    return [name, format_bytes(measured), told]


def _tell(planned: float | None, measured: float) -> str:
    return "" if planned is None else f"{format_amount(planned)}{_compare(planned, measured)}"


def _compare(planned: float, measured: float) -> str:
    return f" ({planned / measured - 1:+.0%})" if measured else ""
