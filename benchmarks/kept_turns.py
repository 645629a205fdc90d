"""The turns of a race in a file, so that the next command adds to them, and ratios of turns that both sides ran."""

import json
import statistics
from pathlib import Path
from typing import Any

import torch.distributed as dist


class Race:
    """The turns of one case, and what its sides did; kept in a file if there is one."""

    def __init__(self, case: str, path: Path | None) -> None:
        self.case, self.path = case, path
        cases = json.loads(path.read_text()) if path is not None and path.exists() else {}
        found = cases.get(case, {"turns": [], "sides": {}})
        self.turns: list[dict[str, Any]] = found["turns"]
        self.sides: dict[str, dict[str, Any]] = found["sides"]

    def write(self) -> None:
        """On the first rank, after each turn: a command that is stopped loses one."""
        if self.path is None or dist.get_rank():
            return
        cases = json.loads(self.path.read_text()) if self.path.exists() else {}
        cases[self.case] = {"turns": self.turns, "sides": self.sides}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(cases, indent=1) + "\n")

    def seconds(self, side: str, clock: int = 0) -> list[float]:
        """Of each turn that the side ran, by the wall's clock (0) or of processor time (1)."""
        return [turn[side][clock] for turn in self.turns if side in turn]

    def compare(self, ours: str, theirs: str) -> dict[str, Any] | None:
        """Medians of the turns that both ran; None without one."""
        both = [(turn[ours], turn[theirs]) for turn in self.turns if ours in turn and theirs in turn]
        if not both:
            return None
        ratio, processor = (statistics.median(its[clock] / mine[clock] for mine, its in both) for clock in (0, 1))
        return {
            "ours": statistics.median(mine[0] for mine, _ in both),
            "theirs": statistics.median(its[0] for _, its in both),
            "paired_ratio": ratio,
            "processor_ratio": processor,
            "turns": len(both),
        }
