"""How the text behind the weights of a mix is dealt out, as keys of a corpus; a stage may have some of its own."""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from ropewalk.core.quantity import Count
from ropewalk.core.record import Role
from ropewalk.core.spec import Spec

OTHER = "other"
"""The key of ``languages`` that means all those it does not name."""


class MixRules(Spec):
    """How the text behind each weight of a mix is dealt out; the defaults leave it in its natural proportions."""

    languages: dict[str, float] = Field(default_factory=dict)
    """Weights in tokens, within every weight of the mix: ``{zh: 2, en: 1, other: 0}``."""
    lengths: dict[Count, float] = Field(default_factory=dict)
    """Weights in tokens, within every source, of documents from this many tokens up: ``{0: 4, 64Ki: 6}``."""
    when_dry: Literal["stop", "spread"] = "stop"
    """Where text would be read more than ``max_repeats`` times: stop before the first step, or let others give more."""
    packing: Literal["fit", "chunk"] = "fit"
    """Whole documents by best fit, or all of them in a line that is cut at every sequence's end."""

    @model_validator(mode="after")
    def _check_weights(self) -> "MixRules":
        check_stratum_weights(self.languages, self.lengths)
        return self

    @property
    def parts_sources(self) -> bool:
        """Whether a source's documents are told apart at all."""
        return bool(self.languages or self.lengths)


def check_stratum_weights(languages: Mapping[str, float], lengths: Mapping[int, float]) -> None:
    """Raise ValueError unless every weight is one, some are above 0, and documents of every length have one."""
    for key, weights in (("languages", languages), ("lengths", lengths)):
        for name, weight in weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(f"{key}.{name} is {weight:g}; a weight must be a number of 0 or more")
        if weights and not any(weights.values()):
            raise ValueError(f"{key} has no weight above 0")
    if lengths and 0 not in lengths:
        raise ValueError(f"lengths has no weight for documents below {min(lengths)} tokens: add 0: WEIGHT")


def check_mix(mix: dict[str, float], roles: dict[str, Role]) -> None:
    """Raise ValueError unless each key of ``mix`` names a role or source that exists and the weights make sense."""
    for key, weight in mix.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"mix.{key} is {weight:g}; a weight must be a number of 0 or more")
        if key not in roles and not any(role == key and name not in mix for name, role in roles.items()):
            raise ValueError(
                f"mix.{key} is neither a source nor a role that has a source; known are: "
                f"{', '.join(dict.fromkeys([*roles.values(), *roles]))}"
            )
    if not any(weight > 0 for weight in mix.values()):
        raise ValueError("mix has no weight above 0")


PLAIN = MixRules()
"""One stratum a source."""
