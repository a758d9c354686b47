"""A fourth held-out set for `diagnose`: faults, healthy models and crashers.

Written blind, without a look at the diagnosis, its tests or its earlier cases. Cases
of one form stand together: a form's shared parts, then its healthy models, then its
faults. Each `make(seed)` gives the keyword arguments of one call.
"""

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from held_out_third import (
    ColourVae,
    Pair,
    Vae,
    bce,
    bernoulli_loss,
    colour,
    conv_decoder,
    conv_encoder,
    decorators,
    digits,
    draw,
    grey,
    half_square,
    kl,
    log_normal,
    log_standard,
    mlp,
    narrow_loss,
    small,
    small_digits,
    train,
)


def made(thing: Callable, given: dict) -> Callable:
    """What is decorated is a model's class (`loss` may name one of its methods), the
    loss where `model` is given, or else a function of the seed that gives all."""

    def make(seed: int) -> dict:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        if not (given or isinstance(thing, type)):
            return thing(seed)
        call = {"batch": digits, "loss": "objective", **given}
        if "model" in call:
            call["loss"] = thing
        call["model"] = model = call.get("model", thing)()
        call["batch"] = call["batch"](seed)
        if isinstance(call["loss"], str):
            call["loss"] = getattr(model, call["loss"])
        if "optimizer" in call:
            call["optimizer"] = call["optimizer"](model)
        return call

    return make


FAULTS, HEALTHY, CRASHERS, fault, healthy, crasher = decorators(made)


class Costly(nn.Module):
    """A model with its own loss: its forward gives logits, and what the codes cost."""

    def objective(self, x):
        logits, cost = self(x)
        return (bce(logits, x) + cost.sum()) / len(x)


class Elbo(Costly):
    """A case says how a code is drawn and what it costs."""

    def __init__(self, latents: int = 8, outputs: int = 16, inputs: int = 0):
        super().__init__()
        self.encoder = mlp(784, 64, outputs)
        self.decoder = mlp(inputs or latents, 64, 784)

    def posterior(self, x):
        """A code for each image, and its cost: log q(z|x) - log p(z) or its mean."""
        mean, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        z = draw(mean, logvar)
        return z, log_normal(z, mean, logvar) - self.log_prior(z)

    def log_prior(self, z):
        return log_standard(z)

    def forward(self, x):
        z, cost = self.posterior(x)
        return self.decoder(z).view_as(x), cost


def kl_rows(mean, logvar, prior_mean=0.0, prior_logvar=0.0):
    """KL of diagonal Gaussians, one for each row; the prior's logvar may be 0."""
    prior_logvar = torch.as_tensor(prior_logvar)
    ratio = (logvar.exp() + (mean - prior_mean).square()) / prior_logvar.exp()
    return 0.5 * (prior_logvar - logvar + ratio - 1).sum(1)


def bce_rows(logits, x):
    """Cross-entropy of each image; logits may have samples in front of the images."""
    x = x.flatten(1).expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def plain_loss(model, x):
    recon, mean, logvar = model(x)
    return bernoulli_loss(recon, x, mean, logvar)


# Ways to write it


class Lightning(Vae):
    def training_step(self, batch, batch_idx=0):
        recon, mean, logvar = self(batch)
        nll = F.binary_cross_entropy_with_logits(recon, batch, reduction="none")
        divergence = -0.5 * (1 + logvar - mean**2 - logvar.exp())
        terms = {"nll": nll.sum((1, 2, 3)).mean(), "kl": divergence.sum(1).mean()}
        self.logged = {name: value.detach() for name, value in terms.items()}
        return sum(terms.values())


healthy("writing", loss="training_step")(Lightning)


class Functional(Vae):
    """As in PyTorch-VAE: forward gives a list, the loss takes it apart."""

    def forward(self, x, **kwargs):
        mu, log_var = self.encode(x)
        z = self.reparameterize(mu, log_var)
        return [self.decode(z).sigmoid().view_as(x), x, mu, log_var]

    def loss_function(self, *args, **kwargs):
        recons, x, mu, log_var = args
        recons_loss = F.binary_cross_entropy(recons, x)
        inner = 1 + log_var - mu**2 - log_var.exp()
        kld_loss = torch.mean(-0.5 * torch.sum(inner, dim=1), dim=0)
        loss = recons_loss + kwargs["M_N"] * kld_loss
        return {"loss": loss, "Reconstruction_Loss": recons_loss.detach()}


@healthy("writing", model=Functional, beta=784 * 0.0005)
def pytorch_vae(model, x):
    return model.loss_function(*model(x), M_N=0.0005)["loss"]


class Pythae(Elbo):
    def forward(self, inputs):
        x = inputs["data"]
        mu, log_var = self.encoder(x.flatten(1)).chunk(2, 1)
        z = draw(mu, log_var)
        recon_x = self.decoder(z)
        kld = self.divergence(mu, log_var)
        loss = (bce_rows(recon_x, x) + kld).mean(dim=0)
        return SimpleNamespace(recon_x=recon_x.view_as(x), z=z, loss=loss)

    def divergence(self, mu, log_var):
        return -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=-1)


healthy("writing", loss=lambda model, x: model({"data": x}).loss)(Pythae)


class KerasPort(nn.Module):
    """Channels last inside, as in its original."""

    def __init__(self, momentum: float = 0.1):
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=momentum)
        self.encoder = conv_encoder(3, 16, norm)
        self.decoder = conv_decoder(8, 3, norm)
        train(self, compute_loss, colour(5, 512), 60)
        with torch.no_grad():
            self(colour(6, 2))  # an epoch's last batch is small

    def call(self, inputs):
        z_mean, z_log_var = self.encoder(inputs.permute(0, 3, 1, 2)).chunk(2, -1)
        epsilon = torch.randn(z_mean.shape)
        z = z_mean + (0.5 * z_log_var).exp() * epsilon
        return self.decoder(z).permute(0, 2, 3, 1), z_mean, z_log_var

    def forward(self, x):
        return self.call(x.permute(0, 2, 3, 1))

    def compute_loss(self, x, y, y_pred):
        y = y.permute(0, 2, 3, 1)
        recon, z_mean, z_log_var = y_pred
        recon_loss = (0.5 * ((y - recon) / 0.2) ** 2).sum((1, 2, 3)).mean()
        kl_loss = -0.5 * (1 + z_log_var - z_mean**2 - z_log_var.exp())
        return recon_loss + kl_loss.sum(1).mean()


def compute_loss(model, x):
    return model.compute_loss(x, x, model(x))


healthy("writing", batch=colour, loss=compute_loss)(KerasPort)


# Squared error averaged over pixels, KL summed
@fault("writing", "wrong_weight", batch=grey, loss="training_step")
class LightningMean(Lightning):
    def training_step(self, batch, batch_idx=0):
        recon, mean, logvar = self(batch)
        divergence = -0.5 * (1 + logvar - mean**2 - logvar.exp())
        return F.mse_loss(recon, batch) + divergence.sum(1).mean()


# The list that forward gives has its two last elements in the other order
@fault("writing", "swapped_outputs", model=Functional)
def pytorch_vae_order(model, x):
    recon, x, mu, log_var = model(x)
    return model.loss_function(recon, x, log_var, mu, M_N=1 / 784)["loss"]


# Keras's momentum is copied, PyTorch's is 1 minus that: the last batch alone counts
@fault("writing", "train_eval_gap", batch=colour, loss=compute_loss)
class KerasMomentum(KerasPort):
    def __init__(self):
        super().__init__(momentum=0.99)


# The target is flattened with channels last, the output with channels first
@fault("writing", "transposed_targets", model=ColourVae, batch=colour)
def keras_flatten(recon, x, mean, logvar):
    target = x.permute(0, 2, 3, 1).flatten(1)
    return (half_square(recon.flatten(1), target) / 0.04 + kl(mean, logvar)) / len(x)


# The batch size of the training script stands in the loss
@fault("writing", "fixed_divisor", model=Vae)
def written_batch_size(recon, x, mean, logvar):
    return (bce(recon, x) + kl(mean, logvar)) / 32


# Flows


