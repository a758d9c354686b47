"""Kinds of models and faults on which `diagnose` was developed."""

import math, random
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
from torch import distributions as D

torch.set_num_threads(1)
from vae_tutorial.data import binarize, load_mnist

GREY = load_mnist().train.images[:64]
BINARY = binarize(GREY, 0)


class M(nn.Module):
    def __init__(self, latent=5, out=784):
        super().__init__()
        self.body, self.m, self.s, self.code, self.out = (
            nn.Linear(784, 100),
            nn.Linear(100, latent),
            nn.Linear(100, latent),
            nn.Linear(latent, 100),
            nn.Linear(100, out),
        )

    def encode(self, x):
        h = torch.tanh(self.body(x.flatten(1)))
        return self.m(h), self.s(h)

    def sample(self, m, s):
        return m + torch.exp(s / 2) * torch.randn_like(m)

    def logits(self, z):
        return self.out(F.leaky_relu(self.code(z)))

    def decode(self, z):
        return torch.sigmoid(self.logits(z))

    def forward(self, x):
        m, s = self.encode(x)
        return self.decode(self.sample(m, s)), m, s


def bce(r, x):
    return F.binary_cross_entropy(r.flatten(1), x.flatten(1), reduction="sum")


def kl(m, s):
    return 0.5 * (m**2 + s.exp() - 1 - s).sum()


def L(recon, x, mu, logvar):
    return (bce(recon, x) + kl(mu, logvar)) / len(x)


def ch(base=M, **k):
    return type("C", (base,), k)


HEALTHY, FAULTS = {}, {}

# ---- odd sampling
gen = np.random.default_rng(0)
HEALTHY["numpy noise"] = lambda: (
    ch(
        sample=lambda self, m, s: (
            m
            + torch.exp(s / 2)
            * torch.from_numpy(np.random.randn(*m.shape).astype("float32"))
        )
    )(),
    BINARY,
    L,
    {},
)
HEALTHY["numpy generator"] = lambda: (
    ch(
        sample=lambda self, m, s: (
            m
            + torch.exp(s / 2)
            * torch.as_tensor(gen.standard_normal(m.shape), dtype=torch.float32)
        )
    )(),
    BINARY,
    L,
    {},
)
HEALTHY["inverse cdf"] = lambda: (
    ch(
        sample=lambda self, m, s: (
            m
            + torch.exp(s / 2)
            * D.Normal(0.0, 1.0).icdf(torch.rand_like(m).clamp(1e-6, 1 - 1e-6))
        )
    )(),
    BINARY,
    L,
    {},
)
HEALTHY["erfinv"] = lambda: (
    ch(
        sample=lambda self, m, s: (
            m
            + torch.exp(s / 2)
            * math.sqrt(2)
            * torch.erfinv(2 * torch.rand_like(m).clamp(1e-6, 1 - 1e-6) - 1)
        )
    )(),
    BINARY,
    L,
    {},
)
HEALTHY["box muller"] = lambda: (
    ch(
        sample=lambda self, m, s: (
            m
            + torch.exp(s / 2)
            * torch.sqrt(-2 * torch.log(torch.rand_like(m).clamp_min(1e-9)))
            * torch.cos(2 * math.pi * torch.rand_like(m))
        )
    )(),
    BINARY,
    L,
    {},
)
HEALTHY["python random"] = lambda: (
    ch(
        sample=lambda self, m, s: (
            m
            + torch.exp(s / 2)
            * torch.tensor([[random.gauss(0, 1) for _ in r] for r in m.tolist()])
        )
    )(),
    BINARY,
    L,
    {},
)
HEALTHY["uniform unit variance"] = lambda: (
    (
        ch(
            sample=lambda self, m, s: (
                m + torch.exp(s / 2) * math.sqrt(12) * (torch.rand_like(m) - 0.5)
            )
        )
    )(),
    BINARY,
    L,
    {},
)
FAULTS["numpy fixed"] = (
    ("same_noise",),
    lambda: (
        ch(
            sample=lambda self, m, s: (
                m
                + torch.exp(s / 2)
                * torch.from_numpy(
                    np.random.default_rng(0).standard_normal(m.shape)
                ).float()
            )
        )(),
        BINARY,
        L,
        {},
    ),
)
FAULTS["numpy half"] = (
    ("shared_noise",),
    lambda: (
        ch(
            sample=lambda self, m, s: (
                m
                + torch.exp(s / 2)
                * torch.from_numpy(np.random.randn(1, m.shape[1])).float()
            )
        )(),
        BINARY,
        L,
        {},
    ),
)


