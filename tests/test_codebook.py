"""A codebook and a prior over codes: densities by another route, and all that a model can do."""

import copy
import itertools
import math

import pytest
import torch

from vae_tutorial.data import binarize
from vae_tutorial.evaluation import evaluate
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE, mlp_vae
from vae_tutorial.variants.vector_quantization import (
    Codebook,
    code_score,
    nearest,
    perplexity,
    quantized_objective,
    straight_through,
    vq_vae,
)

SIZES = {"num_codes": 3, "code_dim": 2, "hidden": (8,), "prior_width": 8}
GREY = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGES = binarize(GREY, seed=1)
LABELS = torch.arange(40) % 10


def build(**others):
    torch.manual_seed(0)
    return vq_vae((1, 4, 4), **SIZES | others)


def test_samples_follow_the_prior():
    "Shares of ten thousand samples against the probability of each of 81 rows."
    p = build().prior_part.given(torch.tensor(3))
    rows = torch.tensor(list(itertools.product(range(3), repeat=4))).float()
    exact = p.log_prob(rows).exp()
    assert abs(exact.sum() - 1) < 1e-4
    numbers = p.sample((10_000,)) @ torch.tensor([27.0, 9, 3, 1])
    shares = torch.bincount(numbers.long(), minlength=81) / 10_000
    assert (shares - exact).abs().max() < 0.01


def test_without_a_label_it_is_the_average():
    model = build()
    rows = torch.randint(3, (6, 4)).float()
    given = [model.prior_part.given(torch.tensor(y)).log_prob(rows) for y in range(10)]
    average = torch.stack(given).logsumexp(0) - math.log(10)
    torch.testing.assert_close(model.prior.log_prob(rows), average)


def test_all_that_a_model_can_do(tmp_path):
    model = build()
    before = copy.deepcopy(model.state_dict())
    fit(model, IMAGES, objective=quantized_objective, epochs=2, batch_size=8, log=None)
    after = copy.deepcopy(model.state_dict())
    for name in after:
        is_prior = name.startswith("prior_part")
        assert torch.equal(before[name], after[name]) == is_prior, name
    settings = {"objective": code_score, "labels": LABELS, "batch_size": 8}
    fit(model, IMAGES, epochs=2, log=None, **settings)
    for name, weights in model.state_dict().items():
        is_prior = name.startswith("prior_part")
        assert torch.equal(weights, after[name]) != is_prior, name
    loaded = VAE.load(model.save(tmp_path / "model.safetensors"))
    assert torch.equal(loaded.sample(3, seed=0), model.sample(3, seed=0))
    assert model.reconstruct(IMAGES).shape == IMAGES.shape
    found = evaluate(model, IMAGES, pixels="grey")
    codes = model.encode(IMAGES).mean
    with torch.no_grad():
        bound = model.decode(codes).log_prob(IMAGES) + model.prior.log_prob(codes)
    assert abs(found.elbo - bound.mean()) < 1e-3
    assert copy.deepcopy(model).decoder._shared[0] is not model.encoder.codebook


def test_bound_stays_below_the_likelihood():
    "The sum over all 81 rows of codes is the likelihood."
    model = build()
    rows = torch.tensor(list(itertools.product(range(3), repeat=4))).float()
    with torch.no_grad():
        joint = model.prior.log_prob(rows)[:, None] + torch.stack(
            [model.decode(row).log_prob(IMAGES) for row in rows]
        )
        assert (model.elbo(IMAGES).elbo < joint.logsumexp(0) + 1e-4).all()


def test_gradient_goes_straight_through():
    z, e = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    passed = straight_through(z, e)
    torch.testing.assert_close(passed, e)
    passed.sin().sum().backward()
    torch.testing.assert_close(z.grad, e.detach().cos())
    assert e.grad is None


@pytest.mark.parametrize("restart", [0.0, 0.1])
def test_dead_codes_stay_dead_unless_they_start_anew(restart):
    torch.manual_seed(0)
    book = Codebook(8, 2, restart=restart)
    book.vectors[1:] += 100
    book.sums.copy_(book.vectors)
    for _ in range(50):
        z = torch.randn(400, 2)
        book.update(z, nearest(z, book.vectors))
    used = perplexity(nearest(torch.randn(400, 2), book.vectors), 8)
    assert used > 5 if restart else used < 1.01


@pytest.mark.parametrize("codes", [[0, 3], [-1], []])
def test_perplexity_wants_codes_of_the_book(codes):
    with pytest.raises(ValueError, match="codes must hold"):
        perplexity(torch.tensor(codes), 3)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="no codebook"):
        quantized_objective(mlp_vae((1, 4, 4), hidden=(3,)), IMAGES)


def test_sides_must_be_halved():
    with pytest.raises(ValueError, match="hidden"):
        vq_vae((1, 4, 4), hidden=())
    with pytest.raises(ValueError, match="halved"):
        vq_vae((1, 5, 4), hidden=(3,))
