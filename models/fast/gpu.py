"""The per-pixel MLP on GPUs: one Triton kernel runs it at the HR pixels of an image that chose it.

  table  (h*w, P)   first layer's feature part and bias, a row per LR pixel     P = HI + LO channels: two powers of
  coord  (4, P)     its weights of rel_coord (y, x) and rel_cell (y, x)         two of at least 16, as tl.dot needs
  weight            for each later layer (P, P), inputs by outputs, then its    them; 74 channels take 64 + 16 and
                    bias (P); an output layer uses OUT columns                  not 128; padded with zeros

A program computes BLOCK pixels, whose activations (BLOCK, HI) and (BLOCK, LO) stay on the chip. The later layers are
computed in pairs: the first layer of a pair is computed CHUNK channels at a time, and the second sums over the chunks:
  first[p][c]  = relu(table[nearest(p)][c] + coord[0][c] * y(p) + coord[1][c] * x(p) + constant[c])
  second[p][o] = bias[o] + sum over chunks of relu(first[p] @ weight[:, chunk] + bias[chunk]) @ weight'[chunk][o]
All sums are in float32, whatever the type of the table and the weights is. What exceeds the range of that type is no
number, and stays so up to the results, where GuardedRunner in models/fast/engine.py looks for it.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from models.grid import Grid
from models.mlp import PixelMLP, rows_of

OUT = 16  # outputs, padded to the smallest size that tl.dot accepts
BLOCK = 64  # pixels: 170 channels in float32 take 76 KB of shared memory, and consumer GPUs have 99


@triton.jit
def first_layer(table, coord, nearest, dy, dx, cell_y, cell_x, channel, P: tl.constexpr):
    """The first layer at some channels, before its ReLU: (BLOCK, channels) float32."""
    y, x = tl.load(coord + channel), tl.load(coord + P + channel)
    constant = tl.load(coord + 2 * P + channel) * cell_y + tl.load(coord + 3 * P + channel) * cell_x
    feature = tl.load(table + nearest[:, None] * P + channel[None, :])
    return feature.to(tl.float32) + (dy[:, None] * y[None, :] + (dx[:, None] * x[None, :] + constant[None, :]))


@triton.jit
def relu(sums, weight):
    """max(sums, 0) in float32; no number where the type of the weights, which products use, does not hold the sum."""
    held = sums.to(weight.dtype.element_ty).to(tl.float32)
    return tl.maximum(held, 0) + held * 0


@triton.jit
def product(inputs, weight, rows, cols, total, P: tl.constexpr):
    """total + inputs @ weight[rows, cols] of a layer's matrix, without TF32."""
    part = tl.load(weight + rows[:, None] * P + cols[None, :])
    return tl.dot(inputs.to(part.dtype), part, total, input_precision="ieee")


@triton.jit
def bias(weight, cols, BLOCK: tl.constexpr, P: tl.constexpr):
    """A layer's bias at some outputs, for every pixel: (BLOCK, cols) float32."""
    return tl.broadcast_to(tl.load(weight + P * P + cols).to(tl.float32)[None, :], (BLOCK, cols.shape[0]))


@triton.jit
def layer(hi, lo, weight, cols, HI: tl.constexpr, LO: tl.constexpr):
    """Some outputs of one layer, before their ReLU: (BLOCK, cols)."""
    total = product(hi, weight, tl.arange(0, HI), cols, bias(weight, cols, hi.shape[0], HI + LO), HI + LO)
    return product(lo, weight, HI + tl.arange(0, LO), cols, total, HI + LO)


