"""A second blind set: VAEs with one mistake each, healthy ones, and odd calls."""

import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    kl_divergence,
)

from vae_tutorial.data import binarize, load_mnist
from vae_tutorial.networks import BernoulliPixels, Gaussian, StandardNormal, mlp
from vae_tutorial.vae import VAE, conv_vae, mlp_vae


class Case(NamedTuple):
    name: str
    form: str
    expected: tuple[str, ...]
    make: Callable[[int], dict]


FAULTS, HEALTHY, CRASHERS = [], [], []


def _add(cases, form, expected):
    def register(make):
        def seeded(seed):
            torch.set_num_threads(1)
            torch.manual_seed(seed)
            return make(seed)

        cases.append(Case(make.__name__, form, expected, seeded))
        return make

    return register


def fault(form, *expected):
    return _add(FAULTS, form, expected)


def healthy(form):
    return _add(HEALTHY, form, ())


def crasher(form):
    return _add(CRASHERS, form, ())


# Images


@lru_cache(1)
def mnist():
    images = load_mnist().train.images[:6000].float()
    return images.reshape(-1, 1, 28, 28)


def grey(seed, number=64, side=28):
    start = (seed * number) % 5000
    images = mnist()[start : start + number].clone()
    if side == 14:
        return F.avg_pool2d(images, 2)
    if side == 8:
        return F.avg_pool2d(F.pad(images, (2, 2, 2, 2)), 4)
    if side == 32:
        return F.pad(images, (2, 2, 2, 2))
    return images


def binary(seed, number=64, side=28):
    return binarize(grey(seed, number, side), seed)


def flat(images):
    return images.flatten(1)


def blobs(seed, number=64, side=32):
    "Smooth random colours in [0, 1]."
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 5, 5, generator=generator)
    size = (side, side)
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)


# Common parts


def kl_sum(mean, log_variance):
    return -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())


def bce_loss(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (bce + kl_sum(mean, log_variance)) / x.shape[0]


def probability_loss(probabilities, x, mean, log_variance):
    bce = F.binary_cross_entropy(probabilities, x, reduction="sum")
    return bce + kl_sum(mean, log_variance)


def gauss_loss(reconstruction, x, mean, log_variance):
    squared = 0.5 * F.mse_loss(reconstruction, x, reduction="sum")
    return (squared + kl_sum(mean, log_variance)) / x.shape[0]


def draw(mean, log_variance):
    std = torch.exp(0.5 * log_variance)
    return mean + std * torch.randn_like(std)


class Plain(nn.Module):
    "Linear layers; gives logits, mean, log variance."

    def __init__(self, pixels=784, hidden=128, latent=8):
        super().__init__()
        self.fc1 = nn.Linear(pixels, hidden)
        self.fc_mean = nn.Linear(hidden, latent)
        self.fc_var = nn.Linear(hidden, latent)
        self.fc3 = nn.Linear(latent, hidden)
        self.fc4 = nn.Linear(hidden, pixels)

    def encode(self, x):
        h = F.relu(self.fc1(x.flatten(1)))
        return self.fc_mean(h), self.fc_var(h)

    def reparameterize(self, mean, log_variance):
        return draw(mean, log_variance)

    def decode(self, z):
        return self.fc4(F.relu(self.fc3(z)))

    def forward(self, x):
        mean, log_variance = self.encode(x)
        z = self.reparameterize(mean, log_variance)
        return self.decode(z).view_as(x), mean, log_variance


class Sigmoid(Plain):
    def decode(self, z):
        return torch.sigmoid(super().decode(z))


class Conv(nn.Module):
    "Convolutions with batch norm for colour images, sigmoid at the end."

    def __init__(self, channels=3, side=32, width=16, latent=16, end=None):
        super().__init__()
        self.shape = (2 * width, side // 4, side // 4)
        features = math.prod(self.shape)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.to_mean = nn.Linear(features, latent)
        self.to_log_variance = nn.Linear(features, latent)
        self.from_latent = nn.Linear(latent, features)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
            nn.Sigmoid() if end is None else end,
        )

    def encode(self, x):
        h = self.encoder(x)
        return self.to_mean(h), self.to_log_variance(h)

    def decode(self, z):
        return self.decoder(self.from_latent(z).view(-1, *self.shape))

    def forward(self, x):
        mean, log_variance = self.encode(x)
        z = draw(mean, log_variance)
        return self.decode(z), mean, log_variance


def train(model, images, loss, steps=60, optimizer=None):
    "The usual loop; `loss` takes the outputs and the images."
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(*_outputs(model, images)).backward()
        optimizer.step()
    return model, optimizer


def _outputs(model, images):
    reconstruction, *others = model(images)
    return reconstruction, images, *others


# Faults, form a: a plain module and a loss of four arguments


@fault("a", "pixels_0_255")
def raw_bytes_to_float(seed):
    x = (flat(grey(seed)) * 255).round()
    return dict(model=Plain(), batch=x, loss=bce_loss)


@fault("a", "tiny_pixels")
def to_tensor_and_again_by_255(seed):
    x = flat(grey(seed, side=14)) / 255.0
    return dict(model=Plain(196, 64, 4), batch=x, loss=bce_loss)


@fault("a", "negative_pixels")
def mnist_mean_and_std_with_bce(seed):
    x = (grey(seed) - 0.1307) / 0.3081
    return dict(model=Plain(), batch=x, loss=bce_loss)


@fault("a", "pixels_above_1")
def digits_by_8_instead_of_16(seed):
    x = flat(grey(seed, side=8)) * 16 / 8
    return dict(model=Plain(64, 48, 3), batch=x, loss=bce_loss)


class CentresInPlace(Plain):
    def encode(self, x):
        x -= x.mean(dim=(1, 2, 3), keepdim=True)
        return super().encode(x)


@fault("a", "input_changed")
def centred_with_minus_equals(seed):
    return dict(model=CentresInPlace(), batch=grey(seed), loss=gauss_loss)


def clamped_cross_entropy(r, x, mean, log_variance):
    r = r.clamp(1e-6, 1 - 1e-6)
    bce = -(x * r.log() + (1 - x) * (1 - r).log()).sum()
    return bce + kl_sum(mean, log_variance)


@fault("a", "logits_as_probabilities", "clipped_output")
def sigmoid_forgotten_but_clamped(seed):
    x = flat(binary(seed))
    return dict(model=Plain(latent=20), batch=x, loss=clamped_cross_entropy)


class SoftmaxPixels(Plain):
    def decode(self, z):
        return F.softmax(super().decode(z), dim=-1)


@fault("a", "softmax_output")
def softmax_from_the_classifier(seed):
    x = flat(grey(seed))
    return dict(model=SoftmaxPixels(), batch=x, loss=probability_loss)


class TwoSigmoids(Sigmoid):
    def forward(self, x):
        reconstruction, mean, log_variance = super().forward(x)
        return torch.sigmoid(reconstruction), mean, log_variance


@fault("a", "sigmoid_twice")
def sigmoid_in_decode_and_forward(seed):
    x = flat(binary(seed))
    return dict(model=TwoSigmoids(), batch=x, loss=probability_loss)


@fault("a", "probabilities_as_logits", "sigmoid_twice")
def switched_to_with_logits_kept_sigmoid(seed):
    return dict(model=Sigmoid(latent=2), batch=binary(seed), loss=bce_loss)


class ReluBlocks(nn.Module):
    "Every layer from the same helper, the last ones too."

    def __init__(self, relu_in_mean, pixels=784, latent=10):
        super().__init__()

        def block(inputs, outputs):
            return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())

        head = block if relu_in_mean else nn.Linear
        end = nn.Linear if relu_in_mean else block
        self.body = block(pixels, 100)
        self.mean, self.log_variance = head(100, latent), nn.Linear(100, latent)
        self.decoder = nn.Sequential(block(latent, 100), end(100, pixels))

    def forward(self, x):
        h = self.body(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        logits = self.decoder(draw(mean, log_variance))
        return logits, mean, log_variance


@fault("a", "clipped_output")
def last_block_has_its_relu(seed):
    x = flat(binary(seed))
    return dict(model=ReluBlocks(False), batch=x, loss=bce_loss)


@fault("a", "limited_mean")
def mean_from_a_relu_block(seed):
    x = flat(binary(seed))
    return dict(model=ReluBlocks(True), batch=x, loss=bce_loss)


@fault("a", "unreachable_pixels")
def minus_one_to_one_with_sigmoid(seed):
    x = grey(seed) * 2 - 1
    return dict(model=Sigmoid(latent=16), batch=x, loss=gauss_loss)


def returns_only_kl(logits, x, mean, log_variance):
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    loss = kl_sum(mean, log_variance)
    return loss / len(x)


@fault("a", "no_reconstruction")
def equals_where_plus_equals_was_meant(seed):
    return dict(model=Plain(), batch=binary(seed), loss=returns_only_kl)


def swapped_loss(r, x, mean, log_variance):
    bce = F.binary_cross_entropy(x, r, reduction="sum")
    return bce + kl_sum(mean, log_variance)


@fault("a", "swapped_arguments")
def target_first_as_in_keras(seed):
    return dict(model=Sigmoid(), batch=flat(binary(seed)), loss=swapped_loss)


def nll_of_ones(logits, x, mean, log_variance):
    log_p = F.logsigmoid(logits)
    return (-(x * log_p).sum(-1)).mean() + kl_sum(mean, log_variance) / len(x)


@fault("a", "half_cross_entropy")
def only_the_ones_counted(seed):
    return dict(model=Plain(), batch=flat(binary(seed)), loss=nll_of_ones)


def black_on_white(logits, x, mean, log_variance):
    x = 1.0 - x
    return bce_loss(logits, x, mean, log_variance)


@fault("a", "inverted_targets")
def inverted_inside_the_loss(seed):
    return dict(model=Plain(), batch=binary(seed), loss=black_on_white)


class KeepsChannel(Plain):
    def forward(self, x):
        mean, log_variance = self.encode(x)
        z = self.reparameterize(mean, log_variance)
        return self.decode(z), mean, log_variance


def broadcasting_mse(r, x, mean, log_variance):
    squared = 0.5 * (r - x.flatten(2)).pow(2).sum((-1, -2)).mean()
    return squared + kl_sum(mean, log_variance) / len(x)


@fault("a", "broadcast_targets")
def channel_dimension_left_in_target(seed):
    x = grey(seed, side=14)
    return dict(model=KeepsChannel(196), batch=x, loss=broadcasting_mse)


class GroupNormOfOnePixel(nn.Module):
    "One group a channel, at one pixel: each value is its own mean."

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 7),
            nn.GroupNorm(64, 64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 16),
        )
        self.decoder = nn.Sequential(
            nn.Linear(8, 128),
            nn.ReLU(),
            nn.Linear(128, 784),
            nn.Unflatten(1, (1, 28, 28)),
        )

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return self.decoder(draw(mean, log_variance)), mean, log_variance


