"""Advice on positions, for the terminal and as one page: candidates side by side, pictures, and the reasons.

Both show the same figures. If a probe has run the model with every candidate, its losses and answers come last. They
are measured without training, so they do not predict the result of training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ropewalk.core.artifact import write_whole
from ropewalk.core.quantity import format_length
from ropewalk.core.record import Score
from ropewalk.core.translate import translate_label
from ropewalk.report.html import HeadFigure, Page, render
from ropewalk.report.positions import (
    Turning,
    choose_colours,
    draw_attraction,
    draw_reach,
    draw_scales,
    draw_turns,
)
from ropewalk.report.probe import Probed, draw_losses, draw_probe_retrieval, tabulate_probe, tell_probe
from ropewalk.report.section import Section
from ropewalk.report.table import Table
from ropewalk.report.visible import show_hidden
from ropewalk.rope.advise import PRACTICE
from ropewalk.rope.candidates import ASKED, Candidate, Survey, format_theta
from ropewalk.rope.method import describe


@dataclass(frozen=True)
class Advised:
    """The result of a survey: the model's name, lines on its layers, and the scores of a probe if one was run.

    ``told`` says what the probe has read. ``needs_pattern``: no layer is extended without a pattern of layers.
    """

    model: str
    survey: Survey
    layers: Sequence[str]
    scores: Sequence[Score] = ()
    told: Sequence[str] = ()
    needs_pattern: bool = False

    @property
    def what(self) -> str:
        """A heading such as ``tiny-base, 512 to 2Ki tokens (4x)``."""
        base, tokens = self.survey.base.context_tokens, self.survey.context_tokens
        return (
            f"{show_hidden(self.model)}, {format_length(base)} to {format_length(tokens)} tokens ({tokens / base:g}x)"
        )

    @property
    def colours(self) -> dict[str, str]:
        """The colour of each candidate, the same in every picture."""
        return choose_colours([each.name for each in self.survey.candidates], main=self.survey.recommended)

    @property
    def probed(self) -> Probed:
        """The probe, with the candidates that it has read."""
        read = {score.model for score in self.scores}
        colours = {name: colour for name, colour in self.colours.items() if name in read}
        return Probed(colours, self.scores, self.survey.base.context_tokens, self.told)

    @property
    def recommendation(self) -> str:
        """The verdict in one line."""
        where = " in the layers that a pattern (layers:) chooses" if self.needs_pattern else ""
        return f"Recommended: {self.survey.recommended}{where}, then training"

    @property
    def reasons(self) -> list[str]:
        """The reasons for the recommendation; without a probe also the advice for use without any training."""
        untrained = "without any training use yarn; --probe TEXT measures all of them on the unchanged model"
        has_yarn = any(each.name == "yarn" for each in self.survey.candidates)
        return [*self.survey.reasons, *([untrained] if has_yarn and not self.scores else [])]


def describe_advice(advised: Advised) -> str:
    """Advice on one screen: the base's positions, the candidates, the recommendation with reasons, and the probe."""
    found = advised.survey
    lines = [advised.what, *advised.layers, ""]
    if found.base.turns:
        lines = [*lines[:-1], *_tell_base(found), "", _tabulate(found).to_text(), ""]
    lines += [f"{name}: {why}" for name, why in _group(found.refused)]
    lines += [f"asked: {describe(found.base, each.method)}" for each in found.candidates if each.name == ASKED]
    lines += [advised.recommendation, *(f"  - {reason}" for reason in advised.reasons)]
    if advised.scores:
        lines += ["", tabulate_probe(advised.probed).to_text(), *tell_probe(advised.probed)]
    return "\n".join(lines)


def write_advice(path: Path, advised: Advised) -> None:
    """Write the page to ``path``, self-contained; an older one is replaced."""
    found = advised.survey
    sections = [_make_reasons(advised), *(_make_pictures(advised) if advised.survey.base.turns else ())]
    if advised.scores:
        sections.append(_make_probe(advised.probed))
    write_whole(
        path,
        render(
            Page(
                title=f"Positions of {show_hidden(advised.model)}",
                what=advised.what,
                verdict=advised.recommendation,
                verdict_mark="pass",
                tiles=_make_tiles(found),
                summary=_tabulate(found) if found.base.turns else None,
                sections=sections,
                made_from="the model's config.json" + (" and a probe of the model" if advised.scores else ""),
            )
        ),
    )


def _tell_base(found: Survey) -> list[str]:
    if not found.base.turns:
        return []
    known, pairs, reached = found.known_pairs, found.pairs, format_length(found.base.context_tokens)
    running = f"{found.base.running.kind}, " if found.base.running else ""
    lines = [
        f"{running}theta {format_theta(found.base.theta)}, heads of {found.base.head_dim}: {pairs - known} of {pairs} "
        f"pairs never made a full rotation within {reached} (critical dimension {2 * known})"
    ]
    if found.untrained is not None:
        lines.append(
            f"config.json scales positions by {found.untrained.kind} from {reached} on, where the base's context "
            "ends: only for serving"
        )
        lines.append(
            "its weights were trained with plain RoPE, and all figures are relative to it; remove that block to "
            "extend the model"
        )
    if found.least_theta is not None:
        least = format_theta(float(f"{found.least_theta:.3g}"))
        lines.append(f"least theta for {format_length(found.context_tokens)}: {least} (2405.14591, B(m) evaluated)")
    return lines


