"""Every method and pattern that a recipe can name is what the model runs: packed, on one rank and on two."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from ropewalk.core.artifact import read_manifest
from ropewalk.model.architectures import head_of
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import Partition, local_shard, partition_tokens
from ropewalk.rope.layers import LayerPosition, LayerRule
from ropewalk.shape.families import OWN_ARCHITECTURE
from ropewalk.shape.read import read_shape
from slow_llama import slow_logits
from sum_tensors import sum_tensors

WriteTiny = Callable[..., Path]
VOCABULARY, HEAD_DIM, ORIGINAL, TARGET = 97, 8, 32, 128
ROWS = ((20, 33, 43), (96,), (31, 32, 5))  # documents around the original length; the last row ends in padding
CONTEXT = 96
LAYOUTS = ("contiguous", "balanced", "local")
KEPT = {"kind": "unchanged"}
LONG = {"kind": "longrope", "long_factor": [1.0, 1.5, 3.0, 4.0], "short_factor": [1.0, 1.0, 1.1, 1.2]}


@dataclass(frozen=True)
class Case:
    """What a stage says, and the class that its folder must be of."""

    rope: dict[str, Any]
    layers: tuple[dict[str, Any], ...] = ()
    architecture: str = "LlamaForCausalLM"

    def extend(self, base: Path, out: Path, *, context_tokens: int = TARGET) -> Path:
        pattern = tuple(LayerRule.model_validate(rule) for rule in self.layers)
        rope = LayerRule.model_validate({"rope": self.rope}).rope
        assert rope is not None
        extend(base, out, rope=rope, layers=pattern, context_tokens=context_tokens)
        return out


CASES = {
    "theta": Case({"kind": "theta", "theta": 1e6}),
    "linear": Case({"kind": "linear"}),
    "ntk": Case({"kind": "ntk"}),
    "dynamic": Case({"kind": "dynamic", "factor": 2.0}),
    "ntk_by_parts": Case({"kind": "ntk_by_parts"}),
    "yarn": Case({"kind": "yarn", "truncate": False}),
    "llama3": Case({"kind": "llama3"}),
    "longrope": Case(LONG),
    "resonance": Case({"kind": "resonance"}),
    "proportional": Case({"kind": "proportional", "share": 0.5}),
    "nope": Case({"kind": "nope"}, (), "SmolLM3ForCausalLM"),
    "windows": Case({"kind": "yarn"}, ({"window": 8}, {"window": 8}, {"window": 8}, {}), "MinistralForCausalLM"),
    "windows alone": Case(KEPT, ({"window": 40},), "MistralForCausalLM"),
    "rnope": Case(KEPT, ({"window": 12}, {"rope": "nope"}), "SmolLM3ForCausalLM"),
    "no rope in four": Case({"kind": "theta", "theta": 1e6}, ({}, {}, {}, {"rope": "nope"}), "SmolLM3ForCausalLM"),
    "scaled where full": Case(
        {"kind": "yarn"}, (*[{"window": 8, "rope": KEPT}] * 3, {"rope": {"kind": "yarn"}}), OWN_ARCHITECTURE
    ),
    "mixed windows": Case({"kind": "linear"}, ({"window": 8}, {"window": 16}, {}, {"window": 1}), OWN_ARCHITECTURE),
    "log-n": Case({"kind": "theta", "theta": 1e6}, ({"temperature": "log_n"}, {}), OWN_ARCHITECTURE),
    "everything": Case(
        {"kind": "dynamic"},
        ({"window": 8, "rope": KEPT}, {}, {"rope": "nope", "temperature": "log_n"}, {"window": 40, "rope": LONG}),
        OWN_ARCHITECTURE,
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, write_tiny: WriteTiny) -> Path:
    return write_tiny(tmp_path_factory.mktemp("base"), "LlamaForCausalLM", num_hidden_layers=4)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every case, extended from one base."""
    out = tmp_path_factory.mktemp("cases")
    return {name: case.extend(base, out / name.replace(" ", "-")) for name, case in CASES.items()}


def packed() -> dict[str, np.ndarray]:
    """Rows of documents: tokens, positions, document ids, labels, weights; [rows, context] each."""
    random = np.random.default_rng(0)
    document = np.full((len(ROWS), CONTEXT), -1, np.int32)
    positions = np.zeros((len(ROWS), CONTEXT), np.int64)
    for row, lengths in enumerate(ROWS):
        for index, (start, stop) in enumerate(pairwise(np.cumsum([0, *lengths]))):
            document[row, start:stop], positions[row, start:stop] = index, np.arange(stop - start)
    tokens, labels = (random.integers(VOCABULARY, size=document.shape) for _ in range(2))
    weights = random.random(document.shape) * (document >= 0)
    return {"document": document, "tokens": tokens, "positions": positions, "labels": labels, "weights": weights}


def documents() -> list[tuple[slice, torch.Tensor]]:
    """Where each document stands among the rows laid end to end, and its tokens."""
    tokens, found = packed()["tokens"].reshape(-1), []
    for row, lengths in enumerate(ROWS):
        for start, stop in pairwise(np.cumsum([0, *lengths]) + row * CONTEXT):
            found.append((slice(int(start), int(stop)), torch.from_numpy(tokens[start:stop])))
    return found


