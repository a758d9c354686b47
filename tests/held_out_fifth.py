"""A fifth held-out set for `diagnose`: faults, healthy models and crashers.

Written blind. Cases of one form stand together, after the form's shared parts. Each
`make(seed)` gives the keyword arguments of one call.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
import torch.distributions as D
import torch.nn.functional as F

# fmt: off
from held_out_third import (  # noqa: I001
    ColourVae, Pair, Parts, Vae, bce, decorators, made, bernoulli_loss, classes, colour,
    conv_decoder, digits, draw, gaussian_loss, grey, half_square, kl, log_normal,
    log_standard, mlp, narrow_loss, normalized, parts_loss, small_digits, train,
)
# fmt: on
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FAULTS, HEALTHY, CRASHERS, fault, healthy, crasher = decorators(made)
STUCK = "constant_pictures decoder_ignores_z encoder_ignores_x gradient_cut dead_relus"


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """The log probability of each row of x, for logits of any leading shape."""
    x = x.flatten(1).expand_as(logits)
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


# Plain: the fully connected model of most tutorials


class SigmoidVae(Vae):
    """As in PyTorch's own examples."""

    def decode(self, z):
        return torch.sigmoid(super().decode(z))

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, 784))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    likelihood = F.binary_cross_entropy(recon_x, x.view(-1, 784), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return likelihood + kld


# The KL is summed over the images and averaged over the latent dimensions.
@fault("plain", "wrong_weight", model=Vae)
def kl_over_the_wrong_axis(recon, x, mu, logvar):
    kld = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=0)
    return bce(recon, x) / len(x) + kld.mean()


# view(2, -1, 8) instead of view(-1, 2, 8): the rows are those of other images.
@fault("plain", "codes_mixed", loss=parts_loss)
class ViewedAcrossImages(Parts):
    def encode(self, x):
        return self.encoder(x.flatten(1)).view(2, -1, 8)


# eps.mul(std).add_(mu) with a misplaced bracket: the noise multiplies the mean too.
@fault("plain", "wrong_sample", loss=loss_function)
class MisplacedBracket(SigmoidVae):
    def reparameterize(self, mu, logvar):
        std = logvar.mul(0.5).exp_()
        return torch.randn_like(std).mul(std.add(mu))


# Seeded "for reproducibility" where the noise is drawn.
@fault("plain", "same_noise", loss=loss_function)
class SeededInside(SigmoidVae):
    def reparameterize(self, mu, logvar):
        torch.manual_seed(42)
        return super().reparameterize(mu, logvar)


# KLDivLoss between softmaxes of the code and of noise, instead of the Gaussian's KL.
@fault("plain", "kl_formula", "no_kl", model=Vae)
def library_kl(model, x):
    mean, logvar = model.encode(x)
    z = model.reparameterize(mean, logvar)
    prior = F.softmax(torch.randn_like(z), dim=1)
    divergence = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(z, dim=1), prior)
    return bce(model.decode(z), x) / len(x) + divergence


# All weights start at 0, so no gradient ever leaves the last bias.
@fault("plain", *STUCK.split(), loss=bernoulli_loss)
class ZeroWeights(Vae):
    def __init__(self):
        super().__init__()
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


