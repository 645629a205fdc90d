"""``ropewalk new KIND --model MODEL``: a commented recipe to start from, with the positions that `advise` recommends.

KIND is the context length to reach (``32Ki``), ``domain`` or ``lora-1gpu``. Only config.json is read, of a folder, of a
shipped shape or from the hub. The name of a shipped recipe, such as ``quickstart`` or ``qwen3-8b-128k``, gives a copy
of that file, to change.
"""

import difflib
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.commands.run_inputs import require_new
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, format_length, parse_count
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.missing_paths import is_there
from ropewalk.recipe.multiple import find_multiple
from ropewalk.recipe.named import find_shipped_recipe, list_recipes
from ropewalk.recipe.plain_yaml import parse_yaml
from ropewalk.rope.candidates import survey_candidates
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape
from ropewalk.shape.shipped import is_shape_alone

_TEXT = """# {model} from {base} to {target} tokens. Check it first, without a GPU: ropewalk check {file}{offline}
model: {weights}
run: {run}                        # everything that the run makes
seed: 1
corpus:
  store: store                          # tokenised text, shared by all runs
{sources}  mix: {mix}   # in tokens
stages:
  - context_length: {target}
    rope: {rope}    # from `ropewalk advise {model} context_length={target}`
    tokens: {tokens}
    step_tokens: {step}                    # tokens of one optimizer step
    lr: {lr}                            # full training of 7B: at most 2e-5; of 30B: 1e-5
    checkpoint_steps: 100
{lora}# ranks: GPUs, here those that hold a model of {size} parameters; context_parallel of them share a sequence
parallel: {{ranks: {ranks}, context_parallel: {context}}}
# the GPUs that check plans for; without this line, those of this machine
hardware: h100-sxm x {ranks}
# lengths: multiples of the base's {base}
evaluate: {{lengths: {lengths}, position_lengths: {times}, precision: bfloat16}}
"""
_SOURCES = """\
  sources:                              # put your text there: .txt, .md, .jsonl, .parquet, .zst, and folders of them
    - {{name: web, path: data/general/web, role: general, language: en, profile: prose_en}}
    - {{name: books, path: data/general/books, role: general, language: en, profile: prose_en}}   # long documents
    - {{name: own, path: {data}, role: domain{told}}}
    - {{name: chat, path: data/instruction, role: instruction, language: en, profile: instruction}}
"""
_OWN_ALONE = """\
  # your text alone: what else the base knows may be lost (docs/forgetting.md). General text and instructions keep it:
  # add sources such as {{name: web, path: FOLDER, role: general}}, and a mix such as {{general: 7, domain: 2}}
  sources:
    - {{name: own, path: {data}, role: domain}}
"""
_ENGLISH = ", language: en, profile: prose_en"
_LORA = "    lora: {rank: 16}                      # merged into the weights at the end of the stage\n"


@dataclass(frozen=True, slots=True)
class _Kind:
    context_tokens: int | None
    """None: the base's own context, times four."""
    domain: int = 2
    lora: bool = False


_KINDS = {"domain": _Kind(None, domain=5), "lora-1gpu": _Kind(None, lora=True)}
_OFFERED = f"a context length such as 32Ki, {', '.join(_KINDS)}"
_RANKS = ((1.5e9, 1), (3e9, 2), (6e9, 4))
"""Up to so many parameters, the GPUs of 80 GB that hold weights, gradients and moments (16 bytes a parameter) beside
a sequence; 8 beyond."""
_LONG_TOKENS = 1 << 18
"""Beyond this length attention takes most of the time, so also a small model gets 8 GPUs: at 1Mi SmolLM2-135M would
train for 18 days on one."""
_CONTEXT_RANKS = ((16384, 2), (65536, 4))
"""Up to a length, the ranks that share a sequence, if there are so many; 8 beyond."""
_OPEN_LENGTH = "gemma-3-12b-256k"
"""A shipped recipe for a base whose config.json leaves open which length its positions are divided from."""
_THOUSANDS = re.compile(r"(\d+)([km])")
"""Lengths as many write them: ``32k`` means 32Ki, ``1m`` means 1Mi."""