# ---- kinds
class Full(nn.Module):
    def __init__(self, low=False):
        super().__init__()
        self.e = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 90), nn.Tanh(), nn.Linear(90, 4 + 16)
        )
        self.d = nn.Sequential(nn.Linear(4, 90), nn.Tanh(), nn.Linear(90, 784))
        self.low = low

    def loss(self, x):
        h = self.e(x)
        m = h[:, :4]
        A = h[:, 4:].view(-1, 4, 4)
        q = (
            D.LowRankMultivariateNormal(m, A[:, :, :1], A[:, :, 1].exp())
            if self.low
            else D.MultivariateNormal(
                m,
                scale_tril=torch.tril(A, -1)
                + torch.diag_embed(A.diagonal(dim1=1, dim2=2).exp()),
            )
        )
        z = q.rsample()
        p = D.MultivariateNormal(torch.zeros(4), torch.eye(4))
        k = D.kl_divergence(q, p) if not self.low else q.log_prob(z) - p.log_prob(z)
        return (
            F.binary_cross_entropy_with_logits(
                self.d(z), x.flatten(1), reduction="none"
            ).sum(1)
            + k
        ).mean()


HEALTHY["full covariance"] = lambda: (
    Full(),
    BINARY,
    lambda model, x: model.loss(x),
    {},
)
HEALTHY["low rank"] = lambda: (Full(True), BINARY, lambda model, x: model.loss(x), {})


class Flow(M):
    def __init__(self, n=2):
        super().__init__(4)
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 4))
            for _ in range(n)
        )

    def loss(self, x):
        m, s = self.encode(x)
        e = torch.randn_like(m)
        z = m + (s / 2).exp() * e
        lq = (-0.5 * e**2 - 0.5 * s - 0.5 * math.log(2 * math.pi)).sum(1)
        for n in self.nets:
            a, b = z.chunk(2, 1)
            sh, sc = n(a).chunk(2, 1)
            sc = torch.tanh(sc)
            b = b * sc.exp() + sh
            lq = lq - sc.sum(1)
            z = torch.cat([b, a], 1)
        lp = D.Normal(0.0, 1.0).log_prob(z).sum(1)
        return (
            F.binary_cross_entropy_with_logits(
                self.logits(z), x.flatten(1), reduction="none"
            ).sum(1)
            + lq
            - lp
        ).mean()


HEALTHY["coupling posterior"] = lambda: (
    Flow(),
    BINARY,
    lambda model, x: model.loss(x),
    {},
)


class Hier(nn.Module):
    def __init__(self):
        super().__init__()
        self.e1 = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 90), nn.Tanh(), nn.Linear(90, 12)
        )
        self.e2 = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 6))
        self.p1 = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 12))
        self.d = nn.Sequential(nn.Linear(6, 90), nn.Tanh(), nn.Linear(90, 784))

    def loss(self, x):
        m, s = self.e1(x).chunk(2, 1)
        q1 = D.Normal(m, (s / 2).exp())
        z1 = q1.rsample()
        m2, s2 = self.e2(z1).chunk(2, 1)
        q2 = D.Normal(m2, (s2 / 2).exp())
        z2 = q2.rsample()
        pm, ps = self.p1(z2).chunk(2, 1)
        p1 = D.Normal(pm, (ps / 2).exp())
        return (
            F.binary_cross_entropy_with_logits(
                self.d(z1), x.flatten(1), reduction="none"
            ).sum(1)
            + (q1.log_prob(z1) - p1.log_prob(z1)).sum(1)
            + D.kl_divergence(q2, D.Normal(0.0, 1.0)).sum(1)
        ).mean()


HEALTHY["two layers"] = lambda: (Hier(), BINARY, lambda model, x: model.loss(x), {})


def iwae(model, x, K=5):
    m, s = model.encode(x)
    q = D.Normal(m, (s / 2).exp())
    z = q.rsample((K,))
    lp = -F.binary_cross_entropy_with_logits(
        model.logits(z), x.flatten(1).expand(K, -1, -1), reduction="none"
    ).sum(2)
    w = lp + D.Normal(0.0, 1.0).log_prob(z).sum(2) - q.log_prob(z).sum(2)
    return -(torch.logsumexp(w, 0) - math.log(K)).mean()


