"""FSRCNN on RGB (Dong et al., ECCV 2016, arXiv 1608.00367), with s = 12 and m = 4."""

from torch import Tensor, nn

from models.blocks import conv3x3

SHRINK = 12  # s
MAPPINGS = 4  # m
KERNEL = 9  # size of the transposed convolution


class FSRCNNEncoder(nn.Module):
    """lr (b,3,h,w) -> feat (b,width,h,w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2),
            nn.PReLU(),
            nn.Conv2d(width, SHRINK, 1),
            nn.PReLU(),
            *(conv3x3(SHRINK, SHRINK) for _ in range(MAPPINGS)),
            nn.PReLU(),
            nn.Conv2d(SHRINK, width, 1),
            nn.PReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FSRCNNTail(nn.Module):
    """feat (b,width,h,w) -> (b,3,h*scale,w*scale)."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        padding = (KERNEL - scale + 1) // 2
        extra = scale + 2 * padding - KERNEL  # makes the output exactly scale times as large
        self.deconv = nn.ConvTranspose2d(width, 3, KERNEL, scale, padding, output_padding=extra)

    def forward(self, feat: Tensor) -> Tensor:
        return self.deconv(feat)