# A warm-up with integer division keeps the learning rate at 0 for 1,000 steps.
@fault("plain", "learning_rate")
def integer_warm_up(seed):
    model, x = SigmoidVae(), digits(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step // 1000))
    return dict(model=model, batch=x, loss=loss_function, optimizer=optimizer)


# F.dropout without training=self.training.
@fault("plain", "dropout_in_eval", loss=loss_function)
class FunctionalDropout(SigmoidVae):
    def decode(self, z):
        h = F.dropout(F.relu(self.fc3(z)), 0.3)
        return torch.sigmoid(self.fc4(h))


# Pictures of B x 28 x 28 against images of B x 1 x 28 x 28.
@fault("plain", "broadcast_targets", batch=grey, model=Vae)
def channel_forgotten(model, x):
    recon, mean, logvar = model(x)
    error = 0.5 * (recon.view(-1, 28, 28) - x).square().sum()
    return (error + kl(mean, logvar)) / len(x)


# Divided by the loader's batch size, which the last batch has not.
@fault("plain", "fixed_divisor", model=SigmoidVae)
def loader_batch_size(recon_x, x, mu, logvar, batch_size=32):
    return loss_function(recon_x, x, mu, logvar) / batch_size


# Pixels of mean 0 and variance 1, but the decoder ends in a sigmoid.
@fault("plain", "unreachable_pixels", batch=normalized, model=SigmoidVae)
def sigmoid_for_normalized(recon, x, mu, logvar):
    return gaussian_loss(recon, x, mu, logvar)


# Denoising with +=: the noise is in the target too, and stays in the batch.
@fault("plain", "input_changed", batch=grey, loss=gaussian_loss)
class NoiseInPlace(Vae):
    def forward(self, x):
        if self.training:
            x += 0.2 * torch.randn_like(x)
        return super().forward(x)


@healthy("plain")
def textbook(seed):
    model, x = SigmoidVae(), digits(seed, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return dict(model=model, batch=x, loss=loss_function, optimizer=optimizer)


def per_image_loss(out, x):
    error = F.mse_loss(out["x_hat"], x, reduction="none").sum(dim=(1, 2, 3))
    mu, log_var = out["mu"], out["log_var"]
    kld = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(dim=1)
    return (0.5 * error + kld).mean()


@healthy("plain", batch=grey, loss=per_image_loss)
class Dictionary(Vae):
    def forward(self, x):
        mu, log_var = self.encode(x)
        noise = torch.normal(mean=0.0, std=1.0, size=mu.shape)
        x_hat = self.decode(noise * log_var.div(2).exp() + mu).sigmoid()
        return {"x_hat": x_hat.reshape(x.shape), "mu": mu, "log_var": log_var}


@healthy("plain", model=Parts)
def distributions(model, x):
    loc, scale = model.encode(x)
    q = D.Independent(D.Normal(loc, F.softplus(scale) + 1e-4), 1)
    prior = D.Independent(D.Normal(torch.zeros(8), torch.ones(8)), 1)
    p = D.Independent(D.Bernoulli(logits=model.decode(q.rsample())), 3)
    return -(p.log_prob(x) - D.kl_divergence(q, prior)).mean()


@healthy("plain", loss=bernoulli_loss)
class Lazy(Vae):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc21, self.fc22 = map(nn.LazyLinear, (64, 8, 8))


@healthy("plain", loss=bernoulli_loss)
class TiedWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.heads = nn.Linear(784, 64), nn.Linear(64, 16)
        self.bias1, self.bias2 = (nn.Parameter(torch.zeros(n)) for n in (64, 784))

    def forward(self, x):
        mean, logvar = self.heads(self.first(x.flatten(1)).relu()).chunk(2, 1)
        z = draw(mean, logvar)
        h = F.linear(z, self.heads.weight[:8].t(), self.bias1).relu()
        return F.linear(h, self.first.weight.t(), self.bias2), mean, logvar


@healthy("plain", loss=loss_function)
class Autocast(SigmoidVae):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mu, logvar = self.encode(x)
            logits = Vae.decode(self, self.reparameterize(mu, logvar))
        return logits.float().sigmoid(), mu.float(), logvar.float()


@healthy("plain", model=Vae)
def accumulated(outputs, x, accumulation_steps=4):
    logits, mean, logvar = outputs
    rate = torch.sum(0.5 * (mean**2 + logvar.exp() - logvar - 1), dim=-1)
    return (rate - log_bernoulli(logits.flatten(1), x)).mean() / accumulation_steps


@healthy("plain", model=Parts, beta=0.3)
def warm_up(model, x):
    epoch, epochs = 3, 10
    mu, logvar = model.encode(x)
    nll = bce(model.decode(model.sample(mu, logvar)), x)
    return (nll + min(1.0, epoch / epochs) * kl(mu, logvar)) / x.size(0)


def nll_loss(output, x):
    recon, mu, logvar = output
    criterion = nn.GaussianNLLLoss(full=True, reduction="sum")
    return (criterion(recon, x, torch.ones_like(x)) + kl(mu, logvar)) / x.shape[0]


@healthy("plain", batch=normalized, loss=nll_loss)
class MeanInEval(Vae):
    def reparameterize(self, mean, logvar):
        return super().reparameterize(mean, logvar) if self.training else mean


class ModelOutput(OrderedDict):
    def __getattr__(self, name):
        return self[name]


@healthy("plain", loss=lambda model, x: model({"data": x}).loss)
class Pythae(Parts):
    def forward(self, inputs, **kwargs):
        x = inputs["data"]
        mu, log_var = self.encode(x)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
        recon_x = torch.sigmoid(self.decode(z))
        recon_loss = F.binary_cross_entropy(recon_x, x, reduction="none")
        recon_loss = recon_loss.reshape(x.shape[0], -1).sum(dim=-1)
        kld = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=-1)
        loss = (recon_loss + kld).mean(dim=0)
        return ModelOutput(loss=loss, reg_loss=kld.mean(), recon_x=recon_x, z=z)


@healthy("plain", loss=lambda model, x: model(pixel_values=x, labels=x).loss)
class HuggingFace(Parts):
    def forward(self, pixel_values, labels):
        mean, logvar = self.encode(pixel_values)
        logits = self.decode(self.sample(mean, logvar))
        loss = bernoulli_loss(logits, labels, mean, logvar)
        return SimpleNamespace(loss=loss, logits=logits, hidden_states=(mean, logvar))


# Conditional: labels beside the images


class OneHotVae(nn.Module):
    def __init__(self, noise: Callable = torch.randn_like):
        super().__init__()
        self.encoder, self.decoder = mlp(794, 64, 16), mlp(18, 64, 784)
        self.noise = noise

    def encode(self, x, c):
        return self.encoder(torch.cat([x.flatten(1), c], 1)).chunk(2, 1)

    def forward(self, x, c):
        mean, logvar = self.encode(x, c)
        z = mean + self.noise(mean) * torch.exp(0.5 * logvar)
        return self.decoder(torch.cat([z, c], 1)), mean, logvar


def conditional(model: nn.Module, seed: int) -> dict:
    c = classes(seed)

    def loss(model, x):
        recon, mean, logvar = model(x, c[: len(x)])
        return bernoulli_loss(recon, x, mean, logvar)

    return dict(model=model, batch=digits(seed), loss=loss)


# The noise has one row for all images.
@fault("conditional", "shared_noise")
def noise_of_one_row(seed):
    return conditional(OneHotVae(lambda mean: torch.randn(mean.size(1))), seed)


@healthy("conditional")
def one_hot(seed):
    return conditional(OneHotVae(), seed)


@healthy("conditional")
def embedding(seed):
    class Embedded(OneHotVae):
        def __init__(self):
            super().__init__()
            self.label = nn.Embedding(10, 10)

        def forward(self, x, c):
            return super().forward(x, torch.tanh(self.label(c.argmax(1))))

    return conditional(Embedded(), seed)


# Convolutional and colour images


# TensorFlow's channels-last pictures, flattened against channels-first images.
@fault("colour", "transposed_targets", batch=colour, model=ColourVae)
def channels_last(recon, x, mean, logvar):
    recon = recon.permute(0, 2, 3, 1).reshape(len(x), -1)
    error = 0.5 * (recon - x.reshape(len(x), -1)).square().sum()
    return (error + kl(mean, logvar)) / len(x)


# A loss taken over from grey images, which looks at the red channel only.
@fault("colour", "pixels_left_out", batch=colour, model=ColourVae)
def only_red(recon, x, mean, logvar):
    return gaussian_loss(recon[:, 0].flatten(1), x[:, 0].flatten(1), mean, logvar)


# A softmax over the channels, as in a classifier of pixels.
@fault("colour", "softmax_output", "unreachable_pixels", batch=colour, loss=narrow_loss)
class ChannelSoftmax(ColourVae):
    def __init__(self):
        super().__init__()
        self.decoder.append(nn.Softmax(dim=1))


# Keras's momentum=0.99 is PyTorch's 0.01: here only the last batch counts.
@fault("colour", "train_eval_gap")
def keras_momentum(seed):
    model = ColourVae(norm=partial(nn.BatchNorm2d, momentum=0.99))

    def loss(model, x):
        recon, *posterior = model(x)
        return narrow_loss(recon, x, *posterior)

    train(model, loss, colour(9, 256), 10)
    return dict(model=model, batch=colour(seed), loss=narrow_loss)


# A U-Net: its skip connections carry the image around the code.
@fault("colour", "decoder_sees_x", batch=colour, loss=narrow_loss)
class UNet(ColourVae):
    def __init__(self):
        super().__init__()
        self.decoder[-1] = nn.ConvTranspose2d(32, 3, 4, 2, 1)

    def forward(self, x):
        skip = self.encoder[:3](x)
        mean, logvar = self.encoder[3:](skip).chunk(2, 1)
        h = self.decoder[:-1](draw(mean, logvar))
        return self.decoder[-1](torch.cat([h, skip], 1)), mean, logvar


# The output layer is exchanged after the optimizer was made.
@fault("colour", "not_in_optimizer")
def exchanged_head(seed):
    model = ColourVae(outputs=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.decoder[-1] = nn.ConvTranspose2d(16, 3, 4, 2, 1)
    return dict(model=model, batch=colour(seed), loss=narrow_loss, optimizer=optimizer)


# DCGAN's weights_init with the mean 1 meant for batch norm used for every layer.
@fault("colour", "not_finite", "exploding_variance", batch=colour, loss=narrow_loss)
class WeightsInit(ColourVae):
    def __init__(self):
        super().__init__()
        for layer in (*self.encoder[::3], *self.decoder[::3]):
            nn.init.normal_(layer.weight, 1.0, 0.02)


class BatchStatistics(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


# Batch norm that uses the batch's statistics in eval mode too.
@fault("colour", "batch_mixing", batch=colour, loss=narrow_loss)
def always_training():
    return ColourVae(norm=BatchStatistics)


@healthy("colour", batch=small_digits, model=partial(ColourVae, 1, 1))
def tensorflow_tutorial(model, x):
    mean, logvar = torch.split(model.encoder(x), 8, dim=1)
    z = torch.randn(mean.shape) * torch.exp(logvar * 0.5) + mean
    x_logit = model.decoder(z)
    cross_ent = F.binary_cross_entropy_with_logits(x_logit, x, reduction="none")
    logpx_z = -torch.sum(cross_ent, dim=[1, 2, 3])
    logpz, logqz_x = log_standard(z), log_normal(z, mean, logvar)
    return -torch.mean(logpx_z + logpz - logqz_x)


# Means over 768 pixels and over 8 dimensions; the square has no factor 1/2.
@healthy("colour", batch=colour, loss="objective", beta=0.1 / 8 * 768 / 2)
class LightningBolts(ColourVae):
    kl_coeff = 0.1

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        p = D.Normal(torch.zeros_like(mu), torch.ones_like(mu))
        q = D.Normal(mu, torch.exp(log_var / 2))
        z = q.rsample()
        recon_loss = F.mse_loss(self.decoder(z), x, reduction="mean")
        kl = (q.log_prob(z) - p.log_prob(z)).mean() * self.kl_coeff
        self.logged = {"recon_loss": recon_loss.item(), "kl": kl.item()}
        return kl + recon_loss

    def objective(self, x):
        return self.training_step((x, None), 0)


def pytorch_vae_loss(model, x):
    return model.loss_function(*model(x), M_N=0.00025)["loss"]


# A mean over 768 pixels, and the square has no factor 1/2.
@healthy("colour", batch=colour, loss=pytorch_vae_loss, beta=0.00025 * 768 / 2)
class PytorchVae(ColourVae):
    def __init__(self):
        super().__init__(norm=nn.BatchNorm2d)

    def forward(self, input, **kwargs):
        mu, log_var = torch.split(self.encoder(input), 8, dim=1)
        z = torch.randn_like(log_var) * torch.exp(0.5 * log_var) + mu
        return [self.decoder(z).tanh(), input, mu, log_var]

    def loss_function(self, *args, **kwargs):
        recons, input, mu, log_var = args
        recons_loss = F.mse_loss(recons, input)
        kld = -0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1)
        loss = recons_loss + kwargs["M_N"] * torch.mean(kld, dim=0)
        return {"loss": loss, "Reconstruction_Loss": recons_loss.detach()}


@healthy("colour", batch=colour, loss=narrow_loss)
class Denoising(ColourVae):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x) * self.training)


