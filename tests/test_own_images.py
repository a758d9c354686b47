"A user's own pictures and arrays, from Python and from the command line."

import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from vae_tutorial import own_images
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


# ---- every way to store a picture gives the picture


RAMP = np.arange(0, 256, dtype=np.uint8).reshape(8, 32)  # all grey values


def _saved(picture, path):
    picture.save(path)
    return path


def _with_palette(pixels):
    picture = Image.fromarray(pixels, "P")
    picture.putpalette([value for grey in range(256) for value in (grey,) * 3])
    return picture


def _big_endian(path, pixels):
    "A 16-bit TIFF, high bytes first."
    Image.fromarray(pixels.astype(np.uint16) * 257).save(path)
    assert Image.open(path).mode == "I;16"
    whole = Image.new("I;16B", pixels.shape[::-1])
    whole.frombytes((pixels.astype(">u2") * 257).tobytes())
    return _saved(whole, path)


def _pgm(path, pixels):
    "A 16-bit PGM."
    height, width = pixels.shape
    head = f"P5 {width} {height} 65535\n".encode()
    path.write_bytes(head + (pixels.astype(">u2") * 257).tobytes())
    return path


STORED = {  # kind of file: how it is written from grey values
    "L.png": lambda path, grey: _saved(Image.fromarray(grey), path),
    "RGB.png": lambda path, grey: _saved(Image.fromarray(grey).convert("RGB"), path),
    "LA.png": lambda path, grey: _saved(Image.fromarray(grey).convert("LA"), path),
    "RGBA.webp": lambda path, grey: (
        Image.fromarray(grey).convert("RGBA").save(path, lossless=True)
    ),
    "CMYK.tif": lambda path, grey: _saved(Image.fromarray(grey).convert("CMYK"), path),
    "P.png": lambda path, grey: _saved(_with_palette(grey), path),
    "PA.tif": lambda path, grey: _saved(_with_palette(grey).convert("PA"), path),
    "I16.png": lambda path, grey: _saved(
        Image.fromarray(grey.astype(np.uint16) * 257), path
    ),
    "I16.tif": lambda path, grey: _saved(
        Image.fromarray(grey.astype(np.uint16) * 257), path
    ),
    "I16B.tif": _big_endian,
    "I.pgm": _pgm,
    "F.tif": lambda path, grey: _saved(
        Image.fromarray(grey.astype(np.float32) / 255), path
    ),
}


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("kind", STORED)
def test_every_kind_of_picture_agrees_with_8_bits(kind, color, tmp_path):
    chance = np.random.default_rng(0)
    for i in range(10):
        grey = RAMP if i == 0 else chance.integers(0, 256, (8, 32), dtype=np.uint8)
        STORED[kind](tmp_path / kind, grey)
        images = read_image(tmp_path / kind, None, color)
        assert images.shape == (3 if color else 1, 8, 32)
        error = (images - torch.from_numpy(grey) / 255).abs().max().item()
        assert error <= 1.01 / 255, (kind, error)
        if i == 0:
            assert read_image(tmp_path / kind, (4, 4), color).shape[1:] == (4, 4)


def test_one_bit_pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2, (8, 32)).astype(bool)
    for name in ("bits.png", "bits.tif", "bits.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert torch.equal(
            read_image(tmp_path / name), torch.from_numpy(pixels)[None].float()
        )


def test_transparent_value_of_a_16_bit_picture_is_white(tmp_path):
    deep = Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16))
    deep.save(tmp_path / "clear.png", transparency=1000)
    if "transparency" in Image.open(tmp_path / "clear.png").info:
        assert (read_image(tmp_path / "clear.png") == 1).all()


RANGES = {  # numbers that no one can scale
    "float255.tif": np.float32([[0, 255.0], [3, 4]]),
    "nan.tif": np.float32([[0, np.nan], [1, 0]]),
    "negative.tif": np.float32([[0, -0.5], [1, 0]]),
    "infinite.tif": np.float32([[0, np.inf], [1, 0]]),
    "int32.tif": np.int32([[0, 255], [3, 70_000]]),
    "dark.tif": np.int32([[0, 255], [3, 4]]),
}


