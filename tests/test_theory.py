"""Quick checks of the mathematics of the exported functions, against routes that do not share their code.

`test_mutations.py` runs these on copies of the package with planted errors: each of those must fail here."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from vae_tutorial.annealing import annealed_weights, sandwich
from vae_tutorial.distributions import (
    DiagonalGaussian,
    bernoulli,
    kl_divergence,
    kl_per_dimension,
)
from vae_tutorial.evaluation import active_units, evaluate
from vae_tutorial.importance import iwae_bound, log_importance_weights
from vae_tutorial.likelihood import LogLikelihood, log_joint, log_likelihood
from vae_tutorial.linear_gaussian import (
    LinearGaussian,
    expected_log_likelihood,
    fit_linear_gaussian,
)
from vae_tutorial.networks import StandardNormal
from vae_tutorial.objectives import beta_elbo, elbo, kl_term
from vae_tutorial.variants.reductions import effective_beta
from vae_tutorial.vae import VAE, mlp_vae

close = torch.testing.assert_close
double = {"dtype": torch.float64}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **double)


def oracle():
    model = LinearGaussian(random(4, 2), random(4, seed=1), 0.3)
    torch.manual_seed(0)
    return model, model.decode(model.prior.sample((6,))).sample()


def small_vae():
    "A VAE on 3 x 3 images whose posterior is neither the prior nor a point."
    torch.manual_seed(0)
    vae = mlp_vae((1, 3, 3), latent_dim=2, hidden=(16,))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(2.5)
    return vae, torch.bernoulli(torch.full((12, 1, 3, 3), 0.5))


def test_gaussian_log_prob_entropy_and_moments():
    mean, log_variance = random(5, 3), random(5, 3, seed=1)
    q, reference = (
        DiagonalGaussian(mean, log_variance),
        Independent(Normal(mean, (0.5 * log_variance).exp()), 1),
    )
    z = random(7, 5, 3, seed=2)
    close(q.log_prob(z), reference.log_prob(z))
    close(q.entropy(), reference.entropy())
    close(q.variance, reference.variance)
    torch.manual_seed(0)
    draws = q.rsample((40_000,))
    close(draws.mean(0), mean, atol=0.05, rtol=0)
    close(draws.var(0), log_variance.exp(), rtol=0.05, atol=0)


def test_kl_against_the_library():
    m, v, pm, pv = (random(5, 3, seed=s) for s in range(4))
    q, p, n = (
        Normal(a, (0.5 * b).exp())
        for a, b in ((m, v), (pm, pv), (torch.zeros_like(m), torch.zeros_like(m)))
    )
    close(kl_divergence(m, v), torch.distributions.kl_divergence(q, n).sum(-1))
    close(kl_divergence(m, v, pm, pv), torch.distributions.kl_divergence(q, p).sum(-1))
    close(kl_per_dimension(m, v, pm, pv), torch.distributions.kl_divergence(q, p))
    close(
        torch.distributions.kl_divergence(
            DiagonalGaussian(m, v), DiagonalGaussian(pm, pv)
        ),
        kl_divergence(m, v, pm, pv),
    )
    prior = StandardNormal(3).double()()
    close(prior.log_prob(m), n.log_prob(m).sum(-1))


def test_bernoulli_sums_to_one_and_scores_right():
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], **double)] * 4).reshape(
        16, 1, 2, 2
    )
    logits = random(1, 2, 2)
    scores = bernoulli(logits).log_prob(images)
    close(scores.exp().sum(), torch.tensor(1.0, **double))
    close(scores[-1], logits.sigmoid().log().sum())


def test_linear_gaussian_against_the_joint():
    model, x = oracle()
    W, eye = model.weight, torch.eye(4, **double)
    covariance = W @ W.T + 0.3 * eye
    gain = W.T @ torch.linalg.inv(covariance)
    close(
        model.marginal.log_prob(x),
        MultivariateNormal(model.bias, covariance).log_prob(x),
    )
    close(model.encode(x).mean, (x - model.bias) @ gain.T)
    close(model.encode(x).covariance_matrix[0], torch.eye(2, **double) - gain @ W)
    z = random(9, 6, 2)
    close(
        model.decode(z).log_prob(x)
        + model.prior.log_prob(z)
        - model.encode(x).log_prob(z),
        model.marginal.log_prob(x).expand(9, 6),
    )


def test_the_identity_of_the_elbo_to_ten_digits():
    model, x = oracle()
    root = random(6, 2, 2, seed=5)
    q = MultivariateNormal(
        random(6, 2, seed=6), root @ root.mT + 0.1 * torch.eye(2, **double)
    )
    exact = expected_log_likelihood(model, x, q) - torch.distributions.kl_divergence(
        q, model.prior
    )
    close(
        exact + torch.distributions.kl_divergence(q, model.encode(x)),
        model.marginal.log_prob(x),
        rtol=1e-10,
        atol=1e-10,
    )


def test_maximum_likelihood_is_a_maximum():
    model, _ = oracle()
    torch.manual_seed(0)
    data = model.decode(model.prior.sample((500,))).sample()
    best = fit_linear_gaussian(data, 2)
    parameters = [
        t.clone().requires_grad_()
        for t in (best.weight, best.bias, best.noise_variance.log())
    ]
    LinearGaussian(parameters[0], parameters[1], parameters[2].exp()).marginal.log_prob(
        data
    ).mean().backward()
    for parameter in parameters:
        close(parameter.grad, torch.zeros_like(parameter), atol=1e-8, rtol=0)


def test_elbo_and_importance_weights_on_the_oracle():
    "At the true posterior every importance weight is p(x); and the ELBO is reconstruction minus KL, in expectation log p(x)."
    model, x = oracle()
    torch.manual_seed(0)
    close(log_importance_weights(model, x, 5), model.marginal.log_prob(x).expand(5, 6))
    for num_samples in (1, 7):
        close(iwae_bound(model, x, num_samples).bound, model.marginal.log_prob(x))
    terms = elbo(model, x, num_samples=20_000)
    close(terms.kl, torch.distributions.kl_divergence(model.encode(x), model.prior))
    close(
        terms.reconstruction,
        expected_log_likelihood(model, x, model.encode(x)),
        atol=0.1,
        rtol=0,
    )
    close(terms.elbo, model.marginal.log_prob(x), atol=0.1, rtol=0)


def test_quadrature_and_importance_sampling_agree_with_a_plain_sum():
    vae, x = small_vae()
    axis = torch.linspace(-7, 7, 701)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        plain = [
            (vae.decode(z).log_prob(image) + vae.prior.log_prob(z))
            .double()
            .logsumexp(0)
            + 2 * math.log(14 / 700)
            for image in x
        ]
    exact = log_likelihood(vae, x, method="quadrature")
    close(exact.values, torch.stack(plain), atol=2e-3, rtol=0)
    assert (exact.errors < 0.01).all() and exact.method == "quadrature"
    sampled = log_likelihood(vae, x, num_samples=40_000)
    assert ((sampled.values - exact.values).abs() < 5 * sampled.errors + 2e-3).all()
    assert (
        (sampled.effective_sample_size >= 1) & (sampled.effective_sample_size <= 40_000)
    ).all()
    close(
        sampled.errors, ((40_000 / sampled.effective_sample_size - 1) / 40_000).sqrt()
    )
    assert abs(sampled.mean - sampled.values.mean().item()) < 1e-12
    close(
        torch.tensor(sampled.standard_error, **double),
        (sampled.values.var() / 12).sqrt(),
    )
    with torch.no_grad():
        close(
            log_joint(vae, x, z[:5])[:, 2],
            vae.decode(z[2]).log_prob(x) + vae.prior.log_prob(z[2]),
            atol=1e-4,
            rtol=0,
        )


def test_reported_errors_are_the_scatter_of_the_estimate():
    vae, x = small_vae()
    runs = [
        log_likelihood(vae, x, num_samples=200, pixels="grey", seed=seed)
        for seed in range(60)
    ]
    scatter = torch.stack([run.values for run in runs]).std(0)
    ratio = scatter / torch.stack([run.errors for run in runs]).mean(0)
    assert 0.75 < ratio.median() < 1.3


def test_evaluate_is_the_mean_over_images():
    vae, x = small_vae()
    result = evaluate(vae, x, num_samples=3000, batch_size=5)
    q = vae.encode(x)
    kl = kl_per_dimension(q.mean, q.log_variance).double()
    assert result.num_images == 12
    close(
        torch.tensor(result.kl_per_dimension, **double),
        kl.mean(0),
        rtol=1e-5,
        atol=1e-6,
    )
    assert (
        abs(result.kl - kl.sum(1).mean()) < 1e-5
        and abs(result.elbo - result.reconstruction + result.kl) < 1e-5
    )
    torch.manual_seed(1)
    per_image = elbo(vae, x, num_samples=3000)
    assert abs(result.reconstruction - per_image.reconstruction.mean()) < 0.1
    assert abs(result.elbo_standard_error - per_image.elbo.std() / 12**0.5) < 0.05
    assert result.elbo < log_likelihood(vae, x, method="quadrature").mean
    assert result.active_units == (q.mean.var(0, correction=0) > 0.01).sum()


def test_active_units_go_by_variance():
    means = torch.stack(
        [torch.tensor([-1.0, 1.0]) * scale for scale in (0.05, 0.09, 0.11, 1.0)], dim=1
    )
    assert active_units(means).tolist() == [
        False,
        False,
        True,
        True,
    ]  # variances 0.0025, 0.0081, 0.0121, 1


def test_effective_beta():
    assert effective_beta(784, 20) == 1
    assert effective_beta(784, 200, "mean", "mean") == 3.92
    assert effective_beta(784, 20, "sum", "mean") == 0.05
    assert effective_beta(
        12288, 128, "mean", "sum", 0.00025, "gaussian"
    ) == pytest.approx(1.536)


def test_scores_that_do_not_compare():
    zeros = torch.zeros(3, **double)
    binary, grey = (
        LogLikelihood(zeros, zeros, "importance", pixels)
        for pixels in ("binary", "grey")
    )
    with pytest.raises(ValueError, match="do not compare"):
        binary - grey
    with pytest.raises(ValueError, match="images"):
        binary - LogLikelihood(zeros[:2], zeros[:2], "importance", "binary")
    higher = LogLikelihood(
        zeros + torch.tensor([1.0, 2.0, 3.0]), zeros, "quadrature", "binary"
    )
    mean, error = higher - binary
    assert mean == 2 and error == pytest.approx(1 / 3**0.5)


def test_the_kl_by_samples_and_the_weighted_objective():
    m, v = random(5, 3), random(5, 3, seed=1)
    q = Independent(Normal(m, (0.5 * v).exp()), 1)
    p = DiagonalGaussian(torch.zeros(3, **double), torch.zeros(3, **double))
    torch.manual_seed(0)
    estimate = kl_term(q, p, q.rsample((100_000,)))
    close(estimate, kl_divergence(m, v), rtol=0.05, atol=0.02)
    vae, x = small_vae()
    torch.manual_seed(1)
    terms = elbo(vae, x)
    torch.manual_seed(1)
    weighted = beta_elbo(3.0)(vae, x)
    close(weighted.objective, terms.reconstruction - 3 * terms.kl)
    close(weighted.elbo, terms.elbo)


def test_the_fast_score_and_layer_equal_pytorch():
    from torch.nn import functional as F

    from vae_tutorial.kernels import Linear, bernoulli_log_prob

    logits = 8 * random(70, 784).float()
    x = (random(70, 784, seed=1) > 0).float()
    score = F.binary_cross_entropy_with_logits
    theirs = -score(logits, x, reduction="none").sum(-1)
    close(bernoulli_log_prob(logits, x), theirs, rtol=1e-5, atol=1e-2)
    tracked = logits.clone().requires_grad_()
    value = bernoulli_log_prob(tracked, x)
    close(value.detach(), theirs, rtol=1e-5, atol=1e-2)
    close(torch.autograd.grad(value.sum(), tracked)[0], x - logits.sigmoid())
    layer, h = Linear(6, 3).double(), random(5, 6).requires_grad_()
    inputs = (h, layer.weight, layer.bias)
    ours = torch.autograd.grad(layer(h).square().sum(), inputs)
    theirs = torch.autograd.grad(F.linear(*inputs).square().sum(), inputs)
    for a, b in zip(ours, theirs):
        close(a, b)


def test_evaluate_measures_against_the_models_own_prior():
    class Shifted(torch.nn.Module):
        def forward(self):
            return DiagonalGaussian(torch.full((2,), 5.0), torch.zeros(2))

    vae, x = small_vae()
    plain = evaluate(vae, x, "grey")
    vae.prior_part = Shifted()
    result = evaluate(vae, x, "grey")
    close(sum(result.kl_per_dimension), result.kl, rtol=1e-4, atol=1e-4)
    assert result.kl > plain.kl + 1
    expected = vae.decode(torch.full((400, 2), 5.0)).mean.mean()
    assert abs(vae.sample(400, seed=0).mean() - expected) < 0.2


def test_quadrature_scores_other_pixels_by_their_own_density():
    "A likelihood that has logits but is no Bernoulli is not taken for one."
    vae, x = small_vae()

    class Continuous(torch.nn.Module):
        image_shape = (1, 3, 3)

        def forward(self, z):
            logits = vae.decoder(z).base_dist.logits
            return Independent(
                torch.distributions.ContinuousBernoulli(logits=logits), 3
            )

    grey = VAE(vae.encoder, Continuous(), vae.prior_part)
    z = random(5, 2).float()
    with torch.no_grad():
        joint = log_joint(grey, x, z)
        one = grey.decode(z[2]).log_prob(x[1]) + grey.prior.log_prob(z[2])
    close(joint[1, 2], one)


class Misled(LinearGaussian):
    "The oracle with an encoder that is off in every dimension."

    def encode(self, x):
        posterior = super().encode(x)
        spread = posterior.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        return Independent(Normal(posterior.mean + 0.5 * spread, 1.3 * spread), 1)


def misled(data_dim, latent_dim):
    double = {"dtype": torch.float64}
    weight = torch.randn(data_dim, latent_dim, **double)
    return Misled(weight, torch.zeros(data_dim, **double), 0.5)


def test_the_mean_annealed_weight_is_the_likelihood():
    "However long the walks are: forth it is p(x), back it is 1 / p(x)."
    for num_temperatures in (1, 3, 20):
        check_mean_weights(num_temperatures)


def check_mean_weights(num_temperatures):
    torch.manual_seed(0)
    model = misled(5, 2)
    z = model.prior.sample((8,))
    x = model.decode(z).sample()
    truth = model.marginal.log_prob(x)
    settings = {"num_chains": 4000, "num_temperatures": num_temperatures}
    relative = (annealed_weights(model, x, **settings) - truth).exp()
    error = relative.std(0) / len(relative) ** 0.5
    assert ((relative.mean(0) - 1).abs() < 5 * error + 0.01).all()
    one = x[:1].expand(4000, 5)  # each walk from a sample of its own
    many = LinearGaussian.encode(model, one).sample()
    back = annealed_weights(model, one, 1, num_temperatures, exact=many)[0]
    relative = (back + truth[0]).exp()
    assert (relative.mean() - 1).abs() < 5 * relative.std() / 4000**0.5 + 0.01


def test_twenty_dimensions_are_caught_between_the_annealed_bounds():
    torch.manual_seed(0)
    model = misled(50, 20)
    x, lower, upper = sandwich(model, 30)
    truth = model.marginal.log_prob(x)
    below, above = (lower - truth).mean(), (upper - truth).mean()
    assert -0.3 < below < 0.1 and -0.1 < above < 0.3
    rough = sandwich(model, 30, num_chains=1, num_temperatures=10)
    truth = model.marginal.log_prob(rough.x)
    assert (rough.lower - truth).mean() < -0.5 and (rough.upper - truth).mean() > 0.5


def test_annealing_agrees_with_quadrature_and_beats_importance_sampling():
    torch.manual_seed(0)
    vae = mlp_vae((1, 4, 4), hidden=(8,))
    for parameter in vae.decoder.parameters():
        parameter.data *= 4  # posteriors that no encoder knows
    x = vae.decode(vae.prior.sample((20,))).sample()
    exact = log_likelihood(vae, x, method="quadrature")
    found = log_likelihood(vae, x, method="ais", num_samples=16, num_temperatures=60)
    sampled = log_likelihood(vae, x, num_samples=16)
    assert found.method == "ais" and found.num_samples == 16
    away = (found.values - exact.values).abs()
    assert away.mean() < 0.15 and abs((found - exact)[0]) < 0.1
    assert 2 * away.mean() < (sampled.values - exact.values).abs().mean()
    assert (
        found.effective_sample_size <= 16.001
    ).all() and found.errors.isfinite().all()


def test_a_walk_back_needs_a_start_for_each_example():
    model = misled(5, 2)
    x = model.marginal.sample((4,))
    with pytest.raises(ValueError, match="exact has shape"):
        annealed_weights(model, x, exact=torch.zeros(3, 2, dtype=torch.float64))
