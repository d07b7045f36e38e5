"""Several evaluations beside each other, in one table and one plot: models, settings, data sets, scales.

A comparison of the same folders replaces its own table and plot; one of other folders gets a folder of its own.
To see by how much two of them differ image by image, and how sure that is, use evaluation.differences.

python -m evaluation.compare results/bicubic/Set14-x4 results/carn-x4/Set14-x4 results/carn-pcsr-phase1/Set14-x4
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from evaluation.differences import images_csv, read_table
from evaluation.plot import plot_curve
from evaluation.record import in_words, incomparable, read_record, results_folder, write_record
from evaluation.report import SUMMARY, format_table, summarise, summary_json
from evaluation.tables import write_csv
from utils.cli import Parser, run, tell
from utils.errors import InputError
from utils.files import write_atomic


class Results(NamedTuple):
    """The results of one evaluation."""

    folder: Path
    images: pd.DataFrame  # its images.csv
    record: dict[str, Any]

    def names(self) -> dict[object, set[str]]:
        """The images of each data set and scale."""
        return {key: set(names) for key, names in self.images.groupby(["dataset", "scale"])["image"]}

    def summary(self) -> pd.DataFrame:
        """The means, with the model, its backbone and the folder."""
        patches = self.record.get("patches")  # which count overlaps twice
        known = {"backbone": self.record.get("backbone"), "folder": str(self.folder)}
        known["patches"] = "/".join(map(str, patches)) if patches else "none"
        return summarise(self.images).assign(model=self.record.get("model", self.folder.resolve().parent.name), **known)


def read_results(folder: Path) -> Results:
    """Raises InputError for a folder without the results of an evaluation."""
    path = images_csv(folder)
    table, folder = read_table(path), path.parent
    if absent := [name for name in (*SUMMARY, "flops_paper_share") if name not in table]:
        raise InputError(f"{path}: no column {', '.join(absent)}; give a folder that an evaluation wrote")
    return Results(folder, table, read_record(folder))


def check_comparable(one: Results, other: Results) -> None:
    """Raises InputError if both have a data set in common, but not its images or the protocol."""
    first, second = one.names(), other.names()
    shared = first.keys() & second.keys()
    differ = incomparable(one.record, other.record)
    if not differ and any(first[key] != second[key] for key in shared):
        differ = ["images"]
    if shared and differ:
        raise InputError(
            f"{other.folder}: differs from {one.folder} in {in_words(differ)}; their PSNR cannot be compared"
        )


def compare_results(results: Sequence[Results]) -> pd.DataFrame:
    """A row for each setting of each evaluation, grouped by data set.

    Models of the same name are told apart by their folders. Raises InputError if evaluations cannot be compared.
    """
    for one, other in combinations(results, 2):
        check_comparable(one, other)
    summary = pd.concat([each.summary() for each in results], ignore_index=True)
    sets = summary.groupby(["dataset", "scale"], sort=False)
    again = summary.groupby(["dataset", "scale", "model"])["folder"].transform("nunique") > 1
    summary["model"] = summary["model"].mask(again, summary["model"] + " (" + summary["folder"] + ")")
    return summary.loc[sets.ngroup().sort_values(kind="stable").index].drop(columns="folder")


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="where test.py and test_pcsr.py have written results")
    parser.add_argument("--out_dir", type=Path, help="where table and plot go (default: results/compare)")
    parser.add_argument("--json", action="store_true", help="end with the table as one line of JSON")
    args = parser.parse_args()
    results = {str(each.folder.resolve()): each for each in map(read_results, args.folders)}  # each folder once
    summary = compare_results(list(results.values()))
    record = {"folders": sorted(results), "results": {folder: each.record for folder, each in results.items()}}
    wanted, named = args.out_dir or Path("results/compare"), bool(args.out_dir)
    folder = results_folder(wanted, ["summary.csv", "curve.png"], record, named, decides=["folders"])
    if read_record(folder).get("results", record["results"]) != record["results"]:
        tell(f"note: evaluations in these folders have changed since they were compared; {folder} is replaced")
    write_record(folder, record)
    write_csv(folder / "summary.csv", summary)
    write_atomic(folder / "curve.png", plot_curve(summary))
    print(format_table(summary))
    print(f"written to {folder}")
    if args.json:
        print(summary_json(summary))


if __name__ == "__main__":
    run(main)
