"""What one run of a side did, seen at torch's dispatcher: attention kernels with their pairs, and the bytes it sent.

So the path that a peer took is named by what ran, not by what its code promises. A pair is one query with one key in
all heads, forward; a kernel with the causal flag is counted with the pairs that the flag leaves, one with a mask with
all of them, because it computes them.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_FUSED = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_flash_attention_forward",
)
_SCORES = ("_softmax", "_safe_softmax", "logsumexp")
"""What attention that is written out takes of its matrix of scores."""


class Observed(NamedTuple):
    """Of one run, all ranks: the kernels by name with their calls on the first rank, pairs of all ranks and the
    busiest rank's over the mean, and the bytes that the busiest rank sent.
    """

    kernels: dict[str, int]
    pairs: float
    balance: float
    sent_bytes: float

    def beside(self, needed_pairs: float, *, shared_bytes: float = 0.0) -> dict[str, Any]:
        """Beside the pairs that the mask needs, without bytes that all sides send, such as sums of gradients."""
        return {
            "kernels": self.kernels,
            "computed_pairs": self.pairs,
            "of_mask": self.pairs / needed_pairs,
            "balance": self.balance,
            "sent_bytes": self.sent_bytes - shared_bytes,
        }


def observe(run: Callable[[], Any], *, heads: int) -> tuple[Any, Observed]:
    """Run once, with ``heads`` query heads in a layer. Every rank must call it."""
    with _Watch() as watch:
        result = run()
    found = torch.tensor([watch.pair_heads / heads, float(watch.sent)], dtype=torch.float64)
    everyone = [torch.empty_like(found) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, found)
    pairs, sent = torch.stack(everyone).unbind(1)
    balance = float(pairs.max() / pairs.mean()) if pairs.any() else 1.0
    return result, Observed(dict(watch.kernels), float(pairs.sum()), balance, float(sent.max()))


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.pair_heads, self.sent = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        library, name = func.namespace, func._schema.name.split("::")[1]
        if library == "c10d":
            self.sent += count_sent(name, args)
        elif library == "_c10d_functional":
            self.sent += count_sent_functional(name, args)
        elif name in _FUSED:
            query, key = args[:2]  # [rows, heads, tokens, head_dim]
            masked = (kwargs or {}).get("attn_mask") is not None
            causal = bool(args[4] if len(args) > 4 else (kwargs or {}).get("is_causal", False))
            self._note(name + (", dense mask" if masked else ""), query.shape[:3], key.shape[2], causal=causal)
        elif name in _SCORES and args[0].ndim == 4:
            self._note(f"scores written out ({name})", args[0].shape[:3], args[0].shape[3], causal=False)
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, queries: torch.Size, keys: int, *, causal: bool) -> None:
        rows, heads, tokens = queries
        self.kernels[name] += 1
        self.pair_heads += rows * heads * (tokens * (tokens + 1) // 2 if causal else tokens * keys)


def count_sent(name: str, args: tuple[Any, ...]) -> int:
    """Bytes that this rank sends in a collective of torch's; of a sum over ranks as round a ring."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    if name == "send":
        return _bytes_of(args[0])
    if name == "alltoall_base_":
        _, outgoing, _, _, splits, *_ = args
        if splits:
            width = outgoing[:1].nbytes if len(outgoing) else 0
            return sum(each for other, each in enumerate(splits) if other != rank) * width
        return outgoing.nbytes * (ranks - 1) // ranks
    if name == "alltoall_":
        return sum(each.nbytes for other, each in enumerate(args[1]) if other != rank)
    if name == "allreduce_":
        return 2 * (ranks - 1) * _bytes_of(args[0]) // ranks
    if name in ("allgather_", "_allgather_base_"):
        return (ranks - 1) * _bytes_of(args[1])
    if name in ("reduce_scatter_", "_reduce_scatter_base_"):
        return _bytes_of(args[1]) * (ranks - 1) // ranks
    return 0


def count_sent_functional(name: str, args: tuple[Any, ...]) -> int:
    """The same for torch's functional collectives."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    if name == "all_to_all_single":
        tensor, _, splits, *_ = args
        away = sum(int(each) for other, each in enumerate(splits) if other != rank)
        return away * tensor[:1].nbytes if len(tensor) else 0
    if name == "all_gather_into_tensor":
        return int((ranks - 1) * args[0].nbytes)
    if name == "all_reduce":
        return int(2 * (ranks - 1) * args[0].nbytes // ranks)
    if name == "reduce_scatter_tensor":
        return int(args[0].nbytes * (ranks - 1) // ranks)
    return 0


def _bytes_of(tensors: Any) -> int:
    if isinstance(tensors, Tensor):
        return tensors.nbytes
    return sum(_bytes_of(each) for each in tensors)
