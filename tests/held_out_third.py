"""A third held-out set for `diagnose`: faults, healthy models and crashers.

Written blind, without a look at the diagnosis, its tests or its earlier cases. Cases
of one form stand together: a form's shared parts, then its faults, then its healthy
models. Each `make(seed)` gives the keyword arguments of one call.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn

from vae_tutorial.data import binarize, load_mnist


class Case(NamedTuple):
    name: str
    form: str
    expected: tuple[str, ...]
    make: Callable[[int], dict]


def decorators(maker: Callable) -> tuple:
    """Lists of faults, healthy models and crashers, and the decorator that adds to each;
    `maker(thing, given)` is the function of the seed for what is decorated."""
    faults, healthy, crashers = [], [], []

    def adds_to(cases: list[Case], form: str, expected: tuple, given: dict) -> Callable:
        def add(thing: Callable) -> Callable:
            name = re.sub("(?<!^)(?=[A-Z])", "_", thing.__name__).lower()
            cases.append(Case(name, form, expected, maker(thing, given)))
            return thing

        return add

    return (
        *(faults, healthy, crashers),
        lambda form, *expected, **given: adds_to(faults, form, expected, given),
        lambda form, **given: adds_to(healthy, form, (), given),
        lambda form, **given: adds_to(crashers, form, (), given),
    )


def made(thing: Callable, given: dict) -> Callable:
    """What is decorated is the model's class where `loss` is given, the loss where
    `model` is, and else a function of the seed that gives all arguments."""
    rest = dict(given)
    batch, model = rest.pop("batch", digits), rest.pop("model", None)

    def make(seed: int) -> dict:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        if model:
            return dict(model=model(), batch=batch(seed), loss=thing, **rest)
        if rest:
            built = dict(model=thing(), batch=batch(seed), **rest)
            if rest["loss"] == "objective":
                built["loss"] = built["model"].objective
            return built
        return thing(seed)

    return make


FAULTS, HEALTHY, CRASHERS, fault, healthy, crasher = decorators(made)


# Shared parts: images


@lru_cache(maxsize=1)
def _train():
    return load_mnist().train


def _rows(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(50_000, generator=generator)[:count]


def classes(seed: int, count: int = 32) -> Tensor:
    """The digits' classes, one-hot."""
    return F.one_hot(_train().labels[_rows(seed, count)].long(), 10).float()


def grey(seed: int, count: int = 32) -> Tensor:
    """Digits of 1 x 28 x 28 grey pixels in [0, 1]."""
    return _train().images[_rows(seed, count)]


def digits(seed: int, count: int = 32) -> Tensor:
    """Digits of 1 x 28 x 28 pixels, 0 or 1."""
    return binarize(grey(seed, count), seed)


def normalized(seed: int) -> Tensor:
    return (grey(seed) - 0.1307) / 0.3081


def small(seed: int, count: int = 32) -> Tensor:
    """Grey digits of 1 x 16 x 16 pixels in [0, 1]."""
    return F.avg_pool2d(F.pad(grey(seed, count), (2, 2, 2, 2)), 2)


def small_digits(seed: int) -> Tensor:
    return binarize(small(seed), seed)


def colour(seed: int, count: int = 32) -> Tensor:
    """Coloured digits on coloured ground, 3 x 16 x 16 pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(seed + 1)
    ink, ground, noise = (
        torch.rand(count, 3, *size, generator=generator)
        for size in ((1, 1), (1, 1), (16, 16))
    )
    shape = small(seed, count)
    pixels = shape * (0.5 + 0.5 * ink) + (1 - shape) * 0.4 * ground
    return (pixels + 0.04 * (noise - 0.5)).clamp(0, 1)


# Shared parts: terms of the loss (sums over everything) and small networks


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()


def bce(logits: Tensor, x: Tensor) -> Tensor:
    x = x.view_as(logits)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum")


def half_square(recon: Tensor, x: Tensor) -> Tensor:
    return 0.5 * (recon - x.view_as(recon)).square().sum()


def draw(mean: Tensor, logvar: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)


def log_normal(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """The log density of each row of z."""
    square = (z - mean).square() / logvar.exp()
    return -0.5 * (math.log(2 * math.pi) + logvar + square).sum(-1)


def log_standard(z: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + z.square()).sum(-1)


def bernoulli_loss(logits: Tensor, x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    return (bce(logits, x) + kl(mean, logvar)) / len(x)


def gaussian_loss(recon: Tensor, x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    return (half_square(recon, x) + kl(mean, logvar)) / len(x)


def narrow_loss(recon: Tensor, x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """For a Gaussian of standard deviation 0.2."""
    return (half_square(recon, x) / 0.2**2 + kl(mean, logvar)) / len(x)


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for one, two in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(one, two), activation()]
    return nn.Sequential(*layers[:-1])


def conv_encoder(channels: int, outputs: int, norm: type = nn.Identity) -> nn.Module:
    """From 16 x 16 pixels."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2, 1),
        norm(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, outputs),
    )


def conv_decoder(latents: int, channels: int, norm: type = nn.Identity) -> nn.Module:
    """To 16 x 16 pixels."""
    return nn.Sequential(
        nn.Linear(latents, 512),
        nn.ReLU(),
        nn.Unflatten(1, (32, 4, 4)),
        nn.ConvTranspose2d(32, 16, 4, 2, 1),
        norm(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, channels, 4, 2, 1),
    )


class Vae(nn.Module):
    """The model of most tutorials; a case overrides a method or two."""

    def __init__(self, latents: int = 8, hidden: int = 64):
        super().__init__()
        self.fc1 = nn.Linear(784, hidden)
        self.fc21 = nn.Linear(hidden, latents)
        self.fc22 = nn.Linear(hidden, latents)
        self.fc3 = nn.Linear(latents, hidden)
        self.fc4 = nn.Linear(hidden, 784)

    def encode(self, x):
        h = F.relu(self.fc1(x.flatten(1)))
        return self.fc21(h), self.fc22(h)

    def reparameterize(self, mean, logvar):
        return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)

    def decode(self, z):
        return self.fc4(F.relu(self.fc3(z)))

    def forward(self, x):
        mean, logvar = self.encode(x)
        recon = self.decode(self.reparameterize(mean, logvar))
        return recon.view_as(x), mean, logvar


