"""Which model the options choose."""

from pathlib import Path

import pytest
import yaml

from evaluation.simulate import original_beside
from inference.batch import Ready, Upscale
from inference.options import chosen_model
from inference.outputs import OutputFiles, digests, mark_line
from inference.tiles import TilePlan
from models.checkpoint import load_model
from models.setting import choose
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, config_for, make_folder, save_tiny
from utils.errors import InputError
from utils.parse import dump_yaml


def test_a_config_means_its_first_run_and_later_ones_are_told_of(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_yaml(config_for(TINY_ORIGINAL)))
    assert "options" in yaml.safe_load((tmp_path / "tiny.yaml").read_text())["model"]
    make_folder(tmp_path / "hr", [(48, 48)])
    save_tiny(tmp_path / "save/tiny", TINY_ORIGINAL)
    command = ("test.py", "--hr_data", "hr", "--per_image", "--device", "cpu")
    assert not cli(*command, "--config", "tiny.yaml").err
    save_tiny(tmp_path / "save/tiny-2", TINY_ORIGINAL)
    outcome = cli(*command, "--config", "tiny.yaml")
    assert outcome.code == 0 and outcome.err.count("\n") == 1 and "--model save/tiny-2" in outcome.err
    assert not cli(*command, "--model", "save/tiny").err


def test_settings_of_one_name_are_refused(cli: Cli, tmp_path: Path) -> None:
    make_folder(tmp_path / "hr", [(48, 48)])
    save_tiny(tmp_path / "save/tiny", TINY_PCSR)
    command = ("demo.py", "hr", "--upscale", "--model", "save/tiny", "--k")
    outcome = cli(*command, "0.1234567", "0.1234568")
    assert outcome.code == 2 and outcome.err.startswith("error: k=0.123457: two values are the same")
    assert cli(*command, "0.5", "0.5").code == 0


def test_values_beyond_any_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tile_size .*0000: must be a number from 1 to 10000000"):
        TilePlan(10**200)
    with pytest.raises(InputError, match="k: a number this large cannot be used"):
        choose(k=10**400)
    with pytest.raises(InputError, match="name too long"):
        load_model(tmp_path / ("a" * 300))


def test_a_model_that_is_missing_for_an_image_names_the_image() -> None:
    def choose_none(source: Path) -> tuple[Ready, str]:
        raise InputError("save/none: no such model")

    how = Upscale(choose_none, ["k=0"], 4, OutputFiles(Path("out"), "_x4", ".png", None, False, 0.5, False))
    with pytest.raises(InputError, match=r"photo\.jpg: save/none: no such model"):
        how.one(Path("photo.jpg"), [], set(), lambda *_: None)


def test_a_folder_without_weights_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a training makes it before it has saved any."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "save/fsrcnn-x4/state").mkdir(parents=True)
    chosen = chosen_model("configs/fsrcnn-x4.yaml", None)
    assert chosen.name == "fsrcnn-x4" and original_beside("fsrcnn", 4) is not None


def test_files_whose_names_differ_in_case_are_two(tmp_path: Path) -> None:
    one, other = (mark_line("about", "made", tmp_path / name) for name in ("a.png", "a.PNG"))
    assert digests(one)[0] == digests(other)[0] == "made" and digests(one)[1] != digests(other)[1]
