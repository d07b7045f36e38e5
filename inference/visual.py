"""Pictures about results: the coloured assignment, and a captioned row of images."""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from inference.outputs import ASSIGNED
from inference.restore import Restored
from utils.image import Array
from utils.patches import bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # it takes long to import

COLOURS = "coolwarm"  # light = blue .. heavy = red
OPACITY = 0.6  # of the colour over the gray image, which then still shows
TALL = 4  # the highest picture in a comparison, relative to its width; higher ones are shown narrower
DETAIL = 0.22  # the part of each side that is shown magnified, by 1 / 0.22 = 4.5


def colour_assignment(pixels: Array, assignment: Array, upsamplers: int, opacity: float = OPACITY) -> Array:
    """An image (H,W,3) of 8 or 16 bits in gray under the colours of assignment (H,W), 0 .. upsamplers - 1, as uint8.

    Blue is light, red is heavy; opacity in [0,1].
    """
    import matplotlib as mpl  # noqa: PLC0415 - most pictures are made without it

    shades = np.linspace(0.05, 0.95, upsamplers) if upsamplers > 1 else [0.95]
    palette = mpl.colormaps[COLOURS](shades)[:, :3].astype(np.float32) * 255
    overlay = np.empty(pixels.shape, np.uint8)
    scale = (1 - opacity) * 255 / np.iinfo(pixels.dtype).max
    for rows in bands(len(pixels)):
        gray = pixels[rows].mean(axis=2, keepdims=True, dtype=np.float32)
        overlay[rows] = (scale * gray + opacity * palette[assignment[rows]]).round()
    return overlay


def as_pictures(name: str, restored: Restored) -> dict[str, Array]:
    """The SR image and, for a PCSR model, the assignment in colours, under the names that their files get."""
    made = {name: restored.pixels}
    if restored.assignment is not None:
        made[name + ASSIGNED] = colour_assignment(restored.pixels, restored.assignment, restored.upsamplers)
    return made


def busiest(load: Array) -> tuple[slice, slice]:
    """The window of DETAIL of the sides of load (H,W), such as an assignment, that holds most of it."""
    height, width = (max(1, round(n * DETAIL)) for n in load.shape)
    step = max(1, min(height, width) // 8)
    means = F.avg_pool2d(torch.from_numpy(load)[None, None].float(), (height, width), stride=step)[0, 0]
    row, col = (int(i) * step for i in np.unravel_index(int(means.argmax()), means.shape))
    return slice(row, row + height), slice(col, col + width)


def panel(
    images: Sequence[tuple[str, Array]], window: tuple[slice, slice], about: str = "", size: float = 3.2
) -> bytes:
    """Images of the same size, (H,W,3) uint8, in a row under their captions, `window` of each magnified below; as PNG.

    `about` is a line below all.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    height, width = images[0][1].shape[:2]
    rows, cols = window
    figure = Figure(figsize=(size * len(images), 2 * size * min(height / width, TALL) + 1.2), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, (caption, image) in enumerate(images):
        whole, detail = axes[:, column]
        whole.set_title(caption, fontsize=14)
        whole.imshow(image, interpolation="antialiased")
        place = (cols.start, rows.start), cols.stop - cols.start, rows.stop - rows.start
        whole.add_patch(Rectangle(*place, fill=False, edgecolor="white"))
        detail.imshow(image[window], interpolation="nearest")
        for axis in (whole, detail):
            axis.set_axis_off()
    figure.supxlabel(about, fontsize=14)
    return figure_png(figure, 100)


# for rc_context: names of files may contain $
VERBATIM: Any = {"text.parse_math": False}


def figure_png(figure: "Figure", dpi: int) -> bytes:
    """A figure as PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