class Pair(nn.Module):
    """An encoder and a decoder in one forward, without methods between."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, 1)
        return self.decoder(draw(mean, logvar)), mean, logvar


class ColourVae(Pair):
    def __init__(self, channels: int = 3, outputs: int = 3, norm: type = nn.Identity):
        super().__init__(
            conv_encoder(channels, 16, norm), conv_decoder(8, outputs, norm)
        )


class Parts(nn.Module):
    """Encode, sample, decode, and no forward."""

    def __init__(self, latents: int = 8, condition: int = 0):
        super().__init__()
        self.encoder = mlp(784 + condition, 64, 2 * latents)
        self.decoder = mlp(latents + condition, 64, 784)

    def encode(self, x):
        return self.encoder(x.flatten(1)).chunk(2, 1)

    def sample(self, mean, logvar):
        return draw(mean, logvar)

    def decode(self, z):
        return self.decoder(z).view(-1, 1, 28, 28)


def parts_loss(model, x):
    mean, logvar = model.encode(x)
    return bernoulli_loss(model.decode(model.sample(mean, logvar)), x, mean, logvar)


def train(model: nn.Module, loss: Callable, data: Tensor, steps: int) -> None:
    """Train on batches of 32; loss(model, x)."""
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, data[torch.randint(len(data), (32,))]).backward()
        optimizer.step()
    optimizer.zero_grad()


# Form "tuple": forward gives (reconstruction, mean, log variance), and the loss is
# loss(reconstruction, x, mean, log_variance)


class SigmoidVae(Vae):
    def decode(self, z):
        return torch.sigmoid(super().decode(z))


@fault("tuple", "swapped_arguments", model=SigmoidVae)
def order_of_keras(recon, x, mean, logvar):
    # ported from Keras, whose binary_crossentropy takes the truth first
    error = F.binary_cross_entropy(x, recon, reduction="sum")
    return (error + kl(mean, logvar)) / len(x)


@fault("tuple", "softmax_output", model=Vae)
def cross_entropy_over_pixels(recon, x, mean, logvar):
    # F.cross_entropy instead of the binary one: the pixels become one softmax
    error = F.cross_entropy(recon.flatten(1), x.flatten(1), reduction="sum")
    return (error + kl(mean, logvar)) / len(x)


@fault("tuple", "unreachable_pixels", batch=normalized, loss=gaussian_loss)
class NormalizedDigitsFromASigmoid(SigmoidVae):
    # Normalize((0.1307,), (0.3081,)) as in classifiers, but the decoder ends at 1
    pass


@fault("tuple", "wrong_sample", loss=bernoulli_loss)
class OrderOfAddcmul(Vae):
    # torch.addcmul(a, b, c) is a + b * c: this is std + mean * eps
    def reparameterize(self, mean, logvar):
        std = torch.exp(0.5 * logvar)
        return torch.addcmul(std, mean, torch.randn_like(mean))


@fault("tuple", "sigma_mismatch", loss=bernoulli_loss)
class HalfOutsideTheExponential(Vae):
    # 0.5 * exp(logvar) instead of exp(0.5 * logvar)
    def reparameterize(self, mean, logvar):
        return mean + 0.5 * torch.exp(logvar) * torch.randn_like(mean)


@fault("tuple", "swapped_outputs", loss=bernoulli_loss)
class LogVarianceReturnedFirst(Vae):
    # forward returns (recon, logvar, mean), but the loss reads (recon, mean, logvar)
    def forward(self, x):
        recon, mean, logvar = super().forward(x)
        return recon, logvar, mean


@fault("tuple", "broadcast_targets", batch=grey, model=Vae)
def flatten_from_the_wrong_axis(recon, x, mean, logvar):
    # x.flatten(2) is B x 1 x 784: against B x 784 it gives B x B x 784
    error = 0.5 * (recon.flatten(1) - x.flatten(2)).square().sum()
    return (error + kl(mean, logvar)) / len(x)


@healthy("tuple", batch=small_digits, loss=bernoulli_loss)
class ConvolutionsWithWeightNorm(ColourVae):
    def __init__(self):
        super().__init__(1, 1)
        for part in [self.encoder[0], self.encoder[3], self.decoder[3]]:
            nn.utils.parametrizations.weight_norm(part)


@healthy("tuple", model=Vae, beta=4)
def beta_of_four(logits, x, mean, logvar):
    return (bce(logits, x) + 4 * kl(mean, logvar)) / len(x)


@healthy("tuple", model=lambda: torch.jit.script(Vae()))
def scripted_module(logits, x, mean, logvar):
    return bernoulli_loss(logits, x, mean, logvar)


# Form "outputs": forward gives a dict, a named tuple or a dataclass, and the loss is
# loss(outputs, x)


class Output(NamedTuple):
    recon: Tensor
    mean: Tensor
    logvar: Tensor


@dataclass
class VaeOutput:
    x_hat: Tensor
    mu: Tensor
    log_var: Tensor
    latent: Tensor


class NamedVae(Vae):
    def forward(self, x):
        return Output(*super().forward(x))


class DictVae(Vae):
    def forward(self, x):
        recon, mean, logvar = super().forward(x)
        return {"recon": recon, "mu": mean, "logvar": logvar}


class DataVae(Vae):
    def forward(self, x):
        mean, logvar = self.encode(x)
        z = self.reparameterize(mean, logvar)
        return VaeOutput(self.decode(z).view_as(x), mean, logvar, z)


def named_loss(out, x):
    return bernoulli_loss(out.recon, x, out.mean, out.logvar)


def dict_loss(out, x):
    return bernoulli_loss(out["recon"], x, out["mu"], out["logvar"])


def data_loss(out, x):
    return bernoulli_loss(out.x_hat, x, out.mu, out.log_var)


def data_gaussian_loss(out, x):
    return gaussian_loss(out.x_hat, x, out.mu, out.log_var)


@fault("outputs", "same_head", loss=dict_loss)
class LineCopiedInTheEncoder(DictVae):
    # the line of the mean was copied, and its layer not renamed
    def encode(self, x):
        h = F.relu(self.fc1(x.flatten(1)))
        return self.fc21(h), self.fc21(h)


@fault("outputs", "no_sampling", loss=named_loss)
class TrainingFlagInverted(NamedVae):
    # samples when not in training, so never while it learns
    def reparameterize(self, mean, logvar):
        if self.training:
            return mean
        return super().reparameterize(mean, logvar)


@fault("outputs", "input_changed", batch=grey, loss=data_gaussian_loss)
class ScaledInPlace(DataVae):
    # mul_ and sub_ bring the caller's own batch to [-1, 1], and again at every pass
    def forward(self, x):
        x.mul_(2).sub_(1)
        return super().forward(x)


@fault("outputs", "dropout_in_eval", loss=named_loss)
class FunctionalDropout(NamedVae):
    # F.dropout without training=self.training never stops
    def encode(self, x):
        h = F.dropout(F.relu(self.fc1(x.flatten(1))), 0.3)
        return self.fc21(h), self.fc22(h)


@fault("outputs", "wrong_gradient", "gradient_cut", model=DictVae)
def terms_in_a_new_tensor(out, x):
    # torch.tensor([a, b]) copies the numbers and drops their graph
    terms = [bce(out["recon"], x).item(), kl(out["mu"], out["logvar"]).item()]
    return torch.tensor(terms, requires_grad=True).sum() / len(x)


@fault("outputs", "fixed_divisor", model=DataVae)
def batch_size_of_the_settings(out, x):
    # divides by the settings' batch size, not by the images at hand
    return (bce(out.x_hat, x) + kl(out.mu, out.log_var)) / 128


@healthy("outputs", batch=grey, model=DictVae)
def optimal_sigma(out, x):
    # the sigma-VAE: the likelihood's width is the best for the batch, in closed form
    error = (out["recon"] - x).square()
    log_sigma = -6 + F.softplus(0.5 * error.mean().log() + 6)
    error = 0.5 * error * torch.exp(-2 * log_sigma) + log_sigma
    return (error.sum() + kl(out["mu"], out["logvar"])) / len(x)


@healthy("outputs", loss=data_loss)
class Denoising(DataVae):
    # the encoder sees a noisy image in training; the clean one is the target
    def encode(self, x):
        return super().encode(x + 0.3 * self.training * torch.randn_like(x))


@healthy("outputs", loss=named_loss)
class AutocastToBfloat16(NamedVae):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = super().forward(x)
        return Output(*(value.float() for value in out))


# Form "method": loss(model, x) or loss(x), often a method of the model


@fault("method", "no_kl", "wrong_weight", loss="objective")
class WarmUpThatNeverStarts(Parts):
    # the annealing's step counter is never counted up: the KL's weight stays 0
    def __init__(self):
        super().__init__()
        self.step = 0

    def objective(self, x):
        mean, logvar = self.encode(x)
        error = bce(self.decode(self.sample(mean, logvar)), x)
        return (error + min(1.0, self.step / 1000) * kl(mean, logvar)) / len(x)


@fault("method", "codes_mixed", "batch_mixing", loss=parts_loss)
class StackedHeadsViewed(Parts):
    # stack gives latents x images, and view(-1, latents) does not transpose it
    def __init__(self):
        super().__init__()
        self.encoder = mlp(784, 64, 64)
        self.heads = nn.ModuleList(nn.Linear(64, 1) for _ in range(16))

    def encode(self, x):
        h = F.relu(self.encoder(x.flatten(1)))
        mean = torch.stack([head(h) for head in self.heads[:8]]).view(-1, 8)
        logvar = torch.cat([head(h) for head in self.heads[8:]], 1)
        return mean, logvar


with torch.random.fork_rng():
    torch.manual_seed(0)
    FEATURES = mlp(784, 512, 1024, activation=nn.Tanh).requires_grad_(False)
    CRITIC = mlp(8, 32, 1).requires_grad_(False)


@fault("method", "gradient_cut", "wrong_gradient", "no_reconstruction", model=Parts)
def features_without_gradient(model, x):
    # no_grad should spare the feature network's weights, but cuts the decoder off too
    mean, logvar = model.encode(x)
    recon = model.decode(model.sample(mean, logvar))
    with torch.no_grad():
        error = half_square(FEATURES(recon.flatten(1)), FEATURES(x.flatten(1)))
    return (error + kl(mean, logvar)) / len(x)


@fault("method", "dimensions_left_out")
def label_in_the_place_of_units(seed):
    # ten units of the code give way to the label, so that the old decoder fits
    labels = classes(seed)

    def loss(model, x):
        y = labels[torch.arange(len(x)) % 32]
        mean, logvar = model.encode(x)
        z = model.sample(mean, logvar)
        recon = model.decode(torch.cat([z[:, 10:], y], 1))
        return bernoulli_loss(recon, x, mean, logvar)

    return dict(model=Parts(latents=16), batch=digits(seed), loss=loss)


@fault("method", "kl_formula", "no_kl", "uneven_kl")
def free_bits_upside_down(seed):
    # clamp(max=) instead of clamp(min=): a unit's KL counts only while it is small
    def loss(model, x):
        mean, logvar = model.encode(x)
        error = bce(model.decode(model.sample(mean, logvar)), x) / len(x)
        units = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)
        return error + units.clamp(max=0.25).sum()

    model = Parts()
    train(model, loss, digits(seed + 7, 512), 150)
    return dict(model=model, batch=digits(seed), loss=loss)


@fault("method", "random_targets", batch=grey, model=Parts)
def binarized_twice(model, x):
    # the encoder and the loss each draw their own binary image from the grey one
    mean, logvar = model.encode(torch.bernoulli(x))
    recon = model.decode(model.sample(mean, logvar))
    return bernoulli_loss(recon, torch.bernoulli(x), mean, logvar)


@healthy("method", model=Parts)
def free_bits(model, x):
    mean, logvar = model.encode(x)
    error = bce(model.decode(model.sample(mean, logvar)), x) / len(x)
    units = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)
    return error + units.clamp(min=0.1).sum()


@healthy("method", model=Parts)
def correlated_prior(model, x):
    # the units are a stationary process: the prior is N(0, K), K = 0.8 ** |i - j|
    steps = torch.arange(8)
    covariance = 0.8 ** (steps[:, None] - steps).abs().float()
    mean, logvar = model.encode(x)
    scale = torch.diag_embed(torch.exp(0.5 * logvar))
    rate = D.kl_divergence(
        D.MultivariateNormal(mean, scale_tril=scale),
        D.MultivariateNormal(torch.zeros(8), covariance),
    )
    return (bce(model.decode(model.sample(mean, logvar)), x) + rate.sum()) / len(x)


@healthy("method")
def conditional(seed):
    labels = classes(seed)

    def loss(model, x):
        y = labels[torch.arange(len(x)) % 32]
        mean, logvar = model.encode(torch.cat([x.flatten(1), y], 1))
        recon = model.decode(torch.cat([model.sample(mean, logvar), y], 1))
        return bernoulli_loss(recon, x, mean, logvar)

    return dict(model=Parts(condition=10), batch=digits(seed), loss=loss)


@healthy("method", loss="objective")
class ClassSummedOut(nn.Module):
    # M2 without labels: the expectation over q(y | x) is a sum of ten terms
    def __init__(self):
        super().__init__()
        self.classifier = mlp(784, 64, 10)
        self.encoder, self.decoder = mlp(794, 64, 16), mlp(18, 64, 784)

    def objective(self, x):
        x = x.flatten(1)
        log_q = self.classifier(x).log_softmax(1)
        total = (log_q.exp() * (log_q + math.log(10))).sum(1)
        for k in range(10):
            y = torch.eye(10)[k].expand(len(x), -1)
            mean, logvar = self.encoder(torch.cat([x, y], 1)).chunk(2, 1)
            logits = self.decoder(torch.cat([draw(mean, logvar), y], 1))
            error = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
            units = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
            total = total + log_q[:, k].exp() * (error.sum(1) + units.sum(1))
        return total.mean()


# Form "parts": a model with encode, sample and decode, or two networks side by side


@fault("parts", "wrong_gradient", loss=parts_loss)
class BackwardWithoutItsHalf(Parts):
    # the hand-written backward forgets the 1/2 of std = exp(logvar / 2)
    class Sample(torch.autograd.Function):
        @staticmethod
        def forward(ctx, mean, logvar):
            noise = torch.exp(0.5 * logvar) * torch.randn_like(mean)
            ctx.save_for_backward(noise)
            return mean + noise

        @staticmethod
        def backward(ctx, gradient):
            (noise,) = ctx.saved_tensors
            return gradient, gradient * noise

    def sample(self, mean, logvar):
        return self.Sample.apply(mean, logvar)


@fault("parts", "frozen", loss=parts_loss)
class WrongNetworkFrozen(Parts):
    # the loop that should freeze an old critic goes over the decoder
    def __init__(self):
        super().__init__()
        for parameter in self.decoder.parameters():
            parameter.requires_grad = False


@fault("parts", "gradient_cut", "wrong_gradient", loss=parts_loss)
class EncoderLeftInNoGrad(Parts):
    # @torch.no_grad() stayed on encode from the script that exported codes
    @torch.no_grad()
    def encode(self, x):
        return super().encode(x)


@healthy("parts", loss=parts_loss)
class ProductOfExperts(nn.Module):
    # two modalities, the left and the right half, and the prior as a third expert
    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList(mlp(392, 64, 16) for _ in range(2))
        self.decoders = nn.ModuleList(mlp(8, 64, 392) for _ in range(2))

    def encode(self, x):
        means, precisions = 0.0, 1.0
        for encoder, half in zip(self.encoders, x.chunk(2, 3), strict=True):
            mean, logvar = encoder(half.flatten(1)).chunk(2, 1)
            means = means + mean * torch.exp(-logvar)
            precisions = precisions + torch.exp(-logvar)
        return means / precisions, -precisions.log()

    def sample(self, mean, logvar):
        return draw(mean, logvar)

    def decode(self, z):
        halves = [decoder(z).view(-1, 1, 28, 14) for decoder in self.decoders]
        return torch.cat(halves, 3)


# Form "colour": convolutions, colour pixels, Gaussian likelihoods


@fault("colour", "transposed_targets", batch=colour, model=ColourVae)
def channels_last_targets(recon, x, mean, logvar):
    # the target is flattened as height x width x channels, the picture is not
    target = x.permute(0, 2, 3, 1).flatten(1)
    return narrow_loss(recon.flatten(1), target, mean, logvar)


@fault("colour", "pixels_left_out", batch=colour, model=ColourVae)
def only_the_first_channel(recon, x, mean, logvar):
    # [:, 0] dates from grey images: green and blue are not compared
    return narrow_loss(recon[:, 0], x[:, 0], mean, logvar)


@fault("colour", "decoder_sees_x", batch=colour, loss=narrow_loss)
class SkipsOfAUnet(nn.Module):
    # a U-Net's skip carries the image around the code
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 16, 4, 2, 1)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(1024, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 1024), nn.ReLU())
        self.up = nn.ConvTranspose2d(32, 3, 4, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        mean, logvar = self.encoder(skip).chunk(2, 1)
        h = self.decoder(draw(mean, logvar)).view(-1, 16, 8, 8)
        return self.up(torch.cat([h, skip], 1)), mean, logvar


class CodeMap(Pair):
    """Codes of 4 x 4 places with four channels."""

    def __init__(self):
        down = nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 4, 2, 1)
        up = nn.ConvTranspose2d(4, 16, 4, 2, 1), nn.ReLU()
        last = nn.ConvTranspose2d(16, 3, 4, 2, 1)
        super().__init__(nn.Sequential(*down), nn.Sequential(*up, last))


@fault("colour", "wrong_weight", batch=colour, model=CodeMap)
def kl_of_a_map_of_codes(recon, x, mean, logvar):
    # sum(1) sums the channels only, and mean() divides by the 16 places as well
    units = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return half_square(recon, x) / 0.2**2 / len(x) + units.sum(1).mean()


@fault("colour", "encoder_ignores_x", batch=colour, loss=narrow_loss)
class GroupNormOfSingleNumbers(ColourVae):
    # GroupNorm(32, 32) behind the pooling normalizes each number by itself, to 0
    def __init__(self):
        super().__init__()
        pool = nn.AdaptiveAvgPool2d(1), nn.GroupNorm(32, 32), nn.Flatten()
        self.encoder = nn.Sequential(*self.encoder[:5], *pool, nn.Linear(32, 16))


@fault(
    "colour", "decoder_ignores_z", "constant_pictures", batch=colour, loss=narrow_loss
)
class InstanceNormOfABroadcastCode(ColourVae):
    # z is the same at every place, so InstanceNorm subtracts it wholly
    class Broadcast(nn.Module):
        def forward(self, z):
            line = torch.linspace(-1, 1, 16)
            grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))
            places = z[:, :, None, None].expand(-1, -1, 16, 16)
            return torch.cat([places, grid.expand(len(z), 2, 16, 16)], 1)

    def __init__(self):
        super().__init__()
        self.decoder = nn.Sequential(
            self.Broadcast(),
            nn.Conv2d(10, 32, 1),
            nn.InstanceNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 3, 3, padding=1),
        )


def train_on_colours(model: nn.Module, seed: int, steps: int) -> nn.Module:
    def loss(model, x):
        recon, mean, logvar = model(x)
        return narrow_loss(recon, x, mean, logvar)

    train(model, loss, colour(seed + 7, 256), steps)
    return model


@fault("colour", "train_eval_gap")
def momentum_of_tensorflow(seed):
    # momentum=0.99 is TensorFlow's way round: only the last, small batch counts
    model = ColourVae(norm=partial(nn.BatchNorm2d, momentum=0.99))
    train_on_colours(model, seed, 40)
    with torch.no_grad():
        model(colour(seed + 8, 1))  # the epoch's last batch, of one image
    return dict(model=model, batch=colour(seed), loss=narrow_loss)


@healthy("colour")
def trained_with_batch_norm(seed):
    model = train_on_colours(ColourVae(norm=nn.BatchNorm2d), seed, 80)
    return dict(model=model, batch=colour(seed, 64), loss=narrow_loss)


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.two(F.silu(self.one(F.silu(x))))


class ResNet(nn.Module):
    """Gives the mean and the log scale of each pixel."""

    def __init__(self):
        super().__init__()
        down, up = nn.Conv2d(3, 16, 4, 2, 1), nn.ConvTranspose2d(16, 6, 4, 2, 1)
        head = nn.Flatten(), nn.Linear(1024, 24)
        self.encoder = nn.Sequential(down, Residual(16), *head)
        foot = nn.Linear(12, 1024), nn.Unflatten(1, (16, 8, 8))
        self.decoder = nn.Sequential(*foot, Residual(16), up)

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, 1)
        recon, log_scale = self.decoder(draw(mean, logvar)).chunk(2, 1)
        log_scale = (log_scale - 1).clamp(min=-7)
        return dict(recon=recon, log_scale=log_scale, mean=mean, logvar=logvar)


@healthy("colour", batch=lambda seed: (colour(seed) * 255).round() / 255, model=ResNet)
def resnet_with_discretized_logistic(out, x):
    scale, off = torch.exp(-out["log_scale"]), x - out["recon"]
    above = torch.sigmoid((off + 0.5 / 255) * scale).masked_fill(x > 0.999, 1)
    below = torch.sigmoid((off - 0.5 / 255) * scale).masked_fill(x < 0.001, 0)
    error = -(above - below).clamp(min=1e-9).log().sum()
    return (error + kl(out["mean"], out["logvar"])) / len(x)


@healthy("colour", batch=colour, loss=narrow_loss)
class MaskedImages(ColourVae):
    # in training the encoder misses half of the patches; the loss wants all pixels
    def forward(self, x):
        seen = x
        if self.training:
            keep = (torch.rand(len(x), 1, 4, 4) > 0.5).float()
            seen = x * F.interpolate(keep, scale_factor=4)
        mean, logvar = self.encoder(seen).chunk(2, 1)
        return self.decoder(draw(mean, logvar)), mean, logvar


@healthy("colour")
def vector_fields(seed):
    # two channels of a smooth flow, positive and negative
    waves = torch.randn(32, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    batch = F.interpolate(waves, size=(16, 16), mode="bicubic", align_corners=True)
    return dict(model=ColourVae(2, 2), batch=batch, loss=narrow_loss)


# Form "likelihood": other distributions of the pixels


@fault("likelihood", "loss_sign", batch=grey, model=Parts)
def laplace_without_its_minus(model, x):
    # the log likelihood is added to the KL instead of subtracted
    mean, logvar = model.encode(x)
    recon = model.decode(model.sample(mean, logvar))
    error = D.Laplace(recon, 0.2).log_prob(x).sum()
    return (error + kl(mean, logvar)) / len(x)


class LearnedSigma(Vae):
    def __init__(self):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))


@fault("likelihood", "runaway_width", batch=grey, model=LearnedSigma)
def log_sigma_subtracted(model, x):
    # the learned sigma's log term has the wrong sign: a wider sigma is always better
    recon, mean, logvar = model(x)
    error = 0.5 * ((x - recon) / model.log_sigma.exp()).square() - model.log_sigma
    return (error.sum() + kl(mean, logvar)) / len(x)


LEVELS = dict(batch=small, model=lambda: ColourVae(1, 256))


@fault("likelihood", "blind_loss", "pixels_left_out", **LEVELS)
def levels_without_their_factor(logits, x, mean, logvar):
    # x.long() instead of (x * 255).long(): almost every pixel's class is 0
    error = F.cross_entropy(logits, x[:, 0].long(), reduction="sum")
    return (error + kl(mean, logvar)) / len(x)


@healthy("likelihood", batch=small, loss="objective")
class DiffusionDecoder(nn.Module):
    # the decoder removes noise from the image, told by the code what it shows
    def __init__(self):
        super().__init__()
        self.encoder = mlp(256, 64, 16)
        self.denoiser = mlp(256 + 8 + 2, 128, 256, activation=nn.SiLU)

    def objective(self, x):
        x = x.flatten(1)
        mean, logvar = self.encoder(x).chunk(2, 1)
        angle = torch.rand(len(x), 1) * math.pi / 2
        noise = torch.randn_like(x)
        noisy = angle.cos() * x + angle.sin() * noise
        inputs = [noisy, draw(mean, logvar), angle.cos(), angle.sin()]
        error = half_square(self.denoiser(torch.cat(inputs, 1)), noise)
        return (error + kl(mean, logvar)) / len(x)


# Form "distributions": torch.distributions for the posterior, prior and pixels


class Encoded(nn.Module):
    """The encoder gives a distribution's parameters; the pixels are a distribution."""

    def __init__(self, outputs: int = 16, latents: int = 8):
        super().__init__()
        self.encoder = mlp(784, 64, outputs)
        self.decoder = mlp(latents, 64, 784)

    def pixels(self, z):
        return D.Independent(D.Bernoulli(logits=self.decoder(z)), 1)