@healthy("colour", batch=colour, loss="objective", beta=0.01)
class LatentDiffusion(Pair):
    """The first stage: codes of 4 x 4 x 4, a Laplace of learned width."""

    def __init__(self):
        down, up = nn.Conv2d(3, 16, 4, 4), nn.ConvTranspose2d(16, 3, 4, 4)
        super().__init__(
            nn.Sequential(down, nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 8, 1)),
            nn.Sequential(nn.Conv2d(4, 16, 3, 1, 1), nn.SiLU(), up),
        )
        self.logvar = nn.Parameter(torch.zeros(()))

    def objective(self, x):
        mean, logvar = torch.chunk(self.encoder(x), 2, dim=1)
        logvar = torch.clamp(logvar, -30.0, 20.0)
        rec_loss = torch.abs(x - self.decoder(draw(mean, logvar)))
        nll_loss = rec_loss / torch.exp(self.logvar) + self.logvar
        return (torch.sum(nll_loss) + 0.01 * kl(mean, logvar)) / x.shape[0]


@healthy("colour", batch=colour, model=ColourVae)
def optimal_sigma(outputs, x):
    """The sigma-VAE: the width that is best for the batch."""
    recon, mean, logvar = outputs
    log_sigma = (recon - x).square().mean([0, 1, 2, 3], keepdim=True).sqrt().log()
    log_sigma = -6 + F.softplus(log_sigma + 6)
    square = ((x - recon) / log_sigma.exp()) ** 2
    nll = 0.5 * square + log_sigma + 0.5 * math.log(2 * math.pi)
    return (nll.sum() + kl(mean, logvar)) / len(x)


