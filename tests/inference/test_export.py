"""Exported files say what they are, and give torch's numbers in ONNX Runtime."""

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.runtimes import OpenVINO
from export import LARGEST, MOST_COMPARED, pictures
from inference.onnx import INSTALL, PCSRGraph, start, to_onnx
from inference.onnx_check import check_assignment, largest_difference
from models.build import build
from models.checkpoint import load_model
from models.pcsr import PCSR
from models.setting import Setting
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, balance, save_tiny
from tests.inference.test_graph import model_of
from tests.models.test_halo import WIDTH, Cells, Squeezed, Windows
from utils.config import OriginalSpec, PCSRSpec
from utils.errors import InputError

SPECS: dict[str, PCSRSpec | OriginalSpec] = {
    "fsrcnn": TINY_PCSR,
    "carn, three upsamplers": TINY_PCSR.model_copy(
        update={"backbone": "carn", "width": 8, "upsamplers": ((4,), (6,), (8, 8))}
    ),
    "softgate": TINY_PCSR.model_copy(update={"backbone": "softgate"}),
    "srresnet": TINY_PCSR.model_copy(update={"backbone": "srresnet", "classifier": ()}),
    "phase 0": TINY_PCSR.model_copy(update={"upsamplers": ((8, 8),), "classifier": None}),
    "original fsrcnn": TINY_ORIGINAL,
    "original carn": TINY_ORIGINAL.model_copy(update={"backbone": "carn", "width": 8, "scale": 3}),
    "original softgate": TINY_ORIGINAL.model_copy(update={"backbone": "softgate", "scale": 2}),
    "original srresnet": TINY_ORIGINAL.model_copy(update={"backbone": "srresnet", "scale": 2}),
}
OPENVINO_SIZES = [(2, 3), (17, 31)]
SIZES = [(1, 1), (2, 3), (17, 31), (40, 24)]


@pytest.fixture
def runtime() -> None:
    pytest.importorskip("onnx", reason=INSTALL)
    pytest.importorskip("onnxruntime", reason=INSTALL)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("name", ["fsrcnn", "srresnet", "original carn"])
def test_openvino_runs_it_too(name: str) -> None:
    pytest.importorskip("openvino", reason=INSTALL)
    spec = SPECS[name]
    setting, model = Setting(scale=3 if name == "original carn" else 4), build(spec).eval()
    images = [torch.rand(1, 3, *size) for size in OPENVINO_SIZES]
    session = OpenVINO(to_onnx(model, setting), float32=True)
    assert largest_difference(session, model, setting, images) < 1e-5


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("name", SPECS)
def test_numbers_of_torch(name: str) -> None:
    spec = SPECS[name]
    setting = Setting(scale=spec.scale if isinstance(spec, OriginalSpec) else 4 if name == "fsrcnn" else 2.6)
    model = build(spec)
    for _ in range(2):
        model.encoder(torch.rand(2, 3, 12, 12))  # statistics of BatchNorm worth folding
    if isinstance(model, PCSR):
        model.cell_limits = (0.5, 0.6)
    images = [torch.rand(1, 3, *size) for size in SIZES]
    session = start(to_onnx(model.eval(), setting), threads=1)
    assert 0 < largest_difference(session, model, setting, images) < 1e-5
    assert [value.name for value in session.get_outputs()] == (
        ["sr", "assignment"] if isinstance(spec, PCSRSpec) and spec.classifier is not None else ["sr"]
    )


@pytest.mark.usefixtures("runtime")
def test_upsamplers_run_on_their_own_pixels_only(tmp_path: Path) -> None:
    import onnxruntime  # noqa: PLC0415  # optional

    model = model_of({})  # of its layers only the heavy upsampler's are 8 wide
    balance(model, torch.rand(1, 3, 30, 30), 4)
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(to_onnx(model), options, providers=["CPUExecutionProvider"])
    k, lr = np.array(0, np.float32), torch.rand(1, 3, 20, 30)
    _, assignment = session.run(None, {"lr": lr.numpy(), "k": k})
    heavy = int(assignment.sum())
    assert 0 < heavy < assignment.size
    nodes = [event["args"] for event in json.loads(Path(session.end_profiling()).read_text()) if "args" in event]
    shapes = [shape for node in nodes for value in node.get("input_type_shape", []) for shape in value.values()]
    assert [shape[0] for shape in shapes if len(shape) == 2 and shape[1] == 8 and shape[0] > 8].count(heavy) >= 2
    assert [assignment.size, 8] not in shapes


