"""The folder of a run: a refused command leaves it as it was, two never write it at once, nothing outside it is touched, and what was said to be on the disk survives a power loss."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import write_tiny_data
from typer.testing import CliRunner

from vae_tutorial.checkpoints import Checkpoint
from vae_tutorial.cli import app
from vae_tutorial.files import read_safetensors, save_weights
from vae_tutorial.files import write_bytes
from vae_tutorial.training import fit
from vae_tutorial.vae import VAE, mlp_vae

SMALL = ["--hidden", "4", "--batch-size", "50", "--device", "cpu", "--validation", "10"]


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    raw = result.exception
    assert raw is None or isinstance(raw, SystemExit), (arguments, repr(raw))
    return result


def train(out, data, *more):
    named = ("--data", "fashion-mnist", "--data-dir", data)
    return run("train", "--out", out, *named, *SMALL, *more)


def content(folder):
    "Every file below a folder, by name, and its bytes."
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A finished run and its data."
    folder = tmp_path_factory.mktemp("run")
    data = write_tiny_data(folder / "data")
    result = train(folder / "run", data, "--epochs", 2)
    assert result.exit_code == 0, result.output
    return folder / "run", data


@pytest.fixture
def copy(finished, tmp_path):
    "A copy of the run and of its data, to be damaged."
    return (
        shutil.copytree(finished[0], tmp_path / "run"),
        shutil.copytree(finished[1], tmp_path / "data"),
    )


# 1. A refused command changes nothing.

OTHER = {
    "--hidden": ["5", "4,4", "x", "0", "1000000000"],
    "--latent-dim": ["3", "0", "-1", "99999999999999999999"],
    "--lr": ["0.1", "0", "nan", "inf", "-1"],
    "--beta": ["2", "-1", "nan"],
    "--seed": ["1", "99999999999999999999"],
    "--batch-size": ["7", "0"],
    "--epochs": ["1", "0", "-5"],
    "--pixels": ["grey"],
    "--validation": ["11", "-1", "100000"],
    "--network": ["conv"],
    "--data": ["mnist", "kmnist", "nowhere", "", "/"],
    "--size": ["8"],
    "--device": ["tpu", "cuda:77", "meta"],
}


def change_pictures(data):
    path = next(data.rglob("train-images*"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def fewer_pictures(data):
    shutil.rmtree(data)
    write_tiny_data(data, 100)


def cut_pictures(data):
    path = next(data.rglob("t10k-images*"))
    path.write_bytes(path.read_bytes()[:-100])


DATA = [change_pictures, fewer_pictures, cut_pictures, shutil.rmtree]


def flip(path, chance):
    "Change one bit of a file."
    bits = bytearray(path.read_bytes())
    bits[chance.randrange(len(bits))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(bits))


@pytest.mark.parametrize("seed", range(12))
def test_a_refused_command_leaves_the_folder_as_it_was(copy, seed):
    (out, data), chance = copy, random.Random(seed)
    option = chance.choice(list(OTHER))
    for value in OTHER[option]:
        ways = [("--resume",)]
        if value not in ("3", "5", "4,4", "0.1", "2", "1", "7", "11"):  # fine if new
            ways.append(("--overwrite",))
        for way in ways:
            before = content(out)
            if option in ("--data",):
                arguments = ("--data", value, "--data-dir", data, *SMALL)
            else:
                arguments = ("--data", "fashion-mnist", "--data-dir", data, *SMALL)
                arguments += (option, value)
            if (option, way) in (
                ("--pixels", ("--overwrite",)),
                ("--network", ("--overwrite",)),
                ("--data", ("--overwrite",)),
            ) and value in ("grey", "conv", "mnist"):
                continue
            result = run("train", "--out", out, *arguments, *way)
            assert result.exit_code != 0, (option, value, way, result.output)
            assert content(out) == before, (option, value, way)
    before = content(out)
    chance.choice(DATA)(data)
    for more in ((), ("--epochs", "3")):
        result = train(out, data, "--resume", *more)
        assert result.exit_code == 1, result.output
        assert content(out) == before
    shutil.rmtree(data, ignore_errors=True)
    for command in ("evaluate", "reconstruct", "diagnose"):
        result = run(command, out, "--data-dir", data)
        if result.exit_code:
            assert content(out) == before


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "config.json"])
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_run_is_refused_and_left_as_it_is(copy, name, seed):
    (out, data), chance = copy, random.Random(seed)
    flip(out / name, chance)
    before = content(out)
    for way in ("--resume", "--epochs=3 --resume"):
        result = train(out, data, *way.split())
        if result.exit_code == 0:  # a bit of white space, or of no account
            assert name == "config.json"
            return
        assert content(out) == before, result.output


def test_torchrun_does_not_resume_a_run_of_one_process(copy):
    out, data = copy
    before = content(out)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "vae_tutorial.cli", "train", "--out", out, "--resume"]
    result = subprocess.run(
        [*command, "--data-dir", data, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode and "step was" in result.stderr, result.stderr
    assert content(out) == before


# 2. What was said to be on the disk is on the disk.


@pytest.mark.parametrize("lost", [None, b"", b"\0" * 300, b"\n"])
def test_settings_that_were_lost_come_back_from_the_checkpoint(copy, lost):
    out, data = copy
    whole = json.loads((out / "config.json").read_text())
    (out / "config.json").unlink()
    if lost is not None:
        (out / "config.json").write_bytes(lost)
    assert run("sample", out).exit_code == 0
    result = run("train", "--out", out, "--resume", "--data-dir", data)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "config.json").read_text()) == whole


LOSSES = int(os.environ.get("VAE_TUTORIAL_POWER_LOSSES", "50"))

WRITER = """
import sys
from pathlib import Path
from test_folders import train
train(Path(sys.argv[1]), Path(sys.argv[2]), "--epochs", "300", "--resume")
"""


@pytest.fixture
def disk(tmp_path):
    "A small ext4 disk in a file, mounted."
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    image.write_bytes(b"\0" * 24_000_000)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine mounts no disk images: {error}")
    yield image, folder
    subprocess.run(["umount", "-l", folder], check=True)


def after_power_loss(image, folder, look):
    "Mount a copy of a disk as it is this moment, without what was not written yet."
    copied = folder / "copied"
    shutil.copyfile(image, copied)
    (folder / "mounted").mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", copied, folder / "mounted"], check=True)
    try:
        look(folder / "mounted")
    finally:
        subprocess.run(["umount", folder / "mounted"], check=True)


def test_a_power_loss_loses_nothing_that_was_there(disk, tmp_path):
    image, folder = disk
    data, chance = write_tiny_data(tmp_path / "data"), random.Random(0)
    epochs = []

    def look(mounted):
        out = mounted / "run"
        if not (out / "checkpoint.safetensors").exists():
            assert not epochs, "a checkpoint was there, and is gone"
            return
        assert json.loads((out / "config.json").read_text())["seed"] == 0
        text = read_safetensors(out / "checkpoint.safetensors")[1]["training"]
        history = json.loads(text)["history"]
        done = history[-1]["epoch"] if history else 0
        assert done >= (epochs[-1] if epochs else 0)
        assert done >= seen[0], "an epoch that was on the disk is not"
        epochs.append(done)

    losses, seen = 0, [0]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, folder / "run", data],
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        while losses < LOSSES:
            time.sleep(chance.uniform(0, 0.4))
            path = folder / "run" / "checkpoint.safetensors"
            if path.exists():
                text = read_safetensors(path)[1]["training"]
                history = json.loads(text)["history"]
                seen[0] = history[-1]["epoch"] - 1 if history else 0
                losses += 1
            after_power_loss(image, tmp_path, look)
    finally:
        process.kill()
        process.wait()
    assert epochs[-1] > 0


# 5. Two at once.


def test_two_trainings_never_share_a_folder(tmp_path):
    data, out = write_tiny_data(tmp_path / "data"), tmp_path / "run"
    command = [sys.executable, "-c", WRITER.replace("300", "30"), out, data]
    where = {
        "cwd": Path(__file__).parent,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    }
    first = subprocess.Popen(command, **where)
    while not (out / ".lock.json").exists():
        assert first.poll() is None
        time.sleep(0.01)
    result = train(out, data, "--resume")
    assert result.exit_code == 1 and f"process {first.pid}" in result.output
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    result = run("train", "--out", out, "--resume", "--epochs", 300, "--data-dir", data)
    assert result.exit_code == 0, result.output


def test_two_fits_in_one_process_do_not_share_a_folder_either(tmp_path):
    images = torch.rand(8, 1, 4, 4)
    errors = []

    def second(record):
        try:
            model = mlp_vae((1, 4, 4), hidden=(3,))
            fit(model, images, checkpoint=Checkpoint(tmp_path), log=None)
        except OSError as error:
            errors.append(str(error))

    model = mlp_vae((1, 4, 4), hidden=(3,))
    here = {"checkpoint": Checkpoint(tmp_path), "callback": second}
    fit(model, images, epochs=2, log=None, **here)
    assert len(errors) == 2 and all("in use by another" in error for error in errors)
    fit(model, images, epochs=2, log=None, checkpoint=Checkpoint(tmp_path))


def test_many_saves_to_one_path_leave_one_whole_file(tmp_path):
    models, path, errors = [mlp_vae() for _ in range(8)], tmp_path / "model", []

    def save(model):
        try:
            for _ in range(20):
                save_weights(model, path)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        read_safetensors(path) if path.exists() else None
    assert not errors and [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_living_writer_keeps_its_unfinished_file(tmp_path):
    path, dead = tmp_path / "file", subprocess.Popen(["true"])
    dead.wait()
    living = tmp_path / f"file.{os.getppid()}-12345678.partial"
    left = tmp_path / f"file.{dead.pid}-12345678.partial"
    living.write_text("half")
    left.write_text("half")
    write_bytes(b"whole", path)
    assert living.exists() and not left.exists() and path.read_bytes() == b"whole"


# 7. Strangers' folders.

WRITTEN = ["config.json", "metrics.jsonl", "checkpoint.safetensors"]
WRITTEN += ["model.safetensors", "evaluation.json", "samples.png", "losses.png"]
WRITTEN += ["reconstructions.png", "latent_map.png", "manifold.png"]
WRITTEN += [".lock", ".lock.json"]


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_outside_the_folder_is_written_and_nothing_hangs(copy, name, kind):
    (out, data), outside = copy, copy[0].parent / "outside"
    kept = (out / name).read_bytes() if (out / name).exists() else b""
    (out / name).unlink(missing_ok=True)
    if kind == "link":
        outside.write_bytes(kept)
        (out / name).symlink_to(outside)
    elif kind == "dangling":
        (out / name).symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(out / name)
    else:
        (out / name).mkdir()
    commands = [("train", "--out", out, "--resume", "--epochs", 3, "--data-dir", data)]
    commands += [("evaluate", out, "--data-dir", data), ("sample", out)]
    commands += [("reconstruct", out, "--data-dir", data)]
    signal.alarm(60)  # a hang ends everything
    try:
        for command in commands:
            run(*command)
    finally:
        signal.alarm(0)
    if kind == "dangling":
        assert not outside.exists()
    if kind == "link":
        assert outside.read_bytes() == kept


@pytest.mark.parametrize("data", ["/", "", ".", "..", "relative/path", "~", "\0", "C:"])
def test_strange_settings_scan_nothing(copy, data):
    out, _ = copy
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"data": data}))
    before = content(out)
    for command in (("evaluate", out), ("train", "--out", out, "--resume")):
        start = time.perf_counter()
        assert run(*command).exit_code == 1
        assert time.perf_counter() - start < 10 and content(out) == before


def test_a_bit_that_changed_is_noticed(tmp_path):
    chance, model = random.Random(0), mlp_vae((1, 4, 4), hidden=(3,))
    path = model.save(tmp_path / "model.safetensors")
    whole = path.read_bytes()
    for _ in range(300):
        flip(path, chance)
        try:
            loaded = VAE.load(path)
        except ValueError:
            loaded = None
        finally:
            path.write_bytes(whole)
        if loaded is not None:  # the checksum's own name, or padding
            for name, tensor in loaded.state_dict().items():
                assert torch.equal(tensor, model.state_dict()[name])


def test_a_million_tensors_are_refused_in_bounded_time(tmp_path):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    names = {f"t{i}": entry for i in range(1_000_000)}
    header = json.dumps({"__metadata__": {"vae": "{}"}, **names}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="tensors|header"):
        VAE.load(path)
    assert time.perf_counter() - start < 30


# 8. Names that people have.

NAMES = ["plain", "with space", "no\u00a0break", "ideographic\u3000space", "new\nline"]
NAMES += ["tab\there", "émoji 🙂", "עברית", "quo'te\"s", "-dash", "per%cent", "[b]*?"]
NAMES += [os.fsdecode(b"latin\xe9"), "\x1b[31mred", "right\u202eleft", "#hash", "dot."]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_folders_with_any_name_train_resume_and_serve(name, tmp_path):
    from PIL import Image

    pictures = tmp_path / name / "pictures"
    pictures.mkdir(parents=True)
    for i in range(12):
        pixels = np.full((8, 8), 20 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.png")
    out = tmp_path / name / "run"
    options = ("--out", out, "--hidden", "3", "--device", "cpu", "--epochs")
    commands = [("train", "--data", pictures, *options, 1)]
    commands += [("train", "--out", out, "--resume", "--epochs", 2)]
    commands += [("evaluate", out), ("sample", out), ("reconstruct", out, "--num", 1)]
    for command in commands:
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert "\x1b[31m" not in result.output and "\u202e" not in result.output
    for bad in (("train", *options, 1), ("sample", tmp_path / name / "nothing")):
        output = run(*bad).output
        assert "\x1b[31m" not in output and "\u202e" not in output


# 9. Errors name the option as it was typed.

BAD = ["", " ", "0", "-1", "1e400", "nan", "99999999999999999999", "1.5", "x", "None"]
BAD += ["１２", "0x10", "1,2", "true", "\x1b[31m", "é", "--", "1000000", "\udcff"]
FREE = {"--out", "--data-dir", "--data"}


def options_of(command):
    "Every option of a command that takes a value, by name."
    import typer

    parsed = typer.main.get_command(app).commands[command]
    return [
        option.opts[-1]
        for option in parsed.params
        if option.param_type_name == "option" and not getattr(option, "is_flag", False)
    ]


@pytest.mark.parametrize("command", ["train", "sample", "reconstruct", "evaluate"])
def test_every_option_with_every_bad_value_is_named(
    finished, tmp_path, command, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # some are good names for a folder
    out, data = finished
    before = content(out)
    for option in options_of(command):
        for value in BAD:
            if (
                option in ("--seed", "--beta", "--epochs", "--num")
                and value == "1000000"
            ):
                continue  # a good value, or a long one
            if command == "train":
                arguments = ["train", "--out", tmp_path / "new", "--data-dir", data]
                arguments += ["--data", "fashion-mnist", "--epochs", "1", *SMALL]
            else:
                arguments = [command, out]
                if "--data-dir" in options_of(command):
                    arguments += ["--data-dir", data]
            result = run(*arguments, option, value)
            shutil.rmtree(tmp_path / "new", ignore_errors=True)
            if result.exit_code == 0:
                continue
            assert "Traceback" not in result.output
            if option not in FREE:
                assert option in result.output, (command, option, value, result.output)
            assert "\x1b[31m" not in result.output.replace("\x1b[31m\u256d", "")
    assert content(out).keys() == before.keys()
