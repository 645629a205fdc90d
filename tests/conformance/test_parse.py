"""Part 1: the shape of each family's config.json is the shape of its class, to the parameter."""

from collections.abc import Callable
from pathlib import Path

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
from ropewalk.shape.families import SUPPORTED

CHECKS = (
    check_parameters,
    check_defaults,
    check_rope_without_theta,
    check_live_positions,
    check_layer_kinds,
    check_reach,
    check_directed,
    *RULES,
    check_without_rope,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_the_shape_is_that_of_the_class(architecture: str, check: Callable[[str], None]) -> None:
    check(architecture)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_what_the_class_saves_has_the_same_shape(architecture: str, tmp_path: Path) -> None:
    check_saved(architecture, tmp_path)
