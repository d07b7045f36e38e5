"""The same work on many files: with a bar, on several cores if asked, and one file that fails stops no other."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from utils.errors import InputError
from utils.files import caseless, check_folder


class Job(NamedTuple):
    """One file and what becomes of it. For worker processes `work` is a function of a module with its arguments."""

    source: Path
    outputs: Sequence[Path]
    work: Callable[[], bool]  # returns whether there was anything left to do


@dataclass
class Outcome:
    """What became of the jobs."""

    count: int
    made: list[Job] = field(default_factory=list)
    kept: int = 0  # had nothing left to do
    failed: int = 0

    def check(self) -> None:
        """Raises InputError if a job failed."""
        if self.failed:
            raise InputError(f"{self.failed} of {self.count} images failed; the others are done")


def check_outputs(jobs: Sequence[Job]) -> None:
    """Raises InputError if two files would become one, or a folder cannot be written to. Makes nothing."""
    owners: dict[str, Path] = {}
    for job in jobs:
        for path in job.outputs:
            other = owners.setdefault(caseless(str(path)), job.source)
            if other != job.source:
                raise InputError(f"{other} and {job.source} would both become {path}; rename one")
    for folder in dict.fromkeys(path.parent for job in jobs for path in job.outputs):
        check_folder(folder)


def run_jobs(jobs: Sequence[Job], workers: int = 1) -> Outcome:
    """Do all jobs, with a bar if there are several; of each that fails, a line on stderr says why.

    Raises InputError if a worker process dies; and whatever the job raises if there is only one.
    """
    outcome = Outcome(len(jobs))
    bar = tqdm(attempts(jobs, workers), total=len(jobs), unit="image", disable=None if len(jobs) > 1 else True)
    for job, result in zip(jobs, bar, strict=True):
        if isinstance(result, str):
            outcome.failed += 1
            tell(f"error: {result}")
        elif result:
            outcome.made.append(job)
        else:
            outcome.kept += 1
    return outcome


def tell(line: str) -> None:
    """A line on stderr, above the bar if there is one."""
    tqdm.write(" ".join(line.split()), file=sys.stderr)


def attempts(jobs: Sequence[Job], workers: int) -> Iterator[bool | str]:
    """What each job returns, in order; of one that fails, why."""
    if len(jobs) == 1:
        yield jobs[0].work()
    elif workers == 1 or not jobs:
        yield from map(attempt, jobs)
    else:
        try:  # spawn: a fork would inherit torch's threads in an unknown state
            with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), start_worker) as pool:
                yield from pool.map(attempt, jobs)
        except BrokenProcessPool:
            raise InputError("a worker was killed, likely for want of memory; give fewer workers") from None


def start_worker() -> None:
    torch.set_num_threads(1)  # one image per core is faster than all cores on one image
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent stops, a worker finishes its image


def attempt(job: Job) -> bool | str:
    try:
        return job.work()
    except InputError as error:
        return str(error)
    except Exception as error:  # whatever one file provokes, a thousand others wait
        return f"{job.source}: {type(error).__name__}: {error}"
