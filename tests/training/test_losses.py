"""The training step against the plain formulation: autograd through every pixel of the whole batch at once."""

import copy
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

import training.queries
import training.tasks
from models.build import build_pcsr
from models.decide import probabilities
from models.fast.accelerate import accelerate
from models.fast.build import load_kernels
from models.fast.fold import folded
from models.fast.pixel_errors import pixel_errors
from models.grid import grid_over
from models.pcsr import PCSR
from tests.conftest import TINY_PCSR, config_for
from training.losses import FLOOR, LOSSES
from training.queries import drawn, queries
from training.tasks import Phase0, Phase1, Task
from utils.config import PCSRSpec, TrainSpec
from utils.dist import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
COMPILED = pytest.param(True, marks=pytest.mark.skipif(load_kernels() is None, reason="no C++ compiler"))
SIZES = [(32, 32), (21, 27)]  # HR of 8x8 LR: an integer scale and one that is none, different along the axes


def spec(backbone: str, upsamplers: int, hidden_classifier: bool = True) -> PCSRSpec:
    hidden = ((4,), (5, 5), (8, 8))[-upsamplers:]
    classifier = None if upsamplers == 1 else (4,) if hidden_classifier else ()
    changes = {"backbone": backbone, "width": 8, "upsamplers": hidden, "classifier": classifier}
    return TINY_PCSR.model_copy(update=changes)


def recipe(**settings: object) -> TrainSpec:
    return config_for(TINY_PCSR, **settings).train


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda difference: difference.abs().mean(),
    "mse": lambda difference: difference.square().mean(),
    "psnr": lambda difference: (difference.square().mean((1, 2, 3)) + FLOOR).log().mean(),
}


def plain_phase0(model: PCSR, lr: Tensor, hr: Tensor, loss: str) -> Tensor:
    grid = grid_over(lr, (hr.shape[2], hr.shape[3]))
    sr = model.upsample_by(lr, model.encode(lr), grid, -1)
    return PLAIN[loss](sr - hr)


def plain_phase1(model: PCSR, lr: Tensor, hr: Tensor, loss: str) -> Tensor:
    feat, grid = model.encode(lr), grid_over(lr, (hr.shape[2], hr.shape[3]))
    prob = probabilities(model.classify(feat, grid))
    each = [model.upsample_by(lr, feat, grid, j) for j in range(len(model.upsamplers))]
    mixed = sum(prob[:, j : j + 1] * sr for j, sr in enumerate(each))
    half = prob[:, -1].numel() / 2
    return 1000 * PLAIN[loss](mixed - hr) + 3 * (prob[:, -1].sum() - half).abs() / half


def gradients(task: Task[PCSR], loss: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    task.zero_grad()
    value = loss()
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def assert_same(
    task: Phase0 | Phase1, plain: Callable[[PCSR, Tensor, Tensor, str], Tensor], lr: Tensor, hr: Tensor
) -> None:
    value, ours = gradients(task, lambda: task(lr, hr)["loss"])
    expected, reference = gradients(task, lambda: plain(task.model, lr, hr, task.spec.loss))
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    learnt = {name for name, p in task.named_parameters() if p.requires_grad}
    assert ours.keys() == reference.keys() == learnt
    whole = torch.cat([gradient.flatten() for gradient in reference.values()]).norm()
    for name, gradient in ours.items():  # one that nearly cancels has the rounding of what it is the sum of
        assert (gradient - reference[name]).norm() <= 1e-4 * reference[name].norm() + 1e-7 * whole, name


def test_configs_know_all_losses() -> None:
    assert list(get_args(TrainSpec.model_fields["loss"].annotation)) == list(LOSSES) == list(PLAIN)


def test_a_loss_needs_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "l1", LOSSES["l1"]._replace(kernel=None))
    task = Phase0(build_pcsr(spec("fsrcnn", 1)), recipe(loss="l1")).train()
    accelerate(task)
    monkeypatch.setattr(training.tasks, "pixel_errors", None)
    assert_same(task, plain_phase0, torch.rand(3, 3, 8, 8), torch.rand(3, 3, 32, 32))


