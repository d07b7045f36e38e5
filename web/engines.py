"""The models that the web page offers, ready to restore."""

from collections.abc import Sequence
from pathlib import Path

import torch

from inference.precision import engine_for
from models.checkpoint import WEIGHTS, load_model
from models.fast.engine import Engine
from models.pcsr import PCSR
from models.setting import Precision
from utils.cli import tell
from utils.errors import InputError


def load_engines(saves: Sequence[Path], device: torch.device, precision: Precision = "float32") -> dict[str, Engine]:
    """The PCSR models with a classifier, by name, of the first of these folders that has any.

    What cannot be loaded is left out, and stderr says so. Raises InputError if there is none.
    """
    for save in saves:
        if chosen := with_classifier(save):
            return {name: engine_for(model, device, precision) for name, model in chosen.items()}
    remedy = "train one (phase 1), or run this where it is"
    raise InputError(f"{saves[0]}: no PCSR model with a classifier in it; {remedy}")


def with_classifier(save: Path) -> dict[str, PCSR]:
    """The models in a folder that have something to decide."""
    models: dict[str, PCSR] = {}
    for path in sorted(save.glob(f"*/{WEIGHTS}")):
        try:
            model, _ = load_model(path)
        except InputError as error:
            tell(f"note: left out: {error}")
            continue
        if isinstance(model, PCSR) and model.classifier is not None:
            models[path.parent.name] = model
    return models
