"""Files that are written whole or not at all, and finding the images in a folder."""

import os
import re
import secrets
import unicodedata
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import IO

from utils.errors import InputError

# images that are read and written: suffix -> the name that Pillow gives the format
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= {".bmp": "BMP"}
READ_ONLY = {".gif": "GIF", ".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG"}
IMAGE_SUFFIXES = frozenset(FORMATS | READ_ONLY)
# pictures that are not read, from phones and the web, from programs, and raw files of cameras
UNREAD = (
    "heic heif avif jxl jp2 j2k svg ico ppm pgm pnm tga psd psb xcf exr hdr dng cr2 cr3 nef nrw arw srf sr2 orf rw2 "
)
UNREAD += "raf pef srw x3f 3fr iiq rwl dcr kdc mrw erf"
UNREAD_SUFFIXES = frozenset(f".{each}" for each in UNREAD.split())
BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".npz": b"PK"}
PART = ".pcsr-part"  # how the name of a file ends that is being written
NAME = 50  # characters of the file's own name in it: names may have 255 bytes, and a character four
# a folder within a data set: HR, LR, x4, LR_bicubic, GTmod12
PART_OF_SET = re.compile(r"((hr|lr|gt|x\d+(\.\d+)?|mod\d*|bic(ubic)?|images?)[-_]?)+", re.IGNORECASE)


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises InputError if it is missing, or is a device or a pipe, which might never end."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: a device or a pipe; give a file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def write_atomic(path: Path, content: bytes | memoryview, durable: bool = True) -> None:
    """Write a file so that readers, also after a crash, find the old content or the new, but never a part of it.

    With `durable` this holds after a power cut too (on macOS as far as its fsync reaches); it takes the time of a wait
    for the disk. Raises InputError if the place cannot be written or the disk is full; the old file then stays.
    """
    try:
        with replacing(path, durable) as file:
            file.write(content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """A new file to write to, which replaces `path` at the end, as write_atomic says.

    If anything is raised before that, the old file stays, and the new one is deleted. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:NAME]}.{secrets.token_hex(4)}{PART}")
    try:
        with temporary.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(folder: Path) -> list[Path]:
    """The new files in a folder that `replacing` began, of a process that was killed or is still writing."""
    name = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(PART)}")
    return [path for path in folder.glob(".*") if name.fullmatch(path.name) and path.is_file()]


def output_file(suffix: str) -> Callable[[str], Path]:
    """The type of an option that names a .csv, .png or .npz to write, which may replace nothing but such a file."""

    def check(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() != suffix:
            raise ArgumentTypeError(f"{text}: the name must end in {suffix}")
        if path.exists() and not (path.is_file() and holds(path, suffix)):
            raise ArgumentTypeError(f"{text}: exists and is no {suffix} file; give another name")
        try:
            check_folder(path.parent)
        except InputError as error:
            raise ArgumentTypeError(str(error)) from None
        return path

    return check


def holds(path: Path, suffix: str) -> bool:
    """Whether a file begins as files of this suffix do, or is empty."""
    try:
        content = read_bytes(path)
        if suffix in BEGINNINGS or not content:
            return not content or content.startswith(BEGINNINGS[suffix])
        first = content.split(b"\n", 1)[0].decode()
    except ValueError:  # it cannot be read, or is no text
        return False
    return "," in first and first.strip().isprintable()


def check_folder(folder: Path) -> None:
    """Raises InputError if a folder cannot be made or written to. Writes nothing."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {folder}: {there} is {'read-only' if there.is_dir() else 'no folder'}")


def list_images(folder: str | Path, below: bool = False) -> list[Path]:
    """The images directly in a folder, or `below` it at any depth, sorted by name, without hidden ones.

    Raises InputError if there are none.
    """
    root = existing(folder)
    places = with_subfolders(root) if below else [root]
    paths = sorted(path for place in places for path in place.iterdir() if is_image(path))
    if not paths:
        raise InputError(f"{root}: no images in it ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return paths


def existing(folder: str | Path) -> Path:
    """The folder. Raises InputError if it does not exist."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder")
    return Path(folder)


def with_subfolders(root: Path) -> Iterator[Path]:
    """A folder and its subfolders at any depth, without hidden ones; each once, even if several links lead to it.

    Raises InputError for one that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: {error.strerror}")

    seen = set()
    for place, folders, _ in os.walk(root, onerror=refuse, followlinks=True):
        target = os.path.realpath(place)
        folders[:] = [] if target in seen else sorted(name for name in folders if not name.startswith("."))
        if target not in seen:
            seen.add(target)
            yield Path(place)


def check_separate(folders: Sequence[str]) -> None:
    """Raises InputError if a folder is named twice, or lies in another one, so that its images would count twice."""
    for one, other in permutations(folders, 2):
        if Path(one).resolve() == Path(other).resolve():
            raise InputError(f"{other}: named twice; name every folder once")
        if Path(other).resolve().is_relative_to(Path(one).resolve()):
            raise InputError(
                f"{other}: lies in {one}, which is searched with its subfolders; name only one, or move it out of there"
            )


def data_name(folder: str | Path) -> str:
    """The data set whose images a folder holds: its own name, but Test2K for Test2K/HR and Test2K/LR/x4."""
    path = Path(os.path.normpath(folder))
    names = [place.name for place in (path, *path.parents) if place.name not in ("", "..")]
    return next((name for name in names if not PART_OF_SET.fullmatch(name)), Path(folder).resolve().name)


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its name. Hidden files are not: some systems leave one beside each image.

    A link that leads nowhere is one, so that a missing image is noticed when it is read.
    """
    is_file = path.is_file() or (path.is_symlink() and not path.exists())
    return is_file and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def caseless(name: str) -> str:
    """The name with case and accents unified: equal for names that some file systems treat as the same name."""
    return unicodedata.normalize("NFC", name).casefold()
