"""Part 4: angles of scaled bases as transformers ran them elsewhere; never from the code under test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.tiny_families import make_settings
from ropewalk.core.error import UserError
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import parse_shape

GOLDEN = Path(__file__).parents[2].parent / "shared" / "reference" / "golden_families.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text())["cases"] if GOLDEN.exists() else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_published_angles(case: dict[str, Any]) -> None:
    names = [name for name, family in SUPPORTED.items() if family.model_type == case["model_type"]]
    if not names:
        with pytest.raises(UserError):
            parse_shape({"architectures": [case["model_type"]], **case["config"]}, "config.json")
        return
    settings = make_settings(names[0])
    for key in (
        "rope_theta",
        "rotary_emb_base",
        "partial_rotary_factor",
        "rotary_pct",
        "rope_parameters",
        "rotary_dim",
        "sliding_window",
    ):
        settings.pop(key, None)
    settings |= case["config"]
    if "head_dim" not in case["config"]:
        settings["head_dim"] = case["head_dim"]
    settings["num_key_value_heads"] = case["config"].get("num_key_value_heads", settings["num_attention_heads"])
    shape = parse_shape(settings, "config.json")
    layer = shape.stretched
    if shape.unequal is not None:  # the case is of the layers with heads of its width
        number = next(at for at in range(shape.layers) if shape.heads_of(at)[1] == case["head_dim"])
        layer = shape.positions[number]
        turned = 2 * int(np.count_nonzero(layer.inv_freq_at(2, case["head_dim"])))
        assert (shape.rotary_dims[number], turned) == (case["head_dim"], case["turned_dims"])
    else:
        assert shape.rotary_dim == case["turned_dims"]
    if shape.latent is not None:
        assert shape.score_scale == pytest.approx(case["score_scale"], rel=1e-12)
    tokens = 1 << 20 if "long" in case["name"] else 2
    dim = shape.rotary_dim if shape.unequal is None else case["head_dim"]
    np.testing.assert_allclose(layer.inv_freq_at(tokens, dim), case["inv_freq"], rtol=3e-7)
