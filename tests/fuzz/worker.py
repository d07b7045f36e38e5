"""Runs one case after another in a process of its own: a case may hang, crash the process, or eat its memory."""

import contextlib
import os
import resource
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection

Case = Callable[[int], None]  # a function of a module: makes the input of this number, and raises if it is not met well
SPACE = 12 << 30  # bytes of addresses that a process may have: a mistake must not take the machine down
START = 60.0  # seconds for a new process to import what it needs


class LostError(Exception):
    """The process hangs, or is gone."""


def failures(case: Case, numbers: Iterable[int], seconds: float) -> dict[int, str]:
    """What went wrong, by number; each case has this many seconds."""
    found, left = {}, list(numbers)
    while left:
        here, there = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=work, args=(case, left, there))
        process.start()
        there.close()
        try:
            receive(here, START)  # it is ready
            while left:
                if (message := receive(here, seconds)) is not None:
                    found[left[0]] = message
                del left[0]
        except LostError as lost:
            found[left.pop(0)] = str(lost)
        assert process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what the case has started
        process.kill()
        process.join()
    return found


def receive(pipe: Connection, seconds: float) -> str | None:
    """What comes of a case: nothing, or what went wrong. Raises LostError."""
    if not pipe.poll(seconds):
        raise LostError(f"took over {seconds:g} seconds")
    try:
        return pipe.recv()
    except EOFError:
        raise LostError("ended the process") from None


def work(case: Case, numbers: list[int], out: Connection) -> None:
    os.setpgrp()  # whatever a case starts ends with this process
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryDirectory() as folder:
        os.dup2(printed.fileno(), 2)
        os.chdir(folder)
        out.send("ready")
        for number in numbers:
            printed.seek(0)
            printed.truncate()
            try:
                case(number)
                printed.seek(0)
                text = printed.read()
                out.send(f"printed: {text[:300]}" if text else None)
            except BaseException:
                out.send(traceback.format_exc(limit=-6))