@healthy("colour", loss="objective", batch=lambda s: (colour(s) * 255).round() / 255)
class BitsPerDimension(ColourVae):
    """A discretized logistic on 256 levels."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((3, 1, 1), -2.0))

    def objective(self, x):
        recon, mean, logvar = self(x)
        recon, scale = recon + 0.5, self.log_scale.exp()
        upper = torch.sigmoid((x + 0.5 / 255 - recon) / scale)
        lower = torch.sigmoid((x - 0.5 / 255 - recon) / scale)
        upper = torch.where(x > 254.5 / 255, 1, upper)
        lower = torch.where(x < 0.5 / 255, 0, lower)
        nats = kl(mean, logvar) - (upper - lower).clamp(min=1e-9).log().sum()
        return nats / (x.numel() * math.log(2))


@healthy("vit", batch=small_digits, loss=bernoulli_loss)
class Patches(nn.Module):
    def __init__(self, batch_first: bool = True):
        super().__init__()
        self.embed, self.heads = nn.Linear(16, 32), nn.Linear(32, 16)
        self.place = nn.Parameter(0.1 * torch.randn(16, 32))
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=batch_first)
        self.decoder = conv_decoder(8, 1)

    def forward(self, x):
        patches = F.unfold(x, 4, stride=4).transpose(1, 2)
        tokens = self.layer(self.embed(patches) + self.place)
        mean, logvar = self.heads(tokens.mean(1)).chunk(2, 1)
        return self.decoder(draw(mean, logvar)), mean, logvar


# PyTorch's default is batch_first=False: the images attend to one another.
@fault("vit", "batch_mixing", "codes_mixed", batch=small_digits, loss=bernoulli_loss)
def batch_first_forgotten():
    return Patches(batch_first=False)


# Library functions around a plain model


# A reentrant checkpoint whose input needs no gradient gives its layers none.
@fault("library", "gradient_cut", loss=bernoulli_loss)
class ReentrantCheckpoint(Vae):
    def encode(self, x):
        h = checkpoint(lambda x: self.fc1(x.flatten(1)).relu(), x, use_reentrant=True)
        return self.fc21(h), self.fc22(h)


# vmap with randomness="same" draws once for all images.
@fault("library", "shared_noise", loss=bernoulli_loss)
class VmappedNoise(Vae):
    def forward(self, x):
        recon, mean, logvar = torch.vmap(super().forward, randomness="same")(x)
        return recon, mean.flatten(1), logvar.flatten(1)


# torch.where hides the root of negative numbers, but not its gradient, NaN.
@fault("library", "not_finite", model=Parts)
def root_behind_where(model, x):
    mean, raw = model.encode(x)
    std = torch.where(raw > 0, torch.sqrt(raw), 0.01)
    z = mean + std * torch.randn_like(mean)
    return (bce(model.decode(z), x) + kl(mean, 2 * torch.log(std))) / len(x)


# The Gaussian's width learns, but its log is missing from the likelihood.
@fault("library", "runaway_width", batch=colour, loss="objective")
class WidthWithoutLog(ColourVae):
    def __init__(self):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def objective(self, x):
        recon, mean, logvar = self(x)
        error = half_square(recon, x) / torch.exp(2 * self.log_sigma)
        return (error + kl(mean, logvar)) / len(x)


# Free bits with min instead of max: far from the prior the KL has no gradient.
@fault("library", "kl_formula", model=Vae)
def free_bits_with_min(recon, x, mean, logvar):
    each = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean(0)
    return bce(recon, x) / len(x) + torch.clamp(each, max=0.1).sum()


@healthy("library", loss=bernoulli_loss)
class NormalizedMeans(Vae):
    """A BN-VAE: batch norm of fixed scale on the means holds the KL up."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, affine=False)

    def encode(self, x):
        mean, logvar = super().encode(x)
        return 0.6 * self.norm(mean), logvar


