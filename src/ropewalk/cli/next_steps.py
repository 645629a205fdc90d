"""What to do after a verb has ended well: a line on standard error, so that standard output stays the result alone."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ropewalk.recipe.named import is_recipe

NEXT = {
    "new": "ropewalk check {file}",
    "import": "ropewalk advise {second} context_length=32Ki",
    "launch": "read docs/launch.md, give your site's options, then submit the file; nothing was submitted",
    "check": "ropewalk run {target}; ropewalk watch RUN shows its folder meanwhile",
    "run": "open report.html; ropewalk export {target} --verify prints the commands that serve the model",
    "prepare": "ropewalk corpus report {target} shows the text; ropewalk train {target}",
    "extend": "ropewalk train {target}; ropewalk watch RUN shows its folder meanwhile",
    "extend MODEL": "ropewalk export {second} --verify",
    "advise": "put the recommended rope into a recipe: ropewalk new 32Ki --model {target} begins one",
    "advise RECIPE": "put the recommended rope into {target}, then ropewalk check {target}",
    "train": "ropewalk evaluate {target}",
    "evaluate": "ropewalk export {target}, then ropewalk report {target}",
    "evaluate MODEL": "put what you compare with as --base, and tasks of RULER by --suite ruler",
    "export": "ropewalk report {target}; ropewalk export {target} --push ORG/NAME uploads the folder",
    "export MODEL": "serve it with the command of your engine (docs/export.md), or --push ORG/NAME",
    "verify": "ropewalk run {target}",
    "report": "open report.html; ropewalk export {target} --verify prints the commands that serve the model",
    "watch": "ropewalk report RECIPE writes the page to the run folder",
    "replay": "read the sequences above; faults: skip or a filter on the source keeps such text out",
    "receipt": "ropewalk receipt {target} OTHER compares two runs, factor by factor",
    "sweep": "read the table above; the same command adds arms and seeds that you add to {target}",
    "schema": "name the file in a recipe's first line: # yaml-language-server: $schema=FILE",
    "corpus inspect": "change profile or filters of a source, then ropewalk prepare {target}",
    "corpus card": "put corpus-card.md beside what you publish; ropewalk train {target}",
    "corpus report": "open corpus.html; ropewalk train {target}",
    "corpus tokenise": "the other shares, then ropewalk prepare {target}",
    "corpus export": "give the folder to the other trainer; its manifest names tokenizer and counts",
    "recommend-mix": "write the mix into your recipe, with mix_study: the study's folder, then ropewalk check it",
    "corpus mix": "write the weights into {target}: nothing is tokenised again",
    "corpus score": "select: on the source, with this file as its scores",
}
"""The line by the verb; ``MODEL`` and ``RECIPE`` are for a first argument of that kind."""


def say_next(typed: Sequence[str]) -> str | None:
    """The line after a command line that ended well; None where it asked for help or shows nothing."""
    words = [word for word in typed if not word.startswith("-")]
    if not words or any(word in ("--help", "--show-completion", "--install-completion") for word in typed):
        return None
    verb = words[0]
    if verb == "corpus":
        verb, words = " ".join(words[:2]), words[1:]
    recipes = [word for word in words[1:] if is_recipe(Path(word))]
    target = next(iter([*recipes, *words[1:]]), "")
    kind = "RECIPE" if target and is_recipe(Path(target)) else "MODEL"
    if verb == "report" and "--compare" in typed:
        return "open the page; ropewalk sweep compares arms over seeds, in pairs"
    line = NEXT.get(f"{verb} {kind}", NEXT.get(verb))
    if line is None:
        return None
    given = dict(pairwise(typed)).get("--out")
    second = words[2] if len(words) > 2 else ""
    return line.format(target=target, second=second, file=given or f"{target}.yaml")
