"""Biases in a model: where they live, what they do to it, and that a machine without a GPU is told in time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as flex
from transformers import AutoModelForCausalLM

from ropewalk.attention.bias import alibi_slopes
from ropewalk.core.error import UserError
from ropewalk.model import load
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.weights import read_headers
from ropewalk.partition import partition_tokens
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Theta
from ropewalk.shape.read import read_shape
from type_checks import no_checks


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes away what keeps biases off a CPU: our check, FlexAttention's, and types that it cannot trace."""
    monkeypatch.setattr(load, "require_gpu", lambda device: None)
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    with no_checks():
        yield


def extend_with(base: Path, *rules: dict[str, Any]) -> Path:
    out = base.with_name(f"{base.name}-extended")
    pattern = tuple(LayerRule.model_validate(rule) for rule in rules)
    extend(base, out, rope=Theta(theta=1e5), layers=pattern, context_tokens=64)
    return out


def read(model: Any, *, document: np.ndarray, positions: torch.Tensor) -> torch.Tensor:
    tokens = torch.arange(document.size) % 90
    return ModelWithLoss(model).read(tokens, positions, partition=partition_tokens(document, ranks=1))


DOCUMENT = np.array([[0] * 20 + [1] * 30], dtype=np.int32)
POSITIONS = torch.cat([torch.arange(20), torch.arange(30)])


@pytest.mark.parametrize("bias", ["alibi", "fire"])
def test_a_machine_without_a_gpu_is_told_and_nothing_stands(save_tiny: Callable[..., Path], bias: str) -> None:
    base = save_tiny()
    with pytest.raises(UserError, match="needs a GPU"):
        extend_with(base, {"bias": bias})
    assert [path.name for path in base.parent.iterdir()] == [base.name]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_alibi_equals_plain_attention_with_a_matrix_of_biases(
    save_tiny: Callable[..., Path], without_gpu: None
) -> None:
    base = save_tiny("Qwen3ForCausalLM")
    model = load_model(extend_with(base, {"rope": "unchanged", "bias": "alibi"}))
    plain = load_model(base)
    plain.set_attn_implementation("sdpa")
    distance = POSITIONS[:, None] - POSITIONS
    slopes = alibi_slopes(plain.config.num_attention_heads).float()
    ids = torch.from_numpy(DOCUMENT[0])
    seen = (ids[:, None] == ids) & torch.ones(50, 50).tril().bool()
    matrix = (-slopes[:, None, None] * distance).masked_fill(~seen, -torch.inf)[None]
    with torch.no_grad():
        ours = read(model, document=DOCUMENT, positions=POSITIONS)
        settings: dict[str, Any] = {"input_ids": torch.arange(50)[None] % 90, "position_ids": POSITIONS[None]}
        truth = plain.model(**settings, attention_mask=matrix, use_cache=False).last_hidden_state[0]
        unbiased = plain.model(**settings, use_cache=False).last_hidden_state[0]
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)
    assert (truth - unbiased).abs().max() > 1e-2
    with pytest.raises(UserError, match="needs the documents of its tokens"):
        model(input_ids=torch.arange(5)[None])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_fire_starts_as_the_base_learns_and_is_exported(
    save_tiny: Callable[..., Path], without_gpu: None, tmp_path: Path, shard_bytes: int
) -> None:
    base = save_tiny(shard_bytes=shard_bytes)
    folder = extend_with(base, {"rope": "unchanged", "bias": "fire"}, {"rope": "unchanged"})
    names = [name for name in read_headers(folder) if "score_bias" in name]
    assert len(names) == 5 and all(name.startswith("model.layers.0.self_attn.") for name in names)
    model = load_model(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == read_shape(folder).parameters
    hidden = read(model, document=DOCUMENT, positions=POSITIONS)
    with torch.no_grad():
        before = read(load_model(base), document=DOCUMENT, positions=POSITIONS)
    torch.testing.assert_close(hidden, before, rtol=1e-4, atol=1e-5)
    hidden.square().sum().backward()
    learnt = {name: parameter for name, parameter in model.named_parameters() if "score_bias" in name}
    assert learnt.keys() == set(names)
    assert learnt[names[0].rsplit(".", 2)[0] + ".curves.weight"].grad.norm() > 0
    with torch.no_grad():
        for parameter in learnt.values():
            parameter.add_(0.3)
        moved = read(model, document=DOCUMENT, positions=POSITIONS)
        export(model.state_dict(), folder, tmp_path / "out", dtype="float32")
        again = read(load_model(tmp_path / "out"), document=DOCUMENT, positions=POSITIONS)
    assert torch.equal(moved, again) and (moved - before).abs().max() > 1e-3
    with pytest.raises((ValueError, KeyError)):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")
