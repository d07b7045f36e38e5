from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.backbone import Backbone
from models.build import BACKBONES, build, build_original, build_pcsr
from models.flops import RULES, Flops, network_flops
from models.grid import grid_over
from tests.conftest import ROOT
from utils.config import OriginalSpec, PCSRSpec
from utils.errors import InputError
from utils.parse import load_config

LR_PIXELS, HR_PIXELS = 32 * 32, 128 * 128
# Millions per 32x32 LR patch at x4, paper account: original, encoder, heavy, light, classifier (published counter)
PUBLISHED = {
    "carn": (1156.45, 477.63, 681.38, 64.88, 22.28),
    "srresnet": (5193.99, 1987.38, 3203.07, 190.05, 55.05),
    "fsrcnn": (468.02, 20.47, 435.22, 24.58, 3.41),
    "softgate": (283.84, 255.52, 484.44, 28.84, 12.06),  # by the same rules: nobody else has published it
}


def specs(backbone: str) -> tuple[OriginalSpec, PCSRSpec]:
    original = load_config(ROOT / f"configs/{backbone}-x4.yaml").model
    pcsr = load_config(ROOT / f"configs/{backbone}-pcsr-phase1.yaml").model
    assert isinstance(original, OriginalSpec) and isinstance(pcsr, PCSRSpec)
    return original, pcsr


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_paper_account_equals_the_published_counter(backbone: str) -> None:
    original_spec, pcsr_spec = specs(backbone)
    original, encoder, heavy, light, classifier = (value * 1e6 for value in PUBLISHED[backbone])
    assert network_flops(build_original(original_spec)).paper * LR_PIXELS == pytest.approx(original, abs=5001)
    model = build_pcsr(pcsr_spec)
    parts = model.flops
    assert parts.per_lr.paper * LR_PIXELS == pytest.approx(encoder, abs=5001)
    assert parts.upsamplers[1].paper * HR_PIXELS == pytest.approx(heavy, abs=5001)
    assert parts.upsamplers[0].paper * HR_PIXELS == pytest.approx(light, abs=5001)
    assert parts.classifier.paper * HR_PIXELS == pytest.approx(classifier, abs=5001)


def test_cost_of_carn() -> None:
    model = build_pcsr(specs("carn")[1])
    assert model.flops.cost(4) == pytest.approx([0.3188, 0.6812], abs=1e-4)


def batch_norm_flops(module: torch.nn.Module, positions: int) -> float:
    """What torch's counter leaves out: one multiply-accumulate per element."""
    return sum(2.0 * m.num_features * positions for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_executed_account_equals_torchs_counter(backbone: str) -> None:
    original_spec, pcsr_spec = specs(backbone)
    lr = torch.rand(1, 3, 6, 7)
    original = build_original(original_spec).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        original(lr)
    counted = counter.get_total_flops() + batch_norm_flops(original, 42)
    assert network_flops(original).executed * 42 == pytest.approx(counted)

    model = build_pcsr(pcsr_spec).eval()
    size = (24, 28)
    assignment = torch.randint(2, (1, *size))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        feat, grid = model.encode(lr), grid_over(lr, size)
        model.classify(feat, grid)
        model.upsample(lr, feat, grid, assignment)
    counted = counter.get_total_flops() + batch_norm_flops(model, 42)
    heavy = int(assignment.sum())
    assert model.flops.total(42, [24 * 28 - heavy, heavy]).executed == pytest.approx(counted)


class Twice(nn.Module):
    """One layer, used twice: on the image and on what it makes of it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


class Functional(nn.Module):
    """Uses functions and its own weights rather than layers."""

    def __init__(self, of: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3, 1, 1))
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x, self.weight)


class Attention(nn.Module):
    """Of all pixels to all, on one head or by torch's own module."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.of_torch = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (b,n,3)
        if self.how == "einsum":
            odds = torch.einsum("bic,bjc->bij", tokens, tokens)
            tokens = torch.einsum("bij,bjc->bic", odds.softmax(-1), tokens)
        elif self.how == "matmul":
            tokens = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        elif self.how == "module":
            tokens = self.of_torch(tokens, tokens, tokens, need_weights=False)[0]
        else:
            mask = torch.zeros(tokens.shape[1], tokens.shape[1]) if self.how == "masked" else None
            tokens = F.scaled_dot_product_attention(tokens[:, None], tokens[:, None], tokens[:, None], mask)[:, 0]
        return tokens.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize(
    ("layer", "paper", "executed"),
    [
        (nn.Conv2d(3, 3, 3, padding=1, groups=3), 2 * 9 * 3, 2 * 9 * 3),
        (nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 3, 2, 2)), 2 * 24 + 2 * 96, 2 * 24 + 2 * 24),
        (nn.ConvTranspose2d(3, 3, 3, padding=1, groups=3), 2 * 9 * 3, 2 * 9 * 3),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), 6, 6),
        (nn.PReLU(3), 3, 0),
        (nn.GroupNorm(1, 3), 6, 6),
        (nn.LayerNorm(32), 6, 6),
        (Functional(lambda x, weight: x * weight[0]), 0, 0),
        (Functional(F.conv2d), 18, 18),
        (Functional(F.conv_transpose2d), 18, 18),
        (Functional(lambda x, weight: F.prelu(x, weight[0, :, 0, 0])), 3, 0),
        *[(Attention(how), 2 * 2 * 3 * 1024, 2 * 2 * 3 * 1024) for how in ("einsum", "matmul", "function", "masked")],
        (Attention("module"), 2 * 2 * 3 * 1024 + 4 * 18, 2 * 2 * 3 * 1024 + 4 * 18),
    ],
)
def test_every_call_of_a_shared_layer_counts(layer: nn.Module, paper: float, executed: float) -> None:
    assert network_flops(Twice(layer)) == (2 * paper, 2 * executed)