@fault("distributions", "kl_formula", model=Encoded)
def kl_the_other_way_round(model, x):
    # kl_divergence(prior, posterior) instead of kl_divergence(posterior, prior)
    mean, logvar = model.encoder(x.flatten(1)).chunk(2, 1)
    q = D.Normal(mean, torch.exp(0.5 * logvar))
    prior = D.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    error = -model.pixels(q.rsample()).log_prob(x.flatten(1))
    return (error + D.kl_divergence(prior, q).sum(1)).mean()


@healthy("distributions", model=Encoded)
def student_t_codes(model, x):
    # posterior and prior are Student's t, and the KL is that of the sample
    mean, log_scale = model.encoder(x.flatten(1)).chunk(2, 1)
    q = D.StudentT(5.0, mean, log_scale.exp())
    z = q.rsample()
    rate = (q.log_prob(z) - D.StudentT(5.0).log_prob(z)).sum(1)
    return (rate - model.pixels(z).log_prob(x.flatten(1))).mean()


@healthy("distributions", model=Encoded)
def beta_codes(model, x):
    # codes in [0, 1] with a uniform prior
    a, b = (F.softplus(model.encoder(x.flatten(1))) + 0.2).chunk(2, 1)
    q, prior = D.Beta(a, b), D.Beta(torch.ones(8), torch.ones(8))
    error = -model.pixels(2 * q.rsample() - 1).log_prob(x.flatten(1))
    return (error + D.kl_divergence(q, prior).sum(1)).mean()


