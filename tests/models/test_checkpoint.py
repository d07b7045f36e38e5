from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.build import build
from models.checkpoint import load_model, save_weights
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, config_for, save_tiny
from utils.config import OriginalSpec, PCSRSpec, load_config
from utils.errors import InputError
from utils.files import write_atomic


@pytest.mark.parametrize("spec", [TINY_PCSR, TINY_ORIGINAL])
def test_weights_describe_themselves(tmp_path: Path, spec: PCSRSpec | OriginalSpec) -> None:
    model = build(spec).eval()
    save_weights(tmp_path / "a", model, config_for(spec))
    for path in (tmp_path / "a", tmp_path / "a" / "model.safetensors"):
        loaded, described = load_model(path)
        assert described == spec
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
        )
    assert load_config(tmp_path / "a" / "config.yaml") == config_for(spec)


def bad_file(path: Path, kind: str) -> Path:
    if kind == "text":
        path.write_text("not weights")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(save_tiny(path.parent / "tiny", TINY_PCSR).joinpath("model.safetensors").read_bytes()[:-50])
    elif kind == "foreign":
        save_file({"weight": torch.rand(2)}, path)
    elif kind == "other pth":
        torch.save({"state_dict": {}}, path)
    elif kind == "unsafe pth":
        torch.save({"model": Path("x")}, path)
    elif kind == "tensor pth":
        torch.save(torch.rand(3), path)
    elif kind == "strange pth":
        torch.save({"model": {"name": None, "args": {}, "sd": []}}, path)
    elif kind == "other model":
        save_file({"weight": torch.rand(2)}, path, {"model": "resnet50"})
    return path


@pytest.mark.parametrize(
    "kind,suffix",
    [
        *[(kind, ".safetensors") for kind in ("missing", "text", "empty", "truncated", "foreign", "other model")],
        *[
            (kind, ".pth")
            for kind in ("missing", "text", "empty", "other pth", "unsafe pth", "tensor pth", "strange pth")
        ],
    ],
)
def test_bad_files_are_input_errors(tmp_path: Path, kind: str, suffix: str) -> None:
    path = bad_file(tmp_path / f"bad{suffix}", kind)
    with pytest.raises(InputError, match="bad"):
        load_model(path)


def test_published_names_are_remapped(tmp_path: Path) -> None:
    """A checkpoint with the published names loads without the reference data at hand."""
    spec = PCSRSpec(kind="pcsr", backbone="carn", width=8, upsamplers=((4,), (8, 8)), classifier=(4,))
    model = build(spec)
    table = {
        "encoder.entry": "encoder.entry",
        "upsamplers.0": "light_sampler.imnet",
        "upsamplers.1": "heavy_sampler.imnet",
    }
    table["classifier"] = "classifier.imnet"
    for i in range(3):
        table[f"encoder.fuse.{i}"] = f"encoder.c{i + 1}"
        table[f"encoder.blocks.{i}.unit"] = f"encoder.b{i + 1}.b1"
        table |= {f"encoder.blocks.{i}.fuse.{j}": f"encoder.b{i + 1}.c{j + 1}" for j in range(3)}
    weights = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in table.items():
            if name.startswith(ours + "."):
                weights[theirs + name[len(ours) :]] = tensor
    assert len(weights) == len(model.state_dict()) - 1  # all but the mean

    def sampler(hidden: list[int]) -> dict[str, object]:
        return {"name": "liif-sampler", "args": {"imnet_spec": {"name": "mlp", "args": {"hidden_list": hidden}}}}

    args = {"encoder_spec": {"name": "carn", "args": {"nf": 8, "no_upsampling": True}}}
    hidden = {"heavy": [8, 8], "light": [4]}
    samplers = {f"{name}_sampler_spec": sampler(widths) for name, widths in hidden.items()}
    published = {"name": "pcsr-phase1", "args": {**args, **samplers, "classifier_spec": sampler([4])}, "sd": weights}
    torch.save({"model": published}, tmp_path / "published.pth")
    loaded, described = load_model(tmp_path / "published.pth")
    assert described == spec
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
