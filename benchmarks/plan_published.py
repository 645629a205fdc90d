"""The plan's time and longest sequences beside 39 published throughputs, each source left out of its own fit.

python benchmarks/plan_published.py          # writes docs/plan-published.md and docs/plan-devices.md; needs no GPU
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

from page_tables import write_tables
from published_rows import ALST_NODE_BYTES, ALST_NODES, H100, LONGEST, ROUNDED_SECONDS, ROWS, Row
from ropewalk.plan.block_memory import copied_bytes
from ropewalk.plan.devices import read_devices
from ropewalk.plan.forecast import forecast
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.plan import Plan, Split
from ropewalk.plan.room import USABLE_HOST_MEMORY, USABLE_MEMORY
from ropewalk.plan.savings import Savings
from ropewalk.plan.step_time import Factors, Software, StepTime, estimate_step_time
from ropewalk.shape.model_shape import ModelShape

WITH, WITHOUT = "with software classes", "without"
RESULTS = Path(__file__).parent / "results" / "2026-11-30-plan-published.json"
DOCS = Path(__file__).parents[1] / "docs"
PAGE, DEVICES_PAGE = DOCS / "plan-published.md", DOCS / "plan-devices.md"
HEAD = """| source | run | published, tokens/s of a GPU | left out | error | fitted to all | why more than 20 % off |
|---|---|---|---|---|---|---|"""
DEVICE_HEAD = (
    "| device | memory, GiB | GB/s | bf16, TFLOP/s | link, GB/s | network, GB/s | devices and host memory of a node | "
    "$ an hour | source |"
)
STARTS = {"ampere": 1.1, "hopper": 1.2, "attention": 1.1, "elementwise": 1.0, "hidden": 0.3}
LEAST = {"ampere": 1.0, "hopper": 1.0, "attention": 1.0, "elementwise": 1.0, "hidden": 0.0}
MOST = {"ampere": 2.0, "hopper": 2.0, "attention": 1.5, "elementwise": 2.0, "hidden": 1.0}
HOST = "host of "  # and a source: billions of parameters a second that its nodes' processors update
HOST_START, HOST_LEAST, HOST_MOST = 1.0, 0.2, 20.0


def plan_row(row: Row, *, classes: bool = True) -> Plan:
    """The plan of a row's settings; without ``classes`` all software is eager, with its optimizer on the device."""
    tokens = row.tokens // row.context_ranks * row.context_ranks
    savings = row.savings if classes else replace(row.savings, states_on_host=False)
    ulysses = row.context_ranks if row.exchange == "heads" else 1
    plan = forecast(
        row.shape,
        context_tokens=tokens,
        tokens=tokens * row.rows * (row.ranks // row.context_ranks),
        ranks=row.ranks,
        machine=row.machine,
        split=Split(
            context_ranks=row.context_ranks,
            ulysses_degree=ulysses,
            exchange=row.exchange,
            savings=(savings,),
            micro_batch_size=row.rows,
            software=Software(fused=row.fused and classes, overlaps=False),
        ),
    )
    if row.selective:
        linear = plan.work.flops.linear
        plan = replace(plan, work=replace(plan.work, flops=replace(plan.work.flops, linear=linear * 7 / 6)))
    return plan


@dataclass(frozen=True)
class Case:
    row: Row
    plan: Plan
    fused: bool

    def estimate(self, factors: Factors, host: float) -> StepTime:
        """The step where a node's processors update ``host`` parameters a second."""
        return estimate_step_time(
            self.row.shape, self.plan.work, savings=self.plan.savings,
            machine=replace(self.row.machine, host_parameters_per_second=host),
            software=Software(fused=self.fused, overlaps=False), factors=factors,
        )  # fmt: skip

    def ratio(self, values: Mapping[str, float]) -> float:
        """Speed by the plan over the published one."""
        step = self.estimate(make_factors(values), find_host(values, self.row.source))
        return self.plan.work.tokens / step.total / self.row.speed


def make_factors(values: Mapping[str, float]) -> Factors:
    products = {"ampere": values["ampere"], "hopper": values["hopper"]}
    mean = math.sqrt(values["ampere"] * values["hopper"])
    return Factors({None: mean, **products}, values["attention"], values["elementwise"], values["hidden"])  # type: ignore[dict-item]


def find_host(values: Mapping[str, float], source: str | None = None) -> float:
    """Parameters a second that a node's processors of ``source`` update; where no fit has seen them, and for None, the
    geometric mean of all that were seen."""
    rates = [value for name, value in values.items() if name.startswith(HOST)]
    own = values.get(f"{HOST}{source}")
    return 1e9 * (own or (math.exp(fmean(map(math.log, rates))) if rates else HOST_START))


def fit(cases: Sequence[Case]) -> dict[str, float]:
    """The factors with the least mean of |log ratio|, one at a time around the last ones, with ever smaller steps.

    The processors of each source that has its optimizer on the host have a rate of their own.
    """

    def loss(values: dict[str, float]) -> float:
        return sum(abs(math.log(case.ratio(values))) for case in cases)

    hosts = {f"{HOST}{case.row.source}": HOST_START for case in cases if case.plan.savings.states_on_host}
    values = {**STARTS, **hosts}
    best = loss(values)
    for step in (1.3, 1.1, 1.03, 1.01):
        moved = True
        while moved:
            moved = False
            for name in values:
                for factor in (step, 1 / step):
                    tried = values[name] * factor if name in hosts else values[name] + (factor - 1)
                    tried = min(MOST.get(name, HOST_MOST), max(LEAST.get(name, HOST_LEAST), tried))
                    found = loss({**values, name: tried})
                    if found < best - 1e-6:
                        values, best, moved = {**values, name: tried}, found, True
    return values


def fit_all(classes: bool) -> dict[str, dict[str, float]]:
    """The factors that are fitted without each source, by its name, and under "" those fitted to all rows."""
    cases = make_cases(classes)
    sources = dict.fromkeys(["", *(case.row.source for case in cases)])
    return {source: fit([case for case in cases if case.row.source != source]) for source in sources}


def make_cases(classes: bool) -> list[Case]:
    """All rows with their plans."""
    return [Case(row, plan_row(row, classes=classes), row.fused and classes) for row in ROWS]


def score(ratios: Sequence[float]) -> str:
    errors = [abs(ratio - 1) for ratio in ratios]
    within = sum(error <= 0.25 for error in errors)
    return f"median error {median(errors):.0%}, within 25 %: {within} of {len(errors)} ({within / len(errors):.0%})"


def tabulate(fitted: Mapping[str, Mapping[str, dict[str, float]]]) -> tuple[list[str], dict[str, list[float]]]:
    """The table and the scores as lines, and the ratios of rows left out, with and without classes.

    ``fitted`` has what ``fit_all`` gives, ``with software classes`` and ``without``.
    """
    lines, scores, ratios = [], [], {}
    for name, factors in fitted.items():
        classes = name != WITHOUT
        cases = make_cases(classes)
        ratios[name] = [case.ratio(factors[case.row.source]) for case in cases]
        if classes:
            final = [case.ratio(factors[""]) for case in cases]
            lines = [_line(case.row, *pair) for case, *pair in zip(cases, ratios[name], final, strict=True)]
            scores.append(f"| fitted to all rows | {score(final)} |")
        scores.append(f"| source left out, {name} | {score(ratios[name])} |")
    return [*HEAD.splitlines(), *lines, "", "| fit | score |", "|---|---|", *scores], ratios


def _line(row: Row, left_out: float, fitted: float) -> str:
    cells = row.source, row.run, f"{row.speed:,.0f}", f"{left_out * row.speed:,.0f}", f"{left_out - 1:+.0%}"
    return "| " + " | ".join((*cells, f"{fitted - 1:+.0%}", row.reason)) + " |"


def tabulate_devices() -> list[str]:
    """The table of devices for the page."""
    lines = [DEVICE_HEAD, "|---" * 9 + "|"]
    for each in read_devices():
        price = "" if each.dollars_per_hour is None else f"{each.dollars_per_hour:g}"
        cells = each.name, f"{each.memory_mib / 1024:.3g}", f"{each.memory_gb_per_second:,.0f}", f"{each.bf16_tflops:g}"
        links = f"{each.link_gb_per_second:g}", f"{each.network_gb_per_second:g}"
        node = f"{each.node_devices}, {each.host_gb:g} GB"
        lines.append("| " + " | ".join((*cells, *links, node, price, each.source)) + " |")
    return lines


def find_longest(shape: ModelShape, ranks: int) -> tuple[int, str]:
    """The longest sequence of ALST's settings by the plan, in tokens, and whether the device or the host ends it.

    Its buffers on the host are not rounded up to powers of two, as torch's pinned ones are.
    """
    way = Savings("full", max(1024, shape.width), offload=True, states_on_host=True)
    device = USABLE_MEMORY * H100.memory_bytes
    host = USABLE_HOST_MEMORY * ALST_NODE_BYTES / min(ranks, 8)
    least, most, limit = 1024, 1 << 26, ""
    while most - least > 1024:
        middle = (least + most) // 2
        memory = estimate_memory(shape, middle // ranks, ranks=ranks, savings=way)
        on_host = estimate_memory(shape, 1, ranks=ranks, savings=way).host + copied_bytes(
            shape, middle // ranks, savings=way
        )
        if memory.peak_bytes <= device and on_host <= host:
            least = middle
        else:
            most, limit = middle, "device" if memory.peak_bytes > device else "host"
    return least, limit


def tabulate_longest() -> tuple[list[str], list[float]]:
    """The table of longest sequences for the page, and the ratios of planned and published lengths."""
    lines, ratios = ["| ALST, H100 | published tokens | planned tokens | error | ends at |", "|---" * 5 + "|"], []
    for name, shape, ranks, published in LONGEST:
        planned, limit = find_longest(shape, ranks)
        ratios.append(planned / published)
        lines.append(f"| {name}, {ranks} | {published:,} | {planned:,} | {planned / published - 1:+.0%} | {limit} |")
    return lines, ratios


def find_host_seconds() -> tuple[float, float, float]:
    """Seconds of ALST's host work on one node, and the bounds that rounded times leave.

    From one node to four each device does the same; what a node's CPUs do falls to a quarter.
    """
    alone, four = (row.tokens / row.speed for row in ALST_NODES)
    share = 1 - ALST_NODES[0].ranks / ALST_NODES[1].ranks
    found = (alone - four + 2 * rounding for rounding in (0.0, -ROUNDED_SECONDS, ROUNDED_SECONDS))
    middle, least, most = (each / share for each in found)
    return middle, least, most


def tabulate_nodes(values: Mapping[str, float]) -> list[str]:
    """ALST's 32K on one node and on four beside the formula, with the usual rate of hosts and with the fitted one."""
    middle, least, most = find_host_seconds()
    parameters, own = ALST_NODES[0].shape.parameters, find_host(values, ALST_NODES[0].source)
    lines = [
        "| ALST, 32K tokens on each H100 | published, s | at the usual rate of hosts, s | of it the optimizer, s | "
        f"at the fitted {own / 1e9:.2f}B parameters a second, s |",
        "|---" * 5 + "|",
    ]
    for number, row in enumerate(ALST_NODES):
        usual, fitted = (estimate_node(values, host, number) for host in (find_host(values), own))
        published = row.tokens / row.speed
        lines.append(
            f"| {row.ranks} | {published:.0f} | {usual.total:.1f} | {usual.optimizer:.1f} | {fitted.total:.1f} "
            f"({published / fitted.total - 1:+.0%} in speed) |"
        )
    rates = (f"{parameters / seconds / 1e9:.1f}" for seconds in (most, least))
    told = f"{middle:.1f} s ({least:.1f} to {most:.1f} with the rounding), {' to '.join(rates)}B parameters a second"
    other = solve_host(values)
    unseen = ALST_NODES[0].tokens / ALST_NODES[0].speed / estimate_node(values, other).total - 1
    return [
        *lines,
        "",
        f"Host work of one node, without the formula: {told}. By the row of 32 alone the formula gives "
        f"{other / 1e9:.2f}B, and with it the row of 8 is {unseen:+.0%} off.",
    ]


def estimate_node(values: Mapping[str, float], host: float, number: int = 0) -> StepTime:
    """The step of ``ALST_NODES[number]`` where a node's processors update ``host`` parameters a second."""
    row = ALST_NODES[number]
    return Case(row, plan_row(row), row.fused).estimate(make_factors(values), host)


def solve_host(values: Mapping[str, float]) -> float:
    """Parameters a second with which the row of four nodes, which no fit has seen, takes its published time."""
    step = estimate_node(values, 1e9, 1)
    row = ALST_NODES[1]
    return 1e9 * step.optimizer / (row.tokens / row.speed - step.total + step.optimizer)


def main() -> None:
    fitted = {WITH: fit_all(True), WITHOUT: fit_all(False)}
    RESULTS.write_text(json.dumps(fitted, indent=1) + "\n", encoding="utf-8")
    lines, _ = tabulate(fitted)
    write_tables(PAGE, "\n".join(lines), "published")
    write_tables(PAGE, "\n".join(tabulate_nodes(fitted[WITH][""])), "nodes")
    write_tables(PAGE, "\n".join(tabulate_longest()[0]), "longest")
    write_tables(DEVICES_PAGE, "\n".join(tabulate_devices()), "devices")
    print("\n".join(lines))
    print(
        {name: round(value, 3) for name, value in fitted[WITH][""].items()},
        "for FITTED of plan/step_time.py;",
        f"{find_host(fitted[WITH]['']):.2g} for HOST_PARAMETERS_PER_SECOND of plan/hardware.py",
    )


if __name__ == "__main__":
    main()
