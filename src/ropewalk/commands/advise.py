"""``ropewalk advise``: recommends a change of positions for a longer context, from a model's config.json alone.

It needs no GPU, no torch and no training. Only a probe runs the model: it runs every candidate without training.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ropewalk.commands.advise_probe import Probe, probe_candidates
from ropewalk.commands.on_ranks import on_ranks
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_length
from ropewalk.corpus.prepare.workers import count_workers
from ropewalk.recipe.advice import AdviceSpec
from ropewalk.recipe.load import load_recipe, parse_advice
from ropewalk.recipe.named import is_recipe
from ropewalk.recipe.spec import ModelSource
from ropewalk.report.advice import Advised, describe_advice, write_advice
from ropewalk.rope.candidates import ASKED, Survey, survey_candidates
from ropewalk.rope.layers import MLP, LayerPosition, choose_stretched
from ropewalk.rope.scaling import Nope, Rope
from ropewalk.shape.find import find_model
from ropewalk.shape.guessed import describe_guess
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape

PROBE_MINUTES = 30.0
"""The budget of a probe where none is given."""


def advise_model(
    target: Path, arguments: list[str], *, probe: Path | None = None, minutes: float | None = None
) -> dict[str, Any]:
    """Advice on a model folder, or on a recipe's model and last stage; ``arguments`` are ``[OUT] [PATH=VALUE]...``.

    A ``probe`` reads for at most about ``minutes`` (PROBE_MINUTES without it). Writes OUT/advice.html if an OUT is
    given. In the result, ``text`` is for people and the rest is for programs.
    """
    out = Path(arguments[0]) if arguments and "=" not in arguments[0] else None
    _check_out(out)
    _check_minutes(minutes, probe)
    model, spec, ranks = _read_question(target, arguments[1:] if out else arguments)
    base = find_model(model, config_only=probe is None)
    shape = read_shape(base)
    found = survey_candidates(shape.base_rope, spec.context_length, asked=spec.rope)
    probed = Probe([], [])
    if probe is not None:
        probed = _probe(base, found, spec, text=probe, ranks=ranks, minutes=minutes or PROBE_MINUTES)
    needs_pattern = found.base.turns and not any(choose_stretched(shape.positions, shape.context_tokens))
    advised = Advised(
        model, found, describe_stretched_layers(shape), probed.scores, probed.told, needs_pattern=needs_pattern
    )
    result = {"model": model, "layers": list(advised.layers), **found.to_json()}
    if probed.scores:
        result |= {"scores": [asdict(score) for score in probed.scores], "read": probed.told}
    text = describe_advice(advised)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_advice(out / "advice.html", advised)
        result["page"] = str(out / "advice.html")
        text += f"\n\n{out / 'advice.html'}"
    if guessed := describe_guess(shape.architecture):
        result["guessed"] = guessed
        text = f"{guessed}\n\n{text}"
    return {**result, "text": text}


def describe_stretched_layers(shape: ModelShape) -> list[str]:
    """Lines on what a longer context changes of the layers; none if it changes all of each."""
    beside = [layer.beside for layer in shape.positions if layer.beside]
    if not beside:
        return _describe_chosen(shape)
    return [
        *_describe_chosen(shape),
        f"{len(beside)} of {shape.layers} layers have {beside[0]} beside attention: it has no positions, so the "
        "attention alone is extended",
    ]


def _describe_chosen(shape: ModelShape) -> list[str]:
    """A line on the layers that a longer context changes; none if it changes all layers."""
    chosen = choose_stretched(shape.positions, shape.context_tokens)
    kinds = ["" if each else _name_layer(layer) for each, layer in zip(chosen, shape.positions, strict=True)]
    if set(kinds) == {""}:
        return []
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    full = counts.pop("", 0)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    if not shape.base_rope.turns:
        return [f"all layers ({shape.layers}): {told}; a longer context changes none of them"]
    if not full:
        return [
            f"all layers ({shape.layers}): {told}; none is extended automatically, so a pattern (layers:) must "
            "choose the layers"
        ]
    return [
        f"only {full} of {shape.layers} layers have full attention and RoPE: only they are extended, not the {told}"
    ]


def _name_layer(layer: LayerPosition) -> str:
    """The reason why a layer is not stretched; empty for full attention with RoPE."""
    if layer.mixer == MLP:
        return "that are an MLP alone"
    if layer.mixer is not None:
        return f"with {layer.mixer} in place of attention"
    words = ["without RoPE"] if isinstance(layer.rope, Nope) else []
    words += [f"with a window of {format_length(layer.window_tokens)}"] if layer.window_tokens else []
    return " ".join(words)


def _read_question(target: Path, overrides: list[str]) -> tuple[str, AdviceSpec, int | None]:
    """The model, the input of the advice, and the ranks of a probe: from overrides, or from a recipe's last stage.

    Without a recipe the ranks are open, None.
    """
    if not is_recipe(target):
        return str(target), parse_advice(overrides), None
    recipe = load_recipe(target, overrides)
    if isinstance(recipe.model, ModelSource):
        raise UserError(
            "there is no base to extend",
            where="model",
            why="the recipe starts from random weights, which have not been trained with any positions",
            fix="give a recipe whose model is a folder or a hub name, or a model folder",
        )
    stage = recipe.stages[-1]
    rope = None if stage.rope.kind == "unchanged" else stage.rope
    return recipe.model, AdviceSpec(context_length=stage.reach_tokens, rope=rope), recipe.parallel.ranks or None


def _check_out(out: Path | None) -> None:
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(
            "the page needs a folder",
            where=str(out),
            why="a file has that name",
            fix="give another folder, or remove the file",
        )


def _check_minutes(minutes: float | None, probe: Path | None) -> None:
    if minutes is not None and (probe is None or minutes <= 0):
        raise UserError(
            "the budget in minutes cannot be used",
            where="--minutes",
            why="there is no --probe, and nothing else takes long" if probe is None else f"it is {minutes:g}",
            fix="add --probe TEXT, or leave it out" if probe is None else "give more than 0",
        )


def _probe(base: Path, found: Survey, spec: AdviceSpec, *, text: Path, ranks: int | None, minutes: float) -> Probe:
    """The candidates in the order of their worth, read on all cores: GPUs if there are any."""
    from ropewalk.parallel.device import count_gpus

    first = ["unchanged", found.recommended, ASKED, "yarn"]
    ordered = sorted(found.candidates, key=lambda each: first.index(each.name) if each.name in first else len(first))
    methods = {each.name: cast(Rope, each.method) for each in ordered}
    ranks = ranks or max(1, count_gpus())
    threads = max(1, count_workers("processes", None) // ranks)
    arguments = (base, methods, spec, text, found.base.context_tokens, minutes)
    probed: Probe = on_ranks(_probe_on_rank, ranks, *arguments, threads=threads)
    return probed


def _probe_on_rank(
    base: Path, methods: dict[str, Rope], spec: AdviceSpec, text: Path, base_tokens: int, minutes: float
) -> Probe:
    return probe_candidates(base, methods, spec, text=text, base_tokens=base_tokens, minutes=minutes)