HEALTHY["iwae"] = lambda: (M(), BINARY, iwae, {})


class Vamp(M):
    def __init__(self):
        super().__init__()
        self.u = nn.Parameter(torch.rand(20, 784))

    def loss(self, x):
        m, s = self.encode(x)
        q = D.Normal(m, (s / 2).exp())
        z = q.rsample()
        pm, ps = self.encode(self.u.sigmoid())
        lp = D.Normal(pm, (ps / 2).exp()).log_prob(z[:, None]).sum(2).logsumexp(
            1
        ) - math.log(20)
        return (bce(self.decode(z), x) + (q.log_prob(z).sum(1) - lp).sum()) / len(x)


HEALTHY["vamp"] = lambda: (Vamp(), BINARY, lambda model, x: model.loss(x), {})


class FixedMix(M):
    def __init__(self):
        super().__init__(2)
        self.register_buffer("c", torch.tensor([[2.0, 0], [-2, 0], [0, 2], [0, -2]]))

    def loss(self, x):
        m, s = self.encode(x)
        q = D.Normal(m, (s / 2).exp())
        z = q.rsample()
        lp = D.Normal(self.c, 0.5).log_prob(z[:, None]).sum(2).logsumexp(1) - math.log(
            4
        )
        return (bce(self.decode(z), x) + (q.log_prob(z).sum(1) - lp).sum()) / len(x)


HEALTHY["fixed mixture"] = lambda: (
    FixedMix(),
    BINARY,
    lambda model, x: model.loss(x),
    {},
)


class VQ(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 90), nn.ReLU(), nn.Linear(90, 32)
        )
        self.d = nn.Sequential(nn.Linear(32, 90), nn.ReLU(), nn.Linear(90, 784))
        self.book = nn.Embedding(16, 4)

    def forward(self, x):
        z = self.e(x).view(-1, 8, 4)
        i = torch.cdist(z.reshape(-1, 4), self.book.weight).argmin(1)
        q = self.book(i).view_as(z)
        st = z + (q - z).detach()
        return torch.sigmoid(self.d(st.flatten(1))), z, q, i


def vqloss(model, x):
    r, z, q, i = model(x)
    return (
        bce(r, x) + ((q - z.detach()) ** 2).sum() + 0.25 * ((z - q.detach()) ** 2).sum()
    ) / len(x)


HEALTHY["vq"] = lambda: (VQ(), BINARY, vqloss, {})


class Gumbel(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 90), nn.ReLU(), nn.Linear(90, 60)
        )
        self.d = nn.Sequential(nn.Linear(60, 90), nn.ReLU(), nn.Linear(90, 784))

    def forward(self, x):
        l = self.e(x).view(-1, 6, 10)
        z = F.gumbel_softmax(l, tau=0.7)
        return torch.sigmoid(self.d(z.flatten(1))), l


HEALTHY["gumbel"] = lambda: (
    Gumbel(),
    BINARY,
    lambda model, x: (
        lambda r, l: (
            (bce(r, x) + (l.softmax(2) * (l.log_softmax(2) + math.log(10))).sum())
            / len(x)
        )
    )(*model(x)),
    {},
)


class AE(M):
    def forward(self, x):
        z = self.encode(x)[0]
        return self.decode(z), z


def mmd(z, p):
    k = lambda a, b: torch.exp(-(torch.cdist(a, b) ** 2) / (2 * 5)).mean()
    return k(z, z) + k(p, p) - 2 * k(z, p)


HEALTHY["wae"] = lambda: (
    AE(),
    BINARY,
    lambda model, x: (
        lambda r, z: bce(r, x) / len(x) + 10 * mmd(z, torch.randn_like(z))
    )(*model(x)),
    {},
)
HEALTHY["rae"] = lambda: (
    AE(),
    BINARY,
    lambda model, x: (
        lambda r, z: (
            (bce(r, x) + 0.01 * (z**2).sum() / 2) / len(x)
            + 1e-4 * sum((p**2).sum() for p in model.out.parameters())
        )
    )(*model(x)),
    {},
)
HEALTHY["info vae"] = lambda: (
    M(),
    BINARY,
    lambda model, x: (
        lambda m, s: (
            lambda z: (
                bce(model.decode(z), x) / len(x)
                + 0.5 * kl(m, s) / len(x)
                + 50 * mmd(z, torch.randn_like(z))
            )
        )(model.sample(m, s))
    )(*model.encode(x)),
    dict(beta=0.5),
)


