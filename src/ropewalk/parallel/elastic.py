"""torchrun with the exit codes of ropewalk: ``python -m ropewalk.parallel.elastic OPTIONS``, OPTIONS as of torchrun.

torchrun itself ends with 1 whatever its ranks ended with. A scheduler needs more: 2 is wrong input, and 3 and 4 are
targets of a finished run, which no second try mends; 75 is a stop that saved, after which the same command continues.
"""

import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from ropewalk.core.error import FINAL_CODES, STOPPED_CODE


def run_elastic(arguments: Sequence[str]) -> int:
    """Run torchrun with ``arguments`` on this machine, and return the exit code that its ranks mean.

    2 where a rank of this machine found wrong input, 3 or 4 where strict targets were missed or undecided, 75 after a
    signal to torchrun or where all ranks of this machine that failed had saved after one, else 1; 0 where all ended
    well.
    """
    try:
        torchrun(list(arguments))
    except SignalException:
        return STOPPED_CODE
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        final = next((code for code in FINAL_CODES if code in codes), 1)
        return STOPPED_CODE if codes == {STOPPED_CODE} else final
    return 0


if __name__ == "__main__":
    sys.exit(run_elastic(sys.argv[1:]))
