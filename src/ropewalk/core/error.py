"""The one exception a user ever sees on purpose.

Something the user gave is wrong: say what, where, why and how to mend it, on one screen, and end with exit code 2.
Our own invariants are ``assert`` statements and end in a traceback, because then the fault is ours.
"""

import errno

EXIT_CODE = 2
MISSED_CODE = 3
"""Asked to be strict: all is done, and a target is missed."""
UNDECIDED_CODE = 4
"""Asked to be strict: no target is missed, and one lies inside the interval of what was measured."""
STOPPED_CODE = 75
"""A signal asked for it, and all is saved: the same command goes on. (EX_TEMPFAIL: try again later.)"""

_DISK_FAULTS = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EFBIG: "allow larger files (ulimit -f), or choose a folder on another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "allow it, or choose another folder",
    errno.EPERM: "allow it, or choose another folder",
    errno.ENOTDIR: "remove the file that stands where a folder should be, or choose another folder",
}


class UserError(Exception):
    """What the user gave cannot be used.

    ``what`` is the fault in one line, ``where`` the file, key or line, ``why`` the reason with its figures, ``fix``
    the next thing to try.
    """

    def __init__(self, what: str, *, where: str, why: str, fix: str) -> None:
        super().__init__(what, where, why, fix)
        self.what, self.where, self.why, self.fix = what, where, why, fix

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  why:   {self.why}\n  fix:   {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and errors cross process walls.
        return _rebuild, (self.what, self.where, self.why, self.fix)


class RankError(RuntimeError):
    """A rank raised, hung, or was ended from outside; the message names it and carries its traceback."""


def explain_disk_fault(error: OSError) -> UserError | None:
    """What the disk refused, for its owner to mend; None where the fault is ours (a file that we lost, a connection).

    Asked where a process ends, not at every write: any of them may meet a full disk.
    """
    fix = _DISK_FAULTS.get(error.errno or 0)
    if fix is None:
        return None
    return UserError(
        "the disk refuses",
        where=str(error.filename2 or error.filename or "a file being written"),
        why=error.strerror or str(error),
        fix=f"{fix}; then the same command goes on from here",
    )


def _rebuild(what: str, where: str, why: str, fix: str) -> UserError:
    return UserError(what, where=where, why=why, fix=fix)


def explain_import_fault(fault: ImportError, library: str) -> str:
    """Why an optional ``library`` could not be imported: it is missing, or one that it needs, or it is broken."""
    missing = (fault.name or library).partition(".")[0]
    if "lxml_html_clean" in str(fault):  # lxml says in words alone that a part of it became a library of its own
        missing = "lxml_html_clean"
    if missing != library:
        return f"the library `{missing}`, which `{library}` needs, is not installed"
    if isinstance(fault, ModuleNotFoundError):
        return f"the library `{library}` is not installed"
    return f"the library `{library}` is there and cannot be loaded: {fault}"
