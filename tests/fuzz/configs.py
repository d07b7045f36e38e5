"""Damaged configs, as files and through --set: read, or refused with one line."""

import contextlib
import io
import random
from pathlib import Path

from tests.conftest import ROOT
from tests.fuzz.mutate import listed, mutate
from utils.cli import print_error
from utils.errors import InputError
from utils.parse import load_config

KEYS = ["", ".", *listed("iter_max train.init learning_rate upsamplers classifier model.options options.depth betas")]
KEYS += listed(
    "data.scale model train options. model.options.a.b data.train data.train_lr data.degrade degrade.noise width seed"
)
VALUES = [
    "",
    "1" * 5000,
    "0x" + "f" * 5000,
    "{a: 1}",
    "&a [*a]",
    "&a {<<: *a}",
    "? [a]",
    "{[1]: 2}",
    "{{}: 1}",
    "a: b: c",
]
VALUES += [
    "\udcff",
    "\0",
    "\u2028",
    "- 1\n- 2",
    "!!python/object:os.system x",
    "{jpeg: 40}",
    "{noise: [0, .inf], subsampling: [444]}",
    *listed("1 -1 1e400 nan .inf null true [] {}"),
]
VALUES += listed("[[4],[8]] *a !!x 2001-02-30 ' \" 1_0 0o8 1:60:60 = << ~")
DEEP = ("[", "{a: ", "- ", "? ", "[a: ", "!!set {", "&a [", "a: [", "\n- ")
WHOLE = sorted((ROOT / "configs").glob("*.yaml"))


def nested(rng: random.Random) -> str:
    opening, depth = rng.choice(DEEP), rng.choice((10, 100, 300, 1000))
    closing = {"[": "]", "{": "}"}.get(next((c for c in reversed(opening) if c in "[{"), ""), "")
    return opening * depth + rng.choice(("", "1", "x")) + closing * (depth if rng.random() < 0.7 else 0)


def doubled(rng: random.Random) -> str:
    """Each line has the one before some times: a few bytes become very many values."""
    depth, times = rng.choice((3, 10, 30)), rng.choice((2, 9))
    lines = ["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]" for n in range(1, depth))]
    return "\n".join(lines)


def damaged(number: int) -> tuple[bytes, list[str]]:
    """The content of a file, and settings."""
    rng = random.Random(number)
    content, settings = rng.choice(WHOLE).read_bytes(), []
    kind = rng.randrange(6)
    if kind <= 1:
        content = mutate(content, rng, rng.choice(WHOLE).read_bytes())
    elif kind == 2:
        lines = content.decode().splitlines()
        places = [place for place, line in enumerate(lines) if ": " in line and not line.startswith("#")]
        place = rng.choice(places)
        lines[place] = lines[place].partition(": ")[0] + ": " + rng.choice((*VALUES, nested(rng)))
        content = "\n".join(lines).encode(errors="surrogateescape")
    elif kind == 3:
        content = rng.choice((nested(rng), doubled(rng) + "\n" + content.decode())).encode()
    else:
        value = rng.choice((*VALUES, nested(rng), nested(rng), doubled(rng)))
        settings = [f"{rng.choice(KEYS)}{rng.choice(('=', '=', '=', ''))}{value}"]
    return content, settings


def case(number: int) -> None:
    content, settings = damaged(number)
    Path("a.yaml").write_bytes(content)
    try:
        load_config("a.yaml", settings)
    except InputError as error:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            print_error(str(error))
        line = err.getvalue()
        assert len(line) < 1600 and line.count("\n") == 1, f"{len(line)} characters: {line[:200]}"
