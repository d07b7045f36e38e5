"""Reading a config: a YAML file and `key=value` overrides become specs; every error names the key and the source."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from utils.config import Config, DataSpec, DegradeSpec, OriginalSpec, PCSRSpec, Spec, TrainSpec
from utils.errors import LONGEST_REASON, InputError, ending, one_line, suggested
from utils.files import read_bytes

SECTIONS: dict[str, Sequence[type[Spec]]] = {
    "model": (OriginalSpec, PCSRSpec),
    "data": (DataSpec,),
    "train": (TrainSpec,),
}


def parse_value(text: str) -> Any:
    """A number, or whatever YAML makes of the text. Numbers are tried first, because YAML 1.1 reads 1e-4 as text.

    A ` #` begins no comment here: it may be part of the name of a folder.
    """
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    value = parse_yaml(text)
    return text if value and isinstance(value, str) and text.startswith(value) else value


class Loader(yaml.SafeLoader):
    """Reads YAML safely, and refuses absurdly large whole numbers."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:  # Python refuses to print one of thousands of digits
            raise ValueError("a whole number of more than 63 bits")
        return value


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """The content of a YAML text. Raises ValueError or yaml.YAMLError if it cannot be understood."""
    try:
        return yaml.load(text, Loader)
    except RecursionError:  # PyYAML calls itself for each level of nesting
        raise ValueError("lists or mappings within each other, hundreds deep") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises InputError if the file is missing or holds something else."""
    try:
        content = parse_yaml(read_bytes(path).decode())
    except InputError as error:
        raise InputError(f"cannot read config {error}") from None
    except (ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or an impossible date
        raise InputError(one_line(f"cannot read config {path}", str(error))) from None
    if not isinstance(content, dict):
        raise InputError(f"config {path} is not a YAML mapping")
    return content


def read_extended(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """A config with the keys that it lacks from the one that `extends` names, relative to its own folder.

    `above` are the configs that extend this one. Raises InputError as read_yaml does, and for one that extends itself.
    """
    content = read_yaml(path)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise InputError(f"extends: must be the name of a config, such as carn-x4.yaml (config {path})")
    if path.resolve() in above:
        raise InputError(f"extends: the config extends itself (config {path})")
    return merged(read_extended(path.parent / base, [*above, path.resolve()]), content)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings as one, and mappings in them likewise; whatever both have is that of `changes`."""
    both = {
        key for key in base.keys() & changes.keys() if isinstance(base[key], dict) and isinstance(changes[key], dict)
    }
    return {**base, **changes, **{key: merged(base[key], changes[key]) for key in both}}


def assign(content: dict[str, Any], override: str) -> str:
    """Apply one `key=value` to a raw config; the key is dotted (`train.iter_max`) or a leaf name (`iter_max`).

    Returns the dotted key.
    """
    name, equals, value = override.partition("=")
    if not equals:
        raise InputError(f"setting {ending(override, 60)}: write key=value")
    within = re.fullmatch(r"((?:model\.)?options|(?:data\.)?degrade)\.(.+)", name)  # one value of a mapping
    key, option = within.groups() if within else (name, "")
    known = [f"{name}.{leaf}" for name, specs in SECTIONS.items() for spec in specs for leaf in spec.model_fields]
    matches = sorted({full for full in known if key in (full, full.split(".", 1)[1])})
    if len(matches) > 1:
        raise InputError(f"setting {key}: ambiguous key, one of: {', '.join(matches)}")
    if not matches:
        section, _, leaf = key.rpartition(".")
        near = [full.removeprefix(f"{section}.") for full in known if full.startswith(section)]
        near = near if section else [full.split(".", 1)[1] for full in known]
        raise InputError(f"setting {ending(key, 60)}: unknown key{suggested(leaf, near)}")
    section, leaf = matches[0].split(".", 1)
    try:
        before, parsed = {**(content.get(section) or {})}, parse_value(value)
        if option:
            parsed = {**(before.get(leaf) or {}), option: parsed}
        content[section] = {**before, leaf: parsed}
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(one_line(f"setting {ending(name, 60)}", str(error))) from None
    return f"{matches[0]}.{option}" if option else matches[0]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment. Raises InputError naming the file and the key that is unknown, missing or wrong."""
    return make_config(read_extended(Path(path)), overrides, path)


def make_config(content: dict[str, Any], overrides: Sequence[str], source: str | Path) -> Config:
    """A raw config with overrides `key=value` applied to it; errors name the source and the overrides at fault."""
    return checked(Config, content, f"config {source}", {assign(content, each): each for each in overrides})


S = TypeVar("S", bound=Spec)


def checked(spec: type[S], content: dict[str, Any], source: str, overrides: Mapping[str, str] | None = None) -> S:
    """Validate raw content against a spec. Raises InputError naming the key, the reason and the source.

    overrides: those that were applied, by their dotted keys; the error names only those that may be at fault.
    """

    def error_of(key: str, reason: str) -> InputError:
        faulty = [text for full, text in (overrides or {}).items() if at_fault(full, key, reason)]
        places = [ending(source, 60), *([ending(" ".join(faulty), 60)] if faulty else [])]
        text = f"{reason[: LONGEST_REASON - 60]} ({' with '.join(places)})"
        return InputError(f"{ending(key, 50)}: {text}" if key else text)

    if wrong := misplaced_truth(content):
        raise error_of(wrong, "must not be true or false")
    try:
        return spec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        *above, last = path = [str(part) for part in first["loc"] if part not in ("original", "pcsr")] or [""]
        key, reason = ".".join(path), first["msg"]
        if first["type"] == "extra_forbidden":
            specs: Sequence[type[Spec]] = SECTIONS.get(path[0], ()) if above else (spec,)
            specs = (DegradeSpec,) if "degrade" in above else specs
            reason = f"unknown key{suggested(last, [name for each in specs for name in each.model_fields])}"
        raise error_of(key, reason) from None


def misplaced_truth(content: Mapping[str, Any]) -> str | None:
    """The first key of a config that is true or false but stands for something else; pydantic would take 1 or 0."""
    for section, specs in SECTIONS.items():
        values = content.get(section)
        for key, value in values.items() if isinstance(values, dict) else ():
            kinds = [spec.model_fields[key].annotation for spec in specs if key in spec.model_fields]
            values_of_key = value if isinstance(value, list) else [value]
            if kinds and bool not in kinds and any(isinstance(each, bool) for each in values_of_key):
                return f"{section}.{key}"
    return None


def at_fault(override: str, key: str, reason: str) -> bool:
    """Whether an error may come from the override of a dotted key: it is about that key, or names it in its section."""
    section, leaf = override.split(".")[:2]
    within = "." in key and override.startswith(f"{key}.")  # the error is about the mapping that it was set in
    named = section == key and re.search(rf"\b{re.escape(leaf)}\b", reason) is not None
    return f"{key}.".startswith(f"{override}.") or within or named


def dump_yaml(spec: Spec) -> str:
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, default_flow_style=None)
