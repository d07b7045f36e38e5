"""A training that ends after some minutes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from tests.conftest import Cli
from training.log import Log

BEGIN = ["train.py", "--config", "configs/fsrcnn-x4.yaml", "--name", "run"]
SMALL = ["patch_size=8", "batch_size=4", "data.train=train", "val=val", "log_every=1", "val_every=2", "save_every=2"]


def test_a_run_ends_with_its_time(cli: Cli, folders: Path) -> None:
    limits = ["iter_max=100000", "time_limit=0.02", "schedule=stable", "val_every=100000"]
    ran = cli(*BEGIN, "--set", *SMALL, *limits)
    assert ran.code == 0, ran.err
    done = int(max((folders / "save/run/state").glob("*.pth")).stem)
    assert 0 < done < 100_000
    assert pd.read_csv(folders / "save/run/metrics.csv")["iteration"].tolist() == [done]
    more = cli(*BEGIN, "--resume", "--set", *SMALL, *limits)
    assert more.code == 0 and int(max((folders / "save/run/state").glob("*.pth")).stem) == done  # nothing is left to do


def test_validations_take_nothing_of_the_time(cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten iterations of a second each, and validations of a minute: the learning rate still reaches its minimum."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("training.loop.time", SimpleNamespace(monotonic=lambda: clock.now))
    advance, validation = Log.advance, Log.validation

    def slow_advance(self: Log) -> None:
        clock.now += 1
        advance(self)

    def slow_validation(self: Log, *args: Any) -> None:
        clock.now += 60
        validation(self, *args)

    monkeypatch.setattr(Log, "advance", slow_advance)
    monkeypatch.setattr(Log, "validation", slow_validation)
    limits = ["iter_max=100", f"time_limit={10 / 60}", "schedule=stable", "anneal=1", "val_every=3"]
    ran = cli(*BEGIN, "--set", *SMALL, *limits)
    assert ran.code == 0, ran.err
    assert pd.read_csv(folders / "save/run/metrics.csv")["iteration"].tolist() == [3, 6, 9, 10]
    records = [json.loads(line) for line in (folders / "save/run/metrics.jsonl").read_text().splitlines()]
    rates = [record["train/learning_rate"] for record in records if "train/learning_rate" in record]
    assert rates == pytest.approx([rates[0] * (1 - done / 10) for done in range(10)], rel=1e-3)