class Fact(M):
    def __init__(self):
        super().__init__()
        self.disc = nn.Sequential(nn.Linear(5, 50), nn.LeakyReLU(), nn.Linear(50, 2))

    def loss(self, x):
        m, s = self.encode(x)
        z = self.sample(m, s)
        d = self.disc(z)
        return (bce(self.decode(z), x) + kl(m, s)) / len(x) + 6 * (
            d[:, 0] - d[:, 1]
        ).mean()


HEALTHY["factor vae"] = lambda: (Fact(), BINARY, lambda model, x: model.loss(x), {})


def tc(model, x):
    m, s = model.encode(x)
    z = model.sample(m, s)
    q = D.Normal(m, (s / 2).exp())
    lq = q.log_prob(z).sum(1)
    lp = D.Normal(0.0, 1.0).log_prob(z).sum(1)
    mat = D.Normal(m[None], (s / 2).exp()[None]).log_prob(z[:, None])
    lqz = mat.sum(2).logsumexp(1) - math.log(len(x) * 1000)
    lprod = (mat.logsumexp(1) - math.log(len(x) * 1000)).sum(1)
    return (
        bce(model.decode(z), x) + ((lq - lqz) + 4 * (lqz - lprod) + (lprod - lp)).sum()
    ) / len(x)


HEALTHY["beta tcvae"] = lambda: (M(), BINARY, tc, {})


def dip(model, x):
    r, m, s = model(x)
    c = torch.cov(m.T)
    return (
        L(r, x, m, s)
        + 10 * (c - torch.diag(c.diag())).pow(2).sum()
        + 5 * (c.diag() - 1).pow(2).sum()
    )


HEALTHY["dip"] = lambda: (M(), BINARY, dip, {})
HEALTHY["student t"] = lambda: (
    M(),
    BINARY,
    lambda model, x: (
        lambda m, s: (
            (
                -D.StudentT(4.0, model.logits(model.sample(m, s)), 0.3)
                .log_prob(x.flatten(1))
                .sum()
                + kl(m, s)
            )
            / len(x)
        )
    )(*model.encode(x)),
    {},
)
HEALTHY["laplace"] = lambda: (
    ch(decode=M.logits)(),
    GREY,
    lambda model, x: (
        lambda r, m, s: (
            (-D.Laplace(r, 0.2).log_prob(x.flatten(1)).sum() + kl(m, s)) / len(x)
        )
    )(*model(x)),
    {},
)


def logistic(model, x):
    m, s = model.encode(x)
    r = model.logits(model.sample(m, s))
    v = x.flatten(1)
    b = 1 / 255 / 2
    sc = 0.1
    p = torch.sigmoid((v + b - r) / sc) - torch.sigmoid((v - b - r) / sc)
    return (-(p.clamp_min(1e-12)).log().sum() + kl(m, s)) / len(x)


HEALTHY["discretized logistic"] = lambda: (M(), GREY, logistic, {})
HEALTHY["logcosh"] = lambda: (
    M(),
    GREY,
    lambda recon, x, mu, logvar: (
        (30 * torch.log(torch.cosh(recon - x.flatten(1))).sum() + kl(mu, logvar))
        / len(x)
    ),
    {},
)
feat = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
for p in feat.parameters():
    p.requires_grad_(False)
HEALTHY["perceptual"] = lambda: (
    M(),
    GREY,
    lambda recon, x, mu, logvar: (
        (
            50 * (feat(recon.view_as(x)) - feat(x)).pow(2).sum()
            + (recon - x.flatten(1)).pow(2).sum()
            + kl(mu, logvar)
        )
        / len(x)
    ),
    {},
)
HEALTHY["denoising"] = lambda: (
    ch(
        encode=lambda self, x: M.encode(
            self, (x + 0.3 * torch.randn_like(x)).clamp(0, 1)
        )
    )(),
    BINARY,
    L,
    {},
)
HEALTHY["dropout input"] = lambda: (
    ch(encode=lambda self, x: M.encode(self, F.dropout(x, 0.2, self.training)))(),
    BINARY,
    L,
    {},
)
HEALTHY["manual dropout"] = lambda: (
    ch(
        encode=lambda self, x: (lambda h: (self.m(h), self.s(h)))(
            torch.tanh(self.body(x.flatten(1)))
            * ((torch.rand(len(x), 100) > 0.2).float() / 0.8 if self.training else 1.0)
        )
    )(),
    BINARY,
    L,
    {},
)
y = torch.randint(0, 10, (64,))


