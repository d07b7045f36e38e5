"""Bad input ends a command with one line and exit code 2, never with a traceback."""

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

LONGEST = 290  # characters of a message about a file, "error: " not counted
LONGEST_REASON = 200


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it and the remedy."""


def one_line(place: object, reason: str) -> str:
    """`place: reason`, cut so that it still is a line to read however long either is."""
    reason = " ".join(reason.split())
    reason = reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."
    shown, room = str(place), LONGEST - len(reason) - 2
    shown = shown if len(shown) <= room else "..." + shown[3 - room :]  # a path tells most at its end
    return f"{shown}: {reason}"


class StoppedError(Exception):
    """A signal ended the command early, and nothing is lost."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number  # as shells report a signal


NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|-inf(inity)?$", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """Wrong options are bad input like any other, and a negative number in any notation is a value."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = NEGATIVE  # argparse knows -1 and -1.5 alone, and takes -inf for an option

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def print_error(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Call a script's main; an InputError becomes one line on stderr and exit code 2."""
    try:
        main()
    except InputError as error:
        print_error(str(error))
        raise SystemExit(2) from None
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(stopped.code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
