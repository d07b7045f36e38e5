"""Arrays and tensors through the Python interface."""

import pickle
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import ExifTags
from PIL import Image as Pillow

from inference.precision import dtype_of
from inference.restorers import original_restorer, pcsr_restorer
from inference.upscaler import Upscaler
from models.build import build
from models.checkpoint import load_model
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, photo, save_tiny
from tests.utils.test_metadata import SRGB
from utils.config import OriginalSpec, PCSRSpec
from utils.decode import read_image
from utils.encode import write_image
from utils.errors import InputError
from utils.image import to_tensor

CPU = torch.device("cpu")
PHASE0 = TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None})


@pytest.fixture
def model() -> PCSR:
    made = build(TINY_PCSR)
    assert isinstance(made, PCSR)
    return made


@pytest.fixture
def upscaler(model: PCSR) -> Upscaler:
    return Upscaler(model, CPU)


def expected(model: PCSR, picture: np.ndarray, k: float = 0.0, bits: int = 8) -> Any:
    return pcsr_restorer(model, [Setting("k", k, scale=2.5)], CPU)(to_tensor(picture), bits=bits)[0]


def test_it_can_be_pickled_and_moved(upscaler: Upscaler) -> None:
    picture = photo(11, 14)
    sr, _ = upscaler.upscale(picture)
    for other in (pickle.loads(pickle.dumps(upscaler)), upscaler.to("cpu")):
        np.testing.assert_array_equal(other.upscale(picture)[0], sr)
    assert "FSRCNNEncoder, 2 upsamplers" in repr(upscaler) and "cpu" in repr(upscaler)


@pytest.mark.parametrize("spec", [TINY_PCSR, TINY_ORIGINAL])
def test_half_precision(spec: PCSRSpec | OriginalSpec) -> None:
    model, picture = build(spec), photo(11, 14).astype(np.uint16) * 257
    sr, half = (Upscaler(model, CPU, precision=name) for name in ("float32", "float16"))
    expected, made = sr.upscale(picture)[0].astype(float), half.upscale(picture)[0].astype(float)
    assert 0 < np.abs(made - expected).max() < 600  # of 65535
    for other in (pickle.loads(pickle.dumps(half)), half.to("cpu")):
        np.testing.assert_array_equal(other.upscale(picture)[0], made)
    with pytest.raises(InputError, match="precision 'half': must be one of auto, float32, bfloat16, float16"):
        Upscaler(model, CPU, precision="half")  # type: ignore[arg-type]


def test_arrays_are_what_the_demo_makes_of_a_file(model: PCSR, upscaler: Upscaler) -> None:
    picture = photo(11, 14)
    for image, bits in ((picture, 8), (picture.astype(np.uint16) * 257, 16)):
        sr, info = upscaler.upscale(image, scale=2.5, k=1.0)
        made = expected(model, image, 1.0, bits)
        np.testing.assert_array_equal(sr, made.pixels, strict=True)
        np.testing.assert_array_equal(info.assignment, made.assignment, strict=True)
        assert (info.setting, info.heavy_share, info.flops) == ("k=1", made.heavy_share, made.flops)
        assert info.flops_share == made.flops.paper / made.reference.paper and info.seconds > 0
        assert re.fullmatch(r"Info\(k=1: \S+% of the pixels heavy, \S+% of the FLOPs of all heavy, \S+ s\)", str(info))
        assert "array" not in repr(made)


def test_every_kind_comes_back_as_it_was(model: PCSR, upscaler: Upscaler) -> None:
    picture = photo(11, 14)
    fine = expected(model, picture, bits=16).pixels / np.float32(65535)
    floats = (picture / np.float32(255)).astype(np.float32)
    sr, _ = upscaler.upscale(floats, scale=2.5)
    assert sr.dtype == np.float32
    np.testing.assert_allclose(sr, fine, atol=1e-6)
    tensor = torch.from_numpy(floats).permute(2, 0, 1).requires_grad_()
    made, info = upscaler.upscale(tensor, scale=2.5)
    assert made.dtype == torch.float32 and made.shape == (3, 28, 35) and not made.requires_grad
    np.testing.assert_allclose(made.permute(1, 2, 0), fine, atol=1e-6)
    assert info.assignment.shape == (28, 35) and info.assignment.dtype == torch.uint8
    eight, _ = upscaler.upscale(torch.from_numpy(picture).permute(2, 0, 1), scale=2.5)
    np.testing.assert_array_equal(eight.permute(1, 2, 0), expected(model, picture).pixels)


