"""Two evaluations of the same images: by how much their PSNR differs, and how sure that is."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap

from evaluation.tables import Column, format_columns
from utils.errors import InputError

IMAGE = ["dataset", "image", "scale"]  # what rows of two files are matched by
NAMES = {"dataset": str, "image": str, "setting": str}  # never numbers, not even 0801
FEW = 3  # names in a message
CONFIDENCE = 0.95
RESAMPLES = 9999
TITLES = {
    "setting_a": Column("a"),
    "setting_b": Column("b"),
    "psnr_a": Column("a dB", "{:.3f}"),
    "psnr_b": Column("b dB", "{:.3f}"),
    "difference": Column("a - b dB", "{:+.4f}"),
    "bounds": Column("95 % interval"),
    "better": Column("a better in"),
}
SHOWN = ["dataset", "scale", "setting_a", "setting_b", "images"]
SHOWN += ["psnr_a", "psnr_b", "difference", "bounds", "better"]


class Evaluation(NamedTuple):
    """An images.csv: IMAGE, setting and psnr, a row per image and setting."""

    path: Path
    rows: pd.DataFrame

    def settings(self) -> list[str]:
        return list(dict.fromkeys(self.rows["setting"]))

    def chosen(self, asked: str | None, name: str) -> str:
        """The setting asked for by the argument `name`, or the only one. Raises InputError if it is not there."""
        there = self.settings()
        if asked is None and len(there) > 1:
            raise InputError(f"{self.path}: has several settings; give {name}, one of: {' '.join(there)}")
        if asked not in (None, *there):
            raise InputError(f"{name} {asked}: {self.path} has: {' '.join(there)}")
        return asked or there[0]

    def psnr(self, setting: str) -> pd.DataFrame:
        """IMAGE and psnr under one setting."""
        return self.rows[self.rows["setting"] == setting].drop(columns="setting")


def read_table(path: Path) -> pd.DataFrame:
    """An images.csv, all of it. Raises InputError if it is missing or no such table, or if a PSNR is not finite."""
    try:
        table = pd.read_csv(path, dtype=NAMES, keep_default_na=False)  # an image may be called NA
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # which the parser's errors are
        raise InputError(f"{path}: not a readable CSV file ({error})") from None
    if absent := [name for name in [*IMAGE, "setting", "psnr"] if name not in table]:
        raise InputError(f"{path}: no column {', '.join(absent)}; give the images.csv that an evaluation wrote")
    for name in table.columns.difference(list(NAMES)):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    if table.empty:
        raise InputError(f"{path}: has no rows")
    if unusable := named(table, ~table[["scale", "psnr"]].abs().lt(math.inf).all(axis=1)):
        raise InputError(f"{path}: no finite PSNR of {unusable}")
    if doubled := named(table, table.duplicated([*IMAGE, "setting"])):
        raise InputError(f"{path}: more than one row of the same setting for {doubled}")
    return table


def read_images(path: Path) -> Evaluation:
    """What of an images.csv is compared. Raises InputError as read_table does."""
    return Evaluation(path, read_table(path)[[*IMAGE, "setting", "psnr"]])


def psnr_differences(a: Evaluation, b: Evaluation, setting_a: str, setting_b: str) -> pd.DataFrame:
    """A row per image: IMAGE, setting_a, setting_b, psnr_a, psnr_b, and difference, psnr_a - psnr_b, in dB.

    Raises InputError, naming them, for images that only one of the two has.
    """
    one, two = a.psnr(setting_a), b.psnr(setting_b)
    merged = one.merge(two, on=IMAGE, how="outer", suffixes=("_a", "_b"), indicator=True)
    for side, path, other in (("left_only", b.path, a.path), ("right_only", a.path, b.path)):
        if missing := named(merged, merged["_merge"] == side):
            raise InputError(f"{path}: lacks {missing}, which {other} has; compare evaluations of the same images")
    merged = merged.drop(columns="_merge")
    merged.insert(3, "setting_a", setting_a)
    merged.insert(4, "setting_b", setting_b)
    return merged.assign(difference=merged["psnr_a"] - merged["psnr_b"])


def named(table: pd.DataFrame, chosen: "pd.Series[bool]") -> str:
    """A few of the chosen images, and how many there are; nothing if there are none."""
    rows = table[chosen]
    names = [f"{row.dataset}/{row.image} x{row.scale:g}" for row in rows.head(FEW).itertuples()]
    more = [f"{len(rows) - FEW} more"] if len(rows) > FEW else []
    return ", ".join([*names, *more])


def interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of (n,) values by the bootstrap (bias-corrected, accelerated); nan of a single one."""
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:  # nothing to resample
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(found.low), float(found.high)


def summarise_differences(images: pd.DataFrame) -> pd.DataFrame:
    """Means of what `compare` found, per dataset, scale and pair of settings.

    `low` and `high` bound the mean difference, `better` counts the images on which a has the higher PSNR.
    """
    groups = images.groupby(["dataset", "scale", "setting_a", "setting_b"], sort=False)
    summary = groups[["psnr_a", "psnr_b", "difference"]].mean().reset_index()
    summary.insert(4, "images", groups.size().to_numpy())
    intervals = [interval(group.to_numpy()) for _, group in groups["difference"]]
    summary[["low", "high"]] = intervals
    return summary.assign(better=[int((group > 0).sum()) for _, group in groups["difference"]])


def format_comparison(summary: pd.DataFrame) -> str:
    """The summary with units, for a terminal."""
    bounds = [
        math.nan if math.isnan(low) else f"{low:+.4f} .. {high:+.4f}"
        for low, high in zip(summary["low"], summary["high"], strict=True)
    ]
    return format_columns(summary.assign(bounds=bounds), SHOWN, TITLES)


def compare(a: Path, b: Path, setting_a: str | None = None, setting_b: str | None = None) -> pd.DataFrame:
    """The per-image differences of two evaluations' images.csv: under the settings named or the only ones there are,
    or, if none is named and both files have the same, under each.

    Raises InputError for files that cannot be compared, and if it is not clear which settings are meant.
    """
    one, two = read_images(a), read_images(b)
    if setting_a is None and setting_b is None and sorted(one.settings()) == sorted(two.settings()):
        pairs = [(setting, setting) for setting in one.settings()]
    else:
        pairs = [(one.chosen(setting_a, "setting_a"), two.chosen(setting_b, "setting_b"))]
    return pd.concat([psnr_differences(one, two, *pair) for pair in pairs], ignore_index=True)