@pytest.mark.parametrize("name", RANGES)
def test_pictures_of_unknown_range_are_refused(name, tmp_path):
    Image.fromarray(RANGES[name]).save(tmp_path / name)
    with pytest.raises(ValueError, match="8 or 16 bits|\\[0, 1\\]") as refusal:
        read_image(tmp_path / name)
    assert name in str(refusal.value)


ARRAY_SCALES = {  # dtype: what white is
    "u1": 255,
    "<u2": 65535,
    ">u2": 65535,
    "?": 1,
    "<f2": 1,
    "<f4": 1,
    ">f4": 1,
    ">f8": 1,
}


@pytest.mark.parametrize("dtype", ARRAY_SCALES)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_every_dtype_agree_with_8_bits(dtype, suffix, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    if dtype == "?":
        grey = (grey > 127).astype(np.uint8) * 255
    white = ARRAY_SCALES[dtype]
    stored = (grey / 255 * white).round(0 if white > 1 else 9).astype(dtype)
    path = tmp_path / f"array{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, stored)
    splits = load_own_images(path)
    np.save(tmp_path / "bytes.npy", grey)
    expected = load_own_images(tmp_path / "bytes.npy")
    for part, wanted in zip(splits, expected):
        torch.testing.assert_close(part.images, wanted.images, atol=1 / 255, rtol=0)


@pytest.mark.parametrize(
    "dtype", ["i1", "<i4", "<i8", "<u4", "<u8", "c8", "<U3", "M8[s]"]
)
def test_arrays_of_unknown_range_are_refused(dtype, tmp_path):
    np.save(tmp_path / "array.npy", np.zeros((20, 4, 4)).astype(dtype))
    with pytest.raises(ValueError, match="uint8") as refusal:
        load_own_images(tmp_path / "array.npy")
    assert "array.npy" in str(refusal.value)


# ---- bombs, and files that are broken on purpose


@pytest.fixture
def bounded():
    "Within a gigabyte more than now, and ten seconds."
    used = int(Path("/proc/self/statm").read_text().split()[0])
    used *= os.sysconf("SC_PAGESIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    old = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
    resource.setrlimit(resource.RLIMIT_AS, before)


class Hang(BaseException):
    "It took too long."


def _hang(*_):
    raise Hang


def _png(width, height):
    "A PNG that claims this size and holds one line of zeros."

    def chunk(kind, content):
        text = kind + content
        return struct.pack(">I", len(content)) + text + struct.pack(">I", crc32(text))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    chunks = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


@pytest.mark.parametrize(
    "size", [(10_000, 5_001), (2**31 - 1, 1), (60_000, 60_000), (2**31 - 1, 2**31 - 1)]
)
def test_picture_bombs_are_refused_before_they_are_decoded(size, tmp_path, bounded):
    (tmp_path / "bomb.png").write_bytes(_png(*size))
    with pytest.raises(
        ValueError, match="bomb.png.*pixels.*(50,000,000|exceeds limit)"
    ):
        read_image(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png"):
        load_own_images(tmp_path)


def _npy(shape, dtype="'|u1'", version=1, tail=bytes(100), order=False):
    "An .npy file whose header says anything."
    head = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}"
    return _npy_of(head.encode("latin1"), version, tail)


def _npy_of(head, version=1, tail=bytes(100)):
    length = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + length + head + tail


HEADERS = {
    "2^40": _npy((2**40, 8, 8)),
    "2^40 thrice": _npy((2**40, 2**40, 2**40)),
    "10^400": _npy((10**400, 8, 8)),
    "negative": _npy((-20, 8, 8)),
    "minus one twice": _npy((-20, -8, 8)),
    "cut short": _npy((20, 800, 8)),
    "no numbers": _npy((20, 0, 8)),
    "not a shape": _npy("'abc'"),
    "not a tuple": _npy("[20, 8, 8]"),
    "floats": _npy((20.5, 8, 8)),
    "huge text": _npy((20, 8, 8), "'<U1000000000'"),
    "empty text": _npy((2**40, 8, 8), "'<U0'"),
    "void": _npy((2**40, 8, 8), "'|V0'"),
    "object": _npy((20, 8, 8), "'|O'"),
    "fields": _npy((20, 8, 8), "[('a', '<f4'), ('b', '|O')]"),
    "wrong type": _npy((20, 8, 8), "'nothing'"),
    "open bracket": _npy_of(b"{'descr': ("),
    "open quote": _npy_of(b"{'descr': '''"),
    "null": _npy_of(b"\0" * 50),
    "deep": _npy_of(b"(" * 9000 + b")" * 9000),
    "deep minus": _npy_of(b"-" * 9000 + b"1"),
    "long": _npy_of(b" " * 60_000),
    "bytes": _npy_of(bytes(range(128, 256))),
    "claims 4 GB of header": b"\x93NUMPY\2\0\xff\xff\xff\xff" + b" " * 1000,
    "version 3": _npy((20, 8, 8), version=3),
    "version 9": b"\x93NUMPY\x09\0" + bytes(100),
    "only magic": b"\x93NUMPY",
    "empty": b"",
    "zip's start": b"PK\3\4" + bytes(100),
    "pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("name", HEADERS)
def test_broken_arrays_are_refused_by_name(name, suffix, tmp_path, bounded):
    (tmp_path / "array.npy").write_bytes(HEADERS[name])
    path = tmp_path / "array.npy"
    if suffix == ".npz":
        path = tmp_path / "archive.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", HEADERS[name])
    with pytest.raises(ValueError, match=path.name):
        load_own_images(path)


def test_mutated_arrays_are_refused_by_name(tmp_path, bounded):
    "300 damaged files of each kind load or are refused; nothing else."
    chance, counts = random.Random(0), {"loaded": 0, "refused": 0}
    images = np.random.default_rng(0).random((10, 4, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(10))
    np.savez_compressed(tmp_path / "b.npz", images=images, labels=np.arange(10))
    for name in ("a.npy", "a.npz", "b.npz"):
        whole, path = (tmp_path / name).read_bytes(), tmp_path / f"mutated_{name}"
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(chance.choice([1, 1, 2, 8, 40])):
                place = chance.randrange(chance.choice([130, len(damaged)]))
                damaged[place] = chance.choice([0, 255, chance.randrange(256)])
            if chance.random() < 0.2:
                del damaged[chance.randrange(len(damaged)) :]
            path.write_bytes(damaged)
            try:
                load_own_images(path)
                counts["loaded"] += 1
            except ValueError as error:
                assert path.name in str(error), error
                counts["refused"] += 1
    assert counts["refused"] > 300, counts


def test_mutated_pictures_are_refused_by_name(tmp_path, bounded):
    chance, counts = random.Random(0), {"read": 0, "refused": 0}
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    )
    for suffix in (".png", ".jpg", ".tif", ".gif", ".bmp", ".webp", ".ppm"):
        path = tmp_path / f"picture{suffix}"
        picture.save(path)
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(chance.choice([1, 1, 2, 8, 40])):
                place = chance.randrange(chance.choice([30, len(damaged)]))
                damaged[place] = chance.choice([0, 255, chance.randrange(256)])
            path.write_bytes(damaged)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read_image(path, (8, 8), True)
                counts["read"] += 1
            except ValueError as error:
                assert path.name in str(error), error
                counts["refused"] += 1
    assert min(counts.values()) > 100, counts


def _archive(path, content, **how):
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("images.npy", content)


def test_archive_bombs_are_refused_before_they_are_unpacked(tmp_path, bounded):
    path = tmp_path / "bomb.npz"
    head = _npy((600_000, 100, 100), tail=b"")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            file.write(head)
            for _ in range(60):
                file.write(bytes(10**8))
    assert path.stat().st_size < 10**7
    with pytest.raises(ValueError, match="bomb.npz.*4 GiB"):
        load_own_images(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(method, tmp_path, bounded):
    path = tmp_path / "other.npz"
    _archive(path, _npy((20, 8, 8), tail=bytes(1280)), compression=method)
    with pytest.raises(ValueError, match="other.npz.*savez"):
        load_own_images(path)


def test_encrypted_archive_is_refused(tmp_path):
    path = tmp_path / "secret.npz"
    _archive(path, _npy((20, 8, 8), tail=bytes(1280)))
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag, in both places
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="secret.npz.*encrypted"):
        load_own_images(path)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["cat"] * 20),
        np.full(20, np.nan),
        np.full(20, 0.5),
        np.full(20, 2**63, dtype=np.uint64),
        np.full(20, 1e300),
        np.full(20, 1j),
    ],
)
def test_labels_that_are_no_whole_numbers_are_refused(labels, tmp_path):
    np.savez(tmp_path / "array.npz", images=np.zeros((20, 8, 8)), labels=labels)
    with pytest.raises(ValueError, match="array.npz.*labels"):
        load_own_images(tmp_path / "array.npz")


