"""Flows and priors that learn: densities by other routes, and all that a model can do."""

import copy
import math

import pytest
import torch
from torch import nn

from vae_tutorial.data import binarize
from vae_tutorial.diagnosis import diagnose
from vae_tutorial.distributions import DiagonalGaussian
from vae_tutorial.evaluation import evaluate
from vae_tutorial.likelihood import log_likelihood
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE
from vae_tutorial.variants.flows import (
    Autoregressive,
    Coupling,
    FlowDistribution,
    flow_layers,
    flow_vae,
)
from vae_tutorial.variants.priors import prior_vae

SIZES = {"image_shape": (1, 4, 4), "hidden": (5,)}
MODELS = {
    "coupling": lambda: flow_vae(**SIZES, num_layers=2, context_dim=3),
    "autoregressive": lambda: flow_vae(**SIZES, flow="autoregressive", num_layers=2),
    **{
        prior: lambda prior=prior: prior_vae(
            **SIZES, latent_dim=2, prior=prior, num_components=4
        )
        for prior in ("mixture", "vamp", "flow")
    },
    "conv": lambda: prior_vae((1, 4, 4), 2, (3,), "vamp", 4, "conv"),
}
GREY = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGES = binarize(GREY, seed=1)


def shaken(module):
    "Weights that bend: a new flow moves nothing."
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("layer", [Coupling, Autoregressive])
@pytest.mark.parametrize("latent_dim", [2, 3, 6])
def test_log_determinant_and_inverse(layer, latent_dim):
    torch.manual_seed(latent_dim)
    layer = shaken(layer(latent_dim, hidden=8, context_dim=2)).double()
    z, context = torch.randn(latent_dim).double(), torch.randn(2).double()
    steps = 1e-6 * torch.eye(latent_dim).double()
    columns = [layer(z + s, context)[0] - layer(z - s, context)[0] for s in steps]
    by_differences = torch.linalg.slogdet(torch.stack(columns) / 2e-6).logabsdet
    moved, log_det = layer(z, context)
    torch.testing.assert_close(log_det, by_differences, atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.inverse(moved, context), (z, log_det))


def test_new_flow_is_its_base():
    base = DiagonalGaussian(torch.randn(5, 4), torch.randn(5, 4))
    q = FlowDistribution(base, flow_layers("coupling", 4, 4))
    z = torch.randn(7, 5, 4)
    torch.testing.assert_close(q.log_prob(z), base.log_prob(z))


@pytest.mark.parametrize("flow", ["coupling", "autoregressive"])
def test_samples_are_scored_as_any_others(flow):
    "The remembered score of a sample is the one that undoing the flow gives."
    torch.manual_seed(0)
    model = shaken(flow_vae(**SIZES, flow=flow, num_layers=3))
    q = model.encode(IMAGES)
    z = q.rsample((3,))
    remembered = q.log_prob(z)
    torch.testing.assert_close(remembered, q.log_prob(z.clone()), atol=1e-4, rtol=1e-4)
    alone = model.encode(IMAGES[:1]).log_prob(z[:, :1])
    torch.testing.assert_close(remembered[:, :1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_prior_integrates_to_one(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    axis = torch.linspace(-9, 9, 361)
    with torch.no_grad():
        log_p = model.prior.log_prob(torch.cartesian_prod(axis, axis))
    assert abs(log_p.exp().sum() * 0.05**2 - 1) < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_all_that_a_model_can_do(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]()
    before = copy.deepcopy(model.state_dict())
    history = fit(model, IMAGES, epochs=2, batch_size=8, log=None)
    assert all(math.isfinite(row["elbo"]) for row in history)
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert len(moved) == len(before)  # every weight learns
    loaded = VAE.load(model.save(tmp_path / "model.safetensors"))
    assert torch.equal(loaded.sample(3, seed=0), model.sample(3, seed=0))
    assert model.reconstruct(IMAGES).shape == IMAGES.shape
    found = evaluate(model, IMAGES, pixels="grey", num_samples=200)
    assert found.kl_from == "samples"
    exact = log_likelihood(loaded, IMAGES, method="quadrature", pixels="grey")
    bound = log_likelihood(loaded, IMAGES, num_samples=2000, pixels="grey")
    assert found.elbo < exact.mean + 0.01
    assert abs((bound - exact)[0]) < 0.05
    assert "healthy" in str(diagnose(model, IMAGES))


def test_pseudo_images_share_the_encoder():
    model = prior_vae(**SIZES, latent_dim=2, prior="vamp", num_components=3)
    own = [name for name in model.state_dict() if name.startswith("prior_part")]
    assert own == ["prior_part.pixels"]
    copied = copy.deepcopy(model)
    assert copied.prior_part._shared[0] is copied.encoder
    assert copied.double().prior.sample().dtype == torch.float64


@pytest.mark.parametrize("build", [flow_vae, lambda **k: prior_vae(prior="flow", **k)])
def test_one_dimension_cannot_bend(build):
    with pytest.raises(ValueError, match="latent_dim"):
        build(**SIZES, latent_dim=1)
