"""The one exception a user ever sees on purpose.

Something the user gave is wrong: say what, where, why and how to mend it, on one screen, and end with exit code 2.
Our own invariants are ``assert`` statements and end in a traceback, because then the fault is ours.
"""

EXIT_CODE = 2


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


def _rebuild(what: str, where: str, why: str, fix: str) -> UserError:
    return UserError(what, where=where, why=why, fix=fix)
