"""Which models the web page offers."""

from pathlib import Path

import pytest
import torch

from tests.conftest import TINY_ORIGINAL, TINY_PCSR, save_tiny
from utils.errors import InputError
from web.engines import load_engines

CPU = torch.device("cpu")


def test_models_that_have_something_to_decide(tmp_path: Path) -> None:
    save = tmp_path / "save"
    with pytest.raises(InputError, match="no PCSR model"):
        load_engines([save], CPU)
    save_tiny(save / "phase0", TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None}))
    save_tiny(save / "original", TINY_ORIGINAL)
    with pytest.raises(InputError, match="no PCSR model"):
        load_engines([save], CPU)
    save_tiny(save / "phase1", TINY_PCSR)
    assert [*load_engines([save], CPU)] == ["phase1"]


def test_the_first_folder_that_has_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be loaded, such as a run whose backbone is gone, does not stop the page."""
    (tmp_path / "mine/broken").mkdir(parents=True)
    (tmp_path / "mine/broken/model.safetensors").write_bytes(b"not weights")
    save_tiny(tmp_path / "theirs/tiny", TINY_PCSR)
    assert [*load_engines([tmp_path / "mine", tmp_path / "theirs"], CPU)] == ["tiny"]
    assert "note: left out: " in (told := capsys.readouterr().err) and "broken" in told
    save_tiny(tmp_path / "mine/own", TINY_PCSR)
    assert [*load_engines([tmp_path / "mine", tmp_path / "theirs"], CPU)] == ["own"]