class Cond(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Sequential(nn.Linear(794, 100), nn.ReLU(), nn.Linear(100, 10))
        self.d = nn.Sequential(
            nn.Linear(15, 100), nn.ReLU(), nn.Linear(100, 784), nn.Sigmoid()
        )

    def forward(self, x, y):
        o = F.one_hot(y, 10).float()
        m, s = self.e(torch.cat([x.flatten(1), o], 1)).chunk(2, 1)
        z = m + (s / 2).exp() * torch.randn_like(m)
        return self.d(torch.cat([z, o], 1)), m, s


HEALTHY["conditional"] = lambda: (
    Cond(),
    BINARY,
    lambda model, x: (lambda r, m, s: L(r, x, m, s))(*model(x, y[: len(x)])),
    {},
)


def auto(model, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        m, s = model.encode(x)
        l = model.logits(model.sample(m, s))
    return (
        F.binary_cross_entropy_with_logits(l.float(), x.flatten(1), reduction="sum")
        + kl(m.float(), s.float())
    ) / len(x)


HEALTHY["autocast"] = lambda: (M(), BINARY, auto, {})
HEALTHY["bfloat16"] = lambda: (M().bfloat16(), BINARY.bfloat16(), L, {})


class Named(M):
    def encode(self, x):
        h = torch.tanh(self.body(x.flatten(1)))
        top = h.view(len(x), 10, 10).max(dim=2)
        h = h + top.values.repeat(1, 10) * 0.1
        return self.m(h), self.s(h)


HEALTHY["named tuple"] = lambda: (Named(), BINARY, L, {})


class GS(M):
    def encode(self, x):
        m, s = super().encode(x)
        n = 0
        while m.detach().abs().max() > 3 and n < 5:
            m = m * 0.9
            n += 1
        return m, s


HEALTHY["control flow"] = lambda: (GS(), BINARY, L, {})


class Res(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.f = nn.Sequential(
            nn.GroupNorm(8, c),
            nn.SiLU(),
            nn.Conv2d(c, c, 3, padding=1),
            nn.GroupNorm(8, c),
            nn.SiLU(),
            nn.Conv2d(c, c, 3, padding=1),
        )

    def forward(s, x):
        return x + s.f(x)


class KLF(nn.Module):
    def __init__(s, c=32):
        super().__init__()
        s.e = nn.Sequential(
            nn.Conv2d(3, c, 3, padding=1),
            Res(c),
            nn.Conv2d(c, c, 3, 2, 1),
            Res(c),
            nn.Conv2d(c, c, 3, 2, 1),
            Res(c),
            nn.GroupNorm(8, c),
            nn.SiLU(),
            nn.Conv2d(c, 8, 3, padding=1),
        )
        s.d = nn.Sequential(
            nn.Conv2d(4, c, 3, padding=1),
            Res(c),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(c, c, 3, padding=1),
            Res(c),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(c, c, 3, padding=1),
            Res(c),
            nn.GroupNorm(8, c),
            nn.SiLU(),
            nn.Conv2d(c, 3, 3, padding=1),
        )

    def forward(s, x):
        m, lv = s.e(x).chunk(2, 1)
        z = m + (lv.clamp(-30, 20) / 2).exp() * torch.randn_like(m)
        return s.d(z), m, lv


def colours(n, size):
    g = torch.Generator().manual_seed(0)
    small = torch.rand(n, 3, 4, 4, generator=g)
    return F.interpolate(small, size=(size, size), mode="bilinear")


HEALTHY["kl-f4 64x64x3"] = lambda: (
    KLF(),
    colours(64, 64) * 2 - 1,
    lambda recon, x, mean, logvar: (
        (recon - x).abs().sum() / len(x) + 1e-6 * kl(mean, logvar) / len(x)
    ),
    dict(beta=1e-6),
)


class BN(nn.Module):
    def __init__(s, mom=0.1, on=False):
        super().__init__()
        b = lambda c: nn.BatchNorm2d(c, momentum=mom)
        s.e = nn.Sequential(
            nn.Conv2d(3, 16, 4, 2, 1),
            b(16),
            nn.LeakyReLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            b(32),
            nn.LeakyReLU(),
            nn.Flatten(),
        )
        s.m = nn.Linear(32 * 64, 8)
        s.s = nn.Linear(32 * 64, 8)
        s.n = nn.BatchNorm1d(8) if on else nn.Identity()
        s.d = nn.Sequential(
            nn.Linear(8, 32 * 64),
            nn.Unflatten(1, (32, 8, 8)),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            b(16),
            nn.LeakyReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
        )

    def forward(s, x):
        h = s.e(x)
        m, v = s.m(h), s.n(s.s(h))
        return s.d(m + (v / 2).exp() * torch.randn_like(m)), m, v


def gauss(recon, x, mu, logvar):
    return (0.5 * ((recon - x) ** 2).sum() / 0.01 + kl(mu, logvar)) / len(x)


HEALTHY["batch norm colours"] = lambda: (BN(), colours(64, 32), gauss, {})
HEALTHY["mse mean and kld weight"] = lambda: (
    BN(),
    colours(64, 32),
    lambda recon, x, mu, logvar: (
        F.mse_loss(recon, x) + 0.00025 * kl(mu, logvar) / len(x)
    ),
    {},
)


class Joint(M):
    def __init__(self):
        super().__init__(5)
        self.c = nn.Linear(100, 10)
        self.code = nn.Linear(15, 100)

    def loss(self, x):
        h = torch.tanh(self.body(x.flatten(1)))
        m, s, l = self.m(h), self.s(h), self.c(h)
        z = torch.cat([self.sample(m, s), F.gumbel_softmax(l, 0.5)], 1)
        return (
            bce(self.decode(z), x)
            + kl(m, s)
            + (l.softmax(1) * (l.log_softmax(1) + math.log(10))).sum()
        ) / len(x)


HEALTHY["joint vae"] = lambda: (Joint(), BINARY, lambda model, x: model.loss(x), {})


class Sig(M):
    def __init__(self):
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))


HEALTHY["learned sigma"] = lambda: (
    Sig(),
    GREY,
    lambda model, x: (
        lambda r, m, s: (
            (
                -D.Normal(r, model.log_sigma.exp()).log_prob(x.flatten(1)).sum()
                + kl(m, s)
            )
            / len(x)
        )
    )(*model(x)),
    {},
)


class GAN(M):
    def __init__(self):
        super().__init__()
        self.disc = nn.Sequential(nn.Linear(784, 50), nn.LeakyReLU(), nn.Linear(50, 1))


HEALTHY["vae gan term"] = lambda: (
    GAN(),
    BINARY,
    lambda model, x: (
        lambda r, m, s: L(r, x, m, s) + 0.5 * F.softplus(-model.disc(r)).mean()
    )(*model(x)),
    {},
)


class RNN(nn.Module):
    def __init__(s):
        super().__init__()
        s.e = nn.LSTM(28, 40, batch_first=True)
        s.h = nn.Linear(40, 12)
        s.c = nn.Linear(6, 40)
        s.d = nn.LSTM(40, 40, batch_first=True)
        s.o = nn.Linear(40, 28)

    def forward(s, x):
        _, (h, _) = s.e(x.squeeze(1))
        m, v = s.h(h[-1]).chunk(2, 1)
        z = m + (v / 2).exp() * torch.randn_like(m)
        o, _ = s.d(s.c(z)[:, None].expand(-1, 28, -1))
        return torch.sigmoid(s.o(o)), m, v


HEALTHY["lstm rows"] = lambda: (RNN(), BINARY, L, {})


class Tr(nn.Module):
    def __init__(s):
        super().__init__()
        s.i = nn.Linear(28, 32)
        s.t = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1), 1
        )
        s.h = nn.Linear(32, 12)
        s.c = nn.Linear(6, 28 * 32)
        s.t2 = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1), 1
        )
        s.o = nn.Linear(32, 28)

    def forward(s, x):
        h = s.t(s.i(x.squeeze(1))).mean(1)
        m, v = s.h(h).chunk(2, 1)
        z = m + (v / 2).exp() * torch.randn_like(m)
        return torch.sigmoid(s.o(s.t2(s.c(z).view(-1, 28, 32)))), m, v


