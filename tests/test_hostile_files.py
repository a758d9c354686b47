"""No one gets in: pickles are never opened, and no file, however malformed, does more than raise an error that names it.

The thousands of mutated files are read in one process of its own, with a limit on its memory and on the time for each file."""

import json
import os
import pickle
import random
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest
import torch
from tiny import write_tiny_data
from typer.testing import CliRunner

import vae_tutorial._mnist
from vae_tutorial.cli import app
from vae_tutorial._mnist import install_mnist
from vae_tutorial.checkpoints import Checkpoint
from vae_tutorial.data import load_mnist
from vae_tutorial.files import load_weights, read_safetensors
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE, mlp_vae

IMAGES = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
CONFIG = {
    "data": "fashion-mnist",
    "validation": 0,
    "pixels": "binary",
    "latent_dim": 2,
    "hidden": [4],
    "epochs": 1,
    "batch_size": 128,
    "lr": 0.001,
    "beta": 1.0,
    "seed": 0,
    "network": "mlp",
    "size": None,
    "color": False,
    "skip_unreadable": False,
}


def with_sizes(header, sizes):
    "The recipe in a file's header, with other arguments."
    recipe = json.loads(header["__metadata__"]["vae"])
    return {**recipe, "arguments": {**recipe["arguments"], **sizes}}


def small_vae():
    return mlp_vae((1, 4, 4), hidden=(3,))


def run_folder(folder):
    "A finished run, made without training."
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    mlp_vae(hidden=(4,)).save(folder / "model.safetensors")
    return folder


def resume(folder):
    kept = Checkpoint(folder, resume=True)
    return fit(small_vae(), IMAGES, epochs=1, checkpoint=kept, log=None)


def command(*arguments):
    "A command in this process. Its exit code and what it printed; raises what it did not handle."
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


# ---- pickles


class Bomb:
    "Unpickling it would write a file."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


PICKLES = {
    f"protocol {protocol}": lambda bomb, path, protocol=protocol: path.write_bytes(
        pickle.dumps(bomb, protocol)
    )
    for protocol in range(6)
} | {
    "torch.save": torch.save,
    "old torch.save": lambda bomb, path: torch.save(
        bomb, path, _use_new_zipfile_serialization=False
    ),
    "in a dictionary": lambda bomb, path: torch.save(
        {"encoder.layers.0.weight": bomb}, path
    ),
    "behind a length": lambda bomb, path: path.write_bytes(
        struct.pack("<Q", len(pickle.dumps(bomb))) + pickle.dumps(bomb)
    ),
}


