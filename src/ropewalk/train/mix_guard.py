"""Warns while a stage trains where its general or domain loss leaves the interval that a ratio study predicts.

The study measured finished runs of the same base. So a loss is compared only from its smallest budget on, as the change
against the base on the same text, and one warning is given for each kind of text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ropewalk.core.quantity import format_amount
from ropewalk.core.record import Metric
from ropewalk.evaluate.study_fit import KINDS, Kind, StudyFit, is_accepted
from ropewalk.recipe.role_shares import role_shares
from ropewalk.recipe.spec import Recipe

_CHANGE = "held_out/change/short/"


@dataclass
class MixGuard:
    """Compares the validations of one stage with the study's laws."""

    fit: StudyFit
    shares: Mapping[str, float]
    """Role -> share of the stage's mix."""
    roles: Mapping[str, str]
    """Source -> role."""
    step_tokens: int
    warned: set[Kind] = field(default_factory=set)

    def judge(self, metrics: Sequence[Metric]) -> Iterator[str]:
        """A line for each kind of text whose loss has left its interval, once."""
        for kind in KINDS:
            changes = [metric.value for metric in metrics if self._is_of(metric.name, kind)]
            law, base = self.fit.laws[kind], self.fit.base.get(kind)
            if not changes or kind in self.warned or base is None:
                continue
            tokens = metrics[0].step * self.step_tokens
            if not (law.tokens[0] <= tokens <= law.tokens[1] and law.covers(self.shares[kind])):
                continue
            value, (_, low, high) = fmean(changes), law.predict(self.shares[kind], tokens, noise=True)
            low, high = low / base - 1, high / base - 1
            if not low <= value <= high:
                self.warned.add(kind)
                yield (
                    f"WARNING: after {format_amount(tokens)} tokens the {kind} loss is {value:+.2%} of the base's; the "
                    f"study of the mix predicts {low:+.2%} to {high:+.2%}"
                )

    def _is_of(self, name: str, kind: Kind) -> bool:
        return name.startswith(_CHANGE) and self.roles.get(name.removeprefix(_CHANGE)) == kind


def make_guard(fit: StudyFit | None, recipe: Recipe, stage: int) -> MixGuard | None:
    """The guard of a stage; None without a study of this base whose laws are accepted, or in a later stage.

    A later stage starts from weights that the study did not measure.
    """
    if fit is None or stage or recipe.model != fit.model or not is_accepted(fit):
        return None
    spec = recipe.stages[stage]
    roles = {source.name: str(source.role) for source in recipe.corpus.sources}
    return MixGuard(fit, role_shares(recipe, spec), roles, spec.step_sequences * spec.context_length)
