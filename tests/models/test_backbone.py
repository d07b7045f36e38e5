"""Backbones from outside the repository, and the options that a backbone declares."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.build import build, resolved
from models.checkpoint import load_model, save_weights
from models.pcsr import PCSR
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, Cli, config_for, make_folder
from utils.config import OriginalSpec, PCSRSpec
from utils.errors import InputError
from utils.parse import load_config

NETWORK = """
from torch import Tensor, nn

from models.blocks import conv3x3
from models.backbone import Backbone


class Encoder(nn.Module):
    def __init__(
        self, width: int, depth: int = 2, *, gain: float = 1.0, kernels: tuple[int, ...] = (3,), act=nn.ReLU
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv3x3(3, width), *(conv3x3(width, width) for _ in range(depth)), act())
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.layers(x)


class Tail(nn.Module):
    def __init__(self, width: int, scale: int, between: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv3x3(width, between), conv3x3(between, 3 * scale**2), nn.PixelShuffle(scale))

    def forward(self, feat: Tensor) -> Tensor:
        return self.layers(feat)


class Untyped(Encoder):
    def __init__(self, width: int, depth: "Unknown" = 1) -> None:
        super().__init__(width)


class Failing(Encoder):
    def __init__(self, width: int) -> None:
        raise RuntimeError("out of\\npaper")


class Repeated(Encoder):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        block = conv3x3(width, width)
        self.layers = nn.Sequential(conv3x3(3, width), block, nn.ReLU(), block)


class Uncopied(Encoder):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        nn.utils.weight_norm(self.layers[0])


class Described:  # as Backbone, without this project
    encoder = Encoder
    mean = (0.5, 0.5, 0.5)