def test_gray_is_the_mean_of_the_channels(model: PCSR, upscaler: Upscaler) -> None:
    gray = photo(9, 7)[:, :, 0]
    sr, info = upscaler.upscale(gray, scale=2.5)
    made = expected(model, np.dstack([gray] * 3))
    assert sr.shape == made.pixels.shape[:2] == info.assignment.shape and sr.dtype == np.uint8
    np.testing.assert_allclose(sr, made.pixels.mean(axis=2), atol=0.5)
    sr[0, 0] = 7  # its own, and writable


def test_a_batch_is_its_images(upscaler: Upscaler) -> None:
    batch = torch.from_numpy(np.stack([photo(9, 7), photo(9, 7, seed=1)])).permute(0, 3, 1, 2)
    sr, info = upscaler.upscale(batch, k=0.0)
    alone = [upscaler.upscale(image, k=0.0) for image in batch]
    assert torch.equal(sr, torch.stack([image for image, _ in alone]))
    assert torch.equal(info.assignment, torch.stack([each.assignment for _, each in alone]))
    assert info.heavy_share == pytest.approx(np.mean([each.heavy_share for _, each in alone]))
    assert info.flops.executed == sum(each.flops.executed for _, each in alone)


def test_the_image_given_is_left_alone_and_odd_memory_is_no_matter(upscaler: Upscaler, recwarn: Any) -> None:
    picture = photo(9, 14)[:, ::2]
    picture.flags.writeable = False
    floats = picture.astype(np.float32) / 255
    floats.flags.writeable = False
    for image in (picture, picture[::-1], floats, np.asfortranarray(floats)):
        before = image.copy()
        one, two = upscaler.upscale(image)[0], upscaler.upscale(image.copy(order="C"))[0]
        np.testing.assert_array_equal(one, two, strict=True)
        np.testing.assert_array_equal(image, before)
    assert not recwarn.list


def test_settings(upscaler: Upscaler) -> None:
    picture = photo(12, 12)
    asked: dict[str, dict[str, Any]] = {"budget=0.95": {"budget": 0.95}, "adaptive": {"adaptive": True}}
    asked |= {"k=inf": {"k": np.inf}, "k=-inf": {"k": -np.inf}}
    share = {name: upscaler.upscale(picture, **how)[1] for name, how in asked.items()}
    assert all(info.setting == name for name, info in share.items())
    assert share["k=inf"].heavy_share == 0 and share["k=-inf"].flops_share == 1
    assert share["budget=0.95"].flops_share <= 0.95
    refined, plain = (upscaler.upscale(picture, adaptive=True, refinement=on)[0] for on in (True, False))
    assert (refined != plain).any()


@pytest.mark.parametrize(
    "how,message",
    [
        ({"k": 0.0, "budget": 0.9}, "one of"),
        ({"adaptive": True, "k": 0.0}, "one of"),
        ({"budget": 0.01}, "must lie between"),
        ({"k": np.nan}, "nan"),
        *[
            ({"k": k}, r"^k must be one number, not ")
            for k in ([0, 1], (0,), np.array([0, 1]), torch.tensor([0, 1]), "1")
        ],
        ({"k": [0, 1]}, r"^k must be one number, not \[0, 1\]; upscale_each takes several$"),
        ({"budget": [0.5]}, "^budget must be one number"),
        ({"scale": "4"}, "^scale must be one number"),
        *[({flag: np.array([True, False])}, f"^{flag} must be") for flag in ("adaptive", "refinement", "prob")],
        *[({"scale": scale}, "scale") for scale in (0.5, 0, -4, np.nan, np.inf, 1e6)],
    ],
)
def test_bad_settings(how: dict[str, Any], message: str, upscaler: Upscaler) -> None:
    with pytest.raises(InputError, match=message):
        upscaler.upscale(photo(8, 8), **how)


