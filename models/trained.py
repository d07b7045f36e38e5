"""What a model was trained on, recorded in the header of its weights: the scale, the data and LR."""

import json
from collections.abc import Mapping

from utils.config import Config, DegradeSpec, Scale, Spec, listed
from utils.files import data_name

TRAINED = "trained"  # the record's name in the header
METADATA = "__metadata__"  # what the safetensors format calls all that a header says beside the tensors


class Trained(Spec):
    """The scale of training, or its range, the names of the folders with the training data, and what LR was.

    Headers from before LR was in them are of models whose LR was made from HR, and clean.
    """

    scale: Scale
    data: str
    degrade: DegradeSpec | None = None
    lr_files: bool = False  # LR was read from files, whose look nobody knows

    @property
    def limits(self) -> tuple[float, float]:
        return self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale)

    def covers(self, scale: float) -> bool:
        low, high = self.limits
        return low <= scale <= high

    def scales(self) -> str:
        return " to ".join(f"x{scale:g}" for scale in dict.fromkeys(self.limits))

    def __str__(self) -> str:
        lr = ", LR from files" if self.lr_files else f", LR with {self.degrade}" if self.degrade else ""
        return f"{self.scales()} on {self.data}{lr}"

    def unlike(self, asked: DegradeSpec | None) -> str:
        """What an evaluation with LR as asked for, None of clean LR, has to be warned of; empty if of nothing."""
        if self.lr_files or bool(self.degrade) == bool(asked) or (self.degrade and self.degrade.clean):
            return ""
        own, other = (f"LR with {self.degrade}", "clean LR") if self.degrade else ("clean LR", f"LR with {asked}")
        return f"trained on {own}; on {other} a model trained for that would do better"


def record_of(config: Config) -> Trained:
    data = config.data
    names = "+".join(map(data_name, listed(data.train)))
    return Trained(scale=data.scale, data=names, degrade=data.degrade, lr_files=data.train_lr is not None)


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same `.safetensors` file with metadata, its tensors untouched.

    The library would do it, but it writes several metadata in another order each time.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps({METADATA: metadata, **json.loads(content[8:end])}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[end:]
