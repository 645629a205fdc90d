"""The one exception that a user is meant to see.

It reports a fault in the user's input: what, where, why and a fix, on one screen. The exit code is 2. Our own
invariants are ``assert`` statements that end in a traceback, because then the fault is ours.
"""

import errno

EXIT_CODE = 2
MISSED_CODE = 3
"""Exit code with strictness: everything is done, and a target is missed."""
UNDECIDED_CODE = 4
"""Exit code with strictness: no target is missed, and one lies inside the interval of its measurement."""
FINAL_CODES = (EXIT_CODE, MISSED_CODE, UNDECIDED_CODE)
"""Exit codes after which the same command would end in the same way. What one rank ends with holds for its run."""
STOPPED_CODE = 75
"""Exit code after a signal: everything is saved, and the same command continues. (EX_TEMPFAIL: try again later.)"""
SIGNAL_SECONDS = 0.5
"""The longest wait of a main thread. A signal may reach another thread, or arrive just before the wait begins. Python
then calls its handler when the main thread runs again."""

_DISK_FAULTS = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EFBIG: "allow larger files (ulimit -f), or choose a folder on another disk",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "change the permissions, or choose another folder",
    errno.EPERM: "change the permissions, or choose another folder",
    errno.ENOTDIR: "remove the file that is at the place of the folder, or choose another folder",
}


class UserError(Exception):
    """An input of the user cannot be used.

    ``what`` is the fault in one line, ``where`` the file, key or line, ``why`` the reason with its figures, and ``fix``
    the next thing to try.
    """

    def __init__(self, what: str, *, where: str, why: str, fix: str) -> None:
        super().__init__(what, where, why, fix)
        self.what, self.where, self.why, self.fix = what, where, why, fix

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  why:   {self.why}\n  fix:   {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # The default pickling loses keyword-only arguments, and errors are sent between processes.
        return _rebuild, (self.what, self.where, self.why, self.fix)


class RankError(RuntimeError):
    """A rank raised an error, hung, or was killed, or a worker of the preparation was killed.

    The message names the rank and contains its traceback.
    """


def explain_disk_fault(error: OSError) -> UserError | None:
    """A disk fault that its owner can fix, as a UserError; None if the fault is ours (a lost file, a connection).

    It is called where a process ends and not at every write, because any write may find a full disk.
    """
    fix = _DISK_FAULTS.get(error.errno or 0)
    if fix is None:
        return None
    return UserError(
        "the disk cannot be written",
        where=str(error.filename2 or error.filename or "a file being written"),
        why=error.strerror or str(error),
        fix=f"{fix}; then the same command continues from here",
    )


def _rebuild(what: str, where: str, why: str, fix: str) -> UserError:
    return UserError(what, where=where, why=why, fix=fix)


def explain_import_fault(fault: ImportError, library: str) -> str:
    """The reason why an optional ``library`` cannot be imported: it or a dependency is missing, or it is broken."""
    missing = (fault.name or library).partition(".")[0]
    # lxml reports only in its message that a part of it became a library of its own
    if "lxml_html_clean" in str(fault):
        missing = "lxml_html_clean"
    if missing != library:
        return f"the library `{missing}`, which `{library}` needs, is not installed"
    if isinstance(fault, ModuleNotFoundError):
        return f"the library `{library}` is not installed"
    return f"the library `{library}` is installed but cannot be loaded: {fault}"
