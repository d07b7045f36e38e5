"""The compiled library in the user's cache: built once, whole or not used, and done without where that cannot be."""

import ctypes
import functools
import resource
import shutil
import threading
from pathlib import Path

import pytest

from models.build import build_pcsr
from models.fast import build, engine
from models.fast.engine import Engine
from models.fast.plain import TorchRunner
from tests.conftest import TINY_PCSR

SOURCE = """
extern "C" int one() { return 1; }
#ifdef __AVX2__
extern "C" int native() { return 2; }
#else
extern "C" int native() { return 0; }
#endif
"""
needs_compiler = pytest.mark.skipif(build.load_kernels() is None, reason="no C++ compiler")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> str:
    """The compiler, which gets little to do here."""
    monkeypatch.setattr(build, "SOURCES", {"one.cpp": SOURCE})
    return next(name for name in ("g++", "clang++", "c++") if shutil.which(name))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pcsr"


def libraries(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir()]


@needs_compiler
def test_built_once_and_anew_if_damaged(compiler: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.built(compiler)
    made, whole = first.stat().st_mtime_ns, first.read_bytes()
    assert build.built(compiler) == first and first.stat().st_mtime_ns == made and libraries(cache) == [first.name]
    for damage in (b"", whole[:4096], whole[: len(whole) // 2], bytes(len(whole)), whole[:-9] + b"x" + whole[-8:]):
        first.unlink()  # a library that is in use must not be written to
        first.write_bytes(damage)
        again = build.built(compiler)
        assert build.named_by_content(first.name.rpartition("-")[0], again) == again.name
        assert ctypes.CDLL(str(again)).one() == 1
        for path in cache.iterdir():
            if path != first:
                path.unlink()  # where a compiler never makes the same twice
    monkeypatch.setattr(build, "processor", lambda: "another")
    assert build.built(compiler) != first


@needs_compiler
def test_flags_of_the_environment(
    compiler: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = build.built(compiler)
    monkeypatch.setenv("CXXFLAGS", "-Done=two '-DTHREE=3 + 4'")
    other = build.built(compiler)
    assert other != usual and ctypes.CDLL(str(other)).two() == 1
    monkeypatch.setenv("CXXFLAGS", "-march=nocona -O0 -Done=three")  # as conda sets them
    found = ctypes.CDLL(str(build.built(compiler)))
    assert found.three() == 1 and found.native() == ctypes.CDLL(str(usual)).native()
    monkeypatch.setenv("CXXFLAGS", "-fnonsense")
    assert "nonsense" in plain(capsys, monkeypatch)
    monkeypatch.setenv("CXXFLAGS", "'")
    assert "CXXFLAGS" in plain(capsys, monkeypatch)


@needs_compiler
def test_built_anew_by_another_version_of_the_compiler(compiler: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/cxx"
    program.write_text(f'#!/bin/sh\nexec {compiler} "$@"\n')
    program.chmod(0o755)
    first = build.built(str(program))
    assert build.built(str(program)) == first
    program.write_text(f'#!/bin/sh\n# version 2\nexec {compiler} "$@"\n')
    assert build.built(str(program)).name.split("-")[1] != first.name.split("-")[1]


def test_processors_of_other_kinds(tmp_path: Path) -> None:
    """ARM calls its flags otherwise, and the cores of one processor may differ."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\nprocessor\t: 1\nFeatures\t: fp sve\n")
    assert build.processor(info).splitlines() == ["CPU part\t: 0xd0c", "Features\t: fp asimd", "Features\t: fp sve"]
    assert build.processor(tmp_path / "none")


@needs_compiler
def test_two_first_runs_at_once(compiler: str, cache: Path) -> None:
    found: list[Path] = []
    runs = [threading.Thread(target=lambda: found.append(build.built(compiler))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(found) == 2 and all(path.is_file() for path in found)
    assert set(libraries(cache)) == {path.name for path in found}


def plain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said, once, where torch does the work."""
    monkeypatch.setattr(engine, "load_kernels", functools.cache(build.load_kernels.__wrapped__))  # as in a new process
    model = build_pcsr(TINY_PCSR).eval()
    assert [type(Engine(model).runners[0]) for _ in range(2)] == [TorchRunner] * 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "kernels were not built" in told
    return told


@pytest.mark.parametrize("compiler", ["/nowhere/g++", "false"])
def test_without_a_compiler_torch_does_it(
    compiler: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", compiler)
    plain(capsys, monkeypatch)


def test_without_a_place_to_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "file/pcsr" in plain(capsys, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/1")
    plain(capsys, monkeypatch)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 4711)  # no such user
    assert "home" in plain(capsys, monkeypatch)


@needs_compiler
def test_on_a_full_disk(
    compiler: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        plain(capsys, monkeypatch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert libraries(cache) == []
