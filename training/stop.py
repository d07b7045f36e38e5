"""Stopping a training on request: SIGTERM and SIGINT (Ctrl-C) let it finish its iteration and save."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.dist import AFTER
from utils.errors import StoppedError


@contextmanager
def noted_signals() -> Iterator[list[signal.Signals]]:
    """A context in which SIGTERM and SIGINT are only noted in the list that it gives; a second Ctrl-C ends the process.

    A second SIGTERM does not: when a whole job is ended, torchrun gets one as well and passes it on to its processes.
    An exception that leaves the context after a signal has a note that says so, see utils.dist.run_rank.
    """
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield noted
    except Exception as error:
        if noted:
            error.add_note(f"{AFTER} {noted[0].name}")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(noted: list[signal.Signals], saved: str) -> StoppedError:
    """The error to raise once all is saved; if nothing was noted, another process of the job was told to stop."""
    name, number = (noted[0].name, noted[0]) if noted else ("another process", signal.SIGTERM)
    return StoppedError(f"stopped by {name}; {saved}", number)
