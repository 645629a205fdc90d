"""Part 11: each field of a row is needed: with the value of Llama in its place some part fails."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest

from conformance.checks import (
    check_defaults,
    check_directed,
    check_layer_kinds,
    check_live_positions,
    check_parameters,
    check_reach,
    check_rope_without_theta,
    check_saved,
    check_without_rope,
)
from conformance.row_rules import RULES
from conformance.test_loss import check_loss
from conformance.test_routers import check_router
from conformance.tiny_families import make_model
from ropewalk.model.architectures import attention_of, blocks_of, mlp_of
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.family import ExpertKeys, Family, LatentKeys, RecurrentKeys
from ropewalk.shape.wrappers import WRAPPERS

ELSEWHERE = {
    "assumes_more": "tests/shape/test_layer_keys.py",
    "model_type": "every row has its own",
    "may_have_none": "tests/shape/test_altered_files.py",
}
"""Fields that another test holds."""


def default_of(field: Any) -> Any:
    return field.default_factory() if field.default is MISSING else field.default


def mutations() -> Iterator[tuple[str, str]]:
    for name, family in SUPPORTED.items():
        for field in fields(Family):
            if field.name not in ELSEWHERE and getattr(family, field.name) != default_of(field):
                yield name, field.name


def check_paths(architecture: str) -> None:
    """The paths of a block's parts are modules of the class."""
    model = make_model(architecture)
    for block in blocks_of(model):
        mlp_of(model, block), attention_of(model, block)


CHECKS: tuple[Callable[[str], None], ...] = (
    *RULES,
    check_parameters,
    check_paths,
    check_live_positions,
    check_defaults,
    check_rope_without_theta,
    check_layer_kinds,
    check_reach,
    check_directed,
    check_without_rope,
    check_loss,
)


@pytest.mark.parametrize(("architecture", "field"), mutations())
def test_a_row_without_one_field_is_found_out(
    architecture: str, field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    default = next(default_of(each) for each in fields(Family) if each.name == field)
    monkeypatch.setitem(SUPPORTED, architecture, replace(SUPPORTED[architecture], **{field: default}))  # type: ignore[arg-type]
    with pytest.raises(Exception):  # noqa: B017 - any part may fail, in its own way
        for check in RULES:  # they need no model and no file, and find most
            check(architecture)
        check_saved(architecture, tmp_path)
        for check in CHECKS[len(RULES) :]:
            check(architecture)


def mixture_mutations() -> Iterator[tuple[str, str]]:
    for name, family in SUPPORTED.items():
        for field in fields(ExpertKeys):
            if family.experts is None or field.name in ELSEWHERE:
                continue
            if getattr(family.experts, field.name) != field.default:
                yield name, field.name


@pytest.mark.parametrize(("architecture", "field"), mixture_mutations())
def test_a_mixture_without_one_field_is_found_out(
    architecture: str, field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    family = SUPPORTED[architecture]
    assert family.experts is not None
    default = next(each.default for each in fields(ExpertKeys) if each.name == field)
    changed = replace(family, experts=replace(family.experts, **{field: default}))  # type: ignore[arg-type]
    monkeypatch.setitem(SUPPORTED, architecture, changed)  # type: ignore[misc]
    with pytest.raises(Exception):  # noqa: B017
        check_saved(architecture, tmp_path)
        for check in (check_router, *CHECKS):
            check(architecture)


def latent_mutations() -> Iterator[tuple[str, str]]:
    for name, family in SUPPORTED.items():
        for field in fields(LatentKeys):
            if family.latent is not None and getattr(family.latent, field.name) != field.default:
                yield name, field.name


@pytest.mark.parametrize(("architecture", "field"), latent_mutations())
def test_a_latent_attention_without_one_field_is_found_out(
    architecture: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = SUPPORTED[architecture]
    assert family.latent is not None
    changed = replace(family, latent=replace(family.latent, **{field: False}))
    monkeypatch.setitem(SUPPORTED, architecture, changed)  # type: ignore[misc]
    with pytest.raises(Exception):  # noqa: B017
        for check in CHECKS:
            check(architecture)


def recurrent_mutations() -> Iterator[tuple[str, str]]:
    for name, family in SUPPORTED.items():
        for field in fields(RecurrentKeys):
            if family.recurrent is None or field.default is MISSING:
                continue
            if getattr(family.recurrent, field.name) != field.default:
                yield name, field.name


@pytest.mark.parametrize(("architecture", "field"), recurrent_mutations())
def test_a_recurrence_without_one_field_is_found_out(
    architecture: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = SUPPORTED[architecture]
    assert family.recurrent is not None
    default = next(each.default for each in fields(RecurrentKeys) if each.name == field)
    changed = replace(family, recurrent=replace(family.recurrent, **{field: default}))  # type: ignore[arg-type]
    monkeypatch.setitem(SUPPORTED, architecture, changed)  # type: ignore[misc]
    with pytest.raises(Exception):  # noqa: B017
        for check in CHECKS:
            check(architecture)


def test_the_suite_has_the_kinds_that_people_train() -> None:
    assert len({family.model_type for family in SUPPORTED.values()}) >= 45
    assert sum(family.experts is not None for family in SUPPORTED.values()) >= 8
    assert sum(family.latent is not None for family in SUPPORTED.values()) >= 2
    assert len(WRAPPERS) >= 3
