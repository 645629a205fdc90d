"""Classes without a row: what is read off a class equals its row where it has one, and opens all parts where not."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from conformance.tiny_families import CONTEXT_TOKENS
from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.model.architectures import class_of, find_class, is_causal
from ropewalk.model.expert_balance import ExpertBalance
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.guess_family import NOT_GUESSED, guess_family, read_class
from ropewalk.model.lazy_weights import read_weights
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.twin import FEW_EXPERTS, make_config, make_twin
from ropewalk.partition import partition_tokens
from ropewalk.recipe.expert_training import ExpertTraining
from ropewalk.rope.scaling import Theta
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.guessed import GUESSED, describe_guess
from ropewalk.shape.read import parse_shape, read_shape
from tiny_tokenizer import write_tokenizer

DENSE = [
    name for name, row in SUPPORTED.items() if row.experts is None and row.latent is None and row.recurrent is None
]
REFUSED = {
    "Ministral3ForCausalLM": "other programs may use it",
}
"""Rows with a key that no class can be asked for (queries scaled by place)."""
WIDER = {
    ("Ernie4_5ForCausalLM", "qkv_bias"): ("use_bias", False),
    ("Ernie4_5ForCausalLM", "output_bias"): ("use_bias", False),
    ("Ernie4_5ForCausalLM", "mlp_bias"): ("use_bias", False),
    ("StableLmForCausalLM", "qk_norm"): "all_heads",
    ("StableLmForCausalLM", "qk_norm_key"): "qk_layernorm",
    **{(f"{name}ForCausalLM", "equal_heads"): () for name in ("Helium", "GPTNeoX", "StableLm")},
    **{(f"{name}ForCausalLM", "needs_kv_heads"): False for name in ("HunYuanDenseV1", "Apertus", "Jais2")},
}
"""Where a row takes less than its class: a key that it fixes, a number of heads that the file must give, and heads that
it compares with the width (for another class the parameters of the file's sizes are compared)."""
UNKNOWN = ("CwmForCausalLM", "VaultGemmaForCausalLM", "HyperCLOVAXForCausalLM", "NanoChatForCausalLM")
READ_MIXTURES = ("MixtralForCausalLM", "Glm4MoeForCausalLM")
UNKNOWN_MIXTURES = ("SolarOpenForCausalLM", "MellumForCausalLM")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    GUESSED.clear()


@pytest.mark.parametrize("architecture", DENSE)
def test_what_is_read_off_a_class_is_its_row(architecture: str) -> None:
    if architecture in REFUSED:
        with pytest.raises(UserError, match=REFUSED[architecture]):
            read_class(class_of(architecture))
        return
    found, row = read_class(class_of(architecture)), SUPPORTED[architecture]
    for field in fields(row):
        if field.name not in (*NOT_GUESSED, "no_dropout", "default_rope"):
            wanted = WIDER.get((architecture, field.name), getattr(row, field.name))
            assert getattr(found, field.name) == wanted, field.name
    assert {**found.default_rope, "rope_theta": row.theta} == {**row.default_rope, "rope_theta": row.theta} or (
        not row.default_rope and not found.default_rope
    )


@pytest.mark.parametrize("architecture", READ_MIXTURES)
def test_the_mixture_that_is_read_off_a_class_is_its_row(architecture: str) -> None:
    found, row = read_class(class_of(architecture)).experts, SUPPORTED[architecture].experts
    assert found is not None and row is not None
    assert {*found.count} == {*row.count} and replace(found, count=row.count) == row


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("GptOssForCausalLM", "other tensors than transformers' interface runs"),  # transposed
        ("Ernie4_5_MoeForCausalLM", "have experts by no rule"),
        ("HYV3ForCausalLM", r"its files name tensors of the mixture otherwise .*expert_bias"),
        ("AfmoeForCausalLM", "attention has other matrices than Llama's"),
        ("MiMoV2FlashForCausalLM", "values that are wider than the keys"),
    ],
)
def test_a_mixture_that_no_row_describes_is_refused_with_the_reason(architecture: str, why: str) -> None:
    kind = find_class(architecture)
    assert kind is not None
    with pytest.raises(UserError, match=why):
        read_class(kind)


def write_unknown(model: Any, folder: Path) -> None:
    model.float().save_pretrained(folder)
    write_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": CONTEXT_TOKENS, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))


