"""A Falcon-H1, whose layers have attention and a Mamba-2 side by side, is extended, trained, exported as its class."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from conformance.count_kept import choose_sizes, count_bytes
from conformance.tiny_families import make_model, make_settings
from layer_bytes import largest_block_bytes, stored_block_bytes
from ropewalk import parallelize
from ropewalk.checkpoint.load import load_weights, newest
from ropewalk.commands.advise import describe_stretched_layers
from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.recurrent_layer import RecurrentLayer
from ropewalk.partition.recurrent_cost import RecurrentStates
from ropewalk.plan.block_memory import BlockMemory
from ropewalk.plan.savings import Savings
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Theta, Yarn
from ropewalk.shape.mixers import Mixers
from ropewalk.shape.read import parse_shape, read_shape
from tiny_run import train_extended
from tiny_tokenizer import write_tokenizer

NAME, CONTEXT_TOKENS = "FalconH1ForCausalLM", 64
TOKENS = torch.randint(96, (1, 43), generator=torch.Generator().manual_seed(7))
LENGTHS = [21, 1, 13, 8]
NORMED = pytest.mark.parametrize("changes", [{}, {"mamba_rms_norm": True}], ids=["plain", "normed"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("falcon") / "base"
    make_model(NAME, num_hidden_layers=2).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def test_extend_train_on_two_ranks_and_export(base: Path, prepared: tuple[Path, Path], tmp_path: Path) -> None:
    extended, out = tmp_path / "extended", tmp_path / "out"
    extend(base, extended, rope=Yarn(), context_tokens=CONTEXT_TOKENS)
    told = read_manifest(extended)["facts"]["layers"]
    assert len(told) == 1 and told[0].startswith("0-1: ") and told[0].endswith(", ssd beside attention, no positions")
    assert "yarn" in told[0]
    one, two = (train_extended(tmp_path / str(ranks), extended, prepared[1], ranks) for ranks in (1, 2))
    assert len(one) == 3 and two == pytest.approx(one, rel=1e-5)
    checkpoint = newest(RunFolder(tmp_path / "2").checkpoints(0))
    assert checkpoint is not None
    export(load_weights(checkpoint), extended, out, dtype="float32")
    theirs, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert type(theirs).__name__ == NAME
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ours = load_model(out)
    assert isinstance(ours.model.layers[0].mamba, RecurrentLayer)
    with torch.no_grad():
        packed = ours(**cut(ours)).logits
        alone = torch.cat([theirs.eval()(part).logits for part in TOKENS.split(LENGTHS, dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


def cut(model: Any) -> dict[str, Any]:
    documents = torch.arange(4).repeat_interleave(torch.tensor(LENGTHS))[None]
    arguments: dict[str, Any] = parallelize(model).cut(TOKENS, document_ids=documents)
    return arguments


def sum_losses(logits: Sequence[Tensor]) -> Tensor:
    """The loss of documents with these logits; transformers' own is computed in float32."""
    pairs = zip(logits, TOKENS[0].split(LENGTHS), strict=True)
    return torch.stack([cross_entropy(each[:-1], part[1:], reduction="sum") for each, part in pairs]).sum() / 39


@NORMED
def test_three_steps_on_packed_documents_are_those_of_plain_transformers(changes: dict[str, Any]) -> None:
    """In float64, against each document alone: all weights after three steps of AdamW."""

    def train(loss_of: Callable[[Any], Tensor]) -> tuple[list[float], dict[str, Tensor]]:
        model: Any = make_model(NAME, dtype=torch.float64, num_hidden_layers=2, **changes)
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-4), []
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, dict(model.named_parameters())

    def apart(model: Any) -> Tensor:
        return sum_losses([model(part).logits[0] for part in TOKENS.split(LENGTHS, dim=1)])

    (ours, weights), (theirs, expected) = (
        train(lambda model: sum_losses(model(**cut(model)).logits[0].split(LENGTHS))),
        train(apart),
    )
    assert ours == pytest.approx(theirs, rel=1e-9) and ours[2] < ours[0]
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-8, msg=name)


def test_a_pattern_puts_windows_on_the_attention_alone(base: Path, tmp_path: Path) -> None:
    """The recurrence still reads all earlier tokens; the class itself gets the window as a mask of its attention."""
    extended, window = tmp_path / "extended", 5
    extend(base, extended, rope=Theta(theta=1e6), layers=(LayerRule(window=window),), context_tokens=CONTEXT_TOKENS)
    assert {(each.window_tokens, each.beside) for each in read_shape(extended).positions} == {(window, "ssd")}
    ours = load_model(extended)
    theirs = make_model(NAME, num_hidden_layers=2, rope_theta=1e6)
    theirs.set_attn_implementation("eager")
    steps = torch.arange(TOKENS.shape[1])
    distance = steps[:, None] - steps
    mask = torch.zeros(distance.shape).masked_fill((distance < 0) | (distance >= window), -torch.inf)[None, None]
    with torch.no_grad():
        found = ours(**parallelize(ours).cut(TOKENS)).logits
        masked, whole = (
            theirs(TOKENS, attention_mask={"full_attention": each, "linear_attention": None}).logits
            for each in (mask, torch.zeros_like(mask).masked_fill(distance < 0, -torch.inf))
        )
    torch.testing.assert_close(found, masked, rtol=0, atol=1e-5)
    assert (masked - whole).abs().max() > 1e-2


def test_advice_says_what_is_extended_and_what_has_no_positions() -> None:
    shape = parse_shape(make_settings(NAME), "config.json")
    assert shape.attention_layers == shape.layers == 4 and set(shape.mixers) == {Mixers(True, True)}
    (told,) = describe_stretched_layers(shape)
    assert told == ("4 of 4 layers have ssd beside attention: it has no positions, so the attention alone is extended")


def test_the_plan_adds_what_both_keep_and_what_both_send() -> None:
    shape = parse_shape(make_settings(NAME), "config.json")
    states = RecurrentStates.of_shape(shape)
    assert states == RecurrentStates("ssd", 4, 8, 24, per_attention_layer=1.0, channels=128, taps=3)
    alone = replace(shape, recurrent=None)
    assert largest_block_bytes(shape, 8) == stored_block_bytes(shape, 8) > 1.5 * stored_block_bytes(alone, 8)
    again, kept = (BlockMemory(shape, 8, Savings(way)).second_run() for way in ("full", "save_attention"))
    assert again - kept == 8 * (4 * 16 * 2 + 4 * 4), "the results of attention are kept, and not made again"


@NORMED
def test_saved_bytes_with_and_without_the_norm(changes: dict[str, Any]) -> None:
    sizes = choose_sizes(NAME) | changes
    shape = parse_shape(make_settings(NAME) | sizes, "config.json")
    planned = shape.layers * stored_block_bytes(shape, 1, element_bytes=2)
    assert planned == pytest.approx(sum(count_bytes(NAME, torch.bfloat16, sizes)), rel=0.02)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"mamba_rms_norm": True, "mamba_norm_before_gate": True}, "mamba_norm_before_gate"),
        ({"mamba_d_head": 32}, "mamba_d_head"),
        ({"mamba_d_ssm": ...}, "mamba_d_ssm"),
        ({"layer_types": ["hybrid"] * 4}, "layer_types"),
    ],
)
def test_a_file_that_the_class_reads_in_two_ways_or_not_at_all_is_refused(changes: dict[str, Any], key: str) -> None:
    settings = {name: value for name, value in (make_settings(NAME) | changes).items() if value is not ...}
    with pytest.raises(UserError) as refused:
        parse_shape(settings, "config.json")
    assert key in refused.value.where
