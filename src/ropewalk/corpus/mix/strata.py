"""Divides the documents of a source into strata by language and length. Each stratum has its own share of the tokens.

Shares are products along a tree: the weights of the mix, in each the languages, in each language the sources by size,
in each source the lengths. A weight in ``lengths`` expresses both the up-sampling of long documents per source (Fu et
al. 2402.10171) and the separation into sequences of long and of short documents (ProLong, 2410.02660), since every
stratum is packed separately. Without such weights a source is one stratum, and its sequences are those of versions
without strata.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, format_length
from ropewalk.core.record import Role
from ropewalk.corpus.mix.mixture import find_members
from ropewalk.corpus.mix_rules import OTHER, MixRules
from ropewalk.corpus.text.language import language_kind
from ropewalk.corpus.tokens.store import StoredDocuments

_ALL = 1 - 1e-9
"""Beyond this share a stratum is the only one."""
_STEPS = 8
"""Steps of the stage that is offered where its text is not enough for one of the steps that it has."""


class DryTextError(UserError):
    """A stage asks for more tokens than its text gives, read as often as ``max_repeats`` allows."""


@dataclass(frozen=True)
class Stratum:
    """Documents that are packed together. ``language`` and ``shortest`` are None where they do not divide sources."""

    source: str
    language: str | None
    shortest: int | None
    documents: StoredDocuments
    lengths: Int64[np.ndarray, "documents"]
    """Tokens that are read of each document. They are fewer than the document has where a long document is truncated.
    """
    share: float = 0.0
    """Share of all tokens, 0 to 1."""

    @property
    def name(self) -> str:
        """``law/zh/64Ki``: source, language, least length. Only the source where it is not divided."""
        parts = [self.source, self.language, None if self.shortest is None else format_length(self.shortest)]
        return "/".join(part for part in parts if part is not None)

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())


def split_source(
    stratum: Stratum, rules: MixRules, *, names: Sequence[str], language: Int64[np.ndarray, "documents"]
) -> Iterator[Stratum]:
    """Divide ``stratum``, a whole source, into strata. ``language`` holds for each document its index in ``names``.

    Raises UserError for a language without a weight in ``rules``.
    """
    labels = [next((key for key in (name, language_kind(name)) if key in rules.languages), OTHER) for name in names]
    if rules.languages and OTHER not in rules.languages and OTHER in labels:
        counts = np.bincount(language, minlength=len(names))
        missing = [
            f"{name} {count:,}" for name, label, count in zip(names, labels, counts, strict=True) if label == OTHER
        ]
        raise UserError(
            "a language has no weight",
            where=f"languages, of the corpus or the stage; source {stratum.source}",
            why=f"documents without one: {', '.join(missing)}",
            fix=f"give each a weight, or `{OTHER}: 0` to train only on the named languages",
        )
    bounds = np.array(sorted(rules.lengths) or [0])
    bucket = np.searchsorted(bounds, stratum.lengths, side="right") - 1
    for label in sorted(set(labels)) if rules.languages else [None]:
        spoken = np.isin(language, [at for at, name in enumerate(labels) if name == label]) if label else bucket >= 0
        for at, bound in enumerate(bounds.tolist()):
            here = np.flatnonzero(spoken & (bucket == at))
            if len(here):
                yield replace(
                    stratum,
                    language=label,
                    shortest=bound if rules.lengths else None,
                    documents=stratum.documents.take(here),
                    lengths=stratum.lengths[here],
                )


def advise_dry(
    stratum: Stratum,
    largest_share: float,
    tokens: int,
    *,
    step_tokens: int | None = None,
    unit_tokens: int = 1,
    place: str = "",
) -> str:
    """What to change where a stratum cannot give its share of ``tokens``; it has text for ``largest_share`` of them.

    ``step_tokens`` is a step of the stage, of which ``unit_tokens`` are the least. A stage has one step or more, so
    where the text is not enough for one, a smaller step is offered too. ``place`` stands before the stage's keys, such
    as ``stages.0.``, so that they can be given as overrides.
    """
    repeats = np.ceil(stratum.share * tokens / stratum.tokens * 10) / 10
    most = int(largest_share / stratum.share * tokens)
    shorter = f"set {place}tokens={most // 1000}K at most"
    if step_tokens is not None and most < step_tokens:
        step = unit_tokens << max(0, (most // (_STEPS * unit_tokens)).bit_length() - 1)
        shorter = f"set {place}tokens={format_length(most // step * step)} and {place}step_tokens={format_length(step)}"
        if most < step:
            shorter = "train on shorter sequences"
    if stratum.share > _ALL:
        return f"{shorter}, add text, or raise max_repeats to {repeats:g}"
    return (
        f"give it at most {largest_share:.2%}, let other sources give the rest (when_dry: spread), add text, "
        f"{shorter}, or raise max_repeats to {repeats:g}"
    )


def share_out(
    strata: Sequence[Stratum],
    mix: Mapping[str, float],
    rules: MixRules,
    *,
    roles: Mapping[str, Role],
    most: Sequence[float],
) -> list[Stratum]:
    """The strata with their shares, without those of share 0. ``most`` is the largest share that each could give.

    ``most`` applies only where ``rules`` allows others to replace the missing tokens of a stratum: first other strata
    of its source, then of its language, then of its weight in the mix, then all. Raises UserError where no text is
    left.
    """
    limits = most if rules.when_dry == "spread" else [np.inf] * len(strata)
    shares = np.zeros(len(strata))
    root = _Node(1.0, [*_weigh(strata, mix, rules, roles)])
    if rules.when_dry == "spread" and root.most(limits) < 1:
        raise DryTextError(
            "the whole corpus runs dry",
            where="corpus.max_repeats",
            why=f"all its text, read as often as max_repeats allows, is {root.most(limits):.1%} of the tokens that "
            "the stage needs",
            fix="shorten the stage, add text, or raise max_repeats",
        )
    root.fill(1.0, limits, shares)
    return [replace(stratum, share=float(share)) for stratum, share in zip(strata, shares, strict=True) if share > 0]


@dataclass(frozen=True)
class _Node:
    """A node of the tree of weights: its weight among siblings, and its child nodes or the number of a stratum."""

    weight: float
    below: "list[_Node] | int"

    @property
    def gives(self) -> bool:
        """Whether this node and a stratum below it have a weight above 0."""
        return self.weight > 0 and (isinstance(self.below, int) or any(node.gives for node in self.below))

    def most(self, limits: Sequence[float]) -> float:
        """The largest share that the strata below could give."""
        if isinstance(self.below, int):
            return limits[self.below]
        return sum(node.most(limits) for node in self.below if node.gives)

    def fill(self, share: float, limits: Sequence[float], shares: Float64[np.ndarray, "strata"]) -> None:
        """Distribute ``share`` over the strata below by weight. The excess of a full node goes to its siblings."""
        if isinstance(self.below, int):
            shares[self.below] = share
            return
        open_nodes, left = [node for node in self.below if node.gives], share
        while True:
            total = sum(node.weight for node in open_nodes)
            full = [node for node in open_nodes if left * node.weight / total > node.most(limits)]
            if not full:
                break
            for node in full:
                open_nodes.remove(node)
                node.fill(node.most(limits), limits, shares)
                left -= node.most(limits)
            if not open_nodes:
                return
        for node in open_nodes:
            node.fill(left * node.weight / total, limits, shares)


def _weigh(
    strata: Sequence[Stratum], mix: Mapping[str, float], rules: MixRules, roles: Mapping[str, Role]
) -> Iterator[_Node]:
    tokens = {name: sum(stratum.tokens for stratum in strata if stratum.source == name) for name in roles}
    for key, weight in mix.items():
        members = find_members(key, mix, roles=roles, tokens=tokens) if weight else []
        numbers = [number for number, stratum in enumerate(strata) if stratum.source in members]
        spoken = dict.fromkeys(strata[number].language for number in numbers)
        nodes = [
            _Node(
                1.0 if language is None else rules.languages[language],
                [*_weigh_sources(strata, [number for number in numbers if strata[number].language == language], rules)],
            )
            for language in spoken
        ]
        if weight and not any(node.gives for node in nodes):
            raise UserError(
                "the mix asks for text that is not there",
                where=f"mix.{key}",
                why=f"none of its {format_amount(sum(tokens[name] for name in members))} tokens has a weight",
                fix="in languages and lengths, give a weight above 0 to text that the corpus has",
            )
        yield _Node(weight, nodes)


def _weigh_sources(strata: Sequence[Stratum], numbers: Sequence[int], rules: MixRules) -> Iterator[_Node]:
    for source in dict.fromkeys(strata[number].source for number in numbers):
        own = [number for number in numbers if strata[number].source == source]
        size = float(sum(strata[number].tokens for number in own))
        if rules.lengths:
            yield _Node(size, [_Node(rules.lengths[strata[number].shortest or 0], number) for number in own])
        else:
            yield _Node(size, own[0])
