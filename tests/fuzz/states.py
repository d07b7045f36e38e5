"""Damaged training states: named with the remedy, and passed over by a job that was started again."""

import contextlib
import functools
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.build import build
from tests.conftest import TINY_PCSR, config_for
from tests.fuzz.mutate import mutate
from training.runs import State, read_state, write_state
from utils.errors import InputError

RUN = Path("save/run")


@functools.cache
def model() -> nn.Module:
    return build(TINY_PCSR)


def state() -> State:
    return State(model(), None, [torch.optim.Adam(model().parameters())])


@functools.cache
def whole_files() -> tuple[bytes, bytes]:
    for iteration in (1, 2):
        write_state(RUN, iteration, config_for(TINY_PCSR), state().dump(iteration), keep=2)
    first, last = ((RUN / f"state/0000000{iteration}.pth").read_bytes() for iteration in (1, 2))
    return first, last


def without(content: bytes, rng: random.Random) -> bytes:
    """A state that is read, but lacks something, or holds something else there."""
    loaded: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    key = rng.choice(("iteration", "config", "model", "optimizers"))
    loaded[key] = None
    if rng.random() < 0.5:
        del loaded[key]
    buffer = io.BytesIO()
    torch.save(loaded if rng.random() < 0.9 else [*loaded], buffer)
    return buffer.getvalue()


def unchanged(weights: dict[str, torch.Tensor]) -> bool:
    expected = torch.load(io.BytesIO(whole_files()[1]), weights_only=True)["model"]
    return all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def only_directory(whole: bytes, damaged: bytes) -> bool:
    """Whether the damage lies in the list of contents at the end, the one part that has no checksum."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return damaged[: archive.start_dir] == whole[: archive.start_dir]


def case(number: int) -> None:
    rng = random.Random(number)
    first, last = whole_files()
    damaged = mutate(last, rng, first) if rng.random() < 0.8 else without(last, rng)
    (RUN / "state/00000001.pth").write_bytes(first)
    (RUN / "state/00000002.pth").write_bytes(damaged)
    readable = True
    try:
        _, begun = read_state(RUN, restarted=False)
        state().load(begun)
        assert unchanged(begun["model"]) or only_directory(last, damaged), "other weights are taken"
    except InputError as error:
        readable = False
        assert "00000002.pth" in str(error), error
    with contextlib.redirect_stderr(io.StringIO()) as told:
        _, begun = read_state(RUN, restarted=True)
        state().load(begun)
    assert told.getvalue().count("\n") == (not readable), told.getvalue()
    assert begun["iteration"] == (2 if readable else 1)
