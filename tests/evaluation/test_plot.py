"""The PSNR-FLOPs plot: what it shows, and that its labels can be read."""

import math
import warnings
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.text import Annotation, Text

from evaluation.evaluate import Row
from evaluation.plot import draw_curve
from evaluation.report import write_report
from utils.decode import read_image

# GFLOPs and dB of crowded curves: many settings within a few hundredths of a decibel, some in one place
CROWDED = {"k=-1": (8.18, 29.625), "k=-0.4": (8.1, 29.624), "k=0": (5.18, 29.597), "k=1": (4.59, 29.548)}
CROWDED |= {"k=2": (4.35, 29.481), "k=inf": (3.91, 28.729), "budget=0.6": (4.91, 29.457), "adaptive": (4.68, 29.56)}
CROWDED |= {"budget=0.8": (6.55, 29.615), "budget=1": (8.18, 29.625)}


def rows(model: str, points: dict[str, tuple[float, float]], dataset: str = "Set", factor: float = 1) -> pd.DataFrame:
    table = pd.DataFrame(
        [(name, factor * cost * 1e9, factor * cost * 0.9e9, psnr) for name, (cost, psnr) in points.items()],
        columns=["setting", "flops_paper", "flops_executed", "psnr"],
    )
    return table.assign(model=model, dataset=dataset, scale=4.0, images=5)


def test_a_report_has_the_curve(tmp_path: Path) -> None:
    write_report([Row("a", f"k={k}", 30 - k, 0.9, 0.5, 2e9 - k, 1e9, 0.5, 0.1) for k in (0, 1)], "Set", 4, tmp_path)
    assert read_image(tmp_path / "curve.png").pixels.std() > 0


@pytest.mark.parametrize("several", [False, True])
def test_labels_do_not_collide(several: bool) -> None:
    tables = [rows("a", CROWDED)]
    if several:
        tables += [rows("b", CROWDED, factor=0.1), rows("c", CROWDED, factor=0.98), rows("d", CROWDED, "Other")]
        tables += [rows("x4", {"original": (8, 29)}), rows("bicubic", {"bicubic": (0, 26.7)})]
    figure = draw_curve(pd.concat(tables, ignore_index=True))
    figure.draw_without_rendering()
    assert len(figure.axes) == (4 if several else 2)
    for axis in figure.axes:
        notes = [text for text in axis.texts if isinstance(text, Annotation)]
        boxes = [Text.get_window_extent(note) for note in notes]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        marks = [mark for line in axis.lines for mark in line.get_transform().transform(line.get_xydata())]
        assert not any(box.count_contains(marks) for box in boxes)
        assert all(axis.bbox.count_contains(box.corners()) == 4 for box in boxes)
    if not several:  # there is room for all
        names = {name for name in CROWDED if "=" in name}
        assert all({text.get_text() for text in axis.texts} == names for axis in figure.axes)


def test_an_axis_counts_its_images() -> None:
    for count, label in ((1, "Set, x4, 1 image"), (5, "Set, x4, 5 images")):
        figure = draw_curve(rows("a", CROWDED).assign(dataset="Set", images=count))
        assert figure.axes[0].get_ylabel() == f"PSNR (dB)\n{label}"


def test_names_are_shown_as_they_are() -> None:
    """Two $ would begin and end mathematics."""
    figure = draw_curve(rows("a$_$b$^$", CROWDED, "sale_$10_$20"))
    assert "sale_$10_$20" in figure.axes[0].get_ylabel()
    figure.draw_without_rendering()  # raises for mathematics that is wrong


def test_models_and_rules_are_in_the_legend() -> None:
    tables = [rows("a", CROWDED), rows("x4", {"original": (8, 29)}), rows("bicubic", {"bicubic": (0, 26.7)})]
    (legend,) = draw_curve(pd.concat(tables, ignore_index=True)).legends
    shown = {text.get_text() for text in legend.get_texts()}
    assert shown == {"a, k", "a, budget", "a, adaptive", "x4, original", "bicubic"}


@pytest.mark.parametrize(("finite", "labels"), [({"k=1": (0.5, 30.0)}, ["k=1"]), ({}, [])])
def test_a_result_without_error_is_left_out(finite: dict[str, tuple[float, float]], labels: list[str]) -> None:
    """The PSNR of an image that is restored exactly, such as a black one, is infinite."""
    exact = {"k=0": (1.0, math.inf), "adaptive": (1.0, math.inf), "bicubic": (0.0, math.inf)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_curve(pd.concat([rows("a", {**exact, **finite}), rows("b", CROWDED, "Other")]))
        figure.draw_without_rendering()
    for axis in figure.axes[:2]:
        assert [text.get_text() for text in axis.texts if isinstance(text, Annotation)] == labels
    draw_curve(rows("a", exact)).draw_without_rendering()
