"""The two exceptions that users meet, and the exit code of each."""


class InputError(ValueError):
    """What the user gave cannot be used: exit code 2.

    The message says what was wrong, the value, the rule and the remedy.
    """


class WorkError(RuntimeError):
    """The input was good and the work failed (a simulator died, a baseline never succeeds): exit code 1."""
