"""Compiled blocks: how many programs there are, what they are not made for, and that the real compiler's are right."""

import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.utils import run_and_get_code
from transformers import PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.model.attention_interface import NAME
from ropewalk.model.compiled import compile_in_place, compiles_once, require_compiler
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.rope_hooks import direct_positions
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import partition_tokens
from ropewalk.rope.layers import LayerPosition
from ropewalk.rope.scaling import Dynamic

Make = Callable[..., PreTrainedModel]
pytestmark = pytest.mark.skipif(not compiles_once(), reason="this torch builds a program for each pack")


@pytest.fixture(autouse=True)
def forget_programs() -> Iterator[None]:
    """Programs of other tests are found by code, whichever model they were made for."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build_model_with_loss(make: Make, *, backend: str | None, tile_tokens: int | None = None) -> ModelWithLoss:
    learner = ModelWithLoss(make(attn_implementation=NAME, num_hidden_layers=3, tie_word_embeddings=True)).train()
    if tile_tokens is not None:
        if backend is not None:
            compile_in_place((block.get_submodule("mlp") for block in learner.blocks), backend=backend)
        tile_mlps(learner.causal, tile_tokens)
    if backend is not None:
        compile_in_place(learner.blocks, backend=backend)
    return learner


def read(learner: ModelWithLoss, seed: int, tokens: int = 40) -> torch.Tensor:
    """The loss of a row of documents that nobody has seen before."""
    random = np.random.default_rng(seed)
    document = np.sort(random.integers(0, 1 + random.integers(5), size=(1, tokens))).astype(np.int32)
    starts = np.flatnonzero(np.append(True, document[0, 1:] != document[0, :-1]))
    places = np.arange(tokens) - np.repeat(starts, np.diff(np.append(starts, tokens)))
    row = torch.from_numpy(random.integers(90, size=tokens))
    partition = partition_tokens(document, ranks=1)
    fields = row, torch.from_numpy(places), row.roll(-1), torch.ones(tokens)
    loss: torch.Tensor = learner(*fields, partition=partition)[0]
    return loss


@pytest.mark.parametrize(("recompute", "tile_tokens"), [("none", None), ("save_attention", 16)])
def test_new_packs_and_more_layers_need_no_new_program(
    make_tiny: Make, recompute: str, tile_tokens: int | None
) -> None:
    make = partial(make_tiny, "LlamaForCausalLM")
    learner = build_model_with_loss(make, backend="eager", tile_tokens=tile_tokens)
    set_recompute(learner.causal, recompute)  # type: ignore[arg-type]
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    read(learner, 0).backward()
    once = counted["unique_graphs"]
    tiles = 0 if tile_tokens is None else 2 * 2 + 1  # whole and last tile, forward and backward; no MLP in its block
    assert once == 4 + tiles, "norm, projections in and out, MLP: of one block, not of three"
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(1, 5):
            read(learner, seed).backward()
        learner.eval()
        with torch.no_grad():
            read(learner, 5, tokens=17)  # a panel's row: as it stands
    assert counted["unique_graphs"] == once
    learner.train()
    read(learner, 6, tokens=24).backward()
    assert counted["unique_graphs"] > once, "another length of training rows is another program"


def test_told_positions_are_not_traced(make_tiny: Make) -> None:
    """The hooks compare identities and keep what they made: traced, they would be compiled for every row."""
    learners = [build_model_with_loss(partial(make_tiny, "LlamaForCausalLM"), backend=each) for each in ("eager", None)]
    position = LayerPosition(rope=Dynamic(factor=4.0, original_tokens=16), theta=1e4)
    for learner in learners:
        direct_positions(learner.causal, [position] * 3, head_dim=8, native=False)
    read(learners[0], 0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(1, 4):
            assert torch.equal(read(learners[0], seed), read(learners[1], seed))


def test_names_of_weights_stay(make_tiny: Make) -> None:
    make = partial(make_tiny, "LlamaForCausalLM")
    names = [list(build_model_with_loss(make, backend=each, tile_tokens=16).state_dict()) for each in ("eager", None)]
    assert names[0] == names[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_real_compiler(make_tiny: Make) -> None:
    """Of MLPs only: C++ of all of a block takes four times as long to build."""
    learner, plain = (build_model_with_loss(partial(make_tiny, "LlamaForCausalLM"), backend=None) for _ in range(2))
    require_compiler(torch.device("cpu"))
    compile_in_place(block.get_submodule("mlp") for block in learner.blocks)
    losses = [read(each, 0) for each in (learner, plain)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for (name, found), expected in zip(learner.named_parameters(), plain.parameters(), strict=True):
        assert found.grad is not None and expected.grad is not None
        assert (found.grad - expected.grad).norm() <= 1e-5 * expected.grad.norm(), name


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize(
    ("architecture", "functions", "most"), [("LlamaForCausalLM", 5, 15), ("Qwen3ForCausalLM", 7, 17)]
)
def test_kernels_of_a_compiled_layer(
    architecture: str, functions: int, most: int, make_tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the forward, beside products and attention; a Llama has 30 as it is and Qwen3 46, and the bar is 16.

    A GPU has fewer than the C++ has loop nests: C++ writes a norm in three and the halves of a rotation apart. Only the
    text of the kernels is read here: g++ takes two seconds for each, and what it makes is in the test above.
    """
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *_: lambda *_: None)
    learner = build_model_with_loss(partial(make_tiny, architecture), backend="inductor")
    with torch._inductor.config.patch(force_disable_caches=True):
        _, programs = run_and_get_code(read, learner, 0)
    assert len(programs) == 4, "norm, projections in and out, MLP"
    source = "\n".join(programs)
    assert len(re.findall(r"^ +cpp_fused\w+\(", source, re.MULTILINE)) == functions
    assert len(re.findall(r"^ {8}for\(int64_t ", source, re.MULTILINE)) <= most


def test_a_machine_without_a_compiler_is_told() -> None:
    absent = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with absent, pytest.raises(UserError, match=r"need a C\+\+ compiler[\s\S]*parallel\.compile"):
        require_compiler(torch.device("cpu"))