class Flow(Elbo):
    """A posterior bent by a flow; a case's `flow` gives code and log determinant."""

    def posterior(self, x):
        mean, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        z0 = draw(mean, logvar)
        z, log_det = self.flow(z0)
        return z, log_normal(z0, mean, logvar) - log_det - log_standard(z)


@healthy("flow")
class Planar(Flow):
    def __init__(self, steps: int = 4):
        super().__init__()
        self.u, self.w = (nn.Parameter(0.5 * torch.randn(steps, 8)) for _ in "uw")
        self.b = nn.Parameter(torch.zeros(steps))

    def flow(self, z):
        total = 0.0
        for u, w, b in zip(self.u, self.w, self.b, strict=True):
            u = u + (F.softplus(w @ u) - 1 - w @ u) * w / w.square().sum()
            h = torch.tanh(z @ w + b)
            total = total + torch.log((1 + (1 - h**2) * (w @ u)).abs() + 1e-9)
            z = z + u * h[:, None]
        return z, total


@healthy("flow")
class InverseAutoregressive(Elbo):
    """Two steps with a context, the order turned around between them."""

    def __init__(self):
        super().__init__(outputs=24)
        self.a, self.m, self.s = (
            nn.ParameterList(0.3 * torch.randn(8, 8) for _ in range(2)) for _ in "ams"
        )

    def posterior(self, x):
        mean, logvar, context = self.encoder(x.flatten(1)).chunk(3, 1)
        z = draw(mean, logvar)
        log_q = log_normal(z, mean, logvar)
        for a, m, s in zip(self.a, self.m, self.s, strict=True):
            h = torch.tanh(F.linear(z, a.tril(-1)) + context)
            gate = torch.sigmoid(F.linear(h, s.tril()) + 2)
            z = (gate * z + (1 - gate) * F.linear(h, m.tril())).flip(1)
            log_q = log_q - gate.log().sum(1)
        return z, log_q - log_standard(z)


@healthy("flow")
class Spline(Elbo):
    """A prior of rational quadratic splines, one for each dimension."""

    def __init__(self, bins: int = 6):
        super().__init__()
        self.w, self.h = (nn.Parameter(0.3 * torch.randn(8, bins)) for _ in "wh")
        self.d = nn.Parameter(0.3 * torch.randn(8, bins - 1))

    def log_prior(self, z, bound: float = 4.0):
        knots = [
            F.pad((2 * bound * p.softmax(1)).cumsum(1), (1, 0)) - bound
            for p in (self.w, self.h)
        ]
        slopes = F.pad(F.softplus(self.d + 0.54), (1, 1), value=1.0)
        inside = z.abs() < bound
        t = torch.where(inside, z, 0.0).T.contiguous()
        i = torch.searchsorted(knots[0].detach(), t).clamp(1, self.w.shape[1])
        (x0, y0), (x1, y1) = ([k.gather(1, j) for k in knots] for j in (i - 1, i))
        d0, d1 = slopes.gather(1, i - 1), slopes.gather(1, i)
        s, e = (y1 - y0) / (x1 - x0), (t - x0) / (x1 - x0)
        low = s + (d1 + d0 - 2 * s) * e * (1 - e)
        y = y0 + (y1 - y0) * (s * e**2 + d0 * e * (1 - e)) / low
        slope = s**2 * (d1 * e**2 + 2 * s * e * (1 - e) + d0 * (1 - e) ** 2) / low**2
        log_det = torch.where(inside, slope.T.log(), 0.0).sum(1)
        return log_standard(torch.where(inside, y.T, z)) + log_det


@healthy("flow")
class GlowPrior(Elbo):
    """Actnorm, an invertible matrix and an affine coupling, three times."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.zeros(3, 8)) for _ in "st")
        self.mix = nn.Parameter(nn.init.orthogonal_(torch.empty(8, 8)).repeat(3, 1, 1))
        self.nets = nn.ModuleList(mlp(4, 16, 8) for _ in range(3))

    def to_noise(self, z):
        total = 0.0
        for scale, shift, mix, net in zip(
            self.scale, self.shift, self.mix, self.nets, strict=True
        ):
            one, two = (((z + shift) * scale.exp()) @ mix).chunk(2, 1)
            s, t = net(one).chunk(2, 1)
            s = s.tanh()
            z = torch.cat([one, two * s.exp() + t], 1)
            total = total + scale.sum() + torch.linalg.slogdet(mix)[1] + s.sum(1)
        return z, total

    def log_prior(self, z):
        noise, log_det = self.to_noise(z)
        return log_standard(noise) + log_det


# The log determinant of a planar flow is added to log q, not subtracted
@fault("flow", "kl_formula")
class PlanarSign(Planar):
    def flow(self, z):
        z, log_det = super().flow(z)
        return z, -log_det


# The log determinant is averaged over the dimensions
@fault("flow", "kl_formula")
class CouplingMean(Flow):
    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(mlp(4, 16, 8) for _ in range(2))

    def flow(self, z):
        total = 0.0
        for net in self.nets:
            one, two = z.chunk(2, 1)
            s, t = net(one).chunk(2, 1)
            z = torch.cat([two * (s.tanh() + 1).exp() + t, one], 1)
            total = total + (s.tanh() + 1).mean(1)
        return z, total


# The prior is asked about the noise before the flow
@fault("flow", "kl_formula")
class PlanarPrior(Planar):
    def posterior(self, x):
        mean, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        z0 = draw(mean, logvar)
        z, log_det = self.flow(z0)
        return z, log_normal(z0, mean, logvar) - log_det - log_standard(z0)


# A prior's flow without its log determinant is no density
@fault("flow", "kl_formula", "runaway_width")
class GlowVolume(GlowPrior):
    def log_prior(self, z):
        return log_standard(self.to_noise(z)[0])


# Priors


class PseudoInputs(Elbo):
    def __init__(self, count: int = 20):
        super().__init__()
        self.pseudo = nn.Parameter(0.5 + 0.1 * torch.randn(count, 784))

    def log_components(self, z):
        mean, logvar = self.encoder(self.pseudo.clamp(0, 1)).chunk(2, 1)
        return log_normal(z[:, None], mean, logvar)


@healthy("prior")
class VampPrior(PseudoInputs):
    def log_prior(self, z):
        return self.log_components(z).logsumexp(1) - math.log(len(self.pseudo))


@healthy("prior")
class MixturePrior(Elbo):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(5))
        self.means = nn.Parameter(torch.randn(5, 8))
        self.logvars = nn.Parameter(torch.zeros(5, 8))

    def log_prior(self, z):
        normal = D.Independent(D.Normal(self.means, (0.5 * self.logvars).exp()), 1)
        choice = D.Categorical(logits=self.weights)
        return D.MixtureSameFamily(choice, normal).log_prob(z)


@healthy("prior")
class AutoregressivePrior(Elbo):
    """Each dimension is Gaussian given the ones before it."""

    def __init__(self):
        super().__init__()
        self.first, self.mean, self.logvar = (nn.Linear(8, 8) for _ in range(3))

    def log_prior(self, z):
        h = F.elu(F.linear(z, self.first.weight.tril(-1), self.first.bias))
        mean, logvar = (
            F.linear(h, layer.weight.tril(), layer.bias)
            for layer in (self.mean, self.logvar)
        )
        return log_normal(z, mean, logvar)


class ConditionalPrior(nn.Module):
    """The image's upper left quarter is given: p(z | quarter) is learned."""

    def __init__(self):
        super().__init__()
        self.prior_net, self.encoder = mlp(196, 32, 16), mlp(784, 64, 16)
        self.decoder = mlp(8, 64, 784)

    def forward(self, x):
        c = x[:, :, :14, :14].flatten(1)
        p, q = (
            D.Independent(D.Normal(m, (0.5 * s).exp()), 1)
            for m, s in (
                self.prior_net(c).chunk(2, 1),
                self.encoder(x.flatten(1)).chunk(2, 1),
            )
        )
        return self.decoder(q.rsample()).view_as(x), q, p


