"""Faults and forms of models that are not in the lab of limits/28_diagnosis, and what diagnose promises to leave alone."""

import copy
import math
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from vae_tutorial.data import binarize, load_mnist
from vae_tutorial.diagnosis import diagnose

torch.set_num_threads(1)
X = binarize(load_mnist().train.images[:64], 0)
SEEDS = 3 if os.environ.get("VAE_TUTORIAL_SLOW") else 1


class Model(nn.Module):
    "Separate heads, functional activations, probabilities out."

    def __init__(self):
        super().__init__()
        self.body, self.m, self.s, self.code, self.out = (
            nn.Linear(784, 100),
            nn.Linear(100, 5),
            nn.Linear(100, 5),
            nn.Linear(5, 100),
            nn.Linear(100, 784),
        )

    def encode(self, x):
        h = torch.tanh(self.body(x.flatten(1)))
        return self.m(h), self.s(h)

    def sample(self, m, s):
        return m + torch.exp(s / 2) * torch.randn_like(m)

    def decode(self, z):
        return torch.sigmoid(self.out(F.leaky_relu(self.code(z))))

    def forward(self, x):
        m, s = self.encode(x)
        return self.decode(self.sample(m, s)), m, s


def bce(recon, x):
    return F.binary_cross_entropy(recon.flatten(1), x.flatten(1), reduction="sum")


def kl(m, s):
    return 0.5 * (m**2 + s.exp() - 1 - s).sum()


def elbo_loss(recon, x, mu, logvar):
    return (bce(recon, x) + kl(mu, logvar)) / len(x)


def changed(**methods):
    return type("Changed", (Model,), methods)


def _hidden_detached(self, x):
    h = torch.tanh(self.body(x.flatten(1))).detach()
    return self.m(h), self.s(h)


def _one_head(self, x):
    h = torch.tanh(self.body(x.flatten(1)))
    return self.m(h), self.m(h)


def _no_grad(self, x):
    with torch.no_grad():
        return Model.encode(self, x)


def _around(self, x):
    m, s = self.encode(x)
    return (
        torch.sigmoid(
            self.out(
                F.leaky_relu(self.code(self.sample(m, s)))
                + torch.tanh(self.body(x.flatten(1)))
            )
        ),
        m,
        s,
    )


def _seeded(self, m, s):
    torch.manual_seed(0)
    return Model.sample(self, m, s)


def _standardized(self, x):
    x = x.flatten(1)
    return Model.encode(self, (x - x.mean(0)) / (x.std(0) + 0.1))


def _only_first(self, x):
    return Model.encode(self, torch.zeros_like(x))


class Normed(Model):
    "Batch normalization on the log variance."

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def encode(self, x):
        m, s = super().encode(x)
        return m, self.norm(s)


class NoiseOnce(Model):
    "Noise of numpy's, drawn when the model is made."

    def __init__(self):
        super().__init__()
        self.noise = torch.from_numpy(np.random.default_rng(0).standard_normal(5))

    def sample(self, m, s):
        return m + torch.exp(s / 2) * self.noise.float()


class Tied(Model):
    "The last layer is the first, transposed: of its own weights, or of a copy."

    def last(self):
        return self.body.weight

    def decode(self, z):
        return torch.sigmoid(F.leaky_relu(self.code(z)) @ self.last() + self.out.bias)


class TiedToACopy(Tied):
    def last(self):
        return self.body.weight.detach()


def _logits(self, z):
    return self.out(F.leaky_relu(self.code(z)))


def logit_loss(recon, x, mu, logvar):
    pixels = F.binary_cross_entropy_with_logits(recon, x.flatten(1), reduction="sum")
    return (pixels + kl(mu, logvar)) / len(x)


def _numpy_noise(self, m, s):
    noise = torch.from_numpy(np.random.standard_normal(m.shape)).float()
    return m + torch.exp(s / 2) * noise


