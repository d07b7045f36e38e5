"""Tests and measures everything on a GPU, in one command that takes less than a quarter of an hour.

python benchmarks/gpu.py                                      or: make gpu; writes results/gpu/gpu.json and gpu.log
python benchmarks/gpu.py --minutes 9 --pack pack.npz --train_minutes 5       and trains, see datasets/scripts/pack.py
python benchmarks/gpu.py --device cpu --minutes 2             rehearses it with tiny images, on any machine

It runs the tests marked gpu, then times the restoring of images and the iterations of training, the most important
first. Each job is a process of its own, which may fail or be stopped without harm to the others; what is measured so
far is in the JSON file at any time.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in its folder

import pandas as pd
import torch

from benchmarks import gpu_inference, gpu_training
from benchmarks.common import benchmark_parser
from benchmarks.gpu_inference import Measured
from models.build import BACKBONES
from utils.cli import count, run
from utils.device import pick_device
from utils.errors import InputError, StoppedError
from utils.files import list_images, write_atomic

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("models/fast/test_gpu.py", *(f"gpu/test_{name}.py" for name in ("models", "inference", "training")))
REHEARSED = "fsrcnn"  # on a CPU, only the tests of this model are run
WRITING = 15.0  # seconds that pytest may take to write its report
START = 20.0  # seconds that a job needs to begin; if fewer are left, it is left out
TRAIN_START = 75.0  # seconds that a training takes besides its minutes: unpacking, validations, writing
# seconds after which a job of each kind is stopped, as it may hang
MOST = {"machine": 90.0, "tests": 150.0, "inference": 150.0, "training": 120.0}
COMPILED = 1.2  # compiling must make a training this many times as fast, because it takes long to start
RESULT, LOG, ROWS = "gpu.json", "gpu.log", "rows.jsonl"  # ROWS: those of the job that is running
Job = dict[str, Any]  # the kind of job, and options of that kind


def plan(args: argparse.Namespace) -> list[Job]:
    """All jobs, the most important first."""
    own, sizes = args.train_backbone, list(gpu_inference.SIZES)
    others = [name for name in BACKBONES if name != own]
    images = None if args.images is None else str(args.images.resolve())
    jobs: list[Job] = [
        {"kind": "machine"},
        {"kind": "tests"},
        {"kind": "inference", "backbone": "carn", "outputs": sizes[:1], "images": images},
        {"kind": "training", "backbone": own},
    ]
    if args.pack is not None:
        job = {"kind": "train", "backbone": own, "minutes": args.train_minutes, "pack": str(args.pack.resolve())}
        started = time.strftime("%Y%m%d-%H%M%S")
        jobs.append({**job, "batch_size": args.batch_size, "settings": args.train_set, "run": f"gpu-{own}-{started}"})
    jobs.append({"kind": "inference", "backbone": "carn", "outputs": sizes[1:], "images": images})
    for name in others:
        jobs.append({"kind": "training", "backbone": name})
        if name != "carn":
            jobs.append({"kind": "inference", "backbone": name, "outputs": sizes, "images": images})
    if own != "carn":
        jobs.append({"kind": "inference", "backbone": own, "outputs": sizes, "images": images})
    return jobs


def limit(job: Job, left: float, reserved: float) -> float:
    """The seconds that a job may take, of those that are left; some are reserved for a training."""
    if job["kind"] == "train":
        return min(left, 60 * job["minutes"] + 2 * TRAIN_START)
    return min(MOST[job["kind"]], left - reserved)


def flags_of(rows: list[Measured], backbone: str) -> list[str]:
    """The options of train_pcsr.py that were fastest in phase 0; --amp if nothing was measured."""
    speed = {
        row["way"]: row["it_per_s"] / (COMPILED if "compiled" in row["way"] else 1)
        for row in rows
        if row.get("backbone") == backbone and row.get("job") == "phase 0" and "it_per_s" in row
    }
    way = max(speed, key=lambda name: speed[name], default="bfloat16")
    return [flag for flag, word in (("--amp", "bfloat16"), ("--compile", "compiled")) if word in way]


def machine(device: torch.device) -> Iterator[Measured]:
    """The machine, and the highest rates that its device reaches."""
    found: Measured = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
        found |= {"processors": properties.multi_processor_count, "cudnn": torch.backends.cudnn.version()}
    yield found
    yield from gpu_inference.machine_rates(device)


def tests(out: Path, device: torch.device, seconds: float) -> Iterator[Measured]:
    """Run every test marked gpu, all files at the same time, as most of it is compiling; a few in a rehearsal."""
    environment, options = dict(os.environ), ["-m", "gpu", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
    if device.type != "cuda":
        environment["PCSR_TEST_DEVICE"] = device.type
        options += ["-k", REHEARSED]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and so would pytest
    end, running = time.monotonic() + seconds - WRITING - START, []
    for number, name in enumerate(TESTS if device.type == "cuda" else TESTS[1:2]):
        command = [sys.executable, "-m", "pytest", f"tests/{name}", *options, f"--junitxml={out}/tests-{number}.xml"]
        log = (out / f"tests-{number}.log").open("w+")
        running.append(
            (number, name, log, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        )
    for number, name, log, child in running:
        interrupted = False
        try:
            child.wait(max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            interrupted = True
            child.send_signal(signal.SIGINT)  # pytest still writes its report
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(WRITING / len(TESTS))
            child.kill()  # unless it has ended
            child.wait()
        log.seek(0)
        print(log.read(), flush=True)
        log.close()
        report = out / f"tests-{number}.xml"
        for case in ET.parse(report).iter("testcase") if report.exists() else ():
            if case.get("name") is None:  # the test that was interrupted
                continue
            problem = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
            row = {"test": f"{case.get('classname')}::{case.get('name')}", "seconds": float(case.get("time", 0))}
            row["outcome"] = "passed" if problem is None else problem.tag
            yield row if problem is None else {**row, "message": problem.get("message", "")[:1000]}
        if interrupted:
            yield {"test": name, "outcome": "interrupted"}
        for file in (report, out / f"tests-{number}.log"):
            file.unlink(missing_ok=True)


def work(job: Job, out: Path, device: torch.device) -> Iterator[Measured]:
    """The rows of one job, in its own process."""
    if job["kind"] == "machine":
        yield from machine(device)
    elif job["kind"] == "tests":
        yield from tests(out, device, job["seconds"])
    elif job["kind"] == "inference":
        folder = None if job["images"] is None else Path(job["images"])
        for compiled in (False, True) if device.type == "cuda" else (False,):  # compiled last, as that takes a minute
            for output in job["outputs"]:
                yield from gpu_inference.inference(job["backbone"], output, folder, device, compiled)
    elif job["kind"] == "training":
        yield from gpu_training.training(job["backbone"], device)
    else:
        yield from gpu_training.train_run(job, out, device)


def write_rows(job: Job, out: Path, device: torch.device) -> None:
    """Do a job; each row is written to the file at once."""
    with (out / ROWS).open("w") as file:
        for row in work(job, out, device):
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
            file.write(json.dumps(finite) + "\n")
            file.flush()


def start(job: Job, out: Path, device: torch.device, seconds: float) -> Measured:
    """Do a job in a process of its own, for at most `seconds`, and return its status and rows."""
    rows = out / ROWS
    command = [sys.executable, __file__, "--device", device.type, "--out", str(out), "--job"]
    command.append(json.dumps({**job, "seconds": seconds}))
    began = time.monotonic()
    with (out / LOG).open("a") as log:
        log.write(f"\n=== {json.dumps(job)}\n")
        log.flush()
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            code = child.wait(seconds)
            status = "done" if code == 0 else f"failed with code {code}, see {LOG}"
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            status = f"stopped after {seconds:.0f} seconds"
        except BaseException:  # a job has a process group of its own, which Ctrl-C does not reach
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    rows.unlink(missing_ok=True)
    return {**job, "status": status, "took_seconds": round(time.monotonic() - began, 1), "rows": found}


def describe(result: Measured) -> str:
    """A line about a job, and its most important numbers."""
    named = " ".join(str(result[key]) for key in ("kind", "backbone", "outputs") if key in result)
    text = f"{named}: {result['status']}, {result.get('took_seconds', 0):.0f} s"
    table = pd.DataFrame(result.get("rows", []))
    if "outcome" in table:
        counts = table["outcome"].value_counts()
        text += "".join(f", {number} {outcome}" for outcome, number in counts.items())
        table = table[table["outcome"].isin(["failure", "error", "interrupted"])].head(20)
    wanted = ["test", "output", "name", "job", "way", "precision", "step", "seconds", "psnr", "peak_mb", "it_per_s"]
    shown = [name for name in [*wanted, "floor_seconds", "rate", "error"] if name in table]
    return (
        f"{text}\n{table[shown].to_string(index=False, na_rep='', max_colwidth=70)}" if len(table) and shown else text
    )


def run_all(args: argparse.Namespace, device: torch.device) -> None:
    end = time.monotonic() + 60 * args.minutes
    out = args.out.resolve()
    if taken := [name for name in (RESULT, LOG, ROWS) if (out / name).exists()]:
        raise InputError(f"--out {out}: holds {taken[0]} of an earlier measurement; move it, or give another folder")
    out.mkdir(parents=True, exist_ok=True)
    results: list[Measured] = []
    jobs = plan(args)
    for index, job in enumerate(jobs):
        training = any(later["kind"] == "train" for later in jobs[index + 1 :])
        reserved = 60 * args.train_minutes + TRAIN_START if training else 0.0
        seconds = limit(job, end - time.monotonic(), reserved)
        rows = [row for result in results for row in result["rows"]]
        given = {**job, "flags": flags_of(rows, job["backbone"])} if job["kind"] == "train" else job
        if seconds < START:
            results.append({**given, "status": "left out, no time", "rows": []})
        else:
            results.append(start(given, out, device, seconds))
        content = {"device": device.type, "minutes": args.minutes, "jobs": results}
        write_atomic(out / RESULT, json.dumps(content, indent=1).encode())
        line = describe(results[-1])
        print(line, flush=True)
        with (out / LOG).open("a") as log:
            log.write(line + "\n")


def stop(number: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM: an exception, so that the job that is running is ended too."""
    raise StoppedError(f"stopped by {signal.Signals(number).name}; {RESULT} holds what was measured before", number)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="minutes for everything (default: 9)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results/gpu", help="folder of results (default: results/gpu)"
    )
    parser.add_argument(
        "--images", type=Path, help="folder of HR images (default: pictures that ship with scikit-image)"
    )
    parser.add_argument("--pack", type=Path, help="training crops that datasets/scripts/pack.py has packed")
    parser.add_argument("--train_minutes", type=float, default=4.0, help="minutes for --pack (default: 4)")
    parser.add_argument("--train_backbone", default="srresnet", choices=BACKBONES, help="default: srresnet")
    parser.add_argument(
        "--train_set", nargs="+", default=[], metavar="KEY=VALUE", help="other config keys of the training"
    )
    parser.add_argument("--batch_size", type=count, default=32, help="batch size of the training (default: 32)")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pack is not None and not args.pack.is_file():
        raise InputError(f"--pack {args.pack}: no such file; datasets/scripts/pack.py makes one")
    if args.pack is not None and 60 * args.train_minutes + TRAIN_START > 60 * args.minutes:
        needed = args.train_minutes + TRAIN_START / 60
        raise InputError(f"--train_minutes {args.train_minutes:g}: needs --minutes {needed:g} or more")
    if args.images is not None:
        list_images(args.images)  # raises, and not in each job
    device = pick_device(args.device)
    if device.type != "cuda" and args.device != "cpu":
        raise InputError("no CUDA device here; --device cpu --minutes 2 rehearses")
    if args.job is not None:
        write_rows(args.job, args.out, device)
    else:
        signal.signal(signal.SIGTERM, stop)
        run_all(args, device)


if __name__ == "__main__":
    run(main)
