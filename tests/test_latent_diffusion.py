"""A prior by flow matching: its density, its labels, and all that a model can do."""

import copy
import math

import pytest
import torch

from vae_tutorial.data import binarize
from vae_tutorial.evaluation import evaluate
from vae_tutorial.likelihood import log_likelihood
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE
from vae_tutorial.variants.latent_diffusion import (
    LatentFlow,
    flow_matching,
    latent_flow_vae,
)

GREY = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGES, LABELS = binarize(GREY, seed=1), torch.arange(40) % 3


def small():
    torch.manual_seed(0)
    return latent_flow_vae((1, 4, 4), 2, (5,), 6, 3)


def test_the_density_integrates_to_one_and_is_that_of_the_samples():
    torch.manual_seed(0)
    prior = LatentFlow(2, 8, 3).requires_grad_(False)
    prior.settle(torch.randn(100, 2) * torch.tensor([0.5, 2.0]) + 1)
    line = torch.linspace(-12, 14, 131)
    grid = torch.cartesian_prod(line, line)
    for label in (None, torch.tensor(1)):
        chosen = prior(label) if label is None else prior(label, 1.5)
        density = chosen.log_prob(grid).exp()
        assert abs(density.sum().item() * 0.2**2 - 1) < 0.01
        mean = (density[:, None] * grid).sum(0) * 0.2**2
        drawn = chosen.sample((4000,))
        error = drawn.std(0) / math.sqrt(4000)
        assert ((drawn.mean(0) - mean).abs() < 5 * error).all()


def test_only_the_field_is_trained_and_labels_are_learned():
    model = small().requires_grad_(False)
    model.prior_part.field.requires_grad_(True)
    model.prior_part.settle(model.encode(IMAGES).sample())
    before = copy.deepcopy(model.state_dict())
    options = {"labels": LABELS, "objective": flow_matching, "log": None, "seed": 0}
    records = fit(model, IMAGES, epochs=3, batch_size=20, **options)
    assert all(math.isfinite(record["match"]) for record in records)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("prior_part.field")


def test_kept_and_used_like_any_other(tmp_path):
    model = small()
    loaded = VAE.load(model.save(tmp_path / "model.safetensors"))
    for a, b in zip(model.state_dict().values(), loaded.state_dict().values()):
        assert torch.equal(a, b)
    assert torch.equal(model.sample(3, seed=0), loaded.sample(3, seed=0))
    result = evaluate(model, IMAGES)
    assert result.kl_from == "samples" and math.isfinite(result.elbo)
    score = log_likelihood(model, IMAGES, num_samples=200)
    assert score.mean > result.elbo - 3 * result.elbo_standard_error
    exact = log_likelihood(model, IMAGES[:3], method="quadrature")
    assert (exact.values - score.values[:3]).abs().max() < 0.5


@pytest.mark.parametrize("label", [torch.tensor([3]), torch.tensor([-1, 0]), GREY])
def test_a_label_that_there_is_not(label):
    with pytest.raises(ValueError, match="from 0 to 2"):
        small().prior_part(label)
