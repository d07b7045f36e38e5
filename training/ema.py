"""Exponential moving average of a model's weights."""

import copy

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.original import OriginalModel
from models.pcsr import PCSR


class Average:
    """average <- decay * average + (1 - decay) * model after every iteration, BatchNorm's statistics included.

    The decay, in (0,1), rises with the iterations i, (1 + i) / (10 + i) up to `decay`, so that the untrained beginning
    is forgotten.
    """

    def __init__(self, model: OriginalModel | PCSR, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.average, self.source = tensors(self.model), tensors(model)

    def update(self, iteration: int) -> None:
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        get_ema_multi_avg_fn(decay)(self.average, self.source, iteration)


def tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]
