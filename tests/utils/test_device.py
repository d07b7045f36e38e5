import pytest
import torch

from utils.device import pick_device
from utils.errors import InputError


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^device cuda is not available here: use cpu or auto$"):
        pick_device("cuda")
    with pytest.raises(InputError, match=r"^device must be one of auto, cpu, cuda, mps, not tpu$"):
        pick_device("tpu")
    assert pick_device("cpu").type == "cpu"