@fault("a", "encoder_ignores_x")
def group_norm_at_one_pixel(seed):
    return dict(model=GroupNormOfOnePixel(), batch=binary(seed), loss=bce_loss)


class StyleAndContent(Plain):
    def __init__(self):
        super().__init__(latent=12)
        self.fc3 = nn.Linear(6, 128)

    def decode(self, z):
        content, style = z.chunk(2, dim=-1)
        return super().decode(content)


@fault("a", "dimensions_left_out")
def style_never_decoded(seed):
    return dict(model=StyleAndContent(), batch=binary(seed), loss=bce_loss)


class UNet(Plain):
    def forward(self, x):
        h = F.relu(self.fc1(x))
        mean, log_variance = self.fc_mean(h), self.fc_var(h)
        z = self.reparameterize(mean, log_variance)
        up = F.relu(self.fc3(z)) + h
        return self.fc4(up), mean, log_variance


@fault("a", "decoder_sees_x")
def residual_from_encoder_to_decoder(seed):
    return dict(model=UNet(), batch=flat(binary(seed)), loss=bce_loss)


def divergence_of_pixels(r, x, mean, log_variance):
    kl_pixels = x * torch.log(x / r) + (1 - x) * torch.log((1 - x) / (1 - r))
    return kl_pixels.sum() + kl_sum(mean, log_variance)


@fault("a", "not_finite")
def log_of_binary_pixels(seed):
    x = flat(binary(seed))
    return dict(model=Sigmoid(), batch=x, loss=divergence_of_pixels)


class NumpySeed(Plain):
    def reparameterize(self, mean, log_variance):
        generator = np.random.default_rng(42)  # reproducible
        noise = torch.from_numpy(generator.standard_normal(mean.shape)).float()
        return mean + torch.exp(0.5 * log_variance) * noise


@fault("a", "same_noise")
def numpy_generator_made_in_forward(seed):
    return dict(model=NumpySeed(), batch=binary(seed), loss=bce_loss)


class AddcmulOrder(Plain):
    def reparameterize(self, mean, log_variance):
        std = torch.exp(0.5 * log_variance)
        return torch.addcmul(torch.randn_like(std), mean, std)


@fault("a", "wrong_sample")
def addcmul_arguments_in_wrong_order(seed):
    return dict(model=AddcmulOrder(), batch=binary(seed), loss=bce_loss)


class InvertedFlag(Plain):
    def reparameterize(self, mean, log_variance):
        if self.training:
            return mean
        return draw(mean, log_variance)


@fault("a", "no_sampling")
def training_flag_inverted(seed):
    return dict(model=InvertedFlag(), batch=binary(seed), loss=bce_loss)


class OneNoiseAnImage(Plain):
    def reparameterize(self, mean, log_variance):
        noise = torch.randn(mean.size(0), 1, device=mean.device)
        return mean + noise * torch.exp(0.5 * log_variance)


@fault("a", "shared_noise")
def one_number_for_all_dimensions(seed):
    return dict(model=OneNoiseAnImage(), batch=binary(seed), loss=bce_loss)


class RandForRandn(Plain):
    def reparameterize(self, mean, log_variance):
        std = log_variance.mul(0.5).exp_()
        return torch.rand(std.size()).mul(std).add_(mean)


@fault("a", "wrong_noise")
def rand_for_randn(seed):
    return dict(model=RandForRandn(latent=32), batch=binary(seed), loss=bce_loss)


class WidthForgotten(Plain):
    def reparameterize(self, mean, log_variance):
        std = torch.exp(log_variance / 2)
        return Normal(mean, torch.ones_like(std)).rsample()


@fault("a", "width_unused")
def ones_in_the_normal(seed):
    return dict(model=WidthForgotten(), batch=binary(seed), loss=bce_loss)


class ChainedHeads(Plain):
    def __init__(self):
        super().__init__()
        self.fc_mean = self.fc_var = nn.Linear(128, 8)


@fault("a", "same_head")
def chained_assignment_of_heads(seed):
    return dict(model=ChainedHeads(), batch=binary(seed), loss=bce_loss)


class SoftplusWidth(Plain):
    def encode(self, x):
        mean, log_variance = super().encode(x)
        return mean, F.softplus(log_variance)


@fault("a", "limited_width")
def softplus_then_exp(seed):
    return dict(model=SoftplusWidth(), batch=binary(seed), loss=bce_loss)


class BatchNormedWidth(Plain):
    def __init__(self):
        super().__init__(latent=6)
        self.fc_var = nn.Sequential(nn.Linear(128, 6), nn.BatchNorm1d(6))


@fault("a", "limited_width")
def batch_norm_on_log_variance(seed):
    return dict(model=BatchNormedWidth(), batch=binary(seed), loss=bce_loss)


def detached_kl(logits, x, mean, log_variance):
    with torch.no_grad():  # only for the log
        kl = kl_sum(mean, log_variance)
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (bce + kl) / len(x)


@fault("a", "no_kl", "wrong_gradient", "gradient_cut")
def kl_under_no_grad(seed):
    return dict(model=Plain(), batch=binary(seed), loss=detached_kl)


def kl_added_to_likelihood(logits, x, mean, log_variance):
    log_p = -F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return -(log_p + kl_sum(mean, log_variance)) / len(x)


@fault("a", "kl_sign")
def kl_inside_the_minus(seed):
    return dict(model=Plain(), batch=binary(seed), loss=kl_added_to_likelihood)


class ReturnsWidthFirst(Plain):
    def forward(self, x):
        logits, mean, log_variance = super().forward(x)
        return logits, log_variance, mean


@fault("a", "swapped_outputs")
def log_variance_returned_before_mean(seed):
    return dict(model=ReturnsWidthFirst(), batch=binary(seed), loss=bce_loss)


