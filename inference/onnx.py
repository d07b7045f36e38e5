"""Trained models as ONNX files, for other programs. The package onnx is optional.

The model's own methods are traced, with sizes as tensors, so that the graph holds for images of all sizes.
"""

import contextlib
import linecache
import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # public, but missing in __all__
from torch.onnx.operators import shape_as_tensor

from models.decide import assign_k
from models.fast.fold import folded
from models.grid import Grid, axis
from models.original import OriginalModel
from models.pcsr import PCSR, refine
from models.setting import Setting
from utils.config import OriginalSpec, PCSRSpec
from utils.errors import LONGEST_REASON, InputError
from utils.files import check_folder

INSTALL = "pip install -r requirements-bench.txt"
OPSET = 18
TRACED = (16, 20)  # h, w of the image that a trace is made with
OTHERS = ((9, 11), (33, 30))  # h, w of the images that it is tried on
PRODUCER = "pcsr"  # files with this mark may be replaced
SIZES = {"lr": {2: "h", 3: "w"}, "sr": {2: "H", 3: "W"}, "assignment": {1: "H", 2: "W"}}
LR = "(1,3,h,w) float32, RGB in [0,1], any h and w of 1 or more"
K = "() float32: larger is cheaper, useful from -1 to 2; -inf is all heavy, inf all light; must not be nan"
SR = "(1,3,H,W) float32, RGB, clamped to [0,1]; H = round(h * scale), W = round(w * scale), halves to even"
ASSIGNMENT = "(1,H,W) uint8, the upsampler of each pixel, 0 light .. M-1 heavy"


class OriginalGraph(nn.Module):
    """lr (1,3,h,w) in [0,1] -> sr (1,3,H,W), clamped to [0,1]."""

    def __init__(self, model: OriginalModel) -> None:
        super().__init__()
        self.model = folded(model)

    def forward(self, lr: Tensor) -> Tensor:
        return self.model(lr).clamp(0, 1)


class PCSRGraph(nn.Module):
    """PCSR.forward under the k rule, with k as an input.

    lr (1,3,h,w) in [0,1] and a scalar k -> sr (1,3,H,W), clamped to [0,1], and assignment (1,H,W) uint8.

    Each upsampler runs on the pixels assigned to it. A k beyond +-1e30, infinity too, counts as that. A model of phase
    0 takes no k and returns sr alone.
    """

    def __init__(self, model: PCSR, setting: Setting) -> None:
        """Of the setting, only scale and refinement are used."""
        super().__init__()
        self.model = folded(model)
        self.setting = setting
        self.cost = model.flops.cost(setting.scale)
        self.scale = torch.tensor([setting.scale], dtype=torch.float64)  # the exporter rounds a mere number to float32

    def forward(self, lr: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor] | Tensor:
        rows, cols = (
            axis(n, (n.double() * self.scale).round().long()[0], self.model.cell_limits)  # type: ignore[arg-type]  # tensors, as a trace wants them
            for n in shape_as_tensor(lr)[2:].unbind()
        )
        grid = Grid(rows, cols)
        feat = self.model.encode(lr)
        if k is None:
            return self.model.upsample_by(lr, feat, grid, 0).clamp(0, 1)
        log_odds = self.model.classify(feat, grid)
        assignment = assign_k(log_odds, self.cost, k)
        sr = self.model.upsample(lr, feat, grid, assignment)
        return (refine(sr, assignment) if self.setting.refinement else sr).clamp(0, 1), assignment


def decides(model: OriginalModel | PCSR) -> bool:
    """Whether a model has a choice to make: then its graph takes k and returns an assignment."""
    return isinstance(model, PCSR) and model.classifier is not None


def to_onnx(model: OriginalModel | PCSR, setting: Setting | None = None) -> bytes:
    """ONNX of a model for images of any size, BatchNorm folded; of the setting, a PCSR model's scale and refinement.

    Inputs are lr and, where the model decides, k; outputs sr and then assignment: LR, K, SR and ASSIGNMENT describe
    them. Raises InputError for a network that one trace cannot describe.
    """
    graph = PCSRGraph(model, setting or Setting()) if isinstance(model, PCSR) else OriginalGraph(model)
    graph = graph.cpu().eval()
    inputs, outputs = (["lr", "k"], ["sr", "assignment"]) if decides(model) else (["lr"], ["sr"])
    example = (torch.rand(1, 3, *TRACED), torch.tensor(0.0))[: len(inputs)]
    check_trace(graph, example)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), no_output():
        warnings.simplefilter("ignore")  # check_trace has judged them
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                graph,
                example,
                path,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes={name: SIZES[name] for name in (*inputs, *outputs) if name in SIZES},
                opset_version=OPSET,
                dynamo=False,  # the new exporter makes as good a graph, but needs more packages
            )
        except Exception as error:  # operations that ONNX lacks
            raise InputError(f"torch cannot write this model as ONNX: {first_line(error)}") from error
        return path.read_bytes()


