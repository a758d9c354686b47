"""Words: their probabilities by another route, the grammar, and all that a model can do."""

import copy
import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from vae_tutorial.data import binarize
from vae_tutorial.evaluation import evaluate
from vae_tutorial.importance import iwae_bound
from vae_tutorial.objectives import elbo
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE, mlp_vae
from vae_tutorial.variants.text import (
    WarmUp,
    free_bits_elbo,
    grammar,
    load_names,
    text_vae,
    to_characters,
    to_words,
)

SIZES = {"length": 4, "num_characters": 3, "latent_dim": 2, "hidden": 6}
WINDOWS = pytest.mark.parametrize("window", [None, 1, 3])


def build(**others):
    torch.manual_seed(0)
    model = text_vae(**SIZES | {"encoder_hidden": 8} | others)
    for weight in model.decoder.parameters():
        weight.data.mul_(3)  # far from all characters alike
    return model.requires_grad_(False).eval()


def all_words(length=4, num_characters=3):
    "Each word of up to `length` letters as a tensor."
    rows = itertools.product(range(num_characters), repeat=length)
    rows = [row for row in rows if 0 not in row or not any(row[row.index(0) :])]
    return F.one_hot(torch.tensor(rows), num_characters).float()[:, None]


@WINDOWS
def test_probabilities_of_all_words_sum_to_one_and_samples_follow_them(window):
    model, words = build(window=window), all_words()
    p = model.decode(torch.tensor([0.5, -1.0]))
    exact = p.log_prob(words).exp()
    assert len(words) == 1 + 2 + 4 + 8 + 16 and abs(exact.sum() - 1) < 1e-5
    drawn = p.sample((5000,))
    shares = (drawn[:, None] == words).flatten(2).all(-1).double().mean(0)
    assert abs(shares.sum() - 1) < 1e-9  # no sample goes on after its end
    error = (exact * (1 - exact) / 5000).sqrt()
    assert ((shares - exact).abs() < 5 * error + 1e-4).all()


@WINDOWS
def test_a_score_is_that_of_one_character_after_the_other(window):
    model, word = build(window=window), all_words()[20:21]
    z = torch.randn(1, 2)
    codes = word[0, 0].argmax(-1).tolist()
    total = 0.0
    for i, code in enumerate(codes):
        before = F.pad(word[:, 0, :i], (0, 0, 1, 0))
        logits = model.decoder.network(before, z)[0, -1]
        total += logits.log_softmax(-1)[code].item()
        if code == 0:
            break
    assert abs(model.decode(z).log_prob(word).item() - total) < 1e-5


@WINDOWS
def test_greedy_words_take_the_most_probable_character(window):
    model = build(window=window)
    z = torch.randn(7, 2)
    words = model.decode(z).mean
    for i in range(4):
        before = F.pad(words[:, 0, :i], (0, 0, 1, 0))
        best = model.decoder.network(before, z)[:, -1].argmax(-1)
        is_over = words[:, 0, :i, 0].sum(-1) > 0
        assert torch.equal(words[:, 0, i].argmax(-1), best.masked_fill(is_over, 0))


def test_window_sees_no_more_than_its_characters():
    network = build(window=1).decoder.network
    before = F.pad(all_words()[:, 0, :-1], (0, 0, 1, 0))
    changed = before.clone()
    changed[:, 1] = 0
    z = torch.zeros(len(before), 2)
    a, b = network(before, z), network(changed, z)
    assert torch.equal(a[:, [0, 2, 3]], b[:, [0, 2, 3]]) and not torch.equal(a, b)


def test_dropout_is_there_in_training_only():
    model = build(dropout=0.5)
    z, words = torch.zeros(31, 2), all_words()
    quiet = [model.decode(z).log_prob(words) for _ in range(2)]
    model.train()
    noisy = [model.decode(z).log_prob(words) for _ in range(2)]
    assert torch.equal(*quiet) and not torch.equal(*noisy)


def test_bounds_are_below_the_likelihood():
    "log p(x) by a fine grid over the plane."
    model, words = build(), all_words()
    line = torch.linspace(-5, 5, 51)
    z = torch.cartesian_prod(line, line)
    joint = model.decode(z[:, None]).log_prob(words) + model.prior.log_prob(z)[:, None]
    log_p = joint.logsumexp(0) + 2 * math.log(0.2)
    assert abs(log_p.exp().sum() - 1) < 1e-3
    torch.manual_seed(0)
    lower = elbo(model, words, 500).elbo
    tight = iwae_bound(model, words, 4000).bound
    assert (lower < log_p).all() and ((tight - log_p).abs() < 0.3).all()


