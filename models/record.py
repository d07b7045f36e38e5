"""What a model was trained on, recorded in the header of its weights: the scale and the data.

python -m models.record save/NAME/model.safetensors ...    adds the record, from the config.yaml beside the weights
"""

import json
from collections.abc import Mapping
from pathlib import Path

from utils.config import Config, Scale, Spec, load_config
from utils.errors import InputError, Parser, run
from utils.files import read_bytes, write_atomic

TRAINED = "trained"  # the record's name in the header
METADATA = "__metadata__"  # what the safetensors format calls all that a header says beside the tensors


class Trained(Spec):
    """The scale of training, or its range, and the name of the folder with the training data."""

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
    return Trained(scale=config.data.scale, data=Path(config.data.train).absolute().name)


def header_and_tensors(content: bytes) -> tuple[dict[str, object], bytes]:
    """The header of a `.safetensors` file, and the bytes of its tensors. Raises ValueError if it is none."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if not isinstance(header, dict):
        raise ValueError("the header is not a mapping")
    return header, content[end:]


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same `.safetensors` file with more metadata, its tensors untouched.

    The library would do for a new file, but it writes several metadata in another order each time.
    """
    header, tensors = header_and_tensors(content)
    there = header.pop(METADATA, {})
    assert isinstance(there, dict)
    text = json.dumps({METADATA: {**there, **metadata}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + tensors


def add_record(weights: Path) -> None:
    """Add the record to one file of weights, from the config beside it. Raises InputError if either is unusable."""
    record = record_of(load_config(weights.with_name("config.yaml")))
    try:
        content = with_metadata(read_bytes(weights), {TRAINED: record.model_dump_json()})
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{weights}: not a .safetensors file") from None
    write_atomic(weights, content)
    print(f"{weights}: trained at {record}")


def main() -> None:
    parser = Parser(description="Record in the header of weights what they were trained on, as config.yaml says.")
    parser.add_argument("weights", nargs="+", type=Path, help="files of weights, each beside its config.yaml")
    for weights in parser.parse_args().weights:
        add_record(weights)


if __name__ == "__main__":
    run(main)