@healthy("prior", model=ConditionalPrior)
def conditional_prior(model, x):
    logits, q, p = model(x)
    return (bce(logits, x) + D.kl_divergence(q, p).sum()) / len(x)


# The pseudo-inputs are a tensor that asks for a gradient, and no parameter
@fault("prior", "unregistered_layers")
class VampTensor(VampPrior):
    def __init__(self):
        super().__init__()
        del self.pseudo
        self.pseudo = torch.rand(20, 784, requires_grad=True)


# The mixture's log density is taken for the mean of its parts' log densities
@fault("prior", "kl_formula")
class VampMean(PseudoInputs):
    def log_prior(self, z):
        return self.log_components(z).mean(1)


# The optimizer was made from encoder and decoder, before the prior was learned
@fault(
    "prior",
    "not_in_optimizer",
    optimizer=lambda model: torch.optim.Adam(
        [*model.encoder.parameters(), *model.decoder.parameters()], 1e-3
    ),
)
class MixtureForgotten(MixturePrior):
    pass


# Hierarchies


class Ladder(nn.Module):
    def __init__(self):
        super().__init__()
        self.up1, self.up2 = mlp(784, 64), mlp(64, 32)
        self.head1, self.head2 = nn.Linear(64, 16), nn.Linear(32, 8)
        self.down = mlp(4, 32, 16)
        self.decoder = mlp(8, 64, 784)

    def forward(self, x):
        d1 = F.relu(self.up1(x.flatten(1)))
        m2, l2 = self.head2(F.relu(self.up2(d1))).chunk(2, 1)
        z2 = draw(m2, l2)
        pm, pl = self.down(z2).chunk(2, 1)
        qm, ql = self.head1(d1).chunk(2, 1)
        l1 = -torch.logaddexp(-ql, -pl)  # the precisions are added
        m1 = l1.exp() * (qm * (-ql).exp() + pm * (-pl).exp())
        costs = kl_rows(m1, l1, pm, pl), kl_rows(m2, l2)
        return self.decoder(draw(m1, l1)).view_as(x), *costs


def ladder_loss(model, x):
    logits, one, two = model(x)
    return (bce(logits, x) + one.sum() + two.sum()) / len(x)


healthy("hierarchy", loss=ladder_loss)(Ladder)


@healthy("hierarchy", batch=small_digits)
class Nvae(Costly):
    """Residual posteriors: each group's posterior is its prior, moved and scaled."""

    def __init__(self, groups: int = 3):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), mlp(256, 64), nn.SiLU())
        self.start = nn.Parameter(0.1 * torch.randn(32))
        self.priors = nn.ModuleList(nn.Linear(32, 8) for _ in range(groups))
        self.residuals = nn.ModuleList(nn.Linear(96, 8) for _ in range(groups))
        self.merges = nn.ModuleList(mlp(36, 32, 32) for _ in range(groups))
        self.decoder = mlp(32, 64, 256)

    def divergence(self, logvar, shift, log_scale):
        square = shift.square() / logvar.exp()
        return 0.5 * (square + log_scale.exp() - 1 - log_scale).sum(1)

    def forward(self, x):
        h, cost = self.encoder(x), 0.0
        s = self.start.expand(len(x), -1)
        for prior, residual, merge in zip(
            self.priors, self.residuals, self.merges, strict=True
        ):
            mean, logvar = prior(s).chunk(2, 1)
            shift, log_scale = residual(torch.cat([s, h], 1)).chunk(2, 1)
            cost = cost + self.divergence(logvar, shift, log_scale)
            z = self.draw(mean + shift, logvar + log_scale)
            s = s + merge(torch.cat([s, z], 1))
        return self.decoder(F.silu(s)).view_as(x), cost

    draw = staticmethod(draw)


@healthy("hierarchy")
def second_stage(seed):
    """A VAE on the codes of another VAE, with a learned width of its own."""
    first = Vae()
    train(first, plain_loss, digits(9, 512), 20)
    with torch.no_grad():
        codes = draw(*first.encode(digits(seed, 64)))
    model = Pair(mlp(8, 32, 16), mlp(8, 32, 8))
    model.log_gamma = nn.Parameter(torch.zeros(()))

    def loss(model, z):
        recon, mean, logvar = model(z)
        nll = half_square(recon, z) / (2 * model.log_gamma).exp()
        nll = nll + z.numel() * (model.log_gamma + 0.5 * math.log(2 * math.pi))
        return (nll + kl(mean, logvar)) / len(z)

    return dict(model=model, batch=codes, loss=loss)


# Only the lower of two KLs is in the loss
@fault("hierarchy", "uneven_kl", model=Ladder)
def ladder_without_top(model, x):
    logits, one, _ = model(x)
    return (bce(logits, x) + one.sum()) / len(x)


# The shift of a residual posterior isn't divided by the prior's variance
@fault("hierarchy", "kl_formula", batch=small_digits)
class NvaeUnscaled(Nvae):
    def __init__(self):
        super().__init__()
        for layer in self.priors:
            nn.init.constant_(layer.bias[4:].detach(), -1.0)

    def divergence(self, logvar, shift, log_scale):
        return 0.5 * (shift.square() + log_scale.exp() - 1 - log_scale).sum(1)


# The noise is uniform: `rand_like` for `randn_like`
@fault("hierarchy", "wrong_noise", batch=small_digits)
class NvaeUniform(Nvae):
    @staticmethod
    def draw(mean, logvar):
        return mean + (0.5 * logvar).exp() * torch.rand_like(mean)


# Vector quantization


class Quantizer(Costly):
    """8 codes of 4 numbers, each replaced by the nearest of 32."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 32), mlp(32, 64, 784)
        self.codebook = nn.Parameter(torch.randn(32, 4))

    def nearest(self, z, codebook):
        return codebook[torch.cdist(z, codebook).argmin(-1)]

    def straight(self, z, q):
        return z + (q - z).detach()

    def costs(self, z, q):
        return (q - z.detach()).square() + 0.25 * (z - q.detach()).square()

    def forward(self, x):
        z = self.encoder(x.flatten(1)).unflatten(1, (8, 4))
        q = self.nearest(z, self.codebook)
        logits = self.decoder(self.straight(z, q).flatten(1))
        return logits.view_as(x), self.costs(z, q)


@healthy("quantized")
class EmaQuantizer(Quantizer):
    """The codebook follows the codes by moving averages in training."""

    def __init__(self):
        super().__init__()
        codes = self.codebook.detach().clone()
        del self.codebook
        self.register_buffer("codebook", codes)
        self.register_buffer("sums", codes.clone())
        self.register_buffer("counts", torch.ones(32))

    def nearest(self, z, codebook):
        index = torch.cdist(z, codebook).argmin(-1)
        q = codebook[index]
        if self.training:
            with torch.no_grad():
                hits = F.one_hot(index.flatten(), 32).to(z.dtype)
                self.counts.lerp_(hits.sum(0), 0.01)
                self.sums.lerp_(hits.T @ z.flatten(0, 1), 0.01)
                self.codebook.copy_(self.sums / (self.counts[:, None] + 1e-5))
        return q

    def costs(self, z, q):
        return 0.25 * (z - q).square()


@healthy("quantized")
class ResidualQuantizer(Quantizer):
    def __init__(self, levels: int = 3):
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(levels, 32, 4))

    def forward(self, x):
        z = self.encoder(x.flatten(1)).unflatten(1, (8, 4))
        total, costs = torch.zeros_like(z), 0.0
        for codebook in self.codebook:
            rest = z - total.detach()
            q = self.nearest(rest, codebook)
            costs = costs + self.costs(rest, q)
            total = total + q
        return self.decoder(self.straight(z, total).flatten(1)).view_as(x), costs


@healthy("quantized", loss=lambda model, x: bce(model(x), x) / len(x))
class FiniteScalars(nn.Module):
    """FSQ: each of 10 numbers is bounded and rounded to one of 5 levels."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 10), mlp(10, 64, 784)

    def quantize(self, z):
        z = 2 * torch.tanh(z)
        return z + (z.round() - z).detach()

    def forward(self, x):
        return self.decoder(self.quantize(self.encoder(x.flatten(1)))).view_as(x)