@healthy("library", loss="objective")
class LowRank(Parts):
    """A full covariance: widths and one more direction."""

    def __init__(self):
        super().__init__()
        self.encoder = mlp(784, 64, 24)

    def objective(self, x):
        mean, raw, factor = self.encoder(x.flatten(1)).chunk(3, 1)
        widths = F.softplus(raw + 0.5)
        q = D.LowRankMultivariateNormal(mean, factor[..., None], widths)
        p = D.MultivariateNormal(torch.zeros(8), torch.eye(8))
        rate = D.kl_divergence(q, p).sum()
        return (bce(self.decode(q.rsample()), x) + rate) / len(x)


def kernel(a, b):
    return torch.exp(-torch.cdist(a, b).square() / a.size(1)).mean()


@healthy("library", model=Parts, beta=0.5)
def info_vae(model, x):
    """Half the KL, and the maximum mean discrepancy of all codes together."""
    mean, logvar = model.encode(x)
    z, p = model.sample(mean, logvar), torch.randn_like(mean)
    mmd = kernel(z, z) + kernel(p, p) - 2 * kernel(z, p)
    return (bce(model.decode(z), x) + 0.5 * kl(mean, logvar)) / len(x) + 10 * mmd


@healthy("library", batch=colour, model=ColourVae)
def spectrum(recon, x, mean, logvar):
    """Pixels by a Gaussian's density, and the distance of the amplitudes besides."""
    amplitudes = [torch.fft.rfft2(part, norm="ortho").abs() for part in (recon, x)]
    extra = F.l1_loss(*amplitudes, reduction="sum") / len(x)
    return narrow_loss(recon, x, mean, logvar) + extra


