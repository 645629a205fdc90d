"""A source's documents told apart by language and length, each such strand with a share of the tokens of its own.

Shares multiply down a tree: the mix's weights, within each the languages, within each language the sources by their
size, within each source the lengths. Up-sampling long documents source by source (Fu et al. 2402.10171) and the split
into rows of long and rows of short documents (ProLong, 2410.02660) are both a weight of ``lengths``, since every strand
is packed by itself. Without such weights a source is one strand, and its rows are what they were before there were any.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, format_length
from ropewalk.core.record import Role
from ropewalk.corpus.mix.mixture import find_members
from ropewalk.corpus.mix_rules import OTHER, MixRules
from ropewalk.corpus.text.language import language_kind
from ropewalk.corpus.tokens.store import Documents


@dataclass(frozen=True)
class Strand:
    """Documents that are packed together. ``language`` and ``shortest`` are None where sources are not parted so."""

    source: str
    language: str | None
    shortest: int | None
    documents: Documents
    lengths: Int64[np.ndarray, "documents"]
    """Tokens of each document that are read: fewer than it has where long ones are truncated."""
    share: float = 0.0
    """Of all tokens."""

    @property
    def name(self) -> str:
        """``law/zh/64Ki``: source, language, least length; only the source where nothing is parted."""
        parts = [self.source, self.language, None if self.shortest is None else format_length(self.shortest)]
        return "/".join(part for part in parts if part is not None)

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())


def part_source(
    strand: Strand, rules: MixRules, *, names: Sequence[str], language: Int64[np.ndarray, "documents"]
) -> Iterator[Strand]:
    """The strands of a whole source, given as one; ``language`` numbers each document's in ``names``.

    Raises UserError for a language that ``rules`` leaves without a weight.
    """
    labels = [next((key for key in (name, language_kind(name)) if key in rules.languages), OTHER) for name in names]
    if rules.languages and OTHER not in rules.languages and OTHER in labels:
        counts = np.bincount(language, minlength=len(names))
        missing = [
            f"{name} {count:,}" for name, label, count in zip(names, labels, counts, strict=True) if label == OTHER
        ]
        raise UserError(
            "a language has no weight",
            where=f"languages, of the corpus or the stage; source {strand.source}",
            why=f"documents without one: {', '.join(missing)}",
            fix=f"add it, or `{OTHER}: 0` to train on no language but those named",
        )
    bounds = np.array(sorted(rules.lengths) or [0])
    bucket = np.searchsorted(bounds, strand.lengths, side="right") - 1
    for label in sorted(set(labels)) if rules.languages else [None]:
        spoken = np.isin(language, [at for at, name in enumerate(labels) if name == label]) if label else bucket >= 0
        for at, bound in enumerate(bounds.tolist()):
            here = np.flatnonzero(spoken & (bucket == at))
            if len(here):
                yield replace(
                    strand,
                    language=label,
                    shortest=bound if rules.lengths else None,
                    documents=Documents(strand.documents.shards, strand.documents.chosen[here]),
                    lengths=strand.lengths[here],
                )


def share_out(
    strands: Sequence[Strand],
    mix: Mapping[str, float],
    rules: MixRules,
    *,
    roles: Mapping[str, Role],
    most: Sequence[float],
) -> list[Strand]:
    """The strands with their shares; those without one are left out. ``most`` is the share each could give at most.

    ``most`` counts only where ``rules`` lets others give what a dry strand cannot: first its source's, then those of
    its language, then those of its weight in the mix, then all. Raises UserError where no text is left to do so.
    """
    limits = most if rules.when_dry == "spread" else [np.inf] * len(strands)
    shares = np.zeros(len(strands))
    root = _Node(1.0, [*_weigh(strands, mix, rules, roles)])
    if rules.when_dry == "spread" and root.most(limits) < 1:
        raise UserError(
            "the whole corpus runs dry",
            where="corpus.max_repeats",
            why=f"all its text, read as often as allowed, is {root.most(limits):.1%} of the tokens asked for",
            fix="shorten the stage, add text, or raise max_repeats",
        )
    root.fill(1.0, limits, shares)
    return [replace(strand, share=float(share)) for strand, share in zip(strands, shares, strict=True) if share > 0]


@dataclass(frozen=True)
class _Node:
    """A weight among its siblings, over other nodes or over one strand, by number."""

    weight: float
    below: "list[_Node] | int"

    @property
    def gives(self) -> bool:
        """Whether any strand below it has a weight."""
        return self.weight > 0 and (isinstance(self.below, int) or any(node.gives for node in self.below))

    def most(self, limits: Sequence[float]) -> float:
        """The share that it could give."""
        if isinstance(self.below, int):
            return limits[self.below]
        return sum(node.most(limits) for node in self.below if node.gives)

    def fill(self, share: float, limits: Sequence[float], shares: np.ndarray) -> None:
        """Give ``share`` to the strands below, by weight, what one cannot take to its siblings."""
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
    strands: Sequence[Strand], mix: Mapping[str, float], rules: MixRules, roles: Mapping[str, Role]
) -> Iterator[_Node]:
    tokens = {name: sum(strand.tokens for strand in strands if strand.source == name) for name in roles}
    for key, weight in mix.items():
        members = find_members(key, mix, roles=roles, tokens=tokens) if weight else []
        numbers = [number for number, strand in enumerate(strands) if strand.source in members]
        spoken = dict.fromkeys(strands[number].language for number in numbers)
        nodes = [
            _Node(
                1.0 if language is None else rules.languages[language],
                [
                    *_weigh_sources(
                        strands, [number for number in numbers if strands[number].language == language], rules
                    )
                ],
            )
            for language in spoken
        ]
        if weight and not any(node.gives for node in nodes):
            raise UserError(
                "the mix asks for text that is not there",
                where=f"mix.{key}",
                why=f"none of its {format_amount(sum(tokens[name] for name in members))} tokens has a weight",
                fix="give a weight above 0 in languages and lengths to text that is there",
            )
        yield _Node(weight, nodes)


def _weigh_sources(strands: Sequence[Strand], numbers: Sequence[int], rules: MixRules) -> Iterator[_Node]:
    for source in dict.fromkeys(strands[number].source for number in numbers):
        own = [number for number in numbers if strands[number].source == source]
        size = float(sum(strands[number].tokens for number in own))
        if rules.lengths:
            yield _Node(size, [_Node(rules.lengths[strands[number].shortest or 0], number) for number in own])
        else:
            yield _Node(size, own[0])
