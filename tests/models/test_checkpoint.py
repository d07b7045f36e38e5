from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from models.build import build
from models.checkpoint import load_model, read_header, save_weights, trained_on
from models.grid import ANY
from models.pcsr import PCSR
from tests.conftest import TINY_ORIGINAL, TINY_PCSR, config_for, save_tiny
from utils.config import DegradeSpec, OriginalSpec, PCSRSpec
from utils.errors import InputError
from utils.files import write_atomic
from utils.parse import load_config


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
    with pytest.raises(InputError, match="bad") as caught:
        load_model(path)
    assert len(str(caught.value)) < 290


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_must_be_finite(tmp_path: Path, value: float) -> None:
    model = build(TINY_PCSR)
    with torch.no_grad():
        model.get_parameter("classifier.layers.0.bias")[1] = value
    save_weights(tmp_path / "bad", model, config_for(TINY_PCSR))
    with pytest.raises(InputError, match=r"classifier.layers.0.bias holds numbers that are not finite"):
        load_model(tmp_path / "bad")


@pytest.mark.parametrize(
    "scale,inside,outside,said", [(4, [4], [2, 3.9], "x4"), ((1.5, 4), [1.5, 3], [1, 8], "x1.5 to x4")]
)
def test_weights_say_what_they_were_trained_on(
    tmp_path: Path, scale: int | tuple[float, float], inside: list[float], outside: list[float], said: str
) -> None:
    config = config_for(TINY_PCSR)
    data = config.data.model_copy(update={"train": "somewhere/DIV2K/", "scale": scale})
    save_weights(tmp_path / "a", build(TINY_PCSR), config.model_copy(update={"data": data}))
    trained = trained_on(tmp_path / "a")
    assert str(trained) == f"{said} on DIV2K" and trained is not None
    assert all(trained.covers(each) for each in inside) and not any(trained.covers(each) for each in outside)
    model, _ = load_model(tmp_path / "a")
    assert isinstance(model, PCSR) and model.cell_limits == (0.5, 0.5 if scale == 4 else 2 / 1.5)


def test_weights_say_what_their_lr_was(tmp_path: Path) -> None:
    config = config_for(TINY_PCSR)
    noise, some = DegradeSpec(noise=8, jpeg=(40, 100)), DegradeSpec(noise=8, clean=0.5)  # type: ignore[arg-type]
    for changes, said, on_clean, on_noise in (
        ({}, "", "", "trained on clean LR; on LR with noise=8 jpeg=40-100 a model trained for that would do better"),
        (
            {"degrade": noise},
            ", LR with noise=8 jpeg=40-100",
            "trained on LR with noise=8 jpeg=40-100; on clean LR a model trained for that would do better",
            "",
        ),
        ({"degrade": some}, ", LR with noise=8 clean=0.5", "", ""),
        ({"degrade": DegradeSpec(noise=8, noise_share=0.5)}, ", LR with noise=8 noise_share=0.5", "", ""),  # type: ignore[arg-type]
        (
            {"degrade": DegradeSpec(noise=8, jpeg=75, jpeg_share=0.5)},  # type: ignore[arg-type]
            ", LR with noise=8 jpeg=75 jpeg_share=0.5",
            "trained on LR with noise=8 jpeg=75 jpeg_share=0.5; on clean LR a model trained for that would do better",
            "",
        ),
        ({"train_lr": "low"}, ", LR from files", "", ""),
    ):
        data = config.data.model_copy(update=changes)
        save_weights(tmp_path / "a", build(TINY_PCSR), config.model_copy(update={"data": data}))
        trained = trained_on(tmp_path / "a")
        assert trained is not None and str(trained) == f"x4 on train{said}"
        assert (trained.unlike(None), trained.unlike(noise)) == (on_clean, on_noise)
    save_weights(tmp_path / "clean", build(TINY_PCSR), config)  # the header is as it was before
    assert read_header(tmp_path / "clean/model.safetensors")["trained"] == '{"scale":4,"data":"train"}'


def test_older_weights_have_no_record(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(build(TINY_ORIGINAL).state_dict(), {"model": TINY_ORIGINAL.model_dump_json()}))
    assert trained_on(path) is None and load_model(path)[1] == TINY_ORIGINAL
    path.write_bytes(save(build(TINY_PCSR).state_dict(), {"model": TINY_PCSR.model_dump_json()}))
    model, _ = load_model(path)
    assert isinstance(model, PCSR) and model.cell_limits == ANY


def test_weights_are_written_the_same_every_time(tmp_path: Path) -> None:
    model = build(TINY_PCSR)
    for name in ("a", "b"):
        save_weights(tmp_path / name, model, config_for(TINY_PCSR))
    first, second = (tmp_path / name / "model.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    with safe_open(first, framework="pt") as file:
        assert torch.equal(file.get_tensor("mean"), model.mean)


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