@pytest.mark.parametrize("write", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize(
    "name",
    [
        "weights.pt",
        "weights.bin",
        "weights.safetensors",
        "checkpoint.safetensors",
        "model.safetensors",
        "config.json",
    ],
)
def test_a_pickle_is_refused_under_any_name(name, write, tmp_path):
    folder, mark = run_folder(tmp_path / "run"), tmp_path / "it ran"
    write(Bomb(str(mark)), folder / name)
    for action in (
        VAE.load,
        read_safetensors,
        lambda path: load_weights(small_vae(), path),
    ):
        with pytest.raises(ValueError, match=name):
            action(folder / name)
    data = write_tiny_data(tmp_path / "data", 20, 20)
    if name == "checkpoint.safetensors":
        with pytest.raises(ValueError, match=name):
            resume(folder)
        assert_refused(
            command("train", "--out", folder, "--resume", "--data-dir", data), name
        )
    if name in ("model.safetensors", "config.json"):
        for arguments in (
            ("evaluate", folder, "--data-dir", data),
            ("sample", folder),
            ("reconstruct", folder, "--data-dir", data),
        ):
            assert_refused(command(*arguments), name)
    assert not mark.exists()


def assert_refused(result, name):
    code, output = result
    assert code == 1 and name in output and "Traceback" not in output, output


# ---- mutations


def with_header(header, content=b""):
    "A safetensors file: the header as bytes or as something for JSON, then the numbers."
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + content


def parts(file):
    "Header and numbers of a safetensors file."
    length = struct.unpack("<Q", file[:8])[0]
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def flip_bits(chance, file, first, last):
    damaged = bytearray(file)
    for _ in range(chance.choice([1, 1, 2, 8, 40])):
        damaged[chance.randrange(first, min(last, len(file)))] ^= 1 << chance.randrange(
            8
        )
    return bytes(damaged)


WORDS = [
    None,
    True,
    -1,
    0,
    1,
    2,
    3.5,
    2**31,
    2**63,
    2**64,
    10**12,
    -(10**30),
    10**400,
    float("nan"),
    float("inf"),
    "",
    "F32",
    "x" * 1000,
    "\0",
    "\ud800",
    [],
    [[]],
    [1] * 5000,
    ["2"],
    [2.5],
    [-1, 4],
    [2**40, 2**40],
    [10**12],
    {},
    {"a": 1},
    [[4, 4], 4],
    [None],
    [True, 4],
    "F64",
    "I64",
    "BOOL",
    "F8_E4M3",
    "F4",
    "C64",
    "BF16",
]


def change_json(chance, value, keep=0.7):
    "A copy of a JSON value with some places replaced, removed, doubled or renamed."
    if isinstance(value, dict):
        changed = {
            chance.choice([key, key + "x", key[:-1]])
            if chance.random() < 0.05
            else key: change_json(chance, item, keep)
            for key, item in value.items()
            if chance.random() > 0.03
        }
        if chance.random() < 0.05:
            changed["another"] = chance.choice(WORDS)
        return changed
    if isinstance(value, list) and chance.random() < keep:
        return [
            change_json(chance, item, keep)
            for item in value
            for _ in range(chance.choice([1] * 12 + [0, 2]))
        ]
    return value if chance.random() < keep else chance.choice(WORDS)


def nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


JSON_BOMBS = [
    nested(200),
    nested(100_000),
    nested(3_000, '{"a":', "}"),
    "[" * 500_000,
    '{"a":' * 50_000,
    "1" * 100_000,
    "-" * 10_000,
    '"' + "\\u0000" * 10_000 + '"',
    "[" + "1," * 200_000 + "1]",
    "{" + '"a":1,' * 50_000 + '"a":1}',
    "1e400",
    "NaN",
    "-Infinity",
    "null",
    "true",
    '""',
    "[]",
    "{}",
    "",
    " ",
    "\ufeff{}",
    "{'a': 1}",
    '{"a": 1,}',
    '{"a": 1} {"b": 2}',
    "\x00",
]
HEADERS = [
    b"",
    b"{",
    b"}",
    b"[]",
    b"null",
    b"\xff\xfe{}",
    b'{"\xff": 1}',
    b"{}",
    b'{"__metadata__": null}',
    b'{"__metadata__": {"vae": 3}}',
    b'{"__metadata__": []}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [0, 4611686018427387904], "data_offsets": [0, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [1e3], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [18446744073709551615], "data_offsets": [0, 18446744073709551612]}}',
    b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}',
    *(
        json.dumps(
            {"a": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]}}
        ).encode()
        for dtype, size in (
            ("F4", 1),
            ("F6_E2M3", 1),
            ("F8_E8M0", 1),
            ("F8_E5M2", 1),
            ("BOOL", 1),
            ("U64", 8),
            ("C64", 8),
            ("str", 1),
        )
    ),
    json.dumps(
        {
            f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for i in range(50_000)
        }
    ).encode(),
    *(bomb.encode() for bomb in JSON_BOMBS),
]


