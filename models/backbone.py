"""What a backbone is, the import of one from outside this repository, and the options that it declares."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from torch import nn

from utils.errors import InputError

MakeModule = Callable[..., nn.Module]


class Backbone(NamedTuple):
    """How the modules of a network are made. `encoder` takes a width, `tail` a width and an integer scale.

    Their further parameters are the options in `model.options`; the annotations declare their types.
    """

    encoder: MakeModule
    tail: MakeModule | None = None  # None: there is no original model
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    residual: bool = False  # the original model adds bilinear(lr), and the mean as well: the tail learns to subtract it
    title: str = ""  # the name in texts, where it is written differently


class Maker(NamedTuple):
    """What makes a module, and how many of its first parameters are sizes, which are not options."""

    make: MakeModule
    sizes: int


def outside_backbone(name: str) -> Backbone:
    """The backbone MODULE:NAME, from the working folder or PYTHONPATH. The import runs the code of that module.

    NAME is an encoder class, or an object with the attributes of Backbone. Raises InputError if it cannot be found.
    """
    module, _, path = name.partition(":")
    folder = str(Path.cwd())
    added = [folder] if folder not in sys.path else []
    sys.path += added  # at the end, so that it hides no package of this project
    try:
        importlib.invalidate_caches()  # the file may have been written after this process started
        found: Any = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except Exception as error:  # whatever the module's own code may raise
        missing = isinstance(error, ModuleNotFoundError)
        remedy = "; the module must lie in the working folder or on PYTHONPATH" if missing else ""
        raise InputError(f"model.backbone: {name} cannot be imported: {error!r}{remedy}") from error
    finally:
        for entry in added:
            sys.path.remove(entry)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return Backbone(found, title=found.__name__)
    # the attributes are checked and not the class, because torch.hub may have loaded models.backbone twice
    given = {field: getattr(found, field) for field in Backbone._fields if hasattr(found, field)}
    if not callable(given.get("encoder")) or not callable(given.get("tail") or Backbone):
        kinds = "an encoder's class, or models.backbone.Backbone(encoder, tail)"
        raise InputError(f"model.backbone: {name} must be {kinds}, not {type(found).__name__}")
    return Backbone(**given)


def options_of(makers: Sequence[Maker], given: Mapping[str, Any], backbone: str) -> list[dict[str, Any]]:
    """The options of each maker: the given values, and its defaults for the others.

    Raises InputError, naming the key, for an option that is unknown, missing or of another type.
    """
    declared = [declared_options(maker) for maker in makers]
    known = dict.fromkeys(name for each in declared for name in each)
    for name in given:
        if name not in known:
            choices = f"one of: {', '.join(known)}" if known else f"{backbone} has no options"
            raise InputError(f"model.options.{name}: unknown key, {choices}")
    found = [{name: option_value(parameter, given) for name, parameter in each.items()} for each in declared]
    merged: dict[str, Any] = {}
    for name, value in (pair for each in found for pair in each.items()):
        if merged.setdefault(name, value) != value:
            raise InputError(f"model.options.{name}: encoder and tail have different defaults; give it")
    return found


def declared_options(maker: Maker) -> dict[str, inspect.Parameter]:
    """The parameters that are options: all that can be passed by name, except the sizes."""
    try:
        signature = inspect.signature(maker.make, eval_str=True)
    except Exception as error:  # annotations are code, which may raise
        raise InputError(f"model.backbone: the parameters of {maker.make} cannot be read: {error!r}") from error
    every = list(signature.parameters.values())[maker.sizes :]
    return {each.name: each for each in every if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}


def option_value(parameter: inspect.Parameter, given: Mapping[str, Any]) -> Any:
    """The value of one option. Raises InputError if it is missing or does not have the declared type."""
    key, name = f"model.options.{parameter.name}", parameter.name
    if name not in given:
        if parameter.default is parameter.empty:
            raise InputError(f"{key}: missing, the backbone has no default for it")
        return parameter.default
    if parameter.annotation is parameter.empty:
        raise InputError(f"{key}: the backbone's code must annotate it with a type")
    try:
        # strict, so that true is not taken as 1; as JSON, so that a list may stand for a tuple
        return TypeAdapter(parameter.annotation).validate_json(json.dumps(given[name], default=str), strict=True)
    except ValidationError as error:
        raise InputError(f"{key}: {error.errors()[0]['msg']}, not {given[name]!r}") from None
    except PydanticUserError:
        raise InputError(f"{key}: a config cannot hold a {parameter.annotation}") from None
