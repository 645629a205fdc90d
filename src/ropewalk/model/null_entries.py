"""The config.json of a text model without the null entries that its class of transformers does not take.

A class of transformers types most of its keys and fails at null. Which keys these are the class itself knows, so it is
asked here; shape/nulls.py knows the same of the keys that make a shape.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from ropewalk.model.architectures import class_of
from ropewalk.shape.families import OWN_TYPE, require_row
from ropewalk.shape.nulls import settle_nulls


def drop_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` of a text model whose shape has been read, without null at keys that its class types otherwise.

    The class then takes its default, as ``parse_shape`` does.
    """
    inner = config.get(OWN_TYPE)
    names = inner["architecture"] if inner else config["architectures"]
    architecture = names if isinstance(names, str) else names[0]
    settled = settle_nulls(config, require_row(architecture))
    kind = class_of(architecture).config_class
    assert kind is not None
    return {key: value for key, value in settled.items() if value is not None or takes_null(kind, key)}


def takes_null(kind: type[PreTrainedConfig], key: str) -> bool:
    """Whether the config class ``kind`` accepts null at ``key``; it accepts anything at a key that is not its own."""
    validators = getattr(kind, "__validators__", {})
    try:
        for name in {key, kind.attribute_map.get(key, key)}:
            for validate in validators.get(name, ()):
                validate(None)
    except (ValueError, TypeError):
        return False
    return True
