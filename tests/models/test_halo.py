"""What networks must see around a tile: found by experiment, and true of tiles of any size and place."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.restorers import original_restorer, pcsr_restorer
from inference.tiles import TilePlan
from models.build import build
from models.fast.engine import Engine
from models.halo import find_halo
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
from models.tile import Halo, Tile
from tests.conftest import TINY_PCSR

WIDTH = 6
CPU = torch.device("cpu")


class Windows(nn.Module):
    """Attention within windows, the second time of windows shifted by half, as in SwinIR."""

    def __init__(self, size: int, centred: bool = False, shifted: bool = True) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.size, self.centred, self.shifts = size, centred, (0, size // 2) if shifted else (0,)

    def forward(self, x: Tensor) -> Tensor:
        feat = self.entry(x)
        (h, w), n = x.shape[2:], self.size
        before = (-h % n // 2, -w % n // 2) if self.centred else (0, 0)
        feat = F.pad(feat, (before[1], -w % n - before[1], before[0], -h % n - before[0]), mode="reflect")
        for shift in self.shifts:
            feat = feat + self.attend(feat, shift)
        return feat[..., before[0] : before[0] + h, before[1] : before[1] + w]

    def attend(self, feat: Tensor, shift: int) -> Tensor:
        b, c, height, width = feat.shape
        n = self.size
        place = torch.zeros(1, 1, height, width)  # rolled pixels must not meet those of the other border
        place[..., height - n :, :] += 1 * (shift > 0)
        place[..., height - shift :, :] += 1 * (shift > 0)
        place[..., width - n :] += 3 * (shift > 0)
        place[..., width - shift :] += 3 * (shift > 0)
        rolled = torch.cat([feat.roll((-shift, -shift), (2, 3)), place.to(feat).expand(b, -1, -1, -1)], 1)
        cells = rolled.view(b, c + 1, height // n, n, width // n, n).permute(0, 2, 4, 3, 5, 1).reshape(-1, n * n, c + 1)
        tokens, where = cells[..., :c], cells[..., c:]
        odds = 9 * tokens @ tokens.transpose(1, 2) - 1e3 * (where != where.transpose(1, 2))
        out = odds.softmax(-1) @ tokens
        out = out.view(b, height // n, width // n, n, n, c).permute(0, 5, 1, 3, 2, 4).reshape(feat.shape)
        return out.roll((shift, shift), (2, 3))


class Rolled(Windows):
    """Shifted windows in which the pixels of opposite borders meet, as nothing keeps them apart."""

    def attend(self, feat: Tensor, shift: int) -> Tensor:
        return super().attend(feat.roll((-shift, -shift), (2, 3)), 0).roll((shift, shift), (2, 3))


class Cells(nn.Module):
    """Convolutions at a fraction of the resolution."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(3 * factor**2, WIDTH * factor**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = F.pad(x, (0, -w % self.factor, 0, -h % self.factor), mode="replicate")
        return F.pixel_shuffle(self.conv(F.pixel_unshuffle(x, self.factor)), self.factor)[..., :h, :w]


