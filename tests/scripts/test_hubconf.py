"""torch.hub entries, in a process of their own: a caller with other packages of the same names, somewhere else."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, TINY_PCSR, save_tiny

BACKBONES = ("carn", "fsrcnn", "srresnet", "softgate")
CALLER = """
import sys
import utils  # the caller's
import torch
import numpy as np

before = dict(sys.modules), list(sys.path)
for again in range(2):
    model = torch.hub.load(ROOT, "fsrcnn_pcsr", source="local", weights="tiny", device="cpu")
    assert sys.path == before[1]
    for name in ("utils", "models", "datasets"):
        assert sys.modules.get(name) is before[0].get(name), name
    assert not [name for name in sys.modules if name.startswith(("utils.", "models.", "datasets."))]

import utils.later
import models
assert utils.later.VALUE == 1 and models.VALUE == 2
sr, info = model.upscale(np.zeros((5, 6, 3), np.uint8), k=0.0)
assert sr.shape == (20, 24, 3) and type(info).__name__ == "Info"
for bad in ({"budget": 9.0}, {"k": 0.0, "adaptive": True}):
    try:
        model.upscale(sr, **bad)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
    else:
        raise AssertionError
"""


def test_a_caller_with_packages_of_the_same_names(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    for name, content in (("utils/__init__", ""), ("utils/later", "VALUE = 1"), ("models", "VALUE = 2")):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    (tmp_path / "caller.py").write_text(f"ROOT = {str(ROOT)!r}\n{CALLER}")
    command = [sys.executable, "-W", "error", "caller.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such model") as caught:
        torch.hub.load(str(ROOT), "carn_pcsr", source="local", weights=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry,meant", [("carn_pcsr", r"carn \(pcsr\)"), ("fsrcnn", r"fsrcnn \(original\)")])
def test_weights_of_another_model_are_refused(entry: str, meant: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    with pytest.raises(ValueError, match=rf"tiny: holds weights of fsrcnn \(pcsr\), not of {meant}") as caught:
        torch.hub.load(str(ROOT), entry, source="local", weights=str(tmp_path / "tiny"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [*map("".join, product(BACKBONES, ("", "_pcsr"))), "softgate_pcsr_photo"])
def test_every_entry_gives_the_weights_that_ship(entry: str) -> None:
    model = torch.hub.load(str(ROOT), entry, source="local", device="cpu")
    sr, _ = model.upscale(torch.zeros(3, 5, 6))
    assert sr.shape == (3, 20, 24)