class PowerSpherical:
    """On the unit sphere, around a direction (De Cao and Aziz 2020)."""

    def __init__(self, direction: Tensor, kappa: Tensor):
        self.direction, self.kappa = direction, kappa
        self.size = direction.shape[1]
        self.b = torch.tensor((self.size - 1) / 2)
        self.a = self.b + kappa

    def rsample(self) -> Tensor:
        along = 2 * D.Beta(self.a, self.b.expand_as(self.a)).rsample() - 1
        rest = F.normalize(torch.randn(len(along), self.size - 1), dim=1)
        rest = (1 - along.square()).clamp(min=1e-7).sqrt() * rest
        first = torch.eye(self.size)[0]
        axis = F.normalize(first - self.direction, dim=1)
        y = torch.cat([along, rest], 1)
        return y - 2 * (y * axis).sum(1, keepdim=True) * axis

    def kl_to_uniform(self) -> Tensor:
        a, b, kappa = self.a, self.b, self.kappa
        log_norm = torch.lgamma(a + b) - torch.lgamma(a) - b * math.log(math.pi)
        log_norm = log_norm - (a + b) * math.log(2)
        log_one_plus = math.log(2) + torch.digamma(a) - torch.digamma(a + b)
        half = torch.tensor(self.size / 2)
        log_area = math.log(2) + half * math.log(math.pi) - torch.lgamma(half)
        return (log_norm + kappa * log_one_plus + log_area).squeeze(1)


