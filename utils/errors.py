"""Bad input raises an InputError, whose message is one line that says what is wrong and how to set it right."""

import difflib
import re
from collections.abc import Collection, Sequence

LONGEST = 290  # characters of a message about a file, "error: " not counted
LONGEST_REASON = 200  # characters of the reason in it, which leaves room for the name of a file
NO_MEMORY = re.compile("can't allocate memory|out of memory|OutOfMemory|Invalid buffer size")  # how torch says it
LISTED = 8  # up to this many known keys are listed in full


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it and the remedy."""


def one_line(place: object, reason: str) -> str:
    """`place: reason`, both shortened so that the message fits on one line."""
    reason = " ".join(reason.split())
    reason = reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."
    return f"{ending(str(place), LONGEST - len(reason) - 2)}: {reason}"


def ending(text: str, room: int) -> str:
    """A text shortened to `room` characters; its end stays, because the end of a path tells most."""
    return text if len(text) <= room else "..." + text[3 - room :]


def first_few(names: Sequence[str], count: int) -> str:
    """Names for a message: `a, b, 3 more`."""
    more = [f"{len(names) - count} more"] if len(names) > count else []
    return ", ".join([*names[:count], *more])


def suggested(key: str, known: Collection[str]) -> str:
    """The end of a message about an unknown key: the known keys that are close to it, or all if they are few."""
    unique = list(dict.fromkeys(known))
    some = ", ".join(difflib.get_close_matches(key, unique) if len(unique) > LISTED else unique)
    return f", one of: {some}" if some else "; the configs in configs/ show those that there are"


def refused_memory(error: Exception) -> bool:
    """Whether an error says that the system or a GPU has no more memory."""
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(repr(error)))


class StoppedError(Exception):
    """A signal ended the command early, and nothing is lost."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number  # as shells report a signal
