"""Which folder a training writes to; and how an earlier run is resumed, which is with the config that it saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.build import resolved
from training.runs import job_folder, new_run, numbered_runs, read_state, states
from utils.config import Config, Spec
from utils.errors import InputError, ending, first_few
from utils.parse import make_config

# keys that a resumed run may change: they decide what is validated, logged and kept, and do not affect the weights
REPORTING = {
    *("data.val", "data.val_lr", "data.cache_dir", "train.log_every", "train.save_every", "train.keep_checkpoints"),
    *("train.val_every", "train.val_ssim", "train.val_images"),
}
# These may change too, although the learning rate of the remaining iterations depends on them: more training is wanted.
TIME_LIMIT = "train.time_limit"
LENGTH = "train.iter_max"  # may only grow
CHANGES = 2  # an error names this many changes, and how many more there are


class Run(NamedTuple):
    """Where a command trains and with what config; `state` is the one to go on from, None begins at iteration 1."""

    folder: Path
    config: Config
    state: dict[str, Any] | None


def open_run(name: str, exact: bool, resume: bool, asked: Config | None, overrides: Sequence[str]) -> Run:
    """A new run of this name; or an earlier one, if it is resumed or if torchrun has started the job again.

    `exact` resumes save/name itself, otherwise the only one of save/name, save/name-2 ... is resumed. `asked` is the
    config that the user gave, with the overrides applied. Raises InputError if there is nothing to resume, or if the
    config describes another training.
    """
    folder = job_folder(name)  # whether or not the job came as far as writing a state
    restarted = folder is not None
    if folder is None:
        folder = resumable(name, exact) if resume else new_run(name)
    if states(folder):
        saved, state = read_state(folder, restarted)
        given = asked and with_options(asked)
        return Run(folder, resumed_config(folder, with_options(saved), given, overrides), state)
    if asked is None:
        raise InputError(f"{folder}: has no training state yet; a config is needed to begin")
    return Run(folder, with_options(asked), None)


def with_options(config: Config) -> Config:
    """The config with the values of all options of its network: a state then still fits when a default changes."""
    return config.model_copy(update={"model": resolved(config.model)})


def resumable(name: str, exact: bool) -> Path:
    """The run to go on with. Raises InputError if there is none, or more than one."""
    begun = [folder for folder in numbered_runs(name) if states(folder)]
    chosen = [folder for folder in begun if folder.name == name] if exact else begun
    if len(chosen) == 1:
        return chosen[0]
    others = ", ".join(sorted(folder.name for folder in begun))
    if chosen:
        raise InputError(f"there are several runs, {others}; name one of them")
    hint = f"name one of {others}, or begin" if begun else "begin"
    raise InputError(f"no training state of a run named {name} in save/; {hint} a new run")


def resumed_config(folder: Path, saved: Config, asked: Config | None, overrides: Sequence[str]) -> Config:
    """The saved config with the overrides applied to it.

    Raises InputError, naming the keys, if they or the given config would make it another training.
    """
    config = make_config(saved.model_dump(mode="json"), overrides, folder)
    before, now, given = (flatten(each) for each in (saved, config, asked or config))
    longer = {LENGTH} if config.train.iter_max > saved.train.iter_max else set()
    by_set, by_file = differing(before, now) - {TIME_LIMIT} - longer, differing(now, given)
    differences = [
        f"{key} (was {ending(str(before.get(key)), 20)}, now {ending(str(given.get(key)), 20)})"
        for key in sorted((by_set | by_file) - REPORTING)
    ]
    if differences:
        grow = "; iter_max may only grow" if LENGTH in by_set - by_file else ""
        grow += "; its length may be changed by --set" if by_file & {LENGTH, TIME_LIMIT} else ""
        began = f"the run in {ending(str(folder), 30)} began otherwise"
        raise InputError(
            f"{first_few(differences, CHANGES)}: {began}{grow}; leave out what differs to go on with the run's own"
        )
    return config


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """The keys that have another value, or that only one of them has."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def flatten(config: Spec) -> dict[str, Any]:
    """Keys of the sections as `section.key`, and those of a degradation as `data.degrade.key`."""
    content = config.model_dump(mode="json")
    flat = {f"{section}.{key}": value for section, keys in content.items() for key, value in keys.items()}
    return flat | {f"data.degrade.{key}": value for key, value in (flat.pop("data.degrade") or {}).items()}
