"""The record of a training in the header of the weights: the scale, the data and the kind of LR."""

import json
from collections.abc import Mapping

from utils.config import Config, DegradeSpec, Scale, Spec, ends, listed
from utils.files import data_name

TRAINED = "trained"  # key of the record in the header
METADATA = "__metadata__"  # key of the safetensors format for all entries of a header that are not tensors


class Trained(Spec):
    """The scale of the training or its range, the names of its data folders, and how its LR was made.

    Older headers do not say how LR was made. Those models were trained on clean LR made from HR.
    """

    scale: Scale
    data: str
    degrade: DegradeSpec | None = None
    lr_files: bool = False  # LR was read from files; how it was made is not known

    @property
    def scales(self) -> tuple[float, float]:
        """The lowest and the highest scale."""
        return ends(self.scale)

    @property
    def cell_limits(self) -> tuple[float, float]:
        """The smallest and the largest rel_cell of the training: that of scale s is 2 / s."""
        low, high = self.scales
        return 2 / high, 2 / low

    def covers(self, scale: float) -> bool:
        low, high = self.scales
        return low <= scale <= high

    def __str__(self) -> str:
        lr = ", LR from files" if self.lr_files else f", LR with {self.degrade}" if self.degrade else ""
        return f"{scale_names(self.scales)} on {self.data}{lr}"

    def unlike(self, asked: DegradeSpec | None) -> str:
        """A warning for an evaluation with LR degraded as `asked` (None: clean LR); empty if none is needed."""
        if self.lr_files or bool(self.degrade) == bool(asked) or (self.degrade and self.degrade.leaves_clean):
            return ""
        own, other = (f"LR with {self.degrade}", "clean LR") if self.degrade else ("clean LR", f"LR with {asked}")
        return f"trained on {own}; on {other} a model trained for that would do better"


def scale_names(scales: tuple[float, float]) -> str:
    """A scale, or a range of scales, for people."""
    return " to ".join(f"x{scale:g}" for scale in dict.fromkeys(scales))


def record_of(config: Config) -> Trained:
    data = config.data
    names = "+".join(map(data_name, listed(data.train)))
    return Trained(scale=data.scale, data=names, degrade=data.degrade, lr_files=data.train_lr is not None)


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same `.safetensors` file with metadata; its tensors stay unchanged.

    The library could do this, but it writes several entries in a different order each time.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps({METADATA: metadata, **json.loads(content[8:end])}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps the tensors aligned
    return len(text).to_bytes(8, "little") + text + content[end:]