@healthy("library", model=Parts)
def beta_codes(model, x):
    """Codes between 0 and 1, against the uniform."""
    q = D.Beta(*(F.softplus(part + 1) + 0.1 for part in model.encode(x)))
    uniform = D.Beta(torch.ones(8), torch.ones(8))
    rate = D.kl_divergence(q, uniform).sum()
    return (bce(model.decode(q.rsample()), x) + rate) / len(x)


@healthy("library", model=Vae)
def capacity(recon, x, mean, logvar, gamma=1.0, capacity=5.0):
    """Burgess's objective, at a stage where the KL shall be 5 nats."""
    return bce(recon, x) / len(x) + gamma * (kl(mean, logvar) / len(x) - capacity).abs()


# Discrete codes


class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 64), mlp(64, 64, 784)

    def nearest(self, e, codebook):
        return torch.cdist(e.flatten(0, 1), codebook).argmin(1).view(e.shape[:2])

    def reconstruction(self, q, x):
        return bce(self.decoder(q.flatten(1)), x) / len(x)


# The straight-through step is missing: the encoder hears of the picture nothing.
@fault("discrete", "gradient_cut", loss="objective")
class NoStraightThrough(Quantized):
    def __init__(self):
        super().__init__()
        self.codebook = nn.Embedding(32, 8)
        nn.init.normal_(self.codebook.weight, 0, 0.3)

    def objective(self, x):
        e = self.encoder(x.flatten(1)).view(-1, 8, 8)
        q = self.codebook(self.nearest(e, self.codebook.weight))
        learn = (q - e.detach()).square().sum() / len(x)
        commit = (q.detach() - e).square().sum() / len(x)
        return self.reconstruction(q, x) + learn + 0.25 * commit


@healthy("discrete", loss="objective")
class Gumbel(nn.Module):
    """10 variables of 6 classes."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 60), mlp(60, 64, 784)

    def rate(self, log_q):
        return (log_q.exp() * (log_q + math.log(6))).sum()

    def objective(self, x):
        logits = self.encoder(x.flatten(1)).view(-1, 10, 6)
        z = F.gumbel_softmax(logits, tau=0.7, dim=-1)
        rate = self.rate(F.log_softmax(logits, -1))
        return (bce(self.decoder(z.flatten(1)), x) + rate) / len(x)


# The entropy with its own minus sign, added as if it were the KL.
@fault("discrete", "kl_sign", loss="objective")
class EntropyForKl(Gumbel):
    def rate(self, log_q):
        return -super().rate(log_q)


@healthy("discrete", loss="objective")
class MovingCodebook(Quantized):
    """A VQ-VAE whose codebook is a moving average of what falls to it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("codebook", 0.3 * torch.randn(32, 8))
        self.register_buffer("count", torch.ones(32))
        self.register_buffer("total", self.codebook.clone())

    @torch.no_grad()
    def update(self, e, index):
        chosen = F.one_hot(index.flatten(), 32).float()
        self.count.lerp_(chosen.sum(0), 0.01)
        self.total.lerp_(chosen.t() @ e.flatten(0, 1), 0.01)
        self.codebook.copy_(self.total / (self.count + 1e-5)[:, None])

    def objective(self, x):
        e = self.encoder(x.flatten(1)).view(-1, 8, 8)
        index = self.nearest(e, self.codebook)
        q = F.embedding(index, self.codebook)
        if self.training:
            self.update(e, index)
        commit = (e - q.detach()).square().sum() / len(x)
        q = e + (q - e).detach()
        return self.reconstruction(q, x) + 0.25 * commit


@healthy("discrete", loss="objective")
class FiniteScalar(Quantized):
    """FSQ: 64 numbers of 5 levels each, no codebook and nothing else to pay."""

    def objective(self, x):
        bound = 2 * torch.tanh(self.encoder(x.flatten(1)))
        return self.reconstruction(bound + (bound.round() - bound).detach(), x)


