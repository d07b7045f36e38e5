"""Models in the convention of the Hugging Face Hub, offline."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inference import hub
from inference.hub import from_pretrained, push_to_hub, save_pretrained
from inference.upscaler import Upscaler
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, photo, save_tiny
from utils.errors import InputError


def test_there_and_back(tmp_path: Path) -> None:
    for spec in (TINY_PCSR, TINY_ORIGINAL):
        weights = save_tiny(tmp_path / spec.kind, spec)
        save_pretrained(weights, tmp_path / "made", "somebody/tiny")
        assert {path.name for path in (tmp_path / "made").iterdir()} == {
            "model.safetensors",
            "config.json",
            "README.md",
        }
        expected, _ = Upscaler.load(weights, "cpu").upscale(photo(9, 12))
        found, _ = from_pretrained(tmp_path / "made", device="cpu").upscale(photo(9, 12))
        np.testing.assert_array_equal(found, expected)
        config = json.loads((tmp_path / "made" / "config.json").read_text())
        assert config["model"]["backbone"] == "fsrcnn" and config["library_name"] == "pcsr"
        card = (tmp_path / "made" / "README.md").read_text()
        assert card.startswith("---\nlicense: mit\nlibrary_name: pcsr\n")
        assert "trained at x4 on train. Clean images" in card


def test_another_readme_stays(tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny", TINY_PCSR)
    (tmp_path / "README.md").write_text("# mine\n")
    with pytest.raises(
        InputError, match=r"README.md: would be replaced, but .* is no model card of pcsr; give another folder"
    ):
        save_pretrained(weights, tmp_path, "somebody/tiny")
    assert not (tmp_path / "config.json").exists()
    (tmp_path / "README.md").unlink()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("of others")
        with pytest.raises(InputError, match=rf"{name}: would be replaced, but .*README.md is no model card of pcsr"):
            save_pretrained(weights, str(tmp_path), "somebody/tiny")
        assert (tmp_path / name).read_text() == "of others"
        (tmp_path / name).unlink()
    for _ in range(2):
        save_pretrained(weights, tmp_path / "made", "somebody/tiny")


def test_what_is_sent_and_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = save_tiny(tmp_path / "tiny", TINY_PCSR)
    sent = tmp_path / "somebody/tiny"

    def upload_folder(repo_id: str, folder_path: str, commit_message: str) -> str:
        assert commit_message == "PCSR: somebody/tiny"
        shutil.copytree(folder_path, tmp_path / repo_id)
        return f"https://example.org/{repo_id}"

    def hf_hub_download(repo_id: str, filename: str, revision: str | None) -> str:
        if not (tmp_path / repo_id).exists():
            raise OSError("no\nsuch repository")
        return str(tmp_path / repo_id / filename)

    made: list[str] = []
    api = SimpleNamespace(upload_folder=upload_folder, hf_hub_download=hf_hub_download)
    api.create_repo = lambda name, private, exist_ok: made.append(name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", api)
    assert push_to_hub(weights, "somebody/tiny") == "https://example.org/somebody/tiny" and made == ["somebody/tiny"]
    assert len(list(sent.iterdir())) == 3
    assert from_pretrained("somebody/tiny", device="cpu").upscale(photo(9, 12))[0].shape == (36, 48, 3)
    content = (sent / "model.safetensors").read_bytes()
    (sent / "model.safetensors").write_bytes(content.replace(b'backbone\\":\\"fsrcnn\\"', b'backbone\\":\\"a:bcde\\"'))
    with pytest.raises(InputError, match=r"model\.safetensors: would run the code of 'a:bcde'"):
        from_pretrained("somebody/tiny")
    with pytest.raises(
        InputError, match="nobody/none: no such folder, and it cannot be downloaded from the Hub: no such repository"
    ):
        from_pretrained("nobody/none")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        hub.from_pretrained("somebody/tiny")