def go_through(kind: Any, tmp_path: Path, changes: Any = None) -> None:
    """Extend, load, change, export and verify a tiny base of a class without a row."""
    base, extended, out = (tmp_path / name for name in ("base", "extended", "out"))
    write_unknown(make_twin(kind, changes), base)
    assert read_shape(base).parameters == sum(each.numel() for each in make_twin(kind, changes).parameters())
    extend(base, extended, rope=Theta(theta=1e8), context_tokens=4 * CONTEXT_TOKENS)
    told = read_manifest(extended)["facts"]["guessed"]
    assert told == describe_guess(kind.__name__) and "MLP" in told
    export(read_weights(extended), extended, out, dtype="float32")
    native = "why_no_class" not in read_manifest(extended)["facts"]
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval() if native else load_model(out)
    ours = load_model(out)
    check_training(out)
    for each in (theirs, ours):
        each.set_attn_implementation("eager")
    tokens = torch.arange(3, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=0, atol=1e-6)


def check_training(folder: Path) -> None:
    """The trainer's loss and gradients of two packed documents are those of each alone."""
    lengths, tokens = (9, 7), torch.arange(3, 19)
    weights = torch.cat([torch.cat([torch.ones(n - 1), torch.zeros(1)]) for n in lengths])
    documents = np.repeat(np.arange(2, dtype=np.int32), lengths)[None]
    positions = torch.cat([torch.arange(n) for n in lengths])
    ours, theirs = load_model(folder), load_model(folder)
    batch = (tokens, positions, tokens.roll(-1), weights)
    loss, _, _ = ModelWithLoss(ours)(*batch, partition=partition_tokens(documents, ranks=1), context_group=None)
    loss.backward()
    theirs.set_attn_implementation("eager")
    expected = torch.zeros(())
    for part in tokens.split(lengths):
        logits = theirs(part[None], use_cache=False).logits[0, :-1]
        expected = expected + torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum")
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("architecture", UNKNOWN)
def test_a_class_without_a_row_is_extended_and_exported(architecture: str, tmp_path: Path) -> None:
    kind = find_class(architecture)
    assert kind is not None and architecture not in SUPPORTED
    go_through(kind, tmp_path)


@pytest.mark.parametrize("architecture", UNKNOWN_MIXTURES)
def test_a_mixture_without_a_row_is_extended_and_trained_and_exported(architecture: str, tmp_path: Path) -> None:
    kind = find_class(architecture)
    assert kind is not None and architecture not in SUPPORTED
    go_through(kind, tmp_path, FEW_EXPERTS)
    assert "scores of experts" in describe_guess(architecture)
    model = load_model(tmp_path / "out")
    learner, tokens, real = ModelWithLoss(model), torch.arange(3, 19), torch.ones(16, dtype=torch.bool)
    learner.balance = balance = ExpertBalance(model, ExpertTraining(balance_loss=0.1))
    with balance.step(16.0), balance.read(real):
        partition = partition_tokens(np.zeros((1, 16), np.int32), ranks=1)
        learner(tokens, torch.arange(16), tokens.roll(-1), real.float(), partition=partition)
    assert balance.table is not None and len(balance.routers) == len(read_shape(tmp_path / "out").experts.layers)  # type: ignore[union-attr]
    experts = balance.table.shape[1] // 2
    assert (balance.table[:, :experts].sum(1) == 2 * 16).all(), "each token chose two"


class OwnConfig(LlamaConfig):  # type: ignore[misc]
    model_type = "own_llama"


class OwnBlock(LlamaDecoderLayer):  # type: ignore[misc]
    """A block with norms after its parts as well, as a user may derive it."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.post_mlp_layernorm = type(self.input_layernorm)(config.hidden_size)

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
        made: Tensor = self.post_mlp_layernorm(super().forward(hidden_states, **given))
        return made


class OwnForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    config_class = OwnConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.layers = nn.ModuleList(OwnBlock(config, index) for index in range(config.num_hidden_layers))
        self.post_init()


class Shift(nn.Module):
    """Adds half of the token before."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + 0.5 * hidden.roll(1, dims=1)


class ShiftedBlock(LlamaDecoderLayer):  # type: ignore[misc]
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.shift = Shift()

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
        return super().forward(self.shift(hidden_states), **given)  # type: ignore[no-any-return]


class ShiftedForCausalLM(OwnForCausalLM):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.layers = nn.ModuleList(ShiftedBlock(config, index) for index in range(config.num_hidden_layers))


