"""A held-out set: faulty and healthy VAEs, for a tool whose code was not read."""

import dataclasses
import functools
import math
import random
import sys
from collections import namedtuple
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.distributions as td
import torch.nn.functional as F
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from vae_tutorial.data import binarize, load_mnist
from vae_tutorial.networks import BernoulliPixels, Gaussian, StandardNormal, mlp
from vae_tutorial.objectives import beta_elbo
from vae_tutorial.vae import VAE, conv_vae, mlp_vae


class Case(NamedTuple):
    name: str
    form: str
    expected: tuple[str, ...]
    make: Callable[[int], dict]


FAULTS, HEALTHY, CRASHERS = [], [], []
SUBTLE = set()  # Names of the faults that a simple tool would miss


def _seeded(make):
    @functools.wraps(make)
    def seeded(seed):
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        return make(seed)

    return seeded


def fault(form, *expected, subtle=False):
    def register(make):
        FAULTS.append(Case(make.__name__, form, expected, _seeded(make)))
        if subtle:
            SUBTLE.add(make.__name__)
        return make

    return register


def healthy(form):
    def register(make):
        HEALTHY.append(Case(make.__name__, form, (), _seeded(make)))
        return make

    return register


def crasher(form, *expected):
    def register(make):
        CRASHERS.append(Case(make.__name__, form, expected, _seeded(make)))
        return make

    return register


# ---------------------------------------------------------------- images


@functools.cache
def _mnist():
    images, labels = load_mnist().test
    return images[:4000].clone(), labels[:4000].clone()


def grey_digits(seed, number=64):
    images, _ = _mnist()
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(seed))
    return images[order[:number]].clone()


def digit_labels(seed, number=64):
    _, labels = _mnist()
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(seed))
    return labels[order[:number]].clone()


def digits(seed, number=64):
    return binarize(grey_digits(seed, number), seed=seed)


def blobs(seed, number=64, side=32):
    "Smooth coloured blobs in [0, 1], shape (number, 3, side, side)."
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, side)
    images = torch.zeros(number, 3, side, side)
    for _ in range(4):
        centre = torch.rand(number, 2, 1, 1, generator=generator) * 1.6 - 0.8
        size = torch.rand(number, 1, 1, generator=generator) * 0.3 + 0.15
        colour = torch.rand(number, 3, 1, 1, generator=generator)
        down = (axis[:, None] - centre[:, 0]) ** 2
        across = (axis[None, :] - centre[:, 1]) ** 2
        images += colour * torch.exp(-(down + across) / (2 * size**2))[:, None]
    return images.clamp(0, 1)


# ---------------------------------------------------------------- small parts


def kl_each(mean, log_variance):
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)


def bce_loss(reconstruction, x, mean, log_variance):
    cross_entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
    return (cross_entropy + kl_each(mean, log_variance).sum()) / len(x)


def logits_loss(logits, x, mean, log_variance):
    cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    per_image = cross_entropy.flatten(1).sum(1)
    return (per_image + kl_each(mean, log_variance)).mean()


def gaussian_loss(reconstruction, x, mean, log_variance):
    squares = 0.5 * (reconstruction - x).pow(2).flatten(1).sum(1)
    return (squares + kl_each(mean, log_variance)).mean()


def train(model, batch, loss, steps=60, optimizer=None):
    "Steps on one batch; `loss(model, x)`."
    if optimizer is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    return optimizer


def on_outputs(loss):
    "A loss of (reconstruction, x, mean, log_variance), called with (model, x)."

    def called(model, x):
        reconstruction, mean, log_variance = model(x)
        return loss(reconstruction, x, mean, log_variance)

    return called


# ================================================================ form a: plain


class PlainVAE(nn.Module):
    def __init__(self, hidden=128, latent=8):
        super().__init__()
        self.hidden, self.latent = hidden, latent
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU())
        self.to_mean = nn.Linear(hidden, latent)
        self.to_log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 784)
        )

    def encode(self, x):
        h = self.trunk(x)
        return self.to_mean(h), self.to_log_variance(h)

    def sample(self, mean, log_variance):
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)

    def decode(self, z):
        return torch.sigmoid(self.decoder(z)).view(-1, 1, 28, 28)

    def forward(self, x):
        mean, log_variance = self.encode(x)
        return self.decode(self.sample(mean, log_variance)), mean, log_variance


def plain(seed, model=None, loss=bce_loss, **more):
    return dict(model=model or PlainVAE(), batch=digits(seed), loss=loss, **more)


@fault("a", "pixels_above_1")
def brightness_jitter_without_clamp(seed):
    brightness = 0.8 + 0.8 * torch.rand(64, 1, 1, 1)
    made = plain(seed)
    made["batch"] = grey_digits(seed) * brightness
    return made


@fault("a", "negative_pixels", subtle=True)
def bicubic_resize_overshoots(seed):
    class Logits(PlainVAE):
        def decode(self, z):
            return self.decoder(z).view(-1, 1, 28, 28)

    made = plain(seed, Logits(), logits_loss)
    small = F.interpolate(grey_digits(seed), size=20, mode="area")
    made["batch"] = F.interpolate(small, size=28, mode="bicubic")
    made["batch"] = made["batch"].clamp(max=1)
    return made


@fault("a", "logits_as_probabilities", subtle=True)
def logits_in_a_clamped_logarithm(seed):
    class Logits(PlainVAE):
        def decode(self, z):
            return self.decoder(z).view(-1, 1, 28, 28)

    def loss(p, x, mean, log_variance):
        p = p.clamp(1e-7, 1 - 1e-7)
        log_likelihood = x * p.log() + (1 - x) * (1 - p).log()
        per_image = -log_likelihood.flatten(1).sum(1)
        return (per_image + kl_each(mean, log_variance)).mean()

    return plain(seed, Logits(), loss)


@fault("a", "clipped_output")
def relu_before_the_sigmoid(seed):
    model = PlainVAE()
    blocks = [nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 784), nn.ReLU()]
    model.decoder = nn.Sequential(*blocks)
    return plain(seed, model)


@fault("a", "no_kl", subtle=True)
def kl_on_a_line_of_its_own(seed):
    def loss(reconstruction, x, mean, log_variance):
        total = F.binary_cross_entropy(reconstruction, x, reduction="sum") / len(x)
        +kl_each(mean, log_variance).mean()
        return total

    return plain(seed, loss=loss)


@fault("a", "half_cross_entropy", "pixels_left_out", subtle=True)
def only_the_ink_is_scored(seed):
    def loss(reconstruction, x, mean, log_variance):
        each = F.binary_cross_entropy(reconstruction, x, reduction="none")
        ink = each[x > 0.5].sum() / len(x)
        return ink + kl_each(mean, log_variance).mean()

    return plain(seed, loss=loss)


@fault("a", "half_cross_entropy")
def cross_entropy_as_of_classes(seed):
    def loss(reconstruction, x, mean, log_variance):
        entropy = -(x * torch.log(reconstruction + 1e-8)).flatten(1).sum(1)
        return (entropy + kl_each(mean, log_variance)).mean()

    return plain(seed, loss=loss)


@fault("a", "broadcast_targets", subtle=True)
def reconstruction_lost_its_channel(seed):
    class NoChannel(PlainVAE):
        def decode(self, z):
            return torch.sigmoid(self.decoder(z)).view(-1, 28, 28)

    def loss(reconstruction, x, mean, log_variance):
        squares = 0.5 * (reconstruction - x).pow(2).sum((-1, -2)).mean()
        return squares + kl_each(mean, log_variance).mean()

    return plain(seed, NoChannel(), loss)


@fault("a", "sigma_mismatch", subtle=True)
def sampler_forgets_the_half(seed):
    class NoHalf(PlainVAE):
        def sample(self, mean, log_variance):
            return mean + torch.exp(log_variance) * torch.randn_like(mean)

    return plain(seed, NoHalf())


@fault("a", "missing_half")
def kl_without_its_half(seed):
    def loss(reconstruction, x, mean, log_variance):
        cross_entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        kl = -torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (cross_entropy + kl) / x.size(0)

    return plain(seed, loss=loss)


@fault("a", "fixed_divisor", subtle=True)
def divides_by_the_batch_size_of_the_settings(seed):
    settings = dict(batch_size=128)

    def loss(reconstruction, x, mean, log_variance):
        cross_entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        total = cross_entropy + kl_each(mean, log_variance).sum()
        return total / settings["batch_size"]

    return plain(seed, loss=loss)


@fault("a", "swapped_outputs")
def outputs_unpacked_in_the_wrong_order(seed):
    class Unpacked(PlainVAE):
        def forward(self, x):
            log_variance, mean = self.encode(x)
            return self.decode(self.sample(mean, log_variance)), log_variance, mean

    return plain(seed, Unpacked())


@fault("a", "runaway_width", subtle=True)
def kl_without_the_logarithm(seed):
    def loss(reconstruction, x, mean, log_variance):
        cross_entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        kl = 0.5 * (mean**2 + log_variance.exp() - 1).sum()
        return (cross_entropy + kl) / len(x)

    return plain(seed, loss=loss)


@fault("a", "frozen", "not_in_optimizer", subtle=True)
def frozen_encoder_has_collapsed(seed):
    model, batch = PlainVAE(), digits(seed)
    for module in (model.trunk, model.to_mean, model.to_log_variance):
        module.requires_grad_(False)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=2e-3)
    train(model, batch, on_outputs(bce_loss), 150, optimizer)
    return dict(model=model, batch=batch, loss=bce_loss, optimizer=optimizer)


@fault("a", "learning_rate", subtle=True)
def learning_rate_of_a_group_has_killed_the_units(seed):
    model, batch = PlainVAE(), digits(seed)
    inference = both(model.trunk, model.to_mean, model.to_log_variance)
    groups = [
        dict(params=inference, lr=1e-3),
        dict(params=model.decoder.parameters(), lr=1.0),
    ]
    optimizer = torch.optim.Adam(groups)
    train(model, batch, on_outputs(bce_loss), 40, optimizer)
    return dict(model=model, batch=batch, loss=bce_loss, optimizer=optimizer)


@fault("a", "learning_rate")
def adam_with_a_rate_of_one(seed):
    model, batch = PlainVAE(), digits(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    return dict(model=model, batch=batch, loss=bce_loss, optimizer=optimizer)


@fault("a", "not_in_optimizer", subtle=True)
def encoder_not_in_the_optimizer_after_100_steps(seed):
    model, batch = PlainVAE(), digits(seed)
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=2e-3)
    train(model, batch, on_outputs(bce_loss), 100, optimizer)
    return dict(model=model, batch=batch, loss=bce_loss, optimizer=optimizer)


@fault("a", "dead_relus")
def biases_initialised_far_below_zero(seed):
    model = PlainVAE()
    nn.init.constant_(model.decoder[0].bias, -50.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return plain(seed, model, optimizer=optimizer)


@fault("a", "posterior_collapse", "no_active_units", "constant_pictures")
def collapsed_under_an_earlier_weight(seed):
    model, batch = PlainVAE(), digits(seed)

    def heavy(reconstruction, x, mean, log_variance):
        cross_entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        return cross_entropy / len(x) + 100 * kl_each(mean, log_variance).mean()

    train(model, batch, on_outputs(heavy), 200)
    return dict(model=model, batch=batch, loss=bce_loss)


@fault("a", "uneven_metric", subtle=True)
def mean_of_uneven_batches(seed):
    def evaluate(model, images):
        model.eval()
        total, batches = 0.0, images.split(24)
        with torch.no_grad():
            for x in batches:
                reconstruction, mean, log_variance = model(x)
                total += bce_loss(reconstruction, x, mean, log_variance).item()
        return total / len(batches)

    return plain(seed, evaluate=evaluate)


@fault("a", "metric_without_kl")
def the_test_loop_scores_the_reconstruction(seed):
    def evaluate(model, images):
        model.eval()
        with torch.no_grad():
            reconstruction, _, _ = model(images)
            total = F.binary_cross_entropy(reconstruction, images, reduction="sum")
        return total.item() / len(images)

    made = plain(seed, evaluate=evaluate)
    train(made["model"], made["batch"], on_outputs(bce_loss), 100)
    return made


@fault("a", "wrong_gradient", subtle=True)
def decoder_tied_to_a_detached_copy(seed):
    class Tied(PlainVAE):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(8, 128)
            self.bias = nn.Parameter(torch.zeros(784))

        def decode(self, z):
            weight = self.trunk[1].weight.data.t()
            logits = F.linear(F.relu(self.decoder(z)), weight, self.bias)
            return torch.sigmoid(logits).view(-1, 1, 28, 28)

    return plain(seed, Tied())


@fault("a", "no_kl", "gradient_cut", "wrong_gradient", subtle=True)
def kl_as_a_number_for_the_log(seed):
    def loss(reconstruction, x, mean, log_variance):
        cross_entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        kl = kl_each(mean, log_variance).mean().item()
        return cross_entropy / len(x) + kl

    return plain(seed, loss=loss)


@fault("a", "limited_mean", subtle=True)
def relu_shared_by_both_heads_and_the_mean(seed):
    class Rectified(PlainVAE):
        def encode(self, x):
            h = x.flatten(1)
            for layer in (self.trunk[1], self.to_mean):
                h_before, h = h, F.relu(layer(h))
            return h, self.to_log_variance(h_before)

    return plain(seed, Rectified())


# ================================================ form b: a pair or a triple


class PairEncoder(nn.Module):
    def __init__(self, latent=10):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(784, 200), nn.Tanh())
        self.head = nn.Linear(200, 2 * latent)

    def forward(self, x):
        mean, log_variance = self.head(self.body(x.flatten(1))).chunk(2, dim=-1)
        return mean, log_variance


class PairDecoder(nn.Module):
    def __init__(self, latent=10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(latent, 200), nn.Tanh(), nn.Linear(200, 784)
        )

    def forward(self, z):
        return self.body(z).unflatten(1, (1, 28, 28))


def draw(mean, log_variance):
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


def both(*modules):
    return [p for module in modules for p in module.parameters()]


def triple(seed, encoder=None, sample=draw, decoder=None, loss=logits_loss, **more):
    model = encoder or PairEncoder(), sample, decoder or PairDecoder()
    return dict(model=model, batch=digits(seed), loss=loss, **more)