def last_image_only(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0
    for one_mean, one_log_variance in zip(mean, log_variance):
        kl = kl_sum(one_mean, one_log_variance)
    return (bce + kl) / len(x)


@fault("a", "uneven_kl")
def loop_over_images_overwrites_kl(seed):
    return dict(model=Plain(), batch=binary(seed), loss=last_image_only)


def parenthesis_closed_early(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * (1 + log_variance - mean.pow(2)).sum() - log_variance.exp().sum()
    return (bce + kl) / len(x)


@fault("a", "kl_formula", "runaway_width")
def half_of_the_kl_outside_parentheses(seed):
    return dict(model=Plain(), batch=binary(seed), loss=parenthesis_closed_early)


def mean_and_sum(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x)
    return bce + kl_sum(mean, log_variance) / len(x)


@fault("a", "wrong_weight")
def default_reduction_of_bce(seed):
    return dict(model=Plain(), batch=binary(seed), loss=mean_and_sum)


def no_half(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = (mean**2 + log_variance.exp() - 1 - log_variance).sum()
    return (bce + kl) / len(x)


@fault("a", "missing_half")
def kl_without_half(seed):
    return dict(model=Plain(), batch=binary(seed), loss=no_half)


def over_the_data_set(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (bce + kl_sum(mean, log_variance)) / 60000


@fault("a", "fixed_divisor")
def divided_by_the_data_set(seed):
    return dict(model=Plain(), batch=binary(seed), loss=over_the_data_set)


def no_log(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0.5 * torch.sum(mean.pow(2) + log_variance.exp() - 1)
    return (bce + kl) / len(x)


@fault("a", "runaway_width", "kl_formula")
def logarithm_left_out_of_kl(seed):
    return dict(model=Plain(), batch=binary(seed), loss=no_log)


def larger_of_both(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return torch.maximum(bce, kl_sum(mean, log_variance)) / len(x)


@fault("a", "not_additive", "no_kl")
def maximum_of_both_terms(seed):
    return dict(model=Plain(), batch=binary(seed), loss=larger_of_both)


def product_of_both(logits, x, mean, log_variance):
    bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
    return bce * (1 + kl_sum(mean, log_variance) / len(x))


@fault("a", "not_additive")
def kl_as_a_factor(seed):
    return dict(model=Plain(), batch=binary(seed), loss=product_of_both)


class TiedToData(Plain):
    def decode(self, z):
        h = F.relu(self.fc3(z))
        return F.linear(h, self.fc1.weight.data.t())


@fault("a", "wrong_gradient", "gradient_cut")
def tied_weights_through_data(seed):
    return dict(model=TiedToData(), batch=binary(seed), loss=bce_loss)


class DropoutFunction(Plain):
    def encode(self, x):
        h = F.dropout(F.relu(self.fc1(x.flatten(1))), 0.3)
        return self.fc_mean(h), self.fc_var(h)


@fault("a", "dropout_in_eval")
def functional_dropout(seed):
    model, _ = train(DropoutFunction(), binary(seed), bce_loss, 40)
    return dict(model=model, batch=binary(seed), loss=bce_loss)


class SoftmaxOverBatch(Plain):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(784, 128)

    def encode(self, x):
        x = x.flatten(1)
        h = F.relu(self.fc1(x)) * F.softmax(self.gate(x), dim=0) * 128
        return self.fc_mean(h), self.fc_var(h)


@fault("a", "batch_mixing")
def gate_softmax_over_dim_0(seed):
    return dict(model=SoftmaxOverBatch(), batch=binary(seed), loss=bce_loss)


class ListOfLayers(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [784, 100, 50]
        self.layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
        self.mean, self.log_variance = nn.Linear(50, 5), nn.Linear(50, 5)
        self.out = nn.Sequential(nn.Linear(5, 100), nn.ReLU(), nn.Linear(100, 784))

    def forward(self, x):
        h = x
        for layer in self.layers:
            h = F.relu(layer(h))
        mean, log_variance = self.mean(h), self.log_variance(h)
        return self.out(draw(mean, log_variance)), mean, log_variance


@fault("a", "unregistered_layers")
def python_list_of_layers(seed):
    model = ListOfLayers()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x = flat(binary(seed))
    return dict(model=model, batch=x, loss=bce_loss, optimizer=optimizer)


@fault("a", "frozen")
def pretrained_encoder_never_unfrozen(seed):
    model, x = Plain(), flat(binary(seed))
    for layer in (model.fc1, model.fc_mean, model.fc_var):
        layer.requires_grad_(False)
        layer.weight.mul_(0.01)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    train(model, x, bce_loss, 100, optimizer)
    return dict(model=model, batch=x, loss=bce_loss, optimizer=optimizer)


@fault("a", "maximized_loss")
def maximize_kept_from_elbo_version(seed):
    model = Plain()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, maximize=True)
    return dict(model=model, batch=binary(seed), loss=bce_loss, optimizer=optimizer)


@fault("a", "learning_rate")
def learning_rate_of_10_after_20_steps(seed):
    model, x = Plain(), binary(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    clip = nn.utils.clip_grad_norm_
    for _ in range(20):
        optimizer.zero_grad()
        loss = bce_loss(*_outputs(model, x))
        if loss.isfinite():
            loss.backward()
            clip(model.parameters(), 1.0)
            optimizer.step()
    return dict(model=model, batch=x, loss=bce_loss, optimizer=optimizer)


@fault("a", "weight_decay")
def weight_decay_of_thirty(seed):
    model, x = Plain(), binary(seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=30.0)
    train(model, x, bce_loss, 150, optimizer)
    return dict(model=model, batch=x, loss=bce_loss, optimizer=optimizer)


@fault("a", "exploding_variance", "not_finite")
def normal_init_of_std_one(seed):
    model = Plain()
    for layer in model.children():
        nn.init.normal_(layer.weight)
    return dict(model=model, batch=binary(seed), loss=bce_loss)


@fault("a", "dead_relus")
def bias_initialized_at_minus_ten(seed):
    model = Plain()
    nn.init.constant_(model.fc1.bias, -10.0)
    return dict(model=model, batch=binary(seed), loss=bce_loss)


@fault("a", "posterior_collapse", "no_active_units")
def collapsed_by_a_long_warm_start(seed):
    model, x = Plain(latent=4), flat(binary(seed))

    def heavy(logits, images, mean, log_variance):
        loss = bce_loss(logits, images, mean, log_variance)
        return loss + 200 * kl_sum(mean, log_variance) / len(images)

    train(model, x, heavy, 150)
    return dict(model=model, batch=x, loss=bce_loss)


@fault("a", "metric_without_kl")
def evaluate_reports_bce_only(seed):
    def evaluate(model, images):
        model.eval()
        with torch.no_grad():
            logits, _, _ = model(images)
            bce = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        return (bce / len(images)).item()

    return dict(model=Plain(), batch=binary(seed), loss=bce_loss, evaluate=evaluate)


@fault("a", "uneven_metric")
def mean_of_batch_means(seed):
    def evaluate(model, images):
        model.eval()
        losses = []
        with torch.no_grad():
            for part in images.split(10):
                losses.append(bce_loss(*_outputs(model, part)).item())
        return sum(losses) / len(losses)

    return dict(model=Plain(), batch=binary(seed), loss=bce_loss, evaluate=evaluate)


# Faults, form b: pairs and triples


def pair(pixels=784, latent=10, hidden=96):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(pixels, hidden), nn.Tanh()
            )
            self.mean, self.width = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

        def forward(self, x):
            h = self.body(x)
            return self.mean(h), self.width(h)

    decoder = nn.Sequential(
        nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, pixels)
    )
    return Encoder(), decoder


def flat_bce(logits, x, mean, log_variance):
    return bce_loss(logits, x.flatten(1), mean, log_variance)


@fault("b", "not_in_optimizer")
def encoder_not_in_optimizer_after_100_steps(seed):
    encoder, decoder = pair()
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-3)
    x = binary(seed)
    for _ in range(100):
        optimizer.zero_grad()
        mean, log_variance = encoder(x)
        flat_bce(decoder(draw(mean, log_variance)), x, mean, log_variance).backward()
        optimizer.step()
    encoder.zero_grad()
    return dict(model=(encoder, decoder), batch=x, loss=flat_bce, optimizer=optimizer)


@fault("b", "gradient_cut")
def sample_drawn_under_no_grad(seed):
    encoder, decoder = pair()

    @torch.no_grad()
    def sample(mean, log_variance):
        return draw(mean, log_variance)

    model = (encoder, sample, decoder)
    return dict(model=model, batch=binary(seed), loss=flat_bce)


@fault("b", "sigma_mismatch")
def sampler_reads_std_loss_reads_log_variance(seed):
    encoder, decoder = pair()

    def sample(mean, log_std):
        return mean + torch.randn_like(mean) * log_std.exp()

    model = (encoder, sample, decoder)
    return dict(model=model, batch=binary(seed), loss=flat_bce)


@fault("b", "codes_mixed")
def samples_viewed_without_transposing(seed):
    encoder, decoder = pair(196, 6)

    def sample(mean, log_variance):
        z = draw(mean, log_variance)
        return z.t().contiguous().view(-1, 6)

    model = (encoder, sample, decoder)
    return dict(model=model, batch=binary(seed, side=14), loss=flat_bce)


@fault("b", "fixed_width")
def encoder_of_an_autoencoder_with_zeros(seed):
    encoder, decoder = pair()

    def encode(x):
        mean, _ = encoder(x)
        return mean, torch.zeros_like(mean)

    model = (encode, draw, decoder)
    return dict(model=model, batch=binary(seed), loss=flat_bce)


# Faults, form c: forward returns a record with its own loss


class Record(nn.Module):
    "Two linear layers each way; `forward` returns a dict with the loss."

    def __init__(self, pixels=784, latent=16):
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Linear(pixels, 128), nn.ELU(), nn.Linear(128, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, 128), nn.ELU(), nn.Linear(128, pixels)
        )

    def kl(self, mean, log_variance):
        return kl_sum(mean, log_variance)

    def combine(self, bce, kl, number):
        return (bce + kl) / number

    def decode(self, z):
        return self.decoder(z)

    def forward(self, x):
        mean, log_variance = self.encoder(x.flatten(1)).chunk(2, dim=1)
        z = draw(mean, log_variance)
        logits = self.decode(z).view_as(x)
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = self.kl(mean, log_variance)
        loss = self.combine(bce, kl, len(x))
        return {
            "loss": loss,
            "reconstruction": logits,
            "mean": mean,
            "log_variance": log_variance,
        }


class ReturnsElbo(Record):
    def combine(self, bce, kl, number):
        return -(bce + kl) / number


@fault("c", "loss_sign")
def elbo_returned_as_loss(seed):
    return dict(model=ReturnsElbo(), batch=binary(seed))


class StdInKl(Record):
    def kl(self, mean, log_variance):
        std = (0.5 * log_variance).exp()
        return -0.5 * torch.sum(1 + log_variance - mean.pow(2) - std)


@fault("c", "kl_formula", "sigma_mismatch")
def std_where_variance_belongs(seed):
    return dict(model=StdInKl(), batch=binary(seed))


class WeightsAreZero(Record):
    "The annealing counter is read, never stepped."

    def __init__(self):
        super().__init__()
        self.step, self.warm_up = 0, 1000

    def combine(self, bce, kl, number):
        weight = min(1.0, self.step / self.warm_up)
        return (bce + weight * kl) / number


@fault("c", "no_kl")
def warm_up_counter_never_counts(seed):
    return dict(model=WeightsAreZero(), batch=binary(seed))


class DecodesPositions(Record):
    "z becomes a token, which the positions then replace."

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(16, 32)
        self.position = nn.Parameter(torch.randn(28, 32) * 0.1)
        self.row = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 28))

    def decode(self, z):
        tokens = self.start(z)[:, None]
        tokens = self.position.expand(len(z), -1, -1)
        return self.row(tokens)


@fault("c", "decoder_ignores_z")
def positions_replace_the_token(seed):
    return dict(model=DecodesPositions(), batch=binary(seed))


# Faults, form d: torch.distributions and closures


class Distributions(nn.Module):
    def __init__(self, latent=5):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU())
        self.loc, self.scale = nn.Linear(100, latent), nn.Linear(100, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 100), nn.ReLU(), nn.Linear(100, 784)
        )
        self.prior = Independent(Normal(torch.zeros(latent), torch.ones(latent)), 1)

    def posterior(self, x):
        h = self.encoder(x)
        return Independent(Normal(self.loc(h), F.softplus(self.scale(h)) + 1e-4), 1)

    def likelihood(self, z):
        return Independent(Bernoulli(logits=self.decoder(z)), 1)

    def forward(self, x):
        q = self.posterior(x)
        return self.likelihood(q.rsample()), q


