"""The compiled kernels of CPUs: builds pixels.cpp and convs.cpp once, keeps the result, and calls the per-pixel MLP.

Plain torch is what it must agree with, and what is used where it cannot be built.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.grid import Axis, blend
from models.mlp import PixelMLP
from models.tile import Part
from utils.image import Array

# read with this module: a long run may first need them after the files have changed, and the structs with them
SOURCES = {name: Path(__file__).with_name(name).read_text() for name in ("pixels.cpp", "convs.cpp")}
FLAGS = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread"]


@functools.cache
def load_kernels() -> ctypes.CDLL | None:
    """The compiled kernels; they are built on first use, within seconds. None, and a line on stderr, if that fails."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    try:
        if compiler is None:
            raise OSError("no C++ compiler found")
        return ctypes.CDLL(str(built(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip().splitlines()[:1] if isinstance(error, subprocess.CalledProcessError) else error
        print(f"the kernels were not built, plain torch is used instead, which is slower: {reason}", file=sys.stderr)
        return None


def built(compiler: str) -> Path:
    """The shared library of this source, compiler and processor in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pcsr"
    identity = [*SOURCES.values(), compiler, *FLAGS, processor()]
    path = cache / f"kernels-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:  # moved when whole: others may build it too
            made = Path(scratch) / path.name
            for name, text in SOURCES.items():
                (Path(scratch) / name).write_text(text)
            command = [compiler, *FLAGS, "-o", made.name, *SOURCES]
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True)
            made.replace(path)
    return path


def processor() -> str:
    """What -march=native depends on; a home folder may be shared by machines."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")] if info.exists() else []
    return flags[0] if flags else platform.platform()


class PixelKernel:
    """One PixelMLP, its weights packed as pixels.cpp describes."""

    def __init__(self, mlp: PixelMLP, compiled: ctypes.CDLL) -> None:
        self.compiled = compiled
        self.mlp = mlp
        self.lanes = compiled.lanes()
        first, *later = mlp.linears()
        self.project = self.padded(first.weight.detach()[:, : mlp.in_channels], 0)[:, :, None, None]
        self.bias = self.padded(first.bias.detach(), 0)
        packed = [self.padded(part, -1).flatten() for layer in later for part in (layer.weight.t(), layer.bias)]
        self.weight = torch.cat([part.detach() for part in packed]) if packed else torch.zeros(1)
        widths = [layer.out_features for layer in (first, *later)]
        self.widths = (ctypes.c_int * len(widths))(*widths)

    def padded(self, tensor: Tensor, dim: int) -> Tensor:
        """Contiguous, with zeros up to a multiple of LANES along one dimension."""
        shape = list(tensor.shape)
        shape[dim] = -shape[dim] % self.lanes
        return torch.cat([tensor, tensor.new_zeros(shape)], dim)

    def table(self, feat: Tensor) -> Tensor:
        """feat (b,c,h,w) -> the first layer's feature part, (b,h*w,C) padded."""
        return F.conv2d(feat, self.project, self.bias).permute(0, 2, 3, 1).flatten(1, 2).contiguous()

    def add_to(
        self,
        planes: Tensor,
        table: Tensor,
        rows: Axis,
        cols: Axis,
        w: int,
        assignment: Tensor | None,
        own: int,
    ) -> None:
        """Add the MLP's outputs to planes (n,H,W) where assignment (H,W) uint8 is `own`; everywhere if it is None.

        table (h*w,C) is one image's; everything float32, contiguous and on the CPU.
        """
        first = self.mlp.first_layer(table[:, : self.widths[0]], rows, cols)
        row, col = self.padded(first.row, 1), self.padded(first.col, 1)
        height, width = planes.shape[1:]
        self.compiled.mlp_at(
            *map(address, (table, row, col, rows.index, cols.index)),
            w,
            address(self.weight),
            self.widths,
            len(self.widths) - 1,
            None if assignment is None else address(assignment),
            own,
            height,
            width,
            address(planes),
            torch.get_num_threads(),
        )


def enlarge(lr: Tensor, size: tuple[int, int], part: Part, compiled: ctypes.CDLL) -> Tensor:
    """models.pcsr.bilinear as compiled code: the part's window of lr (b,3,h,w) at `size`."""
    rows, cols = blend(lr.shape[2], size[0], part=part.rows), blend(lr.shape[3], size[1], part=part.cols)
    lr = lr.contiguous()
    planes = torch.empty(len(lr), 3, len(rows.low), len(cols.low))
    axes = [address(tensor) for line in (rows, cols) for tensor in (line.low, line.high, line.weight)]
    compiled.enlarge(
        address(lr),
        *(3 * len(lr), lr.shape[2], lr.shape[3]),
        *axes,
        *planes.shape[2:],
        address(planes),
        torch.get_num_threads(),
    )
    return planes


def refine_and_round(
    sr: Tensor, assignment: Tensor | None, inside: Part, levels: int, out: Array, compiled: ctypes.CDLL
) -> None:
    """models.pcsr.refine, if there is an assignment (1,H,W) uint8, and rounding to `levels`, in one go.

    sr (1,3,H,W); the pixels of `inside` go to out (R,C,3) uint8 or uint16, whose rows may lie apart.
    """
    compiled.refine_and_round(
        address(sr),
        None if assignment is None else address(assignment),
        *sr.shape[2:],
        *(inside.rows.start, inside.rows.stop, inside.cols.start, inside.cols.stop),
        levels,
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_long(out.strides[0] // out.itemsize),
        torch.get_num_threads(),
    )


def address(tensor: Tensor) -> ctypes.c_void_p:
    if not tensor.is_contiguous():
        raise ValueError("the kernel reads contiguous tensors")
    return ctypes.c_void_p(tensor.data_ptr())
