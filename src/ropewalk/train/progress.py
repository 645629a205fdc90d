"""Show the progress of a running stage, and make its metrics of progress: speed, MFU, memory, time, a slow rank.

A terminal shows a bar with the figures below it; a log file gets a line every few seconds. Averaged metrics have lines
of their own. All figures are in ``metrics.jsonl`` too.
"""

import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import mean

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.progress import Advance, say, show_nothing, warn, watch
from ropewalk.core.quantity import format_amount, format_bytes
from ropewalk.core.record import Metric
from ropewalk.core.translate import keep
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.parallel.collective import gather_values, rank_and_ranks
from ropewalk.parallel.measure_rates import EnergyMeter
from ropewalk.parallel.slow import SlowWatch
from ropewalk.train.batches import StepBatches
from ropewalk.train.plan_comparison import COMPARED_STEP, Measured, compare_with_plan
from ropewalk.train.rank_status import RankStatus
from ropewalk.train.stage_context import StageContext
from ropewalk.train.throughput import Pace, Throughput

_RECENT = 64
_KINDS = {
    "position": "loss by position",
    "source": "loss by source",
    "length": "loss by length",
    "language": "loss by language",
    "role": "loss by role",
}


class StageProgress:
    """Follows a stage of ``steps`` steps on all ranks; only the first rank prints."""

    def __init__(self, throughput: Throughput, context: StageContext, *, steps: int) -> None:
        self._throughput, self._context, self._steps = throughput, context, steps
        self._compared: list[tuple[float, float]] = []
        self._pace, self._slow = Pace(), SlowWatch()
        self._flops: deque[float] = deque(maxlen=_RECENT)
        self._hosts = gather_values(socket.gethostname())
        self._speaks = rank_and_ranks()[0] == 0
        self.meter = EnergyMeter(context.mesh.device, first=self._speaks)
        """Of the energy of a step; what is used between steps is left out."""

    def tell(
        self, state: TrainState, batches: StepBatches, heard: RankStatus, *, tokens: int, metrics: Sequence[Metric]
    ) -> list[Metric]:
        """Return the metrics of progress for the step that was just taken.

        ``tokens`` is the number of tokens in the step, ``metrics`` the metrics that the step already has.
        """
        seconds, flops = self._pace.end_step(), self._throughput.step_flops(batches.document_tokens)
        self._flops.append(flops)
        left = self._throughput.seconds_left(
            self._steps - state.step, pace_seconds=self._pace.step_seconds, step_flops=mean(self._flops)
        )
        imbalance = next(metric.value for metric in metrics if metric.name == "imbalance")
        slow = self._slow.judge(heard.own_seconds, imbalance=imbalance)
        if self._speaks and len(self._compared) < COMPARED_STEP:
            self._compare(seconds, batches, heard, imbalance)
        figures = [
            ("tokens_per_second", tokens / seconds, "tokens/s"),
            ("mfu", flops / seconds / self._throughput.rig.peak_flops, "share"),
            ("peak_bytes", heard.peak_bytes, "bytes"),
            ("seconds_left", left, "s"),
            ("busy_imbalance", self._slow.ratio, "1"),
        ]
        if heard.joules:
            figures.append(("joules", heard.joules, "J"))
        if slow is not None:
            figures += [("slow_rank", slow.rank, "rank"), ("slow_ratio", slow.ratio, "1")]
            if self._speaks:
                warn(
                    f"WARNING: rank {slow.rank} on {self._hosts[slow.rank]} is slow, and all ranks wait for it: in "
                    f"the last steps it took {slow.ratio:.1f} times as long as the median rank"
                )
        return [Metric(state.stage, state.step, name, value, unit) for name, value, unit in figures]

    def _compare(self, seconds: float, batches: StepBatches, heard: RankStatus, imbalance: float) -> None:
        """Say, after the third step of this session, how the step compares with its plan."""
        self._compared.append((seconds, max(heard.own_seconds)))
        if len(self._compared) == COMPARED_STEP:
            step_seconds, own_seconds = (mean(each) for each in zip(*self._compared[1:], strict=True))
            measured = Measured(step_seconds, own_seconds, heard.peak_bytes, imbalance)
            say(compare_with_plan(self._context, self._throughput.rig, batches, measured))

    def end_between(self) -> None:
        """Record that the work between two steps is done: averaged metrics, validation and saving."""
        self._pace.end_between()
        self.meter.take()

    @contextmanager
    def show(self, name: str, *, taken: int) -> "Iterator[Show]":
        """During the block, show metrics as they arrive. ``taken`` is the number of steps taken before."""
        shown = watch(name, self._steps, unit="steps", before=taken) if self._speaks else _nobody()
        with shown as advance:
            yield Show(advance, of_peak=f"of {self._throughput.rig.describe_peak()}", speaks=self._speaks)