@fault("b", "tiny_pixels")
def divided_by_255_twice(seed):
    encoder, decoder = PairEncoder(), PairDecoder()
    return dict(
        model=(encoder, decoder), batch=grey_digits(seed) / 255, loss=logits_loss
    )


@fault("b", "swapped_arguments")
def target_comes_first(seed):
    def loss(logits, x, mean, log_variance):
        p = torch.sigmoid(logits)
        entropy = F.binary_cross_entropy(x, p, reduction="none").flatten(1).sum(1)
        return (entropy + kl_each(mean, log_variance)).mean()

    model = PairEncoder(), PairDecoder()
    return dict(model=model, batch=digits(seed), loss=loss)


@fault("b", "wrong_sample")
def mean_times_width_plus_noise(seed):
    def sample(mean, log_variance):
        return mean * torch.exp(0.5 * log_variance) + torch.randn_like(mean)

    return triple(seed, sample=sample)


@fault("b", "width_unused", subtle=True)
def noise_not_scaled(seed):
    def sample(mean, log_variance):
        deviation = torch.exp(0.5 * log_variance)
        return torch.normal(mean, torch.ones_like(deviation))

    return triple(seed, sample=sample)


@fault("b", "same_noise", subtle=True)
def generator_made_in_every_call(seed):
    def sample(mean, log_variance):
        generator = torch.Generator().manual_seed(42)
        noise = torch.randn(mean.shape, generator=generator)
        return mean + noise * torch.exp(0.5 * log_variance)

    return triple(seed, sample=sample)


@fault("b", "shared_noise", subtle=True)
def one_noise_vector_for_all_images(seed):
    def sample(mean, log_variance):
        noise = torch.randn(mean.shape[-1])
        return mean + noise * torch.exp(0.5 * log_variance)

    return triple(seed, sample=sample)


@fault("b", "kl_formula", subtle=True)
def mean_not_squared(seed):
    def loss(logits, x, mean, log_variance):
        entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        kl = -0.5 * (1 + log_variance - mean.abs() - log_variance.exp()).sum(1)
        return (entropy.flatten(1).sum(1) + kl).mean()

    return triple(seed, loss=loss)


@fault("b", "decoder_sees_x", subtle=True)
def features_kept_for_a_skip_connection(seed):
    encoder = PairEncoder()
    skip = nn.Linear(200, 200)
    decoder = nn.Sequential(nn.Linear(210, 200), nn.Tanh(), nn.Linear(200, 784))
    kept = {}

    def encode(x):
        kept["features"] = encoder.body(x.flatten(1))
        return encoder.head(kept["features"]).chunk(2, dim=-1)

    def decode(z):
        together = torch.cat([z, skip(kept["features"])], dim=1)
        return decoder(together).view(-1, 1, 28, 28)

    optimizer = torch.optim.Adam(both(encoder, skip, decoder), lr=1e-3)
    model = encode, draw, decode
    return dict(model=model, batch=digits(seed), loss=logits_loss, optimizer=optimizer)


@fault("b", "same_head", subtle=True)
def chunk_after_one_head(seed):
    class OneHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU())
            self.head = nn.Linear(200, 10)

        def forward(self, x):
            statistics = self.head(self.body(x))
            return statistics, statistics

    return dict(model=(OneHead(), PairDecoder()), batch=digits(seed), loss=logits_loss)


@fault("b", "codes_mixed", subtle=True)
def view_instead_of_transpose_of_the_codes(seed):
    def sample(mean, log_variance):
        noise = torch.randn(mean.shape[1], mean.shape[0])
        deviation = torch.exp(0.5 * log_variance)
        z = mean.t() + deviation.t() * noise
        return z.reshape(mean.shape)

    return triple(seed, sample=sample)


@fault("b", "weight_decay")
def decay_of_one(seed):
    encoder, decoder = PairEncoder(), PairDecoder()
    parameters = both(encoder, decoder)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, weight_decay=1.0)
    return dict(
        model=(encoder, decoder),
        batch=digits(seed),
        loss=logits_loss,
        optimizer=optimizer,
    )


@fault("b", "no_sampling")
def sample_gives_the_mean(seed):
    def sample(mean, log_variance):
        # noise = draw(torch.zeros_like(mean), log_variance)
        return mean  # + noise

    return triple(seed, sample=sample)


@fault("b", "not_in_optimizer")
def only_the_encoder_is_optimized(seed):
    encoder, decoder = PairEncoder(), PairDecoder()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    return triple(seed, encoder, draw, decoder, optimizer=optimizer)


@fault("b", "limited_width", subtle=True)
def log_variance_clamped_from_above(seed):
    class Clamped(PairEncoder):
        def forward(self, x):
            mean, log_variance = super().forward(x)
            return mean, log_variance.clamp(max=-2.0)

    return dict(model=(Clamped(), PairDecoder()), batch=digits(seed), loss=logits_loss)


@fault("b", "uneven_kl")
def kl_of_the_first_dimensions(seed):
    def loss(logits, x, mean, log_variance):
        entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        kl = torch.zeros(len(x))
        for unit in range(mean.shape[1] - 1):
            m, v = mean[:, unit], log_variance[:, unit]
            kl = kl + 0.5 * (m**2 + v.exp() - v - 1)
        return (entropy.flatten(1).sum(1) + kl).mean()

    return triple(seed, loss=loss)


# =================================== form c: a record, the loss inside forward


class RecordVAE(nn.Module):
    "forward gives a dict; the parts of the loss are methods, to be overridden."

    def __init__(self, latent=6):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU()
        )
        self.fc_mu = nn.Linear(64, latent)
        self.fc_var = nn.Linear(64, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 128), nn.GELU(), nn.Linear(128, 784)
        )

    def reparameterize(self, mu, log_var):
        std = torch.exp(0.5 * log_var)
        return std * torch.randn_like(std) + mu

    def decode(self, z):
        return self.decoder(z)

    def reconstruction_loss(self, recon_x, x):
        x = x.reshape(x.shape[0], -1)
        return F.binary_cross_entropy_with_logits(recon_x, x, reduction="none").sum(-1)

    def kl_loss(self, mu, log_var):
        return -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=-1)

    def total(self, reconstruction, kl):
        return (reconstruction + kl).mean()

    def statistics(self, x):
        h = self.encoder(x)
        return self.fc_mu(h), self.fc_var(h)

    def forward(self, x):
        mu, log_var = self.statistics(x)
        z = self.reparameterize(mu, log_var)
        recon_x = self.decode(z)
        reconstruction = self.reconstruction_loss(recon_x, x)
        kl = self.kl_loss(mu, log_var)
        return dict(
            loss=self.total(reconstruction, kl),
            recon_x=recon_x,
            reconstruction=reconstruction.mean(),
            kl=kl.mean(),
            mu=mu,
            log_var=log_var,
            z=z,
        )


def record(seed, model, batch=None, **more):
    return dict(model=model, batch=digits(seed) if batch is None else batch, **more)


@fault("c", "pixels_0_255")
def pil_to_tensor_without_scaling(seed):
    return record(seed, RecordVAE(), (grey_digits(seed) * 255).round())


@fault("c", "logits_as_probabilities")
def cross_entropy_refuses_the_logits(seed):
    class Model(RecordVAE):
        def reconstruction_loss(self, recon_x, x):
            x = x.flatten(1)
            return F.binary_cross_entropy(recon_x, x, reduction="none").sum(-1)

    return record(seed, Model())


@fault("c", "softmax_output")
def softmax_over_the_pixels(seed):
    class Model(RecordVAE):
        def decode(self, z):
            return F.softmax(self.decoder(z), dim=-1)

        def reconstruction_loss(self, recon_x, x):
            x = x.flatten(1)
            return F.binary_cross_entropy(recon_x, x, reduction="none").sum(-1)

    return record(seed, Model())


@fault("c", "no_reconstruction")
def reconstruction_overwritten(seed):
    class Model(RecordVAE):
        def total(self, reconstruction, kl):
            loss = 0.0
            for term in (reconstruction, kl):
                loss = term.mean()
            return loss

    return record(seed, Model())


@fault("c", "inverted_targets")
def dark_digits_for_the_decoder(seed):
    class Model(RecordVAE):
        def reconstruction_loss(self, recon_x, x):
            return super().reconstruction_loss(recon_x, 1.0 - x)

    return record(seed, Model())


@fault("c", "kl_sign")
def kl_subtracted(seed):
    class Model(RecordVAE):
        def total(self, reconstruction, kl):
            return (reconstruction - kl).mean()

    return record(seed, Model())


@fault("c", "wrong_weight", subtle=True)
def mean_over_pixels_sum_over_units(seed):
    class Model(RecordVAE):
        def reconstruction_loss(self, recon_x, x):
            return F.binary_cross_entropy_with_logits(recon_x, x.flatten(1))

    return record(seed, Model())


@fault("c", "gradient_cut")
def codes_detached_for_the_plot(seed):
    class Model(RecordVAE):
        def reparameterize(self, mu, log_var):
            z = super().reparameterize(mu, log_var).detach()
            self.last_codes = z
            return z

    return record(seed, Model())


@fault("c", "uneven_kl", subtle=True)
def kl_weighted_by_a_ramp_over_the_units(seed):
    class Model(RecordVAE):
        def kl_loss(self, mu, log_var):
            each = -0.5 * (1 + log_var - mu.pow(2) - log_var.exp())
            ramp = torch.linspace(0.5, 1.5, each.shape[-1])
            return (ramp * each).sum(-1)

    return record(seed, Model())


@fault("c", "dimensions_left_out", subtle=True)
def two_codes_left_over_from_a_plot(seed):
    class Model(RecordVAE):
        def __init__(self):
            super().__init__()
            self.decoder[0] = nn.Linear(2, 128)

        def decode(self, z):
            return self.decoder(z[:, :2])

    return record(seed, Model())


@fault("c", "fixed_width")
def constant_deviation(seed):
    class Model(RecordVAE):
        def __init__(self):
            super().__init__()
            self.register_buffer("log_var", torch.full((6,), 2 * math.log(0.5)))
            del self.fc_var

        def statistics(self, x):
            mu = self.fc_mu(self.encoder(x))
            return mu, self.log_var.expand_as(mu)

    return record(seed, Model())


@fault("c", "not_additive", subtle=True)
def product_of_the_terms(seed):
    class Model(RecordVAE):
        def total(self, reconstruction, kl):
            return (reconstruction * (1 + kl)).mean()

    return record(seed, Model())


@fault("c", "dropout_in_eval", subtle=True)
def functional_dropout_always_on(seed):
    class Model(RecordVAE):
        def statistics(self, x):
            h = F.dropout(self.encoder(x), p=0.3)
            return self.fc_mu(h), self.fc_var(h)

    return record(seed, Model())


@fault("c", "no_sampling", "sampling_in_eval", subtle=True)
def sampling_the_wrong_way_round(seed):
    class Model(RecordVAE):
        def reparameterize(self, mu, log_var):
            if self.training:
                return mu
            return super().reparameterize(mu, log_var)

    return record(seed, Model())


@fault("c", "decoder_ignores_z", subtle=True)
def decodes_fresh_codes(seed):
    class Model(RecordVAE):
        def decode(self, z):
            return self.decoder(torch.randn_like(z))

    return record(seed, Model())


@fault("c", "unregistered_layers")
def layers_in_a_list(seed):
    class Model(RecordVAE):
        def __init__(self):
            super().__init__()
            sizes = [6, 64, 128]
            del self.decoder
            self.layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
            self.output = nn.Linear(128, 784)

        def decode(self, z):
            for layer in self.layers:
                z = F.gelu(layer(z))
            return self.output(z)

    return record(seed, Model())


@fault("c", "pixels_left_out", subtle=True)
def slice_from_an_older_crop(seed):
    Output = namedtuple("Output", "loss reconstruction mean log_variance")

    class Model(PlainVAE):
        def forward(self, x):
            p, mean, log_variance = super().forward(x)
            each = F.binary_cross_entropy(p, x, reduction="none")
            entropy = each[..., 2:-2, 2:-2].flatten(1).sum(1)
            loss = (entropy + kl_each(mean, log_variance)).mean()
            return Output(loss, p, mean, log_variance)

    return record(seed, Model())


@fault("c", "loss_sign")
def forward_returns_the_bound(seed):
    @dataclasses.dataclass
    class Output:
        loss: torch.Tensor
        reconstruction: torch.Tensor
        mean: torch.Tensor
        log_variance: torch.Tensor

    class Model(PlainVAE):
        def forward(self, x):
            p, mean, log_variance = super().forward(x)
            log_likelihood = -F.binary_cross_entropy(p, x, reduction="sum") / len(x)
            bound = log_likelihood - kl_each(mean, log_variance).mean()
            return Output(bound, p, mean, log_variance)

    return record(seed, Model())


# ============================== form d: torch.distributions and a closure


class DistributionVAE(nn.Module):
    def __init__(self, latent=5):
        super().__init__()
        self.latent = latent
        self.inference = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 100), nn.ELU(), nn.Linear(100, 2 * latent)
        )
        self.generative = nn.Sequential(
            nn.Linear(latent, 100), nn.ELU(), nn.Linear(100, 784)
        )

    def posterior(self, x):
        mean, raw = self.inference(x).chunk(2, -1)
        return Independent(Normal(mean, F.softplus(raw) + 1e-4), 1)

    def prior(self):
        zeros = torch.zeros(self.latent)
        return Independent(Normal(zeros, torch.ones(self.latent)), 1)

    def likelihood(self, z):
        logits = self.generative(z).view(*z.shape[:-1], 1, 28, 28)
        return Independent(Bernoulli(logits=logits), 3)

    def forward(self, x):
        q = self.posterior(x)
        z = q.rsample()
        return self.likelihood(z), q, z


def negative_bound(model, x):
    p, q, _ = model(x)
    return (kl_divergence(q, model.prior()) - p.log_prob(x)).mean()


def closure(seed, model=None, loss=negative_bound, **more):
    model = model or DistributionVAE()
    return dict(model=model, batch=digits(seed), loss=loss, **more)


@fault("d", "probabilities_as_logits", subtle=True)
def sigmoid_left_in_the_network(seed):
    model = DistributionVAE()
    model.generative.append(nn.Sigmoid())
    return closure(seed, model)


