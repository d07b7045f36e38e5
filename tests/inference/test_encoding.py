"""An image encoded once against restoring it anew."""

import numpy as np
import pytest
import torch

from inference.encoding import Knob, held_bytes
from inference.restore import LARGE, Large, Setting
from inference.restore_pcsr import Worker, least_budget, pcsr_restorer
from models.build import build_pcsr
from tests.conftest import TINY_PCSR
from utils.config import PCSRSpec
from utils.errors import InputError

CPU = torch.device("cpu")
M3 = TINY_PCSR.model_copy(update={"upsamplers": ((4,), (6,), (8, 8))})
SETTINGS = [Setting("k", 0.1), Setting("adaptive"), Setting("budget", 0.998), Setting("k", -2.0)]


@pytest.mark.parametrize("part_size", [None, 20])
@pytest.mark.parametrize("spec", [TINY_PCSR, M3], ids=["two upsamplers", "three"])
@pytest.mark.parametrize("scale,bits", [(4, 8), (2.5, 16)])
def test_same_pixels_as_restoring_anew(part_size: int | None, spec: PCSRSpec, scale: float, bits: int) -> None:
    model = build_pcsr(spec).eval()
    large, lr = Large(part_size), torch.rand(1, 3, 45, 33)
    worker = Worker(model, CPU, large)
    knob = Knob(worker, lr, scale, bits)
    assert len(knob.parts) == 1 if part_size is None else len(knob.parts) > 1
    shares = set()
    for refinement in (True, False):
        for setting in SETTINGS:
            own = knob.restore(setting, refinement)
            (other,) = pcsr_restorer(model, [setting], refinement, CPU, large)(lr, scale, bits=bits)
            np.testing.assert_array_equal(own.pixels, other.pixels)
            np.testing.assert_array_equal(own.assignment, other.assignment)
            assert (own.setting, own.upsamplers) == (str(setting), len(spec.upsamplers))
            assert (own.heavy_share, own.flops, own.reference) == (other.heavy_share, other.flops, other.reference)
            shares.add(own.heavy_share)
    assert len(shares) > 2  # the settings differ


def test_what_it_holds_is_known_beforehand() -> None:
    worker = Worker(build_pcsr(TINY_PCSR).eval(), CPU, LARGE)
    lr = torch.rand(1, 3, 24, 32)
    held, expected = Knob(worker, lr, 4).nbytes, held_bytes(worker, lr, 4)
    assert 0.5 * expected < held <= expected


def test_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(build_pcsr(TINY_PCSR).eval(), CPU, LARGE)
    knob = Knob(worker, torch.rand(1, 3, 24, 32), 4)
    for name in ("encode", "features", "log_odds"):
        monkeypatch.setattr(worker.model, name, None)  # a call would fail
    for setting in SETTINGS:
        knob.restore(setting, True)


def test_refusals() -> None:
    worker = Worker(build_pcsr(TINY_PCSR).eval(), CPU, LARGE)
    lr = torch.rand(1, 3, 8, 8)
    for scale in (0.5, float("nan"), 1e6):
        with pytest.raises(InputError, match="--scale"):
            Knob(worker, lr, scale)
    knob, least = Knob(worker, lr, 4), least_budget(worker.account, 4)
    assert knob.restore(Setting("budget", least), True).heavy_share == 0
    with pytest.raises(InputError, match="must lie between"):
        knob.restore(Setting("budget", least - 0.01), True)
    with pytest.raises(InputError, match="--k"):
        knob.restore(Setting("k", float("nan")), True)
