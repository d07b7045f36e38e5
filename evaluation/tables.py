"""A table as text for a terminal, as CSV or as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from utils.files import write_atomic


class Column(NamedTuple):
    """How a column is printed."""

    title: str
    form: str = "{}"
    factor: float = 1  # from the table's unit to that of the title


COLUMNS = {
    "scale": Column("scale", "x{:g}"),
    "psnr": Column("PSNR dB", "{:.3f}"),
    "ssim": Column("SSIM", "{:.4f}"),
    "heavy_share": Column("heavy %", "{:.1f}", 100),
    "flops_paper": Column("GFLOPs paper", "{:.2f}", 1e-9),
    "flops_paper_share": Column("of all-heavy %", "{:.1f}", 100),
    "original_share": Column("of original %", "{:.1f}", 100),
    "flops_executed": Column("GFLOPs executed", "{:.2f}", 1e-9),
    "seconds": Column("seconds", "{:.3f}"),
}


def format_columns(table: pd.DataFrame, names: Sequence[str], more: Mapping[str, Column] | None = None) -> str:
    """Columns of a table for a terminal, formatted as COLUMNS and `more` say, or else as they are.

    A missing number is shown as a dash, and a column in which all are missing is left out.
    """
    known, shown = {**COLUMNS, **(more or {})}, {}
    for name in names:
        title, form, factor = known.get(name, Column(name))
        values = table[name].dropna()
        if len(values):
            text = (values * factor if factor != 1 else values).map(form.format)
            shown[title] = text.reindex(table.index).fillna("-")
    return pd.DataFrame(shown).to_string(index=False)


def table_json(table: pd.DataFrame) -> str:
    """One line, a list with an object per row; numbers that are not finite become null, as JSON has none."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps([{key: finite(value) for key, value in row.items()} for row in table.to_dict("records")])


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table without its index, atomically. Raises InputError if that fails."""
    write_atomic(path, table.to_csv(index=False, float_format=float_format).encode(errors="backslashreplace"))