@fault("d", "sigmoid_twice", subtle=True)
def sigmoid_in_network_and_likelihood(seed):
    class Model(DistributionVAE):
        def likelihood(self, z):
            p = torch.sigmoid(self.generative(z)).view(*z.shape[:-1], 1, 28, 28)
            return Independent(Bernoulli(probs=p), 3)

    model = Model()
    model.generative.append(nn.Sigmoid())
    return closure(seed, model)


@fault("d", "loss_sign")
def minimizes_the_bound(seed):
    def loss(model, x):
        p, q, _ = model(x)
        return (p.log_prob(x) - kl_divergence(q, model.prior())).mean()

    return closure(seed, loss=loss)


@fault("d", "gradient_cut", subtle=True)
def sample_instead_of_rsample(seed):
    class Model(DistributionVAE):
        def forward(self, x):
            q = self.posterior(x)
            z = q.sample()
            return self.likelihood(z), q, z

    return closure(seed, Model())


@fault("d", "wrong_weight", subtle=True)
def mean_of_a_kl_per_unit(seed):
    class Model(DistributionVAE):
        def posterior(self, x):
            mean, raw = self.inference(x).chunk(2, -1)
            return Normal(mean, F.softplus(raw) + 1e-4)

        def prior(self):
            return Normal(torch.zeros(self.latent), torch.ones(self.latent))

    def loss(model, x):
        p, q, _ = model(x)
        return kl_divergence(q, model.prior()).mean() - p.log_prob(x).mean()

    return closure(seed, Model(), loss)


@fault("d", "kl_formula", subtle=True)
def kl_the_other_way_round(seed):
    def loss(model, x):
        p, q, _ = model(x)
        return (kl_divergence(model.prior(), q) - p.log_prob(x)).mean()

    return closure(seed, loss=loss)


@fault("d", "blind_loss", subtle=True)
def scores_its_own_picture(seed):
    def loss(model, x):
        p, q, _ = model(x)
        x = (p.mean > 0.5).float()
        return (kl_divergence(q, model.prior()) - p.log_prob(x)).mean()

    return closure(seed, loss=loss)


@fault("d", "not_finite")
def logarithm_of_a_rectified_width(seed):
    class Model(DistributionVAE):
        def posterior(self, x):
            mean, raw = self.inference(x).chunk(2, -1)
            return Independent(Normal(mean, F.relu(raw), validate_args=False), 1)

    return closure(seed, Model())


@fault("d", "random_targets", subtle=True)
def binarized_twice(seed):
    def loss(model, x):
        p, q, _ = model(torch.bernoulli(x))
        target = torch.bernoulli(x)
        return (kl_divergence(q, model.prior()) - p.log_prob(target)).mean()

    made = closure(seed, loss=loss)
    made["batch"] = grey_digits(seed)
    return made


@fault("d", "random_targets", subtle=True)
def shifted_differently_for_input_and_target(seed):
    def augment(x):
        down, across = np.random.randint(-2, 3, size=2)
        return torch.roll(x, (int(down), int(across)), dims=(-2, -1))

    def loss(model, x):
        p, q, _ = model(augment(x))
        return (kl_divergence(q, model.prior()) - p.log_prob(augment(x))).mean()

    return closure(seed, loss=loss)


@fault("d", "wrong_gradient", subtle=True)
def gradient_scaled_by_a_hook(seed):
    class Model(DistributionVAE):
        def forward(self, x):
            q = self.posterior(x)
            z = q.rsample()
            if z.requires_grad:
                z.register_hook(lambda gradient: 0.1 * gradient)
            return self.likelihood(z), q, z

    return closure(seed, Model())


@fault("d", "wrong_gradient", subtle=True)
def own_backward_with_a_mistake(seed):
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * torch.sigmoid(x)

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            gate = torch.sigmoid(x)
            return gradient * (gate + x * gate * gate)

    class Activation(nn.Module):
        def forward(self, x):
            return Swish.apply(x)

    model = DistributionVAE()
    model.generative[1] = Activation()
    return closure(seed, model)


@fault("d", "exploding_variance", "not_finite")
def weights_drawn_with_unit_deviation(seed):
    class Model(DistributionVAE):
        def posterior(self, x):
            mean, log_variance = self.inference(x).chunk(2, -1)
            deviation = torch.exp(0.5 * log_variance)
            return Independent(Normal(mean, deviation, validate_args=False), 1)

    model = Model()
    for layer in (model.inference[1], model.inference[3]):
        nn.init.normal_(layer.weight)
    with torch.no_grad():
        model.inference[3].bias[5:] += 60
    return closure(seed, model)


@fault("d", "maximized_loss", subtle=True)
def optimizer_told_to_maximize(seed):
    model = DistributionVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, maximize=True)
    return closure(seed, model, optimizer=optimizer)


@fault("d", "shuffled_targets", subtle=True)
def mixup_index_left_in(seed):
    def loss(model, x):
        p, q, _ = model(x)
        partner = torch.randperm(len(x))
        return (kl_divergence(q, model.prior()) - p.log_prob(x[partner])).mean()

    return closure(seed, loss=loss)


@fault("d", "wrong_weight", subtle=True)
def weight_from_the_settings_of_another_run(seed):
    def loss(model, x, beta=4.0):
        p, q, _ = model(x)
        return (beta * kl_divergence(q, model.prior()) - p.log_prob(x)).mean()

    return closure(seed, loss=loss)


@fault("d", "no_kl", subtle=True)
def kl_of_the_posterior_with_itself(seed):
    def loss(model, x):
        p, q, z = model(x)
        prior = Independent(Normal(q.mean, q.stddev), 1)
        kl = q.log_prob(z) - prior.log_prob(z)
        return (kl - p.log_prob(x)).mean()

    return closure(seed, loss=loss)


@fault("d", "sigma_mismatch", subtle=True)
def variance_where_normal_wants_a_deviation(seed):
    class Model(DistributionVAE):
        def statistics(self, x):
            return self.inference(x).chunk(2, -1)

        def forward(self, x):
            mean, log_variance = self.statistics(x)
            z = Normal(mean, log_variance.exp()).rsample()
            return self.likelihood(z), mean, log_variance

    def loss(model, x):
        p, mean, log_variance = model(x)
        return (kl_each(mean, log_variance) - p.log_prob(x)).mean()

    return closure(seed, Model(), loss)


# ============================== form e: convolutions, batch norm, colour


class ConvVAE(nn.Module):
    "Gaussian pixels of unit variance, images (3, 32, 32)."

    def __init__(self, latent=16, channels=16, output=None):
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 4, 2, 1),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, 2, 1),
            nn.BatchNorm2d(2 * channels),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.fc_mu = nn.Linear(2 * channels * 64, latent)
        self.fc_logvar = nn.Linear(2 * channels * 64, latent)
        self.decoder_input = nn.Linear(latent, 2 * channels * 64)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (2 * channels, 8, 8)),
            nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(channels, 3, 4, 2, 1),
        )
        if output is not None:
            self.decoder.append(output)

    def encode(self, x):
        h = self.encoder(x)
        return self.fc_mu(h), self.fc_logvar(h)

    def reparameterize(self, mu, logvar):
        return mu + torch.randn_like(mu).mul(logvar.mul(0.5).exp())

    def decode(self, z):
        return self.decoder(self.decoder_input(z))

    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def conv(seed, model=None, loss=gaussian_loss, **more):
    return dict(model=model or ConvVAE(), batch=blobs(seed), loss=loss, **more)


@fault("e", "negative_pixels")
def normalized_pixels_with_a_cross_entropy(seed):
    made = conv(seed, loss=logits_loss)
    made["batch"] = (made["batch"] - 0.5) / 0.5
    return made


@fault("e", "unreachable_pixels", subtle=True)
def sigmoid_decoder_for_normalized_pixels(seed):
    made = conv(seed, ConvVAE(output=nn.Sigmoid()))
    made["batch"] = (made["batch"] - 0.5) / 0.5
    return made


@fault("e", "unreachable_pixels", subtle=True)
def tanh_decoder_for_standardized_pixels(seed):
    made = conv(seed, ConvVAE(output=nn.Tanh()))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    made["batch"] = (made["batch"] - mean) / deviation
    return made


@fault("e", "transposed_targets", subtle=True)
def view_instead_of_permute_of_the_target(seed):
    def loss(reconstruction, x, mean, log_variance):
        channels_last = reconstruction.permute(0, 2, 3, 1)
        squares = 0.5 * (channels_last - x.view(len(x), 32, 32, 3)).pow(2)
        return squares.sum() / len(x) + kl_each(mean, log_variance).mean()

    return conv(seed, loss=loss)


@fault("e", "pixels_left_out", subtle=True)
def only_the_first_channel_is_scored(seed):
    def loss(reconstruction, x, mean, log_variance):
        squares = 0.5 * (reconstruction[:, 0] - x[:, 0]).pow(2).sum((1, 2))
        return (squares + kl_each(mean, log_variance)).mean()

    return conv(seed, loss=loss)


@fault("e", "decoder_sees_x")
def u_net_skip(seed):
    class Skip(ConvVAE):
        def __init__(self):
            super().__init__()
            self.output = nn.Conv2d(16, 3, 1)

        def forward(self, x):
            mu, logvar = self.encode(x)
            picture = self.decode(self.reparameterize(mu, logvar))
            early = F.interpolate(self.encoder[:3](x), scale_factor=2)
            return picture + self.output(early), mu, logvar

    return conv(seed, Skip())


@fault("e", "batch_mixing", subtle=True)
def features_normalized_by_hand(seed):
    class Normalized(ConvVAE):
        def encode(self, x):
            h = self.encoder(x)
            h = (h - h.mean(0)) / (h.std(0) + 1e-5)
            return self.fc_mu(h), self.fc_logvar(h)

    return conv(seed, Normalized())


@fault("e", "stuck_statistics", subtle=True)
def batch_norm_kept_in_eval_mode(seed):
    class Stuck(ConvVAE):
        def train(self, mode=True):
            super().train(mode)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            return self

    model = Stuck()
    model.train()
    return conv(seed, model)


