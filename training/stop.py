"""Stopping a training on request: SIGTERM and SIGINT (Ctrl-C) let it finish its iteration and save."""

import signal
from types import FrameType

from utils.errors import StoppedError


class StopRequest:
    """While entered, a signal only sets `signal`; a second Ctrl-C then has its usual effect.

    A second SIGTERM has not: whoever ends a whole job sends it to torchrun too, which sends it on to its processes.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)
        signal.signal(signal.SIGINT, self.before[signal.SIGINT])

    def __exit__(self, *raised: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def stopped(self, remedy: str) -> StoppedError:
        """What to raise once everything is saved."""
        name = self.signal.name if self.signal else "another process"
        return StoppedError(f"stopped by {name}; {remedy}", self.signal or signal.SIGTERM)
