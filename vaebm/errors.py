"""Errors that are a user's to mend: the command line prints their one line and no traceback."""


class UsageError(ValueError):
    """A wrong argument, path or combination of options. The command line exits with 2."""


class DataError(ValueError):
    """Input that cannot be used: a damaged file, NaN in a data set. The command line exits with 1."""
