"""The methods that can stretch one base to one length, side by side, with a recommendation and its reasons.

No torch and no training: everything is computed from theta, the head dimension and two lengths. Theta need not be
exact: Llama 2 Long's granularity grows with the logarithm of theta. So the round numbers of published models are as
good as any; only a theta that is far too small does harm.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count, format_length
from ropewalk.core.strict_json import drop_infinities
from ropewalk.rope.advise import Advice, Practice, advise, practice_at, trained_inv_freq
from ropewalk.rope.bounds import least_theta, suggest_theta
from ropewalk.rope.frequency import count_whole_turns, wavelengths
from ropewalk.rope.method import LARGEST_THETA, BaseRope, Method, check_length, describe
from ropewalk.rope.scaling import Linear, Llama3, Ntk, NtkByParts, Rope, Theta, Unchanged, Yarn
from ropewalk.rope.uniform import ask_original, is_unclear, settle_linear

ASKED = "asked"
_FINE_GRID, _COARSE_GRID, _FINE_TOKENS = 1.0005, 1.005, 131072
_SEARCHED_TOKENS = 1 << 20  # the search takes 15 s here, and no published length is larger
_ONE_STAGE = 8


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completed method under a short name, with its figures."""

    name: str
    method: Method
    advice: Advice


@dataclass(frozen=True)
class Survey:
    """All candidates for stretching ``base`` to ``context_tokens``; the first one changes nothing.

    ``base`` is the state that the weights were trained with; ``untrained`` is a scaling that config.json names on top
    of it. ``least_theta`` is the smallest theta that Men et al. (2405.14591) allow at the target; None where the base
    does not run plain RoPE, or where the search found none. ``refused`` maps methods that do not fit this base to the
    reason. ``recommended`` is the name of the candidate to train with.
    """

    base: BaseRope
    context_tokens: int
    candidates: tuple[Candidate, ...]
    refused: dict[str, str]
    least_theta: float | None
    practice: tuple[Practice, ...]
    recommended: str
    reasons: tuple[str, ...]
    untrained: Method | None = None

    @property
    def known_pairs(self) -> int:
        """Pairs that made a whole turn within the base's context; the critical dimension is twice this number."""
        return count_whole_turns(trained_inv_freq(self.base), self.base.context_tokens)

    @property
    def pairs(self) -> int:
        return self.base.head_dim // 2

    def find(self, name: str) -> Candidate:
        """The candidate called ``name``."""
        return next(candidate for candidate in self.candidates if candidate.name == name)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON-like data; infinite and missing figures are None."""
        waves = wavelengths(trained_inv_freq(self.base)).tolist()
        found: dict[str, Any] = drop_infinities(
            {
                "base_context_tokens": self.base.context_tokens,
                "context_tokens": self.context_tokens,
                "base_theta": self.base.theta,
                "base_running": self.base.running.model_dump(mode="json") if self.base.running else None,
                "base_untrained": self.untrained.model_dump(mode="json") if self.untrained else None,
                "head_dim": self.base.head_dim,
                "critical_dim": 2 * self.known_pairs,
                "least_theta": self.least_theta,
                "practice": [asdict(entry) for entry in self.practice],
                "pairs": [
                    {"pair": pair, "wavelength_tokens": wave, "turns": self.base.context_tokens / wave}
                    for pair, wave in enumerate(waves)
                ],
                "candidates": [
                    {"name": each.name, "rope": each.method.model_dump(mode="json"), **asdict(each.advice)}
                    for each in self.candidates
                ],
                "refused": self.refused,
                "recommended": self.recommended,
                "reasons": list(self.reasons),
            }
        )
        return found


def survey_candidates(base: BaseRope, context_tokens: int, *, asked: Rope | None = None) -> Survey:
    """All candidates for ``base`` at ``context_tokens``, together with ``asked``; takes seconds at 128Ki.

    A scaling that the base's weights were never trained with is not counted as known. Raises UserError for a target
    that is not longer than the base's context, where the length that the base reads is unclear, and where ``asked``
    does not fit the base.
    """
    check_length(context_tokens)
    base = settle_linear(base, asked)
    if is_unclear(base.running):
        raise ask_original(base, context_tokens)
    untrained = base.running if base.is_untrained else None
    if untrained is not None:
        base = replace(base, running=None)
    if context_tokens <= base.context_tokens:
        reached = format_length(base.context_tokens)
        raise UserError(
            "the target is not longer than the base's context",
            where="context_length",
            why=f"the base already reads {reached} tokens, and the target is {format_length(context_tokens)}",
            fix=f"give more than {reached}",
        )
    found, refused = _complete(base, context_tokens)
    if asked is not None:
        found[ASKED] = asked.complete(base, context_tokens)
    candidates = tuple(
        Candidate(name, method, advise(base, method=method, context_tokens=context_tokens))
        for name, method in found.items()
    )
    grid = _FINE_GRID if context_tokens <= _FINE_TOKENS else _COARSE_GRID
    least = None
    if base.running is None and context_tokens <= _SEARCHED_TOKENS:
        found_theta = least_theta(base.head_dim, context_tokens, grid=grid)
        least = found_theta if math.isfinite(found_theta) else None
    recommended = _choose(base, candidates, context_tokens)
    chosen = next(candidate for candidate in candidates if candidate.name == recommended)
    reasons = tuple(_tell(base, chosen, least=least))
    practice = practice_at(context_tokens)
    return Survey(base, context_tokens, candidates, refused, least, practice, recommended, reasons, untrained)


def format_theta(theta: float) -> str:
    """``5e5``, ``1.28e8``; other numbers are written in full: ``40,890``."""
    digits, power = f"{theta:.2e}".split("e")
    rounded = f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return rounded if math.isclose(float(rounded), theta, rel_tol=1e-9) else f"{theta:,.0f}"


def _complete(base: BaseRope, context_tokens: int) -> tuple[dict[str, Method], dict[str, str]]:
    """All completed candidates by name, and the candidates that the base refuses, with the reason."""
    found: dict[str, Method] = {}
    refused: dict[str, str] = {}
    for rope in _draft(base, context_tokens):
        name = f"theta {format_theta(rope.theta)}" if isinstance(rope, Theta) and rope.theta else rope.kind
        try:
            found[name] = rope.complete(base, context_tokens)
        except UserError as error:
            refused[name] = error.why
    return found, refused


def _draft(base: BaseRope, context_tokens: int) -> Iterator[Rope]:
    yield Unchanged()
    if not base.turns:
        return
    thetas = {entry.theta for entry in practice_at(context_tokens) if entry.theta > base.theta}
    if base.running is None:
        suggested = suggest_theta(
            base.theta, head_dim=base.head_dim, train_tokens=base.context_tokens, context_tokens=context_tokens
        )
        thetas.add(suggested)
        if suggested > LARGEST_THETA:
            thetas.remove(suggested)
            yield Theta(theta=None)  # which is refused with the reason
    yield from (Theta(theta=theta) for theta in sorted(thetas))
    yield from (Ntk(), Linear(), Yarn(), NtkByParts(), Llama3())


def _choose(base: BaseRope, candidates: tuple[Candidate, ...], context_tokens: int) -> str:
    """The method to train with: a published theta that both arguments allow, else the least round theta they allow.

    On a base that is scaled already it is the base's own kind, continued, because its short frequencies stay as they
    were trained. It is a larger theta where both arguments allow only that.
    """
    if base.running is not None:
        own = [each for each in candidates if each.name == base.running.kind]
        ways = own + [each for each in candidates if each.name.startswith("theta")]
        return ([each for each in ways if _holds(each.advice)] or ways or list(candidates))[0].name
    published = {entry.theta for entry in practice_at(context_tokens)}
    thetas = [each for each in candidates if each.name.startswith("theta") and _holds(each.advice)]
    trained_with = [each for each in thetas if each.advice.theta in published]
    return (trained_with or thetas or [each for each in candidates if each.name == "yarn"])[0].name


def _holds(advice: Advice) -> bool:
    """Whether both published arguments allow the method at its length."""
    known = advice.reach_tokens is None or advice.reach_tokens >= advice.context_tokens
    return known and advice.first_negative_tokens is None


def _tell(base: BaseRope, chosen: Candidate, *, least: float | None) -> Iterator[str]:
    """The reasons for the recommendation in plain words, and the steps to reach it."""
    advice, length = chosen.advice, format_length(chosen.advice.context_tokens)
    if not base.turns:
        yield "no layer has RoPE: a longer context changes no angle, and no method has anything to change"
        yield "rope: {kind: unchanged} raises the context length alone; the model lacks training on longer texts"
        return
    if base.running is not None:
        yield (
            f"the positions of the base are scaled already; this method is applied on top: "
            f"{describe(base, chosen.method)}"
        )
    if advice.new_angle_pairs == 0:
        yield f"at {length} no pair has an angle that training has not shown"
    else:
        pairs = format_count(advice.new_angle_pairs, "pair")
        yield f"new angles at {length} in {pairs}: the model must learn them in training"
    if advice.first_negative_tokens is None:
        tail = f" (the least theta for this: {format_theta(float(f'{least:.3g}'))})" if least else ""
        yield f"similar tokens attract one another at every distance up to {length}{tail}"
    else:
        yield f"similar tokens attract one another up to {advice.first_negative_tokens - 1:,} tokens: a soft bound"
    practice = practice_at(advice.context_tokens)
    told = "; ".join(f"{format_theta(entry.theta)} ({entry.source})" for entry in practice)
    yield f"others trained at {format_length(practice[0].context_tokens)} with theta {told}"
    if chosen.method.kind == "theta":
        yield (
            "after training at the target length, a larger theta was better than linear, ntk and yarn (2309.16039, "
            "2411.13476)"
        )
        yield "the model keeps plain RoPE, which every engine supports"
    factor = advice.context_tokens / base.context_tokens
    if factor > _ONE_STAGE:
        middle = base.context_tokens * 2 ** round(math.log2(factor) / 2)
        yield (
            f"a factor of {factor:g} in one stage is large: an intermediate stage at {format_length(middle)} costs less"
        )
