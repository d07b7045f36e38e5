"""Odd command lines: done, or refused with exit code 2 and one line; what was there before is as it was."""

import contextlib
import functools
import io
import os
import random
import runpy
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from tests.conftest import ROOT, TINY_ORIGINAL, TINY_PCSR, make_folder, save_tiny
from tests.fuzz.mutate import listed

NUMBERS = ["9" * 20, "9" * 5000, *listed("0 -1 1 3 0.5 nan inf -inf 1e400 1e30 -1e-30 1e5 1_0")]
WORDS = ["", " ", "\udcff", "a\nb", "\x1b[31m", "\u00e9\U0001f4a5", *listed("abc x=1 - -- -x --k @hr [ auto cuda")]
PLACES = [
    "a" * 300,
    "b/" * 3000,
    "hr",
    "hr/",
    "hr/img_0.png",
    "hr/*.png",
    *listed("lr empty none none/deeper odd . .. /"),
]
PLACES += listed("save save/tiny save/tiny-original save/tiny/model.safetensors save/tiny/config.yaml text loop pipe")
PLACES += listed("bad.png empty.png bad.safetensors bad.pth bad.yaml deep.yaml good.yaml phase0.yaml out.onnx")
PLACES += listed("/dev/null /dev/zero /dev/full /proc/1/x /proc/self/mem /proc/x/y")
BELOW = [place for place in PLACES if place not in ("/", "..")]  # those whose subfolders can be looked through
SETTINGS = [
    *("", "a", "=", "\udcff=1", "betas=[1,2]", "train=[]", "iter_max=[[[[", "upsamplers=[[1000000000]]", "init=\udcff"),
    *("iter_max=0", f"iter_max={'9' * 30}", "width=1000000000", f"width={'9' * 17}", "patch_size=100000000"),
    *("batch_size=0", "batch_size=1000000000", "data.train=none", "val=bad.png", "init=bad.pth", "data.val=\udcff"),
    *("learning_rate=1e300", "data.scale=1e9", "scale=99999999999", "backbone=os:system", "backbone=none", "kind=x"),
    *("model=1", "options.x=1", "options=1", "cache_dir=/dev/null", "accumulation=99", "loss=mse", "phase=1"),
    *(f"{key}={2**63 - 1}" for key in ("seed", "warmup", "log_every", "pixels_per_patch")),
    *(f"seed={10**19}", "pixels_per_patch=99999999999", "pixels_per_patch=1"),
]

PICTURES = {
    "--img_path": PLACES,
    "--out_dir": PLACES,
    "--format": ["png", "jpg", "tif", "webp", *WORDS],
    "--suffix": WORDS + PLACES,
}
WRITING = {"--scale": NUMBERS, "--quality": NUMBERS, "--overwrite": None, "--assignment": None}
COMMON = {"--model": PLACES, "--config": PLACES, "--tile_size": NUMBERS, "--json": None, "--device": [*WORDS, "cpu"]}
DECISIONS = {"--k": NUMBERS + WORDS, "--budget": NUMBERS, "--adaptive": None, "--no_refinement": None}
DECISIONS |= {"--skip_flat": NUMBERS + WORDS}
EVALUATION = {"--hr_data": PLACES, "--lr_data": PLACES, "--scale": NUMBERS, "--float_lr": None, "--per_image": None}
EVALUATION |= {
    "--crop": None,
    "--patch_size": NUMBERS,
    "--step": NUMBERS,
    "--psnr_type": ["y", *WORDS],
    "--out_dir": PLACES,
}
EVALUATION |= {"--save_images": None}
TRAINING = {"--config": PLACES, "--name": PLACES + WORDS, "--resume": None, "--describe": None, "--amp": None}
TRAINING |= {"--set": SETTINGS, "--device": WORDS}
HOSTS = {"--host": [*WORDS, "a" * 300, *listed("999.9.9.9 ::1 localhost 127.0.0.1")]}
FOLDERS = {"--input": PLACES, "--output": PLACES, "--workers": ["0", "-1", "abc", "1e30", "nan", ""]}
# each script: what it is given when all is well, and its options with the values that may come instead
SCRIPTS: dict[str, tuple[list[str], dict[str, list[str] | None]]] = {
    "demo.py": (
        ["--model", "save/tiny", "--img_path", "hr/img_0.png"],
        {**PICTURES, **COMMON, **DECISIONS, "--upscale": None, "--scale": NUMBERS, "--opacity": NUMBERS},
    ),
    "demo.py --upscale": (
        ["--model", "save/tiny", "--upscale", "hr/img_0.png"],
        {**PICTURES, "--accept_damaged": None, **COMMON, **DECISIONS, **WRITING},
    ),
    "test.py": (
        ["--model", "save/tiny-original", "--hr_data", "hr", "--per_image"],
        {**EVALUATION, **COMMON, "--bicubic": None},
    ),
    "test_pcsr.py": (["--model", "save/tiny", "--hr_data", "hr", "--per_image"], {**EVALUATION, **COMMON, **DECISIONS}),
    "train.py": (["--config", "good.yaml", "--set", "iter_max=1"], TRAINING),
    "train_pcsr.py": (["--config", "phase0.yaml", "--set", "iter_max=1"], TRAINING),
    "export.py": (
        ["--model", "save/tiny", "--onnx", "made.onnx"],
        {"--model": PLACES, "--onnx": PLACES, "--scale": NUMBERS, "--no_refinement": None, "--licence": WORDS},
    ),
    "app.py": (
        ["--port", "17861"],
        {**HOSTS, "--port": NUMBERS, "--max_pixels": NUMBERS, "--max_mb": NUMBERS, "--device": WORDS},
    ),
    "dist.sh": (
        ["train.py", "--cpu", "1"],
        {"--gpu": WORDS + NUMBERS, "--cpu": NUMBERS + WORDS, "--max_restarts": NUMBERS, "--config": PLACES},
    ),
    "datasets/scripts/data_augmentation.py": (
        ["--input", "hr", "--output", "made", "--workers", "1"],
        {**FOLDERS, "--scales": NUMBERS, "--min_size": NUMBERS},
    ),
    "datasets/scripts/extract_subimages.py": (
        ["--input", "hr", "--output", "made", "--workers", "1", "--size", "8"],
        {**FOLDERS, "--size": NUMBERS, "--step": NUMBERS, "--remainder": NUMBERS},
    ),
    "datasets/scripts/pack.py": (
        ["--input", "hr", "--output", "made.npz", "--size", "8"],
        {"--input": BELOW, "--output": PLACES, "--size": NUMBERS, "--count": NUMBERS, "--seed": NUMBERS},
    ),
    "datasets/scripts/generate_mod_LR_bic.py": (
        ["--input", "hr", "--output", "made", "--workers", "1"],
        {**FOLDERS, "--mod_output": PLACES, "--scale": NUMBERS, "--matlab_uint8": None},
    ),
}
TRAIN_YAML = """model: {{kind: {kind}, backbone: fsrcnn, width: 6{model}}}
data: {{train: hr, val: held, scale: 4, patch_size: 4, batch_size: 2}}
train: {{iter_max: 1, learning_rate: 1.0e-3{train}}}
"""