SCRAMBLED = torch.randperm(784, generator=torch.Generator().manual_seed(0))
FAULTS = {
    "kl over the mean, not its square": (
        "kl_formula",
        Model,
        lambda recon, x, mu, logvar: (
            (bce(recon, x) + 0.5 * (mu + logvar.exp() - 1 - logvar).sum()) / len(x)
        ),
    ),
    "sign inside the kl": (
        "kl_formula",
        Model,
        lambda recon, x, mu, logvar: (
            (bce(recon, x) - 0.5 * (1 + logvar - mu**2 + logvar.exp()).sum()) / len(x)
        ),
    ),
    "no exp in the kl": (
        "kl_formula",
        Model,
        lambda recon, x, mu, logvar: (
            (bce(recon, x) - 0.5 * (1 + logvar - mu**2 - logvar).sum()) / len(x)
        ),
    ),
    "no kl": ("no_kl", Model, lambda recon, x: bce(recon, x) / len(x)),
    "log of a half": (
        "sigma_mismatch",
        changed(sample=lambda self, m, s: m + s.exp() * torch.randn_like(m)),
        elbo_loss,
    ),
    "variance for deviation": (
        "sigma_mismatch",
        changed(
            encode=lambda self, x: (
                Model.encode(self, x)[0],
                F.softplus(Model.encode(self, x)[1]),
            )
        ),
        lambda recon, x, mu, std: (
            (bce(recon, x) + 0.5 * (mu**2 + std - 1 - std.log()).sum()) / len(x)
        ),
    ),
    "a deviation cut off": (
        "gradient_cut",
        changed(
            sample=lambda self, m, s: (
                m + torch.exp(s.detach() / 2) * torch.randn_like(m)
            )
        ),
        elbo_loss,
    ),
    "a layer cut off": ("gradient_cut", changed(encode=_hidden_detached), elbo_loss),
    "no_grad in the encoder": ("gradient_cut", changed(encode=_no_grad), elbo_loss),
    "loss of a detached picture": (
        "gradient_cut",
        Model,
        lambda recon, x, mu, logvar: elbo_loss(recon.detach(), x, mu, logvar),
    ),
    "one head for two": ("same_head", changed(encode=_one_head), elbo_loss),
    "softmax over pixels": (
        "softmax_output",
        changed(
            decode=lambda self, z: torch.softmax(
                self.out(F.leaky_relu(self.code(z))), 1
            )
        ),
        elbo_loss,
    ),
    "relu before the sigmoid": (
        "clipped_output",
        changed(
            decode=lambda self, z: torch.sigmoid(
                F.relu(self.out(F.leaky_relu(self.code(z))))
            )
        ),
        elbo_loss,
    ),
    "logits into cross-entropy": (
        "logits_as_probabilities",
        changed(decode=lambda self, z: self.out(F.leaky_relu(self.code(z)))),
        elbo_loss,
    ),
    "the elbo itself": (
        "loss_sign",
        Model,
        lambda recon, x, mu, logvar: -elbo_loss(recon, x, mu, logvar),
    ),
    "log likelihood minimized": (
        "loss_sign",
        Model,
        lambda recon, x, mu, logvar: (-bce(recon, x) + kl(mu, logvar)) / len(x),
    ),
    "all against all": (
        "broadcast_targets",
        Model,
        lambda recon, x, mu, logvar: (
            ((recon[:, None] - x.flatten(1)) ** 2).sum() + kl(mu, logvar)
        ),
    ),
    "flipped target": (
        "transposed_targets",
        Model,
        lambda recon, x, mu, logvar: elbo_loss(recon, x.flip(3), mu, logvar),
    ),
    "rolled target": (
        "shuffled_targets",
        Model,
        lambda recon, x, mu, logvar: elbo_loss(recon, x.roll(1, 0), mu, logvar),
    ),
    "skip connection": ("decoder_sees_x", changed(forward=_around), elbo_loss),
    "seed in forward": ("same_noise", changed(sample=_seeded), elbo_loss),
    "noise for all dimensions": (
        "shared_noise",
        changed(
            sample=lambda self, m, s: m + torch.exp(s / 2) * torch.randn(len(m), 1)
        ),
        elbo_loss,
    ),
    "twice the noise": (
        "sigma_mismatch",
        changed(
            sample=lambda self, m, s: m + 2 * torch.exp(s / 2) * torch.randn_like(m)
        ),
        elbo_loss,
    ),
    "batch statistics": ("batch_mixing", changed(encode=_standardized), elbo_loss),
    "encoder without x": ("encoder_ignores_x", changed(encode=_only_first), elbo_loss),
    "kl of the mean over all": (
        "wrong_weight",
        Model,
        lambda recon, x, mu, logvar: (
            F.mse_loss(recon, x.flatten(1)) + kl(mu, logvar) / len(x)
        ),
    ),
    "noise without its width": (
        "width_unused",
        changed(sample=lambda self, m, s: m + torch.randn_like(m)),
        elbo_loss,
    ),
    "mean times width": (
        "wrong_sample",
        changed(sample=lambda self, m, s: m * torch.exp(s / 2) + torch.randn_like(m)),
        elbo_loss,
    ),
    "one code for all": (
        "codes_mixed",
        changed(sample=lambda self, m, s: Model.sample(self, m, s)[:1].expand_as(m)),
        elbo_loss,
    ),
    "shuffled codes": (
        "codes_mixed",
        changed(
            sample=lambda self, m, s: Model.sample(self, m, s)[torch.randperm(len(m))]
        ),
        elbo_loss,
    ),
    "half of the code": (
        "dimensions_left_out",
        changed(
            decode=lambda self, z: Model.decode(
                self, torch.cat([z[:, :2], torch.zeros_like(z[:, 2:])], 1)
            )
        ),
        elbo_loss,
    ),
    "relu behind the mean": (
        "limited_mean",
        changed(
            encode=lambda self, x: (
                F.relu(Model.encode(self, x)[0]),
                Model.encode(self, x)[1],
            )
        ),
        elbo_loss,
    ),
    "softplus behind the log variance": (
        "limited_width",
        changed(
            encode=lambda self, x: (
                Model.encode(self, x)[0],
                F.softplus(Model.encode(self, x)[1]),
            )
        ),
        elbo_loss,
    ),
    "torch.normal": (
        "gradient_cut",
        changed(sample=lambda self, m, s: torch.normal(m, torch.exp(s / 2))),
        elbo_loss,
    ),
    "kl as a number": (
        "gradient_cut",
        Model,
        lambda recon, x, mu, logvar: (bce(recon, x) + kl(mu, logvar).item()) / len(x),
    ),
    "kl of the batch's mean": (
        "uneven_kl",
        Model,
        lambda recon, x, mu, logvar: (
            bce(recon, x) / len(x) + kl(mu.mean(0), logvar.mean(0))
        ),
    ),
    "swapped heads": (
        "swapped_outputs",
        changed(
            forward=lambda self, x: (lambda out: (out[0], out[2], out[1]))(
                Model.forward(self, x)
            )
        ),
        elbo_loss,
    ),
    "no reconstruction": (
        "no_reconstruction",
        Model,
        lambda recon, x, mu, logvar: kl(mu, logvar) / len(x),
    ),
    "target of ones": (
        "blind_loss",
        Model,
        lambda recon, x, mu, logvar: (
            (bce(recon, torch.ones_like(x)) + kl(mu, logvar)) / len(x)
        ),
    ),
    "negative target": (
        "inverted_targets",
        Model,
        lambda recon, x, mu, logvar: elbo_loss(recon, 1 - x, mu, logvar),
    ),
    "half the cross-entropy": (
        "half_cross_entropy",
        Model,
        lambda recon, x, mu, logvar: (
            (-(x.flatten(1) * recon.log()).sum() + kl(mu, logvar)) / len(x)
        ),
    ),
    "swapped arguments": (
        "swapped_arguments",
        Model,
        lambda recon, x, mu, logvar: (
            (
                F.binary_cross_entropy(x.flatten(1), recon, reduction="sum")
                + kl(mu, logvar)
            )
            / len(x)
        ),
    ),
    "half of the pixels": (
        "pixels_left_out",
        Model,
        lambda recon, x, mu, logvar: (
            (
                F.binary_cross_entropy(
                    recon[:, ::2], x.flatten(1)[:, ::2], reduction="sum"
                )
                + kl(mu, logvar)
            )
            / len(x)
        ),
    ),
    "root of the log variance": (
        "not_finite",
        changed(sample=lambda self, m, s: m + s.sqrt() * torch.randn_like(m)),
        elbo_loss,
    ),
    "log variance of zeros": (
        "fixed_width",
        changed(
            encode=lambda self, x: (Model.encode(self, x)[0], torch.zeros(len(x), 5))
        ),
        elbo_loss,
    ),
    "clamp for a sigmoid": (
        "clipped_output",
        changed(
            decode=lambda self, z: self.out(F.leaky_relu(self.code(z))).clamp(0, 1)
        ),
        lambda recon, x, mu, logvar: (
            50 * F.mse_loss(recon, x.flatten(1), reduction="sum") + kl(mu, logvar)
        ),
    ),
    "relu at the end": (
        "clipped_output",
        changed(decode=lambda self, z: F.relu(self.out(F.leaky_relu(self.code(z))))),
        lambda recon, x, mu, logvar: (
            F.mse_loss(recon, x.flatten(1), reduction="sum") + kl(mu, logvar)
        ),
    ),
    "features decoded": (
        "decoder_ignores_z",
        changed(
            forward=lambda self, x: (
                torch.sigmoid(self.out(F.leaky_relu(self.body(x.flatten(1))))),
                *self.encode(x),
            )
        ),
        elbo_loss,
    ),
    "sum against mean, narrow": (
        "wrong_weight",
        Model,
        lambda recon, x, mu, logvar: (
            50 * F.mse_loss(recon, x.flatten(1), reduction="sum")
            + kl(mu, logvar) / len(x)
        ),
    ),
    "a width in a cage": (
        "limited_width",
        changed(
            encode=lambda self, x: (
                Model.encode(self, x)[0],
                Model.encode(self, x)[1].softmax(1),
            )
        ),
        elbo_loss,
    ),
    "normalized in place": (
        "input_changed",
        changed(encode=lambda self, x: Model.encode(self, x.sub_(0.5).div_(0.5))),
        elbo_loss,
    ),
    "kl averaged over dimensions": (
        "wrong_weight",
        Model,
        lambda recon, x, mu, logvar: (bce(recon, x) + kl(mu, logvar) / 5) / len(x),
    ),
    "tanh behind the logits": (
        "unreachable_pixels",
        changed(decode=lambda self, z: torch.tanh(_logits(self, z))),
        logit_loss,
    ),
    "relu behind the logits": (
        "clipped_output",
        changed(decode=lambda self, z: F.relu(_logits(self, z))),
        logit_loss,
    ),
    "batch norm on the log variance": ("limited_width", Normed, elbo_loss),
    "noise drawn once": ("same_noise", NoiseOnce, elbo_loss),
    "tied to a detached copy": ("wrong_gradient", TiedToACopy, elbo_loss),
    "scrambled target": (
        "transposed_targets",
        Model,
        lambda recon, x, mu, logvar: elbo_loss(
            recon, x.flatten(1)[:, SCRAMBLED], mu, logvar
        ),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_comes_first(name):
    expected, model, loss = FAULTS[name]
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        findings = diagnose(model(), X, loss)
        assert findings[0].name == expected and not findings.healthy, findings


def _in_place(self, m, s):
    std = s.mul(0.5).exp_()
    return std.new(std.size()).normal_().mul(std).add_(m)


class Distributions(nn.Module):
    "A posterior object beside the logits; layer norm and SiLU."

    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, 90),
            nn.LayerNorm(90),
            nn.SiLU(),
            nn.Linear(90, 14),
        )
        self.dec = nn.Sequential(
            nn.Linear(7, 90), nn.LayerNorm(90), nn.SiLU(), nn.Linear(90, 784)
        )

    def forward(self, x):
        m, s = self.enc(x).tensor_split(2, dim=1)
        q = torch.distributions.Normal(m, (0.5 * s.clamp(-10, 10)).exp())
        return self.dec(q.rsample()), q


