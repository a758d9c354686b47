"""Layers of latent variables: densities by another route, and all that a model can do."""

import copy
import math

import pytest
import torch

from vae_tutorial.data import binarize
from vae_tutorial.evaluation import evaluate
from vae_tutorial.likelihood import log_likelihood
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE
from vae_tutorial.variants.hierarchy import hierarchical_vae, layered_elbo

GREY = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGES = binarize(GREY, seed=1)
KINDS = ("bottom-up", "top-down", "ladder")


def build(kind, skips=True, latent_dims=(1, 1)):
    torch.manual_seed(0)
    hidden = [16] * len(latent_dims)
    return hierarchical_vae((1, 4, 4), latent_dims, hidden, kind, skips)


@pytest.mark.parametrize("kind", KINDS)
def test_prior_and_posterior_integrate_to_one(kind):
    model = build(kind)
    axis = torch.linspace(-9, 9, 361)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        for p in (model.prior, model.encode(IMAGES[:1])):
            log_p = p.log_prob(z[:, None] if p.batch_shape else z).flatten()
            assert abs(log_p.exp().sum() * 0.05**2 - 1) < 0.02


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_all_that_a_model_can_do(kind, skips, tmp_path):
    model = build(kind, skips, (3, 2, 2))
    before = copy.deepcopy(model.state_dict())
    history = fit(
        model, IMAGES, objective=layered_elbo, epochs=2, batch_size=8, log=None
    )
    assert all(math.isfinite(row["elbo"]) for row in history)
    assert all(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    loaded = VAE.load(model.save(tmp_path / "model.safetensors"))
    assert torch.equal(loaded.sample(3, seed=0), model.sample(3, seed=0))
    assert model.reconstruct(IMAGES).shape == IMAGES.shape
    found = evaluate(model, IMAGES, pixels="grey", num_samples=500)
    with torch.no_grad():
        terms = layered_elbo(model, IMAGES, 500)
    assert abs(found.elbo - terms.elbo.mean()) < 0.05
    kl = sum(term.mean() for term in terms[3:])
    assert abs(found.kl - kl) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_bound_stays_below_the_likelihood(kind):
    model = build(kind)
    exact = log_likelihood(model, IMAGES, method="quadrature", pixels="grey")
    bound = log_likelihood(model, IMAGES, num_samples=2000, pixels="grey")
    assert abs((bound - exact)[0]) < 0.05
    with torch.no_grad():
        assert layered_elbo(model, IMAGES, 200).elbo.mean() < exact.mean + 0.01


def test_free_bits_press_no_silent_layer():
    model = build("top-down")
    torch.manual_seed(0)
    free = layered_elbo(model, IMAGES, free_nats=50.0)
    torch.testing.assert_close(free.objective, free.reconstruction)


def test_other_models_are_refused():
    from vae_tutorial.vae import mlp_vae

    with pytest.raises(TypeError, match="no layers"):
        layered_elbo(mlp_vae((1, 4, 4), hidden=(3,)), IMAGES)
