"""What a length costs, and how a run grows past this machine: the tables and the figure of docs/plan-scale.md.

    python benchmarks/plan_scale.py       # needs no GPU; writes the page, its figure and benchmarks/results

The table of lengths is planned (every count open), beside the gain that a study here has measured. The runs of 20B and
1T tokens are simulated with failures, slow ranks and packs of drawn documents; Llama 3's run on 16,384 GPUs is the
check. All of it are forecasts, except the measured gain and the published run.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot

from page_tables import write_tables
from ropewalk.core.quantity import format_amount, format_length
from ropewalk.plan.flops import count_pair_flops, token_flops
from ropewalk.plan.forecast import forecast, forecast_recipe
from ropewalk.plan.hardware import KNOWN
from ropewalk.plan.plan import Plan, Split
from ropewalk.plan.savings import Savings
from ropewalk.plan.settle import settle_recipe
from ropewalk.plan.simulate import Cluster, Simulated, Steps, simulate_run, weigh_sequences
from ropewalk.plan.step_time import FITTED
from ropewalk.recipe.spec import Recipe
from ropewalk.report.figure import BASE, EXTENDED, FAINT, GRID, INK
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

PAGE, FIGURE = Path("docs/plan-scale.md"), Path("docs/plan-scale.png")
RESULTS = Path("benchmarks/results/2026-11-29-plan-scale.json")
LLAMA = ModelShape("LlamaForCausalLM", 4096, 32, 8, 128, 14_336, 128_256, False, 8192, plain_layers(32, 5e5))
KI = 1 << 10
LENGTHS = (16 * KI, 32 * KI, 128 * KI, 1024 * KI)
GAINS = {
    16 * KI: "6.09 to 3.09 nats in the last quarter, by yarn without training (docs/real-model.md, a model of 135M)"
}
"""What a study here has measured at a length, by loss far from the document's beginning."""
LLAMA_70B = ModelShape("LlamaForCausalLM", 8192, 64, 8, 128, 28_672, 128_256, False, 8192, plain_layers(80, 5e5))
MODELS = {20_000_000_000: ("Llama 3 8B", LLAMA), 1_000_000_000_000: ("Llama 3 70B", LLAMA_70B)}
RUNS = {20_000_000_000: {8: 8, 64: 8, 512: 8}, 1_000_000_000_000: {512: 16, 4096: 32, 16_384: 64}}
"""By tokens, the numbers of ranks, each with the context ranks of a sequence."""
LLAMA_3_DAYS, LLAMA_3_FAILURES = 54, 419


def plan_length(length: int, tokens: int = 1_000_000_000) -> Plan:
    """A billion tokens at ``length`` on nodes of 8 x H100, as many as ``parallel: auto`` may use of one."""
    stage = {"context_length": length, "rope": {"kind": "theta", "theta": 1e8}, "tokens": tokens,
             "step_tokens": max(4 << 20, length), "lr": 1e-5}  # fmt: skip
    recipe = Recipe.model_validate({
        "model": "base", "run": "runs/scale", "stages": [stage], "parallel": "auto", "hardware": "h100-sxm x 8",
        "corpus": {"store": "store", "mix": {"general": 1},
                   "sources": [{"name": "web", "path": "text", "role": "general"}]},
    })  # fmt: skip
    return forecast_recipe(settle_recipe(recipe, LLAMA).recipe, LLAMA)[0]


def tabulate_lengths(plans: dict[int, Plan]) -> list[str]:
    lines = ["| length | GPU-hours of 1B tokens | $ | attention's share of FLOPs | context ranks, savings | far gain, "
             "measured |", "|---|---|---|---|---|---|"]  # fmt: skip
    for length, plan in plans.items():
        hours = plan.ranks * plan.seconds / 3600
        lines.append(
            f"| {format_length(length)} | {hours:,.0f} | {plan.dollars or 0:,.0f} | {plan.flops.attention_share:.0%} | "
            f"{plan.context_ranks}, {plan.savings.describe()} | {GAINS.get(length, 'not measured here')} |"
        )
    return lines


def draw_work(shape: ModelShape, length: int, *, median: int = 4 * KI, packs: int = 512) -> tuple[float, ...]:
    """The work of packs of log-normal documents."""
    draw, rows = np.random.default_rng(0), []
    for _ in range(packs):
        row: list[int] = []
        while sum(row) < length:
            row.append(int(min(max(1, draw.lognormal(math.log(median), 1.3)), length - sum(row))))
        rows.append(row)
    return weigh_sequences(rows, linear_flops=token_flops(shape, length).linear, pair_flops=count_pair_flops(shape))


