"""The kernels are tested with two threads at least; the other tests have those of the environment."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, before))
    yield
    torch.set_num_threads(before)
