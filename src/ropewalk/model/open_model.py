"""Open a model folder to read texts with it: a large model is sharded over all ranks, a small one is whole on each.

A sharded model needs a message for each block and sequence, and no rank ever holds it. A model of at most
``WHOLE_BYTES`` would be gathered at once anyway, so each rank keeps all of it and the ranks need no messages. The
figures are the same, because a gathered weight has the same bits.

A CPU without instructions for bfloat16 multiplies it by hand, three times as slowly as float32 or worse. There weights
that are asked for in bfloat16 are held in float32, if the machine has the memory, and that is told.
"""

from pathlib import Path
from typing import TypeVar

from ropewalk.core.progress import say_once
from ropewalk.model.load import build_model
from ropewalk.model.load_shards import load_shards
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.weights import Dtype
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.mesh import make_mesh
from ropewalk.plan.host_memory import count_host_bytes
from ropewalk.plan.memory import WHOLE_BYTES
from ropewalk.plan.precision import Precision, choose_reading_precision, multiplies_bfloat16

Opened = TypeVar("Opened", bound=ModelWithLoss)
_SHARE_OF_HOST = 0.25
"""Of the host's memory, at most, for weights that are held in float32 though bfloat16 was asked for."""


def open_model(kind: type[Opened], folder: Path, *, dtype: Dtype, whole_bytes: int = WHOLE_BYTES) -> Opened:
    """Return the model in ``folder`` with weights of ``dtype``, frozen, on this rank's device. Every rank must call it.

    On a CPU that does not multiply bfloat16 they are of float32 where bfloat16 is asked for (see above).
    With several ranks, a model of more than ``whole_bytes`` is sharded over all of them. ``kind`` has the forward to
    call, since the weights of a sharded model can be read only there.
    """
    # If the head required gradients, the loss would compute them chunk by chunk.
    learner = kind(build_model(folder, dtype=dtype)).requires_grad_(False).eval()
    if multiplies_slowly(dtype) and _has_room(learner):
        say_once("this CPU multiplies no bfloat16: weights that are asked for in bfloat16 are held in float32")
        learner = kind(build_model(folder, dtype="float32")).requires_grad_(False).eval()
    ranks = rank_and_ranks()[1]
    if ranks > 1 and sum(parameter.nbytes for parameter in learner.parameters()) > whole_bytes:
        mesh = make_mesh(ranks, 1)
        shard_model(learner, mesh, precision=None, whole_bytes=whole_bytes)
        load_shards(learner, folder, device=mesh.device)
        return learner
    device = rank_device()
    load_shards(learner, folder, device=device)
    return learner.to(device)


def choose_reading_dtype(precision: Precision) -> Dtype:
    """The type of the weights of a model that is only read, on this rank's device."""
    return choose_reading_precision(precision, device=rank_device().type)


def multiplies_slowly(dtype: Dtype) -> bool:
    """Whether this rank's device is a CPU without instructions for ``dtype``: it reads small models in float32."""
    return dtype == "bfloat16" and rank_device().type == "cpu" and not multiplies_bfloat16()


def _has_room(learner: ModelWithLoss) -> bool:
    """Whether the host has memory for the weights in float32."""
    return 4 * sum(parameter.numel() for parameter in learner.parameters()) <= _SHARE_OF_HOST * count_host_bytes()
