"""Compiles the C++ kernels for CPUs, the .cpp files in this folder, on first use, and keeps them in the user's cache.

The environment variables CXX and CXXFLAGS choose another compiler and add to its flags. Where the kernels cannot be
compiled, plain torch does the work.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from utils.cli import tell

KERNELS = ("mlp.cpp", "pixels.cpp", "winograd.cpp", "linear.cpp", "unit.cpp", "pixel_errors.cpp", "gate.cpp")
HEADERS = (
    *("registers.h", "products.h", "gate.h", "mlp_layers.h", "linear_rows.h"),
    *("winograd_lines.h", "winograd_tiles.h", "winograd_products.h"),
)
# read at import time: if the files change during a long run, the sources must still match the ctypes structs in memory
SOURCES = {name: Path(__file__).with_name(name).read_text() for name in (*KERNELS, *HEADERS)}
# Apple's clang tunes for its processors anyway, and older ones know no -march=native
NATIVE = [] if platform.machine() == "arm64" else ["-march=native"]
FLAGS = ["-O3", *NATIVE, "-std=c++17", "-shared", "-fPIC", "-pthread"]


@functools.cache
def load_kernels() -> ctypes.CDLL | None:
    """The compiled kernels, built on first use within seconds. None, and a line on stderr, if that fails."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    try:
        if compiler is None:
            raise OSError("no C++ compiler found")
        return ctypes.CDLL(str(built(compiler)))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # RuntimeError: the user has no home folder
        told = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else ""
        reason = next((line for line in told.splitlines() if "error" in line), told.partition("\n")[0]) or error
        tell_plain(reason)
        return None


def tell_plain(reason: object) -> None:
    """A line on stderr."""
    tell(f"the kernels were not built, plain torch is used instead, which is slower: {reason}")


def needed_kernels() -> ctypes.CDLL:
    """The compiled kernels, for code that runs only where they could be built."""
    kernels = load_kernels()
    assert kernels is not None
    return kernels


def of_type(dtype: torch.dtype, name: str) -> Any:
    """The kernel of this name for numbers of this type."""
    return getattr(needed_kernels(), name if dtype == torch.float32 else f"{name}_half")


def has_half() -> bool:
    """Whether there are kernels for float16, which the compiler and the processor must support."""
    return hasattr(load_kernels(), "winograd_half")


def built(compiler: str) -> Path:
    """The path of the shared library for this source, compiler, flags and processor, in the user's cache.

    Its name ends in a digest of its content, because loading a truncated library would crash the process without an
    error message.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pcsr"
    try:  # the compiler may be two words, such as "ccache g++"
        program = [compiler] if shutil.which(compiler) else shlex.split(compiler)
        flags = [*shlex.split(os.environ.get("CXXFLAGS", "")), *FLAGS]  # conda sets -march=nocona; the last one counts
    except ValueError as error:  # a quotation mark is missing
        raise OSError(f"CXX or CXXFLAGS: {error}") from None
    identity = repr([*SOURCES.values(), *map(version, program), *flags, processor()]).encode()
    stem = f"kernels-{hashlib.sha256(identity).hexdigest()[:16]}"
    for path in cache.glob(f"{stem}-*.so"):
        if path.name == named_by_content(stem, path):
            return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:  # moved when complete: other processes may build too
        for name, text in SOURCES.items():
            (Path(scratch) / name).write_text(text)
        made = Path(scratch) / "made.so"
        command = [*program, *flags, "-o", made.name, *(name for name in SOURCES if name.endswith(".cpp"))]
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True, errors="replace")
        return made.replace(cache / named_by_content(stem, made))


def named_by_content(stem: str, library: Path) -> str:
    return f"{stem}-{hashlib.sha256(library.read_bytes()).hexdigest()[:16]}.so"


def version(word: str) -> tuple[str, ...]:
    """A word of the compiler's command; for a program also which file it is, because an upgrade may know more."""
    found = shutil.which(word)
    if found is None:
        return (word,)
    program = Path(found).resolve()
    return word, str(program), f"{program.stat().st_size} {program.stat().st_mtime_ns}"


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The features on which -march=native depends, because machines with different processors may share a cache."""
    lines = info.read_text().splitlines() if info.exists() else []
    features = {line for line in lines if line.startswith(("flags", "Features", "CPU part"))}  # of x86, and of ARM
    return "\n".join(sorted(features)) or platform.platform()
