"""The engine under the commands that work on many files."""

from functools import partial
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.jobs import Job, check_outputs, run_jobs


def work(number: int) -> bool:
    """Odd numbers are done already; 2 is bad input and 4 a surprise."""
    if number == 2:
        raise InputError("2: no picture")
    if number == 4:
        raise KeyError("surprise")
    return number % 2 == 0


def jobs(*numbers: int) -> list[Job]:
    return [Job(Path(f"in/{number}"), [Path(f"out/{number}")], partial(work, number)) for number in numbers]


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_fails_stops_no_other(workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run_jobs(jobs(0, 1, 2, 3, 4, 6), workers)
    assert [job.source.name for job in outcome.made] == ["0", "6"]
    assert (outcome.count, outcome.kept, outcome.failed) == (6, 2, 2)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert lines == ["error: 2: no picture", "error: in/4: KeyError: 'surprise'"]
    with pytest.raises(InputError, match="2 of 6 images failed; the others are done"):
        outcome.check()


def test_of_one_alone_the_error_is_raised() -> None:
    for number, error in ((2, InputError), (4, KeyError)):
        with pytest.raises(error):
            run_jobs(jobs(number))
    run_jobs(jobs(3), workers=4).check()
    run_jobs([], workers=4).check()


def test_what_two_files_would_become_is_refused(tmp_path: Path) -> None:
    one, other = Path("a.png"), Path("A.jpg")
    for target in ("a", "A"):  # one file for some file systems
        pair = [Job(one, [tmp_path / "a"], lambda: True), Job(other, [tmp_path / target], lambda: True)]
        with pytest.raises(InputError, match=r"a\.png and A\.jpg would both become"):
            check_outputs(pair)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder"):
        check_outputs([Job(one, [tmp_path / "file" / "a"], lambda: True)])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
