"""What results are of, kept beside them: so results never replace those of other data, weights or settings."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from inference.options import Chosen
from inference.outputs import fingerprint, short
from utils.errors import InputError
from utils.files import list_images, read_bytes, write_atomic
from utils.jobs import tell

RECORD = "record.json"


def read_record(folder: Path) -> dict[str, Any]:
    """What the results in a folder are of; empty if nothing readable says it."""
    try:
        record = json.loads(read_bytes(folder / RECORD))
    except ValueError:  # no such file, or not JSON
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomic(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())


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
    return {f"{kind}_data": str(Path(folder).resolve()), f"{kind}_images": short(sizes)}


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
            other = [key for key in keys if there.get(key) != record.get(key)] if there else ["origin"]
            about = f"{folder} holds results of other {', '.join(other)}"
        if named:
            raise InputError(f"{about}; give another --out_dir")
    if about:
        tell(f"note: {about}; the new ones go to {folder}")
    return folder