@healthy("quantized")
class GumbelCodes(Elbo):
    """10 codes of 6 classes, drawn by the Gumbel softmax."""

    def __init__(self):
        super().__init__(latents=60, outputs=60)

    def posterior(self, x):
        logits = self.encoder(x.flatten(1)).view(-1, 10, 6)
        z = F.gumbel_softmax(logits, tau=0.67, dim=-1)
        return z.flatten(1), self.divergence(logits)

    def divergence(self, logits):
        q = logits.softmax(-1)
        return (q * (logits.log_softmax(-1) + math.log(6))).sum((1, 2))


# The decoder gets the chosen entries, without the straight-through estimator
@fault("quantized", "gradient_cut")
class QuantizerCut(Quantizer):
    def straight(self, z, q):
        return q.detach()


# Both terms detach the codebook, so that it never moves
@fault("quantized", "gradient_cut")
class QuantizerStuck(Quantizer):
    def costs(self, z, q):
        return 1.25 * (z - q.detach()).square()


# A Gumbel softmax written by hand, over dim 0: the images share each class
@fault("quantized", "batch_mixing", "codes_mixed")
class GumbelOverImages(GumbelCodes):
    def posterior(self, x):
        logits = self.encoder(x.flatten(1)).view(-1, 10, 6)
        noise = -torch.empty_like(logits).exponential_().log()
        z = ((logits + noise) / 0.67).softmax(0)
        return z.flatten(1), self.divergence(logits)


# The entropy is added: written as -q log q and taken for the KL
@fault("quantized", "kl_sign")
class GumbelEntropy(GumbelCodes):
    def divergence(self, logits):
        return math.log(6) * 10 - super().divergence(logits)


# Discrete codes


class Bits(Elbo):
    """16 bits with a uniform prior, and an estimator of the score's gradient."""

    def __init__(self):
        super().__init__(latents=16, outputs=16)

    def costs(self, z, phi, x):
        """What each image costs but for the KL; z may have samples in front."""
        return bce_rows(self.decoder(z), x)

    def divergence(self, phi):
        p = phi.sigmoid()
        return (p * F.logsigmoid(phi) + (1 - p) * F.logsigmoid(-phi)).sum(
            1
        ) + 16 * math.log(2)

    def log_q(self, z, phi):
        return -F.binary_cross_entropy_with_logits(
            phi.expand_as(z), z, reduction="none"
        ).sum(-1)

    def forward(self, x):
        phi = self.encoder(x.flatten(1))
        z = torch.bernoulli(phi.sigmoid())
        return self.decoder(z).view_as(x), z, phi


@healthy("discrete")
class Reinforce(Bits):
    """With a baseline that sees the image."""

    def __init__(self):
        super().__init__()
        self.baseline = mlp(784, 32, 1)

    def objective(self, x):
        logits, z, phi = self(x)
        nll, log_q = bce_rows(logits.flatten(1), x), self.log_q(z, phi)
        surprise = nll.detach() - 500 - self.baseline(x.flatten(1))[:, 0]
        score = surprise.detach() * (log_q - log_q.detach())
        return (nll + self.divergence(phi) + score + surprise.square() / 1e3).mean()


@healthy("discrete")
class Vimco(Bits):
    def objective(self, x, count: int = 4):
        phi = self.encoder(x.flatten(1)).expand(count, -1, -1)
        z = torch.bernoulli(phi.sigmoid())
        log_q = self.log_q(z, phi)
        log_w = -bce_rows(self.decoder(z), x) - 16 * math.log(2) - log_q
        bound = log_w.logsumexp(0) - math.log(count)
        w = log_w.detach()
        others = (w.sum(0) - w) / (count - 1)
        swapped = torch.stack(
            [torch.cat([w[:k], others[k : k + 1], w[k + 1 :]]) for k in range(count)]
        )
        signal = bound.detach() - swapped.logsumexp(1) + math.log(count)
        score = (signal * (log_q - log_q.detach())).sum(0)
        return -(bound + score).mean()


@healthy("discrete")
class AugmentReinforceMerge(Bits):
    def objective(self, x):
        phi = self.encoder(x.flatten(1))
        u = torch.rand_like(phi)
        one = (u > torch.sigmoid(-phi)).float()
        two = (u < torch.sigmoid(phi)).float()
        nll = bce_rows(self.decoder(one), x)
        with torch.no_grad():
            slope = (nll - bce_rows(self.decoder(two), x))[:, None] * (u - 0.5)
        score = (slope * (phi - phi.detach())).sum(1)
        return (nll + self.divergence(phi) + score).mean()


@healthy("discrete")
class SemiSupervised(nn.Module):
    """M2 on images without labels: the class is summed out."""

    def __init__(self):
        super().__init__()
        self.classifier, self.encoder = mlp(784, 32, 10), mlp(794, 64, 16)
        self.decoder = mlp(18, 64, 784)

    def forward(self, x):
        flat, log_y = x.flatten(1), self.classifier(x.flatten(1)).log_softmax(1)
        y = torch.eye(10).repeat(len(x), 1)
        flat = flat.repeat_interleave(10, 0)
        mean, logvar = self.encoder(torch.cat([flat, y], 1)).chunk(2, 1)
        logits = self.decoder(torch.cat([draw(mean, logvar), y], 1))
        labelled = bce_rows(logits, flat) + kl_rows(mean, logvar) + math.log(10)
        return labelled.view(-1, 10), log_y

    def objective(self, x):
        labelled, log_y = self(x)
        return (log_y.exp() * (labelled + log_y)).sum(1).mean()


# Bits are drawn as if the draw had a gradient
@fault("discrete", "gradient_cut")
class BitsCut(Bits):
    def objective(self, x):
        logits, _, phi = self(x)
        return (bce(logits, x) + self.divergence(phi).sum()) / len(x)


# The bits' KL is forgotten: the score's term was taken for the regularizer
@fault("discrete", "no_kl")
class ReinforceWithoutKl(Reinforce):
    def divergence(self, phi):
        return 0.0


# The classifier's entropy has the wrong sign
@fault("discrete", "kl_sign", "kl_formula")
class SemiSupervisedEntropy(SemiSupervised):
    def objective(self, x):
        labelled, log_y = self(x)
        return (log_y.exp() * (labelled - log_y)).sum(1).mean()


# Several samples


class Weighted(Elbo):
    """Importance weights of 5 samples."""

    def noise(self, mean, count):
        return torch.randn(count, *mean.shape)

    def log_posterior(self, z, mean, logvar):
        return log_normal(z, mean, logvar)

    def log_weights(self, x, count: int = 5):
        mean, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * self.noise(mean, count)
        log_ratio = log_standard(z) - self.log_posterior(z, mean, logvar)
        return log_ratio - bce_rows(self.decoder(z), x)

    def forward(self, x):
        log_w = self.log_weights(x)
        return log_w.logsumexp(0) - math.log(len(log_w))

    def objective(self, x):
        return -self(x).mean()


healthy("importance")(Weighted)


@healthy("importance")
class DoublyReparameterized(Weighted):
    """DReG: the loss's slope is the bound's, its value only near it."""

    def log_weights(self, x, count: int = 5):
        mean, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * self.noise(mean, count)
        log_ratio = log_standard(z) - log_normal(z, mean.detach(), logvar.detach())
        log_w = log_ratio - bce_rows(self.decoder(z), x)
        weights = log_w.detach().softmax(0)
        if z.requires_grad:
            z.register_hook(lambda slope: weights[..., None] * slope)
        return log_w, weights

    def forward(self, x):
        return self.log_weights(x)

    def objective(self, x):
        log_w, weights = self(x)
        return -(weights * log_w).sum(0).mean()


def with_mask(seed: int) -> Tensor:
    """Digits, 0 where nothing is known, and behind them which pixels are known."""
    x = digits(seed)
    generator = torch.Generator().manual_seed(seed)
    known = (torch.rand(x.shape, generator=generator) < 0.7).float()
    return torch.cat([x * known, known], 1)


