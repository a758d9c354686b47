"""The step by hand trains the model that it was given, or declines: a model edited in any of many ways is either trained with autograd's gradients or refused before a weight has changed."""

import types

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal
from torch.nn.modules import module as globally
from torch.nn.utils import parametrizations

from vae_tutorial import cli
from vae_tutorial.distributions import DiagonalGaussian, bernoulli
from vae_tutorial.fast import gradients_by_hand, step_by_hand, works_by_hand
from vae_tutorial.importance import iwae_bound
from vae_tutorial.networks import BernoulliPixels, Gaussian
from vae_tutorial.objectives import WeightedTerms, beta_elbo, elbo, weighted_elbo
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE, mlp_vae

X = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def fresh(latent_dim=2):
    torch.manual_seed(0)
    return mlp_vae((1, 4, 4), latent_dim, (6, 6))


class Subclass(VAE):
    def encode(self, x):
        return self.encoder(1 - x)


class Wide(nn.Module):
    "The prior N(0, 4)."

    def forward(self):
        return DiagonalGaussian(torch.zeros(2), torch.full((2,), 4.0).log())


class Tempered(nn.Module):
    "Pixels whose logits are halved."

    def __init__(self, network):
        super().__init__()
        self.network, self.image_shape = network, (1, 4, 4)

    def forward(self, z):
        return bernoulli(0.5 * self.network(z).unflatten(-1, self.image_shape))


class OtherGaussian(Gaussian):
    def forward(self, x):
        mean, log_variance = self.network(x).chunk(2, dim=-1)
        return Independent(Normal(mean, log_variance.exp()), 1)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Twice(nn.Module):
    def forward(self, w):
        return 2 * w


def layers(network):
    return [m for m in network.modules() if isinstance(m, nn.Linear)]


def replaced(part, index, new):
    "An edit: the layer at `index` of a part's network becomes `new(old)`."

    def edit(model):
        network = getattr(model, part).network
        network[index] = new(network[index])

    return edit


def appended(part, new):
    return lambda model: getattr(model, part).network.append(new)


def bound(owner, name, make):
    "An edit: a method of the instance is replaced by `make(old)`."

    def edit(model):
        thing = owner(model)
        setattr(thing, name, make(getattr(thing, name)))

    return edit


def tie(model):
    first, second = layers(model.encoder)[1], layers(model.decoder)[1]
    second.weight = first.weight


def tie_biases(model):
    first, second = layers(model.encoder)[:2]
    second.bias = first.bias


def repeat(model):
    network = model.encoder.network
    model.encoder.network = nn.Sequential(*network[:4], network[3], *network[4:])


def repeat_with_relu(model):
    n, relu = model.encoder.network, nn.ReLU()
    model.encoder.network = nn.Sequential(
        n[0], n[1], relu, n[3], relu, n[3], relu, n[5]
    )


def without_bias(model):
    layers(model.decoder)[1].bias = None


def new_without_bias(model):
    model.decoder.network[2] = nn.Linear(6, 6, bias=False)


def global_hook(register):
    return lambda model: register(lambda *_: None)


def one_weight(model):
    return layers(model.decoder)[1].weight


def node_hook(model):
    "A hook on the graph, where no attribute tells of it."
    weight = one_weight(model)
    model.node = [weight.expand_as(weight).grad_fn.next_functions[0][0]]
    model.node[0].register_prehook(lambda g: (3 * g[0],))


def extra(model):
    model.extra = nn.Linear(2, 2)
    model.extra.weight.grad = torch.ones(2, 2)


def other_prior(model):
    model.prior_part = Wide()


def moved_prior(model):
    model.prior_part.zeros += 1e-3


def other_pixels(model):
    model.decoder = Tempered(model.decoder.network)


def other_posterior(model):
    model.encoder = OtherGaussian(model.encoder.network)


def weightless(model):
    "All weights zero, and one ReLU missing: no gradient tells of it at first."
    for p in model.parameters():
        p.data.zero_()
    model.encoder.network[2] = nn.Identity()


def subclass(model):
    model.__class__ = Subclass


def swap_parts(model):
    n = model.encoder.network
    model.encoder.network = nn.Sequential(n[0], n[2], n[1], *n[3:])


