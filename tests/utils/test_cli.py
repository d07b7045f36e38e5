"""However a command fails, it says so in one line."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY_PCSR, Cli, make_folder, save_tiny
from utils.cli import Parser, call, print_error
from utils.errors import InputError


def test_a_very_long_line_keeps_its_ends(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("first " + "x\n" * 9999 + " last")
    err = capsys.readouterr().err
    assert len(err) < 1600 and err.startswith("error: first x") and err.endswith("x last\n") and err.count("\n") == 1


@pytest.mark.parametrize("option", ["--input", "--number", "--several"])
def test_two_dashes_are_no_value(option: str) -> None:
    parser = Parser()
    parser.add_argument("--input")
    parser.add_argument("--number", type=float)
    parser.add_argument("--several", nargs="+")
    with pytest.raises(InputError, match=f"{option}: expected one argument"):
        parser.parse_args([f"{option}=--"])
    assert parser.parse_args(["--several", "-1", "k=--"]).several == ["-1", "k=--"]


def test_an_option_of_several_values_that_is_given_again_adds_to_them() -> None:
    parser = Parser()
    parser.add_argument("images", nargs="*", default=[])
    parser.add_argument_group("more").add_argument("--scale", type=float, nargs="+", default=[4.0])
    parser.add_argument("--k", type=float, nargs="+")
    parser.add_argument("--pair", nargs=2)
    for _ in range(2):  # a default stays as it is
        words = "a b --scale 2 3 --k -1 0 --pair 1 2 --k -inf --scale 8 --pair 3 4"
        args = parser.parse_args(shlex.split(words))
        assert (args.images, args.scale, args.k) == (["a", "b"], [2, 3, 8], [-1, 0, float("-inf")])
        assert args.pair == ["3", "4"]
        assert parser.parse_args([]).scale == [4] and parser.parse_args([]).images == []


@pytest.mark.parametrize("option", ["--model", "--config", "--img_path", "--out_dir"])
@pytest.mark.parametrize("place", ["a" * 300, "/dev/zero", "pipe", "/proc/1/x", "loop"])
def test_places_that_cannot_be(option: str, place: str, cli: Cli, tmp_path: Path) -> None:
    save_tiny(tmp_path / "save/tiny", TINY_PCSR)
    make_folder(tmp_path / "hr", [(8, 8)])
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    given = {"--model": "save/tiny", "--img_path": "hr/img_0.png", option: place}
    outcome = cli("demo.py", "--upscale", *(word for pair in given.items() for word in pair))
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert place[-10:] in outcome.err or place == "/proc/1/x"


def printing(shell: str) -> subprocess.CompletedProcess[str]:
    """A command that prints much, its output taken as the shell is told."""
    code = "from utils.cli import run; run(lambda: [print(number) for number in range(99999)])"
    command = ["bash", "-c", f'"$0" -c "$1" {shell}; exit ${{PIPESTATUS[0]}}', sys.executable, code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_reader_that_has_enough() -> None:
    done = printing("| head -n 1")
    assert (done.returncode, done.stdout, done.stderr) == (141, "0\n", "")


def test_a_full_disk_behind_the_output() -> None:
    done = printing("> /dev/full")
    assert (done.returncode, done.stderr) == (2, "error: output: No space left on device\n")


def test_a_bar_leaves_nothing_in_a_process_that_ends_at_once() -> None:
    code = """import os, multiprocessing, tqdm, utils.cli
multiprocessing.set_start_method("forkserver")  # the usual one in Python 3.14
utils.cli.call(lambda: list(tqdm.tqdm(range(3), disable=True)))
os._exit(0)"""
    command = [sys.executable, "-c", code]
    assert not subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_too_little_memory(error: Exception) -> None:
    def main() -> None:
        raise error

    with pytest.raises(InputError, match="more memory than there is"):
        call(main)