@fault("e", "train_eval_gap", "stuck_statistics", subtle=True)
def momentum_of_zero(seed):
    model, batch = ConvVAE(), blobs(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    train(model, batch, on_outputs(gaussian_loss), 40)
    return dict(model=model, batch=batch, loss=gaussian_loss)


@fault("e", "train_eval_gap", subtle=True)
def momentum_of_one_and_a_last_batch_of_two(seed):
    model, batch = ConvVAE(), blobs(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    loss = on_outputs(gaussian_loss)
    optimizer = train(model, batch, loss, 40)
    dark = blobs(seed + 1, 2) * 0.02
    train(model, dark, loss, 1, optimizer)
    return dict(model=model, batch=batch, loss=gaussian_loss)


@fault("e", "limited_width", subtle=True)
def batch_norm_behind_the_log_variance(seed):
    model = ConvVAE()
    model.fc_logvar = nn.Sequential(model.fc_logvar, nn.BatchNorm1d(16))
    return conv(seed, model)


@fault("e", "encoder_ignores_x", subtle=True)
def group_norm_of_one_pixel(seed):
    class Pooled(ConvVAE):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv2d(3, 32, 4, 2, 1),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, 2, 1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.GroupNorm(64, 64),
                nn.Flatten(),
            )
            self.fc_mu = nn.Linear(64, 16)
            self.fc_logvar = nn.Linear(64, 16)

    return conv(seed, Pooled())


@fault("e", "missing_half")
def squared_error_without_its_half(seed):
    def loss(reconstruction, x, mean, log_variance):
        squares = F.mse_loss(reconstruction, x, reduction="sum")
        return squares / len(x) + kl_each(mean, log_variance).mean()

    return conv(seed, loss=loss)


@fault("e", "wrong_weight", subtle=True)
def number_of_pixels_of_another_data_set(seed):
    def loss(reconstruction, x, mean, log_variance):
        squares = 0.5 * F.mse_loss(reconstruction, x) * 28 * 28
        return squares + kl_each(mean, log_variance).mean()

    return conv(seed, loss=loss)


@fault("e", "constant_pictures", "decoder_ignores_z", subtle=True)
def decoder_weights_drawn_far_too_small(seed):
    model = ConvVAE()
    model.decoder = nn.Sequential(
        nn.ReLU(),
        nn.Linear(2048, 256),
        nn.ReLU(),
        nn.Linear(256, 3072),
        nn.Unflatten(1, (3, 32, 32)),
    )
    for module in both(model.decoder_input, model.decoder):
        nn.init.normal_(module, std=2e-5)
    return conv(seed, model)


@fault("e", "input_changed", subtle=True)
def normalized_in_place_in_forward(seed):
    class InPlace(ConvVAE):
        def encode(self, x):
            return super().encode(x.sub_(0.5).div_(0.5))

    return conv(seed, InPlace(output=nn.Tanh()))


@fault("e", "not_in_optimizer", subtle=True)
def layer_replaced_after_the_optimizer_was_made(seed):
    model = ConvVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.fc_mu = nn.Linear(2048, 16)
    return conv(seed, model, optimizer=optimizer)


@fault("e", "shared_noise", "wrong_noise", subtle=True)
def one_noise_for_all_positions(seed):
    class Spatial(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Sequential(
                nn.Conv2d(3, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 8, 4, 2, 1)
            )
            self.up = nn.Sequential(
                nn.ConvTranspose2d(4, 32, 4, 2, 1),
                nn.SiLU(),
                nn.ConvTranspose2d(32, 3, 4, 2, 1),
            )

        def forward(self, x):
            mean, log_variance = self.down(x).chunk(2, dim=1)
            noise = torch.randn(len(x), 4, 1, 1)
            z = mean + noise * torch.exp(0.5 * log_variance)
            return self.up(z), mean, log_variance

    def loss(reconstruction, x, mean, log_variance):
        squares = 0.5 * (reconstruction - x).pow(2).sum()
        kl = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum()
        return (squares + kl) / len(x)

    return conv(seed, Spatial(), loss)


# ==================================================== form f: odd sampling


def sampling(seed, sample, **more):
    class Model(PlainVAE):
        def sample(self, mean, log_variance):
            return sample(mean, log_variance)

    return plain(seed, Model(), **more)


@fault("f", "same_noise", subtle=True)
def random_state_made_in_every_call(seed):
    def sample(mean, log_variance):
        noise = np.random.RandomState(0).standard_normal(tuple(mean.shape))
        return mean + torch.from_numpy(noise).float() * (log_variance / 2).exp()

    return sampling(seed, sample)


@fault("f", "same_noise", subtle=True)
def noise_cached_by_its_shape(seed):
    @functools.lru_cache
    def noise(shape):
        return torch.randn(shape)

    def sample(mean, log_variance):
        return mean + noise(mean.shape) * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@fault("f", "same_noise", subtle=True)
def seeded_in_forward_to_be_reproducible(seed):
    class Reproducible(PlainVAE):
        def forward(self, x):
            torch.manual_seed(1234)
            return super().forward(x)

    return plain(seed, Reproducible())


@fault("f", "wrong_noise")
def uniform_noise_between_zero_and_one(seed):
    def sample(mean, log_variance):
        return mean + torch.rand_like(mean) * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@fault("f", "wrong_noise", subtle=True)
def box_muller_without_its_two(seed):
    def sample(mean, log_variance):
        u, v = torch.rand_like(mean), torch.rand_like(mean)
        noise = torch.sqrt(-torch.log(1 - u)) * torch.cos(2 * math.pi * v)
        return mean + noise * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@fault("f", "wrong_noise", subtle=True)
def mean_of_five_samples_is_decoded(seed):
    def sample(mean, log_variance):
        noise = torch.randn(5, *mean.shape)
        return (mean + noise * torch.exp(0.5 * log_variance)).mean(0)

    return sampling(seed, sample)


@fault("f", "wrong_noise", subtle=True)
def inverse_of_the_error_function_of_half_its_range(seed):
    def sample(mean, log_variance):
        u = torch.rand_like(mean).clamp(1e-5, 1 - 1e-5)
        noise = math.sqrt(2) * torch.erfinv(u)
        return mean + noise * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@fault("f", "wrong_noise", subtle=True)
def truncated_noise(seed):
    def sample(mean, log_variance):
        noise = nn.init.trunc_normal_(torch.empty_like(mean), a=-0.7, b=0.7)
        return mean + noise * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@fault("f", "wrong_sample", "no_sampling", "kl_formula", subtle=True)
def sampled_into_the_mean_itself(seed):
    def sample(mean, log_variance):
        return mean.add_(torch.randn_like(mean) * torch.exp(0.5 * log_variance))

    return sampling(seed, sample)


@fault("f", "shared_noise", "wrong_noise", subtle=True)
def one_number_for_all_units(seed):
    def sample(mean, log_variance):
        noise = torch.randn(len(mean), 1)
        return torch.addcmul(mean, noise, torch.exp(0.5 * log_variance))

    return sampling(seed, sample)


@fault("f", "shuffled_targets", subtle=True)
def samples_first_but_targets_interleaved(seed):
    model = PlainVAE()

    def loss(model, x, samples=4):
        mean, log_variance = model.encode(x)
        noise = torch.randn(samples, *mean.shape)
        z = (mean + noise * torch.exp(0.5 * log_variance)).flatten(0, 1)
        target = x.repeat_interleave(samples, dim=0)
        entropy = F.binary_cross_entropy(model.decode(z), target, reduction="sum")
        return (entropy / samples + kl_each(mean, log_variance).sum()) / len(x)

    return plain(seed, model, loss)


@fault("f", "gradient_cut", subtle=True)
def noise_added_in_numpy(seed):
    def sample(mean, log_variance):
        z = np.random.normal(
            mean.detach().numpy(), torch.exp(0.5 * log_variance).detach().numpy()
        )
        return torch.as_tensor(z, dtype=torch.float32)

    return sampling(seed, sample)


@fault("f", "wrong_sample", subtle=True)
def parentheses_around_mean_and_width(seed):
    def sample(mean, log_variance):
        deviation = torch.exp(0.5 * log_variance)
        return (mean + deviation) * torch.randn_like(mean)

    return sampling(seed, sample)


# =========================================== form g: vae_tutorial's own parts


def own_parts(seed, loss, model=None, **more):
    model = model or mlp_vae(latent_dim=4)
    return dict(model=model, batch=digits(seed), loss=loss, **more)


def own_loss(model, x):
    return -model.elbo(x).elbo.mean()


@fault("g", "no_kl")
def reconstruction_of_the_terms_only(seed):
    return own_parts(seed, lambda model, x: -model.elbo(x).reconstruction.mean())


@fault("g", "kl_sign", subtle=True)
def both_terms_negated(seed):
    def loss(model, x):
        terms = model.elbo(x)
        return -(terms.reconstruction + terms.kl).mean()

    return own_parts(seed, loss)


@fault("g", "loss_sign")
def the_bound_itself_is_returned(seed):
    return own_parts(seed, lambda model, x: model.elbo(x).elbo.mean())


@fault("g", "not_additive", "no_kl", subtle=True)
def larger_of_the_two_terms(seed):
    def loss(model, x):
        terms = model.elbo(x)
        return torch.maximum(-terms.reconstruction, 100 * terms.kl).mean()

    return own_parts(seed, loss)


@fault("g", "wrong_gradient", subtle=True)
def gradient_clipped_on_its_way_through_the_codes(seed):
    class Clip(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.view_as(z)

        @staticmethod
        def backward(ctx, gradient):
            return gradient.clamp(-1e-3, 1e-3)

    def loss(model, x):
        q = model.encode(x)
        p = model.decode(Clip.apply(q.rsample()))
        return (kl_divergence(q, model.prior) - p.log_prob(x)).mean()

    return own_parts(seed, loss)


@fault("g", "wrong_weight")
def beta_objective_beside_beta_one(seed):
    objective = beta_elbo(0.1)
    return own_parts(seed, lambda model, x: -objective(model, x).objective.mean())


@fault("g", "limited_mean", "limited_width", subtle=True)
def tanh_behind_both_halves(seed):
    up = mlp([784, 128, 8])
    down = mlp([4, 128, 784])
    encoder = Gaussian(nn.Sequential(nn.Flatten(), *up, nn.Tanh()))
    model = VAE(encoder, BernoulliPixels(down, (1, 28, 28)), StandardNormal(4))
    return own_parts(seed, own_loss, model)


@fault("g", "frozen", subtle=True)
def decoder_still_frozen_from_an_earlier_stage(seed):
    model = mlp_vae(latent_dim=4)
    model.decoder.requires_grad_(False)
    return own_parts(seed, own_loss, model)


@fault("g", "batch_mixing", "not_additive", "wrong_weight", subtle=True)
def importance_weights_summed_over_the_batch(seed):
    def loss(model, x, samples=5):
        q = model.encode(x)
        z = q.rsample((samples,))
        log_weight = model.decode(z).log_prob(x)
        log_weight = log_weight + model.prior.log_prob(z) - q.log_prob(z)
        return -(log_weight.logsumexp(-1) - math.log(samples)).mean()

    return own_parts(seed, loss)


@fault("g", "runaway_width", "kl_formula", subtle=True)
def log_densities_without_their_widths(seed):
    def loss(model, x):
        q = model.encode(x)
        z = q.rsample()
        log_prior = -0.5 * z.pow(2).sum(-1)
        log_posterior = -0.5 * (((z - q.mean) / q.stddev) ** 2).sum(-1)
        return -(model.decode(z).log_prob(x) + log_prior - log_posterior).mean()

    return own_parts(seed, loss)


@fault("g", "learning_rate")
def rate_with_a_digit_too_many(seed):
    model = mlp_vae(latent_dim=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-10)
    return own_parts(seed, own_loss, model, optimizer=optimizer)


# =========================== form h: transformers, recurrent ones, precision


class PatchVAE(nn.Module):
    "A transformer over 16 patches of 7 x 7 pixels, with a token for the class."

    def __init__(self, width=32, latent=6, dropout=0.1):
        super().__init__()
        self.width, self.dropout = width, dropout
        self.embed = nn.Linear(49, width)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.encoder = self.transformer(batch_first=True)
        self.heads = nn.Linear(width, 2 * latent)
        self.from_code = nn.Linear(latent, width)
        self.decoder = self.transformer(batch_first=True)
        self.to_pixels = nn.Linear(width, 49)

    def transformer(self, **more):
        layer = nn.TransformerEncoderLayer(self.width, 4, 64, self.dropout, **more)
        return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def patches(self, x):
        parts = x.view(-1, 4, 7, 4, 7).transpose(2, 3)
        return parts.reshape(-1, 16, 49)

    def picture(self, patches):
        parts = patches.view(-1, 4, 4, 7, 7).transpose(2, 3)
        return parts.reshape(-1, 1, 28, 28)

    def attend(self, tokens):
        return self.encoder(tokens)

    def encode(self, x):
        tokens = self.embed(self.patches(x))
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], dim=1)
        h = self.attend(tokens + self.positions)
        mean, log_variance = self.heads(h[:, 0]).chunk(2, dim=-1)
        return mean, log_variance

    def decode(self, z):
        tokens = self.from_code(z)[:, None] + self.positions[:, 1:]
        return self.picture(self.to_pixels(self.decoder(tokens)))

    def forward(self, x):
        mean, log_variance = self.encode(x)
        return self.decode(draw(mean, log_variance)), mean, log_variance


@fault("h", "batch_mixing", subtle=True)
def batch_first_forgotten(seed):
    class Pooled(PatchVAE):
        def __init__(self):
            super().__init__()
            self.encoder = self.transformer()

        def encode(self, x):
            h = self.encoder(self.embed(self.patches(x)) + self.positions[:, 1:])
            mean, log_variance = self.heads(h.mean(1)).chunk(2, dim=-1)
            return mean, log_variance

    return plain(seed, Pooled(), logits_loss)


@fault("h", "encoder_ignores_x", subtle=True)
def batch_first_forgotten_beside_a_class_token(seed):
    "The class tokens see those of the other images, and no patch."
    model = PatchVAE()
    model.encoder = model.transformer()
    return plain(seed, model, logits_loss)


@fault("h", "codes_mixed", "batch_mixing", subtle=True)
def batch_first_forgotten_in_the_decoder(seed):
    model = PatchVAE()
    model.decoder = model.transformer()
    return plain(seed, model, logits_loss)


@fault("h", "encoder_ignores_x", subtle=True)
def causal_mask_hides_all_from_the_first_token(seed):
    class Causal(PatchVAE):
        def attend(self, tokens):
            mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
            return self.encoder(tokens, mask=mask)

    return plain(seed, Causal(), logits_loss)


@fault("h", "transposed_targets", subtle=True)
def target_patches_by_view_alone(seed):
    model = PatchVAE()

    def loss(logits, x, mean, log_variance):
        predicted, target = model.patches(logits), x.view(-1, 16, 49)
        entropy = F.binary_cross_entropy_with_logits(
            predicted, target, reduction="none"
        )
        return (entropy.sum((1, 2)) + kl_each(mean, log_variance)).mean()

    return plain(seed, model, loss)


@fault("h", "dropout_in_eval", subtle=True)
def attention_drops_out_in_eval(seed):
    class Attending(PatchVAE):
        def attend(self, tokens):
            q = tokens.unflatten(-1, (4, 8)).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, q, q, dropout_p=0.2)
            return tokens + mixed.transpose(1, 2).flatten(2)

    return plain(seed, Attending(), logits_loss)


@fault("h", "input_changed", subtle=True)
def patches_masked_in_place(seed):
    class Masked(PatchVAE):
        def patches(self, x):
            if self.training:
                rows = x.view(-1, 28, 28)
                rows[:, torch.randint(28, (7,))] = 0
            return super().patches(x)

    return plain(seed, Masked(), logits_loss)


@fault("h", "unregistered_layers", subtle=True)
def transformer_blocks_in_a_dict(seed):
    class Blocks(PatchVAE):
        def __init__(self):
            super().__init__()
            del self.encoder
            layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
            self.blocks = {"first": layer}

        def attend(self, tokens):
            for block in self.blocks.values():
                tokens = block(tokens)
            return tokens

    return plain(seed, Blocks(), logits_loss)


class RowVAE(nn.Module):
    "An LSTM reads the rows, another one writes them."

    def __init__(self, latent=6, width=48):
        super().__init__()
        self.reader = nn.LSTM(28, width, batch_first=True)
        self.mean_head = nn.Linear(width, latent)
        self.log_variance_head = nn.Linear(width, latent)
        self.writer = nn.LSTM(latent, width, batch_first=True)
        self.to_row = nn.Linear(width, 28)

    def encode(self, x):
        _, (h, _) = self.reader(x.squeeze(1))
        return self.mean_head(h[-1]), self.log_variance_head(h[-1])

    def decode(self, z):
        rows, _ = self.writer(z[:, None].expand(-1, 28, -1))
        return self.to_row(rows).unsqueeze(1)

    def forward(self, x):
        mean, log_variance = self.encode(x)
        return self.decode(draw(mean, log_variance)), mean, log_variance


@fault("h", "codes_mixed", subtle=True)
def rows_of_other_images_in_the_picture(seed):
    class Mixed(RowVAE):
        def __init__(self):
            super().__init__()
            self.writer = nn.LSTM(6, 48)

        def decode(self, z):
            rows, _ = self.writer(z.expand(28, *z.shape))
            return self.to_row(rows).view(-1, 1, 28, 28)

    return plain(seed, Mixed(), logits_loss)


@fault("h", "decoder_sees_x", subtle=True)
def reversed_teacher_reaches_the_row_itself(seed):
    class Teacher(RowVAE):
        def __init__(self):
            super().__init__()
            self.writer = nn.LSTM(34, 24, batch_first=True, bidirectional=True)

        def forward(self, x):
            mean, log_variance = self.encode(x)
            z = draw(mean, log_variance)
            before = F.pad(x.squeeze(1), (0, 0, 1, 0))[:, :-1]
            repeated = z[:, None].expand(-1, 28, -1)
            rows, _ = self.writer(torch.cat([before, repeated], dim=-1))
            return self.to_row(rows).unsqueeze(1), mean, log_variance

    return plain(seed, Teacher(), logits_loss)


@fault("h", "same_head", subtle=True)
def output_and_state_of_a_gru_are_one(seed):
    class Gru(RowVAE):
        def __init__(self):
            super().__init__()
            self.reader = nn.GRU(28, 48, batch_first=True)
            self.head = nn.Linear(48, 6)
            del self.mean_head, self.log_variance_head

        def encode(self, x):
            outputs, state = self.reader(x.squeeze(1))
            return self.head(outputs[:, -1]), self.head(state[-1])

    return plain(seed, Gru(), logits_loss)


