"""Which upsampler each pixel gets: pure functions of the classifier's output (paper, section 3.3).

Upsamplers are ordered light .. heavy, and an assignment is (b,H,W) uint8, 0 = light .. M-1 = heavy. All rules depend on
the probabilities through `log_odds` (b,M-1,H,W) alone, log(prob_j / prob_0) of the upsamplers j = 1 .. M-1, which are
differences of the classifier's logits. Large images are worked on in bands of rows, which bounds the memory.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import assert_never

import torch
from fast_pytorch_kmeans import KMeans
from torch import Tensor

from models.flops import PCSRFlops
from models.setting import Setting
from utils.errors import InputError
from utils.patches import bands

SAMPLE = 1 << 16  # pixels from which a threshold of a large image is estimated, as k-means on all would take seconds
DECIDED_PIXELS = 1 << 21  # pixels of a band: their temporary copies take a few tens of megabytes
# the k of the image is first sought within this distance of the sample's k; outside it the search takes longer
NEAR = 0.05
KMEANS_ITERATIONS = 20  # as published
FLAT = 1e-6  # a map whose values differ by less, which rounding may cause, has nothing to cluster
RESOLUTION = 1e-8  # how exactly a k is found: pixels whose own k differ by less count as equal
HALVINGS = 100  # the most steps of a search, as float64 is coarser than RESOLUTION where k is huge
LARGE = 1e30  # the largest |k| that is used, as float32 holds its products; no log odds come near them


def decide(log_odds: Tensor, setting: Setting, flops: PCSRFlops) -> Tensor:
    """log_odds (b,M-1,H,W) -> assignment (b,H,W) by the setting's rule; b patches of one image are decided together.

    Raises InputError for a budget that cannot be met.
    """
    if log_odds.shape[1] == 0:  # one upsampler: nothing to decide
        return torch.zeros(len(log_odds), *log_odds.shape[2:], dtype=torch.uint8, device=log_odds.device)
    if setting.rule == "adaptive":
        return assign_adaptive(log_odds)
    cost = flops.cost(setting.scale)
    if setting.rule == "budget":
        check_budget(setting, flops)
        per_pixel = flops.per_pixel(setting.scale, with_classifier=True)
        return assign_budget(log_odds, cost, per_pixel, setting.value * per_pixel[-1])
    if setting.rule == "heavy":
        return assign_k(log_odds, cost, -math.inf)
    if setting.rule == "k":
        return assign_k(log_odds, cost, setting.value)
    assert_never(setting.rule)


def check_budget(setting: Setting, flops: PCSRFlops) -> None:
    """Raises InputError for a budget that all pixels light would exceed."""
    if not (least := least_budget(flops, setting.scale)) <= setting.value <= 1:
        ends = f"{math.ceil(1000 * least) / 1000:.3f} (all pixels light) and 1 (all pixels heavy)"
        raise InputError(f"budget {setting.value:g}: must lie between {ends}")


def probabilities(log_odds: Tensor) -> Tensor:
    """log_odds (b,M-1,...) -> prob (b,M,...), the softmax of the classifier's logits."""
    first = log_odds.new_zeros(len(log_odds), 1, *log_odds.shape[2:])
    return torch.cat([first, log_odds], 1).softmax(1)


def assign_k(log_odds: Tensor, cost: Sequence[float], k: float | Tensor) -> Tensor:
    """argmax_j prob_j / cost_j^k, the lightest of equals; (b,M-1,...) -> (b,...) uint8.

    A larger k is cheaper: k = inf is all light, k = -inf all heavy.
    """
    after = offsets(cost, k)
    index = (log_odds[:, 0] > after[0]).to(torch.uint8)
    for j in range(1, len(after)):
        score = log_odds[:, j] - after[j]
        top = torch.stack([log_odds[:, i] - after[i] for i in range(j)]).amax(0).clamp_min(0)
        index = torch.where(score > top, j + 1, index)
    return index


def offsets(cost: Sequence[float], k: float | Tensor) -> list[float | Tensor]:
    """k log(cost_j / cost_0) of the upsamplers j = 1 .. M-1: what the k rule subtracts from their log odds."""
    k = k.clamp(-LARGE, LARGE) if isinstance(k, Tensor) else max(-LARGE, min(k, LARGE))
    return [k * math.log(each / cost[0]) for each in cost[1:]]


def least_budget(flops: PCSRFlops, scale: float) -> float:
    """The smallest budget that can be met: the share of the all-heavy model's FLOPs that all pixels light take."""
    per_pixel = flops.per_pixel(scale, with_classifier=True)
    return per_pixel[0] / per_pixel[-1]


def assign_budget(log_odds: Tensor, cost: Sequence[float], flops: Sequence[float], allowed: float) -> Tensor:
    """The assignment of the k rule at that k which takes `allowed` FLOPs per pixel, found by bisection.

    `flops` are those per pixel of each upsampler, in any unit; the mean over the image must be able to reach `allowed`.
    Many pixels may change at one k, as those of a flat area do. Then as many of them as the budget allows get the
    heavier upsampler, in scan order.
    """
    each = torch.tensor(flops, dtype=torch.float64)
    ratios = [math.log(heavier / lighter) for lighter, heavier in pairwise(cost)]
    farthest = max(abs(float(end)) for end in log_odds.detach().aminmax())
    limit = 1 + 2 * farthest / min(ratios)  # where all are light; all heavy at -limit
    whole, sample = [log_odds[..., rows, :] for rows in bands_of(log_odds)], sampled(log_odds)

    def taken(k: float) -> float:
        return sum(total_flops(assign_k(band, cost, k), each) for band in whole)

    def taken_by_sample(k: float) -> float:
        return total_flops(assign_k(sample, cost, k), each)

    total = allowed * log_odds[:, 0].numel()
    _, guess = bisect(taken_by_sample, allowed * sample.shape[2], -limit, limit)
    low, high = bisect(taken, total, *bracket(taken, total, guess, limit))
    slack = 1e-9 * max(flops)  # the error of a sum that rounding may cause
    return between(log_odds, cost, (low, high), each, total - taken(high) + slack)