def negative_elbo(model, x):
    p, q = model(x)
    return (kl_divergence(q, model.prior) - p.log_prob(x.flatten(1))).mean()


@fault("d", "random_targets")
def binarized_twice(seed):
    def loss(model, x):
        p, q = model(torch.bernoulli(x))
        log_p = p.log_prob(torch.bernoulli(x).flatten(1))
        return (kl_divergence(q, model.prior) - log_p).mean()

    return dict(model=Distributions(), batch=grey(seed), loss=loss)


@fault("d", "blind_loss", "shuffled_targets")
def images_of_an_earlier_cell(seed):
    images = binary(seed + 7)

    def loss(model, x):
        p, q = model(x)
        log_p = p.log_prob(images[: len(x)].flatten(1))
        return (kl_divergence(q, model.prior) - log_p).mean()

    return dict(model=Distributions(), batch=binary(seed), loss=loss)


class SampleNotRsample(Distributions):
    def forward(self, x):
        q = self.posterior(x)
        return self.likelihood(q.sample()), q


@fault("d", "gradient_cut")
def sample_for_rsample(seed):
    return dict(model=SampleNotRsample(), batch=binary(seed), loss=negative_elbo)


@fault("d", "shuffled_targets")
def target_flipped_along_the_batch(seed):
    def loss(model, x):
        p, q = model(x)
        target = x.flip(0).flatten(1)  # mirrored, as the augmentation does
        return (kl_divergence(q, model.prior) - p.log_prob(target)).mean()

    return dict(model=Distributions(), batch=binary(seed), loss=loss)


# Faults, form e: convolutions and colours


@fault("e", "pixels_left_out")
def grey_channel_index_kept_for_colours(seed):
    def loss(r, x, mean, log_variance):
        return gauss_loss(r[:, :1], x[:, :1], mean, log_variance)

    return dict(model=Conv(), batch=blobs(seed), loss=loss)


@fault("e", "transposed_targets")
def channels_last_target_flattened(seed):
    def loss(r, x, mean, log_variance):
        target = x.permute(0, 2, 3, 1).flatten(1)
        return gauss_loss(r.flatten(1), target, mean, log_variance)

    return dict(model=Conv(), batch=blobs(seed), loss=loss)


@fault("e", "stuck_statistics", "train_eval_gap")
def momentum_translated_from_tensorflow(seed):
    model, x = Conv(width=8), blobs(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0001
    train(model, x, gauss_loss, 60, torch.optim.Adam(model.parameters(), 1e-2))
    return dict(model=model, batch=x, loss=gauss_loss)


@fault("e", "unreachable_pixels")
def tanh_half_range_for_standardized_colours(seed):
    x = (blobs(seed) - 0.45) / 0.22
    return dict(model=Conv(end=nn.Tanh()), batch=x, loss=gauss_loss)


# Faults, forms g and h


@fault("g", "wrong_weight")
def per_pixel_mean_of_the_log_likelihood(seed):
    def loss(model, x):
        terms = model.elbo(x)
        return (-terms.reconstruction / x[0].numel() + terms.kl).mean()

    return dict(model=mlp_vae((1, 28, 28), 4), batch=binary(seed), loss=loss)


@fault("g", "frozen")
def decoder_frozen_for_fine_tuning(seed):
    model = conv_vae((1, 28, 28), 8, (16, 32))
    model.decoder.requires_grad_(False)

    def loss(model, x):
        return -model.elbo(x).elbo.mean()

    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return dict(model=model, batch=binary(seed), loss=loss, optimizer=optimizer)


class RowLstm(nn.Module):
    "A bidirectional LSTM reads the rows, a linear decoder draws them."

    def __init__(self, latent=8, view=False):
        super().__init__()
        self.view = view
        self.lstm = nn.LSTM(28, 32, batch_first=True, bidirectional=True)
        self.heads = nn.Linear(64, 2 * latent)
        self.start = nn.Linear(latent, 64)
        self.rows = nn.LSTM(64, 64, batch_first=True)
        self.out = nn.Linear(64, 28)

    def forward(self, x):
        _, (h, _) = self.lstm(x.squeeze(1))
        if self.view:
            h = h.view(len(x), -1)
        else:
            h = h.transpose(0, 1).flatten(1)
        mean, log_variance = self.heads(h).chunk(2, 1)
        z = draw(mean, log_variance)
        rows, _ = self.rows(self.start(z)[:, None].expand(-1, 28, -1))
        return self.out(rows)[:, None], mean, log_variance


@fault("h", "codes_mixed", "batch_mixing", "shuffled_targets")
def hidden_states_viewed_across_directions(seed):
    return dict(model=RowLstm(view=True), batch=binary(seed), loss=bce_loss)


class ScaledGradient(torch.autograd.Function):
    "Swish in less memory; its backward forgets a factor x."

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + s * (1 - s))


class OwnSwish(Plain):
    def decode(self, z):
        return self.fc4(ScaledGradient.apply(self.fc3(z) * 3))


@fault("h", "wrong_gradient")
def own_swish_with_a_factor_missing(seed):
    return dict(model=OwnSwish(), batch=binary(seed), loss=bce_loss)


# Healthy, form a: the usual ones and their objectives


@healthy("a")
def usual_mlp_fresh(seed):
    return dict(model=Sigmoid(latent=20), batch=flat(grey(seed)), loss=probability_loss)


@healthy("a")
def usual_mlp_trained(seed):
    model, x = Plain(latent=2), binary(seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    train(model, x, bce_loss, 200, optimizer)

    def evaluate(model, images):
        model.eval()
        total = 0.0
        with torch.no_grad():
            for part in images.split(10):
                total += bce_loss(*_outputs(model, part)).item() * len(part)
        return total / len(images)

    return dict(
        model=model, batch=x, loss=bce_loss, optimizer=optimizer, evaluate=evaluate
    )


@healthy("a")
def beta_vae_of_four(seed):
    def loss(logits, x, mean, log_variance):
        extra = 3 * kl_sum(mean, log_variance) / len(x)
        return bce_loss(logits, x, mean, log_variance) + extra

    return dict(model=Plain(latent=10), batch=binary(seed), loss=loss, beta=4.0)


@healthy("a")
def warm_up_held_at_0_3(seed):
    def loss(logits, x, mean, log_variance):
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (bce + 0.3 * kl_sum(mean, log_variance)) / len(x)

    return dict(model=Plain(), batch=binary(seed, side=28), loss=loss, beta=0.3)


@healthy("a")
def free_bits_per_dimension(seed):
    def loss(logits, x, mean, log_variance):
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        each = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        return bce / len(x) + each.mean(0).clamp(min=0.05).sum()

    return dict(model=Plain(), batch=binary(seed), loss=loss)


@healthy("a")
def capacity_target(seed):
    def loss(logits, x, mean, log_variance):
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = kl_sum(mean, log_variance) / len(x)
        return bce / len(x) + 30 * (kl - 10).abs()

    return dict(model=Plain(), batch=binary(seed), loss=loss, beta=30.0)


@healthy("a")
def beta_tcvae_minibatch_weighted(seed):
    def log_density(z, mean, log_variance):
        squares = (z - mean) ** 2 / log_variance.exp()
        return -0.5 * (squares + log_variance + math.log(2 * math.pi))

    def loss(model, x):
        mean, log_variance = model.encode(x)
        z = draw(mean, log_variance)
        logits = model.decode(z).view_as(x)
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        pairs = log_density(z[:, None], mean[None], log_variance[None])
        norm = math.log(len(x) * 50000)
        log_q_z = pairs.sum(2).logsumexp(1) - norm
        log_product = (pairs.logsumexp(1) - norm).sum(1)
        log_q = log_density(z, mean, log_variance).sum(1)
        log_p = Normal(0.0, 1.0).log_prob(z).sum(1)
        information, total = log_q - log_q_z, log_q_z - log_product
        return bce + (information + 2 * total + log_product - log_p).mean()

    return dict(model=Plain(latent=6), batch=binary(seed), loss=loss)


@healthy("a")
def factor_vae_with_discriminator(seed):
    discriminator = nn.Sequential(nn.Linear(6, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2))
    discriminator.requires_grad_(False)

    def loss(model, x):
        mean, log_variance = model.encode(x)
        z = draw(mean, log_variance)
        scores = discriminator(z)
        total_correlation = (scores[:, 0] - scores[:, 1]).mean()
        logits = model.decode(z).view_as(x)
        return bce_loss(logits, x, mean, log_variance) + 5 * total_correlation

    return dict(model=Plain(latent=6), batch=binary(seed), loss=loss)


@healthy("a")
def dip_vae_i(seed):
    def loss(logits, x, mean, log_variance):
        covariance = torch.cov(mean.t())
        diagonal = covariance.diagonal()
        off = covariance - torch.diag(diagonal)
        penalty = 10 * off.pow(2).sum() + 5 * (diagonal - 1).pow(2).sum()
        return bce_loss(logits, x, mean, log_variance) + penalty

    return dict(model=Plain(latent=5), batch=binary(seed), loss=loss)


def mmd(z, prior):
    def kernel(a, b):
        return torch.exp(-torch.cdist(a, b).pow(2) / a.shape[1]).mean()

    return kernel(z, z) + kernel(prior, prior) - 2 * kernel(z, prior)


@healthy("a")
def info_vae_mmd(seed):
    def loss(model, x):
        mean, log_variance = model.encode(x)
        z = draw(mean, log_variance)
        value = bce_loss(model.decode(z).view_as(x), x, mean, log_variance)
        return value + 100 * mmd(z, torch.randn_like(z))

    return dict(model=Plain(latent=4), batch=binary(seed), loss=loss)


@healthy("a")
def wasserstein_deterministic_encoder(seed):
    model = nn.Module()
    model.encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 96), nn.ReLU(), nn.Linear(96, 8)
    )
    model.decoder = nn.Sequential(
        nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 784), nn.Sigmoid()
    )

    def loss(model, x):
        z = model.encoder(x)
        squared = (model.decoder(z) - x.flatten(1)).pow(2).sum(1).mean()
        return squared + 10 * mmd(z, torch.randn_like(z))

    return dict(model=model, batch=grey(seed), loss=loss)