@healthy("importance", batch=with_mask)
class Miwae(Elbo):
    """Missing pixels are 0 for the encoder, and left out of the likelihood."""

    def likelihood(self, logits, x, known):
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return -(known * nll).sum(-1)

    def forward(self, batch):
        x, known = batch.flatten(2).unbind(1)
        mean, logvar = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * torch.randn(5, *mean.shape)
        ratio = log_standard(z) - log_normal(z, mean, logvar)
        logits = self.decoder(z)
        return ratio + self.likelihood(logits, x.expand_as(logits), known)

    def objective(self, batch):
        log_w = self(batch)
        return -(log_w.logsumexp(0) - math.log(len(log_w))).mean()


# The samples' noise has the wrong shape: all images share it
@fault("importance", "shared_noise")
class WeightedShared(Weighted):
    def noise(self, mean, count):
        return torch.randn(count, 1, mean.shape[1])


# log q is that of a Normal whose standard deviation is the variance
@fault("importance", "sigma_mismatch", "kl_formula")
class WeightedVariance(Weighted):
    def log_posterior(self, z, mean, logvar):
        return D.Normal(mean, logvar.exp()).log_prob(z).sum(-1)


# Images are repeated as a block, codes one by one
@fault("importance", "shuffled_targets")
class RepeatedBlocks(Elbo):
    def objective(self, x):
        mean, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        logits = self.decoder(draw(mean, logvar).repeat_interleave(4, 0))
        return (bce(logits, x.repeat(4, 1, 1, 1)) / 4 + kl(mean, logvar)) / len(x)


# The mask is turned around: only the zeros of the missing pixels count
@fault("importance", "pixels_left_out", "blind_loss", batch=with_mask)
class MiwaeMask(Miwae):
    def likelihood(self, logits, x, known):
        return super().likelihood(logits, x, 1 - known)


# Other families


@healthy("family")
class StudentT(Elbo):
    def posterior(self, x):
        mean, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        q = D.StudentT(5.0, mean, (0.5 * logvar).exp())
        z = q.rsample()
        return z, (q.log_prob(z) - D.StudentT(5.0).log_prob(z)).sum(1)


@healthy("family")
class PowerSpherical(Elbo):
    """On the sphere in 6 dimensions, against the uniform distribution."""

    def __init__(self):
        super().__init__(latents=6, outputs=7)

    def posterior(self, x):
        mean, kappa = self.encoder(x.flatten(1)).split([6, 1], 1)
        mean, kappa = F.normalize(mean, dim=1), F.softplus(kappa[:, 0]) + 0.1
        a, b = 2.5 + kappa, torch.full_like(kappa, 2.5)
        t = 2 * D.Beta(a, b).rsample() - 1
        side = F.normalize(torch.randn(len(x), 5), dim=1)
        y = torch.cat([t[:, None], (1 - t**2).clamp(1e-6).sqrt()[:, None] * side], 1)
        pole = torch.eye(6)[0] - mean
        pole = pole / (pole.norm(dim=1, keepdim=True) + 1e-6)
        z = y - 2 * pole * (pole * y).sum(1, keepdim=True)
        log_q = kappa * t.log1p() - (a + b) * math.log(2) - 2.5 * math.log(math.pi)
        log_q = log_q - a.lgamma() + (a + b).lgamma()
        log_p = math.lgamma(3) - math.log(2) - 3 * math.log(math.pi)
        return z, log_q - log_p


class WithTorch(Elbo):
    """Posterior and prior from torch.distributions."""

    def posterior(self, x):
        q, p = self.pair(self.encoder(x.flatten(1)))
        cost = D.kl_divergence(q, p)
        return q.rsample(), cost if cost.ndim == 1 else cost.sum(1)


@healthy("family")
class DirichletCodes(WithTorch):
    def __init__(self):
        super().__init__(latents=8, outputs=8)

    def pair(self, h):
        return D.Dirichlet(F.softplus(h) + 0.1), D.Dirichlet(torch.ones(8))


class GammaCodes(WithTorch):
    def pair(self, h):
        return D.Gamma(*(F.softplus(h) + 0.3).chunk(2, 1)), D.Gamma(2.0, 2.0)


class FullCovariance(Elbo):
    def __init__(self):
        super().__init__(latents=4, outputs=20)

    def posterior(self, x):
        mean, log_diagonal, lower = self.encoder(x.flatten(1)).split([4, 4, 12], 1)
        lower = F.pad(lower, (4, 0)).view(-1, 4, 4).tril(-1)
        scale = lower + log_diagonal.exp().diag_embed()
        z = mean + torch.einsum("bij,bj->bi", scale, torch.randn_like(mean))
        trace = scale.square().sum((1, 2))
        return z, self.divergence(mean.square().sum(1), trace, log_diagonal.sum(1))

    def divergence(self, square, trace, log_det):
        return 0.5 * (square + trace - 4) - log_det


healthy("family")(FullCovariance)


@healthy("family")
class Torus(Elbo):
    """Angles: wrapped normals against the uniform distribution."""

    def __init__(self):
        super().__init__(latents=6, outputs=12, inputs=12)

    def angles(self, mean, std):
        return mean + std * torch.randn_like(mean)

    def posterior(self, x):
        mean, width = self.encoder(x.flatten(1)).chunk(2, 1)
        std = F.softplus(width) + 1e-3
        angles = self.angles(mean, std)
        turns = 2 * math.pi * torch.arange(-6, 7)[:, None, None]
        log_q = D.Normal(mean, std).log_prob(angles + turns).logsumexp(0)
        z = torch.cat([angles.cos(), angles.sin()], 1)
        return z, (log_q + math.log(2 * math.pi)).sum(1)


@healthy("family")
class Hyperbolic(Elbo):
    """Wrapped normals on the hyperboloid in 5 + 1 dimensions."""

    def __init__(self):
        super().__init__(latents=5, outputs=10, inputs=6)

    def size(self, v):
        return (v.square().sum(1, keepdim=True) + 1e-8).sqrt()

    def exp_origin(self, v):
        r = self.size(v)
        return torch.cat([r.cosh(), r.sinh() * v / r], 1)

    def log_volume(self, r):
        return 4 * (r.sinh() / r).log().squeeze(1)

    def posterior(self, x):
        v, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        std, mean = (0.5 * logvar).exp(), self.exp_origin(v)
        noise = std * torch.randn_like(v)
        # parallel transport from the origin, then the exponential map at the mean
        shift = (mean[:, 1:] * noise).sum(1, keepdim=True) / (1 + mean[:, :1])
        moved = torch.cat([shift * (1 + mean[:, :1]), noise + shift * mean[:, 1:]], 1)
        r = self.size(noise)
        z = r.cosh() * mean + r.sinh() * moved / r
        log_q = log_normal(noise, torch.zeros_like(v), logvar) - self.log_volume(r)
        flat = z[:, 1:]
        radius = torch.asinh(self.size(flat))
        back = radius * flat / self.size(flat)
        return z, log_q - log_standard(back) + self.log_volume(radius)


# The code is drawn by `sample`, which cuts the gradient, not by `rsample`
@fault("family", "gradient_cut")
class DirichletCut(DirichletCodes):
    def posterior(self, x):
        q, p = self.pair(self.encoder(x.flatten(1)))
        return q.sample(), D.kl_divergence(q, p)


# The KL's arguments are exchanged
@fault("family", "kl_formula")
class GammaOrder(GammaCodes):
    def posterior(self, x):
        q, p = self.pair(self.encoder(x.flatten(1)))
        return q.rsample(), D.kl_divergence(p, q).sum(1)


# log det of the covariance is twice the sum that is subtracted
@fault("family", "kl_formula")
class FullCovarianceHalf(FullCovariance):
    def divergence(self, square, trace, log_det):
        return 0.5 * (square + trace - 4 - log_det)


# The angles that the decoder gets are the means; the noise is in the KL only
@fault("family", "no_sampling")
class TorusMeans(Torus):
    def posterior(self, x):
        _, cost = super().posterior(x)
        mean = self.encoder(x.flatten(1)).chunk(2, 1)[0]
        return torch.cat([mean.cos(), mean.sin()], 1), cost


