"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """Something the user can mend: the message is one sentence that says what is wrong and what to do.

    Entry points print it without a traceback and exit with status 2.
    """