@torch.no_grad()
def check_trace(graph: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Raises InputError, naming the line, if a trace on one size of image does not hold for others."""
    if any(isinstance(part, nn.MultiheadAttention) for part in graph.modules()):
        remedy = "use Linears and F.scaled_dot_product_attention"
        raise InputError(f"torch writes its MultiheadAttention to ONNX for a single size of image only; {remedy}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced = torch.jit.trace(graph, example, check_trace=False)
    found = [warning for warning in caught if issubclass(warning.category, TracerWarning)]
    own = [warning for warning in found if not harmless(warning)]
    place = f" ({Path(own[0].filename).name}, line {own[0].lineno})" if own else ""
    reason = f"this model's code decides by the size of an image{place}, which no trace can show"
    if own:
        raise InputError(reason)
    for size in OTHERS:
        inputs = (torch.rand(1, 3, *size), *example[1:])
        try:
            made, expected = (each(*inputs) for each in (traced, graph))
        except Exception as error:  # sizes that do not fit
            raise InputError(f"{reason}: with {size[1]}x{size[0]} pixels, {first_line(error)}") from error
        made, expected = (each if isinstance(each, Tensor) else each[0] for each in (made, expected))
        if made.shape != expected.shape or not (made - expected).abs().max() <= 1e-3:  # also nan
            sizes = [f"{width}x{height}" for height, width in (TRACED, size)]
            raise InputError(f"{reason}: a trace made with {sizes[0]} pixels gives other values for {sizes[1]}")


@contextlib.contextmanager
def no_output() -> Iterator[None]:
    """Within, stdout leads nowhere: where ONNX lacks an operation, torch's C++ code prints the whole graph."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def harmless(warning: warnings.WarningMessage) -> bool:
    """Whether what a trace does not record decides nothing: a check of torch's own, or an assertion.

    Nor does an iteration, such as `q, k, v = tensor`: one over pixels shows with images of other sizes.
    """
    if "Iterating over a tensor" in str(warning.message):
        return True
    of_torch = Path(warning.filename).is_relative_to(Path(torch.__file__).parent)
    return of_torch or linecache.getline(warning.filename, warning.lineno).lstrip().startswith("assert")


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:LONGEST_REASON]


def with_properties(
    exported: bytes, model: OriginalModel | PCSR, spec: OriginalSpec | PCSRSpec, setting: Setting, licence: str
) -> bytes:
    """An exported model with what a user of the file needs to know: its spec, the setting, inputs and outputs."""
    import onnx  # noqa: PLC0415  # optional

    content = onnx.load_from_string(exported)
    scale = repr(setting.scale).removesuffix(".0")  # all digits, because the size of a result follows from them
    facts = {"model": spec.model_dump_json(), "scale": scale, "licence": licence, "lr": LR, "sr": SR}
    if decides(model):
        facts |= {"k": K, "assignment": ASSIGNMENT, "refinement": str(setting.refinement).lower()}
    onnx.helper.set_model_props(content, facts)
    content.producer_name, content.producer_version = PRODUCER, ""
    title = f"Super-resolution x{setting.scale:g}, {spec.kind} {spec.backbone}"
    content.doc_string = f"{title}; the metadata describes inputs and outputs"
    return content.SerializeToString()


def check_target(path: Path) -> None:
    """Check, before anything is computed, that an ONNX file can be written.

    Raises InputError if the package that makes ONNX files is not installed, if the file's name does not end in .onnx,
    if it would replace another program's file, or if its folder cannot be made or written to.
    """
    if not find_spec("onnx"):
        raise InputError(f"onnx is not installed: {INSTALL}")
    import onnx  # noqa: PLC0415  # optional

    if path.suffix != ".onnx":
        raise InputError(f"{path}: the name must end in .onnx")
    check_folder(path.parent)
    if not path.exists():
        return
    try:
        written_here = onnx.load(str(path), load_external_data=False).producer_name == PRODUCER
    except Exception:  # a directory, or whatever else the reader meets
        written_here = False
    if not written_here:
        raise InputError(f"{path}: exists and was not written by export.py; give another name")


def start(exported: bytes, threads: int = 0) -> Any:
    """An ONNX Runtime session on the CPU; 0 threads: as many as there are cores."""
    import onnxruntime  # noqa: PLC0415  # optional

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised as well
    return onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