EDITS = {
    "no ReLU": replaced("encoder", 2, lambda old: nn.Identity()),
    "no ReLU, Sequential": replaced("decoder", 1, lambda old: nn.Sequential()),
    "tanh": replaced("decoder", 1, lambda old: nn.Tanh()),
    "leaky ReLU": replaced("decoder", 3, lambda old: nn.LeakyReLU(1e-3)),
    "last ReLU, decoder": appended("decoder", nn.ReLU()),
    "last ReLU, encoder": appended("encoder", nn.ReLU()),
    "dropout": appended("decoder", nn.Dropout(0.1)),
    "tied weights": tie,
    "tied biases": tie_biases,
    "repeated layer": repeat,
    "repeated layer and ReLU": repeat_with_relu,
    "bias taken away": without_bias,
    "bias=False": new_without_bias,
    "ReLU before": swap_parts,
    "subclass of Linear": replaced("decoder", 2, lambda old: Scaled(6, 6)),
    "subclass of VAE": subclass,
    "forward replaced": bound(
        lambda m: m.encoder, "forward", lambda old: lambda x: old(x.square())
    ),
    "forward of a layer": bound(
        lambda m: m.decoder.network[0], "forward", lambda old: lambda z: 2 * old(z)
    ),
    "forward, same result": bound(
        lambda m: m.encoder, "forward", lambda old: lambda x: old(x)
    ),
    "encode replaced": bound(lambda m: m, "encode", lambda old: lambda x: old(1 - x)),
    "decode replaced": bound(lambda m: m, "decode", lambda old: lambda z: old(2 * z)),
    "elbo replaced": bound(lambda m: m, "elbo", lambda old: lambda x: old(x)),
    "gradient hook": lambda m: one_weight(m).register_hook(lambda g: 0 * g),
    "passive gradient hook": lambda m: one_weight(m).register_hook(lambda g: None),
    "passive hook after": lambda m: one_weight(m).register_post_accumulate_grad_hook(
        lambda p: None
    ),
    "hook in the graph": node_hook,
    "forward hook": lambda m: m.decoder.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda m: m.encoder.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda m: m.decoder.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda m: m.decoder.network[0].register_full_backward_pre_hook(
        lambda *_: None
    ),
    "another prior": other_prior,
    "moved prior": moved_prior,
    "frozen bias": lambda m: layers(m.encoder)[0].bias.requires_grad_(False),
    "frozen encoder": lambda m: m.encoder.requires_grad_(False),
    "parametrization": lambda m: nn.utils.parametrize.register_parametrization(
        m.decoder.network[0], "weight", Twice()
    ),
    "weight norm": lambda m: parametrizations.weight_norm(m.decoder.network[0]),
    "spectral norm": lambda m: parametrizations.spectral_norm(m.decoder.network[2]),
    "other pixels": other_pixels,
    "other posterior": other_posterior,
    "extra part": extra,
    "no weights, no ReLU": weightless,
    "double precision": lambda m: m.double(),
    "bfloat16": lambda m: m.bfloat16(),
    "one layer bfloat16": lambda m: m.decoder.network[2].bfloat16(),
    "normalized": appended("decoder", nn.LayerNorm(16)),
}
GLOBAL = {
    name: getattr(globally, f"register_module_{name}_hook")
    for name in ("forward", "forward_pre", "full_backward", "full_backward_pre")
}


def gradients(model, step, objective, batch):
    "What one step leaves in `.grad`, and its terms; weights stay."
    torch.manual_seed(3)
    for p in model.parameters():
        p.grad = None
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    terms = step(model, (batch,), objective, optimizer)
    return [p.grad for p in model.parameters()], terms


def by_autograd(model, batch, objective, optimizer):
    terms = objective(model, *batch)
    optimizer.zero_grad()
    (-terms[0].mean()).backward()
    return type(terms)(*(term.detach().sum() for term in terms))


def agree(model, step, objective=elbo):
    ours, terms = gradients(model, step, objective, X)
    theirs, expected = gradients(model, by_autograd, objective, X)
    for a, b in zip([*ours, *terms], [*theirs, *expected]):
        assert (a is None) == (b is None)
        if a is not None:
            scale = max(b.abs().max().item(), 1e-6)
            assert (a - b).abs().max().item() <= 1e-4 * scale


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_model_is_declined(name):
    model = fresh()
    EDITS[name](model)
    assert not works_by_hand(model)  # none of these is known today
    with pytest.raises(ValueError, match="model"):
        step_by_hand(model)


@pytest.mark.parametrize("name", GLOBAL)
def test_hooks_on_all_modules_decline(name):
    handle = GLOBAL[name](lambda *_: None)
    try:
        assert not works_by_hand(fresh())
    finally:
        handle.remove()
    assert works_by_hand(fresh())


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_after_the_step_was_made_is_found_at_the_first_batch(name):
    model = fresh()
    step = step_by_hand(model)
    EDITS[name](model)
    before = [p.detach().clone() for p in model.parameters()]
    try:
        fit(model, X.to(next(model.parameters())), epochs=1, step=step, log=None)
    except ValueError as error:
        assert "model" in str(error) and "fit takes" in str(error)
        assert all(map(torch.equal, before, model.parameters()))
    else:
        agree(model, step)


