"""What a training takes from the weights of another, `train.init`."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.blocks import shuffle_factors
from models.build import BACKBONES, build
from models.carn import CARNTail
from models.checkpoint import load_model
from models.original import OriginalModel
from models.pcsr import PCSR
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, config_for, save_tiny
from training.start import check_scales, start_from
from utils.config import OriginalSpec, PCSRSpec
from utils.errors import InputError

PHASE0 = TINY_PCSR.model_copy(update={"upsamplers": TINY_PCSR.upsamplers[-1:], "classifier": None})


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def end(model: OriginalModel | PCSR) -> nn.Module:
    """The tail, or the heavy upsampler."""
    return model.tail if isinstance(model, OriginalModel) else model.upsamplers[-1]


@pytest.mark.parametrize("spec", [TINY_ORIGINAL, PHASE0, TINY_PCSR])
@pytest.mark.parametrize("source", [TINY_ORIGINAL, PHASE0])
def test_the_shared_modules_are_taken(
    spec: OriginalSpec | PCSRSpec, source: OriginalSpec | PCSRSpec, tmp_path: Path
) -> None:
    path = str(save_tiny(tmp_path / "source", source))
    trained, _ = load_model(path)
    model, before = build(spec), build(spec)
    before.load_state_dict(model.state_dict())
    if spec == TINY_PCSR and source == TINY_ORIGINAL:
        with pytest.raises(InputError, match="phase 1 needs the weights of phase 0"):
            start_from(model, spec, path)
        return
    start_from(model, spec, path)
    assert same(model.encoder, trained.encoder)
    assert same(end(model), end(trained if spec.kind == source.kind else before))


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "source", PHASE0.model_copy(update={"width": 7})))
    with pytest.raises(InputError, match=r"is another model than this config's: width is 7, not \d"):
        start_from(build(PHASE0), PHASE0, path)
    other = PHASE0.model_copy(update={"upsamplers": ((9,),)})
    path = str(save_tiny(tmp_path / "other", other))
    with pytest.raises(InputError, match=r"this config's: heavy upsampler is \(9,\), not \("):
        start_from(build(PHASE0), PHASE0, path)


def test_a_layer_that_begins_as_zeros_is_widened(tmp_path: Path) -> None:
    wide = TINY_ORIGINAL.model_copy(update={"width": 12})
    model = build(wide)
    for weight in model.encoder.parameters():
        nn.init.zeros_(weight)
    path = str(save_tiny(tmp_path / "source", PHASE0.model_copy(update={"width": 8})))
    start_from(model, wide, path)
    assert all(weight.isfinite().all() for weight in model.encoder.parameters())


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_a_narrower_encoder_is_widened(backbone: str, tmp_path: Path) -> None:
    """The trained channels of each group compute the same as before; the added ones can learn."""
    narrow = PHASE0.model_copy(update={"backbone": backbone, "width": 8})
    wide = TINY_ORIGINAL.model_copy(update={"backbone": backbone, "width": 12})
    path = str(save_tiny(tmp_path / "source", narrow))
    trained, _ = load_model(path)
    model = build(wide)
    assert start_from(model, wide, path) == "train.init: the encoder is widened from 8 to 12 channels"
    model.eval()
    lr = torch.rand(2, 3, 9, 7) - 0.5
    feat, before = model.encoder(lr), trained.encoder(lr)
    kept = [0, 1, 3, 4, 6, 7, 9, 10] if backbone == "carn" else list(range(8))  # CARN's convolutions have four groups
    torch.testing.assert_close(feat[:, kept], before, rtol=1e-5, atol=1e-6)
    added = [channel for channel in range(12) if channel not in kept]
    size = (feat[:, added].std() / before.std()).item()
    assert 0.05 < size < 20
    feat.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.encoder.parameters())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_original_carn_begins_with_an_interpolation(scale: int, tmp_path: Path) -> None:
    """What is left without the random weights of its tail; a convolution reads zeros beyond the image."""
    narrow = PHASE0.model_copy(update={"backbone": "carn", "width": 8})
    wide = TINY_ORIGINAL.model_copy(update={"backbone": "carn", "width": 20, "scale": scale})
    model = build(wide)
    assert isinstance(model, OriginalModel) and isinstance(model.tail, CARNTail)
    note = start_from(model, wide, str(save_tiny(tmp_path / "source", narrow)))
    assert note == (
        "train.init: the encoder is widened from 8 to 20 channels, three of which carry the image (only with "
        "frozen_bn=true, or BatchNorm changes it)"
    )
    lr = torch.rand(1, 3, 12, 15)
    model.tail.exit.weight.data[:, [0, 1, *range(5, 20)]] = 0
    expected = lr
    for factor in shuffle_factors(scale):
        expected = functional.interpolate(expected, scale_factor=factor, mode="bilinear")
    inside = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
    torch.testing.assert_close(model.eval()(lr)[inside], expected[inside], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        (TINY_ORIGINAL.model_copy(update={"width": 7}), "width is 7, not 6"),  # narrower only
        (TINY_ORIGINAL.model_copy(update={"width": 5}), "width is 5, not 6"),  # the tail, too, would be taken
        (PHASE0.model_copy(update={"backbone": "softgate", "width": 5}), "backbone is softgate, not fsrcnn"),
    ],
)
def test_other_encoders_are_not_widened(source: OriginalSpec | PCSRSpec, asked: str, tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "source", source))
    with pytest.raises(InputError, match=f"is another model than this config's: {asked}"):
        start_from(build(TINY_ORIGINAL), TINY_ORIGINAL, path)


DEPTHWISE = """
from torch import nn