@healthy("discrete", loss="objective")
class LeaveOneOut(nn.Module):
    """Binary codes by REINFORCE; the other draws are each draw's baseline."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 16), mlp(16, 64, 784)

    def objective(self, x, draws=4):
        logits = self.encoder(x.flatten(1)).expand(draws, -1, -1)
        z = torch.bernoulli(logits.sigmoid().detach())
        log_q = D.Bernoulli(logits=logits).log_prob(z).sum(-1)
        nelbo = log_q + 16 * math.log(2) - log_bernoulli(self.decoder(z), x)
        others = (nelbo.sum(0) - nelbo) / (draws - 1)
        score = (nelbo - others).detach() * (log_q - log_q.detach())
        return (nelbo + score).mean()


@healthy("discrete", loss="objective")
class UnknownClass(nn.Module):
    """The unlabelled part of the semi-supervised M2: a sum over all classes."""

    def __init__(self):
        super().__init__()
        self.classifier = mlp(784, 32, 10)
        self.encoder, self.decoder = mlp(794, 64, 16), mlp(18, 64, 784)

    def objective(self, x):
        log_q = F.log_softmax(self.classifier(x.flatten(1)), 1)
        y = torch.eye(10)[:, None].expand(-1, len(x), -1)
        seen = torch.cat([x.flatten(1).expand(10, -1, -1), y], -1)
        mean, logvar = self.encoder(seen).chunk(2, -1)
        logits = self.decoder(torch.cat([draw(mean, logvar), y], -1))
        rate = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(-1)
        each = (rate - log_bernoulli(logits, x)).t() + log_q + math.log(10)
        return (log_q.exp() * each).sum(1).mean()


# Flows, learned priors, importance weights; then several codes


class Planar(nn.Module):
    def __init__(self, units: int):
        super().__init__()
        self.w, self.u = (nn.Parameter(0.3 * torch.randn(units)) for _ in "wu")
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, z):
        dot = self.w @ self.u
        u = self.u + (F.softplus(dot) - 1 - dot) * self.w / self.w.square().sum()
        h = torch.tanh(z @ self.w + self.b)
        slope = (1 - h.square()) * (self.w @ u)
        return z + h[:, None] * u, torch.log(1 + slope)


class Rated(Parts):
    def code(self, mean, logvar):
        z = self.sample(mean, logvar)
        return z, log_normal(z, mean, logvar)

    def objective(self, x):
        z, log_q = self.code(*self.encode(x))
        return (bce(self.decode(z), x) + (log_q - self.log_prior(z)).sum()) / len(x)


@healthy("flow", loss="objective")
class PlanarPosterior(Rated):
    sign, log_prior = -1, staticmethod(log_standard)

    def __init__(self):
        super().__init__()
        self.flows = nn.ModuleList(Planar(8) for _ in range(3))

    def code(self, mean, logvar):
        z, log_q = super().code(mean, logvar)
        for flow in self.flows:
            z, log_det = flow(z)
            log_q = log_q + self.sign * log_det
        return z, log_q


# The log determinants are added to log q instead of subtracted.
@fault("flow", "kl_formula", loss="objective")
class AddedDeterminants(PlanarPosterior):
    sign = 1


@healthy("flow", loss="objective")
class VampPrior(Rated):
    def __init__(self):
        super().__init__()
        self.pseudo = self.pseudo_inputs()

    def pseudo_inputs(self):
        return nn.Parameter(torch.randn(20, 784) - 1)

    def log_prior(self, z):
        components = self.encode(torch.sigmoid(self.pseudo))
        return log_normal(z[:, None], *components).logsumexp(1) - math.log(20)


# The pseudo-inputs are a plain tensor, which no optimizer will see.
@fault("flow", "unregistered_layers", loss="objective")
class PlainPseudoInputs(VampPrior):
    def pseudo_inputs(self):
        return (torch.randn(20, 784) - 1).requires_grad_()


@healthy("flow", loss="objective")
class MixturePrior(Rated):
    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.randn(10, 8))
        self.logits = nn.Parameter(torch.zeros(10))

    def log_prior(self, z):
        log_p = log_normal(z[:, None], self.means, torch.zeros(8))
        return (log_p + self.logits.log_softmax(0)).logsumexp(1)


@healthy("flow", loss="objective")
class CouplingPrior(Rated):
    """A RealNVP from the codes to the normal distribution."""

    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(mlp(4, 32, 8) for _ in range(4))

    def log_prior(self, z):
        (a, b), log_det = z.chunk(2, 1), 0
        for net in self.nets:
            log_scale, shift = net(a).tanh().chunk(2, 1)
            a, b = b * log_scale.exp() + shift, a
            log_det = log_det + log_scale.sum(1)
        return log_standard(torch.cat([a, b], 1)) + log_det


@healthy("flow", loss="objective")
class Iwae(Parts):
    def log_weights(self, x, z, *q):
        log_p = log_bernoulli(self.decoder(z), x) + log_standard(z)
        return log_p - log_normal(z, *q)

    def objective(self, x, draws=5):
        q = [part.expand(draws, -1, -1) for part in self.encode(x)]
        log_w = self.log_weights(x, self.sample(*q), *q)
        return -(log_w.logsumexp(0) - math.log(draws)).mean()


@healthy("flow", loss="objective")
class DoublyReparameterized(Iwae):
    """DReG: the encoder's gradient goes through the draws, weighted once more."""

    def log_weights(self, x, z, mean, logvar):
        log_w = super().log_weights(x, z, mean.detach(), logvar.detach())
        if z.requires_grad:
            weights = log_w.detach().softmax(0)[..., None]
            z.register_hook(lambda gradient: weights * gradient)
        return log_w


