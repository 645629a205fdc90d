"""Checks of a recipe that need the built corpus: repeats, the contents of sequences, and enough held-out text.

The shares come from the same code that deals out the sequences. They are not computed from the recipe a second time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count, format_length
from ropewalk.corpus.inspect.sequence_faults import find_sequence_faults
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.mix.held_out_text import count_long, count_trained_long, tell_long, text_sources
from ropewalk.corpus.mix.strata import Stratum, advise_dry
from ropewalk.corpus.mix_rules import OTHER
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.joined_documents import JoinedDocuments
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.multiple import count_tokens
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage, plan_stage_strata

_MANY_REPEATS = 4
_MOST_HELD_OUT = 0.5
"""The largest share of the text to keep from training that is offered."""
_LONG_SHARES = "34 to 40% is recommended, up to 60% at 128Ki (OLMo 3: 34%, ProLong: 60%)"


def check_corpus(recipe: Recipe, corpus: Corpus, base_tokens: int | None) -> Iterator[Finding]:
    """Check a recipe against its built corpus.

    ``base_tokens`` is the base's context in tokens, or None if the base's shape is not given.
    """
    if {*corpus.sources} != {source.name for source in recipe.corpus.sources}:
        message = (
            f"the corpus of this run was built from {', '.join(corpus.sources)}: the sequences of this recipe "
            f"cannot be checked"
        )
        fix = "another run folder (run=...), or `ropewalk prepare RECIPE`, which makes the corpus again"
        yield Finding("warning", "corpus.sources", message, str(corpus.folder), fix)
        return
    told = set[str]()
    for index in range(len(recipe.stages)):
        try:
            strata = plan_stage_strata(recipe, index, corpus)
            found = [*check_repeats(recipe, index, strata)]
            yield from found
            unread = [each for each in _find_unread_weights(recipe, index, strata) if each.key not in told]
            told |= {each.key for each in unread}
            yield from unread
            if not any(finding.level == "error" for finding in found):
                yield from _check_sequences(recipe, index, corpus)
        except UserError as error:
            yield Finding("error", f"stages.{index}.mix", f"{error.what}: {error.why}; {error.fix}", error.where)
    facts = {name: corpus.facts(name) for name in corpus.sources}
    none = {name: each.documents for name, each in facts.items() if each.documents and not each.held_out_documents}
    yield from tell_unmeasured(none, recipe)
    if base_tokens is not None:
        yield from _check_held_out(recipe, corpus, base_tokens)


def describe_long_share(recipe: Recipe, corpus: Corpus) -> Iterator[str]:
    """A line for each stage: the share of its tokens in long documents, beside published shares.

    A stage whose shares cannot be planned has none; ``check_corpus`` reports it.
    """
    for index, stage in enumerate(recipe.stages):
        try:
            strata = plan_stage_strata(recipe, index, corpus)
        except UserError:
            continue
        least = stage.context_length // 2
        share, joined = 0.0, 0.0
        for each in strata:
            long = each.lengths >= least
            share += each.share * each.lengths[long].sum() / each.tokens
            if isinstance(each.documents, JoinedDocuments):
                joined += each.share * each.lengths[long & (each.documents.part_counts > 1)].sum() / each.tokens
        parts = f", natural {share - joined:.0%} and joined {joined:.0%}" if joined else ""
        yield (
            f"stage {index} long documents: {share:.0%} of the tokens are of documents of {format_length(least)} "
            f"tokens or more (half a sequence){parts}; {_LONG_SHARES}"
        )


def check_repeats(recipe: Recipe, index: int, strata: Sequence[Stratum]) -> Iterator[Finding]:
    """Report each of a stage's ``strata`` that would be read too often."""
    stage, most = recipe.stages[index], recipe.corpus.max_repeats
    if recipe.corpus.when_dry == "spread":
        # With ``spread``, other sources replace an exhausted one. Planning the shares has already checked the total.
        return
    for stratum in strata:
        tokens = stage.sequences * stage.context_length
        repeats = stratum.share * tokens / stratum.tokens
        if repeats > most:
            message = f"{stratum.name} would be read {repeats:.1f} times, more than max_repeats {most:g}"
            unit = stage.context_length * max(
                1, (recipe.parallel.ranks or 1) // (recipe.parallel.context_parallel or 1)
            )
            share = most * stratum.tokens / tokens
            place = f"stages.{index}."
            fix = advise_dry(stratum, share, tokens, step_tokens=stage.step_tokens, unit_tokens=unit, place=place)
            yield Finding("error", f"stages.{index}.tokens", message, "corpus.max_repeats", fix)
        elif repeats > _MANY_REPEATS:
            message = f"{stratum.name} would be read {repeats:.1f} times"
            source = "Muennighoff et al. 2023 (2305.16264): to 4"
            fix = "fewer tokens, more text of this source, or a smaller weight in the mix"
            yield Finding("warning", f"stages.{index}.tokens", message, source, fix)