def mutated_safetensors(chance, file, key):
    "Endless malformed versions of a safetensors file whose own JSON stands in the metadata under `key`; first those from the lists above."
    header, content = parts(file)
    start = len(file) - len(content)
    for mutated in HEADERS:
        yield with_header(mutated, content[:16])
    for length in (
        0,
        1,
        7,
        8,
        2**20,
        100_000_000,
        100_000_001,
        2**31,
        2**32,
        2**62,
        2**63,
        2**64 - 1,
    ):
        yield struct.pack("<Q", length) + file[8:]
    for text in JSON_BOMBS:
        yield with_header({**header, "__metadata__": {key: text}}, content)
    for name in header:
        for word in WORDS:
            yield with_header({**header, name: word}, content)
    while True:
        kind = chance.randrange(6)
        if kind == 0:
            yield flip_bits(chance, file, 0, start)
        if kind == 1:
            yield flip_bits(chance, file, 0, len(file))
        if kind == 2:
            yield file[: chance.randrange(len(file))]
        if kind == 3:
            yield (
                file[:start]
                + bytes(chance.randrange(256) for _ in range(len(content)))
                + bytes(chance.choice([0, 0, 4, 1000]))
            )
        if kind == 4:
            yield with_header(change_json(chance, header, 0.97), content)
        if kind == 5:
            yield with_header(
                {
                    **header,
                    "__metadata__": {
                        key: json.dumps(
                            change_json(
                                chance, json.loads(header["__metadata__"][key]), 0.85
                            )
                        )
                    },
                },
                content,
            )


def mutated_config(chance):
    "Endless malformed versions of config.json."
    text = json.dumps(CONFIG)
    for bomb in JSON_BOMBS:
        yield bomb.encode("utf-8", "surrogatepass")
    yield text[:-1].encode() + b', "seed": 1}'
    yield text.encode("utf-16")
    yield b'{"data": "' + bytes(range(128, 256)) + b'"}'
    yield text.encode() + b" " * 10**7
    for name in CONFIG:
        yield json.dumps(
            {key: value for key, value in CONFIG.items() if key != name}
        ).encode()
        for word in WORDS:
            yield json.dumps({**CONFIG, name: word}).encode()
    while True:
        if chance.random() < 0.5:
            yield flip_bits(chance, text.encode(), 0, len(text))
        else:
            yield json.dumps(change_json(chance, CONFIG, 0.8)).encode()


def mutated_idx(chance, file):
    "Endless malformed versions of a file of MNIST's format."
    for word in (0, 1, -1, 2049, 2051, 2**31 - 1, -(2**31)):
        for place in range(0, 16, 4):
            yield file[:place] + struct.pack(">i", word) + file[place + 4 :]
    while True:
        yield chance.choice(
            [
                flip_bits(chance, file, 0, 16),
                file[: chance.randrange(len(file))],
                file[chance.randrange(1, 20) :],
            ]
        )


# ---- the reading


class Hang(BaseException):
    "A file took too long."


def raise_hang(*_):
    raise Hang


def outcome(action, path):
    "`loaded`, or `refused` by a documented error that names the file. Anything else raises."
    signal.alarm(10)
    try:
        result = action()
    except (ValueError, OSError, FloatingPointError) as error:
        assert path.name in str(error) or isinstance(error, FloatingPointError), (
            f"{type(error).__name__}: {error}"
        )
        return "refused"
    finally:
        signal.alarm(0)
    if isinstance(result, tuple) and isinstance(result[0], int):
        assert result[0] in (0, 1) and "Traceback" not in result[1], result
        assert result[0] == 0 or "error: " in result[1], result
        return "refused" if result[0] else "loaded"
    return "loaded"


