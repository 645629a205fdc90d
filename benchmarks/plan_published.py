"""The plan's time beside 39 published throughputs, each source left out of its own fit.

python benchmarks/plan_published.py          # prints the tables of docs/plan.md; needs no GPU
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from published_rows import ROWS, Row
from ropewalk.plan.devices import read_devices
from ropewalk.plan.forecast import forecast
from ropewalk.plan.plan import Plan, Split
from ropewalk.plan.step_time import Factors, Software, estimate_step_time

PAGE = Path(__file__).parents[1] / "docs" / "plan.md"
HEAD = """| source | run | published, tokens/s of a GPU | left out | error | fitted to all | why more than 25 % off |
|---|---|---|---|---|---|---|"""
DEVICE_HEAD = (
    "| device | memory, GiB | GB/s | bf16, TFLOP/s | link, GB/s | network, GB/s | devices and host memory of a node | "
    "$ an hour | source |"
)
STARTS = {"ampere": 1.1, "hopper": 1.2, "attention": 1.1, "elementwise": 1.0, "hidden": 0.3, "host": 1.0}
LEAST = {"ampere": 1.0, "hopper": 1.0, "attention": 1.0, "elementwise": 1.0, "hidden": 0.0, "host": 0.2}
MOST = {"ampere": 2.0, "hopper": 2.0, "attention": 1.5, "elementwise": 2.0, "hidden": 1.0, "host": 20.0}


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

    def ratio(self, factors: Factors) -> float:
        """Speed by the plan over the published one."""
        times = estimate_step_time(
            self.row.shape, self.plan.work, savings=self.plan.savings, machine=self.row.machine,
            software=Software(fused=self.fused, overlaps=False), factors=factors,
        )  # fmt: skip
        return self.plan.work.tokens / times.total / self.row.speed


def make_factors(values: dict[str, float]) -> Factors:
    products = {"ampere": values["ampere"], "hopper": values["hopper"]}
    mean = math.sqrt(values["ampere"] * values["hopper"])
    return Factors(
        {None: mean, **products}, values["attention"], values["elementwise"], values["hidden"], values["host"] * 1e9
    )  # type: ignore[dict-item]


def fit(cases: Sequence[Case]) -> dict[str, float]:
    """The factors with the least mean of |log ratio|, one at a time around the last ones, with ever smaller steps."""

    def loss(values: dict[str, float]) -> float:
        return sum(abs(math.log(case.ratio(make_factors(values)))) for case in cases)

    values, best = dict(STARTS), loss(STARTS)
    for step in (1.3, 1.1, 1.03, 1.01):
        moved = True
        while moved:
            moved = False
            for name in values:
                for factor in (step, 1 / step):
                    tried = values[name] * factor if name == "host" else values[name] + (factor - 1)
                    tried = min(MOST[name], max(LEAST[name], tried))
                    found = loss({**values, name: tried})
                    if found < best - 1e-6:
                        values, best, moved = {**values, name: tried}, found, True
    return values


def leave_out(cases: Sequence[Case]) -> list[float]:
    """Each case's ratio by factors that were fitted without its source."""
    factors = {
        source: make_factors(fit([case for case in cases if case.row.source != source]))
        for source in dict.fromkeys(case.row.source for case in cases)
    }
    return [case.ratio(factors[case.row.source]) for case in cases]


def score(ratios: Sequence[float]) -> str:
    errors = [abs(ratio - 1) for ratio in ratios]
    within = sum(error <= 0.25 for error in errors)
    return f"median error {median(errors):.0%}, within 25 %: {within} of {len(errors)} ({within / len(errors):.0%})"


def tabulate() -> tuple[list[str], dict[str, list[float]], dict[str, float]]:
    """The table and the scores as lines, the ratios with and without classes, and the factors fitted to all rows."""
    lines, scores, ratios, fitted = [], [], {}, {}
    for name, classes in (("with software classes", True), ("without", False)):
        cases = [Case(row, plan_row(row, classes=classes), row.fused and classes) for row in ROWS]
        ratios[name] = leave_out(cases)
        if classes:
            fitted = fit(cases)
            final = [case.ratio(make_factors(fitted)) for case in cases]
            lines = [_line(case.row, *pair) for case, *pair in zip(cases, ratios[name], final, strict=True)]
            scores.append(f"| fitted to all rows | {score(final)} |")
        scores.append(f"| source left out, {name} | {score(ratios[name])} |")
    return [*HEAD.splitlines(), *lines, "", "| fit | score |", "|---|---|", *scores], ratios, fitted


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


def place(page: str, name: str, lines: Sequence[str]) -> str:
    """``page`` with ``lines`` between the marks of ``name``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    first, last = page.index(begin) + len(begin), page.index(end)
    return page[:first] + "\n" + "\n".join(lines) + "\n" + page[last:]


def main() -> None:
    lines, _, fitted = tabulate()
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(place(place(page, "published", lines), "devices", tabulate_devices()), encoding="utf-8")
    print("\n".join(lines))
    print({name: round(value, 3) for name, value in fitted.items()}, "for FITTED of plan/step_time.py")


if __name__ == "__main__":
    main()
