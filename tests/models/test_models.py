import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.build import build, build_pcsr
from models.decide import decide
from models.grid import axis, bilinear, grid_over
from models.pcsr import PCSR, refine
from models.setting import Rule, Setting
from tests.conftest import TINY_PCSR, balance
from utils.config import OriginalSpec, PCSRSpec
from utils.errors import InputError

CARN = PCSRSpec(kind="pcsr", backbone="carn", width=52, upsamplers=((20,) * 3, (74,) * 4), classifier=(10, 10))


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts() -> None:
    assert parameters(build(OriginalSpec(kind="original", backbone="carn", width=64, scale=4))) == 294_915
    assert parameters(build(CARN)) == 168_970
    fsrcnn = PCSRSpec(kind="pcsr", backbone="fsrcnn", width=48, upsamplers=((10,) * 3, (58,) * 4), classifier=())
    assert round(parameters(build(fsrcnn)) / 1000) in (24, 25)


@pytest.mark.parametrize("backbone,width", [("carn", 8), ("srresnet", 6), ("softgate", 6), ("fsrcnn", 6)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_original_enlarges(backbone: str, width: int, scale: int) -> None:
    model = build(OriginalSpec(kind="original", backbone=backbone, width=width, scale=scale)).eval()
    assert model(torch.rand(2, 3, 5, 7)).shape == (2, 3, 5 * scale, 7 * scale)


def test_axis_ties_take_the_lower_pixel() -> None:
    rows = axis(2, 5)  # x2.5: the centre of HR pixel 2 lies on the border between both LR pixels
    assert rows.index.tolist() == [0, 0, 0, 1, 1]
    assert rows.offset.tolist() == pytest.approx([-0.6, 0.2, 1.0, -0.2, 0.6])
    assert rows.cell == pytest.approx(0.8)


def test_cells_beyond_the_limits_become_the_limits() -> None:
    model, lr = build_pcsr(TINY_PCSR), torch.rand(1, 3, 6, 9)
    model.cell_limits = (0.5, 0.8)  # as after a training at x2.5 to x4
    for scale, cell in ((4, 0.5), (3, 2 / 3), (2, 0.8), (1, 0.8), (8, 0.5)):
        size = (6 * scale, 9 * scale)
        grid = grid_over(lr, size)
        limited = grid._replace(rows=replace(grid.rows, cell=cell), cols=replace(grid.cols, cell=cell))
        expected = model.upsample_by(lr, model.encode(lr), limited, -1)
        torch.testing.assert_close(model(lr, size, Setting("k", -math.inf)).sr, expected)
        assert grid_over(lr, size, model.cell_limits).rows.cell == pytest.approx(cell)


@pytest.mark.parametrize("n,size", [(7, 7), (7, 28), (10, 33), (1080, 4320), (997, 2741)])
def test_axis_equals_brute_force(n: int, size: int) -> None:
    coord = -1 + (2 * torch.arange(size, dtype=torch.float64) + 1) / size
    centre = -1 + (2 * torch.arange(n, dtype=torch.float64) + 1) / n
    distance = coord[:, None] - centre
    rows = axis(n, size)
    chosen = distance.gather(1, rows.index[:, None])[:, 0]
    assert torch.all(chosen.abs() <= distance.abs().amin(1) + 1e-12)
    torch.testing.assert_close(rows.offset, (chosen * n).float(), atol=1e-6, rtol=0)


def plain(model: PCSR, lr: Tensor, size: tuple[int, int], index: int) -> Tensor:
    """The paper's formulation: every MLP on [feat, rel_coord, rel_cell] of every HR pixel."""
    feat = model.encoder(lr - model.mean)
    (b, _, h, w), (height, width) = lr.shape, size
    rows, cols = axis(h, height), axis(w, width)
    nearest = feat[:, :, rows.index][:, :, :, cols.index].permute(0, 2, 3, 1)
    y = rows.offset[None, :, None, None].expand(b, height, width, 1)
    x = cols.offset[None, None, :, None].expand(b, height, width, 1)
    cell = torch.tensor([2 / height * h, 2 / width * w]).expand(b, height, width, 2)
    return model.mlps()[index].layers(torch.cat([nearest, y, x, cell], dim=-1))


@pytest.mark.parametrize("scale", [1, 2, 2.5, 3.3, 4])
@pytest.mark.parametrize("spec", [TINY_PCSR, TINY_PCSR.model_copy(update={"classifier": ()})])
def test_factorised_equals_plain(spec: PCSRSpec, scale: float) -> None:
    model, lr = build_pcsr(spec), torch.rand(2, 3, 6, 9)
    size = (round(6 * scale), round(9 * scale))
    feat, grid = model.encode(lr), grid_over(lr, size)
    logits = plain(model, lr, size, 2).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.classify(feat, grid), logits[:, 1:] - logits[:, :1], atol=1e-5, rtol=1e-5)
    for j in (0, 1):
        expected = plain(model, lr, size, j).permute(0, 3, 1, 2) + bilinear(lr, grid)
        torch.testing.assert_close(model.upsample_by(lr, feat, grid, j), expected, atol=1e-5, rtol=1e-5)


def test_factorised_gradients_equal_plain() -> None:
    model, lr, size = build_pcsr(TINY_PCSR), torch.rand(2, 3, 6, 9), (15, 23)
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
    model.mean = model.mean.double()
    weight = torch.rand(2, *size, 3, dtype=torch.float64)
    wanted = [p for name, p in model.named_parameters() if name.startswith(("encoder", "upsamplers.1"))]
    (plain(model, lr.double(), size, 1) * weight).sum().backward()
    expected = [p.grad.clone() for p in wanted if p.grad is not None]
    model.zero_grad()
    assignment = torch.ones(2, *size, dtype=torch.uint8)  # all heavy
    values = model.upsample(lr.double(), model.encode(lr.double()), grid_over(lr, size), assignment)
    (values.permute(0, 2, 3, 1) * weight).sum().backward()
    for parameter, gradient in zip(wanted, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("count", [2, 3])
def test_upsample_follows_the_assignment(count: int) -> None:
    hidden = ((4,), (6,), (8, 8))[:count]
    model = build_pcsr(TINY_PCSR.model_copy(update={"upsamplers": hidden})).eval()
    lr, size = torch.rand(2, 3, 6, 9), (300, 450)
    with torch.no_grad():
        feat, grid = model.encode(lr), grid_over(lr, size)
        assignment = torch.randint(count, (2, *size))
        each = torch.stack([model.upsample_by(lr, feat, grid, j) for j in range(count)], dim=1)
        expected = each.gather(1, assignment[:, None, None].expand(-1, 1, 3, -1, -1))[:, 0]
        torch.testing.assert_close(model.upsample(lr, feat, grid, assignment), expected, atol=1e-6, rtol=0)
        prob = model(lr, size, Setting()).prob
    assert prob.shape == (2, count, *size)
    torch.testing.assert_close(prob.sum(1), torch.ones(2, *size))


def test_refine_equals_a_loop() -> None:
    sr, assignment = torch.rand(1, 3, 9, 11), torch.randint(3, (1, 9, 11))
    expected = sr.clone()
    for y in range(1, 8):
        for x in range(1, 10):
            around = assignment[0, y - 1 : y + 2, x - 1 : x + 2]
            if around.max() > assignment[0, y, x]:
                expected[0, :, y, x] = sr[0, :, y - 1 : y + 2, x - 1 : x + 2].mean((1, 2))
    torch.testing.assert_close(refine(sr, assignment), expected)
    assert torch.equal(refine(sr, torch.zeros_like(assignment)), sr)
    assert torch.equal(refine(sr[..., :2, :], assignment[:, :2]), sr[..., :2, :])


@pytest.mark.parametrize("rule,value", [("k", 0.0), ("k", 0.1), ("budget", 0.998), ("adaptive", 0.0), ("heavy", 0.0)])
@pytest.mark.parametrize("refinement", [True, False])
def test_forward_is_the_method_in_order(rule: Rule, value: float, refinement: bool) -> None:
    model, lr, size = build_pcsr(TINY_PCSR).eval(), torch.rand(1, 3, 9, 13), (36, 52)
    balance(model, lr, 4)
    setting = Setting(rule, value, refinement)
    sr, assignment, prob = model(lr, size, setting)
    assert assignment.unique().tolist() == ([1] if rule == "heavy" else [0, 1])
    each = [plain(model, lr, size, j).permute(0, 3, 1, 2) + bilinear(lr, grid_over(lr, size)) for j in (0, 1)]
    expected_prob = plain(model, lr, size, 2).softmax(-1).permute(0, 3, 1, 2)
    torch.testing.assert_close(prob, expected_prob, atol=1e-5, rtol=0)
    assert torch.equal(assignment, decide((prob[:, 1:] / prob[:, :1]).detach().log(), setting, model.flops))
    expected = torch.where(assignment[:, None] == 1, each[1], each[0])
    expected = refine(expected, assignment) if refinement else expected
    torch.testing.assert_close(sr, expected, atol=1e-5, rtol=0)
    sr.sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_a_model_of_phase_0_is_all_heavy() -> None:
    model = build_pcsr(TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None})).eval()
    lr, size = torch.rand(2, 3, 5, 6), (13, 14)
    sr, assignment, prob = model(lr, size, Setting())
    assert assignment.shape == (2, *size) and not assignment.any() and torch.equal(prob, torch.ones(2, 1, *size))
    expected = plain(model, lr, size, 0).permute(0, 3, 1, 2) + bilinear(lr, grid_over(lr, size))
    torch.testing.assert_close(sr, expected, atol=1e-5, rtol=0)


