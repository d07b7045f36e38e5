"""Bad input of every kind, from seeds: a few of each in every test run, more by `make fuzz N=10000`."""

import importlib.util
import os

import pytest

from tests.fuzz import commands, configs, images, states
from tests.fuzz.worker import Case, failures

# what is fuzzed: the number of cases of a test run, the share of N, and the seconds that one may take
KINDS: dict[str, tuple[Case, int, float, float]] = {
    "images": (images.case, 1000, 1, 5),
    "configs": (configs.case, 100, 0.1, 10),
    "states": (states.case, 100, 0.1, 10),
    "commands": (commands.case, 20, 0.1, 60),
}
ASKED = int(os.environ.get("PCSR_FUZZ", "0"))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(kind: str) -> None:
    case, few, share, seconds = KINDS[kind]
    if kind == "commands" and not (importlib.util.find_spec("onnx") and importlib.util.find_spec("gradio")):
        pytest.skip("not installed: onnx, gradio")
    count = int(ASKED * share) if ASKED else few
    found = failures(case, range(count), seconds)
    shown = "\n".join(f"{kind} {number}: {text}" for number, text in list(found.items())[:20])
    assert not found, f"{len(found)} of {count}\n{shown}"
