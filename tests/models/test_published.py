"""Files of torch.save load, however the weights are wrapped, and compute the same; others are refused."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from models.checkpoint import load_model, trained_on
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
from tests.models.published import BACKBONES, Weights, carn_encoder, original, pcsr, pixels, restored
from utils.errors import InputError


def load_saved(path: Path, content: object) -> OriginalModel | PCSR:
    torch.save(content, path)
    model, _ = load_model(path)
    assert trained_on(path) is None
    return model


@pytest.mark.parametrize("backbone,scale", [("fsrcnn", 4), *[(b, s) for b in BACKBONES[1:] for s in (2, 3, 4)]])
@torch.no_grad()
def test_original(tmp_path: Path, backbone: str, scale: int) -> None:
    published = original(backbone, scale)
    model = load_saved(tmp_path / "x.pth", {"model": published, "optimizer": {"name": "adam"}, "iter": 3})
    assert isinstance(model, OriginalModel) and model.scale == scale
    lr = torch.rand(1, 3, 7, 5)
    torch.testing.assert_close(model(lr), restored(backbone, published["sd"], lr, scale), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("scale", [4, 3])
@torch.no_grad()
def test_pcsr(tmp_path: Path, backbone: str, scale: int) -> None:
    published, lr, size = pcsr(backbone), torch.rand(1, 3, 6, 5), (6 * scale, 5 * scale)
    last = published["sd"][[*published["sd"]][-1]]  # the bias of the classifier's logits
    last[1] -= pixels(backbone, published["sd"], lr, scale)[2].logit().median()  # half of the pixels are heavy
    heavy, light, prob = pixels(backbone, published["sd"], lr, scale)
    assert 0.2 < prob.gt(0.5).float().mean() < 0.8
    model = load_saved(tmp_path / "x.pth", {"model": published})
    assert isinstance(model, PCSR)
    for k, chosen in ((float("-inf"), torch.ones(size)), (0.0, prob > 0.5)):
        sr, assignment, found = model(lr, size, Setting("k", k, False, float(scale)))
        torch.testing.assert_close(found[0, 1], prob, atol=1e-5, rtol=1e-5)
        settled = (prob - 0.5).abs() > 1e-5  # the median itself is a tie
        assert torch.equal(assignment[0].bool()[settled], chosen.bool()[settled])
        expected = torch.where(chosen.bool(), heavy, light)
        torch.testing.assert_close(sr[..., settled], expected[..., settled], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_phase_0(tmp_path: Path, backbone: str) -> None:
    published = pcsr(backbone, phase=0)
    model = load_saved(tmp_path / "x.pth", {"model": published})
    assert isinstance(model, PCSR) and model.classifier is None
    (name,) = [name for name in published["sd"] if name.endswith("imnet.layers.0.bias")]
    assert torch.equal(model.mlps()[0].linears()[0].bias, published["sd"][name])


def changed(sd: Weights) -> Weights:
    return {name: tensor + 1 for name, tensor in sd.items()}


def wrapped_in(name: str, sd: Weights) -> dict[str, Any]:
    return {name: sd}


WRAPPED: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "bare": lambda sd: sd,
    "DataParallel": lambda sd: {f"module.{name}": tensor for name, tensor in sd.items()},
    "compiled": lambda sd: {f"module._orig_mod.{name}": tensor for name, tensor in sd.items()},
    "Lightning": lambda sd: {"state_dict": {f"model.{name}": tensor for name, tensor in sd.items()}, "epoch": 3},
    "Lightning with a loss": lambda sd: {
        "state_dict": {f"net.{name}": tensor for name, tensor in sd.items()} | keys("loss.vgg.0.weight", "scale"),
        "hyper_parameters": {"learning_rate": 1e-4},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.ones(()), "best_k_models": keys("a.ckpt")}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(1)}}}],
        "loops": {"fit_loop": {"state_dict": {}}},
    },
    "average beside": lambda sd: {
        f"{head}.{name}": tensor
        for head, weights in (("model", changed(sd)), ("model_ema", sd))
        for name, tensor in weights.items()
    },
    "prefixes": lambda sd: {f"net.generator.{name}": tensor for name, tensor in sd.items()},
    **{name: partial(wrapped_in, name) for name in ("params_ema", "params", "state_dict", "model", "net", "weights")},
    "EMA": lambda sd: {"model": changed(sd), "model_ema": sd, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "GAN": lambda sd: {"discriminator": changed(sd), "generator": sd},
    "average first": lambda sd: {"params": changed(sd), "params_ema": sd},
    "inside": lambda sd: {"model": {"state_dict": {f"module.{name}": tensor for name, tensor in sd.items()}}, "x": 1},
}


@cache
def saved_plainly(make: Callable[[str], dict[str, Any]], backbone: str) -> tuple[Weights, Weights]:
    """Published weights, and those of the model that is read from them."""
    published = make(backbone)
    with TemporaryDirectory() as folder:
        return published["sd"], load_saved(Path(folder) / "plain.pth", {"model": published}).state_dict()


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("make,backbone", [(original, "carn"), (original, "srresnet"), *((pcsr, b) for b in BACKBONES)])
def test_wrapped(tmp_path: Path, how: str, make: Callable[[str], dict[str, Any]], backbone: str) -> None:
    """Whatever a training program wraps the weights in, the model is the same."""
    weights, plain = saved_plainly(make, backbone)
    found = load_saved(tmp_path / "wrapped.pth", WRAPPED[how](weights)).state_dict()
    for name, tensor in plain.items():
        assert torch.equal(found[name], tensor), name


def test_names_of_this_project(tmp_path: Path) -> None:
    """The states that training keeps have our own names."""
    plain = load_saved(tmp_path / "plain.pth", {"model": pcsr("carn")})
    found = load_saved(tmp_path / "state.pth", {"model": plain.state_dict(), "seconds": 3.0})
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), found.state_dict().values(), strict=True))


def keys(*names: str) -> Weights:
    return {name: torch.rand(2) for name in names}


def without(published: dict[str, Any], name: str) -> Weights:
    return {key: tensor for key, tensor in published["sd"].items() if key != name}


def with_value(published: dict[str, Any], name: str, value: float) -> dict[str, Any]:
    published["sd"][name].view(-1)[-1] = value
    return published


EXPECTED = "expected is FSRCNN, CARN or SRResNet"
REFUSED: dict[str, tuple[Any, str]] = {
    "EDSR": (keys("module.head.0.weight", "module.body.0.body.0.weight"), "looks like EDSR by its keys"),
    "RRDBNet": ({"params_ema": keys("conv_first.weight", "body.0.rdb1.conv1.weight")}, "looks like RRDBNet"),
    "SwinIR": (
        {"params": keys("conv_first.weight", "layers.0.relative_position_bias_table", "conv_after_body.weight")},
        "looks like SwinIR",
    ),
    "RCAN": (keys("body.0.body.0.body.3.conv_du.0.weight"), "looks like RCAN"),
    "SRVGG": ({"params": keys("body.0.weight", "body.1.weight")}, "looks like SRVGGNetCompact"),
    "CARN of its authors": (keys("sub_mean.shifter.weight", "b1.b1.body.0.weight"), "looks like CARN of its authors"),
    "unknown": (
        keys("conv1.weight", "x" * 999, "fc.weight"),
        "another network, whose first keys are conv1.weight, xxx",
    ),
    "nothing": ({"epoch": 3}, "holds no state dict (names and their tensors), only epoch; expected"),
    "several": ({"a": keys("x"), "b": keys("y")}, "holds several sets of weights (a, b); save the state dict of one"),
    "empty": ({"state_dict": {}}, "holds no state dict"),
    "several within": (
        {f"{head}.{name}": tensor for head in ("one", "two") for name, tensor in original("carn")["sd"].items()},
        "holds several sets of weights (one, two); save the state dict of one",
    ),
    "numbers": ({1: torch.rand(2)}, "holds no state dict"),
    "objects": ({"model": Path("x")}, "holds Python objects"),
    "fewer blocks": (
        without(original("srresnet"), "recon_trunk.15.conv2.bias"),
        "not the srresnet (original, width 8) of this project: encoder.blocks.15.conv2.bias is missing",
    ),
    "more": (original("carn")["sd"] | keys("y" * 999), "it has no yyyy"),
    "other shape": (
        original("carn")["sd"] | {"exit.bias": torch.rand(4)},
        "tail.exit.bias has the shape (4,), not (3,)",
    ),
    "encoder": (carn_encoder(8), "an encoder (carn) alone"),
    "no scale": (original("fsrcnn")["sd"], "{'args': {'upscale': 4}, 'sd': the state dict}"),
    "nan": (with_value(original("carn"), "exit.weight", float("nan")), "tail.exit.weight holds numbers that are not"),
    "inf": (
        {"model": with_value(pcsr("fsrcnn"), "light_sampler.imnet.layers.2.bias", float("inf"))},
        "upsamplers.0.layers.2.bias holds numbers that are not",
    ),
    "integers": (
        original("carn")["sd"] | {"exit.bias": torch.zeros(3, dtype=torch.int8)},
        "tail.exit.bias is of the type int8; give weights in floating point",
    ),
    "odd width": ({"args": {"upscale": 9}, "sd": original("fsrcnn")["sd"]}, "not for x9"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_short_line(tmp_path: Path, kind: str) -> None:
    content, message = REFUSED[kind]
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    for path in (tmp_path / "other.pth", tmp_path / "other.pth.ckpt", folder / "other.pth"):
        torch.save(content, path)
        with pytest.raises(InputError) as caught:
            load_model(path)
        text = str(caught.value)
        assert message in text and f"{path.name}: " in text and "\n" not in text
        assert len(f"error: {text}") <= 300
        if "looks like" in message or "another network" in message:
            assert EXPECTED in text


def test_the_remedy_for_an_unknown_scale(tmp_path: Path) -> None:
    weights = original("fsrcnn")["sd"]
    model = load_saved(tmp_path / "x.pth", {"args": {"upscale": 4}, "sd": weights})
    assert isinstance(model, OriginalModel) and model.scale == 4


def test_arguments_of_lightning(tmp_path: Path) -> None:
    """What hparams say, where the shapes of the weights do not."""
    weights = {f"model.{name}": tensor for name, tensor in original("fsrcnn")["sd"].items()}
    model = load_saved(tmp_path / "x.ckpt", {"state_dict": weights, "hyper_parameters": {"scale": 4}})
    assert isinstance(model, OriginalModel) and model.scale == 4


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.ckpt", "x.PTH"])
def test_endings(tmp_path: Path, name: str) -> None:
    """Files of torch.save, whatever they are called; others are refused in a line that says the endings."""
    load_saved(tmp_path / name, original("carn"))
    (tmp_path / name).rename(tmp_path / "x.bin")
    with pytest.raises(InputError, match=r"x\.bin: .* a file of torch\.save must end in \.pth, \.pt or \.ckpt"):
        load_model(tmp_path / "x.bin")


def test_a_program_of_torchscript(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match=r"x\.pt: a TorchScript program; save the state dict"):
        load_model(tmp_path / "x.pt")


def test_half_precision(tmp_path: Path) -> None:
    """All numbers, the counter of BatchNorm's batches too, which float16 cannot hold."""
    published = original("carn")
    for name, tensor in published["sd"].items():
        published["sd"][name] = (tensor + 10**6 if "num_batches" in name else tensor).half()
    assert any(tensor.isinf().all() for tensor in published["sd"].values())
    model = load_saved(tmp_path / "x.pth", published)
    assert model(torch.rand(1, 3, 5, 6)).isfinite().all()
