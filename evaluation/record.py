"""What results are of, kept beside them: so results never replace those of other data, weights or settings."""

import json
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from inference.options import Chosen
from inference.outputs import digest_of, fingerprint
from utils.errors import InputError
from utils.files import list_images, read_bytes, write_atomic
from utils.jobs import tell

RECORD = "record.json"
# what is the same wherever PSNR can be compared
COMMON = ("hr_images", "lr_images", "crop", "float_lr", "psnr_type")
# for people; what is missing here is called as in the record
WORDS = {
    "hr_data": "folder of HR images",
    "hr_images": "HR images",
    "lr_data": "folder of LR images",
    "lr_images": "LR images",
    "float_lr": "rounding of LR",
    "psnr_type": "colours of PSNR (RGB or luma)",
    "degrade": "degradation of LR",
    "content": "image content",
}


def read_record(folder: Path) -> dict[str, Any]:
    """What the results in a folder are of; empty if nothing readable says it."""
    try:
        record = json.loads(read_bytes(folder / RECORD))
    except ValueError:  # no such file, or not JSON
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomic(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def in_words(keys: Iterable[str]) -> str:
    """Keys of records for people."""
    return ", ".join(f"the {WORDS.get(key, key.replace('_', ' '))}" for key in keys)


def incomparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In which keys two records differ so that their PSNR cannot be compared."""
    differ = [key for key in COMMON if key in one and key in other and one[key] != other[key]]
    return differ + ["degrade"] * (one.get("degrade") != other.get("degrade"))  # only where it is used


def model_record(chosen: Chosen | None) -> dict[str, Any]:
    """Which model it is; bicubic if there is none."""
    if chosen is None:
        return {"model": "bicubic", "backbone": None, "weights": None}
    return {"model": chosen.name, "backbone": chosen.spec.backbone, "weights": fingerprint(chosen.model)}


def images_record(kind: str, folder: str | None) -> dict[str, Any]:
    """Which images a folder of HR or LR holds, by their names and sizes in bytes; nothing if there is none."""
    if folder is None:
        return {f"{kind}_data": None, f"{kind}_images": None}
    sizes = [(path.name, path.stat().st_size) for path in list_images(folder)]
    return {f"{kind}_data": str(Path(folder).resolve()), f"{kind}_images": digest_of(sizes)}


def results_folder(wanted: Path, result: str, record: Mapping[str, Any], named: bool = False) -> Path:
    """Where results of this record go: `wanted` or, if results of another are there, WANTED-2 and so on, with a note.

    The file `result` tells that results are in a folder. Raises InputError, instead of taking another folder, if the
    user has `named` this one.
    """
    about = ""
    for number in count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        there = read_record(folder)
        if there == record or not (folder / result).exists():
            break
        if not about:
            keys = {**record, **there}  # a key that only one of them has counts as well
            other = in_words(key for key in keys if there.get(key) != record.get(key))
            about = f"{folder} holds results that {f'differ in {other}' if there else 'do not say what they are of'}"
        if named:
            raise InputError(f"{about}; give another --out_dir")
    if about:
        tell(f"note: {about}; the new ones go to {folder}")
    return folder