@healthy("b")
def pair_with_sigmoid_in_the_decoder(seed):
    encoder, body = pair(196, 12)
    decoder = nn.Sequential(body, nn.Sigmoid(), nn.Unflatten(1, (1, 14, 14)))
    x = grey(seed, side=14)
    return dict(model=(encoder, decoder), batch=x, loss=probability_loss)


@healthy("b")
def triple_with_log_std(seed):
    encoder, decoder = pair()

    def sample(mean, log_std):
        return mean + log_std.exp() * torch.randn_like(mean)

    def loss(logits, x, mean, log_std):
        return flat_bce(logits, x, mean, 2 * log_std)

    return dict(model=(encoder, sample, decoder), batch=binary(seed), loss=loss)


# Healthy, form c: own losses


@dataclass
class Output:
    loss: torch.Tensor
    reconstruction: torch.Tensor
    mean: torch.Tensor
    log_variance: torch.Tensor


class RecordOfADataclass(Record):
    def forward(self, x):
        return Output(**super().forward(x))


@healthy("c")
def dict_with_loss(seed):
    return dict(model=Record(), batch=binary(seed))


@healthy("c")
def dataclass_with_loss(seed):
    return dict(model=RecordOfADataclass(784, 4), batch=binary(seed))


Result = namedtuple("Result", "loss reconstruction mean log_variance")


class MaxoutNamed(nn.Module):
    "Maxout hidden units by `max(dim)`; gives a named tuple."

    def __init__(self):
        super().__init__()
        self.pieces = nn.Linear(64, 64 * 3)
        self.heads = nn.Linear(64, 6)
        self.decoder = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64))

    def forward(self, x):
        h = self.pieces(x.flatten(1)).view(-1, 64, 3).max(dim=2).values
        mean, log_variance = self.heads(h).chunk(2, 1)
        logits = self.decoder(draw(mean, log_variance)).view_as(x)
        loss = bce_loss(logits, x, mean, log_variance)
        return Result(loss, logits, mean, log_variance)


@healthy("c")
def maxout_and_namedtuple_at_8x8(seed):
    return dict(model=MaxoutNamed(), batch=binary(seed, side=8))


# Healthy, form d: distributions


@healthy("d")
def normal_posterior_by_softplus(seed):
    return dict(model=Distributions(), batch=binary(seed), loss=negative_elbo)


class FullCovariance(Distributions):
    def __init__(self, latent=4):
        super().__init__(latent)
        self.scale = nn.Linear(100, latent * latent)
        self.latent = latent
        self.prior = MultivariateNormal(torch.zeros(latent), torch.eye(latent))

    def posterior(self, x):
        h = self.encoder(x)
        square = self.scale(h).view(-1, self.latent, self.latent)
        lower = square.tril(-1)
        diagonal = F.softplus(square.diagonal(dim1=1, dim2=2)) + 1e-3
        scale = lower + torch.diag_embed(diagonal)
        return MultivariateNormal(self.loc(h), scale_tril=scale)


@healthy("d")
def full_covariance_posterior(seed):
    return dict(model=FullCovariance(), batch=binary(seed), loss=negative_elbo)


class LowRank(FullCovariance):
    def __init__(self, latent=6):
        super().__init__(latent)
        self.scale = nn.Linear(100, latent * 3)

    def posterior(self, x):
        h = self.encoder(x)
        factors = self.scale(h).view(-1, self.latent, 3)
        diagonal = F.softplus(factors[..., 0]) + 1e-3
        loc = self.loc(h)
        return LowRankMultivariateNormal(loc, factors[..., 1:] * 0.3, diagonal)


@healthy("d")
def low_rank_posterior(seed):
    return dict(model=LowRank(), batch=binary(seed), loss=negative_elbo)


def importance_bound(model, x, samples=5):
    q = model.posterior(x)
    z = q.rsample((samples,))
    log_w = model.likelihood(z).log_prob(x.flatten(1)) + model.prior.log_prob(z)
    log_w = log_w - q.log_prob(z)
    return -(log_w.logsumexp(0) - math.log(samples)).mean()


@healthy("d")
def iwae_of_five(seed):
    return dict(model=Distributions(), batch=binary(seed), loss=importance_bound)


def sampled_elbo(model, x):
    q = model.posterior(x)
    z = q.rsample()
    log_p = model.likelihood(z).log_prob(x.flatten(1))
    return (q.log_prob(z) - model.prior_of_z().log_prob(z) - log_p).mean()


class MixturePrior(Distributions):
    def __init__(self):
        super().__init__(4)
        self.weights = nn.Parameter(torch.zeros(5))
        self.means = nn.Parameter(torch.randn(5, 4))
        self.log_stds = nn.Parameter(torch.zeros(5, 4))

    def prior_of_z(self):
        parts = Independent(Normal(self.means, self.log_stds.exp()), 1)
        return MixtureSameFamily(Categorical(logits=self.weights), parts)


@healthy("d")
def mixture_prior_monte_carlo(seed):
    return dict(model=MixturePrior(), batch=binary(seed), loss=sampled_elbo)


class VampPrior(Distributions):
    def __init__(self, pseudo):
        super().__init__(4)
        self.pseudo = nn.Parameter(torch.logit(pseudo.clamp(0.1, 0.9)))

    def prior_of_z(self):
        parts = self.posterior(torch.sigmoid(self.pseudo))
        return MixtureSameFamily(Categorical(logits=torch.zeros(8)), parts)


@healthy("d")
def vamp_prior(seed):
    model = VampPrior(binary(seed + 1)[:8])
    return dict(model=model, batch=binary(seed), loss=sampled_elbo)


class LearnedGaussianPrior(Distributions):
    def __init__(self):
        super().__init__(5)
        self.prior_mean = nn.Parameter(torch.zeros(5))
        self.prior_log_std = nn.Parameter(torch.zeros(5))

    def prior_of_z(self):
        return Independent(Normal(self.prior_mean, self.prior_log_std.exp()), 1)


@healthy("d")
def learned_gaussian_prior(seed):
    def loss(model, x):
        p, q = model(x)
        kl = kl_divergence(q, model.prior_of_z())
        return (kl - p.log_prob(x.flatten(1))).mean()

    return dict(model=LearnedGaussianPrior(), batch=binary(seed), loss=loss)


class PlanarFlow(Distributions):
    def __init__(self, latent=5, length=4):
        super().__init__(latent)
        self.u = nn.Parameter(torch.randn(length, latent) * 0.1)
        self.w = nn.Parameter(torch.randn(length, latent) * 0.1)
        self.b = nn.Parameter(torch.zeros(length))

    def flow(self, z):
        total = 0
        for u, w, b in zip(self.u, self.w, self.b):
            wu = w @ u
            u = u + (F.softplus(wu) - 1 - wu) * w / (w @ w)
            h = torch.tanh(z @ w + b)
            z = z + u * h[:, None]
            total = total + torch.log1p((1 - h**2) * (w @ u)).clamp(min=-20)
        return z, total