def test_a_registered_class_of_a_user_is_read(tmp_path: Path) -> None:
    AutoConfig.register("own_llama", OwnConfig, exist_ok=True)
    AutoModelForCausalLM.register(OwnConfig, OwnForCausalLM, exist_ok=True)
    go_through(OwnForCausalLM, tmp_path)


def test_a_class_that_mixes_tokens_elsewhere_is_refused_with_the_layer_that_does() -> None:
    with pytest.raises(UserError, match=r"Shift \(model\.layers\.0\.shift\) joins tokens outside of attention"):
        read_class(ShiftedForCausalLM)


def test_each_file_is_compared_at_each_read_until_its_sizes_agree() -> None:
    class BonusConfig(LlamaConfig):  # type: ignore[misc]
        model_type = "bonus_llama"

    class BonusForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
        config_class = BonusConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            if getattr(config, "bonus", False):
                self.bonus = nn.Linear(3, 3)

    AutoConfig.register("bonus_llama", BonusConfig)
    AutoModelForCausalLM.register(BonusConfig, BonusForCausalLM)
    config = {**make_config(BonusForCausalLM, {}).to_dict(), "architectures": ["BonusForCausalLM"]}
    for bonus in (True, True, False, True):
        given = {**config, "bonus": bonus}
        if bonus:
            with pytest.raises(UserError, match="row that was read off a tiny model gives"):
                parse_shape(given, "config.json")
        else:
            made = sum(each.numel() for each in make_twin(BonusForCausalLM).parameters())
            assert parse_shape(given, "config.json").parameters == made


def test_the_name_of_a_registered_class_is_no_reason() -> None:
    class NextConfig(LlamaConfig):  # type: ignore[misc]
        model_type = "next_llama"

    class NextLlamaForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
        config_class = NextConfig

    config = {**make_config(NextLlamaForCausalLM, {}).to_dict(), "architectures": ["NextLlamaForCausalLM"]}
    with pytest.raises(UserError, match="linear or recurrent"):
        parse_shape(config, "config.json")
    AutoConfig.register("next_llama", NextConfig)
    AutoModelForCausalLM.register(NextConfig, NextLlamaForCausalLM)
    assert parse_shape(config, "config.json").architecture == "NextLlamaForCausalLM"


def test_a_class_that_is_registered_again_is_read_again() -> None:
    for norms in (0, 1):

        class AgainConfig(LlamaConfig):  # type: ignore[misc]
            model_type = "again_llama"

        base: Any = OwnForCausalLM if norms else LlamaForCausalLM
        again: Any = type("AgainForCausalLM", (base,), {"config_class": AgainConfig})
        AutoConfig.register("again_llama", AgainConfig, exist_ok=True)
        AutoModelForCausalLM.register(AgainConfig, again)
        config = {**make_config(again, {}).to_dict(), "architectures": ["AgainForCausalLM"]}
        assert guess_family("AgainForCausalLM", config, "config.json").block_norms == 2 + norms


def test_a_name_that_nobody_registered_is_refused() -> None:
    with pytest.raises(UserError, match="no causal language model of this name"):
        guess_family("NowhereForCausalLM", {}, "config.json")


def test_whether_a_class_is_causal_is_known_without_all_others() -> None:
    names = MODEL_FOR_CAUSAL_LM_MAPPING._model_mapping
    assert set(names.values()) == {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    assert {name for kind, name in names.items() if kind in CONFIG_MAPPING_NAMES} == {*names.values()}
    assert all(is_causal(class_of(each)) for each in READ_MIXTURES) and is_causal(LlamaForCausalLM)
    strangers = OwnBlock, LlamaModel, ShiftedForCausalLM, type("LlamaForCausalLM", (LlamaForCausalLM,), {})
    assert not any(is_causal(each) for each in strangers)
    with pytest.raises(UserError, match="no causal language model of this name"):
        guess_family("LlamaModel", {}, "config.json")


def test_a_null_that_such_a_class_fails_at_is_a_missing_key() -> None:
    sizes = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 56, "num_hidden_layers": 2, "head_dim": 16}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = {"architectures": ["HyperCLOVAXForCausalLM"], "model_type": "hyperclovax", **sizes}
    nulls = dict.fromkeys(("hidden_act", "tie_word_embeddings", "rms_norm_eps", "rope_scaling"))
    assert parse_shape(config | nulls, "config.json") == parse_shape(config, "config.json")
