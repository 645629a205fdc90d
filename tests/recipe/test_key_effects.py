"""Every key of a recipe is placed, each part's digest moves with its own keys, and no other's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from ropewalk.recipe.key_effects import FREE, SIDES, find_changes, side_of
from ropewalk.recipe.load import load_recipe, parse_recipe
from ropewalk.recipe.part_digests import digest_parts
from ropewalk.recipe.spec import Recipe

ROOMS = ("corpus", "stages", "parallel", "evaluate", "export")
PATH = Path(__file__).parents[2] / "recipes" / "tiny-programme.yaml"


def list_keys(kind: type[BaseModel], room: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if name in ROOMS and not room:
            yield from list_keys(find_spec(field.annotation), name)
        else:
            yield f"{room}.{name}" if room else name


def find_spec(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(find_spec(each) for each in get_args(annotation) if each is not Ellipsis)


def test_every_key_has_a_side() -> None:
    assert sorted(SIDES) == sorted(list_keys(Recipe)), (
        "a new key stands in recipe/key_effects.py, and on which side it does"
    )


def test_what_the_corpus_room_calls_its_content_is_text() -> None:
    content = load_recipe(PATH).corpus.content
    assert {f"corpus.{key}" for key in content} - {"corpus.seed"} == {k for k, side in SIDES.items() if side == "text"}


def change(recipe: Recipe, *overrides: str) -> tuple[Recipe, set[str]]:
    """The recipe with overrides, and the parts whose digest is another one."""
    other = load_recipe(PATH, overrides)
    before, after = digest_parts(recipe), digest_parts(other)
    return other, {name for name in {*before, *after} if before.get(name) != after.get(name)}


@pytest.mark.parametrize(
    "override",
    [
        "parallel={ranks: 8, context_parallel: 4, replicas: 2, precision: bfloat16, states: 8bit, recompute: full}",
        "parallel.recompute_blocks=1",
        "stages.0.checkpoint_steps=7",
        "stages.1.guard.spike=20",
        "stages.0.micro_batch_size=2",
        "corpus.workers=ray",
        "corpus.max_repeats=9",
        "run=elsewhere",
    ],
)
def test_means_are_in_no_digest(override: str) -> None:
    recipe = load_recipe(PATH)
    other, changed = change(recipe, override)
    assert not changed and {each.side for each in find_changes(recipe, other)} <= FREE | {"mix"}


@pytest.mark.parametrize(
    ("override", "first", "same"),
    [
        ("seed=99", "train 0", "initial"),
        ("corpus.held_out=0.3", "corpus", "extend 0"),
        ("stages.1.mix={general: 1}", "train 1", "extend 1"),
        ("stages.1.rope.theta=3e6", "extend 1", "write 0"),
        ("stages.1.tokens=900K", "write 1", "train 1"),
        ("stages.1.merge_with_base=0.5", "write 1", "train 1"),
        ("stages.2.weight_decay=0", "train 2", "extend 2"),
        ("evaluate.answers=50", "evaluate", "gate 0"),
        ("evaluate.seed=5", "gate 0", "write 2"),
        ("evaluate.precision=bfloat16", "gate 0", "write 2"),
        ("evaluate.pairs=[2, 3]", "gate 0", "write 2"),
        ("evaluate.foreign=[{name: essays_en, embedded: essays_en}]", "evaluate", "gate 0"),
        ("export.dtype=float32", "export", "evaluate"),
    ],
)
def test_a_key_moves_its_part_and_what_stands_on_it(override: str, first: str, same: str) -> None:
    _, changed = change(load_recipe(PATH), override)
    assert first in changed and same not in changed


def test_a_gate_depends_on_what_its_own_conditions_read() -> None:
    """Text outside of the mix moves the gate that asks for it; prompts do not move one that asks none."""
    asked = ["stages.0.gate={foreign_loss: 0.01}", "evaluate.foreign=[{name: a, embedded: essays_en}]"]
    gates = [
        digest_parts(load_recipe(PATH, [*asked, *more]))["gate 0"]
        for more in ([], ["evaluate.pairs=[2, 3]"], ["stages.0.gate.otherwise=warn"], ["evaluate.foreign.0.name=b"])
    ]
    assert gates[0] == gates[1] == gates[2] != gates[3]


def test_a_mix_that_a_stage_overrides_is_not_its_own() -> None:
    data = load_recipe(PATH).to_json()
    for stage in data["stages"]:
        stage["mix"] = {"general": 1}
    held = parse_recipe(data, where="test")
    data["corpus"]["mix"] = {"general": 5, "instruction": 1}
    assert digest_parts(held) == digest_parts(parse_recipe(data, where="test"))


def test_changes_are_told_as_overrides_write_them() -> None:
    held = load_recipe(PATH)
    data = held.to_json()
    data["stages"].append({**data["stages"][-1], "lr": 1e-5})
    data["stages"][0]["schedule"]["floor"] = 0.5
    changes = find_changes(held, parse_recipe(data, where="test"))
    assert [change.path for change in changes] == ["stages.0.schedule.floor", f"stages.{len(held.stages)}"]
    assert side_of("stages.0.rope.theta") == "positions" and side_of("model.init.layers") == "model"
