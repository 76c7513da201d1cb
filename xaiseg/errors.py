"""Errors that tell a user what to do.

Every message follows one grammar: what was wrong · where · what was got · what is allowed · what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XaisegError(Exception):
    """Base of all errors that are meant for the user; the command line prints the message and nothing else.

    Args:
        what: what was wrong, as one clause without a full stop.
        where: ``file:line`` or the name of the parameter.
        got: the offending value.
        allowed: what would have been accepted.
        then: what to do next.

    >>> print(UsageError("the seed is negative", where="--seed", got=-1, allowed="0 or more"))
    --seed: the seed is negative. Got: -1. Allowed: 0 or more.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, where: object = None, got: object = None, allowed: object = None, then: str | None = None
    ) -> None:
        parts = [f"{where}: {what}" if where else what]
        if got is not None:
            parts.append(f"Got: {got}")
        if allowed is not None:
            parts.append(f"Allowed: {allowed}")
        if then:
            parts.append(then)
        super().__init__(" ".join(part if part.endswith((".", "?", "!")) else part + "." for part in parts))


class UsageError(XaisegError):
    """A file, an option or a call is wrong (exit code 2)."""


class MissingFileError(UsageError):
    """A file or folder that an entry of ``data:`` names is not there."""


class DataError(XaisegError):
    """An image, a mask or a table cannot be used; one case fails, the audit goes on."""


class SubjectError(XaisegError):
    """The audited model does not answer as it promised (shape, classes, channels, NaN)."""


class CheckError(XaisegError):
    """A check crashed (exit code 4 when a gate hangs on it)."""

    exit_code = 4


class NothingToAudit(XaisegError):  # noqa: N818 - it reads as the sentence it prints
    """No case or no check is left (exit code 5)."""

    exit_code = 5


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A hint such as ``did you mean 'at_least'?``, or the list of options when none is near.

    >>> did_you_mean("at_leest", ["at_least", "at_most"])
    "did you mean 'at_least'?"
    """
    names = sorted(options)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else "Known: " + ", ".join(names)