@fault("h", "not_finite", subtle=True)
def sum_overflows_in_half_precision(seed):
    def loss(logits, x, mean, log_variance):
        entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        total = entropy.half().flatten().cumsum(0)[-1]
        return (total + kl_each(mean, log_variance).sum()) / len(x)

    made = plain(seed, RowVAE(), loss)
    made["batch"] = digits(seed, 128)
    return made


@fault("h", "batch_mixing", subtle=True)
def attention_pooling_over_the_wrong_dimension(seed):
    class Pooled(PatchVAE):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(32, 1)

        def encode(self, x):
            tokens = self.embed(self.patches(x)) + self.positions[:, 1:]
            h = self.encoder(tokens)
            weight = torch.softmax(self.score(h), dim=0)
            mean, log_variance = self.heads((weight * h).sum(1)).chunk(2, dim=-1)
            return mean, log_variance

    return plain(seed, Pooled(), logits_loss)


@fault("h", "gradient_cut", subtle=True)
def encoder_still_under_no_grad(seed):
    class Frozen(PatchVAE):
        def attend(self, tokens):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                return self.encoder(tokens).float()

    return plain(seed, Frozen(), logits_loss)


@fault("h", "exploding_variance", "not_finite", subtle=True)
def log_variance_times_the_width_of_the_model(seed):
    class Scaled(RowVAE):
        def encode(self, x):
            mean, log_variance = super().encode(x)
            return mean * 48, log_variance * 48 + 40

    return plain(seed, Scaled(), logits_loss)


# ------------------------------------------ more faults, in the forms above


@fault("a", "weight_decay", subtle=True)
def decay_has_collapsed_the_model(seed):
    model, batch = PlainVAE(), digits(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=5.0)
    train(model, batch, on_outputs(bce_loss), 100, optimizer)
    return dict(model=model, batch=batch, loss=bce_loss, optimizer=optimizer)


@fault("a", "wrong_gradient", "not_additive", subtle=True)
def terms_balanced_by_their_own_sizes(seed):
    def loss(reconstruction, x, mean, log_variance):
        entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum") / len(x)
        kl = kl_each(mean, log_variance).mean()
        return entropy / entropy.detach() + kl / kl.detach()

    return plain(seed, loss=loss)


@fault("b", "swapped_outputs", subtle=True)
def parameters_of_the_loss_swapped(seed):
    def loss(logits, x, log_variance, mean):
        entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return (entropy.flatten(1).sum(1) + kl_each(mean, log_variance)).mean()

    return triple(seed, loss=loss)


@fault("b", "fixed_divisor", subtle=True)
def divided_by_the_number_of_training_images(seed):
    def loss(logits, x, mean, log_variance):
        entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (entropy + kl_each(mean, log_variance).sum()) / 60000

    return triple(seed, loss=loss)


@fault("c", "no_kl", "wrong_weight", subtle=True)
def annealing_step_never_counted(seed):
    class Model(RecordVAE):
        def __init__(self):
            super().__init__()
            self.step, self.steps = 0, 10000

        def total(self, reconstruction, kl):
            weight = min(1.0, self.step / self.steps)
            return (reconstruction + weight * kl).mean()

    return record(seed, Model())


@fault("c", "wrong_weight")
def beta_lost_in_a_refactoring(seed):
    class Model(RecordVAE):
        def __init__(self, beta=4.0):
            super().__init__()
            self.beta = beta

    return record(seed, Model(beta=4.0), beta=4.0)


@fault("c", "wrong_weight", subtle=True)
def mean_over_pixels_has_collapsed(seed):
    class Model(RecordVAE):
        def reconstruction_loss(self, recon_x, x):
            return F.binary_cross_entropy_with_logits(
                recon_x, x.flatten(1), reduction="none"
            ).mean(-1)

    model, batch = Model(), digits(seed)
    optimizer = train(model, batch, lambda model, x: model(x)["loss"], 200)
    return record(seed, model, batch, optimizer=optimizer)


@fault("c", "limited_width")
def softplus_to_keep_it_positive(seed):
    class Model(RecordVAE):
        def statistics(self, x):
            mu, log_var = super().statistics(x)
            return mu, F.softplus(log_var)

    return record(seed, Model())


@fault("c", "metric_without_kl", subtle=True)
def evaluates_the_entry_of_the_reconstruction(seed):
    model, batch = RecordVAE(), digits(seed)
    optimizer = train(model, batch, lambda model, x: model(x)["loss"], 100)

    @torch.no_grad()
    def evaluate(model, images):
        model.eval()
        return model(images)["reconstruction"].item()

    return record(seed, model, batch, optimizer=optimizer, evaluate=evaluate)


@fault("d", "gradient_cut", subtle=True)
def sample_without_gradient_after_100_steps(seed):
    def loss(model, x):
        q = model.posterior(x)
        p = model.likelihood(q.sample())
        return (kl_divergence(q, model.prior()) - p.log_prob(x)).mean()

    made = closure(seed, loss=loss)
    optimizer = train(made["model"], made["batch"], loss, 150)
    return dict(made, optimizer=optimizer)


@fault("d", "not_finite", subtle=True)
def gradient_of_a_root_at_zero(seed):
    class Model(DistributionVAE):
        def posterior(self, x):
            mean, raw = self.inference(x).chunk(2, -1)
            return Independent(Normal(mean, F.relu(raw).sqrt() + 0.01), 1)

    return closure(seed, Model())


@fault("d", "uneven_metric", subtle=True)
def last_small_batch_counts_as_much(seed):
    @torch.no_grad()
    def evaluate(model, images):
        model.eval()
        losses = [negative_bound(model, x) for x in images.split(30)]
        return torch.stack(losses).mean().item()

    return closure(seed, evaluate=evaluate)


@fault("d", "kl_formula", subtle=True)
def sign_of_the_log_variance_slipped(seed):
    class Model(DistributionVAE):
        def forward(self, x):
            mean, log_variance = self.inference(x).chunk(2, -1)
            z = draw(mean, log_variance)
            return self.likelihood(z), mean, log_variance

    def loss(model, x):
        p, mean, log_variance = model(x)
        kl = 0.5 * (mean**2 + log_variance.exp() + log_variance - 1).sum(1)
        return (kl - p.log_prob(x)).mean()

    return closure(seed, Model(), loss)


@fault("d", "dimensions_left_out", subtle=True)
def first_code_kept_for_the_label(seed):
    class Model(DistributionVAE):
        def likelihood(self, z):
            z = torch.cat([torch.zeros_like(z[..., :1]), z[..., 1:]], -1)
            return super().likelihood(z)

    return closure(seed, Model())


@fault("e", "softmax_output", subtle=True)
def softmax_over_the_colours(seed):
    return conv(seed, ConvVAE(output=nn.Softmax(dim=1)))


@fault("e", "pixels_0_255")
def colours_up_to_255(seed):
    made = conv(seed)
    return dict(made, batch=(made["batch"] * 255).round())


@fault("e", "clipped_output", subtle=True)
def clamped_between_zero_and_one(seed):
    return conv(seed, ConvVAE(output=nn.Hardtanh(0.0, 1.0)))


@fault("e", "random_targets", subtle=True)
def noise_drawn_for_the_target_as_well(seed):
    def noisy(x):
        return x + 0.3 * torch.randn_like(x)

    def loss(model, x):
        reconstruction, mean, log_variance = model(noisy(x))
        return gaussian_loss(reconstruction, noisy(x), mean, log_variance)

    return conv(seed, loss=loss)


@fault("e", "decoder_ignores_z", "constant_pictures", subtle=True)
def group_norm_of_the_codes(seed):
    model = ConvVAE()
    model.decoder_input = nn.Sequential(
        nn.Unflatten(1, (16, 1, 1)),
        nn.GroupNorm(16, 16),
        nn.Flatten(),
        nn.Linear(16, 2048),
    )
    return conv(seed, model)


@fault("e", "not_in_optimizer", subtle=True)
def learned_sigma_not_in_the_optimizer(seed):
    class Model(ConvVAE):
        def __init__(self):
            super().__init__()
            self.log_sigma = nn.Parameter(torch.zeros(()))

        def loss(self, x):
            centre, mean, log_variance = self(x)
            p = Normal(centre, self.log_sigma.exp())
            log_likelihood = p.log_prob(x).sum((1, 2, 3))
            return (kl_each(mean, log_variance) - log_likelihood).mean()

    model = Model()
    modules = model.encoder, model.fc_mu, model.fc_logvar
    modules += model.decoder_input, model.decoder
    optimizer = torch.optim.Adam(both(*modules), lr=1e-3)
    return dict(
        model=model,
        batch=blobs(seed),
        loss=lambda model, x: model.loss(x),
        optimizer=optimizer,
    )


@fault("e", "no_active_units", "posterior_collapse", "constant_pictures")
def unit_sigma_drowns_faint_images(seed):
    model = ConvVAE(channels=8)
    for layers in (model.encoder, model.decoder):
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d):
                layers[place] = nn.Identity()
    batch = 0.5 + 0.03 * (blobs(seed) - 0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train(model, batch, on_outputs(gaussian_loss), 150, optimizer)
    return dict(model=model, batch=batch, loss=gaussian_loss, optimizer=optimizer)


@fault("h", "wrong_gradient", subtle=True)
def half_of_the_code_detached(seed):
    class Halved(PatchVAE):
        def decode(self, z):
            return super().decode(0.1 * z + 0.9 * z.detach())

    return plain(seed, Halved(), logits_loss)


@fault("h", "wrong_weight", subtle=True)
def sum_over_patches_mean_over_their_pixels(seed):
    model = PatchVAE()

    def loss(model, x):
        logits, mean, log_variance = model(x)
        entropy = F.binary_cross_entropy_with_logits(
            model.patches(logits), model.patches(x), reduction="none"
        )
        return (entropy.mean(-1).sum(-1) + kl_each(mean, log_variance)).mean()

    return plain(seed, model, loss)


@fault("h", "broadcast_targets", subtle=True)
def rows_against_a_batch_of_channels(seed):
    class Rows(RowVAE):
        def decode(self, z):
            return super().decode(z).squeeze(1)

    model = Rows()

    def loss(x):
        rows, mean, log_variance = model(x)
        squares = 0.5 * (rows - x).pow(2)
        return squares.mean(1).sum() / len(x) + kl_each(mean, log_variance).mean()

    return plain(seed, model, loss)


# ================================================================ healthy ones
# ---------------------------------------------- the usual ones, in each form


def average_loss(loss):
    "A test loop that averages over images, whatever the batches."

    @torch.no_grad()
    def evaluate(model, images):
        model.eval()
        total = 0.0
        for x in images.split(24):
            reconstruction, mean, log_variance = model(x)
            total += loss(reconstruction, x, mean, log_variance).item() * len(x)
        return total / len(images)

    return evaluate


@healthy("a")
def plain_fresh(seed):
    model = PlainVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return plain(seed, model, optimizer=optimizer, evaluate=average_loss(bce_loss))


@healthy("a")
def plain_trained(seed):
    made = plain(seed)
    optimizer = train(made["model"], made["batch"], on_outputs(bce_loss), 200)
    return dict(made, optimizer=optimizer, evaluate=average_loss(bce_loss))


@healthy("a")
def plain_on_grey_digits_summed_over_all(seed):
    def loss(recon_x, x, mu, logvar):
        BCE = F.binary_cross_entropy(recon_x, x, reduction="sum")
        KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return BCE + KLD

    made = plain(seed, loss=loss)
    return dict(made, batch=grey_digits(seed))


@healthy("a")
def all_terms_divided_by_the_pixels(seed):
    def loss(reconstruction, x, mean, log_variance):
        entropy = F.binary_cross_entropy(reconstruction, x)
        return entropy + kl_each(mean, log_variance).mean() / 784

    return plain(seed, loss=loss)


@healthy("a")
def beta_vae_of_four(seed):
    def loss(reconstruction, x, mean, log_variance):
        entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        return (entropy + 4 * kl_each(mean, log_variance).sum()) / len(x)

    return plain(seed, loss=loss, beta=4.0)


@healthy("a")
def warm_up_held_at_three_tenths(seed):
    class Loss:
        weight = 0.3

        def __call__(self, reconstruction, x, mean, log_variance):
            entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
            kl = kl_each(mean, log_variance).sum()
            return (entropy + self.weight * kl) / len(x)

    return plain(seed, loss=Loss(), beta=0.3)


@healthy("a")
def second_output_is_the_log_deviation(seed):
    class LogDeviation(PlainVAE):
        def sample(self, mean, log_deviation):
            return mean + log_deviation.exp() * torch.randn_like(mean)

    def loss(reconstruction, x, mean, log_deviation):
        entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        kl = 0.5 * (mean**2 + (2 * log_deviation).exp() - 1) - log_deviation
        return (entropy + kl.sum()) / len(x)

    return plain(seed, LogDeviation(), loss)


@healthy("a")
def second_output_is_a_softplus_deviation(seed):
    class Deviation(PlainVAE):
        def encode(self, x):
            mean, raw = super().encode(x)
            return mean, F.softplus(raw) + 1e-5

        def sample(self, mean, deviation):
            return torch.addcmul(mean, deviation, torch.randn_like(mean))

    def loss(reconstruction, x, mean, deviation):
        entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        kl = 0.5 * (mean**2 + deviation**2 - 1) - deviation.log()
        return (entropy + kl.sum()) / len(x)

    return plain(seed, Deviation(), loss)


@healthy("a")
def free_bits_of_a_quarter(seed):
    def loss(reconstruction, x, mean, log_variance):
        entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        each = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1)
        kl = each.mean(0).clamp(min=0.25).sum()
        return entropy / len(x) + kl

    return plain(seed, loss=loss)


@healthy("a")
def capacity_absolute(seed):
    capacity, gamma = 5.0, 10.0

    def loss(reconstruction, x, mean, log_variance):
        entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        kl = kl_each(mean, log_variance).mean()
        return entropy / len(x) + gamma * (kl - capacity).abs()

    return plain(seed, loss=loss)


@healthy("c")
def capacity_squared(seed):
    class Capacity(RecordVAE):
        target = 3.0

        def total(self, reconstruction, kl):
            return reconstruction.mean() + (kl.mean() - self.target) ** 2

    return record(seed, Capacity())


@healthy("a")
def log_variance_softly_bounded(seed):
    class Bounded(PlainVAE):
        def encode(self, x):
            mean, raw = super().encode(x)
            return mean, raw.clamp(-30.0, 20.0)

    return plain(seed, Bounded())


