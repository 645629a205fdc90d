"""Attention results that a recomputed block keeps: output and log-sum-exp, so that scores are computed once.

Activation recomputing runs a block again in the backward pass. Of all operations in it, only attention grows with
the square of a document's length, and its backward needs only one vector of the model's width per token. So the first
run stores these results, here or where a caller wants them, and the second run reads them. The backward pass may run in
a thread of its own, and each thread has its own context variable; this is why the cache is set as a context of both
runs.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token

from jaxtyping import Float
from torch import Tensor

Output = Float[Tensor, "local heads head_dim"]
LogSum = Float[Tensor, "local heads"]
Keep = Callable[[Float[Tensor, "..."]], Callable[[], Float[Tensor, "..."]]]
"""Puts a tensor somewhere; the result gives it back."""


class AttentionCache:
    """The results of one block's attention calls, in order: written in the first run, read in any later one."""

    def __init__(self, keep: Keep | None = None) -> None:
        self._keep = keep or _keep_here
        self._results: list[tuple[Callable[[], Output], Callable[[], LogSum]]] = []
        self._next: int | None = None

    def rewind(self, *, read: bool) -> None:
        """Begin a run of the block: one that reads, or the first."""
        self._next = 0 if read else None

    def recall(self) -> tuple[Output, LogSum] | None:
        """The results of the call that comes now; None in the first run."""
        if self._next is None:
            return None
        out, logsum = self._results[self._next]
        self._next += 1
        # Views of their own: what autograd gets as an output is tied to its graph.
        return out().detach(), logsum().detach()

    def write(self, out: Output, logsum: LogSum) -> None:
        """Keep the results of a call of the first run."""
        self._results.append((self._keep(out.detach()), self._keep(logsum.detach())))


def _keep_here(tensor: Float[Tensor, "..."]) -> Callable[[], Float[Tensor, "..."]]:
    return lambda: tensor


_current: ContextVar[AttentionCache | None] = ContextVar("attention cache", default=None)


def current_cache() -> AttentionCache | None:
    """The cache of the block that runs now in this thread; None where nothing is kept."""
    return _current.get()


def cache_attention(keep: Keep | None = None) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a block's first run and of its second, as ``context_fn`` of torch.utils.checkpoint wants them.

    ``keep`` puts the results where they wait; None leaves them where they are.
    """
    cache = AttentionCache(keep)
    return _Running(cache, read=False), _Running(cache, read=True)


class _Running(AbstractContextManager[None]):
    """The cache is current. Entered once for every backward pass, which a generator's context could not be."""

    def __init__(self, cache: AttentionCache, *, read: bool) -> None:
        self._cache, self._read = cache, read
        self._before: list[Token[AttentionCache | None]] = []

    def __enter__(self) -> None:
        self._cache.rewind(read=self._read)
        self._before.append(_current.set(self._cache))

    def __exit__(self, *error: object) -> None:
        _current.reset(self._before.pop())
