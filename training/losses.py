"""Training losses over HR pixels, taken piece by piece together with their gradients.

A loss that is a sum over pixels needs nothing of one pixel for the gradient of another. So on a CPU a piece of some
thousand pixels goes through its MLPs forward and backward while its activations lie in the cache, and nothing of it is
kept: the plain formulation writes every activation of the whole batch to memory and reads it back. Elsewhere the batch
is a single piece and autograd does the rest. Both give the same gradients but for the order of sums.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.grid import axis

FLOOR = 2e-4  # of a patch's MSE in the psnr loss, 37 dB: what is better than that hardly pulls
PIECE_PIXELS = 1 << 13  # 8192 pixels of 74 channels are 2.4 MB
CACHED = ("cpu",)  # devices on which pieces pay


class Piece(NamedTuple):
    """n HR pixels of which all read the same rows of the feature tables."""

    rows: slice  # of the tables (b*h*w, C)
    nearest: Tensor  # (n,) the row each pixel reads, counted from the slice's start
    coords: Tensor  # (n,4) the paper's rel_coord and rel_cell, y before x
    target: Tensor  # (n,3) hr minus the bilinear residual: what the upsamplers have to give
    images: int  # that the pixels are of, one after the other and as many of each
    share: float  # of the batch's pixels

    def loss(self, residual: Tensor, loss: str) -> Tensor:
        """What the piece adds to the batch's loss (l1, mse or psnr), a scalar; residual (n,3) is what the upsamplers
        give."""
        difference = residual - self.target
        return self.share * deviation(difference.unflatten(0, (self.images, -1)), loss).mean()


def deviation(difference: Tensor, loss: str) -> Tensor:
    """The loss of each patch, (b,), from SR - HR in any shape (b,...), values about -1 .. 1.

    l1 (paper) and mse are means; psnr is the logarithm of the MSE, so that a patch counts by its decibels as an image
    does in the evaluation, and not the noisiest patches the most.
    """
    terms = difference.flatten(1)
    if loss == "l1":
        return terms.abs().mean(1)
    mse = terms.square().mean(1)
    return (mse + FLOOR).log() if loss == "psnr" else mse


class Queries(NamedTuple):
    """The HR pixels of a batch that the loss is taken over, N per image."""

    positions: int  # h*w
    nearest: Tensor  # (b,N) LR pixel of its image
    coords: Tensor  # (b,N,4)
    target: Tensor  # (b,N,3)

    def pieces(self, loss: str) -> Iterator[Piece]:
        """Cache-sized pieces of single images on a CPU, of whole ones for psnr; the whole batch at once elsewhere."""
        batch, count = self.nearest.shape
        if self.nearest.device.type not in CACHED:
            image = torch.arange(batch, device=self.nearest.device)[:, None] * self.positions
            nearest = (image + self.nearest).flatten()
            yield Piece(slice(None), nearest, self.coords.flatten(0, 1), self.target.flatten(0, 1), batch, 1.0)
            return
        size = count if loss == "psnr" else PIECE_PIXELS
        for b in range(batch):
            rows = slice(b * self.positions, (b + 1) * self.positions)
            for start in range(0, count, size):
                nearest = self.nearest[b, start : start + size]
                coords, target = (each[b, start : start + size] for each in (self.coords, self.target))
                yield Piece(rows, nearest, coords, target, 1, len(nearest) / (batch * count))


def queries(lr: Tensor, hr: Tensor, pixels_per_patch: int | None = None) -> Queries:
    """All pixels of hr (b,3,H,W), or a random subset of each image, over lr (b,3,h,w).

    The subset is drawn from torch's generator of the device.
    """
    (batch, _, h, w), (height, width) = lr.shape, hr.shape[2:]
    rows, cols = axis(h, height, lr.device), axis(w, width, lr.device)
    nearest = (rows.index[:, None] * w + cols.index).flatten()  # (H*W,)
    coords = torch.empty(height, width, 4, device=lr.device)
    coords[..., 0], coords[..., 1] = rows.offset[:, None], cols.offset
    coords[..., 2], coords[..., 3] = rows.cell, cols.cell
    coords = coords.flatten(0, 1)  # (H*W,4)
    residual = F.interpolate(lr, size=(height, width), mode="bilinear", align_corners=False)  # as torch.compile likes
    target = (hr - residual).permute(0, 2, 3, 1).flatten(1, 2)  # (b,H*W,3)
    if pixels_per_patch is None or pixels_per_patch >= height * width:
        target = target.contiguous()
        return Queries(h * w, nearest.expand(batch, -1), coords.expand(batch, -1, -1), target)
    chosen = torch.rand(batch, height * width, device=lr.device).topk(pixels_per_patch, sorted=False).indices
    chosen = chosen.sort(1).values  # (b,N), in the order in which the tables lie in memory
    target = target.gather(1, chosen[..., None].expand(-1, -1, 3))
    return Queries(h * w, nearest[chosen], coords[chosen], target)


PieceLoss = Callable[[Sequence[Tensor], Piece], Tensor]  # the rows of every table that the piece reads -> a scalar


def summed(
    loss: PieceLoss, tables: Sequence[Tensor], parameters: Sequence[nn.Parameter], pieces: Sequence[Piece]
) -> Tensor:
    """The sum of `loss` over the pieces, differentiable in the tables (b*h*w, C) and the parameters it uses."""
    if len(pieces) == 1 and pieces[0].rows == slice(None):
        return loss(tables, pieces[0])
    if not torch.is_grad_enabled():
        return torch.stack([loss([table[piece.rows] for table in tables], piece) for piece in pieces]).sum()
    total: Tensor = PieceByPiece.apply(loss, pieces, len(tables), *tables, *parameters)
    return total


class PieceByPiece(torch.autograd.Function):
    """Takes each piece's gradient right after its loss; backward only scales the sums."""

    @staticmethod
    def forward(ctx: Any, loss: PieceLoss, pieces: Sequence[Piece], n_tables: int, *tensors: Tensor) -> Tensor:
        tables, parameters = tensors[:n_tables], tensors[n_tables:]
        wanted = [table.requires_grad for table in tables]
        gradients = [torch.zeros_like(tensor) if tensor.requires_grad else None for tensor in tensors]
        total = torch.zeros((), device=tensors[0].device)
        for piece in pieces:
            parts = [
                table[piece.rows].detach().requires_grad_(want) for table, want in zip(tables, wanted, strict=True)
            ]
            with torch.enable_grad():
                value = loss(parts, piece)
            inputs = [tensor for tensor in (*parts, *parameters) if tensor.requires_grad]
            sums = [gradient[piece.rows] for gradient in gradients[:n_tables] if gradient is not None]
            sums += [gradient for gradient in gradients[n_tables:] if gradient is not None]
            # unused: a first layer's bias, which is part of its table
            for so_far, part in zip(sums, torch.autograd.grad(value, inputs, allow_unused=True), strict=True):
                if part is not None:
                    so_far.add_(part)
            total += value.detach()
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Any, ...]:
        return None, None, None, *(None if gradient is None else gradient * scale for gradient in ctx.gradients)
