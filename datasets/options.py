"""Options of commands that make or read data sets."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from yaml import YAMLError

from utils.cli import Parser
from utils.config import DegradeSpec
from utils.device import usable_cores
from utils.errors import InputError
from utils.parse import checked, parse_value


def folders_parser(description: str, source: str, output: str) -> Parser:
    """The options that all scripts which make images share; `source` and `output` are the help texts of the folders."""
    parser = Parser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.description = f"{description} Images that exist in the output are kept."
    required = partial(parser.add_argument, type=Path, required=True, default=argparse.SUPPRESS, metavar="DIR")
    required("--input", help=source)
    required("--output", help=output)
    parser.add_argument("--workers", type=int, default=usable_cores(), metavar="N", help="images at the same time")
    return parser


def add_degrade_option(parser: argparse.ArgumentParser) -> None:
    about = "make LR from HR with blur (sigma in HR pixels), noise (sigma in levels), JPEG (quality), or several: "
    about += "blur=0.8 noise=8 jpeg=75 subsampling=444"
    parser.add_argument("--degrade", nargs="+", metavar="KEY=VALUE", help=about)


def asked_degradation(settings: Sequence[str] | None) -> DegradeSpec | None:
    """The degradation that --degrade describes, None without it. Raises InputError for a wrong description."""
    if not settings:
        return None
    content, source = {}, f"--degrade {' '.join(settings)}"
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{source}: {setting} must be key=value, such as jpeg=75")
        try:
            content[key] = parse_value(value)
        except (ValueError, YAMLError) as error:
            raise InputError(f"{source}: {' '.join(str(error).split())}") from None
    return checked(DegradeSpec, content, source)
