"""The model as one graph of tensor operations against the model it is made of; in torch, no ONNX needed."""

import math

import pytest
import torch

from inference.onnx import PCSRGraph
from models.build import build_pcsr
from models.pcsr import PCSR
from models.setting import Setting
from tests.conftest import TINY_PCSR, balance
from utils.resize import scaled_size

SPECS = {
    "two upsamplers": {},
    "three, carn": {"backbone": "carn", "width": 8, "upsamplers": ((4,), (6,), (8, 8))},
    "no hidden layer in the classifier": {"classifier": (), "backbone": "srresnet"},
}


def model_of(changes: dict[str, object]) -> PCSR:
    model = build_pcsr(TINY_PCSR.model_validate({**TINY_PCSR.model_dump(), **changes}))
    for _ in range(2):
        model.encoder(torch.rand(2, 3, 12, 12))  # statistics of BatchNorm worth folding
    return model.eval()


@pytest.mark.parametrize("scale", [1, 2.6, 4])
@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS.keys())
@torch.inference_mode()
def test_graph_equals_model(changes: dict[str, object], scale: float) -> None:
    model = model_of(changes)
    balance(model, torch.rand(1, 3, 30, 30), scale)
    graphs = {refinement: PCSRGraph(model, Setting(refinement=refinement, scale=scale)) for refinement in (True, False)}
    seen = set()
    for height, width in ((1, 1), (2, 3), (13, 8)):
        lr = torch.rand(1, 3, height, width)
        for k in (0.0, -math.inf, 1e35):
            for refinement, graph in graphs.items():
                plain, expected, _ = model(lr, scaled_size(lr, scale), Setting("k", k, refinement, scale))
                seen.update(expected.unique().tolist())
                sr, assignment = graph(lr, torch.tensor(k))
                assert assignment.dtype == torch.uint8 and torch.equal(assignment, expected)
                torch.testing.assert_close(sr, plain.clamp(0, 1), rtol=0, atol=1e-5)
    assert seen == set(range(len(model.upsamplers)))


@pytest.mark.parametrize("scale", [1.7, 4])
@torch.inference_mode()
def test_a_model_without_a_choice(scale: float) -> None:
    model = model_of({"upsamplers": ((8, 8),), "classifier": None})
    lr = torch.rand(1, 3, 7, 5)
    setting = Setting(scale=scale)
    expected = model(lr, scaled_size(lr, scale), setting).sr
    torch.testing.assert_close(PCSRGraph(model, setting)(lr), expected.clamp(0, 1), rtol=0, atol=1e-5)
