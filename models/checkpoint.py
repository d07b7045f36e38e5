"""Reads and writes model files: safetensors that describe themselves, and files of torch.save (published.py)."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.build import build, resolved
from models.original import OriginalModel
from models.pcsr import PCSR
from models.published import SUFFIXES, Described, read_published
from models.trained import TRAINED, Trained, record_of, with_metadata
from utils.config import Config, ModelSpec, OriginalSpec, PCSRSpec
from utils.errors import InputError, one_line
from utils.files import write_atomic
from utils.parse import dump_yaml

SAVE = Path("save")  # has a folder for every run and every model that ships
SHIPPED = Path(__file__).resolve().parents[1]  # this project; commands find its files from any folder
WEIGHTS = "model.safetensors"
COUNTER = ".num_batches_tracked"  # a count of BatchNorm; only training uses it, and it may exceed float16
MODEL = "model"  # key of the spec in the header


def save_weights(folder: Path, model: OriginalModel | PCSR, config: Config) -> None:
    """Write `model.safetensors` and `config.yaml`, each atomically.

    The header of the weights holds the spec of the model and a record of its training.
    """
    config = config.model_copy(update={"model": resolved(config.model)})
    # cloned, because safetensors refuses tensors that share memory: those of a module that a network uses twice
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    header = {MODEL: config.model.model_dump_json(), TRAINED: record_of(config).model_dump_json(exclude_defaults=True)}
    write_atomic(folder / "config.yaml", dump_yaml(config).encode())
    write_atomic(folder / WEIGHTS, with_metadata(save(tensors), header))


def load_model(path: str | Path) -> tuple[OriginalModel | PCSR, OriginalSpec | PCSRSpec]:
    """Build the model a file describes, in eval mode on the CPU; a PCSR model gets the `cell_limits` of its training.

    `path` is a folder under save/, a `.safetensors` file of this project, or a `.pth`, `.pt` or `.ckpt` file of the
    paper's repository or with a state dict of such a network. Raises InputError if it is missing, damaged, not finite,
    or does not fit.
    """
    path = weights_file(path)
    try:
        with warnings.catch_warnings(record=True):  # torch.load also warns of files that it then refuses
            spec, weights = read_published(path) if of_torch(path) else read_safetensors(path)
        refuse_infinite(weights)
        spec = resolved(spec)
        model = build(spec)
        weights = {"mean": model.mean, **weights}  # published checkpoints have no mean
        check_fit(model, weights, spec)
        model.load_state_dict(weights)
    except InputError as error:
        raise InputError(one_line(path, str(error))) from None
    except OSError as error:
        raise InputError(one_line(path, error.strerror or "cannot be read")) from error
    except Exception as error:  # for a file that is no checkpoint, the readers may raise anything
        reason = "not a model of this project or of the paper's repository, or damaged"
        raise InputError(one_line(path, reason)) from error
    if isinstance(model, PCSR) and (record := trained_on(path)):
        model.cell_limits = record.cell_limits
    return model.eval(), spec


def trained_on(path: str | Path) -> Trained | None:
    """The record of the training of a model file; None for a file of torch.save, or without a record."""
    path = weights_file(path)
    record = None if of_torch(path) else read_header(path).get(TRAINED)
    try:
        return None if record is None else Trained.model_validate_json(record)
    except ValidationError:
        raise InputError(one_line(path, "what its header says of the training cannot be understood")) from None


def of_torch(path: str | Path) -> bool:
    """Whether a file is one of torch.save, by its name."""
    return Path(path).suffix.lower() in SUFFIXES


def found(path: str | Path) -> Path:
    """The path itself if it exists, otherwise the same path in the folder of this project if that exists."""
    path = Path(path)
    return path if path.exists() or not (SHIPPED / path).exists() else SHIPPED / path


def weights_file(path: str | Path) -> Path:
    """The weights file itself, or the weights file in a folder. Raises InputError if there is none."""
    try:
        path = found(path)
        path = path / WEIGHTS if path.is_dir() else path
        there = path.is_file()
    except OSError as error:  # a name that no system allows
        raise InputError(one_line(path, error.strerror or "cannot be read")) from None
    if not there:
        remedy = "give a folder that save/ has, a .safetensors, a .pth, .pt or .ckpt, or train it"
        raise InputError(one_line(path, f"no such model; {remedy}"))
    return path


def read_header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_safetensors(path: Path) -> Described:
    """The spec (from the header) and the weights of a file of this project. Raises InputError for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(MODEL)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError:
        reason = "not a .safetensors file, or a damaged one; a file of torch.save must end in .pth, .pt or .ckpt"
        raise InputError(reason) from None
    try:
        return Described(TypeAdapter[OriginalSpec | PCSRSpec](ModelSpec).validate_json(described or ""), weights)
    except ValidationError:
        raise InputError("its header describes no model of this project") from None


def refuse_infinite(weights: Mapping[str, Tensor]) -> None:
    """Raises InputError, naming the tensor, for infinities and NaN."""
    for name, tensor in weights.items():
        if not name.endswith(COUNTER) and not tensor.isfinite().all():
            raise InputError(f"{name} holds numbers that are not finite; take weights from before the training failed")


def check_fit(model: OriginalModel | PCSR, weights: Mapping[str, Tensor], spec: OriginalSpec | PCSRSpec) -> None:
    """Raises InputError, naming the first tensor, if the weights are not exactly those of the model."""
    expected = model.state_dict()
    title = f"not the {spec.backbone} ({spec.kind}, width {spec.width}) of this project"
    for name in [*expected, *weights]:
        if name not in weights:
            raise InputError(f"{title}: {name} is missing")
        if name not in expected:
            raise InputError(f"{title}: it has no {name:.60}")
        if weights[name].shape != expected[name].shape:
            found, wanted = tuple(weights[name].shape), tuple(expected[name].shape)
            raise InputError(f"{title}: {name} has the shape {found}, not {wanted}")
        if expected[name].is_floating_point() and not weights[name].is_floating_point():
            kind = str(weights[name].dtype).removeprefix("torch.")
            raise InputError(f"{title}: {name} is of the type {kind}; give weights in floating point")