class Show:
    """Shows the metrics of each step. Call it with the metrics of one step."""

    def __init__(self, advance: Advance, *, of_peak: str, speaks: bool) -> None:
        self._advance, self._of_peak, self._speaks = advance, of_peak, speaks
        self._mix = ""

    def __call__(self, metrics: Iterable[Metric]) -> None:
        """Show the metrics of one step."""
        values = {metric.name: metric.value for metric in metrics}
        for line in describe_validation(values) if self._speaks else ():
            say(line)
        self._mix = keep(describe_mix(values)) or self._mix
        note = "  ".join(part for part in (describe_step(values, of_peak=self._of_peak), self._mix) if part)
        self._advance(1, note=note, left_seconds=values["seconds_left"])


def describe_step(values: Mapping[str, float], *, of_peak: str) -> str:
    """Return the line of a step: ``loss 3.214  lr 0.0001  grad 0.91  12.3K tokens/s  MFU 41% of 0.2 TFLOP/s measured``.

    Peak memory and imbalance follow.
    """
    parts: Sequence[str] = (
        f"loss {values['loss/train']:.3f}" if "loss/train" in values else f"SKIPPED ({values['skipped']:.0f})",
        f"lr {values['lr']:.2g}",
        f"grad {values['grad_norm']:.2f}" if "grad_norm" in values else "grad not used",
        f"{format_amount(values['tokens_per_second'])} tokens/s",
        f"MFU {100 * values['mfu']:.3g}% {of_peak}",
        f"peak {format_bytes(values['peak_bytes'])}",
        f"imbalance {values['imbalance']:.2f}",
    )
    return "  ".join(parts)


def describe_mix(values: Mapping[str, float]) -> str:
    """Return the realised mix as ``law 20% web 80%``; empty where ``values`` does not hold it."""
    return " ".join(
        f"{name.removeprefix('mix/')} {share:.0%}" for name, share in values.items() if name.startswith("mix/")
    )


def describe_validation(values: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each kind of averaged loss in ``values``: ``loss by position: 0-128 3.21  128-256 3.05``."""
    kinds: dict[str, list[str]] = {}
    for name, value in values.items():
        first, _, rest = name.partition("/")
        if first == "held_out":
            kinds.setdefault("held out", []).append(f"{rest} {value:.3f}")
        elif first == "loss" and "/" in rest:
            kind, _, group = rest.partition("/")
            kinds.setdefault(_KINDS[kind], []).append(f"{group} {value:.3f}")
    yield from (f"  {kind}: {keep('  '.join(figures))}" for kind, figures in kinds.items())


def tell_mix(state: TrainState, dataset: Dataset) -> list[Metric]:
    """Return the metrics of the realised mix: the share of each source in all tokens of the stage so far."""
    given = dataset.realised(state.cursor)
    total = max(1, sum(given.values()))
    return [Metric(state.stage, state.step, f"mix/{name}", tokens / total, "share") for name, tokens in given.items()]


@contextmanager
def _nobody() -> Iterator[Advance]:
    yield show_nothing