# an encoder and a loss know nothing of each other: every loss with one encoder, every encoder with one loss
ENCODERS_AND_LOSSES = [
    *(("softgate", loss) for loss in LOSSES),
    ("carn", "l1"),
    ("srresnet", "mse"),
    ("fsrcnn", "psnr"),
]


@pytest.mark.parametrize(("backbone", "loss"), ENCODERS_AND_LOSSES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernels", [False, COMPILED])
def test_phase0_gradients_are_exact(
    kernels: bool, backbone: str, size: tuple[int, int], loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.queries, "GROUP_PIXELS", 300)  # several groups per image, the last one shorter
    task = Phase0(build_pcsr(spec(backbone, 1)), recipe(loss=loss)).train()
    if kernels:
        accelerate(task)
    for lr in (torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8).contiguous(memory_format=torch.channels_last)):
        assert_same(task, plain_phase0, lr, torch.rand(3, 3, *size))


HEADS = [(2, True, "l1"), (3, True, "psnr"), (2, False, "mse"), (3, False, "l1"), (2, True, "psnr")]


@pytest.mark.parametrize(
    ("backbone", "upsamplers", "hidden_classifier", "loss"),
    [*(("softgate", *head) for head in HEADS), *((encoder, *HEADS[1]) for encoder in ("carn", "srresnet", "fsrcnn"))],
)
@pytest.mark.parametrize("size", SIZES)
def test_phase1_gradients_are_exact(
    backbone: str,
    size: tuple[int, int],
    upsamplers: int,
    hidden_classifier: bool,
    loss: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training.queries, "GROUP_PIXELS", 300)
    model = build_pcsr(spec(backbone, upsamplers, hidden_classifier))
    for towards_heavy in (-1.0, 1.0):  # on both sides of the balancing loss's kink
        assert model.classifier is not None
        with torch.no_grad():
            model.mlps()[-1].linears()[-1].bias[-1] = towards_heavy
        task = Phase1(model, recipe(loss=loss), ALONE).train()
        assert_same(task, plain_phase1, torch.rand(3, 3, 8, 8), torch.rand(3, 3, *size))