def test_other_arrays_in_an_archive_may_be_anything(tmp_path):
    arrays = {"images": np.zeros((20, 8, 8)), "names": np.array(["cat"] * 20)}
    np.savez(tmp_path / "array.npz", **arrays)
    assert load_own_images(tmp_path / "array.npz").train.images.shape[0] == 18


# ---- folders


def _pictures(folder, number=12, name="{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        Image.new("L", (8, 8), i).save(folder / name.replace("{}", str(i)), "png")
    return folder


def test_links_out_of_the_folder_are_not_followed(tmp_path, capsys):
    outside, folder = _pictures(tmp_path / "outside"), _pictures(tmp_path / "folder")
    (folder / "one.png").symlink_to(outside / "0.png")
    (folder / "all").symlink_to(outside, target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "dead.png").symlink_to(folder / "nowhere.png")
    splits = load_own_images(folder)
    assert sum(len(part.labels) for part in splits) == 12
    assert "one.png" in capsys.readouterr().out
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert len(load_own_images(tmp_path / "link").train.labels) == 10


def test_pipes_sockets_and_devices_never_hang(tmp_path, bounded):
    folder = _pictures(tmp_path / "folder")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "unix.png"))
    (folder / "device.png").symlink_to("/dev/zero")
    assert sum(len(part.labels) for part in load_own_images(folder)) == 12
    os.mkfifo(tmp_path / "pipe.npy")
    for path in (folder / "pipe.png", folder / "device.png", folder):
        with pytest.raises(ValueError, match=path.name):
            read_image(path)
    for path in (tmp_path / "pipe.npy", folder / "pipe.png", "/dev/zero"):
        with pytest.raises(ValueError, match="file"):
            load_own_images(path)


