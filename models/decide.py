"""Which upsampler each pixel gets: pure functions of the classifier's output (paper, section 3.3).

Upsamplers are ordered light .. heavy, and an assignment is (b,H,W) uint8, 0 = light .. M-1 = heavy. All rules depend on
the probabilities through `log_odds` (b,M-1,H,W) alone, log(prob_j / prob_0) of the upsamplers j = 1 .. M-1, which are
differences of the classifier's logits. Large images are processed in bands of rows, which bounds the memory.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from fast_pytorch_kmeans import KMeans
from torch import Tensor

from models.flops import PCSRFlops
from models.setting import Setting
from utils.errors import InputError
from utils.patches import bands

SAMPLE = 1 << 16  # pixels on which the threshold of a large image is first estimated
DECIDED_PIXELS = 1 << 21  # pixels looked at together
NEAR = 0.05  # the whole image's k is first sought within this distance of the sample's
KMEANS_ITERATIONS = 20
FLAT = 1e-6  # a map whose values differ by less has nothing to cluster
RESOLUTION = 1e-8  # to which k is sought: pixels closer together than this count as equal
LARGE = 1e30  # of k: beyond it float32 would overflow


def decide(log_odds: Tensor, setting: Setting, account: PCSRFlops) -> Tensor:
    """log_odds (b,M-1,H,W) -> assignment (b,H,W) by the setting's rule; b patches of one image are decided together.

    Raises InputError for a budget that cannot be met.
    """
    if log_odds.shape[1] == 0:  # one upsampler: nothing to decide
        return torch.zeros(len(log_odds), *log_odds.shape[2:], dtype=torch.uint8, device=log_odds.device)
    if setting.rule == "adaptive":
        return assign_adaptive(log_odds)
    cost = account.cost(setting.scale)
    if setting.rule == "budget":
        return assign_budget(log_odds, cost, *budget_per_pixel(account, setting.scale, setting.value))
    return assign_k(log_odds, cost, -math.inf if setting.rule == "heavy" else setting.value)


def probabilities(log_odds: Tensor) -> Tensor:
    """log_odds (b,M-1,...) -> prob (b,M,...), the softmax of the classifier's logits."""
    first = log_odds.new_zeros(len(log_odds), 1, *log_odds.shape[2:])
    return torch.cat([first, log_odds], 1).softmax(1)


def assign_k(log_odds: Tensor, cost: Sequence[float], k: float) -> Tensor:
    """argmax_j prob_j / cost_j^k; larger k is cheaper. k = -inf is all heavy, k = inf all light; ties go to light."""
    if math.isinf(k):
        return torch.full_like(log_odds[:, 0], 0 if k > 0 else log_odds.shape[1], dtype=torch.uint8)
    return argmax_at(log_odds, cost, k)


def argmax_at(log_odds: Tensor, cost: Sequence[float], k: float) -> Tensor:
    """Index of the largest prob_j / cost_j^k, the lightest of equals; (b,M-1,...) -> (b,...) uint8."""
    return argmax_after(log_odds, [max(-LARGE, min(k, LARGE)) * ratio for ratio in log_cost_ratios(cost)])


def log_cost_ratios(cost: Sequence[float]) -> list[float]:
    """log(cost_j / cost_0) of the upsamplers j = 1 .. M-1: by how much k = 1 lowers their log odds."""
    return [math.log(price / cost[0]) for price in cost[1:]]


def argmax_after(log_odds: Tensor, offsets: Sequence[float] | Sequence[Tensor]) -> Tensor:
    """The upsampler with the largest log odds minus its offset, 0 for j = 0; the lightest of equals. (b,...) uint8."""
    index = (log_odds[:, 0] > offsets[0]).to(torch.uint8)
    for j in range(2, len(offsets) + 1):
        score = log_odds[:, j - 1] - offsets[j - 1]
        top = torch.stack([log_odds[:, i] - offsets[i] for i in range(j - 1)]).amax(0).clamp_min(0)
        index = torch.where(score > top, j, index)
    return index


def budget_per_pixel(account: PCSRFlops, scale: float, share: float) -> tuple[list[float], float]:
    """A share of the all-heavy model's FLOPs (paper account) as spend per upsampler and budget, per HR pixel.

    Raises InputError for a share below that of all pixels light.
    """
    fixed = account.per_lr.paper / scale**2 + account.classifier.paper
    spend = [fixed + flops.paper for flops in account.upsamplers]
    if not spend[0] / spend[-1] <= share <= 1:
        least = f"{spend[0] / spend[-1]:.3f}"
        raise InputError(f"budget {share:g}: must lie between {least} (all pixels light) and 1 (all pixels heavy)")
    return spend, share * spend[-1]