def simulate_large(tokens: int, ranks: int, context: int) -> tuple[float, Simulated]:
    """Ideal days, and the simulated run at 128Ki on ``ranks`` H100, with slow ranks and unequal packs."""
    shape, length, data_ranks = MODELS[tokens][1], 128 * KI, ranks // context
    sequences = max(1, 16 * (1 << 20) // length // data_ranks)
    plan = forecast(
        shape, context_tokens=length, tokens=tokens, step_tokens=data_ranks * sequences * length, ranks=ranks,
        document_tokens=weigh_packs(length), split=Split(context_ranks=context), machine=KNOWN["h100-sxm"],
    )  # fmt: skip
    cluster = Cluster(ranks=ranks, slow_hours=50_700.0, slow_lasts_hours=0.5)
    steps = Steps(plan.steps, plan.step_seconds, data_ranks, sequences, draw_work(shape, length))
    best = max(1, round(cluster.best_save_seconds / plan.step_seconds))
    return plan.seconds / 86_400, simulate_run(steps, cluster, save_steps=best)


def weigh_packs(length: int) -> list[int]:
    """A typical pack of documents of 4Ki."""
    return [4 * KI] * (length // (4 * KI))


def tabulate_runs(found: dict[tuple[int, int], tuple[float, Simulated]]) -> list[str]:
    head = "tokens", "model", "H100", "days without events, equal work", "days", "failures", "effective", "unequal work"
    lines = [f"| {' | '.join(head)}, slow ranks | done again, restarts | saves |", "|---" * 10 + "|"]
    for (tokens, ranks), (ideal, run) in found.items():
        shares = [f"{part / run.seconds:.1%}" for part in (run.slow_seconds, run.lost_seconds, run.saving_seconds)]
        lines.append(
            f"| {format_amount(tokens)} | {MODELS[tokens][0]} | {ranks:,} | {ideal:,.1f} | "
            f"{run.seconds / 86_400:,.1f} | {run.failures} | "
            f"{run.effective_share:.1%} | {' | '.join(shares)} |"
        )
    return lines


def check_llama_3(restart_minutes: float) -> tuple[float, float]:
    """Failures in 54 days, and the effective share, on 16,384 GPUs that fail as Llama 3's did; of three runs.

    Ranks do not fail during a restart, so the time between failures is that of the other hours.
    """
    hours = 24 * LLAMA_3_DAYS - LLAMA_3_FAILURES * restart_minutes / 60
    cluster = Cluster(16_384, failure_hours=16_384 * hours / LLAMA_3_FAILURES, restart_seconds=60 * restart_minutes)
    steps = Steps(round(0.92 * LLAMA_3_DAYS * 86_400 / 30), 30.0)
    save_steps = round(cluster.best_save_seconds / 30)
    runs = [simulate_run(steps, cluster, save_steps=save_steps, seed=seed) for seed in range(3)]
    failures = [run.failures * LLAMA_3_DAYS * 86_400 / run.seconds for run in runs]
    return float(np.mean(failures)), float(np.mean([run.effective_share for run in runs]))


def draw_growth(ax: pyplot.Axes) -> None:
    """Seconds of one sequence over P ranks: the plan's compute as points, the closed form as lines."""
    machine = KNOWN["h100-sxm"]
    for length, shade in zip((128 * KI, 1024 * KI, 8192 * KI), (0.35, 0.6, 1.0), strict=True):
        ranks = [1 << power for power in range(3, 13)]
        flops = token_flops(LLAMA, length)
        attention = flops.attention * (2 / machine.attention_forward_flops + 2.5 / machine.attention_backward_flops)
        one = length * (
            FITTED.attention * attention + FITTED.products["hopper"] * 4 * flops.linear / machine.matmul_flops
        )
        ax.plot(ranks, [one / count for count in ranks], color=EXTENDED, alpha=shade, linewidth=1.5)
        plans = [
            forecast(LLAMA, context_tokens=length, tokens=length, ranks=count, machine=machine,
                     split=Split(context_ranks=count, exchange="ring", savings=(Savings("full"),)))
            for count in ranks
        ]  # fmt: skip
        ax.plot(ranks, [plan.step_seconds for plan in plans], "o", color=EXTENDED, alpha=shade, markersize=3.5)
        ax.text(ranks[0] * 0.9, plans[0].step_seconds, format_length(length), ha="right", va="center", fontsize=8.5)
    ax.set_title("one sequence: lines a S/P + b S²/P, points the whole plan", fontsize=9.5, color=INK, loc="left")
    ax.set(xscale="log", yscale="log", xlabel="context ranks", ylabel="seconds", xlim=(2.5, 6000))


def draw_effective(ax: pyplot.Axes, checks: dict[float, tuple[float, float]]) -> None:
    """The effective share by the minutes of a restart."""
    minutes, shares = list(checks), [share for _, share in checks.values()]
    ax.plot(minutes, shares, "o-", color=EXTENDED, linewidth=1.5, markersize=3.5)
    ax.axhspan(0.9, 1.0, color=BASE, alpha=0.15, linewidth=0)
    ax.text(minutes[-1], 0.985, "published: more than 90 %", ha="right", va="top", fontsize=8.5, color=INK)
    ax.set_title("16,384 GPUs, 419 failures in 54 days", fontsize=9.5, color=INK, loc="left")
    ax.set(xlabel="minutes from a failure to training again", ylabel="share of effective time", ylim=(0.8, 1.0))


def main() -> None:
    plans = {length: plan_length(length) for length in LENGTHS}
    runs = {
        (tokens, ranks): simulate_large(tokens, ranks, context)
        for tokens, counts in RUNS.items()
        for ranks, context in counts.items()
    }
    checks = {minutes: check_llama_3(minutes) for minutes in (2.0, 4.0, 8.0, 12.0, 20.0)}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6))
    draw_growth(left)
    draw_effective(right, checks)
    for ax in (left, right):
        ax.grid(color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(length=0, labelsize=8.5, labelcolor=INK)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(FAINT)
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=130)
    told = [f"| {minutes:g} | {failures:.0f} | {share:.1%} |" for minutes, (failures, share) in checks.items()]
    write_tables(PAGE, "\n".join(tabulate_lengths(plans)), "lengths")
    write_tables(PAGE, "\n".join(tabulate_runs(runs)), "runs")
    head = ["| restart, minutes | failures in 54 days | effective |", "|---|---|---|"]
    write_tables(PAGE, "\n".join([*head, *told]), "llama3")
    lengths = {length: [plan.ranks * plan.seconds / 3600, plan.dollars] for length, plan in plans.items()}
    events = [
        {"tokens": tokens, "ranks": ranks, "ideal_days": ideal, **asdict(run)}
        for (tokens, ranks), (ideal, run) in runs.items()
    ]
    result = {"hours and dollars by length": lengths, "runs": events, "llama 3, by restart": checks}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
