"""The strata that a stage reads: the documents of each source that fit its sequences, with their shares of the tokens.

With ``when_dry: spread`` shares depend on the number of tokens: a stratum gives no more than its text allows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_length
from ropewalk.corpus.mix.mixture import find_members
from ropewalk.corpus.mix.strata import Stratum, share_out, split_source
from ropewalk.corpus.mix_rules import PLAIN, MixRules
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.long_documents import count_read


def plan_strata(
    corpus: Corpus,
    mix: Mapping[str, float],
    *,
    context_tokens: int,
    tokens: int,
    max_repeats: float,
    rules: MixRules = PLAIN,
) -> list[Stratum]:
    """The strata that would be read for ``tokens`` tokens, with their shares. Nothing is packed.

    Raises UserError where a weight has no text that can be read.
    """
    strata = _part_sources(corpus, context_tokens, rules)
    _refuse_unread(corpus, mix, strata, context_tokens)
    most = [max_repeats * stratum.tokens / max(1, tokens) for stratum in strata]
    roles = {name: corpus.facts(name).role for name in corpus.sources}
    return share_out(strata, mix, rules, roles=roles, most=most)


def _read_source(corpus: Corpus, name: str, context_tokens: int) -> tuple[Stratum, Bool[np.ndarray, "documents"]]:
    """All documents of a source that are read, as one stratum, and a mask of these documents."""
    documents = corpus.train(name)
    tokens = count_read(documents, context_tokens=context_tokens, long_documents=corpus.long_documents[name])
    read = tokens > 0
    if not read.all():
        documents, tokens = documents.take(np.flatnonzero(read)), tokens[read]
    return Stratum(name, None, None, documents, tokens), read


def _part_sources(corpus: Corpus, context_tokens: int, rules: MixRules) -> list[Stratum]:
    strata: list[Stratum] = []
    for name in corpus.sources:
        stratum, read = _read_source(corpus, name, context_tokens)
        if rules.parts_sources:
            names, language = corpus.languages(name)
            strata += split_source(stratum, rules, names=names, language=language[read])
        else:
            strata.append(stratum)
    return strata


def _refuse_unread(corpus: Corpus, mix: Mapping[str, float], strata: Sequence[Stratum], context_tokens: int) -> None:
    """Raise UserError for a weight whose documents are all longer than a sequence and left out."""
    read = {stratum.source for stratum in strata if stratum.tokens}
    roles = {name: corpus.facts(name).role for name in corpus.sources}
    tokens = {name: corpus.facts(name).tokens for name in corpus.sources}
    for key in [key for key, weight in mix.items() if weight]:
        held = find_members(key, mix, roles=roles, tokens=tokens)
        if not read & {*held}:
            raise UserError(
                "all documents of a part of the mix are longer than a sequence",
                where=f"mix.{key}, sequences of {format_length(context_tokens)}",
                why=f"long_documents leaves out documents that do not fit: here all documents of {', '.join(held)}",
                fix="give them no weight at this length, train on longer sequences, or set long_documents of the "
                "source: truncate keeps whole answers, split cuts at any token",
            )