class Squeezed(nn.Module):
    """Looks at the mean of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        feat = self.conv(x)
        return feat * feat.mean((2, 3), keepdim=True).sigmoid()


class Placed(nn.Module):
    """Knows the row and column, or with `relative` the share of the height and width."""

    def __init__(self, relative: bool) -> None:
        super().__init__()
        self.relative = relative
        self.conv = nn.Conv2d(5, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        place = torch.stack([row / (h if self.relative else 100), column / (w if self.relative else 100)])
        return self.conv(torch.cat([x, place.to(x).expand(len(x), -1, -1, -1)], 1))


NETWORKS: dict[str, tuple[nn.Module, int | None]] = {  # and their periods
    "convolutions": (
        nn.Sequential(nn.Conv2d(3, WIDTH, 5, padding=2), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
        1,
    ),
    "strided and back": (
        nn.Sequential(nn.Conv2d(3, 9, 3, 1, 1), nn.Upsample(scale_factor=2), nn.AvgPool2d(2), nn.Conv2d(9, WIDTH, 1)),
        1,
    ),
    "windows of 8": (Windows(8, shifted=False), 8),
    "shifted windows of 8": (Windows(8), 8),
    "shifted windows of 5": (Windows(5), 5),
    "windows of 16": (Windows(16, shifted=False), 16),
    "cells of 2": (Cells(2), 2),
    "cells of 3": (Cells(3), 3),
    "windows in the middle": (Windows(8, centred=True, shifted=False), None),
    "windows of opposite borders": (Rolled(8), None),
    "borders that meet": (nn.Conv2d(3, WIDTH, 3, padding=1, padding_mode="circular"), None),
    "mean of the image": (Squeezed(), None),
    "row and column": (Placed(False), None),
    "share of height and width": (Placed(True), None),
    "too far": (nn.Conv2d(3, WIDTH, (1, 601), padding=(0, 300)), None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_equal_the_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, period = NETWORKS[name]
    halo = find_halo(encoder)
    assert (halo and halo.period) == period
    told = capsys.readouterr().err
    assert told.count("\n") == (period is None) and ("works on whole images" in told) == (period is None)
    model = build(TINY_PCSR)
    assert isinstance(model, PCSR)
    model.encoder = encoder.eval()
    lr = torch.rand(1, 3, 91, 101)
    settings = [Setting("k", 0.1, scale=2.5), Setting("adaptive", scale=2.5)]
    whole, tiles = (pcsr_restorer(model, settings, CPU, TilePlan(size))(lr) for size in (1000, 21))
    for one, other in zip(whole, tiles, strict=True):
        levels = abs(one.pixels.astype(int) - other.pixels)
        assert (levels > 1).mean() < 1e-3  # a pixel on the threshold may take the other upsampler
        assert (levels > 0).mean() < 1e-2
    original = OriginalModel(
        encoder, nn.Sequential(nn.Conv2d(WIDTH, 12, 3, padding=1), nn.PixelShuffle(2)), 2, (0.5,) * 3
    )
    (one,), (other,) = (original_restorer(original.eval(), CPU, TilePlan(size))(lr) for size in (1000, 21))
    assert abs(one.pixels.astype(int) - other.pixels).max() <= 1


@pytest.mark.parametrize("size", [20, 22, 45])
def test_halo_is_seen_from_multiples_of_the_period(size: int) -> None:
    lr = torch.zeros(1, 3, 50, size)
    tile = Tile(slice(19, 23), slice(size - 2, size - 1)).grown(lr, 2)
    assert tile.aligned(lr, 8) == Tile(slice(16, 32), slice((size - 4) // 8 * 8, min(-(-size // 8) * 8, size)))


@pytest.mark.parametrize(("backbone", "far"), [("carn", 19), ("srresnet", 33), ("softgate", 14), ("fsrcnn", 6)])
def test_compiled_code_hides_no_halo(backbone: str, far: int) -> None:
    model = build(TINY_PCSR.model_copy(update={"backbone": backbone, "width": 8})).eval()
    assert isinstance(model, PCSR)
    engine = Engine(model)
    with torch.inference_mode():  # in which the encoder runs by kernels that spread not-a-number over their tiles
        assert find_halo(model.encoder) == engine.halo == Halo(far, 1)


def test_networks_that_make_numbers_of_single_precision_have_tiles() -> None:
    class Biased(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, torch.ones(WIDTH, 3, 3, 3), padding=1)

    assert find_halo(Biased(3, WIDTH, 3)) == Halo(1, 1)


def test_images_that_fit_need_no_halo(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(TINY_PCSR)
    assert isinstance(model, PCSR)
    model.encoder = Squeezed()
    monkeypatch.setattr("models.fast.engine.find_halo", lambda network: pytest.fail("looked for"))
    pcsr_restorer(model.eval(), [Setting()], CPU)(torch.rand(1, 3, 20, 30))
