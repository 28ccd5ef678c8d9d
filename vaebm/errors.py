"""Errors that are a user's to mend: the command line prints their one line and no traceback."""

import errno

ADVICE = {
    errno.EACCES: "; choose another place or change the rights of this one",
    errno.ENOSPC: "; make room, then repeat the command, a training with --ckpt_path last",
}
"""What to do about errors of the system, by number."""


class UsageError(ValueError):
    """A wrong argument, path or combination of options; the command line exits with 2."""


class DataError(ValueError):
    """Input that cannot be used: a damaged file, NaN in the data; the command line exits with 1."""


class Diverged(DataError):
    """A training whose loss is no number any more."""


def is_misuse(error: BaseException) -> bool:
    """Whether an error is a wrong use of the command line, in our words or in Lightning's."""
    # By name: Lightning may not be imported.
    return isinstance(error, UsageError) or type(error).__name__ == "MisconfigurationException"


def cause_of(error: BaseException) -> BaseException:
    """The clear error that a library wrapped into `error`, else `error` itself."""
    link: BaseException | None = error
    while link is not None:
        if is_misuse(link) or isinstance(link, DataError):
            return link
        link = link.__cause__
    return error


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type if it says nothing."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        advice = ADVICE.get(error.errno or 0, "")
        return f"{error.filename}: {error.strerror}{advice}"
    text = " ".join(str(error).split())
    text = text if len(text) < 600 else f"{text[:600]} ..."
    known = (is_misuse(error) or isinstance(error, ValueError | OSError)) and text
    return text if known else f"{type(error).__name__}: {text}".rstrip(": ")
