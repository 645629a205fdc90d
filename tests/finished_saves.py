"""A save is finished before the next step begins, so a kill at a later step never meets it half written.

Saves run beside the steps, and steps of a tiny model are as short. Kills in the midst of a save are in tests/faults.
"""

from typing import Any

import pytest

from ropewalk.checkpoint.saver import Saver


def finish_saves(patch: pytest.MonkeyPatch) -> None:
    """While ``patch`` holds."""
    begin = Saver.begin

    def begin_and_finish(saver: Saver, state: Any) -> None:
        begin(saver, state)
        saver.finish()

    patch.setattr(Saver, "begin", begin_and_finish)