def new_recipe(kind: str, *, model: str | None, out: Path | None, data: str | None = None) -> dict[str, Any]:
    """Write a recipe of ``kind`` for ``model`` to ``out``, by default KIND.yaml here; return its path and text.

    ``data`` is the file or folder of the user's own text; a recipe for a length then trains on it alone. ``kind`` may
    be the name of a shipped recipe instead, which has its own model and text. Raises UserError for an unknown kind, a
    missing model, a base that reads the length already, and a file that exists.
    """
    path = out or Path(f"{kind}.yaml")
    require_new(path)
    if kind in list_recipes():
        shipped = find_shipped_recipe(kind)
        base = load_recipe(shipped).model if not kind.startswith("study-") else None
        if model not in (None, base, str(base).partition("@")[0]):
            raise UserError(
                f"{kind} is no recipe for {model}",
                where="the command line",
                why=f"its lengths, positions and ranks are those of {base}",
                fix=f"a kind for any base: {_OFFERED}",
            )
        if data is not None:
            raise UserError(
                "--data has no meaning for a shipped recipe",
                where="--data",
                why=f"{kind} names its own sources",
                fix="leave --data out, and change the paths of the sources in the new file",
            )
        text = shipped.read_text(encoding="utf-8")
    else:
        text = _write(kind, model, path, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    made: dict[str, Any] = {"recipe": str(path), "text": str(path)}
    made |= {"missing": data} if data is not None and not is_there(data) else {}
    return {**made, "offline": True} if model is not None and is_shape_alone(model) else made


def _find_kind(kind: str) -> _Kind:
    """The kind of that name, or of that context length. Raises UserError where it is neither, or two lengths."""
    if kind in _KINDS:
        return _KINDS[kind]
    if re.fullmatch(r"[\d.]+[KM]", kind):
        raise UserError(
            f"{kind} may mean two lengths",
            where="the command line",
            why=f"{kind[-1]} is a power of ten in a recipe, and many write it for the power of two, which is {kind}i",
            fix=f"ropewalk new {kind}i, or the number of tokens",
        )
    try:
        tokens = parse_count(_THOUSANDS.sub(lambda found: f"{found[1]}{found[2].upper()}i", kind))
    except ValueError:
        tokens = 0
    if tokens < 1:
        near = _list_near(kind)
        raise UserError(
            f"unknown kind of recipe {kind!r}",
            where="the command line",
            why=f"there are {_OFFERED} for any base, and the shipped recipes {', '.join(near)}",
            fix=f"ropewalk new {near[0]}" if len(near) == 1 else "ropewalk new 32Ki --model Qwen/Qwen3-8B-Base",
        )
    return _Kind(tokens)


def _count_ranks(chosen: _Kind, parameters: float, target: int) -> tuple[int, int]:
    """The ranks of the training, and how many of them share a sequence of ``target`` tokens."""
    fitting = next((ranks for most, ranks in _RANKS if parameters <= most), 8)
    ranks = 1 if chosen.lora else fitting if target <= _LONG_TOKENS else 8
    return ranks, min(ranks, next((sharing for most, sharing in _CONTEXT_RANKS if target <= most), 8))


def _write(kind: str, model: str | None, path: Path, data: str | None) -> str:
    chosen = _find_kind(kind)
    if model is None:
        raise UserError(
            "the base model is missing",
            where="the command line",
            why="positions and lengths depend on it",
            fix=f"ropewalk new {kind} --model FOLDER, or --model ORG/NAME@REVISION",
        )
    shape = read_shape(find_model(model, config_only=True))
    target = chosen.context_tokens or 4 * shape.context_tokens
    if target <= shape.context_tokens:
        raise UserError(
            f"{model} reads {format_length(shape.context_tokens)} tokens already",
            where="the command line",
            why=f"a recipe of kind {kind} makes a model of {format_length(target)}",
            fix="a longer length, or domain, which makes the base's context four times as long",
        )
    try:
        survey = survey_candidates(shape.base_rope, target)
    except UserError as error:
        if "original_max_position_embeddings" not in error.fix:
            raise
        raise UserError(
            error.what,
            where=error.where,
            why=error.why,
            fix=f"ropewalk new {_OPEN_LENGTH}, whose rope names original_tokens, and change it to your base and "
            "length; or write original_max_position_embeddings into config.json of a folder",
        ) from None
    method = survey.find(survey.recommended).method
    keys = {"kind": method.kind, **method.model_dump(mode="json", exclude_defaults=True)}
    if not survey.base.turns:
        keys = {"kind": survey.recommended}
    rope = ", ".join(f"{key}: {_spell(value)}" for key, value in keys.items())
    times = find_multiple(target, shape.context_tokens)
    ranks, context = _count_ranks(chosen, shape.parameters, target)
    return _TEXT.format(
        model=model,
        weights=_quote(f"{model}@main" if is_shape_alone(model) else model),
        offline=" --offline" if is_shape_alone(model) else "",
        file=shlex.quote(str(path)),
        run=_quote(f"runs/{path.stem}"),
        base=format_length(shape.context_tokens),
        target=format_length(target),
        sources=_list_sources(kind, data),
        mix="{domain: 1}"
        if _trains_alone(kind, data)
        else f"{{general: {9 - chosen.domain}, domain: {chosen.domain}, instruction: 1}}",
        rope=f"{{{rope}}}",
        tokens="1B" if chosen.lora else "4B",
        step=format_length(max(target, 1 << 18 if chosen.lora else 1 << 22)),
        lr="1e-4" if chosen.lora else "1e-5",
        size=format_amount(shape.parameters),
        lora=_LORA if chosen.lora else "",
        ranks=ranks,
        context=context,
        lengths=sorted({1, times}),
        times=times,
    )


def _trains_alone(kind: str, data: str | None) -> bool:
    """Whether the recipe reads the user's text and no other; ``domain`` is a mix by its nature."""
    return data is not None and kind != "domain"


def _list_sources(kind: str, data: str | None) -> str:
    """The key ``sources``: the user's text at ``data``, or places to put text of each role."""
    template = _OWN_ALONE if _trains_alone(kind, data) else _SOURCES
    if data is None:
        return template.format(data="data/domain", told=_ENGLISH)
    # In quotes, because YAML reads a folder such as 2024 as a number. A string of JSON is one of YAML.
    return template.format(data=json.dumps(data, ensure_ascii=False), told="")


def _list_near(kind: str) -> list[str]:
    """The shipped recipes with the words of ``kind`` in their names, else those spelled alike; all where none is."""
    words, names = [word for word in kind.lower().replace("/", "-").split("-") if word], list_recipes()
    near = [name for name in names if all(word in name for word in words)]
    return near or difflib.get_close_matches(kind.lower(), names) or names


def _quote(text: str) -> str:
    """``text`` as YAML reads it back: in quotes where it is a number there, or holds a mark such as `` #``."""
    try:
        is_plain = parse_yaml(f"key: {text}", where=text) == {"key": text}
    except UserError:
        is_plain = False
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