class InObject(nn.Module):
    "Computes its own loss, as some libraries do."

    def __init__(self):
        super().__init__()
        self.inner = Model()

    def forward(self, x):
        recon, m, s = self.inner(x)
        return {"loss": elbo_loss(recon, x, m, s), "recon_x": recon}


def _distribution_loss(model, x):
    logits, q = model(x)
    return (
        F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum")
        + torch.distributions.kl_divergence(
            q, torch.distributions.Normal(0.0, 1.0)
        ).sum()
    )


def _five_samples(self, x):
    m, s = self.encode(x)
    return self.decode(torch.distributions.Normal(m, (s / 2).exp()).rsample((5,))), m, s


def _five_sample_loss(model, x):
    recon, m, s = model(x)
    return (
        F.binary_cross_entropy(recon, x.flatten(1).expand_as(recon), reduction="sum")
        / 5
        + kl(m, s)
    ) / len(x)


class OneWidth(Model):
    "All posteriors share a trained width."

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def encode(self, x):
        m, _ = super().encode(x)
        return m, self.log_variance.expand_as(m)


HEALTHY = {
    "arguments in another order": (
        Model,
        X,
        lambda x, x_hat, mean, log_var: elbo_loss(x_hat, x, mean, log_var),
    ),
    "in place": (changed(sample=_in_place), X, elbo_loss),
    "posterior object": (Distributions, X, _distribution_loss),
    "loss in the output": (InObject, X, None),
    "free bits": (
        Model,
        X,
        lambda recon, x, mu, logvar: (
            bce(recon, x) / len(x)
            + (0.5 * (mu**2 + logvar.exp() - 1 - logvar)).mean(0).clamp(min=0.1).sum()
        ),
    ),
    "a loss of the batch": (Model, X, elbo_loss),
    "scaled inside": (
        Model,
        255 * X,
        lambda model, x: (lambda x, out: elbo_loss(out[0], x, *out[1:]))(
            x / 255, model(x / 255)
        ),
    ),
    "normalized pixels, squared error": (
        changed(decode=lambda self, z: self.out(F.leaky_relu(self.code(z)))),
        (X - 0.13) / 0.31,
        lambda recon, x, mu, logvar: (
            F.mse_loss(recon, x.flatten(1), reduction="sum") + kl(mu, logvar)
        ),
    ),
    "the best width": (
        Model,
        X,
        lambda recon, x, mu, logvar: (
            392 * F.mse_loss(recon, x.flatten(1)).log() + kl(mu, logvar) / len(x)
        ),
    ),
    "a narrow Gaussian": (
        Model,
        X,
        lambda recon, x, mu, logvar: (
            (
                -torch.distributions.Normal(recon, 0.05).log_prob(x.flatten(1)).sum()
                + kl(mu, logvar)
            )
            / len(x)
        ),
    ),
    "several samples in front": (changed(forward=_five_samples), X, _five_sample_loss),
    "one learned width": (OneWidth, X, elbo_loss),
    "a pair of functions": (lambda: (Model().encode, Model().decode), X, elbo_loss),
    "logits": (changed(decode=_logits), X, logit_loss),
    "numpy noise": (changed(sample=_numpy_noise), X, elbo_loss),
    "tied weights": (Tied, X, elbo_loss),
    "squared error without its half": (
        Model,
        X,
        lambda recon, x, mu, logvar: (
            ((recon - x.flatten(1)).square().sum() + kl(mu, logvar)) / len(x)
        ),
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models_get_notes_at_most(name):
    model, images, loss = HEALTHY[name]
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        findings = diagnose(model(), images, loss)
        assert findings.healthy, findings


class OwnWidth(Model):
    "The decoder gives a mean and a log variance for each pixel."

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(100, 2 * 784)

    def decode(self, z):
        return self.out(F.leaky_relu(self.code(z))).chunk(2, dim=1)


@pytest.mark.parametrize("forgotten", [False, True])
def test_decoder_with_a_width_of_its_own(forgotten):
    def loss(model, x):
        (picture, log_variance), mu, logvar = model(x)
        return (
            0.5
            * (
                (picture - x.flatten(1)) ** 2 / log_variance.exp()
                + (0.0 if forgotten else log_variance)
            ).sum()
            + kl(mu, logvar)
        ) / len(x)

    for seed in range(3):
        torch.manual_seed(seed)
        assert [
            finding.name
            for finding in diagnose(OwnWidth(), X, loss)
            if finding.level != "note"
        ] == ["runaway_width"] * forgotten


class LearnedPrior(Model):
    "A Gaussian prior with a mean and a width that have been trained for a while."

    def __init__(self):
        super().__init__()
        self.prior_mean, self.prior_log_std = (
            nn.Parameter(0.5 * torch.randn(5)),
            nn.Parameter(0.3 * torch.randn(5)),
        )


class Mixture(Model):
    "A prior of ten trained Gaussians, with a KL estimated from the sample."

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(10, 5))


def _gaussian_prior_loss(model, x):
    recon, m, s = model(x)
    prior = torch.distributions.Normal(model.prior_mean, model.prior_log_std.exp())
    return (
        bce(recon, x)
        + torch.distributions.kl_divergence(
            torch.distributions.Normal(m, (s / 2).exp()), prior
        ).sum()
    ) / len(x)


def _mixture_loss(model, x):
    m, s = model.encode(x)
    q = torch.distributions.Normal(m, (s / 2).exp())
    z = q.rsample()
    log_prior = torch.distributions.Normal(model.centres, 1.0).log_prob(z[:, None]).sum(
        2
    ).logsumexp(1) - math.log(10)
    return (bce(model.decode(z), x) + (q.log_prob(z).sum(1) - log_prior).sum()) / len(x)


@pytest.mark.parametrize(
    "name, model, loss, beta",
    [
        ("learned_prior", LearnedPrior, _gaussian_prior_loss, 1.0),
        ("learned_prior", Mixture, _mixture_loss, 1.0),
        (
            "kl_target",
            Model,
            lambda recon, x, mu, logvar: (
                bce(recon, x) / len(x) + 30 * (kl(mu, logvar) / len(x) - 12).abs()
            ),
            1.0,
        ),
        (
            "kl_target",
            Model,
            lambda recon, x, mu, logvar: (
                (bce(recon, x) + 1000 * (kl(mu, logvar) - 2 * len(x)).abs()) / len(x)
            ),
            1000.0,
        ),
    ],
)
def test_other_priors_and_targets_are_notes(name, model, loss, beta):
    for seed in range(3):
        torch.manual_seed(seed)
        findings = diagnose(model(), X, loss, beta=beta)
        assert findings.healthy and name in [finding.name for finding in findings], (
            findings
        )


def test_a_target_does_not_hide_a_wrong_kl():
    assert (
        diagnose(
            Model(),
            X,
            lambda recon, x, mu, logvar: (
                bce(recon, x) / len(x)
                + 30
                * (
                    (mu**2 + 0.5 * (logvar.exp() - 1 - logvar)).sum() / len(x) - 12
                ).abs()
            ),
        )[0].name
        == "kl_formula"
    )


class LogWidth(Model):
    "A Gaussian likelihood of one trained width."

    def __init__(self):
        super().__init__()
        self.log_width = nn.Parameter(torch.zeros(()))


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_width_needs_its_logarithm(forgotten):
    def loss(model, x):
        recon, m, s = model(x)
        return (
            0.5 * ((x.flatten(1) - recon) / model.log_width.exp()).square().sum()
            + kl(m, s)
        ) / len(x) + (0.0 if forgotten else 784 * model.log_width)

    for seed in range(3):
        torch.manual_seed(seed)
        assert [
            finding.name
            for finding in diagnose(LogWidth(), X, loss)
            if finding.level != "note"
        ] == ["runaway_width"] * forgotten


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, None])
def test_statistics_that_never_move_or_forget(momentum):
    model = Model()
    model.norm = nn.BatchNorm1d(100, momentum=momentum)
    model.encode = lambda x: (lambda h: (model.m(h), model.s(h)))(
        model.norm(torch.tanh(model.body(x.flatten(1))))
    )
    assert [
        finding.name
        for finding in diagnose(model, X, elbo_loss)
        if finding.level != "note"
    ] == {0.0: ["stuck_statistics"], 1.0: ["train_eval_gap"]}.get(momentum, [])


