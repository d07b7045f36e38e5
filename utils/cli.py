"""All commands share this: how they read options, how they print lines for people, and how they end.

Bad input ends a command with one line and exit code 2, never with a traceback.
"""

import argparse
import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from tqdm import tqdm

from utils.errors import InputError, StoppedError, refused_memory

LONGEST_LINE = 1500  # characters of an error line; a longer one loses its middle
# a negative number in any notation: argparse itself knows -1 and -1.5 alone, and takes -inf for an option
NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|-inf(inity)?$", re.IGNORECASE)
TWO_DASHES = re.compile("--[^=]+=--")  # argparse reads its value as [] or as "--", depending on the version of Python


class Store(argparse.Action):
    """Stores a value as argparse does, but an option of several values that is given again adds to its values."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest, self.default)
        several = self.nargs in ("+", "*") and before is not self.default
        setattr(namespace, self.dest, [*before, *values] if several else values)


class Parser(argparse.ArgumentParser):
    """Wrong options raise InputError, negative numbers in any notation are values, and Store stores them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("action", None, Store)
        self._negative_number_matcher = NEGATIVE

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for word in sys.argv[1:] if args is None else args:
            if TWO_DASHES.fullmatch(word):
                self.error(f"argument {word.partition('=')[0]}: expected one argument")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def plain_text(text: str) -> str:
    """The type of an option whose text is written into files that other programs read."""
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not one line of text")
    return text


def count(text: str) -> int:
    """The type of an option that is a whole number of 1 or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return int(text)


def say(line: str) -> None:
    """Print a line on stdout, above the progress bar if there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def tell(line: str) -> None:
    """Print a line on stderr, above the progress bar if there is one."""
    tqdm.write(" ".join(line.split()), file=sys.stderr)


def print_error(message: str) -> None:
    """Print one line on stderr; the middle of a very long one is left out."""
    line = " ".join(message.split())
    shown = line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"error: {shown}", file=sys.stderr)


def call(main: Callable[[], None]) -> None:
    """Call a script's main. Raises InputError also if the system refuses it a file or memory."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # the name of a file may have characters that the terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    # by default tqdm's lock is shared between processes, and Python 3.14 warns of it if a process does not clean up
    tqdm.set_lock(threading.RLock())
    try:
        main()
        sys.stdout.flush()
    except OSError as error:
        if error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own last flush fails again
            if error.errno != errno.ENOSPC:
                raise
        raise InputError(f"{error.filename or 'output'}: {error.strerror}") from error
    except (MemoryError, RuntimeError) as error:
        if str(error).startswith("Symlink loop"):  # pathlib's message, which names the path
            raise InputError(str(error)) from error
        if refused_memory(error):
            raise InputError("needs more memory than there is; try smaller pictures, patches or batches") from error
        raise


def run(main: Callable[[], None]) -> None:
    """Call a script's main; an InputError becomes one line on stderr and exit code 2."""
    try:
        call(main)
    except InputError as error:
        print_error(str(error))
        raise SystemExit(2) from None
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(stopped.code) from None
    except BrokenPipeError:  # the reader, for example `head`, closed the pipe
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