def test_another_model_or_another_run_is_looked_at_again():
    first, second = fresh(), fresh()
    step = step_by_hand(first)
    fit(first, X, epochs=1, step=step, log=None)
    replaced("encoder", 2, lambda old: nn.Identity())(second)
    for model in (first, second):
        replaced("decoder", 1, lambda old: nn.Tanh())(model)
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(ValueError, match="fit takes"):
            fit(model, X, epochs=1, step=step, log=None)
        assert all(map(torch.equal, before, model.parameters()))


def labelled(model, x, labels):
    return elbo(model, x * labels[:, None, None, None])


@pytest.mark.parametrize(
    "beta, objective",
    [
        (None, beta_elbo(4.0)),
        (None, weighted_elbo),
        (4.0, elbo),
        (4.0, beta_elbo(3.9)),
        (None, lambda model, x: elbo(model, x, 3)),
        (None, lambda model, x: iwae_bound(model, x, 1)),
        (None, labelled),
    ],
)
def test_another_objective_is_refused(beta, objective):
    model = fresh()
    labels = torch.arange(24) % 2 if objective is labelled else None
    before = [p.detach().clone() for p in model.parameters()]
    options = {"objective": objective, "labels": labels, "log": None}
    with pytest.raises(ValueError, match="fit takes"):
        fit(model, X, epochs=1, step=step_by_hand(model, beta), **options)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("beta", [None, 0.0, 1.0, 4.0])
@pytest.mark.parametrize("shape", [((1, 4, 4), 1, ()), ((3, 5, 2), 4, (7,))])
def test_models_as_mlp_vae_makes_them_are_trained(beta, shape):
    model = mlp_vae(*shape)
    x = torch.rand(5, *shape[0])
    assert works_by_hand(model)
    objective = elbo if beta is None else beta_elbo(beta)
    options = {"step": step_by_hand(model, beta), "objective": objective}
    fit(model, x, epochs=30, learning_rate=0.03, log=None, **options)
    assert works_by_hand(model)
    fit(model, x, epochs=1, batch_size=1, log=None, **options)


def bare(beta):
    "The step as it is without any check."

    def step(model, batch, objective, optimizer):
        sums = gradients_by_hand(model, batch[0], 1.0 if beta is None else beta)
        optimizer.step()
        if beta is None:
            return sums
        return WeightedTerms(sums.reconstruction - beta * sums.kl, *sums)

    return step


@pytest.mark.parametrize("beta", [None, 4.0])
def test_looking_changes_no_bit(beta):
    runs = []
    for make in (lambda model: step_by_hand(model, beta), lambda model: bare(beta)):
        model = fresh()
        torch.manual_seed(5)
        step = make(model)
        drawn = torch.rand(1)
        objective = elbo if beta is None else beta_elbo(beta)
        options = {"epochs": 3, "batch_size": 10, "log": None}
        history = fit(model, X, step=step, objective=objective, **options)
        runs.append((list(model.parameters()), history, drawn, torch.rand(1)))
    (ours, h, *drawn), (theirs, k, *expected) = runs
    assert all(map(torch.equal, ours, theirs)) and h == k and drawn == expected


def test_looking_leaves_gradients_and_random_numbers_alone():
    model = fresh()
    marks = [torch.full_like(p, 7.0) for p in model.parameters()]
    for p, mark in zip(model.parameters(), marks):
        p.grad = mark
    torch.manual_seed(1)
    with torch.no_grad():
        assert works_by_hand(model)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert drawn == torch.rand(1)
    assert all(p.grad is mark for p, mark in zip(model.parameters(), marks))


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), nn.Sequential(), nn.Identity()])
def test_what_is_no_vae_is_declined(thing):
    assert not works_by_hand(thing)
    model = fresh()
    model.encoder = thing
    assert not works_by_hand(model)


def test_a_vae_put_together_by_hand_is_trained_too():
    model = fresh()
    pixels = BernoulliPixels(model.decoder.network, (1, 4, 4))
    plain = VAE(Gaussian(model.encoder.network), pixels, model.prior_part)
    if works_by_hand(plain):
        agree(plain, step_by_hand(plain))


@pytest.mark.parametrize("name", EDITS)
def test_the_command_line_takes_autograd_for_them(name, tmp_path):
    "`train` chooses the step by `works_by_hand`."
    model = fresh()
    config = {"beta": 1.0, "objective": "elbo", "num_samples": 1, "conditional": False}
    how = cli._how(model, config, (tmp_path, False))
    assert isinstance(how.get("step"), types.FunctionType)
    EDITS[name](model)
    how = cli._how(model, config, (tmp_path, False))
    assert ("step" in how) == works_by_hand(model)