HEALTHY["transformer"] = lambda: (Tr(), BINARY, L, {})


class SN(M):
    def __init__(self):
        super().__init__()
        self.body = nn.utils.parametrizations.spectral_norm(self.body)
        self.code = nn.utils.parametrizations.weight_norm(self.code)


HEALTHY["spectral and weight norm"] = lambda: (SN(), BINARY, L, {})
HEALTHY["sticking the landing"] = lambda: (
    M(),
    BINARY,
    lambda model, x: (
        lambda m, s: (
            lambda z: (
                (
                    bce(model.decode(z), x)
                    + (
                        D.Normal(m.detach(), (s / 2).exp().detach()).log_prob(z)
                        - D.Normal(0.0, 1.0).log_prob(z)
                    ).sum()
                )
                / len(x)
            )
        )(model.sample(m, s))
    )(*model.encode(x)),
    {},
)
HEALTHY["triple"] = lambda: (
    (lambda mm: (mm.encode, mm.sample, mm.decode))(M()),
    BINARY,
    L,
    {},
)
# ---- faults
FAULTS["terms multiplied"] = (
    ("not_additive",),
    lambda: (
        M(),
        BINARY,
        lambda recon, x, mu, logvar: (
            bce(recon, x) / len(x) * (1 + kl(mu, logvar) / len(x))
        ),
        {},
    ),
)
FAULTS["max of terms"] = (
    ("not_additive",),
    lambda: (
        M(),
        BINARY,
        lambda recon, x, mu, logvar: (
            torch.maximum(bce(recon, x), kl(mu, logvar)) / len(x)
        ),
        {},
    ),
)


