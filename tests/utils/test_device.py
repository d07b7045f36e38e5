import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from utils.device import ALIGNED, empty, keep_memory, pick_device, usable_cores
from utils.errors import InputError


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^device cuda is not available here: use cpu or auto$"):
        pick_device("cuda")
    with pytest.raises(InputError, match=r"^device must be one of auto, cpu, cuda, mps, not tpu$"):
        pick_device("tpu")
    for name in ("cpu:one", "auto:0", "cpu:"):
        with pytest.raises(InputError, match=r"^device must be one of auto, cpu, cuda, mps, not "):
            pick_device(name)
    with pytest.raises(InputError, match=r"^device cpu:1 is not available here"):
        pick_device("cpu:1")
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")


def test_one_of_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == pick_device(torch.device("cuda", 1)) == torch.device("cuda:1")
    assert pick_device("auto") == torch.device("cuda")
    with pytest.raises(InputError, match=r"^device cuda:2 is not available here"):
        pick_device("cuda:2")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not limit cores in this way")
def test_only_the_cores_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


BOUND = """
import os
import sys

from torch.distributed import run

from utils import dist, jobs
from utils.device import pick_device, usable_cores


def told(*args):
    print(len(os.sched_getaffinity(0)))
    raise SystemExit


run.main = jobs.ProcessPoolExecutor = told
sys.argv[1:] = ["demo.py", "--cpu", "2"]
bound = os.sched_getaffinity(0)
print(usable_cores(), len(bound))
for begin in (
    lambda: told(pick_device("cpu")),
    lambda: told(jobs.start_worker()),
    lambda: next(jobs.attempts([None, None], 2)),
    lambda: dist.main(),
):
    os.sched_setaffinity(0, bound)
    try:
        begin()
    except SystemExit:
        pass
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not limit cores in this way")
def test_all_cores_although_openmp_binds_the_main_thread_to_one() -> None:
    """And what starts processes lets them have all."""
    command, environment = [sys.executable, "-c", BOUND], {**os.environ, "OMP_PROC_BIND": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(usable_cores()), "1", *4 * [str(usable_cores())]]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_room_is_an_aligned_tensor_of_its_own(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    made = empty((2, 3, 4, 5), dtype, memory_format)
    assert (made.shape, made.dtype) == ((2, 3, 4, 5), dtype)
    assert made.is_contiguous(memory_format=memory_format) and made.data_ptr() % ALIGNED == 0 and not made._is_view()
    assert empty((0, 3), dtype).numel() == 0


def test_freed_room_is_used_again() -> None:
    keep_memory()
    taken = [empty((1_234_567,), torch.float32) for _ in range(16)]  # every other one will be a hole between two
    holes = {each.data_ptr() for each in taken[1::2]}
    del taken[1::2]
    again = [empty((1_234_567,), torch.float32) for _ in range(8)]
    assert holes & {each.data_ptr() for each in again}
