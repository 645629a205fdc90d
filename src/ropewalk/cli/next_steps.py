"""What to do after a verb has ended well: a line on standard error, so that standard output stays the result alone."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ropewalk.recipe.named import is_recipe

NEXT = {
    "new": "ropewalk check {file}",
    "import": "ropewalk advise {second} context_length=32Ki",
    "launch": "read docs/launch.md, give your site's options, then submit the file; nothing was submitted",
    "check": "ropewalk run {recipe}; ropewalk watch RUN shows its folder meanwhile",
    "run": "open report.html; ropewalk export {recipe} --verify prints the commands that serve the model",
    "prepare": "ropewalk corpus report {recipe} shows the text; ropewalk train {recipe}",
    "extend": "ropewalk train {recipe}; ropewalk watch RUN shows its folder meanwhile",
    "extend MODEL": "ropewalk export {second} --verify",
    "advise": "put the recommended rope into a recipe: ropewalk new {length} --model {target} begins one",
    "advise RECIPE": "put the recommended rope into {target}, then ropewalk check {recipe}",
    "train": "ropewalk evaluate {recipe}",
    "evaluate": "ropewalk export {recipe}, then ropewalk report {recipe}",
    "evaluate MODEL": "put what you compare with as --base, and tasks of RULER by --suite ruler",
    "export": "ropewalk report {recipe}; ropewalk export {recipe} --push ORG/NAME uploads the folder",
    "export MODEL": "serve it with the command of your engine (docs/export.md), or --push ORG/NAME",
    "verify": "ropewalk run {recipe}",
    "report": "open report.html; ropewalk export {recipe} --verify prints the commands that serve the model",
    "watch": "ropewalk report RECIPE writes the page to the run folder",
    "replay": "read the sequences above; faults: skip or a filter on the source keeps such text out",
    "receipt": "ropewalk receipt {target} OTHER compares two runs, factor by factor",
    "sweep": "read the table above; the same command adds arms and seeds that you add to {target}",
    "schema": "name the file in a recipe's first line: # yaml-language-server: $schema=FILE",
    "corpus inspect": "change profile or filters of a source, then ropewalk prepare {recipe}",
    "corpus card": "put corpus-card.md beside what you publish; ropewalk train {recipe}",
    "corpus report": "open corpus.html; ropewalk train {recipe}",
    "corpus tokenise": "the other shares, then ropewalk prepare {recipe}",
    "corpus wait": "ropewalk run {recipe}",
    "corpus export": "give the folder to the other trainer; its manifest names tokenizer and counts",
    "recommend-mix": "write the mix into your recipe, with mix_study: the study's folder, then ropewalk check it",
    "corpus mix": "write the weights into {target}: nothing is tokenised again",
    "corpus score": "select: on the source, with this file as its scores",
}
"""The line by the verb; ``MODEL`` and ``RECIPE`` are for a first argument of that kind.

``recipe`` is the target with the overrides that were given: without them the next verb reads another recipe.
"""
_GIVEN = (
    ("report", ("--compare",), "open the page; ropewalk sweep compares arms over seeds, in pairs"),
    ("evaluate", ("--base", "--suite"), "read the comparison above"),
    ("evaluate", ("--base",), "read the comparison above; --suite ruler adds tasks of RULER"),
    ("evaluate", ("--suite",), "put what you compare with as --base"),
    ("export", ("--push", "--dry-run", "--public"), "the same command without --dry-run; a new repository is public"),
    ("export", ("--push", "--dry-run"), "the same command without --dry-run; a new repository is private"),
    ("export RECIPE", ("--push",), "ropewalk report {recipe}"),
    ("export MODEL", ("--push",), "look at the model card on the page of the repository"),
)
"""Lines that go before those of NEXT where all of these options were given: verb, options, line."""
_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=.*", re.DOTALL)
TAKING = frozenset(
    ["--base", "--calibrate", "--cpus", "--data", "--format", "--image", "--memory", "--minutes", "--model", "--nodes",
     "--out", "--port", "--prepare-jobs", "--probe", "--push", "--sample", "--seconds", "--share", "--store", "--suite",
     "--time", "--tokens", "--truncated", "--why-not"]
)  # fmt: skip
"""Options of the verbs that take a value: it may stand before the target, and is no target and no override."""


def say_next(typed: Sequence[str]) -> str | None:
    """The line after a command line that ended well; None where it asked for help or shows nothing."""
    words, values = _split_values(typed)
    if not words or any(word in ("--help", "--show-completion", "--install-completion") for word in typed):
        return None
    verb = words[0]
    if verb == "corpus":
        verb, words = " ".join(words[:2]), words[1:]
    recipes = [word for word in words[1:] if is_recipe(Path(word))]
    target = next(iter([*recipes, *words[1:]]), "")
    line = _find_line(verb, "RECIPE" if target and is_recipe(Path(target)) else "MODEL", typed)
    if line is None:
        return None
    overrides = [word for word in words[1:] if _OVERRIDE.fullmatch(word) and word != target]
    lengths = [word.partition("=")[2] for word in overrides if word.startswith("context_length=")]
    return line.format(
        target=shlex.quote(target),
        recipe=shlex.join([target, *overrides]),
        second=shlex.quote(words[2]) if len(words) > 2 else "",
        file=shlex.quote(values.get("--out") or f"{target}.yaml"),
        length=shlex.quote(lengths[-1]) if lengths else "32Ki",
    )


def _split_values(typed: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words of a command line that are no options and no values of them, and the last value of each option."""
    words, values = list[str](), dict[str, str]()
    rest = iter(typed)
    for word in rest:
        option, joined, value = word.partition("=")
        if option in TAKING:
            values[option] = value if joined else next(rest, "")
        elif not word.startswith("-"):
            words.append(word)
    return words, values


def _find_line(verb: str, kind: str, typed: Sequence[str]) -> str | None:
    given = {word.partition("=")[0] for word in typed}
    special = (line for name, options, line in _GIVEN if name in (verb, f"{verb} {kind}") and given.issuperset(options))
    return next(special, NEXT.get(f"{verb} {kind}", NEXT.get(verb)))
