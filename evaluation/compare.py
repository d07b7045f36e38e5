"""Two evaluations of the same images: by how much their PSNR differs, and how sure that is."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap

from utils.errors import InputError

IMAGE = ["dataset", "image", "scale"]  # what rows of two files are matched by
NAMES = {"dataset": str, "image": str, "setting": str}  # never numbers, not even 0801
SHOWN = 3  # names in a message
CONFIDENCE = 0.95
RESAMPLES = 9999


class Evaluation(NamedTuple):
    """An images.csv: IMAGE, setting and psnr, a row per image and setting."""

    path: Path
    rows: pd.DataFrame

    def settings(self) -> list[str]:
        return list(dict.fromkeys(self.rows["setting"]))


def read_images(path: Path) -> Evaluation:
    """Read an images.csv. Raises InputError if it is missing or no such table, or if a PSNR is not finite."""
    try:
        table = pd.read_csv(path, dtype=NAMES, keep_default_na=False)  # an image may be called NA
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # which the parser's errors are
        raise InputError(f"{path}: not a readable CSV file ({error})") from None
    columns = [*IMAGE, "setting", "psnr"]
    if absent := [name for name in columns if name not in table]:
        raise InputError(f"{path}: no column {', '.join(absent)}; give the images.csv that an evaluation wrote")
    table = table[columns].assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in ("scale", "psnr")})
    if table.empty:
        raise InputError(f"{path}: has no rows")
    if unusable := named(table, ~table[["scale", "psnr"]].abs().lt(math.inf).all(axis=1)):
        raise InputError(f"{path}: no finite PSNR of {unusable}")
    if doubled := named(table, table.duplicated([*IMAGE, "setting"])):
        raise InputError(f"{path}: more than one row of the same setting for {doubled}")
    return Evaluation(path, table)


def pairs_of_settings(
    a: Evaluation, b: Evaluation, setting_a: str | None = None, setting_b: str | None = None
) -> list[tuple[str, str]]:
    """What is compared with what: the settings named, or the only one there is, or every one with its like.

    Raises InputError if a setting is not there, or if it is not clear which is meant.
    """
    if setting_a is None and setting_b is None and sorted(a.settings()) == sorted(b.settings()):
        return [(setting, setting) for setting in a.settings()]
    chosen = []
    for option, asked, (path, _), settings in (
        ("--setting_a", setting_a, a, a.settings()),
        ("--setting_b", setting_b, b, b.settings()),
    ):
        if asked is None and len(settings) > 1:
            raise InputError(f"{path}: has several settings; say {option}, one of: {' '.join(settings)}")
        if asked is not None and asked not in settings:
            raise InputError(f"{option} {asked}: {path} has: {' '.join(settings)}")
        chosen.append(asked or settings[0])
    return [(chosen[0], chosen[1])]


def differences(a: Evaluation, b: Evaluation, setting_a: str, setting_b: str) -> pd.DataFrame:
    """A row per image: IMAGE, setting_a, setting_b, psnr_a, psnr_b, and difference, psnr_a - psnr_b, in dB.

    Raises InputError, naming them, for images that only one of the two has.
    """
    one, two = (
        evaluation.rows[evaluation.rows["setting"] == setting].drop(columns="setting")
        for evaluation, setting in ((a, setting_a), (b, setting_b))
    )
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
    names = [f"{row.dataset}/{row.image} x{row.scale:g}" for row in rows.head(SHOWN).itertuples()]
    more = [f"{len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
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
    shown = pd.DataFrame(
        {
            "dataset": summary["dataset"],
            "scale": summary["scale"].map("x{:g}".format),
            "a": summary["setting_a"],
            "b": summary["setting_b"],
            "images": summary["images"],
            "a dB": summary["psnr_a"].map("{:.3f}".format),
            "b dB": summary["psnr_b"].map("{:.3f}".format),
            "a - b dB": summary["difference"].map("{:+.4f}".format),
            "95 % interval": [
                "-" if math.isnan(low) else f"{low:+.4f} .. {high:+.4f}"
                for low, high in zip(summary["low"], summary["high"], strict=True)
            ],
            "a better in": summary["better"],
        }
    )
    return shown.to_string(index=False)


def compare(a: Path, b: Path, setting_a: str | None = None, setting_b: str | None = None) -> pd.DataFrame:
    """The per-image differences of two evaluations' images.csv, under every pair of settings.

    Raises InputError for files that cannot be compared.
    """
    one, two = read_images(a), read_images(b)
    chosen = pairs_of_settings(one, two, setting_a, setting_b)
    return pd.concat([differences(one, two, *pair) for pair in chosen], ignore_index=True)
