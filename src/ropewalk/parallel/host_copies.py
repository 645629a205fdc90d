"""Activations that wait in host memory: copied there and back on a stream of its own, while blocks are computed.

torch's ``save_on_cpu`` and transformers' offload put both copies on the stream that computes, so a step gets longer by
all of them. Here a block's tensors leave while the next blocks run forward, and those of the block before come back
while a block runs backward. The compute stream waits only for a copy that has not arrived when it is needed.

The last block keeps its tensors on the device: its backward begins at once.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

Mark = Any
"""A place in the queue of a stream; an event of CUDA."""


class CopyStream:
    """The stream of copies beside the one that computes; this one is a CPU's, where a call returns when it is done."""

    def follow(self) -> None:
        """Let copies wait for all that is computed so far."""

    def copying(self) -> AbstractContextManager[Any]:
        """Inside, copies are queued in this stream."""
        return nullcontext()

    def mark(self) -> Mark:
        """The end of this stream's queue."""

    def await_copy(self, mark: Mark) -> None:
        """Let the compute stream wait until the copies before ``mark`` are done."""

    def lend(self, tensor: Shaped[Tensor, "..."]) -> None:
        """Keep the memory of a computed ``tensor`` until the copies that are queued now are done."""

    def adopt(self, tensor: Shaped[Tensor, "..."]) -> None:
        """Keep the memory of a copied ``tensor`` until what the compute stream has queued with it is done."""


class _CudaStream(CopyStream):
    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def follow(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copying(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def mark(self) -> Mark:
        return self._stream.record_event()

    def await_copy(self, mark: Mark) -> None:
        torch.cuda.current_stream(self._device).wait_event(mark)

    def lend(self, tensor: Shaped[Tensor, "..."]) -> None:
        tensor.record_stream(self._stream)

    def adopt(self, tensor: Shaped[Tensor, "..."]) -> None:
        tensor.record_stream(torch.cuda.current_stream(self._device))


class _Block:
    """The tensors that one block of one forward has in host memory."""

    def __init__(self, before: "_Block | None") -> None:
        self.before = before
        self.waiting: list[weakref.ref[_Waiting]] = []
        self.is_fetched = False


class _Waiting:
    """One tensor in host memory, and its copy on the device once that is asked for."""

    def __init__(self, host: Shaped[Tensor, "..."], device: torch.device, block: _Block) -> None:
        self.host, self.device, self.block = host, device, block
        self.back: tuple[Tensor, Mark] | None = None


class HostCopies:
    """Keeps tensors of a model's blocks in host memory between forward and backward."""

    def __init__(self, device: torch.device, *, stream: CopyStream | None = None) -> None:
        self._pins = device.type == "cuda"
        self._stream: CopyStream = stream or (_CudaStream(device) if self._pins else CopyStream())
        self._last: _Block | None = None
        self._current: _Block | None = None

    @contextmanager
    def block(self, index: int, *, is_last: bool) -> Iterator[None]:
        """In the forward of block ``index``, tensors that autograd saves and those given to ``keep`` go to the host."""
        if is_last:
            yield
            return
        self._current = self._last = _Block(self._last if index else None)
        try:
            with saved_tensors_hooks(self.keep, _take):
                yield
        finally:
            self._current = None

    def keep(self, tensor: Shaped[Tensor, "*shape"]) -> Callable[[], Shaped[Tensor, "*shape"]]:
        """Begin the copy of ``tensor`` to the host; the result gives the tensor back, on its device."""
        if self._current is None or not tensor.numel():
            return lambda: tensor
        self._stream.follow()
        with self._stream.copying():
            host = torch.empty_like(tensor, device="cpu", pin_memory=self._pins)
            host.copy_(tensor, non_blocking=True)
        self._stream.lend(tensor)
        waiting = _Waiting(host, tensor.device, self._current)
        self._current.waiting.append(weakref.ref(waiting))
        return lambda: self._take(waiting)

    def _take(self, waiting: _Waiting) -> Shaped[Tensor, "..."]:
        """The tensor on its device; the copies of the block before it begin, which is needed next."""
        for block in (waiting.block, waiting.block.before):
            if block is not None and not block.is_fetched:
                self._fetch(block)
        if waiting.back is None:  # a second backward through the same graph
            waiting.back = self._copy_back(waiting)
        (tensor, mark), waiting.back = waiting.back, None
        self._stream.await_copy(mark)
        self._stream.adopt(tensor)
        return tensor

    def _fetch(self, block: _Block) -> None:
        for reference in block.waiting:
            if (waiting := reference()) is not None:
                waiting.back = self._copy_back(waiting)
        block.is_fetched = True

    def _copy_back(self, waiting: _Waiting) -> tuple[Shaped[Tensor, "..."], Mark]:
        with self._stream.copying():
            tensor = torch.empty_like(waiting.host, device=waiting.device)
            tensor.copy_(waiting.host, non_blocking=True)
        return tensor, self._stream.mark()


def _take(give_back: Callable[[], Shaped[Tensor, "*shape"]]) -> Shaped[Tensor, "*shape"]:
    return give_back()


def offload_blocks(blocks: nn.ModuleList, copies: HostCopies) -> None:
    """Let ``copies`` keep what autograd saves of ``blocks``; of recomputed blocks, that is their inputs.

    Where blocks follow that are not recomputed, they are not in ``blocks``: all that they save would be copied.

    The class of a block is replaced by a derived class whose call, with the recomputation in it, runs inside
    ``copies.block``.
    """
    for index, block in enumerate(blocks):
        place: Any = block
        place.host_copies, place.host_index, place.host_is_last = copies, index, index == len(blocks) - 1
        block.__class__ = _derive(type(block))  # type: ignore[arg-type]  # mypy takes it for a module


class _Offloading(nn.Module):
    """Base class that comes before a block's own class."""

    host_copies: HostCopies
    host_index: int
    host_is_last: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().__call__(*args, **kwargs)
        with self.host_copies.block(self.host_index, is_last=self.host_is_last):
            return super().__call__(*args, **kwargs)


@cache
def _derive(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Offloading, kind), {})