network = Backbone(Encoder, Tail, residual=True)
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a package of its own, which Python has not seen before."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/nets.py").write_text(NETWORK)
    (tmp_path / "lab/broken.py").write_text("import torch\nx = (\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:  # of the test before
        del sys.modules[name]
    return tmp_path


def pcsr(backbone: str, **options: Any) -> PCSRSpec:
    return TINY_PCSR.model_copy(update={"backbone": backbone, "options": options})


def original(backbone: str, **options: Any) -> OriginalSpec:
    return TINY_ORIGINAL.model_copy(update={"backbone": backbone, "options": options})


def depth_of(model: Any) -> int:
    return len(model.encoder.layers) - 2


def test_a_backbone_from_outside_with_its_options(folder: Path) -> None:
    model = build(pcsr("lab.nets:Encoder"))
    assert isinstance(model, PCSR) and depth_of(model) == 2 and not model.mean.any()
    model = build(pcsr("lab.nets:Described", depth=4, gain=2, kernels=[3, 5]))
    assert depth_of(model) == 4 and model.encoder.gain == 2 and model.mean.unique().tolist() == [0.5]
    spec = original("lab.nets:network", between=5)
    assert build(spec)(torch.rand(1, 3, 4, 5)).shape == (1, 3, 16, 20)
    assert str(folder) not in sys.path and "lab.nets" in sys.modules


@pytest.mark.parametrize(
    "spec,message",
    [
        (pcsr("lab.nets:Encoder", deep=3), r"model\.options\.deep: unknown key, one of: depth, gain, kernels, act$"),
        (pcsr("lab.nets:network", between=3), r"model\.options\.between: unknown key"),  # the tail's
        (pcsr("fsrcnn", depth=3), r"model\.options\.depth: unknown key, fsrcnn has no options$"),
        (original("lab.nets:network"), r"model\.options\.between: missing"),
        *[
            (pcsr("lab.nets:Encoder", depth=depth), r"model\.options\.depth: Input should be a valid integer, not ")
            for depth in (2.5, 2.0, "3", True, None, [3])
        ],
        (pcsr("lab.nets:Encoder", kernels=[3, 2.5]), r"model\.options\.kernels: Input should be a valid integer, not "),
        (pcsr("lab.nets:Encoder", act="relu"), r"model\.options\.act: the backbone's code must annotate it"),
        (pcsr("vgg"), r"unknown backbone 'vgg', one of: carn, .* or MODULE:NAME"),
        (pcsr("nowhere.nets:Encoder"), r"nowhere.nets:Encoder cannot be imported: ModuleNotFoundError.*'nowhere'"),
        (pcsr("lab.broken:Encoder"), r"lab.broken:Encoder cannot be imported: SyntaxError"),
        (pcsr("lab.nets:Nothing"), r"lab.nets:Nothing cannot be imported: AttributeError.*'Nothing'"),
        (pcsr("lab.nets:"), r"model\.backbone: lab.nets: cannot be imported"),
        (pcsr(":Encoder"), r"model\.backbone: :Encoder cannot be imported"),
        (pcsr("lab.nets:number"), r"lab.nets:number must be an encoder's class, or .*, not int"),
        (pcsr("lab.nets:Untyped"), r"model\.backbone: the parameters of .*Untyped.* cannot be read: NameError"),
        (pcsr("lab.nets:Uncopied"), r"copy\.deepcopy must be able to copy the encoder, but: Only Tensors created"),
        (pcsr("lab.nets:Failing"), r"model: lab.nets:Failing of width 6: RuntimeError: out of"),
        (original("lab.nets:Encoder"), r"lab.nets:Encoder has no tail"),
    ],
)
def test_what_is_wrong_is_named(spec: PCSRSpec | OriginalSpec, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        build(spec)


def test_weights_keep_the_options_even_when_a_default_changes(folder: Path) -> None:
    spec = pcsr("lab.nets:Encoder", gain=2.0)
    save_weights(folder / "own", build(spec), config_for(spec))
    kept = {"depth": 2, "gain": 2.0, "kernels": [3]}  # no config can hold a class such as `act`
    assert load_config(folder / "own/config.yaml").model.options == kept
    (folder / "lab/nets.py").write_text(NETWORK.replace("depth: int = 2", "depth: int = 11"))
    del sys.modules["lab.nets"]
    model, described = load_model(folder / "own")
    assert depth_of(model) == 2 and described.options == kept and resolved(described) == described
    assert resolved(spec).options["depth"] == 11
    (folder / "lab/nets.py").unlink()
    del sys.modules["lab.nets"]
    with pytest.raises(InputError, match=r"own/model.safetensors: model.backbone: lab.nets:Encoder cannot be imported"):
        load_model(folder / "own")


def test_a_module_that_is_used_twice(folder: Path) -> None:
    model = build(pcsr("lab.nets:Repeated"))
    save_weights(folder / "own", model, config_for(pcsr("lab.nets:Repeated")))
    loaded, _ = load_model(folder / "own")
    layers: Any = loaded.encoder.layers if isinstance(loaded, PCSR) else None
    assert layers[1] is layers[3]
    lr = torch.rand(1, 3, 5, 6)
    assert torch.equal(loaded.encoder(lr), model.encoder(lr))


def test_weights_without_options_have_the_defaults(folder: Path) -> None:
    spec = TINY_PCSR.model_dump()
    del spec["options"]
    assert PCSRSpec.model_validate(spec) == TINY_PCSR == resolved(TINY_PCSR)


def test_a_bare_pth_imports_nothing(folder: Path) -> None:
    weights = build(original("lab.nets:network", between=5)).state_dict()
    del sys.modules["lab.nets"]
    args = {"backbone": "lab.nets:network", "model": {"backbone": "lab.nets:network", "kind": "original"}}
    torch.save({"args": args, "sd": weights}, folder / "bare.pth")
    with pytest.raises(InputError, match=r"bare\.pth: "):
        load_model(folder / "bare.pth")
    assert "lab.nets" not in sys.modules


def test_training_it_by_the_command(cli: Cli, folder: Path) -> None:
    config = """
    model: {kind: pcsr, backbone: "lab.nets:Encoder", width: 6, upsamplers: [[8, 8]], classifier: null}
    data: {train: data, val: val, scale: 4, patch_size: 8, batch_size: 2}
    train: {phase: 0, iter_max: 2, learning_rate: 1.0e-3}
    """
    make_folder(folder / "data", [(140, 130)] * 2)
    make_folder(folder / "val", [(40, 44)])
    (folder / "own.yaml").write_text(config)
    set_option = ("--set", "model.options.depth=3", "options.gain=2")
    outcome = cli("train_pcsr.py", "--config", "own.yaml", *set_option, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    model, spec = load_model(folder / "save/own")
    assert depth_of(model) == 3 and spec.options["gain"] == 2
    outcome = cli("test_pcsr.py", "--config", "own.yaml", "--hr_data", "data", "--per_image", "--device", "cpu")
    assert outcome.code == 2 and "another model than own.yaml: options." in outcome.err
    outcome = cli("train_pcsr.py", "--config", "own.yaml", "--set", "options={depth: 1.5}")
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1 and "model.options.depth: Input" in outcome.err
    more = ("--set", "phase=1", "init=save/own", "upsamplers=[[4], [8, 8]]", "classifier=[]", "options.depth=3")
    outcome = cli("train_pcsr.py", "--config", "own.yaml", "--name", "own1", *more, "--device", "cpu")
    assert outcome.code == 2 and "save/own: is another model than this config's: options." in outcome.err
    outcome = cli("train_pcsr.py", "--config", "own.yaml", "--name", "own1", *more, "options.gain=2", "--device", "cpu")
    assert outcome.code == 0, outcome.err