@pytest.mark.parametrize("again", [False, True])
def test_targets_that_are_drawn_again(again):
    grey = load_mnist().train.images[:64]

    def loss(model, x):
        drawn = torch.bernoulli(x)
        recon, m, s = model(drawn)
        return elbo_loss(recon, torch.bernoulli(x) if again else drawn, m, s)

    for seed in range(3):
        torch.manual_seed(seed)
        assert [
            finding.name
            for finding in diagnose(Model(), grey, loss)
            if finding.level != "note"
        ] == ["random_targets"] * again


def test_a_saturated_decoder_and_a_linear_one():
    model = Model()
    with torch.no_grad():
        model.m.weight.mul_(20)  # active units
        model.out.bias.fill_(-60.0)
    assert "constant_pictures" in [
        finding.name
        for finding in diagnose(model, X, elbo_loss)
        if finding.level == "error"
    ]
    findings = diagnose(
        changed(decode=lambda self, z: torch.sigmoid(self.out(self.code(z))))(),
        X,
        elbo_loss,
    )
    assert findings.healthy and "linear_decoder" in [
        finding.name for finding in findings
    ]
    assert "linear_decoder" not in [
        finding.name for finding in diagnose(Model(), X, elbo_loss)
    ]


class InAList(Model):
    "A layer that nn.Module can't see."

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(100, 100)]

    def decode(self, z):
        return torch.sigmoid(self.out(F.leaky_relu(self.hidden[0](self.code(z)))))


