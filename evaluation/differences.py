"""Two evaluations of the same images: by how much their PSNR and SSIM differ image by image, and how sure that is.

python -m evaluation.differences results/refined results/plain

To see any number of evaluations in one table and one plot, without differences, use evaluation.compare.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap, sem, t

from evaluation.record import in_words, incomparable, read_record
from evaluation.tables import Column, format_columns, table_json, write_csv
from utils.cli import Parser, run
from utils.errors import InputError, first_few
from utils.files import output_file

IMAGES = "images.csv"
KEY = ["dataset", "image", "scale"]  # columns by which rows of two files are matched
NAMES = {"dataset": str, "image": str, "setting": str}  # text, even if it looks like a number, such as 0801
FEW = 3  # names in a message
CONFIDENCE = 0.95
RESAMPLES = 9999  # the default of scipy
ENOUGH = 15  # images for the bootstrap, whose intervals of 5 hold the true mean 84 times in 100, of 14 93 times
PAIRS = ["dataset", "scale", "setting_a", "setting_b"]  # there is a mean for each combination of these


class Measure(NamedTuple):
    """A measure that is compared, and how it is printed."""

    name: str  # its column in images.csv
    prefix: str  # with which its columns in the comparison begin
    unit: str
    form: str
    change: str  # how a difference is printed


MEASURES = Measure("psnr", "", "dB", "{:.3f}", "{:+.4f}"), Measure("ssim", "ssim_", "SSIM", "{:.4f}", "{:+.5f}")


class Evaluation(NamedTuple):
    """An images.csv: KEY, setting, psnr and ssim, a row per image and setting."""

    path: Path
    rows: pd.DataFrame

    def settings(self) -> list[str]:
        return list(dict.fromkeys(self.rows["setting"]))

    def chosen(self, asked: str | None, name: str) -> str:
        """The setting that the argument `name` asks for, or the only one. Raises InputError if there is no such one."""
        there = self.settings()
        if asked is None and len(there) > 1:
            raise InputError(f"{self.path}: has several settings; give {name}, one of: {' '.join(there)}")
        if asked not in (None, *there):
            raise InputError(f"{name} {asked}: {self.path} has: {' '.join(there)}")
        return asked or there[0]

    def measured(self, setting: str) -> pd.DataFrame:
        """KEY, psnr and ssim under one setting."""
        return self.rows[self.rows["setting"] == setting].drop(columns="setting")


def images_csv(path: Path) -> Path:
    """The images.csv of an evaluation, which is given as a folder or as that file.

    Raises InputError for a folder whose sub-folders hold evaluations.
    """
    if not path.is_dir():
        return path
    if not (path / IMAGES).exists() and (below := sorted(each.parent.name for each in path.glob(f"*/{IMAGES}"))):
        raise InputError(f"{path}: holds several results, {first_few(below, FEW)}; name those folders instead")
    return path / IMAGES


def read_table(path: Path) -> pd.DataFrame:
    """An images.csv, all of it; the PSNR of an image that is restored exactly is infinite.

    Raises InputError if it is missing or no such table, or if a PSNR is no number.
    """
    try:
        table = pd.read_csv(path, dtype=NAMES, keep_default_na=False)  # an image may be called NA
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # the CSV parser's errors are ValueErrors
        raise InputError(f"{path}: not a readable CSV file ({error})") from None
    if absent := [name for name in [*KEY, "setting", "psnr"] if name not in table]:
        raise InputError(f"{path}: no column {', '.join(absent)}; give the images.csv that an evaluation wrote")
    for name in table.columns.difference(list(NAMES)):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    if table.empty:
        raise InputError(f"{path}: has no rows")
    if unusable := named(table, ~(table["scale"].abs().lt(math.inf) & table["psnr"].gt(-math.inf))):
        raise InputError(f"{path}: no PSNR of {unusable}")
    if doubled := named(table, table.duplicated([*KEY, "setting"])):
        raise InputError(f"{path}: more than one row of the same setting for {doubled}")
    return table


def read_images(path: Path) -> Evaluation:
    """The compared columns of an images.csv; SSIM is nan if the file has none.

    Raises InputError as read_table does, and for an infinite PSNR, which has no difference.
    """
    table = read_table(path)
    if exact := named(table, table["psnr"] == math.inf):
        raise InputError(f"{path}: no finite PSNR of {exact}")
    return Evaluation(path, table.reindex(columns=[*KEY, "setting", "psnr", "ssim"]))


def image_differences(a: Evaluation, b: Evaluation, setting_a: str, setting_b: str) -> pd.DataFrame:
    """A row per image, with the measures under both settings and their differences, a minus b.

    The columns: KEY, setting_a, setting_b, psnr_a, psnr_b, ssim_a, ssim_b, difference (of PSNR, in dB) and
    ssim_difference.
    Raises InputError, naming them, for images that only one of the two has.
    """
    one, two = a.measured(setting_a), b.measured(setting_b)
    merged = one.merge(two, on=KEY, how="outer", suffixes=("_a", "_b"), indicator=True)
    for side, path, other in (("left_only", b.path, a.path), ("right_only", a.path, b.path)):
        if missing := named(merged, merged["_merge"] == side):
            raise InputError(f"{path}: lacks {missing}, which {other} has; compare evaluations of the same images")
    merged = merged.drop(columns="_merge")
    merged.insert(3, "setting_a", setting_a)
    merged.insert(4, "setting_b", setting_b)
    for name, prefix, *_ in MEASURES:
        merged[f"{prefix}difference"] = merged[f"{name}_a"] - merged[f"{name}_b"]
    return merged


def named(table: pd.DataFrame, chosen: "pd.Series[bool]") -> str:
    """A few of the chosen images and the number of the others; empty if none is chosen."""
    return first_few([f"{row.dataset}/{row.image} x{row.scale:g}" for row in table[chosen].itertuples()], FEW)


def interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of (n,) values; nan of a single one.

    By the bootstrap (bias-corrected, accelerated), and for fewer values than ENOUGH by Student's t.
    """
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:  # nothing to resample
        return float(values[0]), float(values[0])
    if len(values) < ENOUGH:
        low, high = t.interval(CONFIDENCE, len(values) - 1, np.mean(values), sem(values))
        return float(low), float(high)
    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(found.low), float(found.high)