def test_too_many_entries_are_said(tmp_path, monkeypatch):
    folder = _pictures(tmp_path / "folder")
    monkeypatch.setattr(own_images, "_MOST_ENTRIES", 11)
    with pytest.raises(ValueError, match="folder.*11"):
        load_own_images(folder)


@pytest.mark.parametrize("path", ["", "/", "//", "/.", "/tmp/.."])
def test_root_and_nothing_are_no_folders_of_pictures(path):
    with pytest.raises(ValueError, match="path"):
        load_own_images(path)


HARMFUL = ["\x1b[2J\x1b]0;owned\x07", "\u202egnp", "a\nb", "\r", "\x9b31m", "\u2066x"]
PEOPLE = ["a\u00a0b", "\u3000", "line\nbreak", "\U0001f600", os.fsdecode(b"caf\xe9")]
PEOPLE += [" ", "a'b\"c", "%s{}", "-rf", "~", "$HOME", "*", "a\\b", "\u0301", "ß"]


def _is_clean(text):
    return all(c.isprintable() or c == "\n" for c in text) and text.encode()


@pytest.mark.parametrize("name", HARMFUL + PEOPLE)
def test_names_are_never_printed_raw_and_always_load(name, tmp_path, capsys):
    folder = _pictures(tmp_path / name / name, name=name + "{}.png")
    (folder / f"bad{name}.png").write_bytes(b"no picture")
    for path in (tmp_path / name, folder):
        with pytest.raises(ValueError) as refusal:
            load_own_images(path)
        assert _is_clean(str(refusal.value)), str(refusal.value)
        assert str(refusal.value).count("\n") == 2
        splits = load_own_images(path, skip_unreadable=True)
        assert sum(len(part.labels) for part in splits) == 12
    printed = capsys.readouterr().out
    assert _is_clean(printed) and printed.count("\n") == 2
    with pytest.raises(ValueError) as refusal:
        read_image(folder / f"bad{name}.png")
    assert _is_clean(str(refusal.value)) and "\n" not in str(refusal.value)
    np.save(folder / "array.npy", np.zeros((2, 2)))
    for path in (folder / "array.npy", folder / "nothing"):
        with pytest.raises((ValueError, FileNotFoundError)) as refusal:
            load_own_images(path)
        assert _is_clean(str(refusal.value)) and "\n" not in str(refusal.value)