def read_all(folder):
    "Read the mutated files of every kind, in memory and time that no file may exceed. Prints how many were refused and loaded."
    chance, data = random.Random(0), write_tiny_data(folder / "data", 20, 20)
    run, saved = run_folder(folder / "run"), folder / "saved"
    saved.mkdir()
    model = small_vae().save(saved / "model.safetensors")
    resume(saved)
    checkpoint, whole_model = (
        saved / "checkpoint.safetensors",
        (run / "model.safetensors").read_bytes(),
    )
    command("evaluate", run, "--data-dir", data)
    idx = data / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    jobs = [
        (
            400,
            model,
            mutated_safetensors(chance, model.read_bytes(), "vae"),
            lambda: VAE.load(model),
        ),
        (
            250,
            model,
            mutated_safetensors(chance, model.read_bytes(), "vae"),
            lambda: load_weights(small_vae(), model),
        ),
        (
            500,
            checkpoint,
            mutated_safetensors(chance, checkpoint.read_bytes(), "training"),
            lambda: resume(saved),
        ),
        (
            200,
            run / "model.safetensors",
            mutated_safetensors(chance, whole_model, "vae"),
            lambda: command("evaluate", run, "--data-dir", data),
        ),
        (
            600,
            run / "config.json",
            mutated_config(chance),
            lambda: command("evaluate", run, "--data-dir", data),
        ),
        (
            600,
            run / "config.json",
            mutated_config(chance),
            lambda: command(
                "train", "--out", run, "--resume", "--data-dir", data / "missing"
            ),
        ),
        (
            150,
            idx,
            mutated_idx(chance, idx.read_bytes()),
            lambda: load_mnist("fashion-mnist", num_validation=0, directory=data),
        ),
    ]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
        "SC_PAGESIZE"
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
    signal.signal(signal.SIGALRM, raise_hang)
    before, counts, slowest = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        {"refused": 0, "loaded": 0},
        0,
    )
    for number, path, files, action in jobs:
        whole = path.read_bytes()
        for i, content in zip(range(number), files):
            path.write_bytes(content)
            started = time.monotonic()
            try:
                counts[outcome(action, path if path != idx else idx.parent)] += 1
            except BaseException:
                print("file", i, "of", path, content[:300], file=sys.stderr)
                raise
            slowest = max(slowest, time.monotonic() - started)
        path.write_bytes(whole)
    print(
        json.dumps(
            {
                **counts,
                "slowest": round(slowest, 2),
                "megabytes": (
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                )
                // 1024,
            }
        )
    )


def test_thousands_of_malformed_files_are_refused_or_read(tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, pathlib, test_hostile_files; test_hostile_files.read_all(pathlib.Path(sys.argv[1]))",
            tmp_path,
        ],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-5000:]
    counts = json.loads(result.stdout.splitlines()[-1])
    print(counts)
    assert (
        counts["refused"] >= 1000
        and counts["loaded"] >= 20
        and counts["slowest"] < 5
        and counts["megabytes"] < 300
    ), counts


@pytest.mark.parametrize(
    "sizes",
    [
        {"latent_dim": 10**12},
        {"latent_dim": 10**30},
        {"hidden": [10**12]},
        {"hidden": [1] * 100_000},
        {"hidden": [[3]]},
        {"hidden": "3"},
        {"hidden": 3},
        {"hidden": [3.0]},
        {"latent_dim": "2"},
        {"latent_dim": True},
        {"image_shape": [1, 10**9, 10**9]},
        {"image_shape": []},
        {"image_shape": 16},
        {"image_shape": None},
        {"depth": 3},
    ],
    ids=lambda sizes: str(sizes)[:40],
)
def test_absurd_sizes_in_a_header_are_refused_at_once(sizes, tmp_path):
    path = small_vae().save(tmp_path / "vae.safetensors")
    header, content = parts(path.read_bytes())
    path.write_bytes(
        with_header(
            {
                **header,
                "__metadata__": {"vae": json.dumps(with_sizes(header, sizes))},
            },
            content,
        )
    )
    started = time.monotonic()
    with pytest.raises(ValueError, match="vae.safetensors"):
        VAE.load(path)
    assert time.monotonic() - started < 1


# ---- the archive


def member(name, content=b"", **fields):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry, content