@healthy("a")
def last_layers_start_at_zero(seed):
    model = PlainVAE()
    for layer in (model.to_mean, model.to_log_variance):
        nn.init.zeros_(layer.bias)
        nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(model.decoder[-1].bias)
    return plain(seed, model)


@healthy("b")
def pair_fresh(seed):
    encoder, decoder = PairEncoder(), PairDecoder()
    optimizer = torch.optim.AdamW(both(encoder, decoder), lr=1e-3)
    return dict(
        model=(encoder, decoder),
        batch=digits(seed),
        loss=logits_loss,
        optimizer=optimizer,
    )


@healthy("b")
def triple_trained(seed):
    encoder, decoder = PairEncoder(), PairDecoder()
    batch = digits(seed)
    optimizer = torch.optim.Adam(both(encoder, decoder), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        mean, log_variance = encoder(batch)
        logits = decoder(draw(mean, log_variance))
        logits_loss(logits, batch, mean, log_variance).backward()
        optimizer.step()
    return dict(
        model=(encoder, draw, decoder),
        batch=batch,
        loss=logits_loss,
        optimizer=optimizer,
    )


@healthy("b")
def triple_of_methods_with_the_deviation(seed):
    vae = DistributionVAE()

    def encode(x):
        q = vae.posterior(x)
        return q.mean, q.stddev

    def sample(mean, deviation):
        return Normal(mean, deviation).rsample()

    def decode(z):
        return vae.likelihood(z).mean

    def loss(p, x, mean, deviation):
        entropy = F.binary_cross_entropy(p, x, reduction="none").flatten(1).sum(1)
        kl = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1)
        return (entropy + kl).mean()

    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    model = encode, sample, decode
    return dict(model=model, batch=digits(seed), loss=loss, optimizer=optimizer)


@healthy("c")
def record_fresh(seed):
    model = RecordVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    @torch.no_grad()
    def evaluate(model, images):
        model.eval()
        return model(images)["loss"].item()

    return record(seed, model, optimizer=optimizer, evaluate=evaluate)


@healthy("c")
def record_trained(seed):
    model, batch = RecordVAE(), digits(seed)
    optimizer = train(model, batch, lambda model, x: model(x)["loss"], 200)
    return record(seed, model, batch, optimizer=optimizer)


@healthy("c")
def dataclass_and_a_loss_of_outputs(seed):
    @dataclasses.dataclass
    class Output:
        logits: torch.Tensor
        mean: torch.Tensor
        log_variance: torch.Tensor
        epoch: int = 0
        note: str = "plain"

    class Model(PatchVAE):
        def forward(self, x):
            return Output(*super().forward(x))

    def loss(outputs, x):
        return logits_loss(outputs.logits, x, outputs.mean, outputs.log_variance)

    return plain(seed, Model(), loss)


@healthy("c")
def named_tuple_with_maxima_of_torch(seed):
    Output = namedtuple("Output", "loss logits mean log_variance brightest")

    class Model(PlainVAE):
        def forward(self, x):
            brightest = x.flatten(1).max(dim=1)
            ordered = x.flatten(1).mean(1).sort()
            centred = x - 0.1 * brightest.values.view(-1, 1, 1, 1)
            mean, log_variance = self.encode(centred)
            logits = self.decoder(self.sample(mean, log_variance)).view_as(x)
            loss = logits_loss(logits, x, mean, log_variance)
            loss = loss + 0 * ordered.values.sum()
            return Output(loss, logits, mean, log_variance, brightest)

    return record(seed, Model())


@healthy("c")
def loss_of_the_images_alone(seed):
    model = RecordVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def training_loss(x):
        outputs = model(x)
        return outputs["reconstruction"] + outputs["kl"]

    return record(seed, model, loss=training_loss, optimizer=optimizer)


@healthy("d")
def distributions_fresh(seed):
    model = DistributionVAE()
    return closure(seed, model, optimizer=torch.optim.Adam(model.parameters(), 1e-3))


@healthy("d")
def distributions_trained_single_sample_kl(seed):
    def loss(model, x):
        p, q, z = model(x)
        kl = q.log_prob(z) - model.prior().log_prob(z)
        return (kl - p.log_prob(x)).mean()

    made = closure(seed, loss=loss)
    optimizer = train(made["model"], made["batch"], loss, 150)
    return dict(made, optimizer=optimizer)


@healthy("e")
def conv_fresh(seed):
    model = ConvVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return conv(seed, model, optimizer=optimizer, evaluate=average_loss(gaussian_loss))


@healthy("e")
def conv_trained_sigmoid_output(seed):
    model, batch = ConvVAE(output=nn.Sigmoid()), blobs(seed)
    optimizer = train(model, batch, on_outputs(gaussian_loss), 50)
    return dict(model=model, batch=batch, loss=gaussian_loss, optimizer=optimizer)


@healthy("e")
def tanh_decoder_of_normalized_pixels(seed):
    made = conv(seed, ConvVAE(output=nn.Tanh()))
    return dict(made, batch=(made["batch"] - 0.5) / 0.5)


@healthy("e")
def cross_entropy_on_colours(seed):
    return conv(seed, ConvVAE(), logits_loss)


# ----------------------------------------------------- odd but correct sampling


@healthy("f")
def noise_from_numpy(seed):
    generator = np.random.default_rng(seed)

    def sample(mean, log_variance):
        noise = generator.standard_normal(tuple(mean.shape), dtype=np.float32)
        return mean + torch.from_numpy(noise) * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@healthy("f")
def inverse_of_the_normal_distribution(seed):
    def sample(mean, log_variance):
        u = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6)
        noise = Normal(0.0, 1.0).icdf(u)
        return mean + noise * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@healthy("f")
def box_muller(seed):
    def sample(mean, log_variance):
        u, v = torch.rand(2, *mean.shape)
        noise = torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * math.pi * v)
        return mean + noise * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@healthy("f")
def in_place_all_along(seed):
    def sample(mean, log_variance):
        deviation = log_variance.mul(0.5).exp_()
        return torch.empty_like(deviation).normal_().mul_(deviation).add_(mean)

    return sampling(seed, sample)


@healthy("f")
def uniform_noise_of_unit_variance(seed):
    def sample(mean, log_variance):
        noise = (torch.rand_like(mean) - 0.5) * math.sqrt(12)
        return mean + noise * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


@healthy("f")
def several_samples_for_each_image(seed):
    def loss(model, x, samples=4):
        mean, log_variance = model.encode(x)
        z = torch.normal(
            mean.detach().new_zeros(samples, *mean.shape), 1.0
        ) * torch.exp(0.5 * log_variance)
        p = model.decode((z + mean).flatten(0, 1))
        target = x.repeat(samples, 1, 1, 1)
        entropy = F.binary_cross_entropy(p, target, reduction="sum") / samples
        return (entropy + kl_each(mean, log_variance).sum()) / len(x)

    return plain(seed, loss=loss)


@healthy("f")
def antithetic_pairs_of_noise(seed):
    def loss(model, x):
        mean, log_variance = model.encode(x)
        spread = torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        entropy = 0.0
        for z in (mean + spread, mean - spread):
            p = model.decode(z)
            entropy = entropy + F.binary_cross_entropy(p, x, reduction="sum") / 2
        return (entropy + kl_each(mean, log_variance).sum()) / len(x)

    return plain(seed, loss=loss)


@healthy("f")
def noise_by_rejection(seed):
    def normal(shape):
        "Marsaglia's polar method, until there are enough."
        number, found = math.prod(shape), []
        while sum(map(len, found)) < number:
            u, v = 2 * torch.rand(2, number) - 1
            s = u * u + v * v
            kept = (s > 0) & (s < 1)
            u, s = u[kept], s[kept]
            found.append(u * torch.sqrt(-2 * s.log() / s))
        return torch.cat(found)[:number].view(shape)

    def sample(mean, log_variance):
        return mean + normal(mean.shape) * torch.exp(0.5 * log_variance)

    return sampling(seed, sample)


# ------------------------------------------------------- vae_tutorial's parts


