"""Training on a GPU, for benchmarks/gpu.py: iterations per second of each method, and a training from packed crops."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.common import SCALE, timed
from benchmarks.gpu_inference import Measured, tf32
from benchmarks.training import JOBS, QUEUE, TrainingWay
from benchmarks.ways import MB
from datasets.pack import unpack
from models.checkpoint import SAVE, WEIGHTS
from training.command import check_pcsr, run_training, train_parser
from utils.decode import stored_size
from utils.encode import write_image
from utils.files import list_images
from utils.image import Array

# name, whether TF32 is allowed, how it is done
WAYS = [
    ("bfloat16", True, TrainingWay(amp=True)),
    ("tf32", True, TrainingWay()),
    ("float32", False, TrainingWay()),
    ("bfloat16 compiled", True, TrainingWay(amp=True, compile=True)),
    ("tf32 compiled", True, TrainingWay(compile=True)),
    ("float32 compiled", False, TrainingWay(compile=True)),
]
ON_CPU = [each for each in WAYS if each[0] in ("bfloat16", "float32")]  # TF32 is of GPUs, and compiling takes long
PIXELS = 4096  # per patch, over which the loss is taken
LARGEST = 16 << 20  # bytes: larger files of a run are not copied to the results
RECIPE = [
    "optimizer=muon", "loss=psnr", "learning_rate=2e-3", "learning_rate_min=1e-6", "ema_decay=0.999",
    "schedule=stable", "anneal=0.3", "log_every=200", "val_every=2000", "save_every=2000", "keep_checkpoints=1",
]  # fmt: skip
LIGHT = ["loss_l1_w=50", "learning_rate=3e-3", "ema_decay=0.99", "warmup=50"]  # phase 1 has these too
SHARE = 0.15  # share of the minutes for phase 1


def training(backbone: str, device: torch.device) -> Iterator[Measured]:
    """Iterations per second of phases 0 and 1 with each method; a failure gives a row with the reason."""
    cuda = device.type == "cuda"
    batch, patch, rounds, queue = (16, 32, 5, QUEUE) if cuda else (2, 16, 1, 1)
    lr, hr = (torch.rand(batch, 3, patch * n, patch * n, device=device) for n in (1, SCALE))
    for name, allowed, way in WAYS if cuda else ON_CPU:
        for job in ("phase 0", "phase 1"):
            row: Measured = {
                "backbone": backbone,
                "job": job,
                "way": name,
                "batch": batch,
                "patch": patch,
                "pixels": PIXELS,
            }
            try:
                if cuda:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats(device)
                with tf32(allowed):
                    step = way._replace(pixels_per_patch=PIXELS).step(f"configs/{backbone}-{JOBS[job][0]}.yaml", lr, hr)
                    timed(step, device)  # compiles
                    timed(step, device, queue)
                    seconds = [timed(step, device, queue) for _ in range(rounds)]
                row |= {"seconds": median(seconds), "fastest": min(seconds), "it_per_s": 1 / median(seconds)}
                row["peak_mb"] = torch.cuda.max_memory_allocated(device) / MB if cuda else None
            except Exception as error:  # one failure must not stop the others
                row["error"] = f"{type(error).__name__}: {error}"[:500]
            yield row


def recipe(options: dict[str, Any], folder: Path) -> tuple[list[str], list[str]]:
    """The overrides of phase 0 and phase 1 for a training from crops in a folder, starting from weights in save/."""
    shipped = SAVE / f"{options['backbone']}-pcsr-phase0"
    side = min(stored_size(list_images(folder / "train")[0]))
    places = [f"data.train={folder / 'train'}", f"data.val={folder / 'val'}"]
    sizes = [f"patch_size={side // SCALE}", f"batch_size={options['batch_size']}"]
    sizes.append(f"pixels_per_patch={min(16384, side**2)}")
    begin = [f"init={shipped}"] if (shipped / WEIGHTS).exists() else []
    common = [*RECIPE, *places, *sizes, *begin, *options["settings"]]
    minutes = options["minutes"]
    heavy = [*common, "warmup=100", f"time_limit={minutes * (1 - SHARE):.3f}"]
    light = [*common, *LIGHT, f"time_limit={minutes * SHARE:.3f}", f"init={SAVE / options['run']}-phase0"]
    return heavy, light


def train_run(options: dict[str, Any], out: Path, device: torch.device) -> Iterator[Measured]:
    """Phase 0, then phase 1, from a file of crops; weights, configs and a small state are copied to `out`."""
    with tempfile.TemporaryDirectory() as folder:
        yield from train_in(Path(folder), options, out, device)


def train_in(folder: Path, options: dict[str, Any], out: Path, device: torch.device) -> Iterator[Measured]:
    """The two phases, from crops written to `folder`."""
    crops = unpack(Path(options["pack"]))
    write_crops(crops.training, folder / "train")
    write_crops(crops.validation, folder / "val")
    for phase, settings in enumerate(recipe(options, folder)):
        name = f"{options['run']}-phase{phase}"
        words = ["--config", f"configs/{options['backbone']}-pcsr-phase{phase}.yaml", "--name", name]
        # compiling would take most of phase 1
        flags = [flag for flag in options["flags"] if phase == 0 or flag != "--compile"]
        words += ["--device", device.type, *flags, "--set", *settings]
        print("train_pcsr.py", *words, flush=True)
        with tf32("--amp" not in flags):  # it would make LR less exact
            run_training(train_parser("").parse_args(words), check_pcsr)
        run = SAVE / name
        state = sorted((run / "state").glob("*.pth"))[-1:]
        kept = []
        for path in (run / WEIGHTS, run / "config.yaml", *(state if phase == 0 else [])):
            if path.stat().st_size <= LARGEST:
                kept.append(f"{name}-{path.name}")
                shutil.copy(path, out / kept[-1])
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        validations = [{key: line[key] for key in line if key.startswith(("val/", "iter"))} for line in lines]
        validations = [line for line in validations if "val/psnr" in line]
        yield {
            "run": name,
            "command": words,
            "iterations": lines[-1]["iteration"],
            "validations": validations,
            "files": kept,
        }


def write_crops(crops: Array, folder: Path) -> None:
    """Write each crop as an image, so that trainings and evaluations can read the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, crop in enumerate(crops):
        write_image(folder / f"crop-{index:05d}.png", crop)