@healthy("d")
def planar_flow_posterior(seed):
    def loss(model, x):
        q = model.posterior(x)
        start = q.rsample()
        z, log_det = model.flow(start)
        log_q = q.log_prob(start) - log_det
        log_p = model.likelihood(z).log_prob(x.flatten(1)) + model.prior.log_prob(z)
        return (log_q - log_p).mean()

    return dict(model=PlanarFlow(), batch=binary(seed), loss=loss)


class Householder(Plain):
    "Reflections rotate z; a volume-preserving flow has the KL of the start."

    def __init__(self):
        super().__init__(latent=6)
        self.vectors = nn.Linear(128, 2 * 6)

    def forward(self, x):
        h = F.relu(self.fc1(x.flatten(1)))
        mean, log_variance = self.fc_mean(h), self.fc_var(h)
        start = z = draw(mean, log_variance)
        for v in self.vectors(h).chunk(2, 1):
            v = F.normalize(v, dim=1)
            z = z - 2 * v * (v * z).sum(1, keepdim=True)
        return self.decode(z).view_as(x), mean, log_variance, start, z


@healthy("d")
def householder_flow(seed):
    def loss(model, x):
        logits, mean, log_variance, start, z = model(x)
        std = (0.5 * log_variance).exp()
        log_q = Normal(mean, std).log_prob(start).sum(1)
        log_prior = Normal(0.0, 1.0).log_prob(z).sum(1)
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return (bce.flatten(1).sum(1) + log_q - log_prior).mean()

    return dict(model=Householder(), batch=binary(seed), loss=loss)


class TwoLayers(nn.Module):
    "q(z1|x) q(z2|z1); p(z2) p(z1|z2) p(x|z1)."

    def __init__(self):
        super().__init__()

        def net(inputs, outputs):
            return nn.Sequential(
                nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs)
            )

        self.q1, self.q2 = net(784, 16), net(8, 6)
        self.p1, self.px = net(3, 16), net(8, 784)

    @staticmethod
    def normal(parameters):
        mean, log_std = parameters.chunk(2, -1)
        return Independent(Normal(mean, log_std.exp()), 1)

    def forward(self, x):
        q1 = self.normal(self.q1(x.flatten(1)))
        z1 = q1.rsample()
        q2 = self.normal(self.q2(z1))
        z2 = q2.rsample()
        p1 = self.normal(self.p1(z2))
        p2 = Independent(Normal(torch.zeros_like(z2), 1.0), 1)
        logits = self.px(z1).view_as(x)
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        kl = kl_divergence(q1, p1) + kl_divergence(q2, p2)
        return {"loss": (bce.flatten(1).sum(1) + kl).mean(), "logits": logits}


@healthy("c")
def hierarchical_two_layers(seed):
    return dict(model=TwoLayers(), batch=binary(seed))


class VectorQuantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 4, 2, 1)
        )
        self.codes = nn.Embedding(32, 8)
        self.codes.weight.data.mul_(0.3)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
        )  # fmt: skip

    def forward(self, x):
        e = self.encoder(x)
        rows = e.permute(0, 2, 3, 1)
        nearest = torch.cdist(rows.flatten(0, 2), self.codes.weight).argmin(1)
        q = self.codes(nearest).view_as(rows).permute(0, 3, 1, 2)
        commitment = F.mse_loss(q, e.detach()) + 0.25 * F.mse_loss(e, q.detach())
        reconstruction = self.decoder(e + (q - e).detach())
        return {
            "loss": F.mse_loss(reconstruction, x) + commitment,
            "reconstruction": reconstruction,
        }


@healthy("c")
def vq_vae(seed):
    return dict(model=VectorQuantized(), batch=grey(seed))


class JointGumbel(nn.Module):
    "Four Gaussian and one categorical dimension of ten (JointVAE)."

    def __init__(self, continuous=4):
        super().__init__()
        self.continuous = continuous
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU())
        self.heads = nn.Linear(100, 2 * continuous + 10)
        self.decoder = nn.Sequential(
            nn.Linear(continuous + 10, 100), nn.ReLU(), nn.Linear(100, 784)
        )

    def forward(self, x):
        k = self.continuous
        mean, log_variance, alpha = self.heads(self.body(x)).split([k, k, 10], 1)
        one_hot = F.gumbel_softmax(alpha, tau=0.67)
        z = torch.cat([draw(mean, log_variance), one_hot], 1)
        logits = self.decoder(z).view_as(x)
        log_q = F.log_softmax(alpha, 1)
        kl_discrete = (log_q.exp() * (log_q + math.log(10))).sum()
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = (bce + kl_sum(mean, log_variance) + kl_discrete) / len(x)
        return {"loss": loss, "logits": logits}


@healthy("c")
def joint_continuous_and_discrete(seed):
    return dict(model=JointGumbel(), batch=binary(seed))


def density_loss(make):
    "The negative ELBO with any density of the pixels."

    def loss(reconstruction, x, mean, log_variance):
        log_p = make(reconstruction).log_prob(x).sum()
        return (kl_sum(mean, log_variance) - log_p) / len(x)

    return loss


@healthy("e")
def student_t_decoder(seed):
    loss = density_loss(lambda r: StudentT(4.0, r, 0.5))
    return dict(model=Conv(width=8), batch=blobs(seed), loss=loss)


@healthy("e")
def laplace_decoder(seed):
    loss = density_loss(lambda r: Laplace(r, 1.0))
    return dict(model=Conv(width=8, latent=32), batch=blobs(seed), loss=loss)


@healthy("e")
def unit_gaussian_conv_batch_norm_trained(seed):
    model, x = Conv(width=8), blobs(seed)
    train(model, x, gauss_loss, 80)
    return dict(model=model, batch=x, loss=gauss_loss)


@healthy("e")
def log_cosh_reconstruction(seed):
    def loss(r, x, mean, log_variance):
        t = 4 * (r - x)
        log_cosh = t.abs() + F.softplus(-2 * t.abs()) - math.log(2)
        return (log_cosh.sum() + kl_sum(mean, log_variance)) / len(x)

    return dict(model=Conv(width=8), batch=blobs(seed), loss=loss)


class OneSigma(Conv):
    def __init__(self):
        super().__init__(width=8)
        self.log_sigma = nn.Parameter(torch.zeros(()))


@healthy("e")
def one_learned_sigma(seed):
    def loss(model, x):
        r, mean, log_variance = model(x)
        log_p = Normal(r, model.log_sigma.exp()).log_prob(x).sum()
        return (kl_sum(mean, log_variance) - log_p) / len(x)

    return dict(model=OneSigma(), batch=blobs(seed), loss=loss)


@healthy("e")
def variance_per_pixel(seed):
    model = Conv(width=8, end=nn.Identity())
    model.decoder[-2] = nn.ConvTranspose2d(8, 6, 4, 2, 1)

    def loss(model, x):
        outputs, mean, log_variance = model(x)
        location, log_std = outputs.chunk(2, 1)
        log_p = Normal(location, log_std.clamp(-4, 2).exp()).log_prob(x).sum()
        return (kl_sum(mean, log_variance) - log_p) / len(x)

    return dict(model=model, batch=blobs(seed), loss=loss)


@healthy("e")
def discretized_logistic(seed):
    def loss(r, x, mean, log_variance):
        inverse = 1 / 0.1
        upper = torch.sigmoid((x - r + 0.5 / 255) * inverse)
        lower = torch.sigmoid((x - r - 0.5 / 255) * inverse)
        log_p = (upper - lower).clamp(min=1e-9).log().sum()
        return (kl_sum(mean, log_variance) - log_p) / len(x)

    x = (blobs(seed) * 255).round() / 255
    return dict(model=Conv(width=8), batch=x, loss=loss)


@healthy("e")
def perceptual_random_network(seed):
    features = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.Softplus(), nn.Conv2d(16, 32, 3, 2, 1)
    ).requires_grad_(False)

    def loss(r, x, mean, log_variance):
        perceptual = (features(r) - features(x)).pow(2).sum()
        pixels = 0.5 * (r - x).pow(2).sum()
        return (pixels + perceptual + kl_sum(mean, log_variance)) / len(x)

    return dict(model=Conv(width=8), batch=blobs(seed), loss=loss)


@healthy("e")
def vae_gan_generator_term(seed):
    critic = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4096, 1)
    ).requires_grad_(False)

    def loss(r, x, mean, log_variance):
        fooled = F.softplus(-critic(r)).mean()
        return gauss_loss(r, x, mean, log_variance) + 0.1 * fooled

    return dict(model=Conv(width=8), batch=blobs(seed), loss=loss)


class Conditional(Plain):
    def __init__(self):
        super().__init__(latent=6)
        self.fc1 = nn.Linear(784 + 10, 128)
        self.fc3 = nn.Linear(6 + 10, 128)

    def forward(self, x, labels):
        y = F.one_hot(labels, 10).float()
        h = F.relu(self.fc1(torch.cat([x.flatten(1), y], 1)))
        mean, log_variance = self.fc_mean(h), self.fc_var(h)
        z = torch.cat([draw(mean, log_variance), y], 1)
        return self.decode(z).view_as(x), mean, log_variance


@healthy("d")
def conditional_labels_in_closure(seed):
    labels = torch.randint(10, (64,))

    def loss(model, x):
        logits, mean, log_variance = model(x, labels[: len(x)])
        return bce_loss(logits, x, mean, log_variance)

    return dict(model=Conditional(), batch=binary(seed), loss=loss)