@pytest.mark.parametrize(
    "image",
    [
        *[photo(8, 8).astype(kind) for kind in ("float64", "int32", "bool", ">u2")],
        *[photo(8, 8)[:, :, :2], photo(8, 8)[None], photo(8, 8)[:0], photo(8, 8)[0, 0], photo(8, 8).tolist(), None],
        *[torch.rand(size) for size in ((8, 8), (1, 8, 8), (4, 8, 8), (0, 3, 8, 8), (3, 0, 8), (1, 1, 3, 8, 8))],
        *[torch.rand(3, 8, 8, dtype=kind) for kind in (torch.float64, torch.float16)],
        *[torch.full((3, 8, 8), value) for value in (-0.1, 1.1, np.nan, np.inf)],
        np.full((8, 8), 2, np.float32),
    ],
)
def test_bad_images(image: Any, upscaler: Upscaler) -> None:
    with pytest.raises(InputError) as caught:
        upscaler.upscale(image)
    assert "\n" not in str(caught.value) and isinstance(caught.value, ValueError)


def test_loading(tmp_path: Path) -> None:
    picture = photo(8, 8)
    loaded = Upscaler.load(save_tiny(tmp_path / "pcsr", TINY_PCSR), device="cpu")
    assert loaded.upscale(picture)[0].shape == (32, 32, 3)
    phase0 = Upscaler.load(str(save_tiny(tmp_path / "phase0", PHASE0)), device="cpu")
    assert phase0.upscale(picture)[1].setting == "heavy"
    with pytest.raises(InputError, match="nothing to decide"):
        phase0.upscale(picture, adaptive=True)
    for bad, device in (("missing", "cpu"), ("pcsr", "tpu")):
        with pytest.raises(InputError, match=f"{bad}|^device must be one of .*, not {device}"):
            Upscaler.load(tmp_path / bad, device)
    with pytest.raises(InputError, match=r"^device must be one of .*, not tpu"):
        loaded.to("tpu")


def test_an_original_model(tmp_path: Path) -> None:
    picture = photo(11, 14)
    loaded = Upscaler.load(save_tiny(tmp_path / "original", TINY_ORIGINAL), device="cpu")
    sr, info = loaded.upscale(picture)
    model, _ = load_model(tmp_path / "original")
    assert isinstance(model, OriginalModel) and "FSRCNNEncoder, original" in repr(loaded)
    np.testing.assert_array_equal(sr, original_restorer(model, CPU)(to_tensor(picture))[0].pixels)
    assert (info.setting, info.heavy_share, info.flops_share, info.assignment) == ("original", 1, 1, None)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loaded)).upscale(picture, scale=4)[0], sr)
    for how in ({"k": 1.0}, {"budget": 0.9}, {"adaptive": True}, {"prob": True}):
        with pytest.raises(InputError, match="nothing to decide"):
            loaded.upscale(picture, **how)
    with pytest.raises(InputError, match=r"scale 2: this original model does x4 only"):
        loaded.upscale(picture, scale=2)


def test_several_knobs_are_one_encoding(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photo(11, 14)
    ks: list[Any] = [-np.inf, 0, np.float32(0.5), np.inf]
    alone = [upscaler.upscale(picture, k=k, scale=2) for k in ks]
    features = Mock(wraps=upscaler.engine.features)
    monkeypatch.setattr(upscaler.engine, "features", features)
    for several in (ks, np.array(ks)):
        together = upscaler.upscale_each(picture, several, scale=2)
        assert [str(info.setting) for _, info in together] == [str(info.setting) for _, info in alone]
        for (one, _), (other, _) in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)
    assert features.call_count == 2
    batch = torch.from_numpy(np.stack([picture, picture])).permute(0, 3, 1, 2)
    assert [sr.shape for sr, _ in upscaler.upscale_each(batch, [0, 1], scale=2)] == [(2, 3, 22, 28)] * 2
    with pytest.raises(InputError, match="at least one"):
        upscaler.upscale_each(picture, [])


