"""A simulation replaces no file that is not its own."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest

from evaluation.simulate import simulate
from tests.conftest import TINY_PCSR, Cli, photo, save_tiny
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError


@pytest.fixture
def demo(cli: Cli, tmp_path: Path) -> Cli:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    return lambda *args: cli("demo.py", *args, "--model", "tiny", "--out_dir", ".", "--device", "cpu")


def test_an_input_among_the_names_of_results(demo: Cli, tmp_path: Path) -> None:
    write_image(tmp_path / "hr/hr.png", photo(50, 50))
    before = (tmp_path / "hr/hr.png").read_bytes()
    outcome = demo("hr/hr.png")
    assert outcome.code == 0 and outcome.out.endswith("written to hr-2\n") and "hr holds results" in outcome.err
    assert (tmp_path / "hr/hr.png").read_bytes() == before and len(list((tmp_path / "hr").iterdir())) == 1


@pytest.mark.parametrize("name", ["original.png", "report.csv", "assignment_k=1.png", "record.json"])
def test_files_of_the_user(name: str, demo: Cli, tmp_path: Path) -> None:
    write_image(tmp_path / "cat.png", photo(40, 48))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / name).write_text("mine")
    outcome = demo("cat.png", "--k", "0", "1")
    assert outcome.code == 0 and outcome.out.endswith("written to cat-2\n")
    assert (tmp_path / "cat" / name).read_text() == "mine" and len(list((tmp_path / "cat").iterdir())) == 1


def test_a_simulation_at_the_same_time_takes_another_folder(
    demo: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("x", "y")):
        write_image(tmp_path / name / "cat.png", photo(40, 48, number))

    def meanwhile(*args: Any) -> pd.DataFrame:
        monkeypatch.setattr("evaluation.simulate.simulate", simulate)
        assert demo("y/cat.png").out.endswith("written to cat-2\n")
        return simulate(*args)

    monkeypatch.setattr("evaluation.simulate.simulate", meanwhile)
    assert demo("x/cat.png").out.endswith("written to cat\n")
    first, second = (read_image(tmp_path / name / "hr.png").pixels for name in ("cat", "cat-2"))
    assert (first != second).any()


def test_an_error_leaves_nothing(demo: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "cat.png", photo(40, 48))
    monkeypatch.setattr("evaluation.simulate.simulate", Mock(side_effect=InputError("no")))
    assert demo("cat.png").code == 2 and not (tmp_path / "cat").exists()
