"""The fast training step against the plain one: the same gradients, the same modules, the same bits in every run."""

import copy
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.build import build_original, build_pcsr
from models.fast.accelerate import FASTER, accelerate
from models.fast.build import load_kernels
from models.fast.cascade import fuse
from models.fast.engine import Engine
from models.fast.fold import folded
from models.tile import whole
from tests.conftest import ROOT
from training.tasks import OriginalTask, Phase0, Task
from utils.config import OriginalSpec, PCSRSpec, TrainSpec
from utils.parse import load_config

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="no C++ compiler")

BACKBONES = ["carn", "srresnet", "softgate"]
RECIPE = TrainSpec(iter_max=1, learning_rate=1e-3)


def phase0(backbone: str, shipped: bool = False) -> Phase0:
    """A small model, or that of the shipped config."""
    torch.manual_seed(0)
    spec: Any = PCSRSpec(kind="pcsr", backbone=backbone, width=20, upsamplers=((24, 20, 70),), classifier=None)
    if shipped:
        spec = load_config(ROOT / f"configs/{backbone}-pcsr-phase0.yaml").model
    return Phase0(build_pcsr(spec), RECIPE.model_copy(update={"loss": "psnr"})).train()


def original(backbone: str, shipped: bool = False) -> OriginalTask:
    torch.manual_seed(0)
    spec: Any = OriginalSpec(kind="original", backbone=backbone, width=20, scale=4)
    if shipped:
        spec = load_config(ROOT / f"configs/{backbone}-x4.yaml").model
    return OriginalTask(build_original(spec), RECIPE).train()


def batch(h: int = 11, w: int = 14) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 3, h, w), torch.rand(2, 3, 4 * h, 4 * w)


def gradients(task: Task[Any], *size: int) -> list[Tensor]:
    """Of the loss in all parameters, and the buffers as the step left them."""
    dtype = next(task.parameters()).dtype
    lr, hr = (image.to(dtype) for image in batch(*size))
    task.zero_grad()
    task(lr, hr)["loss"].backward()
    grads = [parameter.grad for parameter in task.parameters()]
    return [grad for grad in grads if grad is not None] + [buffer.clone() for buffer in task.buffers()]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("build", [phase0, original])
@pytest.mark.parametrize("shipped", [False, True])
def test_gradients_are_those_of_the_plain_step(backbone: str, build: Any, shipped: bool) -> None:
    plain, fast, exactly = (build(backbone, shipped) for _ in range(3))
    accelerate(fast)
    taken, usually = gradients(fast), gradients(plain)
    assert not all(map(torch.equal, taken, usually))  # as sums of another order are: the fast step was taken
    for ours, usual, exact in zip(taken, usually, gradients_in_double(exactly), strict=True):
        error, usual_error = (
            (each - exact).double().norm() / (exact.double().norm() + 1e-12) for each in (ours, usual)
        )
        assert error < 1e-5 + 5 * usual_error


def gradients_in_double(task: Task[Any]) -> list[Tensor]:
    torch.set_default_dtype(torch.float64)
    try:
        return gradients(task.double())
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_loss_on_features(backbone: str) -> None:
    """Its gradient may be one number, spread without memory of its own."""
    plain, fast = (phase0(backbone).model.encoder for _ in range(2))
    accelerate(fast)
    for encoder in (plain, fast):
        encoder(batch()[0]).sum().backward()
    for ours, usual in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, usual.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_float16_after_a_training(backbone: str) -> None:
    """Where the processor does not compute in float16, torch does it."""
    model = phase0(backbone).model.eval()
    lr = batch()[0]
    usual = model.encode(lr)
    accelerate(model)
    half = Engine(model, precision=torch.float16).features(lr, whole(lr))
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), usual, rtol=0.02, atol=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_where_no_more_threads_are_allowed() -> None:
    """The threads that there are do the work of the others, with the same result."""
    script = """
import resource, torch
from models.fast.winograd import convolve
from utils.device import keep_memory
keep_memory()
x, weight = torch.rand(1, 8, 512, 512), torch.rand(8, 8, 3, 3)
usual = convolve(x, weight)
torch.ones(64 << 20)  # memory that stays for the kernel, while there is none for the threads' stacks
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
torch.get_num_threads = lambda: 500
assert torch.equal(convolve(x, weight), usual)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, env={**os.environ, "MALLOC_ARENA_MAX": "1"})


def test_batchnorm_of_nearly_constant_values() -> None:
    """A smooth image leaves little of a channel but its mean, which must not cost the variance its digits."""
    rows, norm = 100 + 0.01 * torch.randn(500, 4), nn.BatchNorm2d(4)
    z = rows.double() @ torch.eye(4).double()
    ours = fuse([rows], [torch.eye(4), *norm.parameters()], norm)
    assert torch.allclose(ours.mean, z.mean(0), rtol=1e-6)
    assert torch.allclose(ours.inverse, (z.var(0, correction=0) + norm.eps).rsqrt(), rtol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("build", [phase0, original])
def test_what_is_no_number_reaches_the_loss(backbone: str, build: Any) -> None:
    """Or a training would go on with broken weights until they are saved."""
    task = build(backbone)
    accelerate(task)
    with torch.no_grad():
        next(task.model.encoder.parameters()).fill_(torch.inf)
    assert not task(*batch())["loss"].isfinite()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_runs_agree_to_the_bit(backbone: str) -> None:
    runs, before = [], torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in range(2):
            task = phase0(backbone)
            accelerate(task)
            runs.append(gradients(task, 40, 48))  # more rows and tiles than one thread takes
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_model_stays_what_it_is(backbone: str) -> None:
    plain, fast = phase0(backbone), phase0(backbone)
    accelerate(fast)
    assert any(type(part) in FASTER.values() for part in fast.modules())
    assert plain.state_dict().keys() == fast.state_dict().keys()
    for each in (plain, fast):
        gradients(each)
    fast.load_state_dict(plain.state_dict())
    lr, _ = batch()
    with torch.no_grad():
        expected = plain.model.encoder.eval()(lr)
        for encoder in (copy.deepcopy(fast.model), pickle.loads(pickle.dumps(fast.model))):
            assert torch.equal(encoder.encoder.eval()(lr), expected)
        assert torch.allclose(folded(fast.model.encoder)(lr), expected, atol=1e-5)
        size = (44, 56)
        ways = [Engine(task.model.eval()) for task in (plain, fast)]  # of accelerated and of plain modules
        first, second = (way.upsample(way.encode(lr), size, torch.zeros(len(lr), *size)) for way in ways)
        assert torch.equal(first, second)