@healthy("g")
def own_parts_fresh(seed):
    model = mlp_vae(latent_dim=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return own_parts(seed, own_loss, model, optimizer=optimizer)


@healthy("g")
def own_convolutions_weighted(seed):
    model, objective = conv_vae((3, 32, 32), 8, (16, 32)), beta_elbo(2.0)

    def loss(model, x):
        return -objective(model, x).objective.mean()

    return dict(model=model, batch=blobs(seed), loss=loss, beta=2.0)


# ------------------------------------------- transformers, LSTMs, precision


@healthy("h")
def transformer_of_patches(seed):
    return plain(seed, PatchVAE(), logits_loss)


@healthy("h")
def lstm_over_rows(seed):
    made = plain(seed, RowVAE(), logits_loss)
    train(made["model"], made["batch"], on_outputs(logits_loss), 30)
    return made


@healthy("h")
def autocast_bfloat16(seed):
    class Logits(PlainVAE):
        def decode(self, z):
            return self.decoder(z).view(-1, 1, 28, 28)

    def loss(model, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, mean, log_variance = model(x)
        mean, log_variance = mean.float(), log_variance.float()
        return logits_loss(logits.float(), x, mean, log_variance)

    return plain(seed, Logits(), loss)


@healthy("h")
def teacher_forced_rows_with_a_code(seed):
    class Teacher(RowVAE):
        "The next row from the rows before it and the code: p(row | before, z)."

        def __init__(self):
            super().__init__()
            self.writer = nn.LSTM(28 + 6, 48, batch_first=True)

        def loss(self, x):
            mean, log_variance = self.encode(x)
            z = draw(mean, log_variance)
            before = F.pad(x.squeeze(1), (0, 0, 1, 0))[:, :-1]
            before = F.dropout(before, 0.5, self.training)
            repeated = z[:, None].expand(-1, 28, -1)
            rows, _ = self.writer(torch.cat([before, repeated], dim=-1))
            logits = self.to_row(rows).unsqueeze(1)
            return logits_loss(logits, x, mean, log_variance)

    return own_loss_of(seed, Teacher())


# ------------------------------------------------- other kinds, as in the papers


def own_loss_of(seed, model, batch=None, **more):
    batch = digits(seed) if batch is None else batch
    return dict(model=model, batch=batch, loss=lambda model, x: model.loss(x), **more)


def forward_is_the_loss(seed, model):
    return dict(model=model, batch=digits(seed), loss=lambda model, x: model(x))


def bernoulli(logits, x):
    "log p(x|z) of each image, any dimensions before."
    entropy = F.binary_cross_entropy_with_logits(
        logits, x.flatten(1).expand_as(logits), reduction="none"
    )
    return -entropy.sum(-1)


def log_normal(z, mean=0.0, log_variance=0.0):
    log_variance = torch.as_tensor(log_variance)
    squares = (z - mean) ** 2 / log_variance.exp()
    return -0.5 * (squares + log_variance + math.log(2 * math.pi))


class Parts(nn.Module):
    "What the models of the papers have in common."

    def __init__(self, latent=6, hidden=100, statistics=2, given=0):
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Linear(784 + given, hidden),
            nn.ReLU(),
            nn.Linear(hidden, statistics * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent + given, hidden), nn.ReLU(), nn.Linear(hidden, 784)
        )

    def encode(self, x):
        return self.encoder(x.flatten(1)).chunk(2, -1)


class Base(Parts):
    def forward(self, x):
        mean, log_variance = self.encode(x)
        z = draw(mean, log_variance)
        return self.decoder(z).view(-1, 1, 28, 28), mean, log_variance

    def parts(self, x):
        mean, log_variance = self.encode(x)
        z = draw(mean, log_variance)
        return bernoulli(self.decoder(z), x), mean, log_variance, z

    def loss(self, x):
        log_likelihood, mean, log_variance, _ = self.parts(x)
        return (kl_each(mean, log_variance) - log_likelihood).mean()


@healthy("kind")
def beta_tcvae(seed):
    class Model(Base):
        def loss(self, x, beta=6.0, size=10000):
            log_likelihood, mean, log_variance, z = self.parts(x)
            log_q = log_normal(z, mean, log_variance).sum(1)
            log_p = log_normal(z).sum(1)
            pairs = log_normal(z[:, None], mean[None], log_variance[None])
            shift = math.log(len(x) * size)
            log_q_z = pairs.sum(2).logsumexp(1) - shift
            log_product = (pairs.logsumexp(1) - shift).sum(1)
            information = log_q - log_q_z
            correlation = log_q_z - log_product
            kl = information + beta * correlation + (log_product - log_p)
            return (kl - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def factor_vae(seed):
    model = Base()
    discriminator = nn.Sequential(nn.Linear(6, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2))

    def loss(model, x, gamma=5.0):
        log_likelihood, mean, log_variance, z = model.parts(x)
        votes = discriminator(z)
        correlation = (votes[:, 0] - votes[:, 1]).mean()
        bound = (kl_each(mean, log_variance) - log_likelihood).mean()
        return bound + gamma * correlation

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return dict(model=model, batch=digits(seed), loss=loss, optimizer=optimizer)


@healthy("kind")
def dip_vae_two(seed):
    class Model(Base):
        def loss(self, x):
            log_likelihood, mean, log_variance, _ = self.parts(x)
            covariance = mean.t().cov() + log_variance.exp().mean(0).diag()
            diagonal = covariance.diag()
            off = covariance - diagonal.diag()
            penalty = 10 * off.pow(2).sum() + 10 * (diagonal - 1).pow(2).sum()
            return (kl_each(mean, log_variance) - log_likelihood).mean() + penalty

    return own_loss_of(seed, Model())


def mmd(a, b):
    def kernel(a, b):
        return torch.exp(-torch.cdist(a, b).pow(2) / (2 * a.shape[1]))

    return kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean()


@healthy("kind")
def info_vae(seed):
    class Model(Base):
        def loss(self, x, alpha=0.5, weight=100.0):
            log_likelihood, mean, log_variance, z = self.parts(x)
            kl = (1 - alpha) * kl_each(mean, log_variance)
            return (kl - log_likelihood).mean() + weight * mmd(z, torch.randn_like(z))

    return own_loss_of(seed, Model(), beta=0.5)


@healthy("kind")
def wasserstein_autoencoder(seed):
    class Model(Base):
        def __init__(self):
            super().__init__(statistics=1)

        def forward(self, x):
            z = self.encoder(x.flatten(1))
            return torch.sigmoid(self.decoder(z)).view(-1, 1, 28, 28), z

        def loss(self, x):
            reconstruction, z = self(x)
            squares = (reconstruction - x).pow(2).flatten(1).sum(1).mean()
            return squares + 50 * mmd(z, torch.randn_like(z))

    return own_loss_of(seed, Model())


@healthy("kind")
def regularized_autoencoder(seed):
    class Model(Base):
        def __init__(self):
            super().__init__(statistics=1)

        def forward(self, x):
            z = self.encoder(x.flatten(1))
            return torch.sigmoid(self.decoder(z)).view(-1, 1, 28, 28), z

        def loss(self, x):
            reconstruction, z = self(x)
            squares = (reconstruction - x).pow(2).flatten(1).sum(1).mean()
            weights = sum(p.pow(2).sum() for p in self.decoder.parameters())
            return squares + 0.05 * z.pow(2).sum(1).mean() + 1e-3 * weights

    return own_loss_of(seed, Model())


@healthy("kind")
def importance_weighted(seed):
    class Model(Base):
        def loss(self, x, samples=5):
            mean, log_variance = self.encode(x)
            noise = torch.randn(samples, *mean.shape)
            z = mean + noise * torch.exp(0.5 * log_variance)
            log_weight = (
                bernoulli(self.decoder(z), x)
                + log_normal(z).sum(-1)
                - log_normal(z, mean, log_variance).sum(-1)
            )
            return -(log_weight.logsumexp(0) - math.log(samples)).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def importance_weighted_with_missing_pixels(seed):
    class Model(Base):
        def loss(self, x, samples=5):
            seen = (torch.rand_like(x) > 0.3).float()
            mean, log_variance = self.encode(x * seen)
            noise = torch.randn(samples, *mean.shape)
            z = mean + noise * torch.exp(0.5 * log_variance)
            logits = self.decoder(z)
            each = F.binary_cross_entropy_with_logits(
                logits, x.flatten(1).expand_as(logits), reduction="none"
            )
            log_weight = (
                -(each * seen.flatten(1)).sum(-1)
                + log_normal(z).sum(-1)
                - log_normal(z, mean, log_variance).sum(-1)
            )
            return -(log_weight.logsumexp(0) - math.log(samples)).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def vamp_prior(seed):
    class Model(Base):
        def __init__(self):
            super().__init__()
            self.pseudo = nn.Parameter(torch.randn(20, 784) * 0.1 - 2)

        def loss(self, x):
            log_likelihood, mean, log_variance, z = self.parts(x)
            centres, widths = self.encode(torch.sigmoid(self.pseudo))
            each = log_normal(z[:, None], centres, widths).sum(-1)
            log_prior = each.logsumexp(1) - math.log(20)
            log_posterior = log_normal(z, mean, log_variance).sum(-1)
            return (log_posterior - log_prior - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def mixture_prior(seed):
    class Model(Base):
        def __init__(self, components=8):
            super().__init__()
            self.weights = nn.Parameter(torch.zeros(components))
            self.centres = nn.Parameter(torch.randn(components, 6))
            self.widths = nn.Parameter(torch.zeros(components, 6))

        def prior(self):
            normal = Normal(self.centres, F.softplus(self.widths) + 0.1)
            weights = td.Categorical(logits=self.weights)
            return td.MixtureSameFamily(weights, Independent(normal, 1))

        def loss(self, x):
            log_likelihood, mean, log_variance, z = self.parts(x)
            log_posterior = log_normal(z, mean, log_variance).sum(-1)
            return (log_posterior - self.prior().log_prob(z) - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def learned_gaussian_prior(seed):
    class Model(Base):
        def __init__(self):
            super().__init__()
            self.prior_mean = nn.Parameter(torch.zeros(6))
            self.prior_log_deviation = nn.Parameter(torch.zeros(6))

        def loss(self, x):
            log_likelihood, mean, log_variance, _ = self.parts(x)
            q = Normal(mean, torch.exp(0.5 * log_variance))
            p = Normal(self.prior_mean, self.prior_log_deviation.exp())
            return (kl_divergence(q, p).sum(1) - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def planar_flow(seed):
    class Planar(nn.Module):
        def __init__(self, latent):
            super().__init__()
            self.u = nn.Parameter(0.1 * torch.randn(latent))
            self.w = nn.Parameter(0.1 * torch.randn(latent))
            self.b = nn.Parameter(torch.zeros(1))

        def forward(self, z):
            dot = self.w @ self.u
            u = self.u + (F.softplus(dot) - 1 - dot) * self.w / (self.w @ self.w + 1e-8)
            h = torch.tanh(z @ self.w + self.b)
            slope = (1 - h**2) * (self.w @ u)
            return z + h[:, None] * u, torch.log((1 + slope).abs() + 1e-8)

    class Model(Parts):
        def __init__(self):
            super().__init__()
            self.flows = nn.ModuleList([Planar(6) for _ in range(4)])

        def forward(self, x):
            mean, log_variance = self.encode(x)
            z = draw(mean, log_variance)
            log_posterior = log_normal(z, mean, log_variance).sum(-1)
            for flow in self.flows:
                z, log_determinant = flow(z)
                log_posterior = log_posterior - log_determinant
            log_likelihood = bernoulli(self.decoder(z), x)
            return (log_posterior - log_normal(z).sum(-1) - log_likelihood).mean()

    return forward_is_the_loss(seed, Model())


@healthy("kind")
def real_nvp_posterior(seed):
    class Model(Parts):
        def __init__(self):
            super().__init__()
            self.nets = nn.ModuleList(
                nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 6))
                for _ in range(4)
            )

        def loss(self, x):
            mean, log_variance = self.encode(x)
            z = draw(mean, log_variance)
            log_posterior = log_normal(z, mean, log_variance).sum(-1)
            a, b = z.chunk(2, -1)
            for net in self.nets:
                scale, shift = net(a).chunk(2, -1)
                scale = torch.tanh(scale)
                a, b = b * scale.exp() + shift, a
                log_posterior = log_posterior - scale.sum(-1)
            z = torch.cat([a, b], -1)
            log_likelihood = bernoulli(self.decoder(z), x)
            return (log_posterior - log_normal(z).sum(-1) - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def inverse_autoregressive_flow(seed):
    class Masked(nn.Linear):
        def __init__(self, size, strict):
            super().__init__(size, size)
            mask = torch.ones(size, size).tril(-1 if strict else 0)
            self.register_buffer("mask", mask)

        def forward(self, z):
            return F.linear(z, self.weight * self.mask, self.bias)

    class Model(Parts):
        def __init__(self):
            super().__init__(statistics=3)
            self.shifts = nn.ModuleList(Masked(6, True) for _ in range(2))
            self.gates = nn.ModuleList(Masked(6, True) for _ in range(2))

        def loss(self, x):
            mean, log_variance, context = self.encoder(x.flatten(1)).chunk(3, -1)
            z = draw(mean, log_variance)
            log_posterior = log_normal(z, mean, log_variance).sum(-1)
            for shift, gate in zip(self.shifts, self.gates):
                s = torch.sigmoid(gate(z) + context + 1.5)
                z = s * z + (1 - s) * shift(z)
                log_posterior = log_posterior - s.log().sum(-1)
                z = z.flip(-1)
            log_likelihood = bernoulli(self.decoder(z), x)
            return (log_posterior - log_normal(z).sum(-1) - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def householder_flow(seed):
    class Model(Parts):
        def __init__(self):
            super().__init__(statistics=4)

        def forward(self, x):
            statistics = self.encoder(x.flatten(1)).chunk(4, -1)
            mean, log_variance, *vectors = statistics
            z = draw(mean, log_variance)
            log_posterior = log_normal(z, mean, log_variance).sum(-1)
            for v in vectors:
                v = v / v.norm(dim=-1, keepdim=True)
                z = z - 2 * v * (v * z).sum(-1, keepdim=True)
            log_likelihood = bernoulli(self.decoder(z), x)
            return (log_posterior - log_normal(z).sum(-1) - log_likelihood).mean()

    return forward_is_the_loss(seed, Model())


@healthy("kind")
def gram_schmidt_posterior(seed):
    class Model(Parts):
        "A rotation of each posterior, made by a loop of Gram and Schmidt."

        def __init__(self):
            super().__init__(latent=4)
            self.vectors = nn.Linear(784, 16)

        def rotation(self, x):
            columns = []
            for column in self.vectors(x.flatten(1)).view(-1, 4, 4).unbind(-1):
                for earlier in columns:
                    dot = (column * earlier).sum(-1, keepdim=True)
                    column = column - dot * earlier
                columns.append(F.normalize(column, dim=-1))
            return torch.stack(columns, -1)

        def loss(self, x):
            mean, log_variance = self.encode(x)
            spread = torch.randn_like(mean) * torch.exp(0.5 * log_variance)
            z = mean + torch.einsum("bij,bj->bi", self.rotation(x), spread)
            log_likelihood = bernoulli(self.decoder(z), x)
            return (kl_each(mean, log_variance) - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def two_layers_bottom_up(seed):
    class Model(Base):
        def __init__(self):
            super().__init__(latent=10)
            self.up = nn.Sequential(nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 8))
            self.down = nn.Sequential(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 20))

        def loss(self, x):
            mean, log_variance = self.encode(x)
            lower = draw(mean, log_variance)
            higher_mean, higher_log_variance = self.up(lower).chunk(2, -1)
            higher = draw(higher_mean, higher_log_variance)
            prior_mean, prior_log_variance = self.down(higher).chunk(2, -1)
            log_ratio = (
                log_normal(lower, mean, log_variance).sum(-1)
                - log_normal(lower, prior_mean, prior_log_variance).sum(-1)
                + kl_each(higher_mean, higher_log_variance)
            )
            return (log_ratio - bernoulli(self.decoder(lower), x)).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def ladder(seed):
    class Model(nn.Module):
        "Precision-weighted posteriors, from the top down."

        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Linear(784, 100), nn.ReLU())
            self.second = nn.Sequential(nn.Linear(100, 50), nn.ReLU())
            self.low_head = nn.Linear(100, 16)
            self.top_head = nn.Linear(50, 8)
            self.prior_head = nn.Sequential(
                nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 16)
            )
            self.decoder = nn.Sequential(
                nn.Linear(8, 100), nn.ReLU(), nn.Linear(100, 784)
            )

        def forward(self, x):
            h = self.first(x.flatten(1))
            top_mean, top_log_variance = self.top_head(self.second(h)).chunk(2, -1)
            top = draw(top_mean, top_log_variance)
            prior_mean, prior_log_variance = self.prior_head(top).chunk(2, -1)
            seen_mean, seen_log_variance = self.low_head(h).chunk(2, -1)
            seen, before = (-seen_log_variance).exp(), (-prior_log_variance).exp()
            variance = 1 / (seen + before)
            mean = variance * (seen * seen_mean + before * prior_mean)
            q = Normal(mean, variance.sqrt())
            p = Normal(prior_mean, torch.exp(0.5 * prior_log_variance))
            kl = kl_divergence(q, p).sum(-1) + kl_each(top_mean, top_log_variance)
            return (kl - bernoulli(self.decoder(q.rsample()), x)).mean()

    return forward_is_the_loss(seed, Model())


@healthy("kind")
def vector_quantized(seed):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv2d(1, 16, 4, 2, 1),
                nn.ReLU(),
                nn.Conv2d(16, 8, 4, 2, 1),
                nn.BatchNorm2d(8),
            )
            self.codebook = nn.Embedding(64, 8)
            self.decoder = nn.Sequential(
                nn.ConvTranspose2d(8, 16, 4, 2, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(16, 1, 4, 2, 1),
            )

        def forward(self, x):
            continuous = self.encoder(x).permute(0, 2, 3, 1)
            distance = torch.cdist(continuous.reshape(-1, 8), self.codebook.weight)
            nearest = self.codebook(distance.min(dim=1).indices).view_as(continuous)
            passed = continuous + (nearest - continuous).detach()
            logits = self.decoder(passed.permute(0, 3, 1, 2))
            entropy = F.binary_cross_entropy_with_logits(logits, x)
            codebook = F.mse_loss(nearest, continuous.detach())
            commitment = F.mse_loss(continuous, nearest.detach())
            loss = entropy + codebook + 0.25 * commitment
            return dict(loss=loss, reconstruction=torch.sigmoid(logits))

    return record(seed, Model())


@healthy("kind")
def gumbel_softmax(seed):
    class Model(nn.Module):
        def __init__(self, variables=8, classes=10):
            super().__init__()
            self.shape, self.temperature = (variables, classes), 0.8
            self.encoder = nn.Sequential(
                nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, variables * classes)
            )
            self.decoder = nn.Sequential(
                nn.Linear(variables * classes, 100), nn.ReLU(), nn.Linear(100, 784)
            )

        def forward(self, x):
            logits = self.encoder(x.flatten(1)).unflatten(1, self.shape)
            z = F.gumbel_softmax(logits, self.temperature, dim=-1)
            log_q = logits.log_softmax(-1)
            kl = (log_q.exp() * (log_q + math.log(self.shape[1]))).sum((1, 2))
            return (kl - bernoulli(self.decoder(z.flatten(1)), x)).mean()

    return forward_is_the_loss(seed, Model())


@healthy("kind")
def joint_continuous_and_discrete(seed):
    class Model(Base):
        def __init__(self):
            super().__init__()
            self.classes = nn.Sequential(
                nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10)
            )
            self.decoder = nn.Sequential(
                nn.Linear(16, 100), nn.ReLU(), nn.Linear(100, 784)
            )

        def forward(self, x):
            mean, log_variance = self.encode(x)
            class_logits = self.classes(x.flatten(1))
            kind = F.gumbel_softmax(class_logits, 0.67)
            logits = self.decoder(torch.cat([draw(mean, log_variance), kind], -1))
            return logits.view(-1, 1, 28, 28), mean, log_variance, class_logits

    def loss(outputs, x):
        logits, mean, log_variance, class_logits = outputs
        log_q = class_logits.log_softmax(-1)
        discrete = (log_q.exp() * (log_q + math.log(10))).sum(-1)
        kl = kl_each(mean, log_variance) + discrete
        return (kl - bernoulli(logits.flatten(1), x)).mean()

    return plain(seed, Model(), loss)


