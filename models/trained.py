"""What a model was trained on, recorded in the header of its weights: the scale and the data."""

import json
from collections.abc import Mapping

from utils.config import Config, Scale, Spec, listed
from utils.files import data_name

TRAINED = "trained"  # the record's name in the header
METADATA = "__metadata__"  # what the safetensors format calls all that a header says beside the tensors


class Trained(Spec):
    """The scale of training, or its range, and the names of the folders with the training data."""

    scale: Scale
    data: str

    @property
    def limits(self) -> tuple[float, float]:
        return self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale)

    def covers(self, scale: float) -> bool:
        low, high = self.limits
        return low <= scale <= high

    def scales(self) -> str:
        return " to ".join(f"x{scale:g}" for scale in dict.fromkeys(self.limits))

    def __str__(self) -> str:
        return f"{self.scales()} on {self.data}"


def record_of(config: Config) -> Trained:
    return Trained(scale=config.data.scale, data="+".join(map(data_name, listed(config.data.train))))


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same `.safetensors` file with metadata, its tensors untouched.

    The library would do it, but it writes several metadata in another order each time.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps({METADATA: metadata, **json.loads(content[8:end])}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[end:]
