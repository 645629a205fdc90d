"""What a block that runs twice keeps of its attention: output and log-sum-exp, so that scores are computed once.

Recomputing saves memory by running a block again in the backward pass. Of all it runs again, attention alone grows with
the square of a document, and all that it needs for its own backward is one row of the model's width per token. So the
first run writes its results down and the second reads them instead of computing. The surprise is where this state
lies: a backward pass may run in a thread of its own, and each thread sees its own context variable.
"""

from contextlib import AbstractContextManager
from contextvars import ContextVar, Token

from torch import Tensor

Result = tuple[Tensor, Tensor]


class Tape:
    """The results of one block's attention calls, in order: written in the first run, read in any later one."""

    def __init__(self) -> None:
        self._results: list[Result] = []
        self._next: int | None = None

    def rewind(self, *, read: bool) -> None:
        """Begin a run of the block: one that reads, or the first."""
        self._next = 0 if read else None

    def recall(self) -> Result | None:
        """The results of the call that comes now; None in the first run."""
        if self._next is None:
            return None
        result = self._results[self._next]
        self._next += 1
        # Views of their own: what autograd gets as an output is tied to its graph.
        return result[0].detach(), result[1].detach()

    def write(self, out: Tensor, logsum: Tensor) -> None:
        """Keep the results of a call of the first run."""
        self._results.append((out.detach(), logsum.detach()))


_current: ContextVar[Tape | None] = ContextVar("tape", default=None)


def current_tape() -> Tape | None:
    """The tape of the block that runs now in this thread; None where nothing is kept."""
    return _current.get()


def keep_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a block's first run and of its second, as ``context_fn`` of torch.utils.checkpoint wants them."""
    tape = Tape()
    return _Running(tape, read=False), _Running(tape, read=True)


class _Running(AbstractContextManager[None]):
    """The tape is current. Entered once for every backward pass, which a generator's context could not be."""

    def __init__(self, tape: Tape, *, read: bool) -> None:
        self._tape, self._read = tape, read
        self._before: list[Token[Tape | None]] = []

    def __enter__(self) -> None:
        self._tape.rewind(read=self._read)
        self._before.append(_current.set(self._tape))

    def __exit__(self, *error: object) -> None:
        _current.reset(self._before.pop())