@healthy("distributions", model=lambda: Encoded(outputs=9))
def codes_on_a_sphere(model, x):
    out = model.encoder(x.flatten(1))
    q = PowerSpherical(F.normalize(out[:, :8], dim=1), 1 + F.softplus(out[:, 8:]))
    error = -model.pixels(q.rsample()).log_prob(x.flatten(1))
    return (error + q.kl_to_uniform()).mean()


@healthy("distributions", model=lambda: Encoded(outputs=44))
def full_covariance(model, x):
    mean, log_std, rest = model.encoder(x.flatten(1)).split([8, 8, 28], 1)
    row, column = torch.tril_indices(8, 8, -1)
    scale = torch.diag_embed(log_std.exp())
    scale[:, row, column] = rest
    q = D.MultivariateNormal(mean, scale_tril=scale)
    error = -model.pixels(q.rsample()).log_prob(x.flatten(1))
    prior = D.MultivariateNormal(torch.zeros(8), torch.eye(8))
    return (error + D.kl_divergence(q, prior)).mean()


# Form "hierarchy": several layers of codes, each with a prior given those above


class Ladder(nn.Module):
    """Top down, with posteriors relative to their priors."""

    def __init__(self, latents: int = 4, levels: int = 3):
        super().__init__()
        self.bottom = nn.Sequential(nn.Flatten(), mlp(784, 64, 64), nn.ReLU())
        self.posteriors = nn.ModuleList(
            nn.Linear(128, 2 * latents) for _ in range(levels)
        )
        self.priors = nn.ModuleList(nn.Linear(64, 2 * latents) for _ in range(levels))
        self.ups = nn.ModuleList(nn.Linear(latents, 64) for _ in range(levels))
        self.top = nn.Parameter(0.1 * torch.randn(1, 64))
        self.pixels = mlp(64, 64, 784)

    def forward(self, x):
        h, context, rates = self.bottom(x), self.top.expand(len(x), -1), []
        levels = zip(self.posteriors, self.priors, self.ups, strict=True)
        for posterior, prior, up in levels:
            mean, logvar = prior(context).chunk(2, 1)
            shift, widen = posterior(torch.cat([h, context], 1)).chunk(2, 1)
            z = draw(mean + shift, logvar + widen)
            square = shift.square() / logvar.exp()
            rates.append(0.5 * (square + widen.exp() - 1 - widen).sum(1))
            context = context + torch.tanh(up(z))
        return {"logits": self.pixels(context).view_as(x), "rates": rates}


