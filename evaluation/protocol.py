"""The protocol of an evaluation: what the options of the commands ask for, in words, in records and in folder names."""

import argparse
from dataclasses import dataclass
from typing import Any

from datasets.options import asked_degradation
from evaluation.evaluate import MeasuringProtocol
from evaluation.metrics import PsnrType
from inference.options import speed_record
from models.setting import Precision
from utils.config import DegradeSpec
from utils.errors import InputError
from utils.patches import Patches

PATCH_SIZE, STEP = 32, 28  # LR pixels on a side of a patch and from one to the next, as published


@dataclass(frozen=True)
class EvaluationProtocol:
    """How images are made small, restored and measured."""

    grid: Patches
    per_image: bool  # whole images; otherwise the patches of the grid
    crop: bool  # LR is cut to whole steps of the grid
    float_lr: bool
    degrade: DegradeSpec | None
    psnr_type: PsnrType
    refinement: bool | None  # None: the model decides nothing
    precision: Precision  # never `auto`
    skip_flat: float

    def measuring(self, scale: float) -> MeasuringProtocol:
        patches, crop = None if self.per_image else self.grid, self.grid if self.crop else None
        return MeasuringProtocol(scale, patches, crop, self.psnr_type)

    def __str__(self) -> str:
        """A line for people: the protocol, the option that chooses the other one, and whatever else differs from it."""
        size = f"{self.grid.patch_size}x{self.grid.patch_size} LR pixels, step {self.grid.step}"
        patches = f"overlapping patches of {size}, as published (whole images: --per_image)"
        whole = "whole images (without --per_image: overlapping patches, as published)"
        words = [whole if self.per_image else patches]
        words += ["LR cut to whole steps (--crop)"] if self.crop else []
        words += ["PSNR and SSIM over luma (--psnr_type y)"] if self.psnr_type == "y" else []
        words += ["LR not rounded to 8 bits (--float_lr)"] if self.float_lr else []
        words += [f"LR degraded by {self.degrade}"] if self.degrade else []
        words += ["not refined (--no_refinement)"] if self.refinement is False else []
        words += [f"flat areas interpolated (--skip_flat {self.skip_flat:g})"] if self.skip_flat else []
        return f"protocol: {'; '.join(words)}"

    def record(self) -> dict[str, Any]:
        """The parts that decide the results."""
        grid = [self.grid.patch_size, self.grid.step]
        record = {
            "patches": None if self.per_image else grid,
            "crop": grid if self.crop else None,
            "float_lr": self.float_lr,
            "psnr_type": self.psnr_type,
            "refinement": bool(self.refinement),
        }
        degrade = {"degrade": str(self.degrade)} if self.degrade else {}  # older records lack it
        return {**record, **degrade, **speed_record(self.precision, self.skip_flat)}

    def suffix(self) -> str:
        """Names whatever differs from whole images in RGB: results of each protocol have a folder of their own."""
        other = {
            "patches": not self.per_image,
            "crop": self.crop,
            "y": self.psnr_type == "y",
            "float": self.float_lr,
            "unrefined": self.refinement is False,
        }
        words, faster = [word for word, holds in other.items() if holds], speed_record(self.precision, self.skip_flat)
        words += [faster["precision"]] if "precision" in faster else []
        words += [f"flat{faster['skip_flat']}"] if "skip_flat" in faster else []
        words += str(self.degrade).replace("=", "").split() if self.degrade else []
        return "".join(f"-{word}" for word in words)


def asked_protocol(args: argparse.Namespace, precision: Precision) -> EvaluationProtocol:
    """The protocol of the options. Raises InputError for options that exclude each other or have no effect."""
    for option in ("skip_flat", "tile_size"):
        if getattr(args, option) and not args.per_image:
            raise InputError(f"--{option}: goes with whole images; add --per_image")
    if args.lr_data and args.float_lr:
        raise InputError("--float_lr: is for LR that is made from HR; leave it or --lr_data out")
    for option, given in (("--lr_data", args.lr_data), ("--float_lr", args.float_lr)):
        if args.degrade and given:
            raise InputError(f"--degrade: is for 8-bit LR that is made from HR; leave out {option}")
    return EvaluationProtocol(
        grid=asked_grid(args),
        per_image=args.per_image,
        crop=args.crop,
        float_lr=args.float_lr,
        degrade=asked_degradation(args.degrade),
        psnr_type=args.psnr_type,
        refinement=not args.no_refinement if "no_refinement" in args else None,
        precision=precision,
        skip_flat=args.skip_flat,
    )


def asked_grid(args: argparse.Namespace) -> Patches:
    """The patches of --patch_size and --step. Raises InputError for values that leave gaps or have no effect."""
    for option in ("patch_size", "step"):
        if getattr(args, option) is not None and args.per_image and not args.crop:
            raise InputError(f"--{option}: goes with patches; leave it or --per_image out")
    patch_size = PATCH_SIZE if args.patch_size is None else args.patch_size
    step = STEP if args.step is None else args.step
    if not 1 <= step <= patch_size:
        raise InputError(f"--patch_size {patch_size} --step {step}: need 1 <= step <= patch_size")
    return Patches(patch_size, step)
