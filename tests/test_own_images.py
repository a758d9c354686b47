"A user's own pictures and arrays, from Python and from the command line."

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from vae_tutorial.own_images import load_own_images, read_image
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE, conv_vae, mlp_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Sixty pictures of two classes, sizes 40 x 50 and 50 x 40, one of them grey, one transparent; and three that are broken."
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (root / kind).mkdir()
        for i in range(30):
            Image.fromarray(
                rng.integers(
                    0, 255, (40, 50, 3) if i % 2 else (50, 40, 3), dtype=np.uint8
                )
            ).save(root / kind / f"{i}.{'jpg' if i % 3 else 'png'}")
    Image.new("L", (50, 40), 100).save(root / "cats" / "grey.png")
    Image.new("RGBA", (50, 40), (0, 0, 0, 0)).save(root / "cats" / "clear.png")
    whole = (root / "cats" / "1.jpg").read_bytes()
    (root / "dogs" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "dogs" / "empty.png").write_bytes(b"")
    (root / "dogs" / "text.bmp").write_text("hello")
    (root / "notes.txt").write_text("not a picture, and not taken for one")
    return root


def test_pictures_become_images_of_one_size(folder):
    splits = load_own_images(
        folder, size=32, color=True, skip_unreadable=True, num_validation=5
    )
    assert [tuple(part.images.shape) for part in splits] == [
        (50, 3, 32, 32),
        (5, 3, 32, 32),
        (7, 3, 32, 32),
    ]
    assert torch.cat([part.labels for part in splits]).bincount().tolist() == [32, 30]
    images = torch.cat([part.images for part in splits])
    assert images.dtype == torch.float32 and 0 <= images.min() and images.max() <= 1
    assert (read_image(folder / "cats" / "clear.png") == 1).all() and (
        read_image(folder / "cats" / "grey.png", color=True) * 255 == 100
    ).all()
    again = load_own_images(
        folder, size=32, color=True, skip_unreadable=True, num_validation=5
    )
    assert all(torch.equal(a.images, b.images) for a, b in zip(splits, again))


def test_every_unreadable_picture_is_named(folder):
    with pytest.raises(ValueError, match="3 of 65") as refusal:
        load_own_images(folder, size=32)
    assert all(
        name in str(refusal.value)
        for name in ("cut.jpg", "empty.png", "text.bmp", "--skip-unreadable")
    )


def test_what_does_not_fit_in_memory_trains_to_the_same_bits(folder):
    def weights(memory):
        splits = load_own_images(folder, size=16, skip_unreadable=True, memory=memory)
        assert isinstance(splits.train.images, Dataset) == (memory < 2**20)
        torch.manual_seed(0)
        model = mlp_vae((1, 16, 16), hidden=(8,))
        fit(
            model,
            splits.train.images,
            splits.test.images,
            epochs=2,
            batch_size=20,
            log=None,
        )
        return torch.cat(
            [parameter.detach().flatten() for parameter in model.parameters()]
        )

    assert torch.equal(weights(2**30), weights(1000))


ARRAYS = {
    "bytes.npy": lambda path: np.save(path, np.zeros((20, 8, 8), dtype=np.uint8)),
    "floats_last.npy": lambda path: np.save(path, np.full((20, 8, 8, 3), 0.5)),
    "first.npz": lambda path: np.savez(
        path, images=np.zeros((20, 1, 8, 8), dtype=np.float32), labels=np.arange(20)
    ),
    "single.npz": lambda path: np.savez(path, np.zeros((20, 8, 8))),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, tmp_path):
    ARRAYS[name](tmp_path / name)
    splits = load_own_images(tmp_path / name)
    assert splits.train.images.shape == (18, 1, 8, 8) and splits.test.images.shape == (
        2,
        1,
        8,
        8,
    )
    assert load_own_images(tmp_path / name, size=4, color=True).train.images.shape == (
        18,
        3,
        4,
        4,
    )


