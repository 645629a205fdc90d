"""Loss on held-out text of the mix, at the base's own context, by source."""

from dataclasses import dataclass

import numpy as np

from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.held_out import draw_short, text_sources
from ropewalk.evaluate.items import Item
from ropewalk.evaluate.loss_by_source import LossBySource


@dataclass(frozen=True)
class ShortLoss(LossBySource):
    """Held-out text of the mix."""

    name = "short context"
    kind = "short"


def plan_short_loss(corpus: Corpus, *, base_tokens: int, tokens: int, seed: int) -> ShortLoss | None:
    """``tokens`` held-out tokens of each source of text, or fewer where it has fewer; None without any text."""
    items: list[Item] = []
    sources: dict[str, tuple[int, int]] = {}
    first = 0
    for source in text_sources(corpus):
        drawn = list(draw_short(corpus, source, context_tokens=base_tokens, tokens=tokens, seed=seed))
        if drawn:
            items += [Item(piece, np.full(len(piece), first + document)) for document, piece in drawn]
            sources[source] = first, first + max(document for document, _ in drawn) + 1
            first = sources[source][1]
    languages = {source: corpus.facts(source).language for source in sources}
    return ShortLoss(items, sources, languages, base_tokens) if sources else None
