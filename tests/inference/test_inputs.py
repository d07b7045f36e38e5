"""Which images a command is given."""

from pathlib import Path

import pytest

from inference.inputs import find_images, passed_over
from tests.conftest import photo
from utils.encode import write_image
from utils.errors import InputError


def test_files_folders_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.png", "in/a.JPG", "in/photo[1].png", "in/.hidden.png", "in/deeper/c.png"):
        write_image(tmp_path / name, photo(2, 2))
    (tmp_path / "in" / "list.txt").write_text("")
    out = Path("out")

    def found(*given: str) -> list[str]:
        return [str(path) for path in find_images(given, out)]

    assert found("in") == ["in/a.JPG", "in/b.png", "in/photo[1].png"]
    assert found("in/*") == found("in", "in/*", "in/../in/b.png") == found("in")
    assert found("in/b.png", "in/a.JPG") == ["in/b.png", "in/a.JPG"]
    assert found("in/photo[1].png") == ["in/photo[1].png"]  # a file, though it looks like a pattern
    assert found("in/[ab]*") == ["in/a.JPG", "in/b.png"]
    assert found("*/*/c.png") == ["in/deeper/c.png"]
    assert found("in/list.txt") == ["in/list.txt"]  # named: reading it will say what is wrong
    assert found("missing.png") == ["missing.png"]
    for given in ("in/*.txt", "[x]", "in/**/*.webp"):
        with pytest.raises(InputError, match="matches no images"):
            found("in", given)


def test_what_is_passed_over_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/deeper/b.png", "in/.hidden.png"):
        write_image(tmp_path / name, photo(2, 2))
    out = Path("out")
    assert passed_over(["in", "in/*", "in/missing.png"], out) == passed_over(["in"], out)
    assert passed_over(["in/a.png"], out) is None
    assert passed_over(["in"], Path("in/deeper")) is passed_over(["in"], Path("in/deeper/x4")) is None  # results
    (tmp_path / "in/raw.CR2").write_bytes(b"")
    (tmp_path / "in/notes.txt").write_text("")
    (tmp_path / "in/lost.jpg").symlink_to("nowhere")
    (tmp_path / "in/folder.png").mkdir()
    told = "of a kind that is not read: raw.CR2; in folders within, which are not entered: deeper"
    assert passed_over(["in"], out) == f"{told}; no file: folder.png, lost.jpg"