def test_mean_moves_with_the_model_and_is_saved() -> None:
    model = build(CARN)
    assert model.state_dict()["mean"].flatten().tolist() == pytest.approx([0.4488, 0.4371, 0.4040])
    assert model.double().mean.dtype == torch.float64


@pytest.mark.parametrize(
    "spec",
    [
        CARN.model_copy(update={"width": 10}),  # four groups do not divide it
        CARN.model_copy(update={"backbone": "vgg"}),
        CARN.model_copy(update={"classifier": None}),
        CARN.model_copy(update={"upsamplers": ((74,), (20,))}),  # heavy before light
        CARN.model_copy(update={"upsamplers": ((20,), (20,))}),
        OriginalSpec(kind="original", backbone="carn", width=64, scale=5),
    ],
)
def test_impossible_specs_are_input_errors(spec: PCSRSpec | OriginalSpec) -> None:
    with pytest.raises(InputError, match="model"):
        build(spec)


def test_bilinear_replicates_the_border() -> None:
    lr = torch.rand(1, 3, 4, 4)
    assert torch.equal(bilinear(lr, grid_over(lr, (16, 16)))[..., 0, 0], lr[..., 0, 0])
    torch.testing.assert_close(bilinear(lr, grid_over(lr, (4, 4))), F.interpolate(lr, size=(4, 4), mode="nearest"))