class _Harm:
    def __reduce__(self):
        return os.system, ("touch harm",)


BAD = {
    "pickled.npy": (
        lambda path: np.save(
            path, np.array([_Harm()], dtype=object), allow_pickle=True
        ),
        "pickle",
    ),
    "pickled.npz": (
        lambda path: np.savez(path, images=np.array([_Harm()], dtype=object)),
        "pickle",
    ),
    "flat.npy": (lambda path: np.save(path, np.zeros((20, 64))), "shape"),
    "nan.npy": (lambda path: np.save(path, np.full((20, 8, 8), np.nan)), "values"),
    "large.npy": (lambda path: np.save(path, np.full((20, 8, 8), 255.0)), "uint8"),
    "labels.npz": (
        lambda path: np.savez(path, images=np.zeros((20, 8, 8)), labels=np.zeros(3)),
        "labels",
    ),
    "two.npz": (
        lambda path: np.savez(path, a=np.zeros((20, 8, 8)), b=np.zeros((20, 8, 8))),
        "images",
    ),
    "noise.npy": (lambda path: path.write_bytes(b"\x93NUMPY" + bytes(200)), "NumPy"),
    "page.html": (lambda path: path.write_text("<html>"), "folder"),
    "none.npy": (lambda path: np.save(path, np.zeros((0, 8, 8))), "shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, word = BAD[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=word) as refusal:
        load_own_images(tmp_path / name)
    assert name in str(refusal.value) and not (tmp_path / "harm").exists()


def test_folders_that_do_not_do(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_own_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no pictures"):
        load_own_images(tmp_path)
    with pytest.raises(ValueError, match="--size"):
        load_own_images(folder, skip_unreadable=True)
    with pytest.raises(ValueError, match="size"):
        load_own_images(folder, size=0, skip_unreadable=True)
    with pytest.raises(ValueError, match="num_validation"):
        load_own_images(folder, size=8, skip_unreadable=True, num_validation=100)


def test_convolutions_save_load_and_refuse_odd_sides(tmp_path):
    vae = conv_vae((3, 48, 32), latent_dim=3, hidden=(8, 16))
    x = torch.rand(2, 3, 48, 32)
    assert vae.reconstruct(x).shape == x.shape and vae.elbo(
        x, num_samples=2
    ).elbo.shape == (2,)
    vae.save(tmp_path / "conv.safetensors")
    assert torch.equal(
        VAE.load(tmp_path / "conv.safetensors").reconstruct(x),
        vae.eval().reconstruct(x),
    )
    with pytest.raises(ValueError, match="divisible by 8"):
        conv_vae((1, 28, 28), hidden=(8, 8, 8))


def test_command_line_with_own_pictures(folder, tmp_path):
    "Train, resume, evaluate, sample and reconstruct; the network is chosen by size."
    out = tmp_path / "run"

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "vae_tutorial.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    refused = command("train", "--out", out, "--data", folder, "--size", 48)
    assert (
        refused.returncode == 1
        and "cut.jpg" in refused.stderr
        and "Traceback" not in refused.stderr
        and not out.exists()
    )
    trained = command(
        "train",
        "--out",
        out,
        "--data",
        folder,
        "--size",
        48,
        "--color",
        "--skip-unreadable",
        "--epochs",
        1,
    )
    assert trained.returncode == 0, trained.stderr
    config = json.loads((out / "config.json").read_text())
    assert (
        config["network"] == "conv"
        and config["pixels"] == "grey"
        and config["hidden"] == [32, 64, 128]
    )
    for arguments in (
        ("train", "--out", out, "--resume", "--epochs", 2),
        ("evaluate", out),
        ("sample", out),
        ("reconstruct", out, "--num", 3),
    ):
        result = command(*arguments)
        assert result.returncode == 0, result.stderr
    assert [
        json.loads(line)["epoch"]
        for line in (out / "metrics.jsonl").read_text().splitlines()
    ] == [1, 2]
