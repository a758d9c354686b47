"""A model is three parts that give distributions: whatever they give, it trains,
evaluates, samples, saves and loads, and labels reach its objective."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
)

from vae_tutorial.distributions import DiagonalGaussian
from vae_tutorial.evaluation import evaluate
from vae_tutorial.importance import iwae_bound
from vae_tutorial.likelihood import log_likelihood
from vae_tutorial.networks import BernoulliPixels, Gaussian, StandardNormal, mlp
from vae_tutorial.objectives import elbo
from vae_tutorial.recipes import recipe
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE

SHAPE = (1, 4, 4)
IMAGES = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = nn.functional.one_hot(torch.arange(64) % 10, 10).float()


class GaussianPixels(nn.Module):
    "Pixels with a learned width."

    def __init__(self, network):
        super().__init__()
        self.network, self.image_shape = network, SHAPE
        self.log_width = nn.Parameter(torch.tensor(-1.0))

    def forward(self, z):
        mean = self.network(z).sigmoid().unflatten(-1, SHAPE)
        return Independent(Normal(mean, self.log_width.exp()), 3)


class Mixture(nn.Module):
    "A learned prior of five Gaussians."

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(3 * torch.randn(5, 2))

    def forward(self):
        parts = DiagonalGaussian(self.mean, torch.zeros_like(self.mean))
        weights = Categorical(logits=self.mean.new_zeros(5))
        return MixtureSameFamily(weights, parts, validate_args=False)


class Bent(Distribution):
    "A Gaussian pushed through one coupling: no mean in closed form."

    def __init__(self, base, shift):
        self.base, self.shift = base, shift
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def rsample(self, sample_shape=torch.Size()):
        a, b = self.base.rsample(sample_shape).chunk(2, dim=-1)
        return torch.cat([a, b + self.shift(a)], dim=-1)

    def sample(self, sample_shape=torch.Size()):
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, z):
        a, b = z.chunk(2, dim=-1)
        return self.base.log_prob(torch.cat([a, b - self.shift(a)], dim=-1))


class Flow(nn.Module):
    "An encoder whose posterior bends."

    def __init__(self, base):
        super().__init__()
        self.base, self.shift = base, mlp([1, 4, 1])

    def forward(self, x):
        return Bent(self.base(x), self.shift)


def parts():
    encoder = Gaussian(nn.Sequential(nn.Flatten(), *mlp([16, 8, 4])))
    return encoder, BernoulliPixels(mlp([2, 8, 16]), SHAPE), StandardNormal(2)


@recipe
def gaussian_likelihood():
    encoder, _, prior = parts()
    return VAE(encoder, GaussianPixels(mlp([2, 8, 16])), prior)


@recipe
def mixture_prior():
    return VAE(*parts()[:2], Mixture())


@recipe
def flow_posterior():
    encoder, decoder, prior = parts()
    return VAE(Flow(encoder), decoder, prior)


@recipe
def everything():
    encoder, _, _ = parts()
    return VAE(Flow(encoder), GaussianPixels(mlp([2, 8, 16])), Mixture())


MODELS = [gaussian_likelihood, mixture_prior, flow_posterior, everything]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("pixels", ["binary", "grey"])
def test_any_parts_train_evaluate_sample_save_and_load(build, pixels, tmp_path):
    torch.manual_seed(0)
    model = build()
    before = [p.detach().clone() for p in model.parameters()]
    options = {"learning_rate": 1e-2, "pixels": pixels, "log": None}
    history = fit(model, IMAGES, IMAGES[:8], epochs=30, batch_size=16, **options)
    train = [r["elbo"] for r in history if r["split"] == "train"]
    assert train[-1] > train[0] + 0.2
    moved = zip(before, model.parameters())
    assert all(not torch.equal(old, new) for old, new in moved)  # also the prior's
    result = evaluate(model, IMAGES, pixels, num_samples=5)
    is_known = build is gaussian_likelihood
    assert result.kl_from == ("closed form" if is_known else "samples")
    assert (result.kl_per_dimension is not None) == is_known
    assert abs(result.elbo - (result.reconstruction - result.kl)) < 1e-3
    bound = log_likelihood(model, IMAGES[:8], num_samples=200, pixels=pixels)
    assert bound.mean > evaluate(model, IMAGES[:8], pixels, num_samples=50).elbo - 0.1
    twin = VAE.load(model.save(tmp_path / "model.safetensors"))
    torch.testing.assert_close(twin.sample(5, seed=1), model.sample(5, seed=1))
    assert twin.reconstruct(IMAGES[:3]).shape == (3, *SHAPE)


def test_samples_come_from_the_models_own_prior():
    torch.manual_seed(0)
    model = mixture_prior()
    with torch.no_grad():
        model.prior_part.mean.copy_(torch.full((5, 2), 7.0))
        expected = model.decode(torch.full((1, 2), 7.0)).mean[0]
    close = (model.sample(500, seed=0).mean(0) - expected).abs().max()
    other = VAE(model.encoder, model.decoder, StandardNormal(2)).sample(500, seed=0)
    assert close < 0.1 < (other.mean(0) - expected).abs().max()


def test_the_quadrature_knows_any_prior_and_likelihood():
    "Against a plain sum over one even grid, by the methods alone."
    torch.manual_seed(0)
    axis = torch.linspace(-8, 8, 401)
    grid = torch.cartesian_prod(axis, axis)
    for build in (gaussian_likelihood, mixture_prior):
        model = build()
        if build is mixture_prior:
            model.prior_part.mean.data /= 3
        exact = log_likelihood(model, IMAGES[:4], "quadrature", pixels="grey")
        with torch.no_grad():
            prior = model.prior.log_prob(grid)
            scores = [model.decode(grid).log_prob(x) + prior for x in IMAGES[:4]]
        plain = torch.stack(scores).double().logsumexp(1) + 2 * math.log(16 / 400)
        torch.testing.assert_close(exact.values, plain, atol=0.01, rtol=0)


class Given(nn.Module):
    "A conditional model with its labels filled in: an ordinary one."

    def __init__(self, model, y):
        super().__init__()
        self.model, self.y, self.prior = model, y, model.prior

    def encode(self, x):
        return self.model.encoder(torch.cat([x.flatten(1), self.y], 1))

    def decode(self, z):
        y = self.y.expand(*z.shape[:-1], -1)
        return self.model.decoder(torch.cat([z, y], -1))


def conditional_elbo(model, x, y):
    return elbo(Given(model, y), x)


def conditional():
    torch.manual_seed(0)
    encoder = Gaussian(mlp([26, 8, 4]))
    decoder = BernoulliPixels(mlp([12, 8, 16]), SHAPE)
    return VAE(encoder, decoder, StandardNormal(2))


def test_labels_reach_the_objective_in_the_order_of_their_images():
    seen = []

    def objective(model, x, y):
        seen.append((x, y))
        return conditional_elbo(model, x, y)

    options = {"pixels": "grey", "batch_size": 10, "epochs": 1, "log": None}
    fit(conditional(), IMAGES, labels=LABELS, objective=objective, **options)
    x, y = (torch.cat(part) for part in zip(*seen))
    place = (x[:, None] == IMAGES).flatten(2).all(2).float().argmax(1)
    assert sorted(place.tolist()) == list(range(64)) != place.tolist()
    assert torch.equal(y, LABELS[place])


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="labels has 63 rows for 64 images"):
        fit(conditional(), IMAGES, labels=LABELS[1:], objective=conditional_elbo)


def test_held_out_images_bring_their_labels():
    held = (IMAGES[:8], LABELS[:8])
    options = {"objective": conditional_elbo, "labels": LABELS, "log": None}
    history = fit(conditional(), IMAGES, held, epochs=2, **options)
    scores = [r["elbo"] for r in history if r["split"] == "validation"]
    assert len(scores) == 2 and all(map(math.isfinite, scores))


def test_an_importance_weighted_objective_trains():
    from functools import partial

    torch.manual_seed(0)
    model = flow_posterior()
    objective = partial(iwae_bound, num_samples=5)
    options = {"learning_rate": 1e-2, "objective": objective, "log": None}
    history = fit(model, IMAGES, epochs=20, batch_size=16, **options)
    assert history[-1]["bound"] > history[0]["bound"] + 0.2
    assert history[-1].keys() == {"epoch", "step", "split", "bound"}


def test_a_model_without_a_recipe_says_how_to_keep_it(tmp_path):
    with pytest.raises(ValueError, match="@recipe"):
        conditional().save(tmp_path / "model.safetensors")
