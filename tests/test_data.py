"The data cache under damage, races and absence."

import subprocess
import sys

import pytest
import torch

from vae_tutorial._mnist import install_mnist
from vae_tutorial.data import load_mnist

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