def least_budget(account: PCSRFlops, scale: float) -> float:
    """The smallest budget that can be met: the share of the all-heavy model's FLOPs that all pixels light take."""
    spend, budget = budget_per_pixel(account, scale, 1.0)
    return spend[0] / budget


def assign_budget(log_odds: Tensor, cost: Sequence[float], spend: Sequence[float], budget: float) -> Tensor:
    """The assignment of the k rule at that k which spends `budget` on this image, found by bisection.

    `spend` is what a pixel of each upsampler spends, `budget` the mean to reach, in the same unit. Many pixels may
    change at one k, as those of a flat area do. Then as many of them as the budget allows get the heavier choice, in
    scan order. Raises InputError if no assignment meets the budget.
    """
    slack = 1e-9 * max(spend)
    if not min(spend) - slack <= budget <= max(spend) + slack:
        raise InputError(f"budget out of reach: between {min(spend):.4g} and {max(spend):.4g} per pixel")
    prices = torch.tensor(spend, dtype=torch.float64)
    ratios = [math.log(dear / cheap) for cheap, dear in pairwise(cost)]
    limit = 1 + 2 * float(log_odds.detach().abs().amax()) / min(ratios)  # where all are light; all heavy at -limit
    whole, sample = [log_odds[..., rows, :] for rows in bands_of(log_odds)], sampled(log_odds)

    def spent(k: float) -> float:
        return sum(total_spend(argmax_at(band, cost, k), prices) for band in whole)

    def spent_on_sample(k: float) -> float:
        return total_spend(argmax_at(sample, cost, k), prices)

    total = budget * log_odds[:, 0].numel()
    _, guess = bisect(spent_on_sample, budget * sample.shape[2], -limit, limit)
    low, high = bisect(spent, total, *bracket(spent, total, guess, limit))
    return between(log_odds, cost, (low, high), prices, total - spent(high) + slack)


def between(log_odds: Tensor, cost: Sequence[float], ks: tuple[float, float], prices: Tensor, rest: float) -> Tensor:
    """The assignment at the higher of two k, but pixels get that of the lower in scan order until `rest` is spent."""
    assignment = torch.empty_like(log_odds[:, 0], dtype=torch.uint8)
    for rows in bands_of(log_odds):
        heavier, lighter = (argmax_at(log_odds[..., rows, :], cost, k) for k in ks)
        differ = (heavier != lighter).nonzero(as_tuple=True)
        steps = prices[heavier[differ].long().cpu()] - prices[lighter[differ].long().cpu()]  # MPS has no float64
        affordable = (steps.cumsum(0) <= rest).to(heavier.device)
        lighter[differ] = torch.where(affordable, heavier[differ], lighter[differ])
        rest = rest - float(steps.sum()) if bool(affordable.all()) else -math.inf
        assignment[:, rows] = lighter
    return assignment


def bracket(spent: Callable[[float], float], target: float, guess: float, limit: float) -> tuple[float, float]:
    """Two values of k around `guess`: at the first, more than `target` is spent, at the second it is not."""
    low, high = max(guess - NEAR, -limit), min(guess + NEAR, limit)
    if spent(high) > target:
        return high, limit
    return (low, high) if spent(low) > target else (-limit, low)


def bisect(spent: Callable[[float], float], target: float, low: float, high: float) -> tuple[float, float]:
    """Narrow two values of k: at the first, more than `target` is spent (or it is the lowest k), at the second not."""
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        if spent(middle) > target:
            low = middle
        else:
            high = middle
    return low, high


def bands_of(log_odds: Tensor) -> Iterator[slice]:
    """Bands of rows of log_odds (b,M-1,H,W), of about DECIDED_PIXELS pixels each."""
    batch, _, height, width = log_odds.shape
    return bands(height, max(1, DECIDED_PIXELS // (batch * width)))


def sampled(log_odds: Tensor) -> Tensor:
    """About SAMPLE pixels, (1,M-1,n), at an odd stride, as an even one would see few sub-pixel positions."""
    flat = log_odds.transpose(0, 1).flatten(1)
    return flat[None, :, :: max(1, flat.shape[1] // SAMPLE) | 1]


def total_spend(assignment: Tensor, spend: Tensor) -> float:
    """What an assignment spends; spend (M,) float64 on the CPU."""
    counts = [int(torch.count_nonzero(assignment == j)) for j in range(1, len(spend))]
    return float(torch.tensor([assignment.numel() - sum(counts), *counts], dtype=torch.float64) @ spend)


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
