"The data cache under damage, races and absence."

import os
import signal
import subprocess
import sys

import pytest
import torch
from tiny import write_tiny_data

from vae_tutorial._mnist import install_mnist
from vae_tutorial.data import load_mnist
from vae_tutorial.files import write_bytes

FILES = [
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
]
LOAD = "import sys; from vae_tutorial.data import load_mnist; d = load_mnist(directory=sys.argv[1]); print(d.test.labels.sum().item(), len(d.train.images))"


def load_in_processes(directory, number):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD, directory],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(number)
    ]
    return [
        (process.communicate(timeout=300), process.returncode) for process in processes
    ]


def test_processes_that_start_at_once_all_get_the_data(tmp_path):
    results = load_in_processes(str(tmp_path), 4)
    assert [code for _, code in results] == [0] * 4, results
    assert len({output for (output, _), _ in results}) == 1
    assert sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir()) == FILES
    assert [
        path.name for path in (tmp_path / "MNIST").iterdir() if path.name != "raw"
    ] in ([], [".vae_tutorial.lock"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "one bit"])
def test_damaged_cache_is_rebuilt(tmp_path, name, damage):
    path = install_mnist(tmp_path) / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "cut":
        path.write_bytes(whole[:-1])
    if damage == "one bit":
        path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    load_mnist(directory=tmp_path)
    assert path.read_bytes() == whole


def test_killed_while_unpacking(tmp_path):
    "SIGKILL in the middle leaves nothing that the next start would take for data."
    for delay in (0.2, 0.5, 0.9):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from vae_tutorial._mnist import install_mnist; print('go', flush=True); install_mnist(sys.argv[1])",
                str(tmp_path / str(delay)),
            ],
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        assert len(load_mnist(directory=tmp_path / str(delay)).test.images) == 10_000


def test_environment_variable_moves_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_TUTORIAL_DATA", str(tmp_path / "here"))
    load_mnist()
    assert (tmp_path / "here" / "MNIST" / "raw" / FILES[0]).exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="VAE_TUTORIAL_DATA"):
        load_mnist(directory=tmp_path / "file")


def test_missing_data_set_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "torchvision.datasets.FashionMNIST.mirrors", ["http://127.0.0.1:9/"]
    )  # nothing listens there
    with pytest.raises(FileNotFoundError) as error:
        load_mnist("fashion-mnist", directory=tmp_path)
    assert str(tmp_path / "FashionMNIST" / "raw") in str(
        error.value
    ) and "VAE_TUTORIAL_DATA" in str(error.value)


def test_damaged_data_set_of_another_name(tmp_path):
    "A half-written download is named, not turned into wrong images."
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).write_bytes((install_mnist() / name).read_bytes()[:100])
    with pytest.raises(OSError, match="FashionMNIST"):
        load_mnist("fashion-mnist", directory=tmp_path)


def test_sibling_data_set_is_read_by_name(tmp_path):
    "Fashion-MNIST's files have MNIST's format; here the digits stand in for the clothes, so no download is needed."
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).symlink_to(install_mnist() / name)
    assert torch.equal(
        load_mnist("fashion-mnist", directory=tmp_path).test.images,
        load_mnist().test.images,
    )


@pytest.mark.parametrize("num_validation", [-1, 60_000, 70_000])
def test_impossible_split(num_validation):
    with pytest.raises(ValueError, match="num_validation"):
        load_mnist(num_validation=num_validation)


# ---- what else may lie in a data folder


@pytest.fixture
def quick():
    "What hangs is an error after a minute."

    def hang(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def in_the_way(kind, path):
    "Puts something that is no MNIST file where one belongs."
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "device":
        path.symlink_to("/dev/zero")
    if kind == "loop":
        path.symlink_to(path)
    if kind == "dead link":
        path.symlink_to(path.with_name("nowhere"))
    if kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    if kind == "folder":
        path.mkdir()


KINDS = ["pipe", "device", "loop", "dead link", "huge", "folder"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [FILES[0], ".vae_tutorial.lock"])
def test_what_is_no_file_is_replaced_or_named(kind, name, tmp_path, quick):
    raw = install_mnist(tmp_path)
    path = raw / name if name in FILES else raw.parent / name
    in_the_way(kind, path)
    if name not in FILES:
        (raw / FILES[0]).unlink()
    try:
        assert len(load_mnist(directory=tmp_path).test.images) == 10_000
        assert (raw / FILES[0]).is_file() and not (raw / FILES[0]).is_symlink()
    except OSError as error:
        assert str(raw) in str(error) and "VAE_TUTORIAL_DATA" in str(error)
        assert kind not in ("pipe", "device", "huge") or name not in FILES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [FILES[2], FILES[3]])
def test_siblings_name_what_is_no_file(kind, name, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(
        "torchvision.datasets.FashionMNIST.mirrors", ["http://127.0.0.1:9/"]
    )
    raw = write_tiny_data(tmp_path, 20, 20) / "FashionMNIST" / "raw"
    in_the_way(kind, raw / name)
    with pytest.raises(OSError) as refusal:
        load_mnist("fashion-mnist", num_validation=0, directory=tmp_path)
    assert str(raw) in str(refusal.value)
    assert kind == "huge" or name in str(refusal.value)


def test_no_home_folder_is_a_clear_error(monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "VAE_TUTORIAL_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(ValueError, match="directory.*VAE_TUTORIAL_DATA"):
        load_mnist()


def test_files_are_written_by_the_packages_writer(tmp_path, monkeypatch):
    "So that what a power failure leaves is whole."
    written = []

    def write(content, path):
        written.append(path.name)
        return write_bytes(content, path)

    monkeypatch.setattr("vae_tutorial._mnist.write_bytes", write)
    install_mnist(tmp_path)
    assert sorted(written) == FILES