def odd_command(number: int) -> tuple[str, list[str]]:
    """A script, and its arguments: what works, with one to three changes."""
    rng = random.Random(number)
    script = rng.choice(sorted(SCRIPTS))
    options, words = SCRIPTS[script][1], [*SCRIPTS[script][0]]
    for _ in range(rng.choice((1, 1, 2, 3))):
        change, option = rng.randrange(8), rng.choice(sorted(options))
        values = options[option] or [""]
        value = rng.choice(values) if rng.random() < 0.9 else rng.choice(NUMBERS + WORDS + PLACES)
        if change <= 3:
            if option in words:
                place = words.index(option)
                del words[place : place + 2]
            words += [option] if options[option] is None else [option, value]
        elif change == 4 and words:
            del words[rng.randrange(len(words))]
        elif change == 5:
            words.insert(rng.randrange(len(words) + 1), rng.choice(NUMBERS + WORDS + PLACES))
        elif change == 6:
            words += [option[: rng.randrange(3, 9)], value]
        else:
            words += [f"{option}={value}"]
    return script.partition(" ")[0], words


@functools.cache
def template() -> Path:
    folder = Path(tempfile.mkdtemp())
    make_folder(folder / "hr", [(24, 32), (20, 16)])
    make_folder(folder / "lr", [(6, 8), (5, 4)])
    save_tiny(folder / "save/tiny", TINY_PCSR)
    save_tiny(folder / "save/tiny-original", TINY_ORIGINAL)
    for name, content in {
        "bad.png": b"\x89PNG\r\n\x1a\nbad",
        "empty.png": b"",
        "bad.safetensors": (folder / "save/tiny/model.safetensors").read_bytes()[:500],
        "bad.pth": b"PK\3\4bad",
        "bad.yaml": b"model: [\xff",
        "deep.yaml": b"[" * 2000,
        "text": b"hello\n",
        "out.onnx": b"another's",
    }.items():
        (folder / name).write_bytes(content)
    (folder / "good.yaml").write_text(TRAIN_YAML.format(kind="original", model=", scale: 4", train=""))
    model = ", upsamplers: [[8]], classifier: null"
    (folder / "phase0.yaml").write_text(TRAIN_YAML.format(kind="pcsr", model=model, train=", phase: 0"))
    (folder / "empty").mkdir()
    make_folder(folder / "held", [(24, 24)])
    make_folder(folder / "odd", [(8, 8)])
    (folder / "odd/img_0.png").rename(folder / "odd/\udcff\udcfe.png")  # bytes that no UTF-8 has
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_command(script: str, words: list[str]) -> tuple[int, str]:
    """Its exit code, and what it says on stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=e) for e in ("strict", "backslashreplace"))
    with contextlib.ExitStack() as patches:
        for each in (
            mock.patch("sys.argv", [script, *words]),
            mock.patch("sys.stdout", out),
            mock.patch("sys.stderr", err),
            mock.patch.dict(os.environ),
            mock.patch("torch.distributed.run.main", lambda _: None),
            mock.patch("threading.excepthook", lambda _: None),
        ):
            patches.enter_context(each)
        if script == "app.py":
            patches.enter_context(mock.patch("web.page.until_interrupted"))
        try:
            if script == "dist.sh":
                runpy.run_module("utils.dist", run_name="__main__")
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    err.flush()
    return code, err.buffer.getvalue().decode(errors="replace")


def case(number: int) -> None:
    script, words = odd_command(number)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "f"
        shutil.copytree(template(), folder, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
        os.mkfifo(folder / "pipe")
        os.chdir(folder)
        try:
            before = contents(folder)
            code, told = run_command(script, words)
            after = contents(folder)
            assert code in (0, 2), f"exit code {code}: {told}"
            lines = told.replace("\r", "\n").strip().splitlines()
            last = lines[-1:] if code == 2 else []
            assert all(line.startswith("error: ") and len(line) < 1600 for line in last), told
            assert code != 2 or last, "exit code 2 without a word"
            assert "Traceback" not in told, told
            changed = [path for path in before if after.get(path) != before[path]]
            assert not changed, f"changed: {changed}"
        except BaseException as error:
            error.add_note(f"{script} {[word[:60] for word in words]}")
            raise
        finally:
            os.chdir(here)