@pytest.mark.parametrize("loss", LOSSES)
def test_one_group_and_many_agree(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices other than CPUs take the whole batch as one group."""
    task = Phase1(build_pcsr(spec("carn", 2)), recipe(loss=loss), ALONE).train()
    lr, hr = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 32, 32)
    _, several = gradients(task, lambda: task(lr, hr)["loss"])
    monkeypatch.setattr(training.queries, "CACHED", ())
    _, one = gradients(task, lambda: task(lr, hr)["loss"])
    for name, gradient in several.items():
        torch.testing.assert_close(gradient, one[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_kernels_agree_with_torch_about_random_pixels(loss: str) -> None:
    torch.manual_seed(0)
    model = build_pcsr(spec("softgate", 1))
    lr, hr = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 32, 32)
    found = []
    for kernels in (False, True):
        task = Phase0(copy.deepcopy(model), recipe(loss=loss, pixels_per_patch=100)).train()
        if kernels:
            accelerate(task)
        torch.manual_seed(1)  # of the pixels
        found.append(gradients(task, lambda task=task: task(lr, hr)["loss"]))  # type: ignore[misc]
    (expected, plain), (value, ours) = found
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.skipif(load_kernels() is None, reason="the kernels cannot be built here")
def test_the_number_of_threads_changes_no_gradient() -> None:
    mlp = build_pcsr(spec("softgate", 1)).mlps()[-1]
    chosen = queries(torch.rand(3, 3, 8, 8), torch.rand(3, 3, 32, 32), 500)
    pixels, table = (chosen.across, chosen.nearest, chosen.coords, chosen.target), torch.randn(3 * 64, 8)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            read = table.clone().requires_grad_()
            errors = pixel_errors(mlp, read, *pixels, absolute=False)
            found.append([errors, *torch.autograd.grad(errors.sum(), [read, *list(mlp.parameters())[2:]])])
    finally:
        torch.set_num_threads(before)
    for one, several in zip(found[0] * 2, found[1] + found[2], strict=True):
        assert torch.equal(one, several)


@pytest.mark.parametrize("kernels", [False, COMPILED])
def test_features_that_are_no_numbers_show_in_the_loss(kernels: bool) -> None:
    task = Phase0(build_pcsr(spec("softgate", 1)), recipe()).train()
    if kernels:
        accelerate(task)
    with torch.no_grad():
        task.model.mlps()[0].linears()[0].bias.fill_(torch.nan)
    assert task(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32))["loss"].isnan()


def test_every_pixel_is_drawn_as_often() -> None:
    for count, pixels in ((6, 24), (5, 12), (7, 8)):
        chosen = drawn(10000, count, pixels, torch.device("cpu"))  # (10000,count)
        assert (chosen.diff(dim=1) >= 0).all()
        often = chosen.flatten().bincount(minlength=pixels) / len(chosen)
        torch.testing.assert_close(often, torch.full((pixels,), count / pixels), rtol=0, atol=0.03)


def test_random_pixels_are_a_subset_without_repeats() -> None:
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    whole, some = queries(lr, hr), queries(lr, hr, 128)
    assert some.nearest.shape == (2, 128) and some.coords.shape == (2, 128, 4) and some.target.shape == (2, 128, 3)
    for image in range(2):
        every = torch.cat([whole.nearest[image, :, None], whole.coords[image], whole.target[image]], 1).tolist()
        chosen = torch.cat([some.nearest[image, :, None], some.coords[image], some.target[image]], 1).tolist()
        assert all(pixel in every for pixel in chosen) and len({tuple(pixel) for pixel in chosen}) == 128
    assert not torch.equal(some.nearest[0], some.nearest[1])
    assert not torch.equal(some.nearest, queries(lr, hr, 128).nearest)
    assert torch.equal(queries(lr, hr, 5000).target, whole.target)


def test_a_subset_is_unbiased() -> None:
    model = build_pcsr(spec("srresnet", 1))
    whole, some = Phase0(model, recipe()).train(), Phase0(model, recipe(pixels_per_patch=256)).train()
    lr, hr = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32) + torch.linspace(0, 2, 32)[:, None]  # rows differ
    everything = whole(lr, hr)["loss"].item()
    assert sum(some(lr, hr)["loss"].item() for _ in range(50)) / 50 == pytest.approx(everything, rel=0.05)


def test_folding_keeps_the_output() -> None:
    encoder = build_pcsr(spec("carn", 1)).encoder.train()
    for _ in range(3):
        encoder(torch.rand(2, 3, 12, 12))  # statistics worth folding
    encoder.eval()
    lr = torch.rand(2, 3, 16, 16)
    plain = folded(encoder)
    assert not [part for part in plain.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(plain(lr), encoder(lr), rtol=1e-5, atol=1e-6)
    assert [part for part in encoder.modules() if isinstance(part, torch.nn.BatchNorm2d)]  # a copy was folded


def test_the_processes_agree_on_the_sign_of_the_balancing_loss() -> None:
    """A process whose own share is light follows a job that is heavy."""

    class Heavy(Ranks):
        def mean(self, value: Tensor) -> Tensor:
            return torch.tensor(0.9)

    model = build_pcsr(spec("carn", 2))
    lr, hr = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        model.mlps()[-1].linears()[-1].bias[-1] = -1
    balancing = recipe(loss_l1_w=1e-9, loss_avg_w=1)
    alone, job = (Phase1(model, balancing, ranks).train() for ranks in (ALONE, Heavy(0, 2, ALONE.device)))
    _, ours = gradients(alone, lambda: alone(lr, hr)["loss"])
    _, theirs = gradients(job, lambda: job(lr, hr)["loss"])
    for name in ours:
        if "classifier" in name:
            torch.testing.assert_close(ours[name], -theirs[name], rtol=1e-4, atol=1e-7)
    assert alone(lr, hr)["balance"] == pytest.approx(1 - 2 * alone(lr, hr)["heavy_share"].item())