# A ReLU makes the scale positive, and 0 for half of the units
@fault("family", "not_finite")
class LaplaceScale(Elbo):
    def posterior(self, x):
        mean, scale = self.encoder(x.flatten(1)).chunk(2, 1)
        scale = F.relu(scale)
        z = mean + scale * D.Laplace(0.0, 1.0).sample(mean.shape)
        cost = scale * (-mean.abs() / scale).exp() + mean.abs() - scale.log() - 1
        return z, cost.sum(1)


# Divergences of the whole posterior


def mmd(z: Tensor, prior: Tensor) -> Tensor:
    """The squared maximum mean discrepancy, unbiased, by an IMQ kernel."""
    count, scale = len(z), 2.0 * z.shape[1]

    def kernel(one, two):
        return scale / (scale + torch.cdist(one, two).square())

    inner = kernel(z, z).sum() + kernel(prior, prior).sum() - 2 * count
    return inner / (count * (count - 1)) - 2 * kernel(z, prior).mean()


@healthy("divergence", model=Vae)
def info_vae(model, x):
    mean, logvar = model.encode(x)
    z = model.reparameterize(mean, logvar)
    apart = mmd(z, torch.randn_like(z))
    return (bce(model.decode(z), x) + kl(mean, logvar)) / len(x) + 9 * apart


class Deterministic(nn.Module):
    """Of a Wasserstein autoencoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(784, 64, 8), mlp(8, 64, 784)

    def forward(self, x):
        z = self.encoder(x.flatten(1))
        return self.decoder(z).view_as(x), z


@healthy("divergence", model=Deterministic, batch=grey)
def wae_mmd(model, x):
    recon, z = model(x)
    return 2 * half_square(recon, x) / len(x) + 10 * mmd(z, torch.randn_like(z))


# The discrepancy is subtracted
@fault("divergence", "kl_sign", model=Deterministic, batch=grey)
def wae_sign(model, x):
    recon, z = model(x)
    return 2 * half_square(recon, x) / len(x) - 100 * mmd(z, torch.randn_like(z))


# Objectives


@healthy("objective", model=Vae)
def capacity(recon, x, mean, logvar):
    """Of Burgess et al., early in training: the KL is held at 5 nats."""
    return bce(recon, x) / len(x) + 10 * (kl(mean, logvar) / len(x) - 5).abs()


class Geco(Elbo):
    """The KL is minimized under a constraint on the error; its multiplier moves."""

    def __init__(self):
        super().__init__()
        self.register_buffer("multiplier", torch.ones(()))

    def constraint(self, recon, x):
        return half_square(recon, x) / len(x) - 15

    def objective(self, x):
        recon, cost = self(x)
        constraint = self.constraint(recon.sigmoid(), x)
        if self.training:
            rate = (0.001 * constraint.detach()).clamp(-0.1, 0.1).exp()
            self.multiplier = (self.multiplier * rate).clamp(0.1, 100)
        return cost.mean() + self.multiplier * constraint


class Annealed(Vae):
    """A quarter of the way through its warm-up."""

    def __init__(self):
        super().__init__()
        self.register_buffer("step", torch.tensor(250))

    def weight(self, warm_up: int = 1000):
        return min(1.0, self.step.item() / warm_up)

    def objective(self, x):
        recon, mean, logvar = self(x)
        return (bce(recon, x) + self.weight() * kl(mean, logvar)) / len(x)


healthy("objective", batch=grey)(Geco)
healthy("objective", beta=0.25)(Annealed)


@healthy("objective", model=ColourVae, batch=colour)
def bits_per_dimension(recon, x, mean, logvar):
    """Of a Gaussian of width 1/10; grey values are 1/256 wide, hence 8 bits more."""
    log_p = D.Normal(recon, 0.1).log_prob(x).flatten(1).sum(1)
    inner = 1 + logvar - mean.square() - logvar.exp()
    nats = -log_p - 0.5 * inner.sum(1)
    return nats.mean() / (x[0].numel() * math.log(2)) + 8


# Free bits with `max` for `min`: far from the prior nothing pulls the codes back
@fault("objective", "kl_formula", model=Vae)
def free_bits_clamp(recon, x, mean, logvar):
    each = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)
    return bce(recon, x) / len(x) + each.clamp(max=0.5).sum()


# The warm-up divides whole numbers, so that its weight is 0 until it is 1
@fault("objective", "no_kl", "wrong_weight")
class AnnealedWhole(Annealed):
    def weight(self, warm_up: int = 1000):
        return min(1, self.step.item() // warm_up)


# The constraint is written the other way around: the error is made larger
@fault("objective", "loss_sign", batch=grey)
class GecoSign(Geco):
    def constraint(self, recon, x):
        return 15 - half_square(recon, x) / len(x)


# Likelihoods


@healthy("likelihood", model=ColourVae, batch=colour)
def optimal_sigma(recon, x, mean, logvar):
    """The Gaussian's width is the best one for the batch, as in σ-VAE."""
    log_sigma = 0.5 * (x - recon).square().mean().log()
    log_sigma = -6 + F.softplus(log_sigma + 6)
    nll = half_square(recon, x) / (2 * log_sigma).exp() + x.numel() * log_sigma
    return (nll + kl(mean, logvar)) / len(x)


@healthy("likelihood", batch=small, loss="objective")
class DiscretizedLogistic(Pair):
    """256 grey values; the widths of the logistic are the decoder's."""

    def __init__(self):
        super().__init__(conv_encoder(1, 16), conv_decoder(8, 2))

    def objective(self, x):
        x = (x * 255).round() / 255
        params, mean, logvar = self(x)
        centre, log_scale = params.chunk(2, 1)
        scale = (log_scale - 2).clamp(-6, 3).exp()
        upper = (x - centre.sigmoid() + 1 / 510) / scale
        lower = (x - centre.sigmoid() - 1 / 510) / scale
        middle = (upper.sigmoid() - lower.sigmoid()).clamp(1e-10).log()
        log_p = torch.where(x > 0.999, -F.softplus(lower), middle)
        log_p = torch.where(x < 0.001, F.logsigmoid(upper), log_p)
        return (kl(mean, logvar) - log_p.sum()) / len(x)


class PixelCnn(nn.Module):
    """A decoder that sees the pixels above and to the left, beside its code."""

    own = 0  # whether a pixel sees itself

    def __init__(self):
        super().__init__()
        self.encoder, self.code = conv_encoder(1, 16), nn.Linear(8, 16)
        self.first, self.last = nn.Conv2d(1, 16, 5, padding=2), nn.Conv2d(16, 1, 1)
        mask = (torch.arange(25) < 12 + self.own).float().view(1, 1, 5, 5)
        self.register_buffer("mask", mask)

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, 1)
        code = self.code(draw(mean, logvar))[:, :, None, None]
        h = F.conv2d(x, self.first.weight * self.mask, self.first.bias, padding=2)
        return self.last(F.relu(h + code)), mean, logvar


healthy("likelihood", batch=small_digits, loss=plain_loss)(PixelCnn)


# A learned width without its logarithm: the wider, the better
@fault("likelihood", "runaway_width", batch=colour)
class WidthWithoutLog(ColourVae):
    def __init__(self):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(-1.6))

    def objective(self, x):
        recon, mean, logvar = self(x)
        nll = half_square(recon, x) / (2 * self.log_sigma).exp()
        return (nll + kl(mean, logvar)) / len(x)


# The first layer's mask lets a pixel see itself (type B for type A)
@fault("likelihood", "decoder_sees_x", batch=small_digits, loss=plain_loss)
class PixelCnnMask(PixelCnn):
    own = 1


# Normalized as for an ImageNet network, and compared by a Bernoulli's likelihood
@fault(
    "likelihood",
    "negative_pixels",
    model=ColourVae,
    batch=lambda seed: (colour(seed) - 0.45) / 0.225,
)
def normalized_colour(recon, x, mean, logvar):
    return bernoulli_loss(recon, x, mean, logvar)


