"""A forward and a backward of Llama-3-8B's width on CUDA tensors without values: an operand on another device raises.

It needs a torch that is built for CUDA, and no GPU. Such a torch has no streams and copies no pinned memory here, so
both are stood in for. Its autograd engine asks for a device that is not there; so the backward walks the graph itself.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from packs import pack
from ropewalk.attention.choose_kernel import use_kernel
from ropewalk.model.attention_interface import NAME
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel import device as rank_devices
from ropewalk.parallel.device import count_gpus
from ropewalk.parallel.mesh import make_mesh
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import partition_tokens
from ropewalk.partition.partition import Partition
from ropewalk.plan.savings import Savings
from ropewalk.train.prepare_model import prepare_model

CUDA = torch.device("cuda", 0)
LOCAL_TOKENS, LABELS = 1024, 256

pytestmark = pytest.mark.skipif(
    not torch.backends.cuda.is_built() or count_gpus() > 0,
    reason="needs a torch that is built for CUDA, on a machine without a GPU",
)


class NoStream:
    """A stream or an event of a device that is not there."""

    device = CUDA

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record_event(self, *_: Any) -> "NoStream":
        return self

    def _do_nothing(self, *_: Any) -> None: ...

    wait_stream = wait_event = synchronize = record = wait = _do_nothing


class StandIns(TorchDispatchMode):
    """Pinned memory, and a product that torch 2.11 cannot infer; and every device that an operator gave."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._pin_memory.default:
            return args[0]
        if func is torch.ops.aten.addmm.dtype_out:
            left, right, out = args[1], args[2], kwargs["out"]
            assert left.device == right.device == out.device and out.shape == (len(left), right.shape[1])
            return out
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.dim():
            self.devices.add(found.device.type)
        return found


@pytest.fixture(params=[8, 64])
def ranks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """This process is rank 3 of that many, on a GPU, whose messages all arrive at once."""
    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, NoStream)
    for name, value in {
        "stream": nullcontext(),
        "current_device": 0,
        "set_device": None,
        "device_count": 8,
        "is_available": False,
        "is_initialized": True,
        "init": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(rank_devices, "_taken", [CUDA])
    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=request.param)
    yield request.param
    dist.destroy_process_group()


def make_learner(dtype: torch.dtype) -> ModelWithLoss:
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        attn_implementation=NAME,
    )
    with CUDA:
        return ModelWithLoss(AutoModelForCausalLM.from_config(config, dtype=dtype), chunk_tokens=128).train()


def read(learner: Any, partition: Partition, group: Any) -> Tensor:
    """The loss of this rank's tokens, of which some have labels."""
    ids = torch.zeros(partition.local_tokens, dtype=torch.int64, device=CUDA)
    weights, counted = torch.ones(len(ids), device=CUDA), torch.arange(LABELS, device=CUDA)
    loss, nll, correct = learner(ids, ids, ids, weights, partition=partition, context_group=group, counted=counted)
    assert loss.device == nll.device == correct.device == CUDA
    found: Tensor = loss
    return found


@torch.no_grad()
def walk_backward(loss: Tensor) -> dict[Tensor, Tensor]:
    """The gradient of each parameter, by the graph's own nodes; a node has its turn when all that follow it had it."""
    assert loss.grad_fn is not None
    waits: defaultdict[Any, int] = defaultdict(int)
    found, ahead = {loss.grad_fn}, [loss.grad_fn]
    while ahead:
        for node, _ in ahead.pop().next_functions:
            waits[node] += node is not None
            if node is not None and node not in found:
                found.add(node)
                ahead.append(node)
    given: dict[Any, list[Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    gradients, ready = {}, [loss.grad_fn]
    while ready:
        node = ready.pop()
        taken = given.pop(node)
        if hasattr(node, "variable"):
            gradients[node.variable] = taken[0]
            continue
        for (before, place), slope in _differentiate(node, taken):
            its = given.setdefault(before, [None] * len(before._input_metadata))
            if slope is not None:
                wanted = before._input_metadata[place]
                assert slope.device == wanted.device, (node, before)
                slope = slope.sum_to_size(wanted.shape).to(wanted.dtype)  # as the engine does
                its[place] = slope if its[place] is None else its[place] + slope
            waits[before] -= 1
            if not waits[before]:
                ready.append(before)
    return gradients


def _differentiate(node: Any, taken: list[Tensor | None]) -> list[tuple[Any, Tensor | None]]:
    """The edges of ``node`` to what needs a gradient, each with its gradient."""
    edges = [edge for edge in node.next_functions if edge[0] is not None]
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # it says one for each argument, tensor or not
        slopes = [slope for slope, needed in zip(node.apply(*taken), node.needs_input_grad, strict=True) if needed]
    else:
        found = node(*taken)
        found = found if isinstance(found, tuple) else (found,)
        slopes = [slope for slope, edge in zip(found, node.next_functions, strict=True) if edge[0] is not None]
    return list(zip(edges, slopes, strict=True))


@pytest.mark.parametrize("documents", [1, 20])
def test_a_step_stays_on_its_device(documents: int, ranks: int) -> None:
    """Forward, the recomputed blocks, attention's backward with its exchange, the loss; all in bfloat16."""
    tokens = LOCAL_TOKENS * ranks
    partition = partition_tokens(pack([tokens // documents] * documents, tokens), ranks=ranks)
    with FakeTensorMode(allow_non_fake_inputs=True), StandIns() as seen, use_kernel("varlen"):
        learner = make_learner(torch.bfloat16)
        set_recompute(learner.causal, "save_attention")
        gradients = walk_backward(read(learner, partition, dist.group.WORLD))
        parameters = dict(learner.named_parameters())
        assert {id(each) for each in gradients} == {id(each) for each in parameters.values()}
        for parameter, gradient in gradients.items():
            assert gradient.device == CUDA and gradient.dtype == parameter.dtype and gradient.shape == parameter.shape
    assert seen.devices <= {"cuda", "cpu"} and "cuda" in seen.devices


def test_a_sharded_forward_stays_on_its_device(ranks: int) -> None:
    """The learner as training prepares it: sharded over all ranks, recomputed, its MLPs in tiles."""
    document = np.zeros((1, LOCAL_TOKENS * ranks), dtype=np.int32)
    partition, mesh = partition_tokens(document, ranks=ranks), make_mesh(ranks, ranks)
    assert mesh.device == CUDA
    with FakeTensorMode(allow_non_fake_inputs=True), StandIns(), use_kernel("varlen"):
        learner = make_learner(torch.float32)
        prepare_model(learner, mesh, savings=Savings("save_attention", 512), precision="bfloat16")
        assert {each.device for each in learner.parameters()} == {CUDA}
        read(learner, partition, mesh.context_group)
