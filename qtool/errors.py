"""The errors that qtool raises on purpose, each with its exit code.

A message is one line: it names the thing, what was found, what is needed and the next step.
Anything that is not a QtoolError is a bug and shows its traceback.
"""

from __future__ import annotations


class QtoolError(Exception):
    """Something could not be done; the message says why and what to do."""

    exit_code = 1


class ModelError(QtoolError):
    """The model is wrong: its author can fix it."""


class DataError(QtoolError):
    """The sample data is wrong or does not fit the model."""


class UnsupportedError(QtoolError):
    """The model is right, but qtool cannot do this to it."""


class FormatError(QtoolError):
    """The bytes of a file are damaged or are not what the file claims to be."""


class UsageError(QtoolError):
    """The options contradict each other or name something that does not exist."""

    exit_code = 2


class CheckFailed(QtoolError):
    """What was asked for was checked, and the answer is no."""

    exit_code = 3
