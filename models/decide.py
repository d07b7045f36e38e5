"""Which upsampler each pixel gets: pure functions of the classifier's output (paper).

`prob` is (b,M,H,W), upsamplers ordered light .. heavy; an assignment is (b,H,W) int64, 0 = light .. M-1 = heavy.
"""

import math
from collections.abc import Sequence

import torch
from fast_pytorch_kmeans import KMeans
from torch import Tensor

from utils.errors import InputError

SAMPLE = 1 << 16  # pixels that stand for a large image where a threshold is sought
NEAR = 0.05  # how far from the sample's k the whole image's is looked for first
KMEANS_ITERATIONS = 20
FLAT = 1e-6  # a map whose values differ by less has nothing to cluster
BISECTIONS = 40
LARGE = 1e30  # of k: beyond it float32 would overflow


def assign_k(prob: Tensor, cost: Sequence[float], k: float) -> Tensor:
    """argmax_j prob_j / cost_j^k; larger k is cheaper. k = -inf is all heavy, k = inf all light; ties go to light.

    Raises InputError if k is not a number.
    """
    if math.isnan(k):
        raise InputError("--k must be a number, not nan")
    if math.isinf(k):
        return torch.full_like(prob[:, 0], 0 if k > 0 else prob.shape[1] - 1, dtype=torch.int64)
    return best(log_prob(prob.unbind(1)), cost, k)


def log_prob(prob: Sequence[Tensor]) -> list[Tensor]:
    """Logarithms per upsampler; in them prob_j / cost_j^k cannot overflow at any k."""
    return [p.clamp_min(torch.finfo(p.dtype).tiny).log() for p in prob]


def best(logs: Sequence[Tensor], cost: Sequence[float], k: float) -> Tensor:
    """Index of the largest log(prob_j / cost_j^k), the lightest of equals; logs (M times any shape) -> int64."""
    top = logs[0]  # upsampler 0 is the reference: its offset is zero
    index = torch.zeros_like(top, dtype=torch.int64)
    for j in range(1, len(logs)):
        score = logs[j] - max(-LARGE, min(k, LARGE)) * math.log(cost[j] / cost[0])
        index[score > top] = j
        top = torch.maximum(top, score)
    return index


def assign_budget(prob: Tensor, cost: Sequence[float], spend: Sequence[float], budget: float) -> Tensor:
    """The k rule at the one threshold of this image that spends `budget`.

    `spend` is what a pixel of each upsampler spends, `budget` the mean to reach, same unit. Between the two nearest
    assignments that the k rule can make, the pixels on the threshold (a flat area has many) get the heavier choice in
    scan order until the budget is met. Raises InputError if no assignment meets the budget.
    """
    slack = 1e-9 * max(spend)
    if not min(spend) - slack <= budget <= max(spend) + slack:
        raise InputError(f"budget out of reach: between {min(spend):.4g} and {max(spend):.4g} per pixel")
    logs = [log.flatten() for log in log_prob(prob.unbind(1))]
    count = logs[0].numel()
    limit = 2 * 90 / math.log(cost[-1] / cost[0])  # |log p| < 90 in float32: beyond, all pixels are light or heavy
    sample = [log[:: stride(count)] for log in logs]
    guess = bisect(sample, cost, spend, budget, [-limit, limit])[1]
    assignment, _ = bisect(logs, cost, spend, budget, [-limit, guess - NEAR, guess + NEAR, limit])
    return assignment.view_as(prob[:, 0])


def bisect(
    logs: Sequence[Tensor], cost: Sequence[float], spend: Sequence[float], budget: float, guesses: Sequence[float]
) -> tuple[Tensor, float]:
    """Assignment (n,) that spends `budget` per pixel, and its k; `guesses` are values of k that bracket it.

    A pixel that chooses the same at both ends of the bracket is settled, so that each step works on fewer pixels.
    """
    price = torch.tensor(spend, dtype=torch.float64)
    low, *inner, high = guesses
    settled = torch.zeros_like(logs[0], dtype=torch.int64)
    left = budget * settled.numel()  # what the unsettled pixels may spend
    where = torch.arange(settled.numel(), device=settled.device)
    dear, cheap = torch.full_like(settled, len(spend) - 1), torch.zeros_like(settled)
    for step in range(BISECTIONS):
        middle = inner[step] if step < len(inner) else (low + high) / 2
        if not low < middle < high:
            continue
        chosen = best(logs, cost, middle)
        if total(chosen, price) > left:
            low, dear = middle, chosen
        else:
            high, cheap = middle, chosen
        same = dear == cheap
        settled[where[same]] = cheap[same]
        left -= total(cheap[same], price)
        logs, where, dear, cheap = [log[~same] for log in logs], where[~same], dear[~same], cheap[~same]
    extra = (price[dear.cpu()] - price[cheap.cpu()]).cumsum(0)  # on the CPU: MPS has no float64
    upgraded = (extra <= left - total(cheap, price) + 1e-9 * max(spend)).to(dear.device)
    settled[where] = torch.where(upgraded, dear, cheap)
    return settled, (low + high) / 2


def stride(count: int) -> int:
    """Every how many of `count` pixels are sampled; odd, as an even stride would see few sub-pixel positions."""
    return max(1, count // SAMPLE) | 1


def total(assignment: Tensor, price: Tensor) -> float:
    """What an assignment spends; price (M,) float64 on the CPU."""
    return float(torch.bincount(assignment, minlength=len(price)).cpu().double() @ price)


def assign_adaptive(prob: Tensor) -> Tensor:
    """ADM: k-means on the image's own heaviness replaces k (paper); a constant map is all light.

    Heaviness is the expected upsampler index, the heavy probability when M = 2, min-max normalised over the image.
    The clusters of a strided sample start evenly spread over [0,1], so that the outcome is the same on every run.
    """
    count = prob.shape[1]
    weight = torch.arange(count, dtype=prob.dtype, device=prob.device)
    heaviness = (prob * weight[None, :, None, None]).sum(1)  # (b,H,W)
    low, high = heaviness.min(), heaviness.max()
    if float(high - low) < FLAT:
        return torch.zeros_like(heaviness, dtype=torch.int64)
    heaviness = (heaviness - low) / (high - low)
    flat = heaviness.flatten()
    sample = flat[:: stride(flat.numel())].cpu()  # small; the same clusters on every device
    sample = torch.cat([sample, torch.tensor([0.0, 1.0], dtype=sample.dtype)])[:, None]  # no cluster starts empty
    start = torch.linspace(0, 1, count, dtype=prob.dtype)[:, None]
    kmeans = KMeans(n_clusters=count, max_iter=KMEANS_ITERATIONS, mode="euclidean")
    kmeans.fit_predict(sample, centroids=start)
    centroids = kmeans.centroids.flatten().sort().values
    return torch.bucketize(heaviness, ((centroids[1:] + centroids[:-1]) / 2).to(prob.device))
