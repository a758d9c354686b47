"Properties that hold for any sizes and numbers, and bad input that never passes in silence."

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_tutorial.distributions import (
    DiagonalGaussian,
    bernoulli,
    kl_divergence,
)
from vae_tutorial.evaluation import evaluate
from vae_tutorial._guards import check_images
from vae_tutorial.files import load_weights, save_weights
from vae_tutorial.networks import StandardNormal, mlp
from vae_tutorial.objectives import elbo
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE, conv_vae, mlp_vae

sizes = st.integers(1, 6)
few = settings(max_examples=40, deadline=None)


@few
@given(batch=sizes, latent_dim=sizes, seed=st.integers(0, 10**6))
def test_kl_is_positive_and_zero_only_at_the_prior(batch, latent_dim, seed):
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance, other_mean, other_log_variance = torch.randn(
        4, batch, latent_dim, generator=generator, dtype=torch.float64
    )
    assert (kl_divergence(mean, log_variance) > 0).all()
    assert (kl_divergence(mean, log_variance, other_mean, other_log_variance) > 0).all()
    torch.testing.assert_close(
        kl_divergence(mean, log_variance, mean, log_variance),
        torch.zeros(batch, dtype=torch.float64),
    )


@few
@given(
    batch=sizes,
    channels=st.sampled_from([1, 3]),
    side=sizes,
    latent_dim=sizes,
    hidden=st.lists(sizes, max_size=3),
    samples=sizes,
)
def test_shapes_and_round_trip(
    batch, channels, side, latent_dim, hidden, samples, tmp_path_factory
):
    vae = mlp_vae((channels, side, side), latent_dim, tuple(hidden))
    x = torch.rand(batch, channels, side, side)
    terms = elbo(vae, x, num_samples=samples)
    assert all(term.shape == (batch,) and term.isfinite().all() for term in terms)
    assert vae.sample(samples).shape == (samples, channels, side, side)
    assert vae.reconstruct(x).shape == x.shape
    path = vae.save(tmp_path_factory.mktemp("vae") / "vae.safetensors")
    assert torch.equal(VAE.load(path).reconstruct(x), vae.reconstruct(x))


@few
@given(
    value=st.one_of(
        st.floats(max_value=-(2**-20), width=32),
        st.floats(min_value=1 + 2**-10, width=32),
        st.just(float("nan")),
    ),
    position=st.integers(0, 783),
)
def test_one_bad_pixel_is_found(value, position):
    x = torch.rand(3, 1, 28, 28)
    x.view(3, -1)[1, position] = value
    vae = mlp_vae(hidden=(4,))
    for action in (
        lambda: vae.elbo(x),
        lambda: vae.reconstruct(x),
        lambda: evaluate(vae, x),
        lambda: fit(vae, x, epochs=1, log=None),
    ):
        with pytest.raises(ValueError, match="^'?(x|images)\\b"):
            action()


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 28, 28),
        torch.rand(2, 784),
        torch.rand(2, 3, 28, 28),
        torch.rand(0, 1, 28, 28),
        torch.zeros(2, 1, 28, 28, dtype=torch.uint8),
        [[0.5]],
        None,
    ],
)
def test_wrong_images_raise_with_a_remedy(images):
    vae = mlp_vae(hidden=(4,))
    for action in (
        vae.elbo,
        vae.reconstruct,
        lambda x: evaluate(vae, x),
        lambda x: fit(vae, x, epochs=1, log=None),
    ):
        with pytest.raises((TypeError, ValueError), match="^'?(x|images)\\b"):
            action(images)
    if images is None or len(images):
        with pytest.raises((TypeError, ValueError), match="^'?(x|images)\\b"):
            vae.encode(images)


@pytest.mark.parametrize("size", [0, -1, 2.0, "2", True, None])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: mlp_vae(latent_dim=n),
        lambda n: mlp_vae(hidden=(n,)),
        lambda n: mlp_vae(image_shape=(1, n, 28)),
        lambda n: conv_vae(latent_dim=n),
        lambda n: conv_vae(hidden=(n,)),
        lambda n: mlp([4, n, 2]),
        StandardNormal,
        lambda n: mlp_vae(hidden=(4,)).sample(n),
    ],
)
def test_bad_sizes(make, size):
    with pytest.raises(ValueError, match="1 or more"):
        make(size)


@pytest.mark.parametrize(
    "option",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"pixels": "gray"},
        {"log_every": 0},
    ],
)
def test_bad_training_options_change_nothing(option):
    vae = mlp_vae(hidden=(4,))
    before = [parameter.clone() for parameter in vae.parameters()]
    with pytest.raises(ValueError, match=next(iter(option))):
        fit(vae, torch.rand(8, 1, 28, 28), **option)
    assert all(map(torch.equal, before, vae.parameters()))


def test_wrong_latent_shape():
    with pytest.raises(ValueError, match="latent_dim"):
        mlp_vae(hidden=(4,)).decode(torch.zeros(5, 3))


class Bomb:
    "Unpickling it would write a file."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    "write",
    [lambda bomb, path: path.write_bytes(pickle.dumps(bomb)), torch.save],
    ids=["pickle", "torch.save"],
)
def test_a_pickle_is_refused_and_never_opened(write, tmp_path):
    path, mark = tmp_path / "weights.safetensors", tmp_path / "it ran"
    write(Bomb(str(mark)), path)
    for action in (lambda: VAE.load(path), lambda: load_weights(mlp_vae(), path)):
        with pytest.raises(ValueError, match="pickle"):
            action()
    assert not mark.exists()


def test_any_header_length_is_read_as_safetensors(tmp_path):
    "The first bytes of a file are its header's length, which may look like those of a pickle."
    for filler in range(0, 300, 8):
        save_weights(
            mlp_vae(hidden=(2,)).encoder,
            tmp_path / "weights.safetensors",
            {"filler": "x" * filler},
        )
        load_weights(mlp_vae(hidden=(2,)).encoder, tmp_path / "weights.safetensors")


def test_every_truncation_of_a_weights_file_is_refused(tmp_path):
    path = mlp_vae(image_shape=(1, 4, 4), hidden=(3,)).save(
        tmp_path / "vae.safetensors"
    )
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="vae.safetensors"):
            VAE.load(path)


def test_weights_of_another_architecture_leave_the_model_alone(tmp_path):
    path = save_weights(mlp_vae(latent_dim=3).encoder, tmp_path / "encoder.safetensors")
    encoder = mlp_vae(latent_dim=2).encoder
    before = [parameter.clone() for parameter in encoder.parameters()]
    with pytest.raises(ValueError, match="another architecture"):
        load_weights(encoder, path)
    assert all(map(torch.equal, before, encoder.parameters()))


def test_check_images_accepts_the_limits():
    check_images(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2), (1, 1, 2))


def test_distributions_say_which_shapes_differ():
    with pytest.raises(ValueError, match="log_variance"):
        DiagonalGaussian(torch.zeros(2, 3), torch.zeros(3))


def test_samples_of_a_shape_score_under_that_shape():
    q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
    assert q.log_prob(q.rsample((5,))).shape == (5, 4)
    assert StandardNormal(2)().log_prob(torch.zeros(7, 2)).shape == (7,)
    assert bernoulli(torch.zeros(5, 4, 1, 2, 2)).log_prob(
        torch.ones(4, 1, 2, 2)
    ).shape == (5, 4)