class Tied(M):
    def __init__(self):
        super().__init__()
        self.t = nn.Parameter(torch.randn(784, 100) * 0.05)
        del self.body, self.out

    def encode(self, x):
        h = torch.tanh(x.flatten(1) @ self.t)
        return self.m(h), self.s(h)

    def logits(self, z):
        return F.leaky_relu(self.code(z)) @ self.t.detach().T


FAULTS["tied to a detached copy"] = (
    ("wrong_gradient", "gradient_cut"),
    lambda: (Tied(), BINARY, L, {}),
)


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return 0.1 * g


FAULTS["scaled gradient"] = (
    ("wrong_gradient", "gradient_cut"),
    lambda: (
        ch(
            encode=lambda self, x: (lambda m, s: (Scale.apply(m), s))(
                *M.encode(self, x)
            )
        )(),
        BINARY,
        L,
        {},
    ),
)


def trained(model, loss, steps=60, lr=1e-3, opt=None, x=BINARY, **k):
    o = (opt or torch.optim.Adam)(
        [p for p in model.parameters() if p.requires_grad], lr=lr
    )
    for i in range(steps):
        o.zero_grad()
        out = model(x)
        v = loss(out[0], x, *out[1:])
        v.backward()
        o.step()
    return model, o


FAULTS["bn momentum 1"] = (
    ("train_eval_gap",),
    lambda: (
        trained(BN(1.0), gauss, 20, x=colours(64, 32))[0],
        colours(64, 32),
        gauss,
        {},
    ),
)
FAULTS["bn log variance"] = (
    ("limited_width",),
    lambda: (BN(0.1, True), colours(64, 32), gauss, {}),
)
FAULTS["target binarized again"] = (
    ("random_targets",),
    lambda: (
        M(),
        GREY,
        lambda model, x: (lambda r, m, s: L(r, torch.bernoulli(x), m, s))(
            *model(torch.bernoulli(x))
        ),
        {},
    ),
)
HEALTHY["target binarized, grey in"] = lambda: (
    M(),
    GREY,
    lambda model, x: (lambda r, m, s: L(r, torch.bernoulli(x), m, s))(*model(x)),
    {},
)
HEALTHY["binarized in the loss"] = lambda: (
    M(),
    GREY,
    lambda model, x: (lambda b: (lambda r, m, s: L(r, b, m, s))(*model(b)))(
        torch.bernoulli(x)
    ),
    {},
)
FAULTS["tanh logits"] = (
    ("unreachable_pixels", "clipped_output"),
    lambda: (
        ch(decode=lambda self, z: torch.tanh(self.logits(z)))(),
        BINARY,
        lambda recon, x, mu, logvar: (
            (
                F.binary_cross_entropy_with_logits(recon, x.flatten(1), reduction="sum")
                + kl(mu, logvar)
            )
            / len(x)
        ),
        {},
    ),
)
perm = torch.randperm(784)
FAULTS["scrambled"] = (
    ("transposed_targets",),
    lambda: (
        M(),
        BINARY,
        lambda recon, x, mu, logvar: L(recon, x.flatten(1)[:, perm], mu, logvar),
        {},
    ),
)
HEALTHY["squared error without its half"] = lambda: (
    M(),
    GREY,
    lambda recon, x, mu, logvar: (
        (((recon - x.flatten(1)) ** 2).sum() + kl(mu, logvar)) / len(x)
    ),
    {},
)
HEALTHY["half of squared error"] = lambda: (
    M(),
    GREY,
    lambda recon, x, mu, logvar: (
        (0.5 * ((recon - x.flatten(1)) ** 2).sum() + kl(mu, logvar)) / len(x)
    ),
    {},
)


