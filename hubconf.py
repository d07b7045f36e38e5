"""Models for torch.hub:

model = torch.hub.load("path/of/this/repository", "carn_pcsr", source="local")
sr, info = model.upscale("photo.jpg", k=0.0)

Every entry takes `weights`, a file or folder instead of those that ship, `device`: auto, cpu, cuda or mps, and
`precision`: auto, float32, bfloat16 or float16.
"""

import contextlib
import pathlib
import sys
import typing

import torch

if typing.TYPE_CHECKING:
    from inference.upscaler import Upscaler
    from models.setting import Precision

dependencies = [
    *("torch", "numpy", "cv2", "PIL", "yaml", "pydantic", "safetensors", "tqdm", "psutil", "fast_pytorch_kmeans")
]
_ROOT = pathlib.Path(__file__).resolve().parent
_PACKAGES = ("inference", "models", "utils")


def _entry(shipped: str, about: str) -> "typing.Callable[..., Upscaler]":
    """A function that loads the weights `shipped`, or others. `about` is for torch.hub.help."""

    def load(weights: str | None = None, device: str = "auto", precision: "Precision" = "auto") -> "Upscaler":
        """Raises ValueError if there are no such weights, or if they are of another model."""
        path = pathlib.Path(weights) if weights is not None else _ROOT / "save" / shipped
        with _own_packages():
            # after this repository's packages have become visible
            from inference.upscaler import Upscaler  # noqa: PLC0415
            from models.checkpoint import load_model  # noqa: PLC0415
            from models.fast.engine import triton_runner  # noqa: PLC0415
            from utils.device import pick_device  # noqa: PLC0415

            model, spec = load_model(path)
            meant = shipped.partition("-")[0], "pcsr" if "-pcsr-" in shipped else "original"
            if meant != (spec.backbone, spec.kind):
                found = f"{spec.backbone} ({spec.kind}), not of {meant[0]} ({meant[1]})"
                raise ValueError(f"{path}: holds weights of {found}; take the entry of that name")
            if torch.cuda.is_available():  # to move a model there later: its kernels cannot be imported then
                with contextlib.suppress(ImportError):
                    triton_runner()
            return Upscaler(model, pick_device(device), precision=precision)

    load.__doc__ = about
    return load


carn_pcsr = _entry("carn-pcsr-phase1", "PCSR on CARN, light and heavy upsampler.")
fsrcnn_pcsr = _entry("fsrcnn-pcsr-phase1", "PCSR on FSRCNN, light and heavy upsampler.")
srresnet_pcsr = _entry("srresnet-pcsr-phase1", "PCSR on SRResNet, light and heavy upsampler.")
softgate_pcsr = _entry("softgate-pcsr-phase1", "PCSR on Softgate, this project's encoder, light and heavy upsampler.")
softgate_pcsr_photo = _entry("softgate-pcsr-photo", "The same for photographs: blurred, noisy or compressed as JPEG.")
carn = _entry("carn-x4", "CARN, the original model at scale 4.")
fsrcnn = _entry("fsrcnn-x4", "FSRCNN, the original model at scale 4.")
srresnet = _entry("srresnet-x4", "SRResNet, the original model at scale 4.")
softgate = _entry("softgate-x4", "Softgate with a pixel-shuffle tail, the original model at scale 4.")


@contextlib.contextmanager
def _own_packages() -> typing.Iterator[None]:
    """Within, `models` and `utils` are this repository's; afterwards they are again what the caller had.

    Both are common names. The modules that are imported within go on working, because they refer to each other, but
    cannot be imported or unpickled by name.
    """
    loaded = sys.modules.get("utils")
    if loaded is not None and str(_ROOT / "utils") in map(str, getattr(loaded, "__path__", ())):
        yield  # the caller is this repository
        return
    theirs = {name: sys.modules.pop(name) for name in _names()}
    sys.path.insert(0, str(_ROOT))
    try:
        yield
    finally:
        sys.path.remove(str(_ROOT))
        for name in _names():
            del sys.modules[name]
        sys.modules.update(theirs)


def _names() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]
