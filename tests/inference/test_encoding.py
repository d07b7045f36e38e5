"""An image encoded once against restoring it anew."""

import pickle

import numpy as np
import pytest
import torch

from inference.encoding import Encoding, held_bytes
from inference.precision import engine_for, name_of
from inference.restorers import pcsr_restorer
from inference.tiles import TilePlan
from models.build import build_pcsr
from models.decide import least_budget
from models.fast.engine import Engine
from models.setting import Rule, Setting
from tests.conftest import TINY_PCSR
from utils.config import PCSRSpec
from utils.errors import InputError
from utils.patches import Patches

CPU = torch.device("cpu")
M3 = TINY_PCSR.model_copy(update={"upsamplers": ((4,), (6,), (8, 8))})
RULES: list[tuple[Rule, float]] = [("k", 0.1), ("adaptive", 0.0), ("budget", 0.998), ("k", -2.0)]


@pytest.mark.parametrize("tile_size", [None, 20])
@pytest.mark.parametrize("spec", [TINY_PCSR, M3], ids=["two upsamplers", "three"])
@pytest.mark.parametrize("scale,bits", [(4, 8), (2.5, 16)])
def test_same_pixels_as_restoring_anew(tile_size: int | None, spec: PCSRSpec, scale: float, bits: int) -> None:
    model = build_pcsr(spec).eval()
    plan, lr = TilePlan(tile_size), torch.rand(1, 3, 45, 33)
    encoding = Encoding(Engine(model), lr, scale, bits, plan)
    assert len(encoding.tiles) == 1 if tile_size is None else len(encoding.tiles) > 1
    shares = set()
    for refinement in (True, False):
        for rule in RULES:
            setting = Setting(*rule, refinement, scale)
            (own,), (other,) = encoding.restore([setting]), pcsr_restorer(model, [setting], CPU, plan)(lr, bits=bits)
            np.testing.assert_array_equal(own.pixels, other.pixels)
            np.testing.assert_array_equal(own.assignment, other.assignment)
            assert (own.setting, own.upsamplers) == (str(setting), len(spec.upsamplers))
            assert (own.heavy_share, own.flops, own.reference) == (other.heavy_share, other.flops, other.reference)
            shares.add(own.heavy_share)
    assert len(shares) > 2  # the settings differ


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_it_holds_is_known_beforehand(dtype: torch.dtype) -> None:
    engine, lr = Engine(build_pcsr(TINY_PCSR), CPU, dtype), torch.rand(1, 3, 24, 32)
    held, expected = Encoding(engine, lr, 4).nbytes, held_bytes(engine, lr, 4)
    assert 0.9 * expected < held <= expected


def test_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(build_pcsr(TINY_PCSR))
    encoding = Encoding(engine, torch.rand(1, 3, 24, 32), 4)
    for name in ("encode", "features", "classify"):
        monkeypatch.setattr(engine, name, None)  # a call would fail
    for rule in RULES:
        encoding.restore([Setting(*rule)])


def test_refusals() -> None:
    engine, lr = Engine(build_pcsr(TINY_PCSR)), torch.rand(1, 3, 8, 8)
    with pytest.raises(InputError, match="pixels are more than"):
        Encoding(engine, lr, 1e6)
    encoding, least = Encoding(engine, lr, 4), least_budget(engine.flops, 4)
    assert encoding.restore([Setting("budget", least)])[0].heavy_share == 0
    with pytest.raises(InputError, match="must lie between"):
        encoding.restore([Setting("budget", least - 0.01)])
    for setting, message in (
        (Setting(scale=2), "scale 2: the image was encoded for scale 4"),
        (Setting(precision="bfloat16"), "precision bfloat16: the model was prepared for float32"),
    ):
        with pytest.raises(InputError, match=message):
            encoding.restore([Setting(), setting])
    restore = pcsr_restorer(build_pcsr(TINY_PCSR).eval(), [Setting(scale=2), Setting(scale=3)], CPU)
    for patches in (None, Patches(8, 4)):
        with pytest.raises(InputError, match="scale 3: the image was encoded for scale 2"):
            restore(lr, patches)


def test_auto_is_the_precision_that_is_computed_in() -> None:
    model, lr = build_pcsr(TINY_PCSR).eval(), torch.rand(1, 3, 8, 8)
    engine = engine_for(model, CPU, "auto")
    for precision in ("auto", name_of(engine.precision)):
        Encoding(engine, lr, 4).restore([Setting(precision=precision)])


@pytest.mark.parametrize("scale", [0.5, float("nan"), float("inf")])
def test_a_setting_refuses_a_scale(scale: float) -> None:
    with pytest.raises(InputError, match="must be a number from 1 to 65536"):
        Setting(scale=scale)


def test_a_setting_refuses_values() -> None:
    for rule, value, reason in (("k", float("nan"), "k must be a number"), ("budget", 1.5, "budget 1.5: must lie")):
        with pytest.raises(InputError, match=reason):
            Setting(rule, value)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(Setting("budget", 0.5))) == Setting("budget", 0.5)
