"""The same work on many files: with a bar, on several cores if asked, and one file that fails stops no other."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from utils.cli import tell
from utils.device import use_all_cores
from utils.dist import Ranks
from utils.errors import InputError
from utils.files import caseless, check_folder


class Job(NamedTuple):
    """One file and the work on it, which other processes can do if it is a module's function with its arguments."""

    source: Path
    outputs: Sequence[Path]
    work: Callable[[], bool]  # returns whether there was anything left to do


@dataclass
class Outcome:
    """How many jobs were done, and how."""

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


def run_jobs(jobs: Sequence[Job], workers: int = 1, ranks: Ranks | None = None) -> Outcome:
    """Do all jobs, or a rank's share, with a bar if there are several; a line on stderr says why a job failed.

    Raises InputError if a worker process dies; and whatever the job raises if there is only one.
    """
    share = jobs if ranks is None else jobs[ranks.rank :: ranks.world]
    outcome, seen = Outcome(len(share)), len(jobs) > 1 and (ranks is None or ranks.main)
    each = attempts(share, workers) if len(jobs) > 1 else (job.work() for job in share)
    bar = tqdm(each, total=len(share), unit="image", disable=None if seen else True)
    for job, result in zip(share, bar, strict=True):
        if isinstance(result, str):
            outcome.failed += 1
            tell(f"error: {result}")
        elif result:
            outcome.made.append(job)
        else:
            outcome.kept += 1
    return outcome


def attempts(jobs: Sequence[Job], workers: int) -> Iterator[bool | str]:
    """The result of each job, in order; if it fails, the reason instead."""
    if workers == 1 or len(jobs) < 2:
        yield from map(attempt, jobs)
    else:
        use_all_cores()  # else the workers would inherit a single one
        try:  # spawn: a fork would inherit torch's threads in an unknown state
            with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), start_worker) as pool:
                yield from pool.map(attempt, jobs)
        except BrokenProcessPool:
            raise InputError("a worker was killed, probably because memory ran out; use fewer workers") from None


def start_worker() -> None:
    use_all_cores()
    torch.set_num_threads(1)  # one image per core is faster than all cores on one image
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent stops, a worker finishes its image


def attempt(job: Job) -> bool | str:
    try:
        return job.work()
    except InputError as error:
        return str(error)
    except Exception as error:  # a surprise in one file must not stop the work on all others
        return f"{job.source}: {type(error).__name__}: {error}"
