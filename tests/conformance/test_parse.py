"""Part 1: the shape of each family's config.json is the shape of its class, to the parameter."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.checks import check_defaults, check_live_positions, check_parameters
from conformance.tiny_families import make_settings
from ropewalk.model.architectures import class_of
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import parse_shape

CHECKS = (check_parameters, check_defaults, check_live_positions)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_the_shape_is_that_of_the_class(architecture: str, check: Callable[[str], None]) -> None:
    check(architecture)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_what_the_class_saves_has_the_same_shape(architecture: str, tmp_path: Path) -> None:
    settings = make_settings(architecture)
    kind = class_of(architecture)
    config = kind.config_class(**{key: value for key, value in settings.items() if key != "model_type"})
    config.architectures = [architecture]
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert parse_shape(saved, "saved") == parse_shape(settings, "config.json")