def test_all_that_a_model_can_do(tmp_path):
    torch.manual_seed(0)
    model = text_vae(4, latent_dim=2, hidden=8, encoder_hidden=8, dropout=0.1)
    x = to_characters(["abba", "ada", "otto"] * 8, 4)
    assert torch.equal(binarize(x, seed=0), x)
    before = copy.deepcopy(model.state_dict())
    objective = WarmUp(4, free_bits_elbo)
    fit(model, x, objective=objective, epochs=2, batch_size=8, log=None)
    assert all(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    loaded = VAE.load(model.save(tmp_path / "model.safetensors"))
    words = [to_words(m.sample(5, seed=0)) for m in (model, loaded)]
    assert words[0] == words[1] and len(words[0]) == 5
    assert model.reconstruct(x).shape == x.shape
    found = evaluate(loaded, x)
    assert abs(found.elbo - found.reconstruction + found.kl) < 1e-4


def test_one_word_can_be_learned():
    torch.manual_seed(0)
    model = text_vae(4, latent_dim=2, hidden=16, encoder_hidden=8)
    x = to_characters(["ada"] * 64, 4)
    fit(model, x, epochs=40, batch_size=32, learning_rate=1e-2, log=None)
    assert to_words(model.sample(3, seed=0)) == ["ada"] * 3
    assert evaluate(model, x).elbo > -0.5


# ---- objectives


def test_free_bits_charge_the_floor():
    torch.manual_seed(0)
    model, x = mlp_vae((1, 2, 2), 3, (4,)), torch.rand(9, 1, 2, 2).round()
    q = model.encode(x)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.stddev), torch.distributions.Normal(0, 1)
    )
    for floor, beta in ((0.0, 1.0), (0.05, 1.0), (0.5, 0.3)):
        terms = free_bits_elbo(model, x, floor, beta)
        charged = kl.mean(0).clamp(min=floor).sum()
        torch.testing.assert_close(
            terms.reconstruction - terms.objective, (beta * charged).expand(9)
        )
        torch.testing.assert_close(terms.kl, kl.sum(1))
        torch.testing.assert_close(terms.elbo, terms.reconstruction - terms.kl)


def test_warm_up_counts_steps_of_training_only():
    seen = []
    warm_up = WarmUp(2, lambda model, x, beta: seen.append(beta))
    model = mlp_vae((1, 2, 2), 3, (4,))
    for training in (True, False, True, True):
        warm_up(model.train(training), None)
    assert seen == [0.5, 0.5, 1.0, 1.0]


# ---- words


def test_names_are_clean_and_apart():
    names = load_names()
    every = [word for part in names for word in part]
    assert len(every) == len(set(every)) == 36_441
    assert [len(part) for part in names] == [30_441, 2000, 4000]
    assert all(word.isascii() and word.isalpha() and word.islower() for word in every)
    assert {len(word) for word in every} == set(range(3, 11))
    assert load_names() == names and load_names(seed=1) != names
    assert to_words(to_characters(names.test)) == names.test


def test_entropy_of_the_grammar_by_sampling_its_derivations():
    "The probability of each word by counting how often it is made."
    words = grammar()
    p = torch.tensor(list(words.values()), dtype=torch.float64)
    assert abs(p.sum() - 1) < 1e-12
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.4, 0.2, 0.2, 0.1, 0.1])
    num = 100_000
    consonants = torch.randint(10, (num, 2), generator=generator)
    vowels = torch.multinomial(shares, 2 * num, True, generator=generator).view(num, 2)
    kinds = torch.randint(4, (num,), generator=generator).tolist()
    scores = []
    for (c, d), (v, w), kind in zip(consonants.tolist(), vowels.tolist(), kinds):
        a, b = "bdgklmnrst"[c] + "aeiou"[v], "bdgklmnrst"[d] + "aeiou"[w]
        scores.append(math.log(words[(a + b, a + b + a, a + a + b, a + b + b)[kind]]))
    scores = torch.tensor(scores)
    error = scores.std() / num**0.5
    assert abs(scores.mean() - (p * p.log()).sum()) < 5 * error


@pytest.mark.parametrize("words", [[], ["Ada"], ["ada "], [""], ["abcde"], ["zoë"]])
def test_words_that_cannot_be_written(words):
    with pytest.raises(ValueError, match="words"):
        to_characters(words, 4)


@pytest.mark.parametrize(
    "sizes",
    [
        {"window": 5},
        {"num_characters": 1},
        {"dropout": 1.0},
        {"dropout": 0.5, "window": 1},
        {"hidden": 10**6},
    ],
)
def test_sizes_that_make_no_model(sizes):
    with pytest.raises(ValueError):
        text_vae(**SIZES | sizes)