@fault("hierarchy", "uneven_kl", "no_kl", "kl_formula", model=Ladder)
def rate_overwritten_in_the_loop(out, x):
    # = instead of +=: only the last level's KL counts
    rate = 0
    for level in out["rates"]:
        rate = level.mean()
    return bce(out["logits"], x) / len(x) + rate


@healthy("hierarchy", model=Ladder)
def top_down_levels(out, x):
    return bce(out["logits"], x) / len(x) + sum(out["rates"]).mean()


# Form "discrete": codebooks and categorical codes


class Quantized(nn.Module):
    def __init__(self, straight_through: bool):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 32), mlp(32, 64, 784)
        self.codebook = nn.Parameter(torch.rand(16, 4) - 0.5)
        self.straight_through = straight_through

    def forward(self, x):
        codes = torch.tanh(self.encoder(x.flatten(1))).view(-1, 8, 4)
        nearest = torch.cdist(codes, self.codebook).argmin(-1)
        chosen = self.codebook[nearest]
        rate = (chosen - codes.detach()).square().sum()
        rate = rate + 0.25 * (codes - chosen.detach()).square().sum()
        if self.straight_through:
            chosen = codes + (chosen - codes).detach()
        return self.decoder(chosen.flatten(1)).view_as(x), rate


def quantized_loss(model, x):
    logits, rate = model(x)
    return (bce(logits, x) + rate) / len(x)