def test_probabilities_on_request(model: PCSR, upscaler: Upscaler) -> None:
    picture = photo(11, 14)
    assert upscaler.upscale(picture)[1].prob is None
    sr, info = upscaler.upscale(picture, prob=True)
    assert info.prob.dtype == np.float32 and "array" not in str(info)
    np.testing.assert_array_equal(sr, upscaler.upscale(picture)[0])
    np.testing.assert_allclose(info.prob, model(to_tensor(picture), (44, 56), Setting()).prob[0].detach(), atol=1e-5)
    batch = torch.rand(2, 3, 5, 6)
    for _, info in upscaler.upscale_each(batch, [0, 1], prob=True):
        assert info.prob.shape == (2, 2, 20, 24) and isinstance(info.prob, torch.Tensor)


def test_images_of_pillow_and_files(upscaler: Upscaler, tmp_path: Path) -> None:
    picture = photo(11, 14)
    sr, info = upscaler.upscale(picture)
    made, _ = upscaler.upscale(Pillow.fromarray(picture))
    assert made.mode == "RGB" and isinstance(info.assignment, np.ndarray)
    np.testing.assert_array_equal(np.asarray(made), sr)
    write_image(tmp_path / "a.png", picture)
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(np.asarray(upscaler.upscale(path)[0]), sr)
    lying = Pillow.fromarray(np.rot90(picture))
    lying.getexif()[ExifTags.Base.Orientation] = 6  # to be turned clockwise, as by most viewers
    np.testing.assert_array_equal(np.asarray(upscaler.upscale(lying)[0]), sr)
    alpha = np.full((11, 14), 128, np.uint8)
    see_through = Pillow.fromarray(np.dstack([picture, alpha]))
    gray = Pillow.fromarray(picture[:, :, 0])
    for image, mode in ((see_through, "RGBA"), (gray, "L"), (gray.convert("LA"), "LA"), (gray.convert("P"), "RGB")):
        made, _ = upscaler.upscale(image)
        assert (made.mode, made.size) == (mode, (56, 44))
    assert (np.asarray(upscaler.upscale(see_through)[0])[:, :, 3] == 128).all()
    np.testing.assert_array_equal(np.asarray(upscaler.upscale(gray)[0]), upscaler.upscale(picture[:, :, 0])[0])
    write_image(tmp_path / "deep.png", picture.astype(np.uint16) * 257)
    for bad, reason in (
        (tmp_path / "deep.png", "deep.png: more than 8 bits"),
        (Pillow.fromarray(picture[:, :, 0].astype(np.uint16)), "mode I;16: more than 8 bits"),
        (tmp_path / "none.png", r"none\.png"),
        (Pillow.new("RGB", (0, 3)), "without a pixel"),
    ):
        with pytest.raises(InputError, match=reason):
            upscaler.upscale(bad)


@pytest.mark.parametrize("knows_it", [True, False])
def test_auto_is_float16_where_that_is_faster(knows_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.precision.has_half", lambda: knows_it)
    pcsr, original = build(TINY_PCSR), build(TINY_ORIGINAL)
    assert dtype_of(pcsr, CPU, "auto") == (torch.float16 if knows_it else torch.float32)
    assert dtype_of(pcsr, torch.device("cuda"), "auto") == dtype_of(original, CPU, "auto") == torch.float32
    assert dtype_of(pcsr, CPU, "bfloat16") == dtype_of(original, CPU, "bfloat16") == torch.bfloat16


@pytest.mark.parametrize("source", ["file", "Pillow"])
def test_the_colour_profile_stays_with_the_colours(source: str, upscaler: Upscaler, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Pillow.fromarray(photo(11, 14)).save(path, icc_profile=SRGB)
    made, _ = upscaler.upscale(path if source == "file" else Pillow.open(path))
    made.save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").icc == SRGB


def test_a_warning_says_what_of_a_file_is_left_out(upscaler: Upscaler, tmp_path: Path) -> None:
    frames = [Pillow.fromarray(photo(11, 14, seed)) for seed in range(2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"a\.png: the first of 2 frames is taken") as warned:
        upscaler.upscale(tmp_path / "a.png")
        upscaler.upscale_each(tmp_path / "a.png", [0, 1])
    assert [each.filename for each in warned] == [__file__] * 2  # the user's own lines