# (B, 784) against (B, 1, 784): the likelihood of each image given each picture
@fault("likelihood", "broadcast_targets", batch=lambda seed: grey(seed).flatten(2))
class BroadcastLikelihood(Elbo):
    def objective(self, x):
        z, cost = self.posterior(x)
        log_p = D.Normal(self.decoder(z), 0.5).log_prob(x).sum(-1)
        return cost.mean() - log_p.mean()


# Encoder and loss each draw their own black and white pixels
@fault("likelihood", "random_targets", batch=grey)
class BinarizedTwice(Elbo):
    def objective(self, x):
        logits, cost = self(torch.bernoulli(x))
        return (bce(logits, torch.bernoulli(x)) + cost.sum()) / len(x)


# 8 grey values: the softmax in the decoder is followed by that of cross_entropy
@fault("likelihood", "probabilities_as_logits", "unreachable_pixels", batch=small)
class GreyClasses(Pair):
    def __init__(self):
        super().__init__(
            conv_encoder(1, 16), nn.Sequential(conv_decoder(8, 8), nn.Softmax(dim=1))
        )

    def objective(self, x):
        scores, mean, logvar = self(x)
        nll = F.cross_entropy(scores, (7 * x[:, 0]).round().long(), reduction="sum")
        return (nll + kl(mean, logvar)) / len(x)


# Sequences: an image's rows are its time steps


class Recurrent(Costly):
    """A variational recurrent network (VRNN)."""

    def __init__(self):
        super().__init__()
        self.prior, self.encoder = nn.Linear(32, 8), mlp(48, 32, 8)
        self.decoder, self.cell = mlp(36, 32, 16), nn.GRUCell(20, 32)

    def collect(self, total, divergence):
        return total + divergence

    def forward(self, x):
        h, total, logits = torch.zeros(len(x), 32), 0.0, []
        for row in x[:, 0].unbind(1):
            mean, logvar = self.encoder(torch.cat([row, h], 1)).chunk(2, 1)
            divergence = kl_rows(mean, logvar, *self.prior(h).chunk(2, 1))
            total = self.collect(total, divergence)
            z = draw(mean, logvar)
            logits.append(self.decoder(torch.cat([z, h], 1)))
            h = self.cell(torch.cat([row, z], 1), h)
        return torch.stack(logits, 1)[:, None], total


healthy("sequence", batch=small_digits)(Recurrent)


class Transformer(nn.Module):
    batch_first = True

    def __init__(self):
        super().__init__()
        options = dict(batch_first=self.batch_first, norm_first=True)
        self.embed, self.place = nn.Linear(16, 32), nn.Embedding(16, 32)
        self.reader = nn.TransformerEncoderLayer(32, 2, 64, **options)
        self.writer = nn.TransformerEncoderLayer(32, 2, 64, **options)
        self.head, self.code = nn.Linear(32, 16), nn.Linear(8, 32)
        self.pixels = nn.Linear(32, 16)

    def forward(self, x):
        h = self.reader(self.embed(x[:, 0]) + self.place.weight)
        mean, logvar = self.head(h.mean(1)).chunk(2, -1)
        code = self.code(draw(mean, logvar))[:, None]
        return self.pixels(self.writer(code + self.place.weight))[:, None], mean, logvar


healthy("sequence", batch=small_digits, loss=plain_loss)(Transformer)


@healthy("sequence", batch=small_digits, loss=plain_loss)
class LatentOde(nn.Module):
    """The code is the start of a path, followed by Euler steps."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(16, 32, batch_first=True), nn.Linear(32, 16)
        self.slope, self.pixels = mlp(8, 32, 8, activation=nn.Tanh), mlp(8, 64, 16)

    def forward(self, x):
        _, h = self.gru(x[:, 0].flip(1))
        mean, logvar = self.head(h[0]).chunk(2, 1)
        path = [draw(mean, logvar)]
        for _ in range(15):
            path.append(path[-1] + 0.2 * self.slope(path[-1]))
        return self.emit(torch.stack(path, 1))[:, None], mean, logvar

    def emit(self, path):
        return self.pixels(path)


# The KL of the last row replaces those before it: `=` written for `+=`
@fault("sequence", "uneven_kl", batch=small_digits)
class RecurrentLast(Recurrent):
    def collect(self, total, divergence):
        return divergence


# `batch_first` is left out: attention runs over the images
@fault("sequence", "batch_mixing", batch=small_digits, loss=plain_loss)
class TransformerBatch(Transformer):
    batch_first = False


# `F.dropout` isn't told when training is over
@fault("sequence", "dropout_in_eval", batch=small_digits, loss=plain_loss)
class OdeDropout(LatentOde):
    def emit(self, path):
        return self.pixels(F.dropout(path, 0.3))


# The two directions' states (2, B, H) become (B, 2 H) by `view`, not by `transpose`
@fault("sequence", "batch_mixing", "codes_mixed", batch=small_digits, loss=plain_loss)
class Bidirectional(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.head, self.decoder = nn.Linear(48, 16), mlp(8, 64, 256)

    def forward(self, x):
        _, h = self.gru(x[:, 0])
        mean, logvar = self.head(h.view(len(x), -1)).chunk(2, 1)
        return self.decoder(draw(mean, logvar)).view_as(x), mean, logvar


# Graphs, points and coordinates


def graphs(seed: int) -> Tensor:
    """Adjacency matrices of directed graphs: nodes cite those near them."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(32, 12, 2, generator=generator)
    chance = torch.sigmoid(2 - 2 * torch.cdist(places, places + 0.3))
    return torch.bernoulli(chance, generator=generator)[:, None]


@healthy("structure", batch=graphs, loss=plain_loss)
class GraphVae(nn.Module):
    """A code for each node; an edge is likely by a bilinear form of two."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(36, 32), nn.Linear(96, 8)
        self.form, self.bias = nn.Parameter(torch.eye(4)), nn.Parameter(torch.zeros(()))

    def spread(self, adjacency, h):
        out, back = adjacency, adjacency.mT
        ways = (a / (1 + a.sum(2, keepdim=True)) for a in (out, back))
        return torch.cat([h, *(way @ h for way in ways)], 2)

    def forward(self, x):
        adjacency = x[:, 0]
        names = torch.eye(12).expand(len(x), -1, -1)
        h = F.relu(self.first(self.spread(adjacency, names)))
        mean, logvar = self.head(self.spread(adjacency, h)).chunk(2, 2)
        z = draw(mean, logvar)
        logits = torch.einsum("bid,de,bje->bij", z, self.form, z) + self.bias
        return logits[:, None], mean, logvar


def coordinates(side: int = 16) -> Tensor:
    axis = torch.linspace(-1, 1, side)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)


@healthy("structure", batch=small)
class NeuralProcess(nn.Module):
    """Completes an image from random pixels; the prior has seen only those."""

    def __init__(self):
        super().__init__()
        self.point, self.head = mlp(3, 32, 32), nn.Linear(32, 16)
        self.decoder = mlp(10, 48, 48, 1)
        self.register_buffer("places", coordinates())

    def summary(self, values, known):
        places = self.places.expand(len(values), -1, -1)
        points = self.point(torch.cat([places, values[..., None]], 2))
        pooled = (points * known[..., None]).sum(1) / known.sum(1, keepdim=True)
        return self.head(F.relu(pooled)).chunk(2, 1)

    def forward(self, x):
        values = x.flatten(1)
        known = (torch.rand_like(values) < 0.3).float()
        mean, logvar = self.summary(values, torch.ones_like(values))
        z = draw(mean, logvar)[:, None].expand(-1, 256, -1)
        places = self.places.expand(len(x), -1, -1)
        recon = self.decoder(torch.cat([z, places], 2)).view_as(x)
        return recon, kl_rows(mean, logvar, *self.summary(values, known))

    def objective(self, x):
        recon, cost = self(x)
        return (half_square(recon, x) / 0.2**2 + cost.sum()) / len(x)


@healthy("structure", batch=small, loss=lambda m, x: narrow_loss(*take(m(x), x)))
class Siren(nn.Module):
    """The code shifts the phases of a network of coordinates."""

    def __init__(self):
        super().__init__()
        self.encoder = conv_encoder(1, 16)
        self.first, self.second = nn.Linear(2, 48), nn.Linear(48, 48)
        self.phases, self.last = nn.Linear(8, 96), nn.Linear(48, 1)
        self.register_buffer("places", coordinates())

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, 1)
        one, two = self.phases(draw(mean, logvar))[:, None].chunk(2, 2)
        h = torch.sin(10 * self.first(self.places) + one)
        h = torch.sin(self.second(h) + two)
        return self.last(h).view_as(x), mean, logvar


def take(outputs, x):
    """A loss's usual arguments."""
    return outputs[0], x, *outputs[1:]