@pytest.mark.parametrize(
    "name, make",
    [
        ("maximized_loss", lambda p: torch.optim.Adam(p, maximize=True)),
        ("learning_rate", lambda p: torch.optim.Adam(p, lr=1e-12)),
        ("learning_rate", lambda p: torch.optim.Adam(p, lr=10.0)),
        ("not_in_optimizer", lambda p: torch.optim.Adam(list(p)[2:])),
        ("learning_rate", lambda p: torch.optim.SGD(p, lr=1.0)),
        ("learning_rate", lambda p: torch.optim.AdamW(p, lr=3.0)),
        ("weight_decay", lambda p: torch.optim.Adam(p, weight_decay=10.0)),
    ],
)
def test_optimizers(name, make):
    model = Model()
    assert (
        diagnose(model, X, elbo_loss, optimizer=make(model.parameters()))[0].name
        == name
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, fused=True),
        lambda p: torch.optim.AdamW(p, lr=3e-3),
        lambda p: torch.optim.LBFGS(p, lr=1e-3),
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        lambda p: torch.optim.RMSprop([{"params": list(p), "lr": 1e-3}]),
    ],
)
def test_healthy_optimizers_are_left_as_found(make):
    model = Model()
    optimizer = make(model.parameters())

    def loss():
        optimizer.zero_grad()
        value = elbo_loss(*(lambda out: (out[0], X, *out[1:]))(model(X)))
        value.backward()
        return value

    optimizer.step(loss)
    before, weights, gradients = (
        copy.deepcopy(optimizer.state_dict()),
        copy.deepcopy(model.state_dict()),
        [p.grad.clone() for p in model.parameters()],
    )
    assert diagnose(model, X, elbo_loss, optimizer=optimizer).healthy
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    assert all(
        torch.equal(t, weights[name]) for name, t in model.state_dict().items()
    ) and all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients))