FIRST = "t10k-images-idx3-ubyte"
ARCHIVES = {
    "path upwards": [member("../../escaped", b"x"), member(FIRST, b"x")],
    "absolute path": [member("/tmp/escaped-absolute", b"x")],
    "nothing": [],
    "symbolic link": [member(FIRST, type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link": [member(FIRST, type=tarfile.LNKTYPE, linkname="../../../etc/passwd")],
    "link to itself": [member(FIRST, type=tarfile.SYMTYPE, linkname=FIRST)],
    "folder": [member(FIRST, type=tarfile.DIRTYPE)],
    "device": [member(FIRST, type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
    "other bytes": [member(name, b"x") for name in vae_tutorial._mnist._MNIST_SHA256],
}


@pytest.mark.parametrize("members", ARCHIVES.values(), ids=ARCHIVES)
def test_a_hostile_archive_writes_nothing(members, tmp_path, monkeypatch):
    "As if someone had replaced the archive in the package."
    (tmp_path / "assets").mkdir()
    with tarfile.open(tmp_path / "assets" / "mnist.tar.xz", "w:xz") as archive:
        for entry, content in members:
            archive.addfile(entry, BytesIO(content))
    monkeypatch.setattr(vae_tutorial._mnist, "files", lambda package: tmp_path)
    with pytest.raises(OSError, match="archive inside the package is damaged"):
        install_mnist(tmp_path / "data")
    written = {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert (
        written <= {"assets/mnist.tar.xz", "data/MNIST/.vae_tutorial.lock"}
        and not Path("/tmp/escaped-absolute").exists()
    ), written


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"\xfd7zXZ\0" + bytes(100)],
    ids=["empty", "text", "cut"],
)
def test_an_archive_that_is_none(content, tmp_path, monkeypatch):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "mnist.tar.xz").write_bytes(content)
    monkeypatch.setattr(vae_tutorial._mnist, "files", lambda package: tmp_path)
    with pytest.raises(OSError, match="archive inside the package is damaged"):
        install_mnist(tmp_path / "data")


# ---- a model file whose header is too large to be one


def test_a_million_tensors_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "vae.safetensors"
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path.write_bytes(with_header({f"t{i}": empty for i in range(1_000_000)}))
    started = time.monotonic()
    with pytest.raises(ValueError, match="vae.safetensors.*1,048,576"):
        VAE.load(path)
    assert time.monotonic() - started < 1


def test_as_many_tensors_as_the_header_may_name_are_read_in_time(tmp_path):
    path = small_vae().save(tmp_path / "vae.safetensors")
    header, content = parts(path.read_bytes())
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    many = {f"t{i}": empty for i in range(15_000)}
    path.write_bytes(with_header({**many, **header}, content))
    started = time.monotonic()
    with pytest.raises(ValueError, match="vae.safetensors"):
        VAE.load(path)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("sizes", [{"hidden": [1] * 4_000}, {"hidden": [40_000] * 2}])
def test_long_and_wide_recipes_are_refused_in_time(sizes, tmp_path):
    path = small_vae().save(tmp_path / "vae.safetensors")
    header, content = parts(path.read_bytes())
    recipe = json.dumps(with_sizes(header, sizes))
    path.write_bytes(with_header({**header, "__metadata__": {"vae": recipe}}, content))
    started = time.monotonic()
    with pytest.raises(ValueError, match="vae.safetensors"):
        VAE.load(path)
    assert time.monotonic() - started < 1


def test_weights_that_are_finite_only_in_the_file_are_refused(tmp_path):
    "1e300 in float64 is infinite in the float32 of the model."
    model = small_vae().double()
    with torch.no_grad():
        next(model.parameters()).fill_(1e300)
    with pytest.raises(ValueError, match="vae.safetensors"):
        VAE.load(model.save(tmp_path / "vae.safetensors"))


def test_a_pipe_or_folder_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", tmp_path):
        with pytest.raises((OSError, ValueError), match=path.name):
            VAE.load(path)
