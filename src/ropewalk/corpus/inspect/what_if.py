"""Predicts the use of a corpus by a mix, from document lengths alone. Nothing is packed and no token is read."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ropewalk.core.columns import pad_columns
from ropewalk.core.quantity import format_amount, format_length
from ropewalk.core.translate import keep
from ropewalk.corpus.inspect.sequence_faults import tell_beyond
from ropewalk.corpus.inspect.statistics import CONTEXTS
from ropewalk.corpus.mix.planned_strata import plan_strata
from ropewalk.corpus.mix.strata import Stratum
from ropewalk.corpus.mix_rules import PLAIN, MixRules
from ropewalk.corpus.tokens.corpus_folder import Corpus


def weigh(
    corpus: Corpus,
    mix: Mapping[str, float],
    *,
    context_tokens: int,
    tokens: int,
    max_repeats: float,
    rules: MixRules = PLAIN,
) -> dict[str, Any]:
    """Share, tokens and repeats of every stratum, and the context length that its tokens would have.

    ``dry`` names the strata that would be read more often than ``max_repeats``.
    """
    strata = plan_strata(
        corpus, mix, context_tokens=context_tokens, tokens=tokens, max_repeats=max_repeats, rules=rules
    )
    parts = [_describe(stratum, corpus, tokens, context_tokens) for stratum in strata]
    shares = np.array([part["share"] for part in parts])
    return {
        "context_tokens": context_tokens,
        "tokens": tokens,
        "strata": parts,
        "long": {key: float(shares @ [part["long"][key] for part in parts]) for key in map(str, CONTEXTS)},
        "dry": [part["name"] for part in parts if part["repeats"] > max_repeats * (1 + 1e-9)],
        "max_repeats": max_repeats,
        "beyond_sequence": [
            tell_beyond(corpus, name, beyond, context_tokens)
            for name in dict.fromkeys(stratum.source for stratum in strata)
            if (beyond := corpus.find_beyond(name, context_tokens)).tokens
        ],
    }


def format_weighing(found: Mapping[str, Any]) -> str:
    """The result of ``weigh`` as a table for people, with a line about strata that have too little text."""
    columns = "".join(f"{'>' + format_length(context):>9}" for context in CONTEXTS)
    lines = [f"{'stratum':28}{'share':>9}{'tokens':>9}{'held':>9}{'repeats':>9}{columns}"]
    for part in found["strata"]:
        figures = f"{part['share']:>9.2%}{format_amount(part['tokens']):>9}{format_amount(part['held_tokens']):>9}"
        figures += f"{part['repeats']:>9.2f}{_format_long(part['long'])}"
        lines.append(f"{keep(pad_columns(part['name'], 28))}{figures}")
    lines.append(f"{'all':28}{1:>9.2%}{format_amount(found['tokens']):>9}{'':>18}{_format_long(found['long'])}")
    lines.append(
        "the last columns: tokens that have more than this number of earlier tokens of their own document, "
        "as a share of these tokens"
    )
    if found["dry"]:
        lines.append(f"would be read more than {found['max_repeats']:g} times: {', '.join(found['dry'])}")
    return "\n".join([*lines, *found["beyond_sequence"]])


def _describe(stratum: Stratum, corpus: Corpus, tokens: int, context_tokens: int) -> dict[str, Any]:
    lengths, held = stratum.lengths, stratum.tokens
    # Each segment of a document that is cut into sequences begins without context.
    full, tail = lengths // context_tokens, lengths % context_tokens
    long = {
        str(context): float(
            (full * max(0, context_tokens - context) + np.maximum(tail - context, 0)).sum() / max(1, held)
        )
        for context in CONTEXTS
    }
    return {
        "name": stratum.name,
        "source": stratum.source,
        "role": corpus.facts(stratum.source).role,
        "share": stratum.share,
        "tokens": round(stratum.share * tokens),
        "held_tokens": held,
        "documents": len(lengths),
        "repeats": stratum.share * tokens / held,
        "long": long,
    }


def _format_long(long: Mapping[str, float]) -> str:
    return "".join(f"{long[str(context)]:>9.1%}" for context in CONTEXTS)
