"""Exported models in other inference engines, if they are installed, on CPUs.

The original model runs in ONNX Runtime, in OpenVINO with default settings, which mean bfloat16 if the processor can,
and in OpenVINO in float32; ours runs in ONNX Runtime.
"""

from importlib.util import find_spec
from io import BytesIO
from typing import Any

import torch
import torch.nn.functional as F

from inference.onnx import start, to_onnx
from inference.onnx_check import TOLERANCE, largest_difference
from models.original import OriginalModel
from models.pcsr import PCSR
from models.setting import Setting
from utils.image import Array

OURS = "ours onnxruntime"
OPENVINO, OPENVINO_FLOAT32 = "original openvino", "original openvino float32"
PACKAGES = {
    "original onnxruntime": "onnxruntime",
    OPENVINO: "openvino",
    OPENVINO_FLOAT32: "openvino",
    OURS: "onnxruntime",
}
ROUGHLY = 0.05  # in [0,1]: bfloat16 may change so much, and a wrong model would change more


def usable(device: torch.device) -> list[str]:
    """The runtimes that are installed, if the exporter's package is too; only for CPUs."""
    if device.type != "cpu" or not find_spec("onnx"):
        return []
    return [name for name, package in PACKAGES.items() if find_spec(package)]


class OpenVINO:
    """An exported model in OpenVINO, which is called like a session of ONNX Runtime."""

    def __init__(self, exported: bytes, float32: bool) -> None:
        import openvino  # noqa: PLC0415  # optional

        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        if float32:
            options["INFERENCE_PRECISION_HINT"] = "f32"
        core = openvino.Core()
        self.model = core.compile_model(core.read_model(BytesIO(exported)), "CPU", options)

    def run(self, _names: None, inputs: dict[str, Array]) -> list[Array]:
        """All outputs; they are valid until the next call."""
        return list(self.model(inputs, share_inputs=True, share_outputs=True).values())


def session_of(name: str, model: OriginalModel | PCSR, setting: Setting) -> Any:
    """A model in the runtime of that name, after a check that it gives the same as torch at another size.

    Raises InputError if it does not.
    """
    exported = to_onnx(model, setting)
    threads = torch.get_num_threads()
    if PACKAGES[name] == "openvino":
        session: Any = OpenVINO(exported, float32=name == OPENVINO_FLOAT32)
    else:
        session = start(exported, threads)
    tolerance = ROUGHLY if name == OPENVINO else TOLERANCE
    # smooth, as images are: on noise the gates of Softgate multiply what bfloat16 rounds
    smooth = F.interpolate(torch.rand(1, 3, 6, 4), size=(23, 14), mode="bilinear")
    largest_difference(session, model, setting, [smooth], tolerance)
    return session