@triton.jit(do_not_specialize=["planes", "count", "w", "width", "plane"])  # else many images compile it again
def mlp_at(
    planes, table, coord, weight, row_index, row_offset, col_index, col_offset, cell_y, cell_x, chosen, count, w, width,
    plane, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, HI: tl.constexpr, LO: tl.constexpr, CHUNK: tl.constexpr,
    OUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    P: tl.constexpr = HI + LO
    SIZE: tl.constexpr = P * P + P  # of a later layer
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = slot < count
    pixel = slot if chosen is None else tl.load(chosen + slot, mask=valid, other=0).to(tl.int32)
    y, x = pixel // width, pixel % width
    nearest = tl.load(row_index + y, mask=valid, other=0) * w + tl.load(col_index + x, mask=valid, other=0)  # int64
    dy, dx = tl.load(row_offset + y, mask=valid, other=0), tl.load(col_offset + x, mask=valid, other=0)
    in_hi, in_lo, out = tl.arange(0, HI), HI + tl.arange(0, LO), tl.arange(0, OUT)
    hi = first_layer(table, coord, nearest, dy, dx, cell_y, cell_x, in_hi, P)
    lo = first_layer(table, coord, nearest, dy, dx, cell_y, cell_x, in_lo, P)
    if DEPTH > 0:
        hi, lo = relu(hi, weight), relu(lo, weight)
    for pair in tl.static_range(DEPTH // 2):
        second = weight + SIZE
        columns = in_hi if 2 * pair + 2 < DEPTH else out  # the last layer has no other outputs
        next_hi, next_lo = bias(second, columns, BLOCK, P), bias(second, in_lo, BLOCK, P)
        for start in range(0, P, CHUNK):
            chunk = start + tl.arange(0, CHUNK)
            hidden = relu(layer(hi, lo, weight, chunk, HI, LO), weight)
            next_hi = product(hidden, second, chunk, columns, next_hi, P)
            if 2 * pair + 2 < DEPTH:
                next_lo = product(hidden, second, chunk, in_lo, next_lo, P)
        if 2 * pair + 2 < DEPTH:
            next_hi, next_lo = relu(next_hi, weight), relu(next_lo, weight)
        hi, lo, weight = next_hi, next_lo, second + SIZE
    if DEPTH % 2 == 1:
        hi = layer(hi, lo, weight, out, HI, LO)
    where = planes + out.to(tl.int64)[None, :] * plane + pixel[:, None]
    there = valid[:, None] & (out < OUTPUTS)[None, :]
    tl.store(where, tl.load(where, mask=there) + hi, mask=there)


def pieces(width: int) -> tuple[int, int]:
    """HI, LO: the smallest sizes that hold `width` channels."""
    hi = max(16, triton.next_power_of_2(width) // 2)
    return hi, max(16, triton.next_power_of_2(max(width - hi, 1)))


def padded(tensor: Tensor, *shape: int) -> Tensor:
    """The tensor, padded with zeros at the end of each axis up to a shape."""
    missing = [whole - size for size, whole in zip(tensor.shape, shape, strict=True)]
    return F.pad(tensor, [count for after in reversed(missing) for count in (0, after)])


class TritonRunner:
    """One PixelMLP, its weights packed as above in their own dtype; for inference on the MLP's device."""

    @torch.no_grad()
    def __init__(self, mlp: PixelMLP) -> None:
        first, *later = mlp.linears()
        if mlp.out_channels > OUT:
            raise ValueError(f"{mlp.out_channels} outputs: the kernel has at most {OUT}")
        self.hi, self.lo = pieces(max(layer.out_features for layer in (first, *later)))
        self.table_channels = p = self.hi + self.lo
        self.project = padded(first.weight[:, : mlp.in_channels], p, mlp.in_channels)
        self.bias = padded(first.bias, p)
        self.coord = padded(first.weight[:, mlp.in_channels :].t().float(), 4, p)
        packed = [part for layer in later for part in (padded(layer.weight.t(), p, p).flatten(), padded(layer.bias, p))]
        self.weight = torch.cat(packed) if packed else self.bias
        self.outputs, self.depth = mlp.out_channels, len(later)
        self.chunk = 16 if first.weight.dtype == torch.float32 else min(32, self.lo)  # larger ones spill registers
        self.warps = 4 if p <= 128 else 8  # with fewer warps, registers spill

    def table(self, feat: Tensor) -> Tensor:
        """feat (b,c,h,w) -> the first layer's feature part, (b,h*w,P)."""
        return F.linear(rows_of(feat), self.project, self.bias).view(len(feat), -1, self.table_channels)

    def add_to(self, planes: Tensor, table: Tensor, grid: Grid, w: int, assignment: Tensor | None, own: int) -> None:
        """See MLPRunner.add_to in models/fast/engine.py."""
        rows, cols = grid
        height, width = planes.shape[1:]
        if not (planes.is_contiguous() and table.is_contiguous() and height * width < 1 << 31):
            raise ValueError("the kernel reads contiguous tensors, of pixels that it can count in 32 bits")
        chosen = None if assignment is None else (assignment.flatten() == own).nonzero()  # (count,1) int64
        count = height * width if chosen is None else len(chosen)  # waits for the device: the count decides the grid
        if count == 0:
            return
        with torch.cuda.device_of(planes):  # Triton launches on the current device
            mlp_at[(triton.cdiv(count, BLOCK),)](
                planes, table, self.coord, self.weight, rows.index, rows.offset, cols.index, cols.offset, rows.cell,
                cols.cell, chosen, count, w, width, height * width, OUTPUTS=self.outputs, DEPTH=self.depth, HI=self.hi,
                LO=self.lo, CHUNK=self.chunk, OUT=OUT, BLOCK=BLOCK, num_warps=self.warps, num_stages=2,
            )  # fmt: skip
