"""`check` accepts right answers and says to each typical wrong one what is wrong with it.

The right answers come by other routes than those in `85_exercises.ipynb`: the library, autograd, integrals on a grid,
enumeration, loops. The wrong ones are written as a reader of the exercise would."""

import itertools
import math
import re
import statistics
from fractions import Fraction

import nbformat
import notebooks
import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)
from torch.nn import functional as F

from vae_tutorial.exercises import check
from vae_tutorial.plots import latent_grid
from vae_tutorial.vae import mlp_vae

double = {"dtype": torch.float64}
GRID = torch.linspace(-14, 14, 2801, **double)
STEP = (GRID[1] - GRID[0]).item()
CORRELATED = torch.tensor([[1.0, 0.6], [0.6, 1.0]], **double)


def density(x, mean=0.0, deviation=1.0):
    return (
        Normal(torch.as_tensor(mean, **double), deviation)
        .log_prob(torch.as_tensor(x, **double))
        .exp()
    )


def gaussian(mean, log_variance):
    return Normal(mean, log_variance.exp().sqrt())


# The routes to the right answers that do not fit into one line of the table.


def line_gap():
    "log p(2) and the ELBO with q = prior, both integrated over z."
    log_likelihood = Normal(1.5 * GRID, 0.5).log_prob(torch.tensor(2.0, **double))
    return ((density(GRID) * log_likelihood.exp()).sum() * STEP).log().item() - (
        (density(GRID) * log_likelihood).sum() * STEP
    ).item()


def through(x, first, second, is_bent):
    "Convolutions of side 3 by modules, each after a ReLU if `is_bent`."
    for weight in (first, second):
        if weight is not None:
            layer = nn.Conv2d(3, 3, 3, padding="same", bias=False, **double)
            layer.weight.data = weight
            x = layer(F.relu(x) if is_bent else x).detach()
    return x


def effective_weight():
    "How much more the loss cares for a nat of KL than for a nat of reconstruction, from its gradients."
    cross_entropy, kl = (
        torch.ones(3, 28, 28, requires_grad=True),
        torch.ones(3, 10, requires_grad=True),
    )
    (cross_entropy.mean((1, 2)) + kl.sum(1)).mean().backward()
    return (kl.grad[0, 0] / cross_entropy.grad[0, 0, 0]).item()


def variance_with_no_entropy():
    low, high = 0.01, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if Normal(0.0, math.sqrt(middle)).entropy() < 0
            else (low, middle)
        )
    return middle


def score_by_autograd(z, mean, log_variance):
    log_variance = log_variance.clone().requires_grad_()
    return torch.autograd.grad(
        gaussian(mean, log_variance).log_prob(z).sum(), log_variance
    )[0]


def differing_pixels(x):
    "The probabilities of all pairs of draws that differ."
    on = Bernoulli(x)
    pairs = [
        (torch.full_like(x, a), torch.full_like(x, b))
        for a, b in itertools.product((0.0, 1.0), repeat=2)
        if a != b
    ]
    return (
        sum((on.log_prob(a) + on.log_prob(b)).exp() for a, b in pairs).flatten(1).sum(1)
    )


def parameters(*sizes):
    with torch.device("meta"):
        return sum(
            p.numel()
            for i, o in itertools.pairwise(sizes)
            for p in nn.Linear(i, o).parameters()
        )


def numbers_kept_by_adam():
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    return sum(kept.shape == weight.shape for kept in optimizer.state[weight].values())


def mean_loss(reconstruction, kl):
    losses = [k - r for r, k in zip(reconstruction, kl)]
    return sum(losses) / len(losses)


def probability_of_a_step():
    z = torch.linspace(*latent_grid(15, latent_dim=1)[7:9, 0].tolist(), 1001, **double)
    return torch.trapezoid(density(z), z).item()


def bits_of_one_pixel():
    "Its density in nats, made a probability of one of 256 bins."
    return -math.log2(math.exp(-1000 / 784) / 256)


def best_width():
    "The width with the highest likelihood, of errors whose mean square is 0.04."
    widths = torch.arange(1, 1000, **double) / 1000
    return widths[
        Normal(0.0, widths)
        .log_prob(torch.tensor([[-0.2], [0.2]], **double))
        .mean(0)
        .argmax()
    ].item()


def squared_way():
    "Mean squared way from N(0, 1) to N(1, 4), quantile by quantile."
    a, b = (Normal(torch.tensor(m, **double), s) for m, s in ((0.0, 1.0), (1.0, 2.0)))
    share = (torch.arange(10**6, **double) + 0.5) / 10**6
    return (a.icdf(share) - b.icdf(share)).square().mean().item()


def standard_error_of_difference(a, b):
    return torch.tensor(
        math.hypot(
            *(
                statistics.stdev(scores.tolist()) / math.sqrt(len(scores))
                for scores in (a, b)
            )
        ),
        **double,
    )


def area_under_the_curve(known, foreign):
    "Share of known scores above each threshold against the share of foreign ones, by trapezoids."
    thresholds = torch.cat([known, foreign]).unique().flip(0)
    rates = [
        torch.cat(
            [
                torch.zeros(1, **double),
                torch.stack(
                    [(scores >= threshold).double().mean() for threshold in thresholds]
                ),
            ]
        )
        for scores in (foreign, known)
    ]
    return torch.trapezoid(rates[1], rates[0])


def outline_of_bar(width, length):
    "How many pairs of neighbouring pixels differ."
    bar = F.pad(torch.ones(length, width, **double), (1, 1, 1, 1))
    return bar.diff(dim=0).abs().sum() + bar.diff(dim=1).abs().sum()