def between(log_odds: Tensor, cost: Sequence[float], ks: tuple[float, float], flops: Tensor, rest: float) -> Tensor:
    """The assignment at the higher of two k, but pixels get that of the lower in scan order until `rest` is used up."""
    assignment = torch.empty_like(log_odds[:, 0], dtype=torch.uint8)
    for rows in bands_of(log_odds):
        heavier, lighter = (assign_k(log_odds[..., rows, :], cost, k) for k in ks)
        differ = (heavier != lighter).nonzero(as_tuple=True)
        steps = flops[heavier[differ].long().cpu()] - flops[lighter[differ].long().cpu()]  # MPS has no float64
        affordable = (steps.cumsum(0) <= rest).to(heavier.device)
        lighter[differ] = torch.where(affordable, heavier[differ], lighter[differ])
        rest = rest - float(steps.sum()) if bool(affordable.all()) else -math.inf
        assignment[:, rows] = lighter
    return assignment


def bracket(taken: Callable[[float], float], total: float, guess: float, limit: float) -> tuple[float, float]:
    """Two values of k around `guess`: at the first, more than `total` is taken, at the second it is not."""
    low, high = max(guess - NEAR, -limit), min(guess + NEAR, limit)
    if taken(high) > total:
        return high, limit
    return (low, high) if taken(low) > total else (-limit, low)


def bisect(taken: Callable[[float], float], total: float, low: float, high: float) -> tuple[float, float]:
    """Narrow two values of k: at the first, more than `total` is taken (or it is the lowest k), at the second not."""
    for _ in range(HALVINGS):
        if high - low <= RESOLUTION:
            break
        middle = (low + high) / 2
        if taken(middle) > total:
            low = middle
        else:
            high = middle
    return low, high


def bands_of(log_odds: Tensor) -> Iterator[slice]:
    """Bands of rows of log_odds (b,M-1,H,W), of about DECIDED_PIXELS pixels each."""
    batch, _, height, width = log_odds.shape
    return bands(height, max(1, DECIDED_PIXELS // (batch * width)))


def sampled(log_odds: Tensor) -> Tensor:
    """About SAMPLE pixels, (1,M-1,n), at a stride that has no factor in common with the width.

    So all columns of a whole image are seen, and with them all sub-pixel positions.
    """
    flat, width = log_odds.transpose(0, 1).flatten(1), log_odds.shape[-1]
    stride = max(1, flat.shape[1] // SAMPLE) | 1
    while math.gcd(stride, width) > 1:
        stride += 2
    return flat[None, :, ::stride]


def total_flops(assignment: Tensor, flops: Tensor) -> float:
    """FLOPs of an assignment; flops (M,), those of each upsampler, are float64 on the CPU."""
    counts = [int(torch.count_nonzero(assignment == j)) for j in range(1, len(flops))]
    return float(torch.tensor([assignment.numel() - sum(counts), *counts], dtype=torch.float64) @ flops)


def heaviness(log_odds: Tensor) -> Tensor:
    """The expected upsampler index, the heavy probability when M = 2; (b,M-1,...) -> (b,...)."""
    if log_odds.shape[1] == 1:
        return log_odds[:, 0].sigmoid()
    prob = probabilities(log_odds)
    weight = torch.arange(prob.shape[1], dtype=prob.dtype, device=prob.device)
    return (prob * weight.view(1, -1, *[1] * (prob.ndim - 2))).sum(1)


def assign_adaptive(log_odds: Tensor) -> Tensor:
    """ADM: k-means on the image's own heaviness replaces k (paper); a constant map is all light.

    Heaviness is min-max normalised over the image. The clusters of a strided sample start evenly spread over [0,1], so
    that the outcome is the same on every run.
    """
    count = log_odds.shape[1] + 1
    ends = [heaviness(log_odds[..., rows, :]).aminmax() for rows in bands_of(log_odds)]
    low, high = torch.stack([end.min for end in ends]).min(), torch.stack([end.max for end in ends]).max()
    assignment = torch.zeros_like(log_odds[:, 0], dtype=torch.uint8)
    if float(high - low) < FLAT:
        return assignment
    sample = ((heaviness(sampled(log_odds))[0] - low) / (high - low)).cpu()  # small; the same clusters on every device
    # so that the lowest and the highest cluster hold a pixel from the start
    sample = torch.cat([sample, torch.tensor([0.0, 1.0], dtype=sample.dtype)])[:, None]
    start = torch.linspace(0, 1, count, dtype=sample.dtype)[:, None]
    kmeans = KMeans(n_clusters=count, max_iter=KMEANS_ITERATIONS, mode="euclidean")
    kmeans.fit_predict(sample, centroids=start)
    centroids = kmeans.centroids.flatten().sort().values
    edges = ((centroids[1:] + centroids[:-1]) / 2).to(log_odds.device)
    for rows in bands_of(log_odds):
        normalised = (heaviness(log_odds[..., rows, :]) - low) / (high - low)
        assignment[:, rows] = torch.bucketize(normalised, edges).to(torch.uint8)
    return assignment