def _find_unread_weights(recipe: Recipe, index: int, strata: Sequence[Stratum]) -> Iterator[Finding]:
    """Warn of languages and lengths with a weight of which a stage reads no document: all others take their share."""
    stage, rules = recipe.stages[index], recipe.rules(recipe.stages[index])
    languages = {name: name for name, weight in rules.languages.items() if weight and name != OTHER}
    lengths = {bound: format_length(bound) for bound, weight in rules.lengths.items() if weight}
    for key, named, read in (
        ("languages", languages, {each.language for each in strata}),
        ("lengths", lengths, {each.shortest for each in strata}),
    ):
        place = "corpus" if getattr(stage, key) is None else f"stages.{index}"
        for value, name in named.items():
            if value not in read:
                message = f"no document that stage {index} reads has this weight: its share goes to the others"
                fix = "add such text, correct the key, or leave it out"
                yield Finding("warning", f"{place}.{key}.{name}", message, "docs/corpus-mix.md", fix)


def _check_sequences(recipe: Recipe, index: int, corpus: Corpus) -> Iterator[Finding]:
    """Check that a stage's sequences realise the mix to within one sequence.

    Report the parts that are not trained on.
    """
    dataset = open_stage(recipe, index, corpus)
    yield from _check_shares(dataset, index)
    numbers = {source.name: number for number, source in enumerate(recipe.corpus.sources)}
    for fault in find_sequence_faults(corpus, dataset):
        key = f"corpus.sources.{numbers[fault.source]}.{fault.key}"
        fix = "a longer stage" if corpus.long_documents[fault.source] == "split" else f"{key}=split, or a longer stage"
        yield Finding("warning", key, f"stage {index}: {fault.message}", "docs/corpus.md", fix)


def _check_shares(dataset: Dataset, index: int) -> Iterator[Finding]:
    realised = dataset.realised(dataset.sequences)
    total = sum(realised.values())
    for name, share in dataset.planned.items():
        sequences_off = abs(realised[name] - share * total) / dataset.context_tokens
        if sequences_off > 1:
            message = (
                f"the share of {name} should be {share:.2%} and is {realised[name] / total:.2%}, a difference "
                f"of {sequences_off:.1f} sequences"
            )
            yield Finding(
                "error",
                f"stages.{index}.mix",
                message,
                "corpus/mix keeps every source within one sequence of its share",
            )


def tell_unmeasured(documents: Mapping[str, int], recipe: Recipe) -> Iterator[Finding]:
    """Warn of sources of which nothing is held out, though the recipe asks for it. ``documents`` has their sizes."""
    if not documents or not recipe.corpus.held_out:
        return
    told = ", ".join(f"{name} ({format_count(count, 'document')})" for name, count in documents.items())
    message = f"nothing is held out of {told}: no loss of this text is measured, and a tenth of fewer than 10 is none"
    fix = "add documents that are no copies of one another"
    if few := [count for count in documents.values() if 1 < count < 10]:
        # Just above half a document of the smallest source, which is rounded up.
        fix = f"corpus.held_out={math.floor(50 / min(few) + 1) / 100:g}, which is of every source; or {fix}"
    yield Finding("warning", "corpus.held_out", message, "docs/corpus.md", fix)


def _check_held_out(recipe: Recipe, corpus: Corpus, base_tokens: int) -> Iterator[Finding]:
    """Check that there are enough long held-out documents for each measurement, before training and not after it."""
    asked = [
        ("evaluate.documents", recipe.evaluate.documents, count_tokens(recipe.evaluate.position_lengths, base_tokens))
    ]
    window_tokens = base_tokens
    for index, stage in enumerate(recipe.stages):
        if stage.validation is not None and stage.reach_tokens >= 2 * (
            stage.validation.truncated_tokens or base_tokens
        ):
            asked.append((f"stages.{index}.validation.documents", stage.validation.documents, stage.reach_tokens))
        if stage.gate is not None and stage.gate.window_loss is not None:
            whole_tokens = max(base_tokens, window_tokens)
            asked.append((f"stages.{index}.gate.documents", stage.gate.documents, whole_tokens))
        window_tokens = stage.reach_tokens
    for key, documents, context_tokens in asked:
        found = count_long(corpus, context_tokens=context_tokens)
        if found < documents:
            message = tell_long(found, documents, context_tokens=context_tokens)
            more = _offer_more(corpus, found, documents, context_tokens=context_tokens)
            fix = f"{key}={found}, or {more}" if found else more
            yield Finding("warning", key, message, "corpus.held_out", fix)


def _offer_more(corpus: Corpus, found: int, asked: int, *, context_tokens: int) -> str:
    """How to hold out about ``asked`` documents that are long enough: a share of all, or more text.

    Documents are drawn without regard to their length, so long ones are found in proportion, give or take the root of
    their number; two of these are added. Where fewer were drawn, the share rises as those that were found ask for.
    """
    long = found + count_trained_long(corpus, context_tokens=context_tokens)
    least = (asked + 2 * math.sqrt(asked)) / long if long else 1.0
    if least > _MOST_HELD_OUT:
        return "add more long documents"
    facts = [corpus.facts(name) for name in text_sources(corpus)]
    drawn = sum(each.held_out_documents for each in facts)
    held = drawn / max(1, drawn + sum(each.documents for each in facts))
    share = min(_MOST_HELD_OUT, max(least, held * asked / found if found else 2 * held))
    return f"corpus.held_out={math.ceil(100 * share) / 100:g} with a new run folder (run=FOLDER)"