W, S, X = 2.0, 1.0, 5.0
EXERCISES = {  # name: a right answer, then typical wrong ones with a piece of the reason that they must get
    "latent_variables.1": (
        (
            (density(GRID, W * GRID[:, None], S) * density(GRID)[:, None]).sum(0)
            * GRID**2
        )
        .sum()
        .item()
        * STEP**2,
        [
            (W**2, "noise is missing"),
            (W + S, "squared"),
            (math.sqrt(W**2 + S), "standard deviation"),
            (S**2, "noise variance alone"),
        ],
    ),
    "latent_variables.2": (
        (
            (density(GRID) * density(X, W * GRID, S) * GRID).sum()
            / (density(GRID) * density(X, W * GRID, S)).sum()
        ).item(),
        [
            (X / W, "ignores the prior"),
            (W * X, "divide by M"),
            (W / (W**2 + S), "multiply by x"),
            (W * X / (W + S), "W enters M squared"),
            (1 / (W**2 + S), "posterior variance"),
        ],
    ),
    "latent_variables.3": (
        lambda w: 1 / sum((weight / sum(w)) ** 2 for weight in w),
        [
            (lambda w: sum((w / sum(w)) ** 2), "inverse"),
            (lambda w: sum(w) / sum(w * w), "numerator must be squared"),
            (lambda w: sum(w) ** 2 / sum(w * w) / w.numel(), "share"),
            (lambda w: torch.ones((), **double), "Square the weights first"),
        ],
    ),
    "distributions.1": (
        min(
            (v / 100 for v in range(-300, 301)),
            key=lambda v: kl_divergence(
                Normal(3.0, math.exp(v / 2)), Normal(0.0, 1.0)
            ).item(),
        ),
        [
            (1.0, "asked is its logarithm"),
            (2 * math.log(3), "does not enter: its term"),
            (3, "That is the mean"),
            (-1, "sign"),
        ],
    ),
    "distributions.2": (
        Bernoulli(0.5).log_prob((torch.arange(784) % 2).float()).sum().item(),
        [
            (784 * math.log(2), "never positive"),
            (-784, "bits"),
            (math.log(0.5), "one pixel"),
            (28 * math.log(0.5), "28 × 28"),
        ],
    ),
    "distributions.3": (
        variance_with_no_entropy(),
        [
            (math.sqrt(variance_with_no_entropy()), "standard deviation"),
            (math.log(variance_with_no_entropy()), "log variance"),
            (0.5 / math.pi, "the 1 that stands"),
            (1, "1.42"),
        ],
    ),
    "elbo.1": (
        line_gap(),
        [
            (0, "The KL to the *prior*"),
            (kl_divergence(Normal(1.2, 0.1**0.5), Normal(0.0, 1.0)).item(), "order"),
            (10 + 14.4 - 1 - math.log(10), "½"),
            (-line_gap(), "sign"),
        ],
    ),
    "elbo.2": (
        lambda m, v: kl_divergence(gaussian(m, v), gaussian(m * 0, v * 0)).sum(1),
        [
            (lambda m, v: (v.exp() + m.pow(2) - 1 - v).sum(1), "forgot the ½"),
            (
                lambda m, v: 0.5 * (v.exp() + m.pow(2) - 1 - v).mean(1),
                "mean over the latent dimensions",
            ),
            (
                lambda m, v: 0.5 * (v.exp() + m.pow(2) - 1 - v).sum(),
                "summed over the batch",
            ),
            (
                lambda m, v: 0.5 * (v.exp() + m.pow(2) - 1 - v).sum(1).mean(),
                "averaged over the batch",
            ),
            (
                lambda m, v: 0.5 * (v.exp().sqrt() + m.pow(2) - 1 - v).sum(1),
                "σ where σ²",
            ),
            (lambda m, v: 0.5 * (1 + v - m.pow(2) - v.exp()).sum(1), "sign"),
            (
                lambda m, v: -0.5 * (1 + (v**2).log() - m**2 - v**2).sum(1),
                "log variance for σ",
            ),
        ],
    ),
    "elbo.3": (
        effective_weight(),
        [
            (784 / 10, "not averaged"),
            (1 / 784, "other way round"),
            (28, "28 × 28"),
            (784 * 10, "a sum already"),
        ],
    ),
    "reparameterization.1": (
        lambda m, v, e: gaussian(m, v).icdf(Normal(0.0, 1.0).cdf(e)),
        [
            (lambda m, v, e: m + torch.exp(v) * e, "½"),
            (lambda m, v, e: m + e * v, "log variance itself"),
            (lambda m, v, e: torch.exp(v / 2) * e, "mean is missing"),
            (lambda m, v, e: m + torch.exp(v / 2), "noise is missing"),
            (lambda m, v, e: m - torch.exp(v / 2) * e, "convention adds"),
        ],
    ),
    "reparameterization.2": (
        score_by_autograd,
        [
            (lambda z, m, v: (z - m) * (-v).exp(), "score of the mean"),
            (lambda z, m, v: (z - m) ** 2 * (-v).exp() - 1, "forgot the ½"),
            (lambda z, m, v: -score_by_autograd(z, m, v), "sign"),
            (lambda z, m, v: (z - m) ** 2 / (2 * v.exp()), "normalization"),
            (lambda z, m, v: (z - m) ** 2 / (2 * v.exp().sqrt()) - 0.5, "σ where σ²"),
        ],
    ),
    "reparameterization.3": (
        next(n for n in itertools.count(1) if 400 / n <= 1 / 5),
        [
            (math.isqrt(400) * 5, "square root"),
            (400, "*one*"),
            (400 / 5, "multiply"),
            (400**2 * 5, "square of 400"),
        ],
    ),
    "data.1": (
        differing_pixels,
        [
            (lambda x: (x - x**2).flatten(1).sum(1), "one of the two orders"),
            (lambda x: 2 * (x - x**2).flatten(1).mean(1), "mean over pixels"),
            (lambda x: 2 * (x - x**2).sum(), "summed over the batch"),
            (lambda x: 16 - differing_pixels(x), "*agree*"),
        ],
    ),
    "data.2": (
        "validation",
        [
            ("test", "no longer honest"),
            ("train", "has seen those"),
            ("all", "mixes in the test set"),
        ],
    ),
    "data.3": (
        sum(Fraction(5000, 70_000) for _ in range(3500)),
        [(5000 - 250, "training"), (5, "5 % of 5,000"), (0.05, "share")],
    ),
    "networks.1": (
        parameters(784, 128, 64, 2 * 20) + parameters(20, 64, 128, 784),
        [
            (
                parameters(784, 128, 64, 22) + parameters(20, 64, 128, 784),
                "*two* outputs",
            ),
            (
                parameters(784, 128, 64, 40) + parameters(20, 64, 128, 784) - 36,
                "biases",
            ),
            (
                parameters(784, 128, 64, 4) + parameters(2, 64, 128, 784),
                "with 2 latent",
            ),
            (
                parameters(784, 128, 64, 40) + parameters(2, 64, 128, 784),
                "first layer grows",
            ),
        ],
    ),
    "networks.2": (
        min(
            range(1, 300),
            key=lambda width: abs(
                parameters(784, width, 4) - parameters(784, 128, 64, 4)
            ),
        ),
        [
            (round(parameters(784, 128, 64, 4) / (784 + 1)), "output layer"),
            (128 + 64, "many more"),
            (64, "less than half"),
        ],
    ),
    "networks.3": (
        lambda x: torch.stack([image.flatten() for image in x]),
        [
            (lambda x: x.flatten(), "images of the batch into one"),
            (lambda x: x.view(-1, len(x)), "wrong place"),
            (lambda x: x.flatten(1).t(), "Transposed"),
            (lambda x: x[0].reshape(1, -1), "first image"),
        ],
    ),
    "vae.1": (
        lambda l, x: (
            torch.where(x == 1, l.sigmoid(), 1 - l.sigmoid()).flatten(1).prod(1).log()
        ),
        [
            (
                lambda l, x: F.binary_cross_entropy_with_logits(
                    l, x, reduction="none"
                ).sum((1, 2, 3)),
                "sign",
            ),
            (
                lambda l, x: Bernoulli(logits=l).log_prob(x).mean((1, 2, 3)),
                "mean over pixels",
            ),
            (lambda l, x: Bernoulli(logits=l).log_prob(x).sum(), "over the batch"),
            (
                lambda l, x: Bernoulli(logits=l.sigmoid()).log_prob(x).sum((1, 2, 3)),
                "sigmoid too many",
            ),
            (
                lambda l, x: (x * l.sigmoid().log()).sum((1, 2, 3)),
                "Only the pixels that are on",
            ),
        ],
    ),
    "vae.2": (
        next(
            name
            for name in ("sample", "rsample")
            if getattr(
                Normal(torch.zeros(1, requires_grad=True), 1.0), name
            )().requires_grad
        ),
        [
            ("sample", "cuts the gradient"),
            ("mean", "variance is never trained"),
            ("log_prob", "scores a sample"),
        ],
    ),
    "vae.3": (
        lambda p, n: torch.stack([p] * n),
        [
            (lambda p, n: torch.stack([(p > 0.5).double()] * n), "Rounded"),
            (lambda p, n: torch.cat([p] * n), "appended to the first"),
            (lambda p, n: p.clone(), "One copy"),
        ],
    ),
    "training.1": (
        len(torch.arange(55_000).split(128)[-1]),
        [
            (60_000 % 128, "last batch of 60,000"),
            (55_000 // 128, "number of full batches"),
            (128, "last one is smaller"),
            (128 - 55_000 % 128, "missing to a full batch"),
        ],
    ),
    "training.2": (
        mean_loss,
        [
            (lambda r, k: torch.mean(r - k), "a minimizer would make it worse"),
            (lambda r, k: -r.mean() - k.mean(), "wrong sign"),
            (lambda r, k: (k - r).sum(), "sum over the batch"),
            (lambda r, k: torch.mean(-r), "autoencoder"),
            (lambda r, k: k - r, "average over the batch"),
        ],
    ),
    "training.3": (
        numbers_kept_by_adam(),
        [(1, "squares"), (3, "weight itself"), (0, "plain gradient descent")],
    ),
    "evaluation.1": (
        lambda means, sizes: means.repeat_interleave(sizes.long()).mean(),
        [
            (lambda means, sizes: sum(means) / len(means), "same weight"),
            (lambda means, sizes: means @ sizes, "Divide by the number of images."),
            (
                lambda means, sizes: sum(means) / sum(sizes),
                "multiplied by their numbers",
            ),
            (lambda means, sizes: means @ sizes / len(sizes), "not of batches"),
        ],
    ),
    "evaluation.2": (
        -F.binary_cross_entropy_with_logits(
            torch.zeros(784), (torch.arange(784) % 3 == 0).float(), reduction="sum"
        ).item(),
        [
            (784 * math.log(2), "sign"),
            (0, "perfect"),
            (-206, "mean image"),
            (784 * math.log2(0.5), "bits"),
        ],
    ),
    "evaluation.3": (
        lambda w: w.exp().mean(0).log(),
        [
            (lambda w: w.sum(0) / len(w), "the ELBO"),
            (lambda w: w.exp().sum(0).log(), "forgot to divide by K"),
            (lambda w: w.exp().sum(0).log() / len(w), "inside the logarithm"),
            (lambda w: w.exp().sum(0) / len(w), "logarithm is missing"),
            (lambda w: w.amax(0), "largest weight alone"),
        ],
    ),
    "latent_space.1": (
        lambda m, v: (
            MixtureSameFamily(
                Categorical(torch.ones(m.T.shape)), Normal(m.T, v.T.sqrt())
            ).variance
        ),
        [
            (lambda m, v: (m - m.mean(0)).square().mean(0), "single posteriors"),
            (lambda m, v: v.sum(0) / len(v), "spread of the means"),
            (
                lambda m, v: (m - m.mean(0)).square().mean(0).sqrt() + v.mean(0),
                "standard deviation",
            ),
            (
                lambda m, v: ((m - m.mean(0)).square() + v).mean(0).sum(),
                "dimensions apart",
            ),
        ],
    ),
    "latent_space.2": (
        torch.lerp,
        [
            (lambda start, end, t: torch.lerp(end, start, t), "backwards"),
            (lambda start, end, t: start + end * t, "*difference*"),
            (lambda start, end, t: (start + end) / 2, "always the middle"),
            (lambda start, end, t: start + t * (start - end), "away from the end"),
        ],
    ),
    "latent_space.3": (
        probability_of_a_step(),
        [
            (0.95 / 15, "14 steps between 15 points."),
            (1 / 14, "2.5 % at each end."),
            (1 / 15, "2.5 % at each end, and"),
            (2 * 1.96 / 14, "step in z"),
        ],
    ),
    "command_line.1": (
        "--pixels grey",
        [
            ("--pixels binary", "the default."),
            ("--latent-dim 2", "default, and the post's"),
            ("--data grey", "data set is mnist"),
        ],
    ),
    "command_line.2": (
        len(torch.arange(60_000).split(128)),
        [
            (60_000 // 128, "a step too"),
            (60_000 / 128, "round up"),
            (10 * 469, "ten epochs"),
            (len(torch.arange(55_000).split(128)), "held out"),
        ],
    ),
    "command_line.3": (
        "--resume",
        [
            ("--overwrite", "start anew"),
            ("--out", "refused"),
            ("--seed", "stays what it was"),
        ],
    ),
    "results.1": (
        standard_error_of_difference,
        [
            (lambda a, b: (a.std() ** 2 + b.std() ** 2).sqrt(), "*single* seeds"),
            (
                lambda a, b: a.std() / math.sqrt(len(a)) + b.std() / math.sqrt(len(b)),
                "do not add",
            ),
            (
                lambda a, b: (
                    (a - a.mean()).square().mean() / len(a)
                    + (b - b.mean()).square().mean() / len(b)
                ).sqrt(),
                "n - 1",
            ),
            (lambda a, b: standard_error_of_difference(a, b) ** 2, "root"),
            (lambda a, b: ((a.var() + b.var()) / 3).sqrt(), "`len`"),
            (
                lambda a, b: abs(a.var() / len(a) - b.var() / len(b)) ** 0.5,
                "variances add",
            ),
            (lambda a, b: a.mean() - b.mean(), "difference itself"),
            (
                lambda a, b: torch.hstack([a, b]).std() / math.sqrt(len(a) + len(b)),
                "mix",
            ),
        ],
    ),
    "results.2": (
        kl_divergence(Normal(torch.zeros(8), 0.5), Normal(0.0, 1.0)).sum().item(),
        [
            (0, "the KL does not"),
            (kl_divergence(Normal(0.0, 0.5), Normal(0.0, 1.0)).item(), "one dimension"),
            (
                20 * kl_divergence(Normal(0.0, 0.5), Normal(0.0, 1.0)).item(),
                "stay as they are",
            ),
            (8 * (0.25 - 1 + 2 * math.log(2)), "½"),
            (4 * (0.5 - 1 + math.log(2)), "σ where σ²"),
            (8 * kl_divergence(Normal(0.0, 1.0), Normal(0.0, 0.5)).item(), "order"),
            (4 * (1 - 0.25 - 2 * math.log(2)), "sign"),
        ],
    ),
    "results.3": (
        "unknown",
        [
            ("binary", "never scored those"),
            ("grey", "higher would win"),
            ("equal", "different images"),
        ],
    ),
    "downstream.1": (
        lambda w, l: 2 * w * l / outline_of_bar(int(w), int(l)),
        [
            (lambda w, l: w + 0 * l, "true width"),
            (lambda w, l: w * l / outline_of_bar(int(w), int(l)), "*half*"),
            (
                lambda w, l: 4 * w * l / outline_of_bar(int(w), int(l)),
                "half of it is w + l",
            ),
            (lambda w, l: 1 * l, "That is the length"),
            (lambda w, l: l * w, "That is the ink"),
        ],
    ),
    "downstream.2": (
        lambda each, log_q: (
            each.logsumexp(1)
            - kl_divergence(Categorical(logits=log_q), Categorical(logits=each))
        ),
        [
            (
                lambda each, log_q: torch.einsum("ny,ny->n", log_q.exp(), each),
                "entropy of q is missing",
            ),
            (
                lambda each, log_q: (
                    (log_q.exp() * each).sum(1) - Categorical(logits=log_q).entropy()
                ),
                "sign is flipped",
            ),
            (lambda each, log_q: each.exp().sum(1).log(), "best q"),
            (lambda each, log_q: each.sum(1) / 10, "same weight"),
            (
                lambda each, log_q: (log_q * each).sum(1) - (log_q**2).sum(1),
                "probabilities",
            ),
            (
                lambda each, log_q: (
                    (log_q.exp() * each).sum(1) + Categorical(logits=log_q).entropy()
                ).mean(),
                "one value per image",
            ),
        ],
    ),
    "downstream.3": (
        -Bernoulli(0.5).log_prob((torch.arange(392) % 2).double()).sum().item(),
        [
            (392 * math.log(0.5), "positive"),
            (784 * math.log(2), "half of the 784"),
            (392, "bits"),
            (0, "not one"),
            (math.log(2), "one pixel"),
        ],
    ),
    "diagnosis.1": (
        28**2 * 20 / 20,
        [
            (1 / 28**2, "Turn it round"),
            (39.2, "summed over its 20"),
            (28, "28 times 28"),
            (1, "weigh differently"),
        ],
    ),
    "diagnosis.2": (
        lambda m, s: torch.distributions.kl_divergence(
            Normal(m, s.exp()), Normal(0.0, 1.0)
        ),
        [
            (lambda m, s: -0.5 * (1 + s - m.square() - s.exp()), "log variance"),
            (lambda m, s: 0.5 * (m * m + (2 * s).exp() - 1 - s), "is 2s"),
            (lambda m, s: 0.5 * (m * m + s * s - 1 - 2 * s.abs().log()), "itself"),
            (lambda m, s: m * m + (2 * s).exp() - 1 - 2 * s, "½"),
            (
                lambda m, s: (
                    -torch.distributions.kl_divergence(
                        Normal(m, s.exp()), Normal(0.0, 1.0)
                    )
                ),
                "never negative",
            ),
        ],
    ),
    "diagnosis.3": (
        torch.sigmoid(torch.tensor(1.0, **double)).item(),
        [
            (1, "not infinity"),
            (0.5, "smallest"),
            (torch.sigmoid(torch.tensor(0.5)).item(), "middle"),
        ],
    ),
    "speed_and_scale.1": (
        32 * sum(2 * 100 * 10 for product in ("forward", "weights", "input")),
        [
            (2 * 100 * 10 * 32, "forward pass alone"),
            (3 * 100 * 10 * 32, "two operations"),
            (3 * 2 * 100 * 10, "one image"),
            (2 * 2 * 100 * 10 * 32, "input needs"),
        ],
    ),
    "speed_and_scale.2": (
        lambda logits, x: torch.autograd.grad(
            F.binary_cross_entropy_with_logits(
                l := logits.clone().requires_grad_(), x, reduction="sum"
            ),
            l,
        )[0],
        [
            (lambda l, x: x - torch.sigmoid(l), "the sign"),
            (lambda l, x: l - x, "derivative of softplus"),
            (
                lambda l, x: (
                    torch.sigmoid(l) * torch.sigmoid(-l) * (torch.sigmoid(l) - x)
                ),
                "cancels",
            ),
            (lambda l, x: (torch.sigmoid(l) - x).mean(0), "no mean"),
        ],
    ),
    "speed_and_scale.3": (
        100 / 60,
        [
            (100 / 40, "vanished"),
            (0.6, "old over the new"),
            (0.4, "saved"),
            (1.4, "more than 40"),
        ],
    ),
    "your_own_images.1": (
        50_000 * torch.zeros(3, 64, 64).numel() * torch.zeros(1).element_size(),
        [
            (50_000 * 64**2 * 4, "three channels"),
            (50_000 * 3 * 64**2, "one byte"),
            (50_000 * 3 * 64 * 4, "both count"),
            (50_000 * 3 * 64**2 * 32, "four bytes"),
        ],
    ),
    "your_own_images.2": (
        (640 - 480) * 480 / (640 * 480),
        [
            (480 / 640, "kept"),
            ((640 - 480) / 480, "whole picture"),
            (0.0, "stands over"),
            (1 - 1024 / 307_200, "only the crop"),
        ],
    ),
    "your_own_images.3": (
        lambda a: torch.stack(
            [a[..., channel] for channel in range(a.shape[-1])], dim=1
        ),
        [
            (lambda a: a.reshape(len(a), a.shape[-1], *a.shape[1:3]), "reshape"),
            (lambda a: a.transpose(1, 3), "swapped"),
            (lambda a: a.movedim(-1, 0), "not before"),
            (lambda a: a.clone(), "still last"),
        ],
    ),
    "live_figures.1": (
        lambda r: torch.tensor(
            [
                (
                    ((GRID[:, None] ** 2 + GRID**2).sqrt() > radius)
                    * density(GRID)[:, None]
                    * density(GRID)
                )
                .sum()
                .item()
                * STEP**2
                for radius in r.tolist()
            ],
            **double,
        ),
        [
            (lambda r: 1 - torch.exp(-r * r / 2), "*within*"),
            (lambda r: torch.exp(-r * r), "½"),
            (lambda r: density(r) * density(0.0), "density at one point"),
            (lambda r: 2 * Normal(0.0, 1.0).cdf(-r), "one dimension"),
        ],
    ),
    "live_figures.2": (
        sum(
            parameter.numel() * torch.finfo(torch.float16).bits // 8
            for parameter in mlp_vae().parameters()
        ),
        [
            (218_644 * 32 // 8, "32 bits"),
            (218_644 * 16, "a byte has eight"),
            (218_644 * 8 // 8, "one byte"),
        ],
    ),
    "live_figures.3": (
        lambda m: (
            torch.tensor(
                [
                    sum(
                        place[axis] * m[place].item()
                        for place in itertools.product(range(28), range(28))
                    )
                    for axis in (0, 1)
                ],
                **double,
            )
            / m.sum()
        ),
        [
            (
                lambda m: (
                    torch.stack(
                        [
                            (m.sum(0) * torch.arange(28)).sum(),
                            (m.sum(1) * torch.arange(28)).sum(),
                        ]
                    )
                    / m.sum()
                ),
                "swapped",
            ),
            (
                lambda m: (
                    torch.stack(
                        [
                            (m.sum(1) * (torch.arange(28) + 0.5)).sum(),
                            (m.sum(0) * (torch.arange(28) + 0.5)).sum(),
                        ]
                    )
                    / m.sum()
                ),
                "corner",
            ),
            (
                lambda m: torch.stack(
                    [
                        (m.sum(1) * torch.arange(28)).sum(),
                        (m.sum(0) * torch.arange(28)).sum(),
                    ]
                ),
                "Divide by the mass",
            ),
            (
                lambda m: (
                    torch.stack(
                        [
                            (m.sum(1) * torch.arange(1, 29)).sum(),
                            (m.sum(0) * torch.arange(1, 29)).sum(),
                        ]
                    )
                    / m.sum()
                ),
                "from zero",
            ),
        ],
    ),
    "ais.1": (
        sum(step * r for step, r in zip((0.25, 0.75), (-104, -100))),
        [
            ((-104 + -100) / 2, "differ"),
            (0.75 * -104 + 0.25 * -100, "swapped"),
            (-104 + -100, "multiplied"),
            (0.25 * 104 + 0.75 * 100, "sign"),
        ],
    ),
    "ais.2": (
        "lower",
        [
            ("upper", "you have none"),
            ("both", "Whence"),
            ("neither", "starts from the encoder"),
        ],
    ),
    "ais.3": (
        lambda accounts: -accounts.exp().mean(0).log(),
        [
            (lambda accounts: accounts.exp().mean(0).log(), "estimates log 1"),
            (lambda accounts: -accounts.mean(0), "looser"),
            (lambda accounts: -accounts.exp().sum(0).log(), "subtract log M"),
            (lambda accounts: -accounts.max(0).values, "All walks count"),
        ],
    ),
    "hierarchy.1": (
        round((3 * 2 + 0 * 1) / 3),
        [
            ((0 + 3) / 2, "plain average"),
            (3 / 3, "swapped"),
            (3 / 0.5, "sum of the precisions"),
        ],
    ),
    "hierarchy.2": (
        "bottom-up",
        [
            ("top-down", "it is"),
            ("both", "From the top down"),
            ("neither", "drawn from the lower"),
        ],
    ),
    "hierarchy.3": (
        lambda first, second: first * second / (first + second),
        [
            (lambda first, second: first + second, "variance of a sum"),
            (lambda first, second: first**-1 + second**-1, "the precision"),
            (lambda first, second: (first + second) / 2, "An average"),
            (lambda first, second: first * second, "divide by a"),
        ],
    ),
    "vector_quantization.1": (
        8 * 8 * 9 * math.log(2),
        [
            (8 * 8 * math.log2(512), "bits"),
            (9 * math.log(2), "one code"),
            (8 * 9 * math.log(2), "has 64 codes"),
        ],
    ),
    "vector_quantization.2": (
        2**1.5,
        [
            (0.75 * math.log(4), "the entropy"),
            (3, "not equally often"),
            (4, "all four"),
            (1 / (1 / 4 + 1 / 16 + 1 / 16), "another measure"),
        ],
    ),
    "vector_quantization.3": (
        lambda p: torch.exp(-torch.xlogy(p, p).sum()),
        [
            (lambda p: -torch.xlogy(p, p).sum(), "the entropy"),
            (lambda p: torch.exp(torch.xlogy(p, p).sum()), "one over it"),
            (lambda p: 1 / (p**2).sum(), "Another measure"),
            (lambda p: torch.exp(-torch.log(p).mean()), "by its share"),
        ],
    ),
    "text.1": (
        math.log(5) - 0.13863,
        [
            (math.log(5), "equally often"),
            (2.12193, "bits"),
            (4.35276, "the perplexity"),
            (1.47081 + math.log(10), "with its consonant"),
        ],
    ),
    "text.2": (
        "floor",
        [
            ("information", "0.3 of the 4"),
            ("decoder", "tells it nothing"),
            ("prior", "has no KL"),
        ],
    ),
    "text.3": (
        lambda kl, floor: torch.maximum(kl.mean(0), torch.tensor(floor)).sum(),
        [
            (lambda kl, floor: kl.clamp(min=floor).sum() / 6, "Average, then"),
            (lambda kl, floor: (kl.sum() / 6).clamp(min=floor), "Each one has"),
            (lambda kl, floor: kl.sum() / 6, "without a floor"),
            (lambda kl, floor: (kl.mean(0) - floor).clamp(min=0).sum(), "Below it"),
        ],
    ),
    "posterior_gap.1": (
        next(gap / 10 for gap in range(100) if -124.5 + gap / 10 == -121.0),
        [
            (-120.0 - -121.0, "approximation gap"),
            (-120.0 - -124.5, "both together"),
            (-124.5 - -121.0, "sign"),
        ],
    ),
    "posterior_gap.2": (
        "both",
        [
            ("approximation", "not all"),
            ("amortization", "not all"),
            ("neither", "is Gaussian"),
        ],
    ),
    "posterior_gap.3": (
        lambda joint, marginal: joint.exp() / marginal.exp(),
        [
            (lambda joint, marginal: joint - marginal, "*log* density"),
            (
                lambda joint, marginal: joint.exp() * marginal.exp(),
                "subtracts logarithms",
            ),
            (lambda joint, marginal: joint.exp(), "That is the joint"),
            (lambda joint, marginal: joint / marginal, "not divided"),
        ],
    ),
    "flows.1": (
        math.log(math.exp(-2.0) / math.exp(0.3)),
        [
            (-2.0 + 0.3, "sign"),
            (-2.0, "density changes"),
            (-2.0 - math.exp(0.3), "log scale itself"),
        ],
    ),
    "flows.2": (
        math.prod(math.e for layer in range(4) if layer % 2),
        [
            (math.e**4, "one half only"),
            (math.e, "one layer"),
            (2.0, "log of the factor"),
            (4.0, "add up"),
        ],
    ),
    "flows.3": (
        lambda y: LogNormal(*torch.tensor([0.0, 1.0], **double)).log_prob(y),
        [
            (lambda y: Normal(0.0, 1.0).log_prob(y.log()), "is missing"),
            (lambda y: Normal(0.0, 1.0).log_prob(y.log()) + y.log(), "The sign"),
            (lambda y: Normal(0.0, 1.0).log_prob(y.log()) - y, "that is y"),
            (lambda y: Normal(0.0, 1.0).log_prob(y) - y.log(), "before the move"),
        ],
    ),
    "priors.1": (
        math.log(sum(math.exp(0.5) * (k == 7) for k in range(100)) / 100),
        [
            (0.5, "has a weight"),
            (0.5 / 100, "logarithm is added"),
            (0.5 + math.log(100), "The sign"),
            (0.5 - 100, "take its logarithm"),
        ],
    ),
    "priors.2": (
        squared_way(),
        [
            (1.0, "alone"),
            (1.0 + 1 + 4, "twice their product"),
            (4.0, "deviations"),
            (1.0 + 1 + 4 - 2 * 4, "variances"),
        ],
    ),
    "priors.3": (
        lambda scores: (sum(scores.exp().unbind(1)) / scores.shape[1]).log(),
        [
            (lambda scores: scores.mean(-1), "averages logarithms"),
            (lambda scores: scores.logsumexp(-1), "weights are missing"),
            (lambda scores: scores.exp().mean(-1), "take its log"),
            (lambda scores: scores.max(-1).values, "not the largest"),
        ],
    ),
    "bounds.1": (
        math.log((1 + 3) / 2) - statistics.mean([math.log(1), math.log(3)]),
        [
            (2 - math.sqrt(1 * 3), "without logarithms"),
            (math.log((1 + 3) / 2), "is not zero"),
            (statistics.mean([math.log(1), math.log(3)]) - math.log(2), "The sign"),
            (math.log(1 + 3) - math.log(3) / 2, "by two"),
        ],
    ),
    "bounds.2": (
        0.2 / math.sqrt(100 / 4),
        [
            (0.2 * 4 / 100, "how the signal falls"),
            (0.2, "does depend"),
            (0.2 * math.sqrt(100 / 4), "does not rise"),
        ],
    ),
    "bounds.3": (
        lambda log_weights: (
            (log_weights.exp() / sum(log_weights.exp()))
            * (log_weights - log_weights.logsumexp(0)).exp()
        ),
        [
            (
                lambda log_weights: log_weights.exp() / log_weights.exp().sum(0),
                "square it",
            ),
            (lambda log_weights: (2 * log_weights).exp(), "Divide by the sum"),
            (
                lambda log_weights: (
                    (log_weights.exp() / log_weights.exp().sum(1, keepdim=True)) ** 2
                ),
                "over the samples",
            ),
            (
                lambda log_weights: (
                    log_weights.exp() ** 2 / (log_weights.exp() ** 2).sum(0)
                ),
                "then square",
            ),
        ],
    ),
    "convolutional.1": (
        sum(p.numel() for p in nn.Conv2d(64, 64, 3).parameters()),
        [
            (nn.Conv2d(64, 64, 3, bias=False).weight.numel(), "biases are missing"),
            (64 * (9 + 1), "all 64 input channels"),
            (sum(p.numel() for p in nn.Linear(64, 64).parameters()), "nine places"),
        ],
    ),
    "convolutional.2": (
        nn.Conv2d(64, 64, 3).weight.numel()
        * 7
        * 7
        / nn.Linear(784, 256).weight.numel(),
        [
            (64 * 64 * 9 / (784 * 256), "each of the 49 places"),
            (784 * 256 / (64 * 64 * 9 * 49), "other way round"),
            (64 * 64 * 9 * 196 / (784 * 256), "7 × 7 here"),
        ],
    ),
    "convolutional.3": (
        lambda x, first, second: through(x, first, second, True) + x,
        [
            (lambda x, a, b: through(x, a, b, True), "not added"),
            (lambda x, a, b: through(x, a, None, True) + x, "two convolutions"),
            (lambda x, a, b: through(x, a, b, False) + x, "are one"),
        ],
    ),
    "conditional.1": (
        Categorical(torch.ones(4, **double) / 4).entropy().item(),
        [
            (math.log2(4), "bits"),
            (1 / 4, "minus its logarithm"),
            (math.log(1 / 4), "sign"),
            (math.log(10), "ten classes"),
        ],
    ),
    "conditional.2": (
        torch.tensor([-100.0, -102.0], **double).softmax(0)[0].item(),
        [
            (torch.tensor([-100.0, -102.0], **double).softmax(0)[1].item(), "the 5"),
            (math.exp(-102 + 100), "ratio"),
            (0.5, "before"),
            (100 / 202, "exponential first"),
        ],
    ),
    "conditional.3": (
        lambda by_label, frequency: (by_label.exp() * frequency).sum(1).log(),
        [
            (lambda by_label, frequency: by_label.logsumexp(-1), "is missing"),
            (lambda by_label, frequency: by_label @ frequency, "averages logarithms"),
            (lambda b, f: (b + f).exp().sum(-1).log(), "logarithm of p(y)"),
            (lambda b, f: (b + f.log()).max(-1).values, "not the likeliest"),
        ],
    ),
    "disentanglement.1": (
        kl_divergence(
            MultivariateNormal(torch.zeros(2, **double), CORRELATED),
            MultivariateNormal(torch.zeros(2, **double), torch.eye(2, **double)),
        ).item(),
        [
            (math.log(0.64) / 2, "sign"),
            (-math.log(0.64), "square root"),
            (-math.log(0.4) / 2, "determinant"),
            (0.0, "independent"),
        ],
    ),
    "disentanglement.2": (
        (1.0 - 0.3) / Categorical(torch.ones(4, **double)).entropy().item(),
        [
            (1.0 - 0.3, "entropy"),
            (1.0 / math.log(4), "subtracted"),
            ((1.0 - 0.3) / 2, "not 2 bits"),
            ((1.0 - 0.3) / 4, "number of values"),
        ],
    ),
    "disentanglement.3": (
        lambda c: kl_divergence(
            MultivariateNormal(c.new_zeros(len(c)), c),
            MultivariateNormal(c.new_zeros(len(c)), c.diagonal().diag()),
        ),
        [
            (lambda c: -c.logdet() / 2, "need not be 1"),
            (lambda c: c.diagonal().log().sum() - c.logdet(), "Half"),
            (lambda c: (c.logdet() - c.diagonal().log().sum()) / 2, "sign"),
            (lambda c: (c.diagonal().log().sum() - c.det()) / 2, "log of det"),
        ],
    ),
    "latent_diffusion.1": (
        torch.lerp(torch.tensor(1.0), torch.tensor(3.0), 0.25).item(),
        [
            (3 - 0.25 * (3 - 1), "swapped"),
            ((3 + 1) / 2, "half way"),
            (3 / 4, "missing"),
        ],
    ),
    "latent_diffusion.2": (
        2 + (3 - 1) * (2 - 0.5),
        [
            (3 * 2, "three times the velocity"),
            (3 * (2 - 0.5), "is missing"),
            (2, "guidance 1"),
            (2 + (2 - 0.5), "guidance 2"),
        ],
    ),
    "latent_diffusion.3": (
        lambda found, z, noise: (
            torch.linalg.vector_norm(z - noise - found, dim=-1) ** 2
        ),
        [
            (lambda v, z, e: ((v + z - e) ** 2).sum(-1), "goes to z"),
            (lambda v, z, e: ((v - z) ** 2).sum(-1), "is no place"),
            (lambda v, z, e: ((v - (z - e)) ** 2).mean(-1), "not average"),
            (lambda v, z, e: (v - (z - e)).sum(-1) ** 2, "then sum"),
        ],
    ),
    "gallery.1": (
        math.log(math.exp(-113) * 0.1),
        [
            (-113 + math.log(10), "has to be paid for"),
            (-113, "came for nothing"),
            (-113 + math.log10(0.1), "base ten"),
            (-113 - math.log2(10), "takes off bits"),
        ],
    ),
    "gallery.2": (
        torch.tensor([1.0, -1.0], **double)
        .matmul(torch.tensor([[900.0, 855.0], [855.0, 900.0]], **double))
        .dot(torch.tensor([1e-3, -1e-3], **double))
        .sqrt()
        .item(),
        [
            (math.hypot(30, 30) / 1000**0.5, "do not share"),
            ((2 * 45) ** 0.5, "not of the mean"),
            (2 * 45 / 1000, "its square"),
            (30 / 1000**0.5, "one model's mean"),
        ],
    ),
    "gallery.3": (
        lambda bounds: torch.stack([b.exp() for b in bounds]).mean(0).log(),
        [
            (lambda bounds: bounds.sum(0) / len(bounds), "looser one"),
            (lambda bounds: bounds.max(0).values, "Too high"),
            (lambda bounds: bounds.exp().sum(0).log(), "chances are missing"),
            (
                lambda bounds: bounds.max(0).values - math.log(bounds.shape[0]),
                "left out",
            ),
            (lambda bounds: bounds.exp().mean(0), "its logarithm"),
        ],
    ),
    "outlook.1": (
        3 * 256**2 / (4 * (256 / 8) ** 2),
        [
            (8**2, "four numbers, the pixels three"),
            (3 * 8**2, "holds four numbers"),
            (8**2 / 4, "holds three numbers"),
            (4 / (3 * 8**2), "other way round"),
        ],
    ),
    "outlook.2": (
        "encoder",
        [
            ("decoder", "removes the noise"),
            ("prior", "another part"),
            ("noise", "anew"),
        ],
    ),
    "outlook.3": (
        lambda elbo, n: elbo.exp().log2() / -n,
        [
            (lambda elbo, n: elbo / -n, "in nats"),
            (lambda elbo, n: elbo.exp().log2() / n, "A length is positive"),
            (lambda elbo, n: elbo / -n * math.log(2), "more than a bit"),
            (lambda elbo, n: -elbo.exp().log2(), "whole image"),
        ],
    ),
    "likelihoods.1": (
        bits_of_one_pixel(),
        [
            (bits_of_one_pixel() - 8, "width of the bins"),
            (1000 / 784 + math.log2(256), "nats"),
            (8 - 1000 / 784 / math.log(2), "sign"),
            (1000 / math.log(2) + 8, "784"),
        ],
    ),
    "likelihoods.2": (
        best_width(),
        [(0.04, "the variance."), (0.04 / 2, "No half"), (1, "plain squared error")],
    ),
    "likelihoods.3": (
        lambda x, p: ContinuousBernoulli(p).log_prob(x),
        [
            (
                lambda x, p: -F.binary_cross_entropy(p, x, reduction="none"),
                "without its normalizer",
            ),
            (
                lambda x, p: (
                    -2 * F.binary_cross_entropy(p, x, reduction="none")
                    - ContinuousBernoulli(p).log_prob(x)
                ),
                "wrong sign",
            ),
            (
                lambda x, p: ContinuousBernoulli(p).log_prob(x).exp(),
                "asked is its logarithm",
            ),
            (
                lambda x, p: (
                    -F.binary_cross_entropy(p, x, reduction="none")
                    - (1 - 2 * p) / ((1 - p) / p).log()
                ),
                "*logarithm* of the integral",
            ),
        ],
    ),
    "limits.1": (
        lambda p, q: sum(
            (
                Bernoulli(p).log_prob(torch.full_like(p, a))
                + Bernoulli(q).log_prob(torch.full_like(q, b))
            ).exp()
            * (a - b) ** 2
            for a, b in itertools.product((0.0, 1.0), repeat=2)
        ),
        [
            (lambda p, q: p**2 - 2 * p * q + q**2, "noise of the draw"),
            (lambda p, q: p - p**2 + q - q**2, "noise alone"),
            (lambda p, q: p - p * q, "two orders"),
            (lambda p, q: 1 - p - q + 2 * p * q, "*agree*"),
            (lambda p, q: torch.abs(q - p), "distance of the probabilities"),
        ],
    ),
    "limits.2": (
        area_under_the_curve,
        [
            (lambda known, foreign: area_under_the_curve(foreign, known), "swapped"),
            (
                lambda known, foreign: torch.stack(
                    [(known > score).double() for score in foreign]
                ).mean(),
                "ties are missing",
            ),
            (
                lambda known, foreign: torch.stack(
                    [(known >= score).double() for score in foreign]
                ).mean(),
                "not fully",
            ),
            (
                lambda known, foreign: (
                    known.sum() / len(known) - foreign.sum() / len(foreign)
                ),
                "in nats",
            ),
            (
                lambda known, foreign: (
                    (known > foreign.sum() / len(foreign)).double().mean()
                ),
                "every foreign score",
            ),
        ],
    ),
    "limits.3": (
        lambda kl, floor: torch.tensor(
            sum(max(floor, statistics.fmean(column)) for column in kl.T.tolist()),
            **double,
        ),
        [
            (
                lambda kl, floor: (
                    torch.maximum(kl, torch.full_like(kl, floor)).sum() / len(kl)
                ),
                "each image",
            ),
            (lambda kl, floor: kl.sum() / len(kl), "floor is missing"),
            (
                lambda kl, floor: torch.tensor(
                    max(floor, (kl.sum() / len(kl)).item()), **double
                ),
                "of its own",
            ),
            (lambda kl, floor: F.relu(kl.mean(0) - floor).sum(), "right gradient"),
            (
                lambda kl, floor: torch.minimum(
                    kl.mean(0), torch.full_like(kl[0], floor)
                ).sum(),
                "ceiling",
            ),
            (
                lambda kl, floor: torch.maximum(
                    kl.mean(0), torch.full_like(kl[0], floor)
                ).mean(),
                "Sum over the dimensions",
            ),
        ],
    ),
}
WRONG = [
    (name, wrong, reason)
    for name, (_, wrongs) in EXERCISES.items()
    for wrong, reason in wrongs
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("check must work offline")

    for way in (
        "socket.socket.connect",
        "socket.create_connection",
        "socket.getaddrinfo",
    ):
        monkeypatch.setattr(way, refuse)


def names():
    with pytest.raises(
        ValueError, match="there is no exercise 'nonsense': choose one of "
    ) as error:
        check("nonsense", 1)
    return set(str(error.value).split("choose one of ")[1].split(", "))


def test_every_exercise_is_tested():
    assert names() == set(EXERCISES)
    assert all(len(wrongs) >= 3 for _, wrongs in EXERCISES.values())


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answer(name):
    verdict = check(name, EXERCISES[name][0])
    assert verdict.right, verdict
    assert repr(verdict) == f"Right. {verdict.message}"


@pytest.mark.parametrize(
    "name, wrong, reason", WRONG, ids=[f"{name}-{reason}" for name, _, reason in WRONG]
)
def test_wrong_answer_gets_its_reason(name, wrong, reason):
    verdict = check(name, wrong)
    assert not verdict.right and reason in verdict.message.split("Hint: ")[0], verdict
    assert repr(verdict) == f"Not yet. {verdict.message}"


@pytest.mark.parametrize("name", EXERCISES)
def test_no_answer_is_told_what_to_do_and_gets_no_hint(name):
    right = EXERCISES[name][0]
    wanted = "word, in quotes" if isinstance(right, str) else "number"
    wanted = "function" if callable(right) else wanted
    told = f"No answer given: replace None by your {wanted}, and run the cell."
    assert check(name) == check(name, None) == (False, told)


@pytest.mark.parametrize("name", EXERCISES)
def test_useless_answers_get_a_hint_and_no_reason(name):
    hint = check(name, "sigma").message.partition("Hint: ")[2]
    assert len(hint) >= 15
    right, is_function = EXERCISES[name][0], callable(EXERCISES[name][0])
    if is_function:
        expected = {
            17.5: "wants a function, not a float",
            "sigma": "wants a function, not a str",
        }
    elif isinstance(right, str):
        expected = {17.5: "should be like str", "sigma": ""}
    else:
        expected = {17.5: "", "sigma": "should be like"}
    for answer, message in expected.items():
        verdict = check(name, answer)
        before, _, after = verdict.message.partition("Hint: ")
        assert (
            not verdict.right
            and after == hint
            and message in before
            and bool(message) == bool(before)
        ), verdict


@pytest.mark.parametrize(
    "name", [name for name, (right, _) in EXERCISES.items() if callable(right)]
)
def test_useless_functions(name):
    def fails(*_):
        raise KeyError("no such thing")

    for function, message in (
        (fails, "raised KeyError for arguments like ("),
        (lambda: 1, "raised TypeError"),
        (lambda *_: None, "like Tensor, not None"),
        (lambda *_: torch.zeros(9, 9), "has shape (9, 9), it should have ("),
    ):
        verdict = check(name, function)
        assert not verdict.right and message in verdict.message, verdict


def test_answers_may_be_tensors_and_change_their_inputs():
    assert (
        check("elbo.3", torch.tensor(784.0)).right
        and check("training.1", torch.tensor(88)).right
    )

    def bound(w):
        largest = w.amax(0)
        w -= largest
        return w.exp().mean(0).log() + largest

    assert check("evaluation.3", bound).right


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (right, _) in EXERCISES.items()
        if not isinstance(right, str) and not callable(right)
    ],
)
def test_numbers_must_be_near(name):
    right = float(EXERCISES[name][0])
    assert (
        not check(name, right * 1.01 + 0.01).right
        and not check(name, [right, right]).right
        and not check(name, math.nan).right
    )
    assert check(name, right * 1.001).right == (name in INEXACT or right == 0)


INEXACT = {
    "diagnosis.3",
    "downstream.3",
    "latent_variables.1",
    "latent_variables.2",
    "distributions.2",
    "distributions.3",
    "elbo.1",
    "elbo.3",
    "evaluation.2",
    "latent_space.3",
    "results.2",
    "bounds.1",
    "bounds.2",
    "convolutional.2",
    "posterior_gap.1",
    "flows.1",
    "flows.2",
    "priors.1",
    "priors.2",
    "conditional.1",
    "conditional.2",
    "latent_diffusion.1",
    "latent_diffusion.2",
    "text.1",
    "gallery.1",
    "gallery.2",
    "disentanglement.1",
    "disentanglement.2",
    "vector_quantization.1",
    "vector_quantization.2",
    "likelihoods.1",
    "likelihoods.2",
    "your_own_images.2",
    "speed_and_scale.3",
}  # the others are whole numbers


def exercises_in(path):
    return [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if re.search(r'check\("', cell.source)
    ]


PAGES = [
    path
    for path in notebooks.notebooks()
    if path.stem not in ("index", "reference", "85_exercises", "64_questions")
]


def test_notebooks_and_exercises_name_each_other():
    asked = [
        name
        for path in PAGES
        for cell in exercises_in(path)
        for name in re.findall(r'check\("([^"]+)", None\)', cell.source)
    ]
    assert sorted(asked) == sorted(EXERCISES)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_notebook_has_three_exercises_with_folded_solutions(path):
    cells = nbformat.read(path, as_version=4).cells
    questions = [
        i for i, c in enumerate(cells) if re.match(r'check\("[^"]+", None\)', c.source)
    ]
    solutions = [c for c in cells if 'code-summary: "Solution' in c.source]
    assert len(questions) == len(solutions)
    for number, i in enumerate(questions, start=1):
        words, question, solution = cells[i - 1 : i + 2]
        name = re.fullmatch(r'check\("([^"]+)", None\)', question.source)[1]
        shown = question.outputs[0]["data"]["text/plain"]
        assert words.source.lstrip().startswith(f"**Exercise {number}.**")
        assert solution.source.lstrip().startswith(
            f'#| code-fold: true\n#| code-summary: "Solution {number}"\n'
        )
        assert f'"{name}"' in solution.source
        assert solution.source.endswith(")\nassert solution.right")
        assert solution.metadata.jupyter.source_hidden and not solution.outputs
        assert shown == repr(check(name)), "run: python tools/notebooks.py refresh"
