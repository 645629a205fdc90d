"""Checks of a recipe against a sample of its text, before hours of preparation: enough text, and long enough documents.

Tokens are estimated from bytes, so each rule leaves room. check_corpus.py has the exact rules for a built corpus.
"""

from collections.abc import Iterator, Mapping

from ropewalk.core.quantity import format_amount, format_count, format_length
from ropewalk.corpus.inspect.sample import SourceSample
from ropewalk.corpus.prepare.hold_out_documents import count_held_out
from ropewalk.recipe.check_corpus import tell_unmeasured
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.multiple import count_tokens
from ropewalk.recipe.spec import Recipe

_SOURCE = "estimated from a sample of the text"
_ROOM = 1.5
"""How far an estimate must be beyond a limit before it is told."""


def check_data(
    recipe: Recipe, samples: Mapping[str, SourceSample], token_bytes: Mapping[str, float], base_tokens: int | None
) -> Iterator[Finding]:
    """Check ``recipe`` against ``samples``, by the names of their sources; not every source has one.

    ``token_bytes`` are the bytes of a token in each source's text; ``base_tokens`` is the base's context, or None.
    """
    held = {name: samples[name].text_bytes / token_bytes[name] for name in samples}
    yield from _check_amount(recipe, held)
    # Cleaning, copies and joins leave fewer documents, never more.
    whole = {name: len(sample.lengths) for name, sample in samples.items() if sample.whole}
    yield from tell_unmeasured(
        {name: most for name, most in whole.items() if not count_held_out(most, recipe.corpus.held_out)}, recipe
    )
    read = [source for source in recipe.corpus.sources if source.role != "instruction"]
    texts = [source.name for source in read]
    if not texts or any(name not in samples for name in texts) or any(source.join is not None for source in read):
        return  # the text that was not seen, or is made of parts, may be the long one
    for index, stage in enumerate(recipe.stages):
        found = {name: samples[name].count_long(stage.context_length * token_bytes[name]) for name in texts}
        if stage.pose is None and not any(found.values()):
            length, seen = format_length(stage.context_length), sum(len(samples[name].lengths) for name in texts)
            message = f"none of the {format_count(seen, 'document')} that were read has {length} tokens"
            fix = "add longer text: books, code joined by repository, or a source of whole chapters"
            yield Finding("warning", f"stages.{index}.context_length", message, _SOURCE, fix)
    if base_tokens is not None:
        yield from _check_held_out(recipe, samples, texts, token_bytes, base_tokens)


def _check_amount(recipe: Recipe, held: Mapping[str, float]) -> Iterator[Finding]:
    """Warn of a weight in the mix whose text would be read more often than ``max_repeats``."""
    if recipe.corpus.when_dry == "spread":
        return
    read = dict[str, float]()
    for stage in recipe.stages:
        mix = recipe.mix(stage)
        for key, weight in mix.items():
            read[key] = read.get(key, 0.0) + weight / sum(mix.values()) * stage.sequences * stage.context_length
    for key, tokens in read.items():
        members = [
            each.name
            for each in recipe.corpus.sources
            if each.name == key or (each.role == key and each.name not in read)
        ]
        if not members or any(name not in held for name in members):
            continue
        there = sum(held[name] for name in members)
        most = recipe.corpus.max_repeats * len(recipe.stages)
        if tokens > _ROOM * most * there:
            message = (
                f"the stages read {format_amount(tokens)} tokens of {key}, and it has about {format_amount(there)}: "
                f"{tokens / max(1.0, there):,.0f} times, more than max_repeats {recipe.corpus.max_repeats:g} a stage"
            )
            yield Finding(
                "warning", f"corpus.mix.{key}", message, _SOURCE, "more text, fewer tokens, or a smaller weight"
            )


def _check_held_out(
    recipe: Recipe,
    samples: Mapping[str, SourceSample],
    texts: list[str],
    token_bytes: Mapping[str, float],
    base_tokens: int,
) -> Iterator[Finding]:
    """Warn where too few long documents will be held out for the loss by position."""
    asked, needed = recipe.evaluate.documents, count_tokens(recipe.evaluate.position_lengths, base_tokens)
    expected = 0.0
    for name in texts:
        long = samples[name].count_long(needed * token_bytes[name]) / max(1, len(samples[name].lengths))
        expected += long * count_held_out(round(samples[name].documents), recipe.corpus.held_out)
    if asked > _ROOM * expected:
        message = f"about {expected:.0f} of {asked} documents with {format_length(needed)} tokens will be held out"
        fix = f"evaluate.documents={max(1, int(expected))}, a larger corpus.held_out, or longer text"
        yield Finding("warning", "evaluate.documents", message, _SOURCE, fix)