class Denoising(Plain):
    def encode(self, x):
        noisy = torch.where(torch.rand_like(x) < 0.2, torch.zeros_like(x), x)
        return super().encode(noisy if self.training else x)


@healthy("a")
def denoising_clean_target(seed):
    return dict(model=Denoising(), batch=binary(seed), loss=bce_loss)


class Miwae(Distributions):
    pass


@healthy("d")
def miwae_three_by_four(seed):
    def loss(model, x):
        return sum(importance_bound(model, x, 4) for _ in range(3)) / 3

    return dict(model=Miwae(), batch=binary(seed), loss=loss)


@healthy("a")
def regularized_deterministic_autoencoder(seed):
    model = nn.Module()
    model.encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 16)
    )
    model.decoder = nn.Sequential(nn.Linear(16, 100), nn.ReLU(), nn.Linear(100, 784))

    def loss(model, x):
        z = model.encoder(x)
        squared = 0.5 * (model.decoder(z) - x.flatten(1)).pow(2).sum(1)
        weights = sum(p.pow(2).sum() for p in model.decoder.parameters())
        return (squared + 1e-2 * 0.5 * z.pow(2).sum(1)).mean() + 1e-4 * weights

    return dict(model=model, batch=grey(seed), loss=loss)


# Healthy, form f: odd but correct sampling


class NumpyNoise(Plain):
    def reparameterize(self, mean, log_variance):
        noise = torch.as_tensor(np.random.randn(*mean.shape), dtype=mean.dtype)
        return mean + torch.exp(0.5 * log_variance) * noise


@healthy("f")
def numpy_global_noise(seed):
    np.random.seed(seed)
    return dict(model=NumpyNoise(), batch=binary(seed), loss=bce_loss)


class InverseCdf(Plain):
    def reparameterize(self, mean, log_variance):
        u = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6)
        noise = math.sqrt(2) * torch.erfinv(2 * u - 1)
        return noise.mul_((0.5 * log_variance).exp()).add_(mean)


@healthy("f")
def inverse_cdf_of_uniform_in_place(seed):
    return dict(model=InverseCdf(), batch=binary(seed), loss=bce_loss)


class BoxMuller(Plain):
    def reparameterize(self, mean, log_variance):
        u, v = torch.rand(2, *mean.shape)
        noise = (-2 * (1 - u).log()).sqrt() * torch.cos(2 * math.pi * v)
        return mean + noise * torch.exp(log_variance / 2)


@healthy("f")
def box_muller(seed):
    return dict(model=BoxMuller(latent=16), batch=binary(seed), loss=bce_loss)


# Faults, form f


class InverseCdfOfVariance(InverseCdf):
    def reparameterize(self, mean, log_variance):
        u = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6)
        return mean + torch.exp(0.5 * log_variance) * torch.erfinv(2 * u - 1)


@fault("f", "wrong_noise")
def inverse_cdf_without_root_of_two(seed):
    return dict(model=InverseCdfOfVariance(), batch=binary(seed), loss=bce_loss)


class BufferOfNoise(Plain):
    def __init__(self):
        super().__init__(latent=8)
        self.register_buffer("noise", torch.randn(64, 8))

    def reparameterize(self, mean, log_variance):
        noise = self.noise[: len(mean)]
        return mean + torch.exp(0.5 * log_variance) * noise


@fault("f", "same_noise")
def noise_in_a_buffer(seed):
    return dict(model=BufferOfNoise(), batch=binary(seed), loss=bce_loss)


class NoiseOfOneImage(Plain):
    def reparameterize(self, mean, log_variance):
        noise = torch.from_numpy(np.random.randn(mean.shape[-1])).float()
        return mean + torch.exp(0.5 * log_variance) * noise


@fault("f", "shared_noise")
def numpy_noise_of_one_image(seed):
    np.random.seed(seed)
    return dict(model=NoiseOfOneImage(), batch=binary(seed), loss=bce_loss)


# Healthy, forms g and h


@healthy("g")
def own_parts_elbo(seed):
    def loss(model, x):
        return -model.elbo(x).elbo.mean()

    return dict(model=mlp_vae((1, 28, 28), 5), batch=binary(seed), loss=loss)


@healthy("g")
def own_parts_two_samples_beta_2(seed):
    encoder = Gaussian(nn.Sequential(nn.Flatten(), *mlp([196, 64, 8])))
    decoder = BernoulliPixels(mlp([4, 64, 196]), (1, 14, 14))
    model = VAE(encoder, decoder, StandardNormal(4))

    def loss(model, x):
        terms = model.elbo(x, num_samples=2)
        return (2 * terms.kl - terms.reconstruction).mean()

    return dict(model=model, batch=binary(seed, side=14), loss=loss, beta=2.0)


@healthy("h")
def lstm_over_rows(seed):
    return dict(model=RowLstm(), batch=binary(seed), loss=bce_loss)


@healthy("h")
def autocast_bfloat16(seed):
    def loss(model, x):
        with torch.autocast("cpu", torch.bfloat16):
            logits, mean, log_variance = model(x)
        return bce_loss(logits.float(), x, mean.float(), log_variance.float())

    return dict(model=Plain(), batch=binary(seed), loss=loss)


class Patches(nn.Module):
    "A transformer over 16 patches of 7 x 7."

    def __init__(self, latent=8, width=32):
        super().__init__()

        def blocks():
            layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True)
            return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        self.embed, self.out = nn.Linear(49, width), nn.Linear(width, 49)
        self.position = nn.Parameter(torch.randn(16, width) * 0.1)
        self.up, self.down = blocks(), blocks()
        self.heads, self.start = nn.Linear(width, 2 * latent), nn.Linear(latent, width)

    def forward(self, x):
        patches = F.unfold(x, 7, stride=7).transpose(1, 2)
        h = self.up(self.embed(patches) + self.position).mean(1)
        mean, log_variance = self.heads(h).chunk(2, 1)
        tokens = self.start(draw(mean, log_variance))[:, None] + self.position
        rows = self.out(self.down(tokens)).transpose(1, 2)
        return F.fold(rows, (28, 28), 7, stride=7), mean, log_variance


@healthy("h")
def transformer_over_patches(seed):
    return dict(model=Patches(), batch=binary(seed), loss=bce_loss)


class Normed(Plain):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.utils.parametrizations.weight_norm(self.fc1)
        self.fc3 = nn.utils.parametrizations.spectral_norm(self.fc3)


@healthy("h")
def weight_and_spectral_norm(seed):
    return dict(model=Normed(), batch=binary(seed), loss=bce_loss)


class GramSchmidt(Plain):
    "The decoder's 8 rows are made orthonormal in a loop."

    def decode(self, z):
        rows = []
        for row in self.fc3.weight.t():
            for other in rows:
                row = row - (row @ other) * other
            if row.norm() > 1e-6:
                rows.append(row / row.norm())
        h = z @ torch.stack(rows)
        return self.fc4(F.elu(3 * h + self.fc3.bias))


@healthy("h")
def gram_schmidt_loop(seed):
    return dict(model=GramSchmidt(), batch=binary(seed), loss=bce_loss)


class ResBlock(nn.Module):
    def __init__(self, width, attention=False):
        super().__init__()
        self.one, self.two = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.qkv = nn.Conv2d(width, 3 * width, 1) if attention else None

    def forward(self, x):
        x = x + self.conv2(F.silu(self.two(self.conv1(F.silu(self.one(x))))))
        if self.qkv is not None:
            q, k, v = self.qkv(x).flatten(2).transpose(1, 2).chunk(3, 2)
            h = F.scaled_dot_product_attention(q, k, v)
            x = x + h.transpose(1, 2).reshape(x.shape)
        return x


class AutoencoderKl(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, 4), ResBlock(width),
            nn.Conv2d(width, width, 3, 2, 1), ResBlock(width, True),
            nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, 8, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(4, width, 3, 1, 1), ResBlock(width, True),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, 1, 1),
            ResBlock(width), nn.ConvTranspose2d(width, 3, 4, 4),
        )  # fmt: skip

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, 1)
        log_variance = log_variance.clamp(-30, 20)
        return self.decoder(draw(mean, log_variance)), mean, log_variance


@healthy("e")
def autoencoder_kl_at_64(seed):
    x = blobs(seed, 16, 64) * 2 - 1
    return dict(model=AutoencoderKl(), batch=x, loss=gauss_loss)


# More faults


@fault("b", "constant_pictures", "dead_relus", "decoder_ignores_z")
def decoder_initialized_with_zeros(seed):
    encoder, _ = pair()
    decoder = nn.Sequential(nn.Linear(10, 96), nn.ReLU(), nn.Linear(96, 784))
    for parameter in decoder.parameters():
        nn.init.zeros_(parameter)
    return dict(model=(encoder, decoder), batch=binary(seed), loss=flat_bce)