def ev(model, images):
    t = 0.0
    for p in images.split(100):
        t += bce(model(p)[0], p).item()
    return t / len(images)


def ev2(model, images):
    t = 0.0
    for p in images.split(100):
        t += L(*(lambda o: (o[0], p, *o[1:]))(model(p))).item() * len(p)
    return t / len(images)


FAULTS["evaluate without kl"] = (
    ("metric_without_kl",),
    lambda: (M(), BINARY, L, dict(evaluate=ev)),
)
HEALTHY["evaluate with kl"] = lambda: (M(), BINARY, L, dict(evaluate=ev2))


def frozen():
    m = M()
    for p in m.body.parameters():
        p.requires_grad_(False)
    with torch.no_grad():
        m.body.weight.zero_()
    return trained(m, L, 60, 3e-3)[0], BINARY, L, {}


FAULTS["frozen encoder, collapsed"] = (("frozen", "encoder_ignores_x"), frozen)


def fr2():
    m = M()
    for q in (m.body, m.m, m.s):
        for p in q.parameters():
            p.requires_grad_(False)
    with torch.no_grad():
        m.m.weight.mul_(0.01)
    return trained(m, L, 80, 3e-3)[0], BINARY, L, {}


FAULTS["frozen heads"] = (("frozen",), fr2)


class R(M):
    def encode(self, x):
        h = F.relu(self.body(x.flatten(1)))
        return self.m(h), self.s(h)


def lr10():
    m, o = trained(
        R(),
        lambda r, x, m, s: L(
            r.nan_to_num(0.5).clamp(0, 1), x, m.clamp(-5, 5), s.clamp(-5, 5)
        ),
        20,
        10.0,
    )
    return (
        m,
        BINARY,
        lambda recon, x, mu, logvar: L(
            recon.nan_to_num(0.5), x, mu.clamp(-50, 50), logvar.clamp(-9, 9)
        ),
        dict(optimizer=o),
    )


FAULTS["learning rate 10, dead"] = (("learning_rate",), lr10)


def noenc():
    m = M()
    o = torch.optim.Adam([*m.code.parameters(), *m.out.parameters()], lr=2e-3)
    for i in range(100):
        o.zero_grad()
        v = L(*(lambda t: (t[0], BINARY, *t[1:]))(m(BINARY)))
        v.backward()
        o.step()
    return m, BINARY, L, dict(optimizer=o)


FAULTS["encoder not in optimizer"] = (("not_in_optimizer",), noenc)
FAULTS["no sampling"] = (
    ("no_sampling",),
    lambda: (ch(sample=lambda self, m, s: m)(), BINARY, L, {}),
)
FAULTS["kl wrong mc prior"] = (
    ("kl_formula", "kl_sign", "sigma_mismatch"),
    lambda: (
        M(),
        BINARY,
        lambda model, x: (
            lambda m, s: (
                lambda z: (
                    (
                        bce(model.decode(z), x)
                        + (
                            D.Normal(m, s.exp()).log_prob(z)
                            - D.Normal(0.0, 1.0).log_prob(z)
                        ).sum()
                    )
                    / len(x)
                )
            )(model.sample(m, s))
        )(*model.encode(x)),
        {},
    ),
)
FAULTS["triple no kl"] = (
    ("no_kl",),
    lambda: (
        (lambda mm: (mm.encode, mm.sample, mm.decode))(M()),
        BINARY,
        lambda recon, x, mean, second: bce(recon, x) / len(x),
        {},
    ),
)
FAULTS["triple numpy width"] = (
    ("sigma_mismatch",),
    lambda: (
        (
            lambda mm: (
                mm.encode,
                lambda m, s: (
                    m + s.exp() * torch.from_numpy(np.random.randn(*m.shape)).float()
                ),
                mm.decode,
            )
        )(M()),
        BINARY,
        L,
        {},
    ),
)
