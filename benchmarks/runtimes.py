"""Exported models in other inference engines, if they are installed: float32 on CPUs.

The original model in ONNX Runtime and OpenVINO, ours in ONNX Runtime.
"""

from importlib.util import find_spec
from io import BytesIO
from typing import Any

import torch

from inference.onnx import start, to_onnx
from inference.onnx_check import largest_difference
from models.blocks import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
from utils.image import Array

OURS = "ours onnxruntime"
PACKAGES = {"original onnxruntime": "onnxruntime", "original openvino": "openvino", OURS: "onnxruntime"}


def usable(device: torch.device) -> list[str]:
    """The runtimes that are installed, with the exporter's package; on CPUs only."""
    if device.type != "cpu" or not find_spec("onnx"):
        return []
    return [name for name, package in PACKAGES.items() if find_spec(package)]


class OpenVINO:
    """An exported model in OpenVINO, to be called like a session of ONNX Runtime."""

    def __init__(self, exported: bytes) -> None:
        import openvino  # noqa: PLC0415  # optional

        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # CPUs that have bfloat16 would use it, for another picture
        }
        core = openvino.Core()
        self.model = core.compile_model(core.read_model(BytesIO(exported)), "CPU", options)

    def run(self, _names: None, inputs: dict[str, Array]) -> list[Array]:
        """All outputs; they are valid until the next call."""
        return list(self.model(inputs, share_inputs=True, share_outputs=True).values())


def session_of(name: str, model: OriginalModel | PCSR, setting: Setting) -> Any:
    """A model in the runtime of that name, once it has given torch's picture at a size not exported with.

    Raises InputError if it does not.
    """
    exported = to_onnx(model, setting)
    threads = torch.get_num_threads()
    session = OpenVINO(exported) if PACKAGES[name] == "openvino" else start(exported, threads)
    largest_difference(session, model, setting, [torch.rand(1, 3, 23, 14)])
    return session