@pytest.mark.usefixtures("runtime")
def test_another_model_is_told_apart() -> None:
    model, other = model_of({}), model_of({})
    session, images = start(to_onnx(model), threads=1), [torch.rand(1, 3, 9, 14)]
    with pytest.raises(InputError, match="9, k = 0"):
        largest_difference(session, other, Setting(), images)
    with pytest.raises(InputError, match="sr is"):
        largest_difference(start(to_onnx(build(TINY_ORIGINAL)), 1), build(other_scale()).eval(), Setting(), images)


def other_scale() -> OriginalSpec:
    return TINY_ORIGINAL.model_copy(update={"scale": 2})


def test_only_ties_may_be_assigned_otherwise() -> None:
    log_odds, cost = torch.tensor([1e-6, -1.0]).view(1, 1, 1, 2), (0.4, 0.6)
    check_assignment(torch.tensor([[[0, 0]]], dtype=torch.uint8), log_odds, cost, 0.0)
    for k, wrong in ((0.0, [0, 1]), (math.inf, [1, 0]), (0.0, [0, 0, 0])):
        with pytest.raises(InputError):
            check_assignment(torch.tensor([wrong], dtype=torch.uint8).view(1, 1, -1), log_odds, cost, k)


class Altered(nn.Module):
    """A 1x1 convolution, and what a function makes of its result."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.entry, self.of = nn.Conv2d(3, WIDTH, 1), of

    def forward(self, x: Tensor) -> Tensor:
        return self.of(self.entry(x))


class HeadsOfTorch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, feat: Tensor) -> Tensor:
        tokens = feat.flatten(2).transpose(1, 2)
        return self.heads(tokens, tokens, tokens)[0].transpose(1, 2).view(feat.shape)


def asserting(feat: Tensor) -> Tensor:
    assert feat.shape[2] > 0
    return feat


def unpacked(feat: Tensor) -> Tensor:
    batch, channels, h, w = feat.shape
    one, other = feat.view(batch, 2, channels // 2, h, w).transpose(0, 1)
    return torch.cat([other, one], 1)


def row_by_row(feat: Tensor) -> Tensor:
    return torch.stack([row + number for number, row in enumerate(feat.permute(2, 0, 1, 3))], 2)


def with_encoder(encoder: nn.Module) -> PCSR:
    model = model_of({})
    model.encoder = encoder.eval()
    return model


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    "encoder",
    [
        *[nn.Sequential(nn.Conv2d(3, WIDTH, 1), norm) for norm in (nn.GroupNorm(2, WIDTH), nn.InstanceNorm2d(WIDTH))],
        *[Windows(8), Cells(2), Squeezed(), Altered(asserting), Altered(unpacked)],
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_networks_of_ones_own(encoder: nn.Module) -> None:
    model = with_encoder(encoder)
    session = start(to_onnx(model), threads=1)
    assert (
        largest_difference(session, model, Setting(), [torch.rand(1, 3, *size) for size in ((9, 11), (40, 24))]) < 1e-5
    )


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (
            Altered(lambda feat: feat * (2 if feat.shape[2] > 3 else 1)),
            r"size of an image \(test_export.py, line \d+\)",
        ),
        (Altered(lambda feat: feat * int(feat.shape[2])), r"size of an image \(test_export.py, line \d+\)"),
        (Altered(lambda feat: feat + torch.rand(np.zeros(feat.shape[2:]).shape)), r"size of an image"),
        (Altered(row_by_row), "size of an image"),
        (Altered(HeadsOfTorch()), "for a single size of image only"),
        (Altered(lambda feat: torch.fft.rfft2(feat, s=(32, 32)).abs().mean((2, 3), keepdim=True) * feat), "ONNX: "),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(
    encoder: nn.Module, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason=INSTALL)
    with pytest.raises(InputError, match=reason) as caught:
        to_onnx(with_encoder(encoder))
    assert "\n" not in str(caught.value) and not capfd.readouterr().out


@pytest.mark.usefixtures("runtime")
def test_what_the_runtime_cannot_do_is_said_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    model = with_encoder(Windows(16))  # mirrors more pixels than there are
    with pytest.raises(InputError, match=r"LR of 2x2.*it fails with") as caught:
        largest_difference(start(to_onnx(model), 1), model, Setting(), [torch.rand(1, 3, 2, 2)])
    assert "\n" not in str(caught.value) and not capfd.readouterr().err


def below_one(feat: Tensor) -> Tensor:
    return feat * torch.linspace(0, 1, feat.shape[2])[:, None]


@pytest.mark.usefixtures("runtime")
def test_a_size_at_which_the_graph_is_another_is_named() -> None:
    """In torch, linspace of one number is its start; the graph divides 0 by 0."""
    model = with_encoder(Altered(below_one))
    images = [torch.rand(1, 3, *size) for size in ((9, 11), (1, 1))]
    message = "LR of 1x1, k = 0: sr holds numbers that are not finite; LR of 11x9 agrees, so the network's code depends"
    with pytest.raises(InputError, match=message):
        largest_difference(start(to_onnx(model), 1), model, Setting(), images)


@pytest.mark.usefixtures("runtime")
def test_command(cli: Cli, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    outcome = cli("export.py", "--model", "tiny", "--onnx", "out/a.onnx", "--scale", "2.5000001", "--no_refinement")
    assert outcome.code == 0 and "differs from torch by" in outcome.out and not outcome.err
    session = start((tmp_path / "out/a.onnx").read_bytes())
    facts = session.get_modelmeta().custom_metadata_map
    assert PCSRSpec.model_validate(json.loads(facts["model"])) == TINY_PCSR
    assert (facts["scale"], facts["licence"], facts["refinement"]) == ("2.5000001", "MIT", "false")
    lr = torch.rand(1, 3, 11, 6)
    sr, assignment = session.run(None, {"lr": lr.numpy(), "k": np.array(0, np.float32)})
    model, _ = load_model(tmp_path / "tiny")
    assert isinstance(model, PCSR)
    expected = PCSRGraph(model, Setting(refinement=False, scale=2.5000001))(lr, torch.tensor(0.0))
    assert sr.shape == (1, 3, 28, 15) and assignment.shape == (1, 28, 15) and assignment.dtype == np.uint8
    np.testing.assert_allclose(sr, expected[0].detach(), rtol=0, atol=1e-5)
    assert "LR of 128x128, 85x61, 1x1" in outcome.out
    before = (tmp_path / "out/a.onnx").read_bytes()
    assert cli("export.py", "--model", "tiny", "--onnx", "out/a.onnx", "--licence", "CC0").code == 0  # replaced
    assert (tmp_path / "out/a.onnx").read_bytes() != before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--onnx", "a.txt"), "must end in .onnx"),
        (("--onnx", "foreign.onnx"), "not written by export.py"),
        (("--onnx", "tiny.onnx"), "not written by export.py"),  # a folder
        (("--onnx", "foreign.onnx/a.onnx"), "foreign.onnx is no folder"),
        (("--onnx", "a.onnx", "--scale", "0.5"), "from 1 to 65536"),
        (("--onnx", "a.onnx", "--model", "original", "--scale", "2"), "x4 only"),
        (("--onnx", "a.onnx", "--model", "nothing"), "no such model"),
        (("--onnx", "a.onnx", "--model", "original", "--no_refinement"), "--no_refinement: goes with a PCSR model"),
    ],
)
def test_bad_options(options: tuple[str, ...], message: str, cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason=INSTALL)
    save_tiny(tmp_path / "tiny.onnx", TINY_PCSR)
    save_tiny(tmp_path / "original", TINY_ORIGINAL)
    (tmp_path / "foreign.onnx").write_bytes(b"mine")
    outcome = cli("export.py", "--model", "tiny.onnx", *options)
    assert outcome.code == 2 and message in outcome.err and len(outcome.err.splitlines()) == 1
    assert (tmp_path / "foreign.onnx").read_bytes() == b"mine" and not (tmp_path / "a.onnx").exists()


def test_without_the_packages(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "tiny", TINY_PCSR)
    find_spec, absent = importlib.util.find_spec, {"onnx", "onnxruntime"}
    monkeypatch.setattr("inference.onnx.find_spec", lambda name: None if name in absent else find_spec(name))
    outcome = cli("export.py", "--model", "tiny", "--onnx", "a.onnx")
    assert outcome.code == 2 and outcome.err == f"error: onnx is not installed: {INSTALL}\n"
    pytest.importorskip("onnx", reason=INSTALL)
    monkeypatch.setattr("inference.onnx.find_spec", find_spec)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    outcome = cli("export.py", "--model", "tiny", "--onnx", "a.onnx")
    assert outcome.code == 0 and "not compared" in outcome.out and (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("scale", [1, 4, 11.5, LARGEST])
def test_pictures_are_not_too_large_to_compare(scale: float) -> None:
    sizes = [lr.shape[2:] for lr in pictures(scale)]
    assert all(h * w * scale**2 <= MOST_COMPARED and min(h, w) >= 1 for h, w in sizes)
    assert len(set(sizes)) == 3 and (scale > 8 or sizes[0] == (128, 128))
