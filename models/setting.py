"""What the user chooses: rule, refinement, scale and precision."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from utils.errors import InputError

Rule = Literal["k", "budget", "adaptive", "heavy"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
NUMBERED: tuple[Rule, ...] = ("k", "budget")  # rules with a number
WHOLE_IMAGE: tuple[Rule, ...] = ("budget", "adaptive")
MOST_SCALE = 65536  # at this scale one pixel alone would be more than an image may have


@dataclass(frozen=True)
class Setting:
    """One way to restore an image.

    rule and value: `k` (paper) with a number, where a larger one is cheaper and 0 takes the most probable upsampler;
    `budget` with the share of the all-heavy model's FLOPs (paper account) that may be spent, in (0,1]; `adaptive`
    (ADM of the paper), where the image's own probabilities decide; `heavy`, where every pixel takes the heavy
    upsampler, the only one that a model of phase 0 has.
    refinement: whether a light pixel beside a heavier one takes the mean of its 3x3 neighbourhood (paper); pixels at
    the border of the image are left alone.
    scale: HR/LR, from 1 to MOST_SCALE.
    precision: the type of number that the networks compute in; `auto` is the fastest that keeps the quality, as
    inference/precision.py chooses it for a model and a device.
    Raises InputError for other values.
    """

    rule: Rule = "k"
    value: float = 0.0
    refinement: bool = True
    scale: float = 4.0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise InputError(f"rule {self.rule!r}: must be one of {', '.join(get_args(Rule))}")
        if math.isnan(self.value):
            raise InputError(f"{self.rule} must be a number, not nan")
        if self.rule == "budget" and not 0 < self.value <= 1:
            raise InputError(f"budget {self.value:g}: must lie above 0 and not above 1 (all pixels heavy)")
        check_scale(self.scale)
        check_precision(self.precision)

    def __str__(self) -> str:
        return f"{self.rule}={self.value:g}" if self.rule in NUMBERED else self.rule

    @property
    def sees_whole_image(self) -> bool:
        """Whether the rule decides about a pixel by the probabilities of all pixels, so that no tile is enough."""
        return self.rule in WHOLE_IMAGE


def choose(
    k: float | None = None,
    budget: float | None = None,
    adaptive: bool = False,
    refinement: bool = True,
    scale: float = 4.0,
    precision: Precision = "float32",
) -> Setting:
    """The setting of at most one of k, budget and adaptive; k = 0 if none is given.

    Raises InputError for several, and for a value of the wrong kind.
    """
    scale = number("scale", scale)
    adaptive, refinement = truth("adaptive", adaptive), truth("refinement", refinement)
    if (k is not None) + (budget is not None) + adaptive > 1:
        raise InputError("give only one of k, budget and adaptive")
    rule: Rule = "adaptive" if adaptive else "k" if budget is None else "budget"
    value = number("k", 0.0 if k is None else k) if budget is None else number("budget", budget)
    return Setting(rule, value, refinement, scale, precision)


def number(name: str, value: object) -> float:
    """The value itself, whatever type of number it has. Raises InputError for lists, text and the like."""
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)  # type: ignore[arg-type]  # whether it has a value is tested here
    except OverflowError:
        raise InputError(f"{name}: a number this large cannot be used") from None
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        raise InputError(f"{name} must be one number, not {value!r}") from None


def truth(name: str, value: object) -> bool:
    """The value itself; NumPy has truth values of its own. Raises InputError for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def check_scale(scale: float) -> float:
    """The scale itself. Raises InputError unless it is a number from 1 to MOST_SCALE."""
    if not 1 <= scale <= MOST_SCALE:  # nan is neither
        raise InputError(f"scale {scale:g}: must be a number from 1 to {MOST_SCALE}")
    return scale


def check_precision(precision: str) -> None:
    """Raises InputError for an unknown name."""
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r}: must be one of {', '.join(get_args(Precision))}")