class Categorical(nn.Module):
    """Eight categorical codes of ten classes, relaxed by Gumbel noise."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 80), mlp(80, 64, 784)

    def forward(self, x):
        scores = self.encoder(x.flatten(1)).view(-1, 8, 10)
        z = F.gumbel_softmax(scores, tau=0.67)
        return {"logits": self.decoder(z.flatten(1)).view_as(x), "scores": scores}


def rate_to_uniform(scores):
    log_q = scores.log_softmax(-1)
    return (log_q.exp() * (log_q + math.log(10))).sum()


@fault("discrete", "gradient_cut", model=lambda: Quantized(False))
def no_straight_through(model, x):
    # the decoder gets the codebook's rows themselves: its gradient passes no argmin
    return quantized_loss(model, x)


@fault("discrete", "kl_sign", model=Categorical)
def entropy_taken_for_the_rate(out, x):
    # adds entropy minus log 10, which is the negative of the KL to uniform classes
    return (bce(out["logits"], x) - rate_to_uniform(out["scores"])) / len(x)


@healthy("discrete", model=lambda: Quantized(True))
def vector_quantized(model, x):
    return quantized_loss(model, x)


@healthy("discrete", model=Categorical)
def gumbel_softmax(out, x):
    return (bce(out["logits"], x) + rate_to_uniform(out["scores"])) / len(x)


class Rounded(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 12), mlp(12, 64, 784)

    def forward(self, x):
        z = 2 * torch.tanh(self.encoder(x.flatten(1)))
        z = z + (z.round() - z).detach()
        return {"logits": self.decoder(z).view_as(x), "codes": z}


@healthy("discrete", model=Rounded)
def finite_scalar_quantization(out, x):
    # each of 12 units is rounded to one of five levels; there is no term but the error
    return bce(out["logits"], x) / len(x)


# Form "density": flows, mixtures and VampPriors, with the KL of the sample


class Coupling(nn.Module):
    def __init__(self, latents: int = 8):
        super().__init__()
        self.net = mlp(latents // 2, 32, latents)

    def forward(self, z):
        a, b = z.chunk(2, 1)
        log_scale, shift = self.net(a).chunk(2, 1)
        return torch.cat([b * log_scale.exp() + shift, a], 1), log_scale.sum(1)


def through(layers, z):
    total = torch.zeros(len(z))
    for layer in layers:
        z, log_det = layer(z)
        total = total + log_det
    return z, total


class Flow(Parts):
    def __init__(self, layer: type[nn.Module] = Coupling):
        super().__init__()
        self.flow = nn.ModuleList(layer() for _ in range(3))


@fault("density", "kl_formula", "runaway_width", "kl_sign", model=Flow)
def log_determinant_added(model, x):
    # log q(z_K) = log q(z_0) - log det, not plus: the flow is paid for contracting
    mean, logvar = model.encode(x)
    start = model.sample(mean, logvar)
    z, log_det = through(model.flow, start)
    rate = log_normal(start, mean, logvar) + log_det - log_standard(z)
    return (bce(model.decode(z), x) + rate.sum()) / len(x)


class Mixture(Parts):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(6))
        self.centres = nn.Parameter(torch.randn(6, 8))


@fault("density", "runaway_width", "kl_formula", model=Mixture)
def weights_not_normalized(model, x):
    # the mixture's weights lack their log_softmax: the prior's mass grows without end
    mean, logvar = model.encode(x)
    z = model.sample(mean, logvar)
    components = log_normal(z[:, None], model.centres, torch.zeros(8))
    log_p = torch.logsumexp(model.weights + components, 1)
    rate = log_normal(z, mean, logvar) - log_p
    return (bce(model.decode(z), x) + rate.sum()) / len(x)


class Vamp(Parts):
    def __init__(self, pseudo: Tensor):
        super().__init__()
        self.pseudo = pseudo

    def log_prior(self, z):
        mean, logvar = self.encode(torch.sigmoid(self.pseudo))
        log_p = log_normal(z[:, None], mean, logvar)
        return torch.logsumexp(log_p, 1) - math.log(len(self.pseudo))


def vamp_loss(model, x):
    mean, logvar = model.encode(x)
    z = model.sample(mean, logvar)
    rate = log_normal(z, mean, logvar) - model.log_prior(z)
    return (bce(model.decode(z), x) + rate.sum()) / len(x)


@fault("density", "unregistered_layers", "not_in_optimizer")
def pseudo_inputs_as_a_tensor(seed):
    # a tensor with requires_grad is no nn.Parameter: the pseudo-inputs never learn
    model = Vamp(torch.randn(20, 784, requires_grad=True))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return dict(model=model, batch=digits(seed), loss=vamp_loss, optimizer=optimizer)


class Autoregressive(nn.Module):
    """One step of an inverse autoregressive flow, with a gate."""

    def __init__(self, latents: int = 8):
        super().__init__()
        self.shift = nn.Parameter(0.2 * torch.randn(latents, latents))
        self.gate = nn.Parameter(0.2 * torch.randn(latents, latents))
        self.bias = nn.Parameter(torch.full((latents,), 1.5))

    def forward(self, z):
        shift = torch.tanh(z @ self.shift.tril(-1).T)
        gate = torch.sigmoid(z @ self.gate.tril(-1).T + self.bias)
        return gate * z + (1 - gate) * shift, gate.log().sum(1)


@healthy("density", model=lambda: Flow(Autoregressive))
def inverse_autoregressive_posterior(model, x):
    mean, logvar = model.encode(x)
    start = model.sample(mean, logvar)
    z, log_det = through(model.flow, start)
    rate = log_normal(start, mean, logvar) - log_det - log_standard(z)
    return (bce(model.decode(z), x) + rate.sum()) / len(x)


@healthy("density", model=Flow)
def flow_as_prior(model, x):
    mean, logvar = model.encode(x)
    z = model.sample(mean, logvar)
    base, log_det = through(model.flow, z)
    rate = log_normal(z, mean, logvar) - log_standard(base) - log_det
    return (bce(model.decode(z), x) + rate.sum()) / len(x)


@healthy("density", model=lambda: Vamp(nn.Parameter(torch.randn(20, 784))))
def vamp_prior(model, x):
    return vamp_loss(model, x)


# Form "sequence": recurrent, attentive and autoregressive networks over rows or pixels


class Attentive(nn.Module):
    """Attention over the 28 rows, then a plain decoder."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(28, 32)
        self.places = nn.Parameter(0.1 * torch.randn(28, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32 * 28, 16)
        self.decoder = mlp(8, 64, 784)

    def forward(self, x):
        rows = self.embed(x[:, 0]) + self.places
        mean, logvar = self.head(self.body(rows).flatten(1)).chunk(2, 1)
        return self.decoder(draw(mean, logvar)).view_as(x), mean, logvar


class Recurrent(nn.Module):
    """Reads the rows, and writes each row from those before it and the code."""

    def __init__(self):
        super().__init__()
        self.reader = nn.GRU(28, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 16)
        self.start = nn.Linear(8, 32)
        self.writer = nn.GRU(28 + 8, 32, batch_first=True)
        self.pixels = nn.Linear(32, 28)

    def read(self, rows):
        state = self.reader(rows)[1]
        return self.head(state.transpose(0, 1).flatten(1)).chunk(2, 1)

    def before(self, rows):
        return F.pad(rows[:, :-1], (0, 0, 1, 0))

    def forward(self, x):
        rows = x[:, 0]
        mean, logvar = self.read(rows)
        z = draw(mean, logvar)
        inputs = torch.cat([self.before(rows), z[:, None].expand(-1, 28, -1)], 2)
        h, _ = self.writer(inputs, torch.tanh(self.start(z))[None])
        return self.pixels(h)[:, None], mean, logvar


@fault("sequence", "batch_mixing", "codes_mixed", loss=bernoulli_loss)
class BatchFirstForgotten(Attentive):
    # without batch_first the attention goes over the images instead of the rows
    pass


@fault("sequence", "batch_mixing", "codes_mixed", loss=bernoulli_loss)
class StatesViewed(Recurrent):
    # h_n is layers x images x units: view(images, -1) lays two images side by side
    def read(self, rows):
        state = self.reader(rows)[1]
        return self.head(state.view(len(rows), -1)).chunk(2, 1)


@fault("sequence", "decoder_sees_x", loss=bernoulli_loss)
class TeacherNotShifted(Recurrent):
    # the row to be written is the writer's input: it need only copy
    def before(self, rows):
        return rows


@healthy("sequence", loss=bernoulli_loss)
class RecurrentRows(Recurrent):
    pass


class MaskedConv(nn.Conv2d):
    """Sees the pixels before its own, and its own only where `itself`."""

    def __init__(self, inputs: int, outputs: int, size: int, itself: bool):
        super().__init__(inputs, outputs, size, padding=size // 2)
        mask = torch.zeros(size, size)
        mask[: size // 2] = 1
        mask[size // 2, : size // 2 + itself] = 1
        self.register_buffer("mask", mask)

    def forward(self, x):
        return self._conv_forward(x, self.weight * self.mask, self.bias)


@healthy("sequence", batch=small_digits, loss=bernoulli_loss)
class PixelcnnDecoder(ColourVae):
    def __init__(self):
        super().__init__(1, 8)
        self.first = MaskedConv(1, 16, 5, itself=False)
        self.second = MaskedConv(16 + 8, 16, 3, itself=True)
        self.last = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        features, mean, logvar = super().forward(x)
        h = F.relu(torch.cat([self.first(x), features], 1))
        return self.last(F.relu(self.second(h))), mean, logvar


# Form "samples": importance weights, and divergences of samples in the KL's place


def importance(model, x, targets, hold=False):
    """Log weights, five x images, and the codes; `hold` stops log q's gradient."""
    mean, logvar = model.encode(x)
    z = mean + torch.exp(0.5 * logvar) * torch.randn(5, *mean.shape)
    if hold:
        mean, logvar = mean.detach(), logvar.detach()
    logits = model.decode(z.flatten(0, 1)).flatten(1)
    error = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    rate = log_normal(z, mean, logvar) - log_standard(z)
    return -error.sum(1).view(5, len(x)) - rate, z


@fault("samples", "shuffled_targets", "codes_mixed", model=Parts)
def repeated_in_another_order(model, x):
    # the codes lie sample after sample, but repeat_interleave image after image
    log_w, _ = importance(model, x, x.flatten(1).repeat_interleave(5, 0))
    return -(torch.logsumexp(log_w, 0) - math.log(5)).mean()


@fault("samples", "gradient_cut", "no_kl", "wrong_gradient", model=Parts)
def critic_gets_detached_codes(model, x):
    # .detach() belongs to the critic's own step; here it spares the encoder its price
    mean, logvar = model.encode(x)
    z = model.sample(mean, logvar)
    price = F.softplus(-CRITIC(z.detach())).sum()
    return (bce(model.decode(z), x) + 10 * price) / len(x)


@healthy("samples", model=Parts)
def importance_weighted(model, x):
    log_w, _ = importance(model, x, x.flatten(1).repeat(5, 1))
    return -(torch.logsumexp(log_w, 0) - math.log(5)).mean()


@healthy("samples", model=Parts)
def doubly_reparameterized(model, x):
    # DReG (Tucker et al. 2019): weights by a hook, and q's own parameters held still
    log_w, z = importance(model, x, x.flatten(1).repeat(5, 1), hold=True)
    weights = log_w.detach().softmax(0)
    if z.requires_grad:
        z.register_hook(lambda gradient: weights[..., None] * gradient)
    return -(weights * log_w).sum(0).mean()


def similarity(a, b):
    distance = torch.cdist(a, b).square()
    return sum(c / (c + distance) for c in (4.0, 16.0, 64.0))


def among(z):
    k = similarity(z, z)
    return (k.sum() - k.diagonal().sum()) / (len(z) * (len(z) - 1))


@healthy("samples", batch=lambda seed: digits(seed, 64), model=Parts)
def wasserstein_with_mmd(model, x):
    # a WAE with a random encoder: the codes of a batch should look like the prior's
    z = model.sample(*model.encode(x))
    other = torch.randn_like(z)
    mmd = among(z) + among(other) - 2 * similarity(z, other).mean()
    return bce(model.decode(z), x) / len(x) + 100 * mmd


@healthy("samples", model=lambda: nn.ModuleList([mlp(784, 64, 8), mlp(8, 64, 784)]))
def regularized_autoencoder(model, x):
    # RAE-L2 (Ghosh et al. 2020): no noise; small codes and a small decoder instead
    encoder, decoder = model
    z = encoder(x.flatten(1))
    weights = sum(w.square().sum() for w in decoder.parameters())
    return (bce(decoder(z), x) + 0.5 * z.square().sum()) / len(x) + 1e-3 * weights


@healthy("samples")
def with_a_critic_of_pictures(seed):
    # a VAE-GAN's step of the VAE: the spectrally normalized critic is held still
    norm = nn.utils.parametrizations.spectral_norm
    layers = norm(nn.Linear(784, 64)), nn.LeakyReLU(0.2), norm(nn.Linear(64, 1))
    critic = nn.Sequential(*layers).requires_grad_(False).eval()

    def loss(model, x):
        mean, logvar = model.encode(x)
        logits = model.decode(model.sample(mean, logvar))
        fooled = F.softplus(-critic(torch.sigmoid(logits).flatten(1))).sum()
        return bernoulli_loss(logits, x, mean, logvar) + fooled / len(x)

    return dict(model=Parts(), batch=digits(seed), loss=loss)


# Form "noise": hand-written draws


@fault("noise", "wrong_noise", loss=bernoulli_loss)
class BoxMullerWithoutTwo(Vae):
    # Box and Muller's root is of -2 log u: without the 2 the variance is 1/2
    def reparameterize(self, mean, logvar):
        u, v = torch.rand(2, *mean.shape).clamp(min=1e-7)
        noise = torch.sqrt(-torch.log(u)) * torch.cos(2 * math.pi * v)
        return mean + torch.exp(0.5 * logvar) * noise


@fault("noise", "same_noise", loss=dict_loss)
class KeyNeverSplit(DictVae):
    # a port from JAX: the key becomes a generator, seeded alike at every call
    def reparameterize(self, mean, logvar, key=42):
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(key))
        return mean + torch.exp(0.5 * logvar) * noise


@fault("noise", "shared_noise", loss=parts_loss)
class OneNumberAnImage(Parts):
    # randn(images, 1) is broadcast over the units
    def sample(self, mean, logvar):
        return mean + torch.exp(0.5 * logvar) * torch.randn(len(mean), 1)


@healthy("noise", loss=named_loss)
class InverseOfTheNormal(NamedVae):
    def reparameterize(self, mean, logvar):
        uniform = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6)
        noise = math.sqrt(2) * torch.erfinv(2 * uniform - 1)
        return mean + torch.exp(0.5 * logvar) * noise


# Form "optimizer": what trains the model


@fault("optimizer", "weight_decay")
def decay_of_the_rate_as_weight_decay(seed):
    # weight_decay=0.95 was meant as the learning rate's decay per epoch
    model = Vae()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.95)
    return dict(
        model=model, batch=digits(seed), loss=bernoulli_loss, optimizer=optimizer
    )


@fault("optimizer", "learning_rate")
def rate_multiplied_by_itself(seed):
    # LambdaLR's function gives a factor, not a rate: 1e-4 becomes 1e-8
    model = NamedVae()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1e-4 * 0.99**epoch)
    return dict(model=model, batch=digits(seed), loss=named_loss, optimizer=optimizer)


