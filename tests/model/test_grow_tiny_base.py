"""The tiny base with each layer doubled computes what the tiny base computes, and its copies can learn."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from programs import load_program
from ropewalk.shape.find import TINY_BASE


def test_the_doubled_model_begins_as_the_same_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("grow_tiny_base", monkeypatch)
    program.main(tmp_path / "grown")
    base, grown = (LlamaForCausalLM.from_pretrained(folder) for folder in (TINY_BASE, tmp_path / "grown"))
    assert (len(base.model.layers), len(grown.model.layers)) == (3, 6)
    tokens = torch.randint(4096, (1, 40), generator=torch.Generator().manual_seed(0))
    loss = grown(tokens, labels=tokens).loss
    torch.testing.assert_close(grown(tokens).logits, base(tokens).logits)
    loss.backward()
    for number, layer in enumerate(grown.model.layers):
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            assert bool(projection.weight.any()) == (number % 2 == 0), "copies have no output yet"
            assert projection.weight.grad.any(), "what is zero must not stay zero"
