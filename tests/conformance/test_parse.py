"""Part 1: the shape of each family's config.json is the shape of its class, to the parameter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.tiny_families import make_settings
from ropewalk.model.architectures import class_of
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import parse_shape


def count(settings: dict[str, Any]) -> int:
    kind = class_of(settings["architectures"][0])
    config = kind.config_class(**{key: value for key, value in settings.items() if key != "model_type"})
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(config).parameters())


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_parameters_are_those_of_the_class(architecture: str) -> None:
    settings = make_settings(architecture)
    assert parse_shape(settings, "config.json").parameters == count(settings)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_what_the_class_saves_has_the_same_shape(architecture: str, tmp_path: Path) -> None:
    settings = make_settings(architecture)
    kind = class_of(architecture)
    config = kind.config_class(**{key: value for key, value in settings.items() if key != "model_type"})
    config.architectures = [architecture]
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert parse_shape(saved, "saved") == parse_shape(settings, "config.json")