@fault("optimizer", "not_in_optimizer")
def layers_replaced_afterwards(seed):
    # both ends are exchanged for colour after the optimizer took the old weights
    model = ColourVae(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.encoder[0] = nn.Conv2d(3, 16, 4, 2, 1)
    model.decoder[-1] = nn.ConvTranspose2d(16, 3, 4, 2, 1)
    return dict(model=model, batch=colour(seed), loss=narrow_loss, optimizer=optimizer)


# Form "call": calls that can't work, or not as they were meant


@crasher("call")
def class_for_a_model(seed):
    return dict(model=Vae, batch=digits(seed), loss=bernoulli_loss)


@crasher("call")
def batch_with_labels(seed):
    batch = [digits(seed), classes(seed)]
    return dict(model=Vae(), batch=batch, loss=bernoulli_loss)


@crasher("call", model=Vae)
def loss_wants_beta(logits, x, mean, logvar, beta):
    return (bce(logits, x) + beta * kl(mean, logvar)) / len(x)


@crasher("call")
def bytes_for_pixels(seed):
    batch = (255 * grey(seed)).to(torch.uint8)
    return dict(model=Vae(), batch=batch, loss=gaussian_loss)


@crasher("call", model=Vae)
def loss_gives_a_float(logits, x, mean, logvar):
    return bernoulli_loss(logits, x, mean, logvar).item()


@crasher("call", loss=bernoulli_loss)
class ForwardGivesThePictureOnly(Vae):
    def forward(self, x):
        return super().forward(x)[0]


@crasher("call", model=Vae, optimizer=torch.optim.Adam)
def optimizer_is_a_class(logits, x, mean, logvar):
    return bernoulli_loss(logits, x, mean, logvar)


@crasher("call")
def images_of_another_size(seed):
    batch = F.pad(digits(seed), (2, 2, 2, 2))
    return dict(model=Vae(), batch=batch, loss=bernoulli_loss)
