"""The differences between a finished corpus and the recipe, in words, so that nobody has to compare manifests."""

from collections.abc import Iterator, Mapping
from typing import Any


def explain_other(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The keys that differ between the ``inputs`` of two manifests of corpora, with the names of their sources."""
    return "; ".join(_list_differences(held, asked)) or "the text of a source, or a file of evaluation prompts, differs"


def _list_differences(held: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*held, *asked} - {"corpus"}):
        if held.get(key) != asked.get(key):
            yield f"{key} differs"
    theirs, ours = held["corpus"], asked["corpus"]
    for key in sorted({*theirs, *ours} - {"sources"}):
        if theirs.get(key) != ours.get(key):
            yield f"corpus.{key} differs"
    sources = {source["name"]: source for source in theirs["sources"]}
    names = [source["name"] for source in ours["sources"]]
    if [*sources] != names:
        yield f"its sources are {', '.join(sources)}, not {', '.join(names)}"
        return
    for source in ours["sources"]:
        old = sources[source["name"]]
        if old.get("select") == source.get("select") and old.get("selects") != source.get("selects"):
            yield f"source {source['name']}: select: made by earlier rules, which chose other texts"
        for key in sorted({*old, *source} - {"selects"}):
            if old.get(key) != source.get(key):
                yield f"source {source['name']}: {key} differs"