def test_layers_in_a_list():
    assert diagnose(InAList(), X, elbo_loss)[0].name == "unregistered_layers"


def _test_loop(divide):
    def evaluate(model, images):
        parts = [
            elbo_loss(*(out := model(part))[:1], part, *out[1:]).item()
            for part in images.split(128)
        ]
        return divide(parts, [len(part) for part in images.split(128)])

    return evaluate


@pytest.mark.parametrize("seed", range(3))
def test_test_loops(seed):
    torch.manual_seed(seed)
    model = Model()
    for name, divide in (
        ("uneven_metric", lambda parts, sizes: sum(parts) / len(parts)),
        (
            "uneven_metric",
            lambda parts, sizes: sum(p * n for p, n in zip(parts, sizes)) / len(parts),
        ),
        (
            None,
            lambda parts, sizes: sum(p * n for p, n in zip(parts, sizes)) / sum(sizes),
        ),
        (None, lambda parts, sizes: sum(p * n for p, n in zip(parts, sizes))),
    ):
        worse = [
            finding.name
            for finding in diagnose(model, X, elbo_loss, evaluate=_test_loop(divide))
            if finding.level != "note"
        ]
        assert worse == ([name] if name else [])


def test_a_test_loop_without_the_kl():
    def evaluate(model, images):
        return sum(bce(model(p)[0], p).item() for p in images.split(100)) / len(images)

    for seed in range(3):
        torch.manual_seed(seed)
        findings = diagnose(Model(), X, elbo_loss, evaluate=evaluate)
        assert findings[0].name == "metric_without_kl" and not findings.healthy


