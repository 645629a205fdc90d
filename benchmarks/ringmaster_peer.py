"""The peer: axolotl-ringmaster 0.2.7, in this process, over this group.

Put it into a folder of its own: ``pip install --no-deps --target FOLDER axolotl-ringmaster==0.2.7``.

Its fast kernels are flash attention's CUDA ones. What is left on a CPU over gloo, by kind and text:

- ``ulysses``, one document: transformers' sdpa with its causal flag on the whole row, for a rank's part of the heads.
- ``ulysses``, packs: the same with a dense mask of the row's square, so all pairs are computed and the mask is stored.
- ``ring``, packs: all keys are gathered, and sdpa gets a dense mask of a rank's queries by all keys.
- ``ring``, one document, and ``zigzag`` on packs: scores of a whole block are written out in float32.
- ``zigzag``, one document: refused without CUDA.
- ``usp``: four ranks; packs as ``ring`` within groups of heads, one document refused without CUDA.

All exchanges of heads are all-gathers there, because the package has no all-to-all over gloo. observe.py says what ran.
A CPU win against these paths is no receipt for a GPU.
"""

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from torch_ring import own_rows

KINDS = ("ulysses", "ring", "zigzag", "usp")
_NOT_ON_CPU = {("zigzag", False), ("usp", False)}
MOST_BYTES = 8 * 2**30
"""For the mask or the scores of a layer, on each rank of a machine with 24 GiB."""
Interface = Callable[..., tuple[Tensor, None]]
"""As transformers calls attention: module, query, key, value [1, heads, rows, head_dim], mask, ... ."""


def find_ringmaster(folder: Path | None) -> str | None:
    """The version of the package in a folder; None without one."""
    found = distributions(path=[str(folder)]) if folder else ()
    return next((each.version for each in found if each.name == "axolotl-ringmaster"), None)


def import_from(folder: Path) -> None:
    """Let this process import what lies in ``folder``."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def find_obstacle(kind: str, *, packed: bool, ranks: int, kv_heads: int, tokens: int) -> str:
    """Empty, or why this kind cannot run on a CPU: no kernel, the ranks, or its mask or scores are too large."""
    if (kind, packed) in _NOT_ON_CPU:
        return "it wants CUDA's flash attention"
    if kind == "usp" and ranks < 4:
        return "Ulysses times ring are four ranks"
    if kind == "ulysses" and kv_heads % ranks:
        return f"{kv_heads} key heads cannot be cut over {ranks} ranks"
    written_out = kind == "zigzag" or (kind == "ring" and not packed)
    if written_out:  # about four float32 matrices of a block's scores
        needed = 4 * 4 * 2 * kv_heads * (tokens / ranks) ** 2
    else:  # booleans, and a copy in the dtype of the scores
        needed = (1 + 4) * tokens**2 / (1 if kind == "ulysses" else ranks)
    if (packed or written_out) and needed > MOST_BYTES:
        return f"its {'scores' if written_out else 'mask'} of all pairs would take {needed / 2**30:.0f} GiB on a rank"
    return ""


class Ringmaster:
    """Attention of one kind on one row; ``own`` are a rank's packed rows, in order."""

    def __init__(self, folder: Path, document: np.ndarray, kind: str) -> None:
        import_from(folder)
        from ringmaster.config import Backend, LoadBalance, RingmasterConfig, RotateMethod
        from ringmaster.runtime import CPRuntime

        lengths = np.unique(document, return_counts=True)[1]
        ends = torch.from_numpy(np.append(0, np.cumsum(lengths))).to(torch.int32)
        ranks, rank = dist.get_world_size(), dist.get_rank()
        packed = len(lengths) > 1
        config = RingmasterConfig(
            size=ranks,
            backend={"ulysses": Backend.ULYSSES, "usp": Backend.USP}.get(kind, Backend.RING),
            rotate_method=RotateMethod.ALLTOALL if kind == "ring" and not packed else RotateMethod.ALLGATHER,
            load_balance=LoadBalance.HEAD_TAIL if kind == "zigzag" else LoadBalance.NONE,
        )
        heads, tokens = self._find_groups(kind)
        varlen = (ends, int(lengths.max())) if packed else None
        self.runtime = CPRuntime(
            config, ulysses_group=heads, ring_group=tokens, cp_group=dist.group.WORLD, varlen=varlen
        )
        self.own = own_rows(document.size, ranks=ranks, rank=rank, balanced=kind == "zigzag")
        self.forward = self._make_forward(kind, config)

    def attend(self, module: Any, *tensors: Tensor, scaling: float, **settings: Any) -> Tensor:
        """Query, key and value [1, heads, rows, head_dim] -> [1, rows, heads, head_dim]."""
        from ringmaster.runtime import set_runtime

        set_runtime(self.runtime)
        out, _ = self.forward(module, *tensors, None, scaling=scaling, **settings)
        return out

    def attend_alone(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same without a model around it, and out as [1, heads, rows, head_dim]."""
        groups = query.shape[1] // key.shape[1]
        module = SimpleNamespace(num_key_value_groups=groups, is_causal=True, config=None, training=True)
        return self.attend(module, query, key, value, scaling=query.shape[-1] ** -0.5).transpose(1, 2)

    @staticmethod
    def _find_groups(kind: str) -> tuple[Any, Any]:
        """The group over which heads are exchanged, and the one over which tokens stay cut."""
        if kind == "usp":
            half = dist.get_world_size() // 2
            mesh = dist.device_mesh.init_device_mesh("cpu", (half, 2), mesh_dim_names=("tokens", "heads"))
            return mesh["heads"].get_group(), mesh["tokens"].get_group()
        return (dist.group.WORLD, None) if kind == "ulysses" else (None, dist.group.WORLD)

    @staticmethod
    def _make_forward(kind: str, config: Any) -> Interface:
        from ringmaster.strategies.ring import make_ring_attention
        from ringmaster.strategies.ulysses import make_ulysses_attention
        from ringmaster.strategies.usp import make_usp_attention

        made: Mapping[str, Callable[[], Interface]] = {
            "ulysses": lambda: make_ulysses_attention("sdpa"),
            "usp": lambda: make_usp_attention("torch_native", "flash_attention_2", config.rotate_method),
        }
        ring = lambda: make_ring_attention("torch_native", "flash_attention_2", config.rotate_method)  # noqa: E731
        return made.get(kind, ring)()
