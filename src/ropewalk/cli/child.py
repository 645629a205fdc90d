"""``ropewalk`` as a child of another program, with which it ends: ``python -m ropewalk.cli.child VERB ...``.

The parent holds the other end of standard input and writes nothing into it. When the parent dies, however it dies,
standard input ends, and this process is killed with all that it started. So no rank is left on a machine that computes
for nobody and holds the run folder. The parent must start it in a session of its own.
"""

import os
import signal
import sys
import threading

from ropewalk.cli.main import main


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main()