def _tabulate(found: Survey) -> Table:
    length, base = format_length(found.context_tokens), format_length(found.base.context_tokens)
    columns = ["candidate", "theta", "scale", "new angles", "attracts up to", f"at {base}", f"at {length}", "factor"]
    rows = [_describe(each, pairs=found.pairs) for each in found.candidates]
    caption = (
        f"Scale: old frequency divided by new, fastest to slowest pair. New angles: pairs that have angles at "
        f"{length} which training has not shown. Attracts up to: B(m) >= 0, in tokens. At {base} and {length}: "
        "expected attraction "
        "over the last quarter, 1 at distance 0. Factor: cosine and sine are multiplied by it."
    )
    return Table(columns, rows, "lrlrrrrr", caption)


def _describe(each: Candidate, *, pairs: int) -> list[str]:
    advice = each.advice
    first, last = (
        f"{scale:.3g}x" if math.isfinite(scale) else "still" for scale in (advice.scales[0], advice.scales[-1])
    )
    negative = advice.first_negative_tokens
    return [
        translate_label(each.name) if each.name == ASKED else each.name,
        format_theta(advice.theta),
        first if first == last else f"{first} to {last}",
        f"{advice.new_angle_pairs} of {pairs}" if advice.new_angle_pairs else translate_label("none"),
        f"{negative - 1:,}" if negative is not None else format_length(advice.context_tokens),
        f"{advice.near_attraction:+.2f}",
        f"{advice.far_attraction:+.2f}",
        f"{advice.attention_factor:.4g}",
    ]


def _group(refused: dict[str, str]) -> list[tuple[str, str]]:
    """Refusals as lines; methods that are refused for the same kind of reason share a line."""
    return [("not for this base", ", ".join(refused))] if refused else []


def _make_tiles(found: Survey) -> list[HeadFigure]:
    never = found.pairs - found.known_pairs
    context = format_length(found.base.context_tokens), format_length(found.context_tokens)
    if not found.base.turns:
        return [HeadFigure("context", *context, "", "")]
    tiles = [
        HeadFigure("context", *context, "", ""),
        HeadFigure("pairs without a full rotation in pretraining", "", f"{never} of {found.pairs}", "", ""),
    ]
    if found.least_theta is not None:
        least = format_theta(float(f"{found.least_theta:.3g}"))
        tiles.append(HeadFigure("least theta for the target", format_theta(found.base.theta), least, "", ""))
    chosen = found.find(found.recommended).advice
    tiles.append(
        HeadFigure(
            "expected attraction over the target's last quarter",
            f"{found.candidates[0].advice.far_attraction:+.2f}",
            f"{chosen.far_attraction:+.2f}",
            "",
            "",
        )
    )
    return tiles


def _make_reasons(advised: Advised) -> Section:
    found = advised.survey
    refused = [f"{name}: {why}" for name, why in found.refused.items()]
    return Section(
        "why",
        f"Why {found.recommended}",
        " ".join(f"{line[0].upper()}{line[1:]}." for line in (*advised.layers, *_tell_base(found))),
        points=[f"{reason[0].upper()}{reason[1:]}." for reason in advised.reasons],
        note=f"Not for this base: {'; '.join(refused)}." if refused else "",
    )


def _make_pictures(advised: Advised) -> list[Section]:
    found, lines = advised.survey, _turnings(advised)
    lengths = {"base_tokens": found.base.context_tokens, "context_tokens": found.context_tokens}
    published = [(entry.theta, entry.context_tokens) for entry in PRACTICE]
    reach = draw_reach(lines, context_tokens=found.context_tokens, published=published)
    chief = [line for line in lines if line.main or line is lines[0]]
    return [
        Section("turns", "Rotations of each pair", pictures=[draw_turns(chief, **lengths)]),
        Section("scales", "Effective scale", pictures=[draw_scales(lines, **lengths)]),
        Section("decay", "Decay of attention by distance", pictures=[draw_attraction(lines, **lengths)]),
        Section("reach", "Distance up to which similar tokens attract each other", pictures=[reach]),
    ]


def _turnings(advised: Advised) -> list[Turning]:
    """One line of a picture per candidate; candidates with the same frequencies (yarn and ntk_by_parts) share one."""
    base, tokens = advised.survey.base, advised.survey.context_tokens
    lines: list[Turning] = []
    for each in advised.survey.candidates:
        inv_freq = each.method.inv_freq_at(tokens, base.theta, base.head_dim)
        new = Turning(each.name, inv_freq, advised.colours[each.name], each.name == advised.survey.recommended)
        twin = next((line for line in lines if np.allclose(line.inv_freq, inv_freq, rtol=1e-9, atol=0)), None)
        if twin is None:
            lines.append(new)
        else:
            shown = new if new.main else twin
            lines[lines.index(twin)] = replace(shown, name=f"{twin.name}, {each.name}")
    return lines


def _make_probe(probed: Probed) -> Section:
    return Section(
        "probe",
        "On the model, without training",
        "Every candidate on the same text and the same prompts, without training. After training the order may differ.",
        tables=[tabulate_probe(probed)],
        pictures=[draw_losses(probed), *draw_probe_retrieval(probed)],
        points=tell_probe(probed),
    )