def test_a_learning_rate_explains_what_it_did():
    for seed in range(3):
        torch.manual_seed(seed)
        model = changed(decode=_logits)()
        optimizer = torch.optim.Adam(model.parameters(), lr=10.0)
        for _ in range(20):
            optimizer.zero_grad()
            recon, m, s = model(X)
            logit_loss(recon, X, m, s).backward()
            optimizer.step()
        findings = diagnose(model, X, logit_loss, optimizer=optimizer)
        assert findings[0].name == "learning_rate", findings


def test_beta_that_is_meant():
    def loss(recon, x, mu, logvar):
        return (bce(recon, x) + 4 * kl(mu, logvar)) / len(x)

    assert (
        diagnose(Model(), X, loss)[0].name == "wrong_weight"
        and diagnose(Model(), X, loss, beta=4.0).healthy
    )


def test_everything_is_left_as_found():
    model = nn.Sequential()
    model = Model()
    model.norm = nn.BatchNorm1d(100)
    model.encode = lambda x: (lambda h: (model.m(h), model.s(h)))(
        model.norm(torch.tanh(model.body(x.flatten(1))))
    )
    model.eval()
    model.out.train()
    model.code.weight.grad = torch.ones_like(model.code.weight)
    model.norm.train()  # its running statistics must not move either
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    diagnose(model, X, elbo_loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert (
        not model.training
        and model.out.training
        and model.code.weight.grad.eq(1).all()
        and model.body.weight.grad is None
    )
    with pytest.raises(ValueError):
        diagnose(
            model,
            X,
            lambda recon, x, mu, logvar: elbo_loss(recon, x[:, :, 1:], mu, logvar),
        )
    model.calls, model.log, images = 7, ["kept"], X.clone()

    def counting(model, x):
        model.calls += 1
        model.log.append(model.calls)
        out = model(x.sub_(0.1))
        return elbo_loss(out[0], x, *out[1:])

    diagnose(model, images, counting)
    assert model.calls == 7 and model.log == ["kept"] and torch.equal(images, X)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    "arguments, match",
    [
        ((lambda x: x, X, elbo_loss), "nn.Module"),
        ((Model(), [1, 2], elbo_loss), "batch"),
        ((Model(), X[:3], elbo_loss), "at least 8"),
        ((Model(), X, 3), "loss"),
        ((nn.Module(), X, elbo_loss), "encode"),
        (
            (Model(), X, lambda recon, x, mu, logvar: (recon - x.flatten(1)) ** 2),
            "one number",
        ),
        (
            (
                nn.Sequential(nn.Flatten(), nn.Linear(784, 784), nn.Sigmoid()),
                X,
                elbo_loss,
            ),
            "cannot tell",
        ),
        ((Model(), (255 * X).byte(), elbo_loss), "floats"),
        ((Model(), X / 0, elbo_loss), "NaN"),
        ((Model(), torch.ones_like(X), elbo_loss), "all the same"),
        ((Model(), X[:, :, 4:], elbo_loss), "pass loss="),
        ((Model(), X, lambda m, x: m(x)[7]), "out of range"),
        (
            (
                type("Labels", (Model,), {"forward": lambda self, x, y: None})(),
                X,
                elbo_loss,
            ),
            "pass loss=",
        ),
    ],
)
def test_what_it_cannot_call_is_refused_with_a_remedy(arguments, match):
    with pytest.raises((TypeError, ValueError), match=match):
        diagnose(*arguments)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_traced_models_are_refused_with_a_remedy():
    with pytest.raises(TypeError, match="before torch.jit"):
        diagnose(torch.jit.trace(Model().body, torch.zeros(2, 784)), X, elbo_loss)


def test_what_it_cannot_check_it_says():
    autoencoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 784), nn.Sigmoid())
    assert (
        diagnose(autoencoder, X, lambda model, x: bce(model(x), x))[-1].name
        == "not_checked"
    )
