"""The results of a probe of the candidates: loss by position and retrieval, as a table, pictures and text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ropewalk.core.quantity import format_count, format_length
from ropewalk.core.record import Score
from ropewalk.core.translate import translate_label
from ropewalk.report.figure import INK, Picture, draw_picture
from ropewalk.report.positions import WIDTH_INCHES, list_aside, scale_distances, style_line
from ropewalk.report.table import Table, TableCell

_POSITION = "nll/position/"


@dataclass(frozen=True)
class Probed:
    """The scores of all candidates, by their names in ``colours``; ``base_tokens`` is the base's own length.

    ``told`` says what was read.
    """

    colours: Mapping[str, str]
    scores: Sequence[Score]
    base_tokens: int
    told: Sequence[str] = ()

    @property
    def models(self) -> list[str]:
        return list(self.colours)

    @property
    def lengths(self) -> list[int]:
        """Lengths in tokens at which retrieval was measured."""
        return sorted({score.context_tokens for score in self.scores if score.task.startswith("retrieval/")})

    @property
    def far_tokens(self) -> int:
        """The length in tokens up to which loss by position was measured."""
        return next(score.context_tokens for score in self.scores if score.task == "nll/gap")

    def find(self, model: str, task: str, *, context_tokens: int | None = None) -> Score | None:
        """The score of a task over all depths, or None; ``task`` may be the beginning of its name."""
        return next(
            (
                score
                for score in self.scores
                if score.model == model
                and score.task.startswith(task)
                and score.depth is None
                and context_tokens in (None, score.context_tokens)
            ),
            None,
        )

    def last_quarter(self, model: str, tokens: int) -> Score:
        """The score for the loss in the last quarter of ``tokens`` tokens, or in all beyond the base if that is less.

        ``tokens`` is the base's length or the target.
        """
        ending = f"-{tokens}"
        return next(
            score
            for score in self.scores
            if score.model == model and score.task.startswith(_POSITION) and score.task.endswith(ending)
        )

    def curve(self, model: str) -> tuple[list[float], list[float]]:
        """(middle of each bucket, its loss), in order."""
        found = []
        for score in self.scores:
            if score.model == model and score.task.startswith(_POSITION):
                first, end = map(int, score.task.removeprefix(_POSITION).split("-"))
                found.append(((first + end) / 2, score.value))
        found.sort()
        return [middle for middle, _ in found], [value for _, value in found]


def tabulate_probe(probed: Probed) -> Table:
    """One line per candidate; the best loss at the target and the best answers at each length are marked."""
    far, near = probed.far_tokens, probed.base_tokens
    answers = {length: _answers(probed, length) for length in probed.lengths}
    columns = ["candidate", f"loss at {format_length(near)}", f"at {format_length(far)}", "difference, 95 %"]
    columns += [f"right at {format_length(length)}" for length in probed.lengths]
    losses = {model: probed.last_quarter(model, far).value for model in probed.models}
    rows: list[list[str | TableCell]] = []
    for model in probed.models:
        gap = probed.find(model, "nll/gap")
        assert gap is not None
        difference = (
            f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" if np.isfinite(gap.low) else f"{gap.value:+.3f}"
        )
        row: list[str | TableCell] = [model, f"{probed.last_quarter(model, near).value:.3f}"]
        row += [_mark(f"{losses[model]:.3f}", losses[model] == min(losses.values())), difference]
        for found in answers.values():
            row.append(_mark(f"{found[model] * 100:.0f} %", found[model] == max(found.values()) > 0))
        rows.append(row)
    caption = "Loss: nats per token over the last quarter of the length, on the same text. Right: answers retrieved."
    if far * 3 // 4 < near:
        caption += (
            f" Below 4/3 of the base's length the loss at {format_length(far)} is over all tokens beyond the base."
        )
    return Table(columns, rows, "lrrr" + "r" * len(answers), caption)


def tell_probe(probed: Probed) -> list[str]:
    """The best candidate without training, by loss and by retrieval at the longest length."""
    losses = {model: probed.last_quarter(model, probed.far_tokens).value for model in probed.models}
    best = min(losses, key=lambda model: losses[model])
    length = format_length(probed.far_tokens)
    lines = [
        f"Without training {best} has the lowest loss at {length}: {losses[best]:.3f} nats, unchanged "
        f"{_first(losses):.3f}",
        _tell_alike(probed, best),
    ]
    if probed.lengths:
        answers = _answers(probed, probed.lengths[-1])
        top = max(answers.values())
        most = [model for model, value in answers.items() if value == top]
        lines.append(
            f"Most answers at {format_length(probed.lengths[-1])}: {', '.join(most)}, {top * 100:.0f} %; "
            f"unchanged {_first(answers) * 100:.0f} %"
            if top
            else f"No candidate retrieves anything at {format_length(probed.lengths[-1])}: the model must learn it "
            "in training"
        )
        lines += _tell_answers_alike(probed, probed.lengths[-1], top=most[0]) if top else []
    return [*lines, *probed.told]


def _tell_alike(probed: Probed, best: str) -> str:
    """Which candidates the documents do not tell apart from the best: their paired difference may be zero."""
    differences = {
        model: score for model in probed.models if (score := probed.find(model, f"change/nll/{best}")) is not None
    }
    if any(not np.isfinite(score.low) for score in differences.values()):
        return "One document gives no interval, so the losses of the candidates are not told apart"
    alike = [f"{model} ({score.value:+.3f})" for model, score in differences.items() if score.low <= 0]
    if alike:
        return f"Not told apart from it by these documents, at 95 %: {', '.join(alike)}"
    return "These documents tell it apart from every other candidate, at 95 %"


def _tell_answers_alike(probed: Probed, tokens: int, *, top: str) -> list[str]:
    """Which candidates the answers do not tell apart from the one with most: their intervals meet."""
    scores = {model: probed.find(model, "retrieval/", context_tokens=tokens) for model in probed.models}
    best = scores[top]
    assert best is not None
    alike = [model for model, score in scores.items() if score and model != top and score.high >= best.low]
    if not alike:
        return []
    return [
        f"{', '.join(alike)} cannot be told apart from {top} by {format_count(best.n, 'answer')} "
        "(their 95 % intervals meet)"
    ]


def draw_losses(probed: Probed) -> Picture:
    """Loss by position, one line per candidate."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for model, colour in probed.colours.items():
            axis.plot(*curves[model], label=model, marker="o", markersize=3, **style_line(colour, main=model == best))
        axis.axvline(probed.base_tokens, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.annotate(f"base {format_length(probed.base_tokens)}", (probed.base_tokens, 1),
                      xycoords=("data", "axes fraction"), xytext=(-4, 0), textcoords="offset points", ha="right",
                      va="top", fontsize=8.5)  # fmt: skip
        scale_distances(axis, int(min(curves[best][0])), probed.far_tokens)
        axis.set_xlabel("position in the document, tokens")
        axis.set_ylabel("loss, nats per token")
        list_aside(figure, axis, last)

    curves = {model: probed.curve(model) for model in probed.models}
    last = {model: values[-1] for model, (_, values) in curves.items()}
    best = min(last, key=lambda model: last[model])
    told = "; ".join(f"{model}: {value:.2f}" for model, value in last.items())
    return draw_picture(
        paint,
        size=(WIDTH_INCHES, 3.3),
        caption="Loss by position on the given text, without any training. Thick: the lowest loss at the far end.",
        alt=f"Loss at the far end, nats per token: {told}.",
    )


def draw_probe_retrieval(probed: Probed) -> list[Picture]:
    """Right answers by candidate and length; no picture if there was no retrieval."""
    if not probed.lengths:
        return []

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        axis.pcolormesh(percent, cmap="Blues", vmin=0, vmax=125, edgecolors="white", linewidth=1.5)
        for (row, column), value in np.ndenumerate(percent):
            axis.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=9,
                      color="white" if value > 70 else INK)  # fmt: skip
        axis.set_xticks(np.arange(len(probed.lengths)) + 0.5, [format_length(length) for length in probed.lengths])
        axis.set_yticks(np.arange(len(probed.models)) + 0.5, [*map(translate_label, probed.models)])
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_xlabel("context, tokens")

    found = [_answers(probed, length) for length in probed.lengths]
    percent = np.array([[values[model] * 100 for values in found] for model in probed.models])
    told = "; ".join(f"{model}: {found[-1][model]:.0%}" for model in probed.models)
    asked = next(score.n for score in probed.scores if score.task.startswith("retrieval/") and score.depth is None)
    picture = draw_picture(
        paint,
        size=(WIDTH_INCHES, 0.7 + 0.3 * len(probed.models)),
        caption=f"Key-value retrieval: right answers in percent of about {asked}, without any training.",
        alt=f"Right answers at {probed.lengths[-1]:,} tokens: {told}.",
    )
    return [picture]


def _answers(probed: Probed, length: int) -> dict[str, float]:
    found = {}
    for model in probed.models:
        score = probed.find(model, "retrieval/", context_tokens=length)
        assert score is not None, "all candidates are asked the same"
        found[model] = score.value
    return found


def _mark(text: str, best: bool) -> str | TableCell:
    return TableCell(text, "pass") if best else text


def _first(values: Mapping[str, float]) -> float:
    return next(iter(values.values()))
