"""record.json, which says from which data, weights and settings results were made: so they never replace others."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from inference.options import Chosen
from inference.outputs import digest_of
from utils.cli import tell
from utils.errors import InputError
from utils.files import list_images, read_bytes, write_atomic

RECORD = "record.json"
# keys that must be equal if two PSNR are to be compared
COMMON = ("hr_images", "lr_images", "hr_contents", "lr_contents", "crop", "float_lr", "psnr_type")
CONTENTS = COMMON[2:4]  # older records lack them
# names of keys for people; a key that is missing here is its own name
WORDS = {
    "hr_data": "folder of HR images",
    "hr_images": "HR images",
    "lr_data": "folder of LR images",
    "lr_images": "LR images",
    "hr_contents": "contents of the HR images",
    "lr_contents": "contents of the LR images",
    "float_lr": "rounding of LR",
    "psnr_type": "colours of PSNR (RGB or luma)",
    "degrade": "degradation of LR",
    "content": "image content",
    "folders": "folders that are compared",
}


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the results in a folder; empty if there is none that can be read."""
    try:
        record = json.loads(read_bytes(folder / RECORD))
    except ValueError:  # no such file, or not JSON
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomic(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def in_words(keys: Iterable[str]) -> str:
    """Keys of records, as people call them."""
    return ", ".join(f"the {WORDS.get(key, key.replace('_', ' '))}" for key in keys)


def incomparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two records differ so that their PSNR cannot be compared."""
    differ = [key for key in COMMON if key in one and key in other and one[key] != other[key]]
    return differ + ["degrade"] * (one.get("degrade") != other.get("degrade"))  # records have it only if it is used


def model_record(chosen: Chosen | None) -> dict[str, Any]:
    """The model of the results; bicubic if there is none."""
    if chosen is None:
        return {"model": "bicubic", "backbone": None, "weights": None}
    return {"model": chosen.name, "backbone": chosen.spec.backbone, "weights": chosen.fingerprint()}


def images_record(kind: str, folder: str | None) -> dict[str, Any]:
    """The images in a folder of HR or LR, by names and sizes in bytes, and by contents; None without a folder."""
    if folder is None:
        return {f"{kind}_data": None, f"{kind}_images": None}
    paths = list_images(folder)
    sizes = [(path.name, path.stat().st_size) for path in paths]
    contents = [sha256(read_bytes(path)).hexdigest() for path in paths]
    found = {f"{kind}_images": digest_of(sizes), f"{kind}_contents": digest_of(contents)}
    return {f"{kind}_data": str(Path(folder).resolve()), **found}


def results_folder(
    wanted: Path, results: Sequence[str], record: Mapping[str, Any], named: bool = False, decides: Sequence[str] = ()
) -> Path:
    """Where results of this record go: `wanted` or, if results of another are there, WANTED-2 and so on, with a note.

    A folder is taken if it holds a record or one of the files `results`. It is taken by the same results if its record
    agrees in the keys `decides`, or in all keys if that is empty. Raises InputError, instead of taking another folder,
    if the user has `named` this one.
    """
    taken = occupied(wanted, results, record, decides)
    if not taken:
        return wanted
    if named:
        raise InputError(f"{taken}; give another out_dir")
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
    folder = next(each for each in numbered if not occupied(each, results, record, decides))
    tell(f"note: {taken}; the new ones go to {folder}")
    return folder


@contextmanager
def reserving(results: Sequence[str]) -> Iterator[Callable[[Path, Mapping[str, Any]], None]]:
    """Gives a function that writes the record into a folder, so that other results take other folders meanwhile.

    If an error comes before there are any of the files `results`, nothing is left. The function raises InputError for a
    folder that cannot be written.
    """
    made: list[Path] = []
    written: list[Path] = []

    def reserve(folder: Path, record: Mapping[str, Any]) -> None:
        made.extend(place for place in (*reversed(folder.parents), folder) if not place.exists())
        write_record(folder, record)
        written.append(folder)

    try:
        yield reserve
    finally:
        for folder in written:
            if not any((folder / name).exists() for name in results):
                (folder / RECORD).unlink(missing_ok=True)
        for place in reversed(made):
            with suppress(OSError):  # it is not empty
                place.rmdir()


def occupied(folder: Path, results: Sequence[str], record: Mapping[str, Any], decides: Sequence[str]) -> str:
    """Why results of this record may not go to a folder; empty if they may."""
    there = read_record(folder)
    if not there:
        taken = any((folder / result).exists() for result in results)
        return f"{folder} holds results that do not say what they are of" if taken else ""
    keys = decides or {**record, **there}  # a key that only one of them has counts as well
    differ = [key for key in keys if there.get(key) != record.get(key) and (key in there or key not in CONTENTS)]
    return f"{folder} holds results that differ in {in_words(differ)}" if differ else ""
