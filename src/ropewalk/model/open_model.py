"""Open a model folder to read texts with it: a large model is sharded over all ranks, a small one is whole on each.

A sharded model needs a message for each block and sequence, and no rank ever holds it. A model of at most
``WHOLE_BYTES`` would be gathered at once anyway, so each rank keeps all of it and the ranks need no messages. The
figures are the same, because a gathered weight has the same bits.
"""

from pathlib import Path
from typing import TypeVar

from ropewalk.model.load import build_model
from ropewalk.model.load_shards import load_shards
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.weights import Dtype
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.mesh import make_mesh
from ropewalk.plan.memory import WHOLE_BYTES

Opened = TypeVar("Opened", bound=ModelWithLoss)


def open_model(kind: type[Opened], folder: Path, *, dtype: Dtype, whole_bytes: int = WHOLE_BYTES) -> Opened:
    """Return the model in ``folder`` with weights of ``dtype``, frozen, on this rank's device. Every rank must call it.

    With several ranks, a model of more than ``whole_bytes`` is sharded over all of them. ``kind`` has the forward to
    call, since the weights of a sharded model can be read only there.
    """
    # If the head required gradients, the loss would compute them chunk by chunk.
    learner = kind(build_model(folder, dtype=dtype)).requires_grad_(False).eval()
    ranks = rank_and_ranks()[1]
    if ranks > 1 and sum(parameter.nbytes for parameter in learner.parameters()) > whole_bytes:
        mesh = make_mesh(ranks, 1)
        shard_model(learner, mesh, precision=None, whole_bytes=whole_bytes)
        load_shards(learner, folder, device=mesh.device)
        return learner
    device = rank_device()
    load_shards(learner, folder, device=device)
    return learner.to(device)