def test_counting_leaves_the_network_alone() -> None:
    network = Twice(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))).half().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        assert network_flops(network) == (48, 48)
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(layer._forward_hooks for layer in network.modules())


class Spectral(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x).abs()[..., :1] + x


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            Spectral(),
            r"layer\.1 \(Spectral\) cannot be counted: it calls aten\._fft_r2c\.default; give Spectral a rule",
        ),
        (Rows(), r"layer\.1\.lstm \(LSTM\) cannot be counted: it calls aten.*; give LSTM a rule in RULES"),
    ],
)
def test_what_cannot_be_counted_is_named(layer: nn.Module, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Twice(nn.Sequential(nn.Conv2d(3, 3, 1), layer))
    with pytest.raises(InputError, match=reason):
        network_flops(network)
    monkeypatch.setitem(RULES, type(layer), lambda layer, x, y: Flops(y.numel(), 0))
    assert network_flops(network) == (2 * (2 * 9 + 3), 2 * 2 * 9)
    monkeypatch.setitem(RULES, Twice, lambda layer, x, y: Flops(0, y.numel()))  # speaks for what is inside
    assert network_flops(network) == (0, 3)


@torch.no_grad()
def test_attention_equals_torchs_counter() -> None:
    for how in ("einsum", "matmul", "function"):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            Attention(how).eval()(torch.rand(1, 3, 32, 32))
        assert network_flops(Attention(how)).executed * LR_PIXELS == counter.get_total_flops()


def whatever(network: nn.Module, width: int) -> nn.Module:
    return network


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 48, 1), Spectral()), r"1 \(Spectral\) cannot be counted"),
        (nn.Conv2d(3, 48, 64), r"the encoder must take any h and w, and make \(b,\d+,9,11\).*but: RuntimeError"),
        (nn.PixelUnshuffle(2), "the encoder must take any h and w.*but: RuntimeError"),
        (nn.Conv2d(3, 48, 3), r"the encoder must .*, not \(48, 7, 9\)"),
        (nn.Conv2d(3, 7, 1), r"the encoder must .*, not \(7, 9, 11\)"),
        (nn.Module(), 'missing the required "forward" function'),
    ],
)
def test_what_a_backbone_lacks_is_an_error_when_it_is_built(
    network: nn.Module, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = nn.PixelShuffle(4)
    monkeypatch.setitem(BACKBONES, "fsrcnn", Backbone(partial(whatever, network), lambda width, scale: tail))
    for spec in specs("fsrcnn"):
        with pytest.raises(InputError, match=reason):
            build(spec.model_copy(update={"width": 48}))


def test_a_tail_of_another_scale_is_an_error_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = partial(whatever, nn.Conv2d(3, 48, 1))
    monkeypatch.setitem(BACKBONES, "fsrcnn", Backbone(encoder, lambda width, scale: nn.PixelShuffle(4)))
    with pytest.raises(InputError, match=r"the tail must .* make \(b,3,27,33\) of \(b,48,9,11\), not \(3, 36, 44\)"):
        build(OriginalSpec(kind="original", backbone="fsrcnn", width=48, scale=3))