@fault("e", "train_eval_gap")
def momentum_one_and_a_last_batch_of_two(seed):
    model, x = Conv(width=8), blobs(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    _, optimizer = train(model, x, gauss_loss, 40)
    dark = x[:2] * 0.1  # the night shots at the end of the folder
    train(model, dark, gauss_loss, 1, optimizer)
    return dict(model=model, batch=x, loss=gauss_loss, optimizer=optimizer)


@fault("d", "wrong_weight")
def kl_summed_over_the_batch_meant_over_dimensions(seed):
    def loss(model, x):
        p, q = model(x)
        kl = kl_divergence(q.base_dist, model.prior.base_dist)
        return kl.sum(0).mean() - p.log_prob(x.flatten(1)).mean()

    return dict(model=Distributions(), batch=binary(seed), loss=loss)


@fault("e", "wrong_weight")
def squares_summed_over_columns_only(seed):
    def loss(r, x, mean, log_variance):
        squared = 0.5 * (r - x).pow(2).sum(-1).mean()
        return squared + kl_sum(mean, log_variance) / len(x)

    return dict(model=Conv(side=64), batch=blobs(seed, 16, 64), loss=loss)


@fault("e", "missing_half")
def sum_of_squares_without_half(seed):
    def loss(r, x, mean, log_variance):
        squared = F.mse_loss(r, x, reduction="sum")
        return (squared + kl_sum(mean, log_variance)) / len(x)

    return dict(model=Conv(width=8, latent=64), batch=blobs(seed), loss=loss)


class TeacherForced(RowLstm):
    "Each row is drawn from z and the row before it, or so it should."

    def __init__(self, shift):
        super().__init__()
        self.shift = shift
        self.rows = nn.LSTM(64 + 28, 64, batch_first=True)

    def forward(self, x):
        rows = x.squeeze(1)
        _, (h, _) = self.lstm(rows)
        mean, log_variance = self.heads(h.transpose(0, 1).flatten(1)).chunk(2, 1)
        start = self.start(draw(mean, log_variance))[:, None].expand(-1, 28, -1)
        if self.shift:
            rows = F.pad(rows, (0, 0, 1, -1))
        h, _ = self.rows(torch.cat([start, rows], 2))
        return self.out(h)[:, None], mean, log_variance


@fault("h", "decoder_sees_x")
def teacher_forcing_without_shift(seed):
    return dict(model=TeacherForced(False), batch=binary(seed), loss=bce_loss)


class NoGradBackbone(Patches):
    def forward(self, x):
        with torch.no_grad():  # saves memory
            patches = F.unfold(x, 7, stride=7).transpose(1, 2)
            h = self.up(self.embed(patches) + self.position).mean(1)
        mean, log_variance = self.heads(h).chunk(2, 1)
        tokens = self.start(draw(mean, log_variance))[:, None] + self.position
        rows = self.out(self.down(tokens)).transpose(1, 2)
        return F.fold(rows, (28, 28), 7, stride=7), mean, log_variance


@fault("h", "gradient_cut")
def transformer_backbone_under_no_grad(seed):
    model = NoGradBackbone()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    return dict(model=model, batch=binary(seed), loss=bce_loss, optimizer=optimizer)


class PatchRows(Patches):
    "The loss is in the space of the patches, as in a masked autoencoder."

    def forward(self, x):
        patches = F.unfold(x, 7, stride=7).transpose(1, 2)
        h = self.up(self.embed(patches) + self.position).mean(1)
        mean, log_variance = self.heads(h).chunk(2, 1)
        tokens = self.start(draw(mean, log_variance))[:, None] + self.position
        return self.out(self.down(tokens)), mean, log_variance


@fault("h", "transposed_targets")
def patches_viewed_for_the_target_only(seed):
    def loss(logits, x, mean, log_variance):
        target = F.unfold(x, 7, stride=7).view(len(x), 16, 49)
        return bce_loss(logits, target, mean, log_variance)

    return dict(model=PatchRows(), batch=binary(seed), loss=loss)


class InPlaceMask(Record):
    "Masks pixels for the encoder; the target is the same tensor."

    def forward(self, x):
        x[torch.rand_like(x) < 0.25] = 0.0
        return super().forward(x)


@fault("c", "input_changed")
def masked_in_place_before_encoding(seed):
    return dict(model=InPlaceMask(), batch=grey(seed))


# More healthy ones


@healthy("h")
def teacher_forcing_with_shift(seed):
    return dict(model=TeacherForced(True), batch=binary(seed), loss=bce_loss)


class Coupling(nn.Module):
    def __init__(self, latent, flip):
        super().__init__()
        self.flip, half = flip, latent // 2
        self.net = nn.Sequential(nn.Linear(half, 32), nn.Tanh(), nn.Linear(32, latent))

    def forward(self, z):
        kept, changed = z.chunk(2, 1)
        if self.flip:
            kept, changed = changed, kept
        log_scale, shift = self.net(kept).chunk(2, 1)
        log_scale = torch.tanh(log_scale)
        changed = changed * log_scale.exp() + shift
        parts = (changed, kept) if self.flip else (kept, changed)
        return torch.cat(parts, 1), log_scale.sum(1)


class RealNvp(Distributions):
    def __init__(self):
        super().__init__(6)
        self.couplings = nn.ModuleList(Coupling(6, i % 2 == 1) for i in range(4))


@healthy("d")
def real_nvp_posterior(seed):
    def loss(model, x):
        q = model.posterior(x)
        z = q.rsample()
        log_q = q.log_prob(z)
        for coupling in model.couplings:
            z, log_det = coupling(z)
            log_q = log_q - log_det
        log_p = model.likelihood(z).log_prob(x.flatten(1)) + model.prior.log_prob(z)
        return (log_q - log_p).mean()

    return dict(model=RealNvp(), batch=binary(seed), loss=loss)


class SemiSupervised(Conditional):
    "M2 (Kingma et al. 2014): half of the images have labels."

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(784, 10)

    def bound(self, x, labels):
        logits, mean, log_variance = self(x, labels)
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return bce.flatten(1).sum(1) + kl + math.log(10)


@healthy("d")
def semi_supervised_m2(seed):
    labels = torch.randint(10, (64,))

    def loss(model, x):
        half = len(x) // 2
        seen, unseen, y = x[:half], x[half:], labels[:half]
        labelled = model.bound(seen, y).sum()
        scores = model.classifier(seen.flatten(1))
        classified = F.cross_entropy(scores, y, reduction="sum")
        log_q = F.log_softmax(model.classifier(unseen.flatten(1)), 1)
        every = [model.bound(unseen, torch.full((len(unseen),), k)) for k in range(10)]
        unlabelled = (log_q.exp() * (torch.stack(every, 1) + log_q)).sum()
        return (labelled + unlabelled + 10 * classified) / len(x)

    return dict(model=SemiSupervised(), batch=binary(seed), loss=loss)


class UniformPosterior(Plain):
    "Noise uniform with unit variance; the KL is estimated, not in closed form."

    def forward(self, x):
        mean, log_std = self.encode(x)
        noise = (torch.rand_like(mean) - 0.5) * math.sqrt(12)
        z = mean + log_std.exp() * noise
        logits = self.decode(z).view_as(x)
        bce = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        log_q = -(log_std + 0.5 * math.log(12)).sum()
        log_prior = Normal(0.0, 1.0).log_prob(z).sum()
        return {"loss": (bce + log_q - log_prior) / len(x), "logits": logits}


@healthy("f")
def uniform_posterior_with_its_own_kl(seed):
    return dict(model=UniformPosterior(), batch=binary(seed))


# Crashers: a clear sentence or findings, no other exception


@crasher("a")
def loss_raises_a_key_error(seed):
    def loss(outputs, x):
        return outputs["loss"] if isinstance(outputs, dict) else {}["kl_weight"]

    return dict(model=Plain(), batch=binary(seed), loss=loss)


class OutOfCheese(Exception):
    pass


class RaisesOwn(Plain):
    def forward(self, x):
        raise OutOfCheese("redo from start")


@crasher("a")
def custom_exception_in_forward(seed):
    return dict(model=RaisesOwn(), batch=binary(seed), loss=bce_loss)


@crasher("a")
def forward_needs_labels(seed):
    return dict(model=Conditional(), batch=binary(seed), loss=bce_loss)


@crasher("a")
def always_nan(seed):
    def loss(logits, x, mean, log_variance):
        return bce_loss(logits, x, mean, log_variance) * float("nan")

    return dict(model=Plain(), batch=binary(seed), loss=loss)


@crasher("a")
def a_generator_object_as_batch(seed):
    images = binary(seed)
    return dict(model=Plain(), batch=(part for part in images), loss=bce_loss)


class StopsIteration(Plain):
    def forward(self, x):
        self.noise = next(iter([]))
        return super().forward(x)


@crasher("a")
def stop_iteration_in_forward(seed):
    return dict(model=StopsIteration(), batch=binary(seed), loss=bce_loss)


class Exits(Plain):
    def forward(self, x):
        raise SystemExit("no GPU found")


@crasher("a")
def sys_exit_in_forward(seed):
    return dict(model=Exits(), batch=binary(seed), loss=bce_loss)


@crasher("a")
def batch_is_a_list(seed):
    return dict(model=Plain(), batch=list(binary(seed)), loss=bce_loss)


@crasher("a")
def half_precision_on_cpu(seed):
    return dict(model=Plain().half(), batch=binary(seed).half(), loss=bce_loss)


class DeletesItself(Plain):
    def forward(self, x):
        outputs = super().forward(x)
        del self.fc4
        return outputs


@crasher("a")
def deletes_its_own_module(seed):
    return dict(model=DeletesItself(), batch=binary(seed), loss=bce_loss)


@crasher("a")
def optimizer_of_another_model(seed):
    optimizer = torch.optim.Adam(Plain().parameters(), 1e-3)
    return dict(model=Plain(), batch=binary(seed), loss=bce_loss, optimizer=optimizer)
