"""Part 8: a base is extended, its weights change, the export loads in plain transformers and gives our logits."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from conformance.tiny_families import CONTEXT_TOKENS, make_model, make_settings
from ropewalk.core.error import UserError
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.lazy_weights import LazyWeights, read_weights
from ropewalk.model.load import build_model, load_model
from ropewalk.model.weights import read_headers
from ropewalk.rope.scaling import Theta
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.read import read_shape
from tiny_tokenizer import write_tokenizer

TOKENS = torch.arange(3, 3 + 21)[None]
WINDOWED = ("MistralForCausalLM", "MixtralForCausalLM")
"""Here every layer has a window, so there is no layer to stretch; the tests of model/ extend them with a pattern."""


def write_base(architecture: str, folder: Path) -> None:
    make_model(architecture).save_pretrained(folder)
    write_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    settings = make_settings(architecture)
    config |= {key: settings[key] for key in ("tie_word_embeddings", "tie_embedding") if key in settings}  # or left out
    if architecture in WINDOWED:
        config["sliding_window"] = None
    (folder / "config.json").write_text(json.dumps(config))


UNTRAINED = ("e_score_correction_bias", "act_fn.beta", "act_fn.eps")


def shift(weights: LazyWeights) -> LazyWeights:
    """Weights after a step of training: matrices of layers moved, and what is not trained kept."""

    def read(name: str) -> torch.Tensor:
        moves = ".layers." in name and not name.endswith(UNTRAINED)
        return weights[name] * 1.25 if moves else weights[name]

    return LazyWeights(weights.shapes, read)


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_an_export_is_the_trained_model_in_plain_transformers(architecture: str, tmp_path: Path) -> None:
    base, extended, out = (tmp_path / name for name in ("base", "extended", "out"))
    write_base(architecture, base)
    shape, config = read_shape(base), json.loads((base / "config.json").read_text())
    try:
        stretched = shape.stretch((), rope=Theta(theta=1e6), context_tokens=4 * CONTEXT_TOKENS).positions
    except UserError:  # no full layer turns, or the base runs a scaled RoPE
        stretched = shape.positions
    if stretched != shape.positions and spell_layers(config, stretched, context_tokens=4 * CONTEXT_TOKENS).native:
        extend(base, extended, rope=Theta(theta=1e6), context_tokens=4 * CONTEXT_TOKENS)
    else:
        extended = base
    export(shift(read_weights(extended)), extended, out, dtype="float32")
    theirs, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    theirs.set_attn_implementation("eager")
    ours = load_model(out)
    ours.set_attn_implementation("eager")
    built = dict(build_model(out).named_buffers())  # without weights, as ranks build it
    for name, buffer in ours.named_buffers():
        if name not in ours.state_dict():
            torch.testing.assert_close(built[name], buffer, rtol=0, atol=0, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS).logits, theirs.eval()(TOKENS).logits, rtol=0, atol=1e-6)
        first = make_model(architecture)
        first.set_attn_implementation("eager")
        assert (theirs(TOKENS).logits - first(TOKENS).logits).norm() > 0.1, "the weights have changed"
    assert {name: each.shape for name, each in read_headers(out).items()} == {
        name: each.shape for name, each in read_headers(base).items()
    }