class Encoder(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1, groups=width))
"""


def test_one_group_for_each_channel_is_not_widened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "depthwise.py").write_text(DEPTHWISE)
    monkeypatch.chdir(tmp_path)
    wide = PHASE0.model_copy(update={"backbone": "depthwise:Encoder", "width": 8})
    path = str(save_tiny(tmp_path / "source", wide.model_copy(update={"width": 6})))
    with pytest.raises(InputError, match="is another model than this config's: width is 6, not 8"):
        start_from(build(wide), wide, path)


def test_the_tail_of_another_scale_is_refused(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "source", TINY_ORIGINAL.model_copy(update={"scale": 3})))
    with pytest.raises(InputError, match="is another model than this config's: scale is 3, not 4"):
        start_from(build(TINY_ORIGINAL), TINY_ORIGINAL, path)


def test_phase1_goes_on_from_phase1(tmp_path: Path) -> None:
    """All is taken if the sizes agree, else the encoder and the heavy upsampler only."""
    path = str(save_tiny(tmp_path / "source", TINY_PCSR))
    trained, _ = load_model(path)
    model = build(TINY_PCSR)
    start_from(model, TINY_PCSR, path)
    assert same(model, trained)
    wider = TINY_PCSR.model_copy(update={"upsamplers": ((5,), (8, 8))})
    model = build(wider)
    start_from(model, wider, path)
    assert same(model.encoder, trained.encoder) and same(end(model), end(trained))
    assert isinstance(model, PCSR) and isinstance(trained, PCSR) and model.classifier and trained.classifier
    assert not same(model.classifier, trained.classifier)


def test_phase1_keeps_to_the_scales_of_phase0(tmp_path: Path) -> None:
    path = str(save_tiny(tmp_path / "source", PHASE0))  # trained at x4
    for phase, scale in ((0, 4), (0, (2, 4)), (1, 4), (1, (2, 4)), (1, 1)):
        config = config_for(TINY_PCSR if phase else PHASE0, init=path, phase=phase)
        config = config.model_copy(update={"data": config.data.model_copy(update={"scale": scale})})
        named = {(1, 1): "x1", (1, (2, 4)): "x2 to x4"}.get((phase, scale))
        beyond = pytest.raises(InputError, match=f"source was trained at x4, and phase 1 at {named} trains neither")
        with beyond if named else nullcontext():
            check_scales(config)
