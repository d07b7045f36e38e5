"""The original model in other inference engines, if they are installed: ONNX Runtime and OpenVINO, float32 on CPUs."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from models.blocks import Backbone
from models.fold import folded

INSTALL = "pip install -r requirements-bench.txt"
TOLERANCE = 1e-4  # of [0,1]: what a runtime's picture may differ from torch's
PACKAGES = {"original onnxruntime": "onnxruntime", "original openvino": "openvino"}
Runtime = Callable[[Tensor], Tensor]


def usable(device: torch.device) -> list[str]:
    """The runtimes that are installed, with the exporter's package; on CPUs only."""
    if device.type != "cpu" or not find_spec("onnx"):
        return []
    return [name for name, package in PACKAGES.items() if find_spec(package)]


def export(model: Backbone) -> bytes:
    """ONNX of a model for images (1,3,h,w) of any size, BatchNorm folded."""
    sizes = {"lr": {2: "h", 3: "w"}, "sr": {2: "H", 3: "W"}}
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True):  # of the exporter's age: see dynamo
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            folded(model).to("cpu"),
            (torch.rand(1, 3, 16, 20),),
            path,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_axes=sizes,
            dynamo=False,  # the new exporter needs more packages
        )
        return path.read_bytes()


def with_onnxruntime(exported: bytes) -> Runtime:
    import onnxruntime  # noqa: PLC0415  # optional

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
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
    """The model in the runtime of that name, once it has given torch's picture at a size it was not exported with.

    Raises RuntimeError if it does not.
    """
    start = {"original onnxruntime": with_onnxruntime, "original openvino": with_openvino}[name]
    run, lr = start(export(model)), torch.rand(1, 3, 23, 14)
    with torch.inference_mode():
        error = float((run(lr) - model(lr)).abs().max())
    if not error <= TOLERANCE:
        raise RuntimeError(f"{name}: differs from torch by {error:.2g}")
    return run