@healthy("kind")
def student_t_decoder(seed):
    class Model(Base):
        def loss(self, x):
            mean, log_variance = self.encode(x)
            location = self.decoder(draw(mean, log_variance))
            p = td.StudentT(4.0, location, 0.3)
            log_likelihood = p.log_prob(x.flatten(1)).sum(1)
            return (kl_each(mean, log_variance) - log_likelihood).mean()

    return own_loss_of(seed, Model(), grey_digits(seed))


@healthy("kind")
def laplace_decoder(seed):
    def loss(reconstruction, x, mean, log_variance):
        absolute = F.l1_loss(reconstruction, x, reduction="sum")
        return (absolute + kl_each(mean, log_variance).sum()) / len(x)

    return conv(seed, loss=loss)


@healthy("kind")
def discretized_logistic_decoder(seed):
    class Model(ConvVAE):
        def __init__(self):
            super().__init__()
            self.log_scale = nn.Parameter(torch.full((1, 3, 1, 1), -1.5))

        def loss(self, x):
            centre, mean, log_variance = self(x)
            steps = (x * 255).round() / 255
            scale = self.log_scale.exp()
            upper = torch.sigmoid((steps + 0.5 / 255 - centre) / scale)
            lower = torch.sigmoid((steps - 0.5 / 255 - centre) / scale)
            upper = torch.where(steps > 0.999, 1.0, upper)
            lower = torch.where(steps < 0.001, 0.0, lower)
            log_likelihood = (upper - lower).clamp(min=1e-7).log().sum((1, 2, 3))
            return (kl_each(mean, log_variance) - log_likelihood).mean()

    return own_loss_of(seed, Model(), blobs(seed))


@healthy("kind")
def one_learned_sigma(seed):
    class Model(ConvVAE):
        def __init__(self):
            super().__init__()
            self.log_sigma = nn.Parameter(torch.zeros(()))

        def loss(self, x):
            centre, mean, log_variance = self(x)
            p = Normal(centre, self.log_sigma.exp())
            log_likelihood = p.log_prob(x).sum((1, 2, 3))
            return (kl_each(mean, log_variance) - log_likelihood).mean()

    return own_loss_of(seed, Model(), blobs(seed))


@healthy("kind")
def optimal_sigma_of_the_batch(seed):
    def loss(reconstruction, x, mean, log_variance):
        log_sigma = (x - reconstruction).pow(2).mean().sqrt().log()
        log_sigma = -6 + F.softplus(log_sigma + 6)
        scaled = (x - reconstruction) / log_sigma.exp()
        nll = 0.5 * scaled.pow(2) + log_sigma + 0.5 * math.log(2 * math.pi)
        return nll.flatten(1).sum(1).mean() + kl_each(mean, log_variance).mean()

    return conv(seed, loss=loss)


@healthy("kind")
def variance_of_each_pixel(seed):
    class Model(Base):
        def __init__(self):
            super().__init__()
            self.decoder[-1] = nn.Linear(100, 2 * 784)

        def forward(self, x):
            mean, log_variance = self.encode(x)
            centre, raw = self.decoder(draw(mean, log_variance)).chunk(2, -1)
            p = Independent(Normal(centre, F.softplus(raw) + 0.05), 1)
            q = Independent(Normal(mean, torch.exp(0.5 * log_variance)), 1)
            return p, q

        def loss(self, x):
            p, q = self(x)
            zeros = torch.zeros_like(q.mean)
            prior = Independent(Normal(zeros, zeros + 1), 1)
            return (kl_divergence(q, prior) - p.log_prob(x.flatten(1))).mean()

    return own_loss_of(seed, Model(), grey_digits(seed))


@healthy("kind")
def log_cosh_reconstruction(seed):
    def loss(reconstruction, x, mean, log_variance, sharpness=10.0):
        t = sharpness * (reconstruction - x)
        log_cosh = t + F.softplus(-2 * t) - math.log(2)
        log_cosh = log_cosh.flatten(1).sum(1) / sharpness
        return (log_cosh + kl_each(mean, log_variance)).mean()

    return conv(seed, loss=loss)


@healthy("kind")
def feature_loss_of_a_fixed_network(seed):
    features = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
    )
    features.eval().requires_grad_(False)

    def loss(reconstruction, x, mean, log_variance):
        pixels = 0.5 * (reconstruction - x).pow(2).flatten(1).sum(1)
        seen = features(reconstruction) - features(x)
        deep = 0.5 * seen.pow(2).flatten(1).sum(1)
        return (pixels + deep + kl_each(mean, log_variance)).mean()

    return conv(seed, loss=loss)


@healthy("kind")
def vae_gan(seed):
    judge = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2048, 1),
    )

    def loss(model, x):
        reconstruction, mean, log_variance = model(x)
        bound = gaussian_loss(reconstruction, x, mean, log_variance)
        return bound + F.softplus(-judge(reconstruction)).mean()

    model = ConvVAE(output=nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return conv(seed, model, loss, optimizer=optimizer)


@healthy("kind")
def conditional(seed):
    labels = F.one_hot(digit_labels(seed), 10).float()

    def loss(model, x):
        given = labels[: len(x)]
        statistics = model.encoder(torch.cat([x.flatten(1), given], 1))
        mean, log_variance = statistics.chunk(2, -1)
        z = torch.cat([draw(mean, log_variance), given], 1)
        log_likelihood = bernoulli(model.decoder(z), x)
        return (kl_each(mean, log_variance) - log_likelihood).mean()

    return dict(model=Parts(given=10), batch=digits(seed), loss=loss)


@healthy("kind")
def semi_supervised_m2(seed):
    labels = digit_labels(seed)

    class Model(Parts):
        def __init__(self):
            super().__init__(given=10)
            self.classifier = nn.Sequential(
                nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10)
            )

        def bound(self, x, y):
            statistics = self.encoder(torch.cat([x.flatten(1), y], 1))
            mean, log_variance = statistics.chunk(2, -1)
            z = torch.cat([draw(mean, log_variance), y], 1)
            kl = kl_each(mean, log_variance) + math.log(10)
            return kl - bernoulli(self.decoder(z), x)

    def loss(model, x):
        y = F.one_hot(labels[: len(x)], 10).float()
        known = len(x) // 2
        logits = model.classifier(x.flatten(1))
        supervised = model.bound(x[:known], y[:known])
        named = F.cross_entropy(logits[:known], labels[:known], reduction="none")
        rest, log_q = x[known:], logits[known:].log_softmax(-1)
        unsupervised = 0.0
        for number in range(10):
            guess = F.one_hot(torch.full((len(rest),), number), 10).float()
            unsupervised = unsupervised + log_q[:, number].exp() * (
                model.bound(rest, guess) + log_q[:, number]
            )
        return supervised.mean() + unsupervised.mean() + 5 * named.mean()

    return dict(model=Model(), batch=digits(seed), loss=loss)


@healthy("kind")
def denoising(seed):
    class Model(Base):
        def loss(self, x):
            flipped = torch.rand_like(x) < 0.1
            mean, log_variance = self.encode(torch.where(flipped, 1 - x, x))
            log_likelihood = bernoulli(self.decoder(draw(mean, log_variance)), x)
            return (kl_each(mean, log_variance) - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def full_covariance(seed):
    class Model(Parts):
        def __init__(self):
            super().__init__(latent=4, statistics=5)

        def posterior(self, x):
            mean, raw = self.encoder(x.flatten(1)).split([4, 16], -1)
            raw = raw.view(-1, 4, 4)
            diagonal = F.softplus(raw.diagonal(dim1=-2, dim2=-1)) + 1e-3
            scale = raw.tril(-1) + torch.diag_embed(diagonal)
            return td.MultivariateNormal(mean, scale_tril=scale)

        def loss(self, x):
            q = self.posterior(x)
            prior = td.MultivariateNormal(torch.zeros(4), torch.eye(4))
            log_likelihood = bernoulli(self.decoder(q.rsample()), x)
            return (kl_divergence(q, prior) - log_likelihood).mean()

    return own_loss_of(seed, Model())


@healthy("kind")
def low_rank_posterior(seed):
    class Model(Parts):
        def __init__(self):
            super().__init__(statistics=4)

        def forward(self, x):
            mean, raw, factor = self.encoder(x.flatten(1)).split([6, 6, 12], -1)
            q = td.LowRankMultivariateNormal(
                mean, 0.3 * factor.view(-1, 6, 2), F.softplus(raw) + 1e-3
            )
            zeros = torch.zeros(6)
            prior = td.LowRankMultivariateNormal(zeros, zeros[:, None], zeros + 1)
            log_likelihood = bernoulli(self.decoder(q.rsample()), x)
            return (kl_divergence(q, prior) - log_likelihood).mean()

    return forward_is_the_loss(seed, Model())


@healthy("kind")
def weight_and_spectral_norm(seed):
    model = PlainVAE()
    model.trunk[1] = spectral_norm(model.trunk[1])
    model.decoder[0] = weight_norm(model.decoder[0])
    model.decoder[2] = weight_norm(model.decoder[2])
    return plain(seed, model)


@healthy("kind")
def hyperspherical_by_power(seed):
    class Model(Parts):
        "A power spherical posterior (De Cao & Aziz 2020), uniform prior, in 3-D."

        def __init__(self):
            super().__init__(latent=3)
            self.encoder[-1] = nn.Linear(100, 4)

        def loss(self, x):
            raw = self.encoder(x.flatten(1))
            mean, kappa = F.normalize(raw[:, :3], dim=-1), F.softplus(raw[:, 3]) + 1
            beta = td.Beta(1 + kappa, torch.ones_like(kappa))
            along = (2 * beta.rsample() - 1)[:, None]
            across = F.normalize(torch.randn(len(x), 2), dim=-1)
            across = across * (1 - along**2).clamp(min=1e-6).sqrt()
            y = torch.cat([along, across], -1)
            pole = F.normalize(torch.eye(3)[0] - mean + 1e-6, dim=-1)
            z = y - 2 * pole * (pole * y).sum(-1, keepdim=True)
            log_constant = (1 + kappa).log() - (1 + kappa) * math.log(2)
            mean_log = math.log(2) + torch.digamma(1 + kappa) - torch.digamma(2 + kappa)
            kl = log_constant + kappa * mean_log + math.log(2)
            return (kl - bernoulli(self.decoder(z), x)).mean()

    return own_loss_of(seed, Model())


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        same = inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return self.skip(x) + self.body(x)


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        parts = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2)
        return x + self.out(mixed.unflatten(2, x.shape[2:]))


@healthy("kind")
def autoencoder_kl(seed):
    class Model(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv2d(3, width, 3, 2, 1),
                Residual(width, width),
                nn.Conv2d(width, width, 3, 2, 1),
                Residual(width, 2 * width),
                nn.Conv2d(2 * width, 2 * width, 3, 2, 1),
                Attention(2 * width),
                Residual(2 * width, 2 * width),
                nn.GroupNorm(8, 2 * width),
                nn.SiLU(),
                nn.Conv2d(2 * width, 8, 3, padding=1),
            )
            self.decoder = nn.Sequential(
                nn.Conv2d(4, 2 * width, 3, padding=1),
                Residual(2 * width, 2 * width),
                Attention(2 * width),
                nn.Upsample(scale_factor=2),
                Residual(2 * width, width),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.Upsample(scale_factor=2),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, 3, 3, padding=1),
            )

        def forward(self, x):
            mean, log_variance = self.encoder(x).chunk(2, 1)
            log_variance = log_variance.clamp(-30.0, 20.0)
            return self.decoder(draw(mean, log_variance)), mean, log_variance

    log_noise = nn.Parameter(torch.zeros(()))

    def loss(reconstruction, x, mean, log_variance, weight=1e-2):
        absolute = (reconstruction - x).abs() / log_noise.exp()
        nll = (absolute + log_noise).sum() / len(x)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / len(x)
        return nll + weight * kl

    batch = blobs(seed, 16, 64) * 2 - 1
    return dict(model=Model(), batch=batch, loss=loss, beta=1e-2)


# ================================================================ crashers


@crasher("crash", "pass", "names the problem")
def loss_raises_a_key_error(seed):
    def loss(outputs, x):
        return outputs["loss_total"]

    return record(seed, RecordVAE(), loss=loss)


@crasher("crash", "pass", "names the problem")
def forward_raises_its_own_exception(seed):
    class ShapeProblem(Exception):
        pass

    class Model(PlainVAE):
        def forward(self, x):
            raise ShapeProblem("expected images of 32 x 32")

    return plain(seed, Model())


@crasher("crash", "pass", "names the problem")
def forward_needs_labels(seed):
    class Model(PlainVAE):
        def forward(self, x, labels):
            return super().forward(x + 0 * labels)

    return plain(seed, Model())


@crasher("crash", "not_finite")
def loss_is_always_nan(seed):
    def loss(reconstruction, x, mean, log_variance):
        return bce_loss(reconstruction, x, mean, log_variance) * float("nan")

    return plain(seed, loss=loss)


@crasher("crash", "pass", "names the problem")
def model_is_a_generator(seed):
    return plain(seed, (layer for layer in PlainVAE().children()))


@crasher("crash", "pass", "names the problem")
def forward_calls_exit(seed):
    class Model(PlainVAE):
        def forward(self, x):
            if x.shape[-1] != 32:
                sys.exit("wrong image size")
            return super().forward(x)

    return plain(seed, Model())


@crasher("crash", "pass", "names the problem")
def forward_raises_stop_iteration(seed):
    class Model(PlainVAE):
        def __init__(self):
            super().__init__()
            self.schedule = iter([1.0, 1.0])

        def forward(self, x):
            weight = next(self.schedule)
            return super().forward(weight * x)

    return plain(seed, Model())


@crasher("crash", "pass", "names the problem")
def batch_is_a_list(seed):
    return dict(plain(seed), batch=list(digits(seed)))


@crasher("crash", "pass", "names the problem")
def model_in_half_precision(seed):
    return plain(seed, PlainVAE().half())


@crasher("crash", "pass", "names the problem")
def forward_deletes_its_encoder(seed):
    class Model(PlainVAE):
        def forward(self, x):
            outputs = super().forward(x)
            del self.trunk
            return outputs

    return plain(seed, Model())


@crasher("crash", "not_in_optimizer")
def optimizer_of_another_model(seed):
    other = PlainVAE()
    return plain(seed, optimizer=torch.optim.Adam(other.parameters(), lr=1e-3))