@healthy("hierarchical", loss="objective")
class ResidualPosterior(nn.Module):
    """As in NVAE: the lower posterior is told relative to its prior."""

    def __init__(self):
        super().__init__()
        self.top, self.prior, self.delta = mlp(784, 8), mlp(4, 32, 16), mlp(788, 64, 16)
        self.decoder = mlp(12, 64, 784, activation=nn.SiLU)

    def forward(self, x):
        h = x.flatten(1)
        mean, logvar = self.top(h).chunk(2, 1)
        z1 = draw(mean, logvar)
        prior_mean, prior_logvar = self.prior(z1).chunk(2, 1)
        shift, widen = self.delta(torch.cat([h, z1], 1)).chunk(2, 1)
        z2 = draw(prior_mean + shift, prior_logvar + widen)
        rate = shift.square() / prior_logvar.exp() + widen.exp() - 1 - widen
        logits = self.decoder(torch.cat([z1, z2], 1))
        return logits, kl(mean, logvar), 0.5 * rate.sum()

    def objective(self, x):
        logits, rate1, rate2 = self(x)
        return (bce(logits, x) + rate1 + rate2) / len(x)


# Only the upper code is paid for, the lower one is free.
@fault("hierarchical", "uneven_kl", loss="objective")
class FreeLowerCode(ResidualPosterior):
    def objective(self, x):
        logits, rate, _ = self(x)
        return (bce(logits, x) + rate) / len(x)


@healthy("hierarchical", loss="objective")
class Recurrent(nn.Module):
    """A VRNN that reads and writes two rows a step."""

    def __init__(self):
        super().__init__()
        self.prior, self.encoder = mlp(32, 8), mlp(32 + 56, 32, 8)
        self.decoder, self.cell = mlp(32 + 4, 64, 56), nn.GRUCell(56 + 4, 32)

    def objective(self, x):
        h, loss = torch.zeros(len(x), 32), 0
        for rows in x.view(-1, 14, 56).unbind(1):
            mean, logvar = self.encoder(torch.cat([h, rows], 1)).chunk(2, 1)
            p_mean, p_logvar = self.prior(h).chunk(2, 1)
            q = D.Normal(mean, (logvar / 2).exp())
            p = D.Normal(p_mean, (p_logvar / 2).exp())
            z = q.rsample()
            loss = loss + bce(self.decoder(torch.cat([h, z], 1)), rows)
            loss = loss + D.kl_divergence(q, p).sum()
            h = self.cell(torch.cat([rows, z], 1), h)
        return loss / len(x)


# Pixels of 0 to 255 as bytes.
@crasher("crasher")
def bytes_as_batch(seed):
    x = (255 * grey(seed)).byte()
    return dict(model=SigmoidVae(), batch=x, loss=loss_function)


# The loss was computed already.
@crasher("crasher")
def number_as_loss(seed):
    model, x = Vae(), digits(seed)
    recon, *posterior = model(x)
    return dict(model=model, batch=x, loss=bernoulli_loss(recon, x, *posterior))


# The whole loader instead of one of its batches.
@crasher("crasher")
def loader_as_batch(seed):
    data = torch.utils.data.TensorDataset(digits(seed), classes(seed))
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    return dict(model=Vae(), batch=loader, loss=bernoulli_loss)


# A model of 28 x 28 pixels is given 16 x 16.
@crasher("crasher")
def other_size(seed):
    return dict(model=Vae(), batch=small_digits(seed), loss=bernoulli_loss)
