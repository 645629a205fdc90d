"""Hybrids whose files name or cut tensors otherwise than their class: trained on two ranks as on one, and exported."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from conformance.tiny_families import make_model, make_settings
from ropewalk.checkpoint.load import newest
from ropewalk.commands.train import read_trained
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.weights import read_stored
from ropewalk.rope.scaling import Rope, Theta, Unchanged
from tiny_run import CONTEXT_TOKENS, train_extended
from tiny_tokenizer import write_tokenizer

HYBRIDS: dict[str, Rope] = {
    "OlmoHybridForCausalLM": Theta(theta=1e6),
    "NemotronHForCausalLM": Unchanged(),
    "KimiLinearForCausalLM": Unchanged(),
}


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_two_ranks_are_one_and_the_export_has_the_base_s_names(
    architecture: str, prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    base, extended, out = (tmp_path / name for name in ("base", "extended", "out"))
    make_model(architecture, bare=make_settings(architecture)).save_pretrained(base)
    write_tokenizer(base)
    extend(base, extended, rope=HYBRIDS[architecture], context_tokens=CONTEXT_TOKENS)
    one, two = (train_extended(tmp_path / str(ranks), extended, prepared[1], ranks) for ranks in (1, 2))
    assert len(one) == 3 and two == pytest.approx(one, rel=1e-5)
    checkpoint = newest(RunFolder(tmp_path / "2").checkpoints(0))
    assert checkpoint is not None
    export(read_trained(checkpoint, extended), extended, out, dtype="float32")
    assert {name: each.shape for name, each in read_stored(out).items()} == {
        name: each.shape for name, each in read_stored(base).items()
    }
    theirs, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ours, tokens = load_model(out), torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, theirs.eval()(tokens).logits, rtol=0, atol=1e-5)
