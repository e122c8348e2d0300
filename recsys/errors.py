"""The exceptions that a user's mistake raises."""


class UserError(ValueError):
    """Something the user can mend: the message is one sentence that says what is wrong and what to do.

    Entry points print it without a traceback and exit with status 2.
    """


class UnwritableError(UserError):
    """A disk is full, or storage may not be written: the same work would fail in the same way until that is mended."""