@torch.no_grad()
def packed_logits(model: PreTrainedModel, tokens: np.ndarray | None = None) -> torch.Tensor:
    rows = packed()
    partition = partition_tokens(rows["document"], ranks=1)
    flat = (
        torch.from_numpy(each.reshape(-1)) for each in (rows["tokens"] if tokens is None else tokens, rows["positions"])
    )
    return ModelWithLoss(model).read(*flat, partition=partition) @ head_of(model).T


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("name", CASES)
def test_packed_documents_are_what_each_position_means(folders: dict[str, Path], name: str) -> None:
    shape = read_shape(folders[name])
    model = load_model(folders[name])
    found, weights = packed_logits(model), model.state_dict()
    assert read_manifest(folders[name])["facts"]["architecture"] == CASES[name].architecture
    changes = 0.0
    for where, tokens in documents():
        truth = slow_logits(weights, shape.positions, tokens, head_dim=HEAD_DIM)
        assert distance(found[where], truth) < 2e-6
        plain = slow_logits(weights, (LayerPosition(rope=KEPT, theta=1e4),) * 4, tokens, head_dim=HEAD_DIM)
        changes = max(changes, distance(plain, truth))
    assert changes > 1e-2, "the case changes nothing, so proves nothing"


@pytest.mark.parametrize("name", CASES)
def test_a_plain_call_is_the_same_model(folders: dict[str, Path], name: str) -> None:
    """Without a partition ours equals packing; and where transformers has the class, its own attention agrees."""
    model, rows = load_model(folders[name]), packed_logits(load_model(folders[name]))
    native = CASES[name].architecture != OWN_ARCHITECTURE
    kinds = ("sdpa", "eager") if native else ()
    theirs = [AutoModelForCausalLM.from_pretrained(folders[name], attn_implementation=kind) for kind in kinds]
    for where, tokens in documents():
        with torch.no_grad():
            ours = model(tokens[None]).logits[0]
            assert distance(ours, rows[where]) < 2e-6
            for plain in theirs:
                plain.model.rotary_emb.__init__(plain.config)  # dynamic remembers the longest text it has seen
                assert distance(plain(tokens[None]).logits[0], ours) < 5e-6


def test_generation_with_a_cache_goes_on_as_one_reading_does(folders: dict[str, Path]) -> None:
    for name in ("scaled where full", "mixed windows", "log-n", "windows", "rnope"):
        model, prompt = load_model(folders[name]), torch.arange(1, 41)[None]  # 0 is padding here
        settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        written = model.generate(prompt, **settings)
        with torch.no_grad():
            for place in range(40, 46):
                assert model(written[:, :place]).logits[0, -1].argmax() == written[0, place], name
    padded = torch.cat([torch.zeros(1, 9, dtype=torch.long), prompt], dim=1)
    mask = (torch.arange(49) >= 9)[None].long()
    with torch.no_grad():
        alone = model(prompt).logits[0]
        assert distance(model(padded, attention_mask=mask).logits[0, 9:], alone) < 1e-5, "left padding moves nothing"


@pytest.mark.parametrize("name", CASES)
def test_no_token_sees_a_later_one_or_another_document(folders: dict[str, Path], name: str) -> None:
    model, rows = load_model(folders[name]), packed()
    before = packed_logits(model)
    place = 20 + 15  # in the second document of the first row
    rows["tokens"][0, place] = (rows["tokens"][0, place] + 1) % VOCABULARY
    moved = (packed_logits(model, rows["tokens"]) - before).abs().amax(dim=1) > 0
    assert not moved[:place].any() and not moved[20 + 33 :].any() and moved[place : 20 + 33].any()


def learn(folder: Path, layout: str, exchange: str = "auto", recompute: Any = "none") -> tuple[float, dict[str, Any]]:
    """Loss and gradients in float64 of all rows, from this rank's share: called by run_ranks."""
    ranks = dist.get_world_size()
    group = dist.group.WORLD if ranks > 1 else None
    learner = ModelWithLoss(load_model(folder).double()).train()
    set_recompute(learner.causal, recompute)
    rows = packed()
    partition = partition_tokens(rows["document"], ranks=ranks, layout=layout, exchange=exchange)
    tokens, positions, labels, weights = (
        torch.from_numpy(local_shard(partition, dist.get_rank(), rows[name]))
        for name in ("tokens", "positions", "labels", "weights")
    )
    hidden = learner.read(tokens, positions, partition=partition, context_group=group)
    loss = (cross_entropy(hidden @ head_of(learner.causal).T, labels, reduction="none") * weights).sum()
    loss.backward()
    total = loss.detach().clone()
    sum_tensors([total, *(parameter.grad for parameter in learner.parameters())])
    return total.item(), {name: parameter.grad for name, parameter in learner.named_parameters()}


def assert_same(found: tuple[float, dict[str, Any]], expected: tuple[float, dict[str, Any]], where: str) -> None:
    # Norms are computed in float32 whatever the model's type, and a rounding there may fall the other way.
    assert found[0] == pytest.approx(expected[0], rel=1e-8), where
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-6 * gradient.norm(), (where, name)


