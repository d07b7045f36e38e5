"""Exported models in other inference engines, if they are installed: float32 on CPUs.

The original model in ONNX Runtime and OpenVINO, ours in ONNX Runtime.
"""

from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from inference.onnx import start, to_onnx
from inference.onnx_check import TOLERANCE, largest_difference
from models.blocks import Backbone
from models.pcsr import PCSR

OURS = "ours onnxruntime"
ORIGINALS = {"original onnxruntime": "onnxruntime", "original openvino": "openvino"}
PACKAGES = {**ORIGINALS, OURS: "onnxruntime"}
Runtime = Callable[[Tensor], Tensor]
Deciding = Callable[[Tensor, float], tuple[Tensor, Tensor]]  # lr (1,3,h,w) and k -> sr (1,3,H,W), assignment (1,H,W)


def usable(device: torch.device) -> list[str]:
    """The runtimes that are installed, with the exporter's package; on CPUs only."""
    if device.type != "cpu" or not find_spec("onnx"):
        return []
    return [name for name, package in PACKAGES.items() if find_spec(package)]


def with_onnxruntime(exported: bytes) -> Runtime:
    session = start(exported, torch.get_num_threads())
    return lambda lr: torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])


def with_openvino(exported: bytes) -> Runtime:
    import openvino  # noqa: PLC0415  # optional

    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # CPUs that have bfloat16 would use it, for another picture
    }
    core = openvino.Core()
    model = core.compile_model(core.read_model(BytesIO(exported)), "CPU", options)
    return lambda lr: torch.from_numpy(model(lr.numpy(), share_inputs=True, share_outputs=True)[0])


def runtime(name: str, model: Backbone) -> Runtime:
    """The original model in the runtime of that name, once it has given torch's picture at a size not exported with.

    Raises RuntimeError if it does not.
    """
    begin = {"original onnxruntime": with_onnxruntime, "original openvino": with_openvino}[name]
    run, lr = begin(to_onnx(model)), torch.rand(1, 3, 23, 14)
    with torch.inference_mode():
        error = float((run(lr) - model(lr).clamp(0, 1)).abs().max())
    if not error <= TOLERANCE:
        raise RuntimeError(f"{name}: differs from torch by {error:.2g}")
    return run


def deciding(model: PCSR, scale: float) -> Deciding:
    """A PCSR model in ONNX Runtime, refined, once it has given torch's pictures.

    Raises InputError if it does not.
    """
    session = start(to_onnx(model, scale, True), torch.get_num_threads())
    largest_difference(session, model, scale, True, [torch.rand(1, 3, 23, 14)])

    def run(lr: Tensor, k: float) -> tuple[Tensor, Tensor]:
        sr, assignment = session.run(None, {"lr": lr.numpy(), "k": np.array(k, np.float32)})
        return torch.from_numpy(sr), torch.from_numpy(assignment)

    return run