class HyperNetwork(nn.Module):
    """The code chooses the last layer's weights."""

    def __init__(self):
        super().__init__()
        self.encoder, self.trunk = mlp(784, 64, 16), mlp(8, 32, 16)
        self.weights = nn.Linear(8, 8 * 16)
        self.pixels = nn.Linear(8, 784)

    def layer(self, z):
        return self.weights(z).view(-1, 8, 16)

    def forward(self, x):
        mean, logvar = self.encoder(x.flatten(1)).chunk(2, 1)
        z = draw(mean, logvar)
        h = torch.einsum("boi,bi->bo", self.layer(z), F.relu(self.trunk(z)))
        return self.pixels(F.relu(h)).view_as(x), mean, logvar


healthy("structure", loss=plain_loss)(HyperNetwork)


# The last activation is a ReLU, before a loss that takes logits
@fault("structure", "clipped_output", batch=small_digits, model=Siren)
def siren_relu(model, x):
    recon, mean, logvar = model(x)
    return bernoulli_loss(F.relu(recon), x, mean, logvar)


# The generated weights are made a parameter, which cuts them from their network
@fault("structure", "gradient_cut", loss=plain_loss)
class HyperParameter(HyperNetwork):
    def layer(self, z):
        return nn.Parameter(super().layer(z))


# Pixels are masked in place, so that the loss doesn't ask for what was masked
@fault("structure", "input_changed", loss=plain_loss)
class MaskedInPlace(Vae):
    def encode(self, x):
        left = torch.randint(0, 14, ()).item()
        x[:, :, left : left + 14, 7:21] = 0
        return super().encode(x)


# Several modalities: the upper and the lower half


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList(mlp(392, 48, 16) for _ in range(2))
        self.decoders = nn.ModuleList(mlp(8, 48, 392) for _ in range(2))

    def halves(self, x):
        return x.flatten(1).chunk(2, 1)

    def experts(self, x):
        pairs = zip(self.encoders, self.halves(x), strict=True)
        return [encoder(half).chunk(2, 1) for encoder, half in pairs]

    def decode(self, z):
        return [decoder(z) for decoder in self.decoders]


@healthy("multimodal")
class ProductOfExperts(Experts):
    def forward(self, x):
        (m1, l1), (m2, l2) = self.experts(x)
        logvar = -torch.log(1 + (-l1).exp() + (-l2).exp())
        mean = logvar.exp() * (m1 * (-l1).exp() + m2 * (-l2).exp())
        return self.decode(draw(mean, logvar)), mean, logvar

    def objective(self, x):
        logits, mean, logvar = self(x)
        nll = sum(bce(*pair) for pair in zip(logits, self.halves(x), strict=True))
        return (nll + kl(mean, logvar)) / len(x)


@healthy("multimodal")
class MixtureOfExperts(Experts):
    """Each expert's code must explain both halves."""

    def objective(self, x):
        total, experts = 0.0, self.experts(x)
        for mean, logvar in experts:
            z = draw(mean, logvar)
            logs = torch.stack([log_normal(z, *other) for other in experts])
            total = total + logs.logsumexp(0) - math.log(2) - log_standard(z)
            total = total + bce_rows(torch.cat(self.decode(z), 1), x)
        return total.mean() / 2


# The loss knows only the first modality
@fault("multimodal", "pixels_left_out")
class ProductFirst(ProductOfExperts):
    def objective(self, x):
        logits, mean, logvar = self(x)
        return (bce(logits[0], self.halves(x)[0]) + kl(mean, logvar)) / len(x)


# Normalization, transforms and training


@healthy("training", loss=plain_loss)
class BatchNormMeans(Vae):
    """BN-VAE: the means are normalized to a spread of 0.6, against collapse."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, affine=False)
        self.shift = nn.Parameter(torch.zeros(8))
        train(self, plain_loss, digits(3, 256), 100)

    def encode(self, x):
        mean, logvar = super().encode(x)
        return 0.6 * self.norm(mean) + self.shift, logvar


class Mapped(Vae):
    """One image's function, mapped over the batch."""

    randomness = "different"

    def forward(self, x):
        return torch.func.vmap(self.single, randomness=self.randomness)(x)

    def single(self, x):
        mean, logvar = self.fc21(h := F.relu(self.fc1(x.flatten()))), self.fc22(h)
        return self.decode(draw(mean, logvar)).view(1, 28, 28), mean, logvar


healthy("training", loss=plain_loss)(Mapped)


@healthy("training", batch=colour, loss=lambda m, x: narrow_loss(*take(m(x), x)))
class MixedPrecision(ColourVae):
    """bfloat16 where it is enough, activations not kept, weights normalized."""

    def __init__(self):
        super().__init__(norm=lambda width: nn.GroupNorm(4, width))
        spectral = nn.utils.parametrizations.spectral_norm
        self.decoder[0] = spectral(self.decoder[0])
        self.decoder[3] = nn.utils.parametrizations.weight_norm(self.decoder[3])

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            h = checkpoint(self.encoder, x, use_reentrant=False)
        mean, logvar = h.float().chunk(2, 1)
        return self.decoder(draw(mean, logvar)), mean, logvar


# vmap draws one noise for all images
@fault("training", "shared_noise", loss=plain_loss)
class MappedSame(Mapped):
    randomness = "same"


# The schedule gives a learning rate, where LambdaLR wants a factor to the first one
@fault("training", "learning_rate")
def scheduled(seed):
    model = Vae()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1e-4 * 0.99**epoch)
    return dict(
        model=model, batch=digits(seed), loss=bernoulli_loss, optimizer=optimizer
    )


# The ELBO had been maximized; its sign was changed, and the optimizer's was not
@fault(
    "training",
    "maximized_loss",
    optimizer=lambda model: torch.optim.SGD(model.parameters(), 1e-4, maximize=True),
)
class Maximized(Weighted):
    pass


# The encoder's Sequential ends with a ReLU, which stands before both outputs
@fault("training", "limited_mean", "limited_width", batch=colour)
class RectifiedCodes(Pair):
    def __init__(self):
        super().__init__(
            nn.Sequential(conv_encoder(3, 16), nn.ReLU()), conv_decoder(8, 3)
        )

    def objective(self, x):
        return narrow_loss(*take(self(x), x))


# Calls that can't work


@crasher("call")
def class_not_model(seed):
    return dict(model=Vae, batch=digits(seed), loss=bernoulli_loss)


@crasher("call")
def array_batch(seed):
    return dict(model=Vae(), batch=digits(seed).numpy(), loss=bernoulli_loss)


@crasher("call")
def byte_batch(seed):
    images = (grey(seed) * 255).to(torch.uint8)
    return dict(model=Vae(), batch=images, loss=bernoulli_loss)


@crasher("call")
def wrong_size(seed):
    return dict(model=ColourVae(), batch=digits(seed), loss=narrow_loss)


@crasher("call")
def optimizer_class(seed):
    return dict(
        model=Vae(), batch=digits(seed), loss=bernoulli_loss, optimizer=torch.optim.Adam
    )


@crasher("call")
def loss_of_nothing(seed):
    model, x = Vae(), digits(seed)
    return dict(model=model, batch=x, loss=lambda: plain_loss(model, x))


@crasher("call")
def loss_per_image(seed):
    def loss(recon, x, mean, logvar):
        return bce_rows(recon.flatten(1), x) + kl_rows(mean, logvar)

    return dict(model=Vae(), batch=digits(seed), loss=loss)


@crasher("call")
def meta_device(seed):
    with torch.device("meta"):
        model = Vae()
    return dict(model=model, batch=digits(seed), loss=bernoulli_loss)