def summarise_differences(images: pd.DataFrame) -> pd.DataFrame:
    """Means of the table of `paired_differences`, for each data set, scale and pair of settings.

    `low` and `high` bound the mean difference, `better` counts the images on which a has the higher PSNR; `ssim_low`,
    `ssim_high` and `ssim_better` say the same of SSIM.
    """
    groups = images.groupby(PAIRS, sort=False)
    summary = groups.size().rename("images").reset_index()
    for name, prefix, *_ in measures_in(images):
        means = [f"{name}_a", f"{name}_b", f"{prefix}difference"]
        summary[means] = groups[means].mean().to_numpy()
        differences = [group.to_numpy() for _, group in groups[f"{prefix}difference"]]
        summary[[f"{prefix}low", f"{prefix}high"]] = [interval(each) for each in differences]
        summary[f"{prefix}better"] = [int((each > 0).sum()) for each in differences]
    return summary


def measures_in(table: pd.DataFrame) -> list[Measure]:
    """The measures that a table compares: PSNR, and SSIM if both evaluations have it for every image."""
    return [measure for measure in MEASURES if f"{measure.prefix}difference" in table]


def format_comparison(summary: pd.DataFrame) -> str:
    """The summary with units, for a terminal: a table for each measure."""
    tables = []
    for name, prefix, unit, form, change in measures_in(summary):
        limits = zip(summary[f"{prefix}low"], summary[f"{prefix}high"], strict=True)
        bounds = [math.nan if math.isnan(low) else f"{change} .. {change}".format(low, high) for low, high in limits]
        titles = {"setting_a": Column("a"), "setting_b": Column("b"), "bounds": Column("95 % interval")}
        titles |= {f"{name}_{side}": Column(f"{side} {unit}", form) for side in "ab"}
        titles |= {f"{prefix}difference": Column(f"a - b {unit}", change), f"{prefix}better": Column("a better in")}
        shown = [*PAIRS, "images", f"{name}_a", f"{name}_b", f"{prefix}difference", "bounds", f"{prefix}better"]
        tables.append(format_columns(summary.assign(bounds=bounds), shown, titles))
    return "\n\n".join(tables)


def paired_differences(a: Path, b: Path, setting_a: str | None = None, setting_b: str | None = None) -> pd.DataFrame:
    """The per-image differences of two evaluations, each given as a folder or its images.csv.

    They are taken between the named settings, or the only ones; if none is named and both files have the same settings,
    for each of these.

    Raises InputError for files that cannot be compared, and if it is not clear which settings are meant.
    """
    a, b = images_csv(a), images_csv(b)
    one, two = read_images(a), read_images(b)
    records = read_record(a.parent), read_record(b.parent)
    if all(records) and (differ := incomparable(*records)):
        raise InputError(f"{b}: differs from {a} in {in_words(differ)}; their PSNR cannot be compared")
    if setting_a is None and setting_b is None and sorted(one.settings()) == sorted(two.settings()):
        pairs = [(setting, setting) for setting in one.settings()]
    else:
        pairs = [(one.chosen(setting_a, "setting_a"), two.chosen(setting_b, "setting_b"))]
    images = pd.concat([image_differences(one, two, *pair) for pair in pairs], ignore_index=True)
    return images.dropna(axis=1)  # SSIM, if an image has none


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "two folders of results, or their images.csv; they may be the same"
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help=about)
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="the same two, given as an option")
    for name, which in (("a", "first"), ("b", "second")):
        about = f"setting of the {which}, such as k=0 (default: the only setting, or every setting that both have)"
        parser.add_argument(f"--setting_{name}", help=about)
    parser.add_argument("--csv", type=output_file(".csv"), help="file to write: the differences image by image")
    parser.add_argument("--json", action="store_true", help="end with the summary as one line of JSON")
    args = parser.parse_args()
    given = [*args.folders, *(args.compare or [])]
    if len(given) != 2:
        raise InputError(f"{len(given)} folders of results are given; give two (see --help)")
    if args.csv and args.csv.resolve() in {images_csv(path).resolve() for path in given}:
        raise InputError(f"--csv {args.csv}: is one of the two files that are compared; give another name")
    images = paired_differences(given[0], given[1], args.setting_a, args.setting_b)
    summary = summarise_differences(images)
    print(format_comparison(summary))
    if args.csv:
        write_csv(args.csv, images)
        print(f"written to {args.csv}")
    if args.json:
        print(table_json(summary))


if __name__ == "__main__":
    run(main)
