"""The one exception that means "the person can mend this"."""


class UserError(ValueError):
    """A mistake in what was asked for: a wrong key, a missing file, an impossible value.

    Its message is one sentence that says what was found, what was expected and what to do. Commands print it as
    ``error: …`` without a traceback and exit with ``exit_status``; library callers can catch it as a ``ValueError``.
    """

    exit_status = 2
