"""The data card of a corpus: content, size, sources, licences, and the documents that were left out.

It is a page of Markdown that goes with the tokens, so that whoever gets them can judge them without the text.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from ropewalk.core.quantity import format_amount, format_bytes, format_count
from ropewalk.core.read_json import read_written_lines
from ropewalk.corpus.inspect.dropped import inspect_corpus
from ropewalk.corpus.prepare.hold_out_documents import TRAIN
from ropewalk.corpus.read.provenance import ORIGIN
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.corpus_folder import Corpus

_SHOWN, _EXAMPLES, _EXAMPLE_CHARACTERS = 8, 3, 200


def write_card(corpus: Corpus, spec: CorpusSpec) -> str:
    """The card as Markdown. ``spec`` is what the corpus was built from."""
    lines = [
        "# Data card",
        "",
        f"Corpus `{corpus.digest}`, tokenizer `{corpus.tokenizer}`.",
        "",
        "## What and how much",
        "",
    ]
    lines += [
        "| source | role | documents | tokens | held out | languages | licence |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(corpus, source) for source in spec.sources]
    tokens = sum(corpus.facts(source.name).tokens for source in spec.sources)
    weights = ", ".join(f"{name} {weight:g}" for name, weight in spec.mix.items())
    lines += [
        "",
        f"All: {format_amount(tokens)} tokens. Weights of the mix, in tokens: {weights}.",
        "",
        "## Origin",
        "",
    ]
    for source in spec.sources:
        place, details = _origin(corpus, source)
        lines += [f"- **{source.name}**: {place}", *(f"    - {detail}" for detail in details)]
    lines += ["", "## Filters", "", *(f"- {line}" for line in _filters(spec))]
    lines += ["", "## Left out", "", *_left_out(corpus)]
    return "\n".join(lines) + "\n"


def describe_data(corpus: Corpus, spec: CorpusSpec) -> dict[str, list[str]]:
    """The ``origin`` of each source and the ``filters``, as the card tells them, for a page."""
    found = [(source.name, *_origin(corpus, source)) for source in spec.sources]
    return {
        "origin": [f"{name}: {'; '.join([place, *details])}" for name, place, details in found],
        "filters": [*_filters(spec)],
    }


def _row(corpus: Corpus, source: Source) -> str:
    facts = corpus.facts(source.name)
    languages = ", ".join(f"{name} {count:,}" for name, count in _most(Counter(facts.languages)))
    held_out = f"{format_count(facts.held_out_documents, 'document')}, {format_amount(facts.held_out_tokens)} tokens"
    cells = [source.name, facts.role, f"{facts.documents:,}", format_amount(facts.tokens), held_out, languages]
    return f"| {' | '.join([*cells, facts.license or 'not stated'])} |"


def _origin(corpus: Corpus, source: Source) -> tuple[str, list[str]]:
    """The place of one source, what was made of its texts, and lines on the addresses, licences and dates of its
    training documents."""
    place = source.path or (source.hub and f"hub {source.hub}") or f"made by ropewalk: {source.embedded}"
    composed = [*_tell_composed(corpus, source)]
    if source.provenance is None:
        return place, composed
    hosts, licences, dates, known, trained = Counter[str](), Counter[str](), list[str](), 0, 0
    splits, number = corpus.splits(source.name), 0
    for entry in read_written_lines(corpus.store(source.name) / "documents.jsonl", dict):
        if "dropped" in entry:
            continue
        is_trained = splits[number] == TRAIN
        origin = entry.get(ORIGIN, {}) if is_trained else {}
        number, trained = number + 1, trained + is_trained
        if "address" in origin:
            known += 1
            hosts[_find_host(origin["address"])] += 1
        if "license" in origin:
            licences[origin["license"]] += 1
        if "date" in origin:
            dates = [min([*dates[:1], origin["date"]]), max([*dates[1:], origin["date"]])]
    of = f"{trained:,} {'parts' if source.join is not None else 'documents'}"
    return place, [
        *composed,
        f"addresses: {known:,} of {of}; {_count(hosts)}",
        f"licences: {licences.total():,} of {of}; {_count(licences)}",
        f"dates: {f'{dates[0]} to {dates[1]}' if dates else 'none'}",
    ]


def _tell_composed(corpus: Corpus, source: Source) -> Iterator[str]:
    """What the training documents have that their texts do not have by themselves: joins, gaps, and questions, of which
    a model may have written some."""
    joins = corpus.ledger[source.name].get("joins", {})
    made: Mapping[str, int] = joins.get("train", {})
    if source.join is not None and made:
        related = source.join.related
        how = f"by {', '.join(source.join.by)}" if related is None else "by related texts"
        if related is not None and related.control:
            how = "by chance"
        yield f"joined {how}: {format_count(made['parts'], 'part')} in {format_count(made['documents'], 'document')}"
    if filled := made.get("filled"):
        yield f"fill in the middle: {format_count(filled, 'text')} with the middle at the end"
    if tasks := made.get("tasks"):
        told = f"{format_count(tasks, 'task')} about the text behind it, {made['task_tokens']:,} tokens"
        rules = source.tasks and source.tasks.written
        if rules and (kept := joins.get("written", {}).get("kept")):
            told += f"; {kept:,} of them written by the model {rules.model}, the others made by ropewalk"
        yield told


def _find_host(address: str) -> str:
    try:
        return urlsplit(address).hostname or "no host"
    except ValueError:  # such as http://[a
        return "no host"


def _filters(spec: CorpusSpec) -> Iterator[str]:
    near, sections = spec.near_duplicates, spec.repeated_sections
    yield f"near copies: {'kept' if near is None else f'of documents of a similarity from {near:g} on one stays'}"
    yield f"repeated sections: {'kept' if sections is None else f'runs of {sections:,} characters or more stay once'}"
    prompts = ", ".join(spec.decontaminate.files)
    yield f"evaluation prompts kept out: {prompts or 'none'}"
    for source in spec.sources:
        named: str = source.profile if isinstance(source.profile, str) else "by role and language"
        if source.profile is not None and not isinstance(source.profile, str):
            named = f"like {source.profile.like}, changed"
        scores = f"; scored by {', '.join(source.score.columns)}" if source.score else ""
        rules = "; ".join(str(rule.model_dump(mode="json", exclude_defaults=True)) for rule in source.select)
        yield f"{source.name}: profile {named}{scores}{f'; selected by {rules}' if rules else ''}"
        own = spec.near_duplicates_of(source)
        if own != near:
            kept = (
                "its near copies are kept"
                if own is None
                else f"near copies are dropped from a similarity of {own:g} on"
            )
            yield f"{source.name}: {kept}"


def _left_out(corpus: Corpus) -> Iterator[str]:
    """Lines for each reason to drop text: how much, and a few examples."""
    yield "| source | reason | documents | text |"
    yield "|---|---|---|---|"
    for name in corpus.sources:
        for reason, amount in corpus.ledger[name]["dropped"].items():
            count = amount["documents"] or amount.get("passages", 0)
            yield f"| {name} | {reason} | {count:,} | {format_bytes(amount['bytes'])} |"
    for found in inspect_corpus(corpus, examples=_EXAMPLES):
        yield ""
        yield f"{found.source}, {found.reason}:"
        yield ""
        for example in found.examples:
            text = " ".join(example.text.split())[:_EXAMPLE_CHARACTERS].replace("`", "'")
            yield f"- {example.id}{f' ({example.why})' if example.why else ''}: `{text}`"


def _count(counter: Counter[str]) -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in _most(counter))
    others = len(counter) - _SHOWN
    return f"{named}{f', and {others:,} more' if others > 0 else ''}" if named else "none"


def _most(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda each: (-each[1], each[0]))[:_SHOWN]