def learn_all(folders: dict[str, Path], cuts: list[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    return {(name, layout): learn(folders[name], layout) for name, layout in cuts}


def test_two_ranks_equal_one_in_loss_and_every_gradient(folders: dict[str, Path]) -> None:
    """Every case with documents of all lengths across the cut, and the one that has everything in every layout."""
    assert partition_tokens(packed()["document"], ranks=2, layout="zigzag").exchanges
    (one,) = run_ranks(learn_all, 1, folders, [(name, "auto") for name in CASES])
    cuts = [(name, "zigzag") for name in CASES] + [("everything", layout) for layout in LAYOUTS]
    for two in run_ranks(learn_all, 2, folders, cuts):
        for (name, layout), found in two.items():
            assert_same(found, one[name, "auto"], f"{name}, {layout}")


@pytest.mark.parametrize("name", ["everything", "windows"])
def test_recompute_and_exchanges_change_nothing(folders: dict[str, Path], name: str) -> None:
    ways: list[tuple[str, Any]] = [("ring", "full"), ("all_gather", "none"), ("auto", "full")]

    def learn_ways() -> list[tuple[float, dict[str, Any]]]:
        return [learn(folders[name], "zigzag", exchange, recompute) for exchange, recompute in ways]

    (one,) = run_ranks(learn, 1, folders[name], "auto")
    for found in run_ranks(learn_ways, 2):
        for two, way in zip(found, ways, strict=True):
            assert_same(two, one, ", ".join(way))


def test_identity_patterns_are_the_base_bit_for_bit(base: Path, tmp_path: Path) -> None:
    before = packed_logits(load_model(base))
    everywhere = Case(KEPT, ({"rope": KEPT}, {})).extend(base, tmp_path / "all", context_tokens=ORIGINAL)
    assert torch.equal(packed_logits(load_model(everywhere)), before)
    wide = Case(KEPT, ({"window": 96},)).extend(base, tmp_path / "wide")
    assert read_shape(wide).architecture == "MistralForCausalLM"
    assert torch.equal(packed_logits(load_model(wide)), before)
    own = Case(KEPT, ({"temperature": "log_n"},)).extend(base, tmp_path / "own")
    assert read_manifest(own)["facts"]["architecture"] == OWN_ARCHITECTURE
    tokens = torch.arange(ORIGINAL)[None]
    with torch.no_grad():
        assert torch.equal(load_model(own)(tokens).logits, load_model(base)(tokens).logits)


WINDOWED = {
    "MistralForCausalLM": {"sliding_window": 6},
    "Qwen2ForCausalLM": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "Qwen3ForCausalLM": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "SmolLM3ForCausalLM": {"use_sliding_window": True, "sliding_window": 6, "layer_types": ["sliding_attention"] * 2},
}


@pytest.mark.parametrize("architecture", WINDOWED)
def test_windows_of_a_class_run_packed_and_on_two_ranks(
    write_tiny: WriteTiny, tmp_path: Path, architecture: str
) -> None:
    folder = write_tiny(tmp_path, architecture, **WINDOWED[architecture])
    assert {layer.window_tokens for layer in read_shape(folder).positions} >= {6}
    found = packed_logits(load_model(folder))
    for kind in ("sdpa", "eager"):
        plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=kind)
        for where, tokens in documents():
            with torch.no_grad():
                assert distance(found[where], plain(tokens[None]).logits[0]) < 2e-6
    (one,) = run_ranks(learn, 1, folder, "auto")
    for two in run_ranks(learn, 2, folder, "zigzag"):
        assert_same(two, one, architecture)


@pytest.mark.parametrize("architecture", ["Olmo3ForCausalLM", "Gemma3ForCausalLM"])
def test_full_layers_alone_are_stretched_where_a_class_has_a_rope_for_each_type(
    write_tiny: WriteTiny, tmp_path: Path, architecture: str
) -> None:
    base = write_tiny(tmp_path, architecture)
    out = Case({"kind": "yarn"}).extend(base, tmp_path / "out")
    assert [layer.rope.kind for layer in read_shape(out).positions] == ["unchanged", "yarn"]
    found, plain = packed_logits(load_model(out)), AutoModelForCausalLM.from_pretrained(out)
    for where, tokens in documents():
        with torch.no_grad():
            assert distance(found[where], plain(tokens[None]).logits[0]) < 2e-6
    # Without any window the class still asks for a size.
    flat = Case(KEPT, ({},)).extend(base, tmp_path / "flat")
    with torch.no_grad():
        assert AutoModelForCausalLM.from_pretrained(flat)(torch.arange(9)[None]).logits.isfinite().all()


def test_frequencies_are_made_once_a_forward_for_layers_alike(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = Partition.document_tokens

    def count(partition: Partition, rank: int) -> np.ndarray:
        calls.append(rank)
        return original(partition, rank)

    monkeypatch.setattr(Partition, "document_tokens", count)
    model = load_model(folders["dynamic"])
    packed_logits(model)
    packed_logits(model)
    assert len(calls) == 2, "four layers, two forwards"
