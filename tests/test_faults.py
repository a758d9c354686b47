"""Nothing is lost: processes killed at any moment, full disks, folders that cannot be written, losses that are no numbers.

The killed processes run the whole command line. They are forked from one process that has imported everything, so that a start costs milliseconds."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import write_tiny_data

from vae_tutorial.cli import app
from vae_tutorial.training import fit
from vae_tutorial.checkpoints import Checkpoint
from vae_tutorial.files import read_safetensors
from vae_tutorial.vae import VAE, mlp_vae

KILLS = 200
WORKDIR = Path(__file__).resolve().parent
RESULTS = (
    "config.json",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "model.safetensors",
    "evaluation.json",
)


class SlowFile:
    "A file that takes its bytes in two halves, with time in between and before they reach the disk."

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def fileno(self):
        return self.file.fileno()

    def write(self, content):
        for half in (content[: len(content) // 2], content[len(content) // 2 :]):
            self.file.write(half)
            self.file.flush()
            time.sleep(0.03)

    def flush(self):
        self.file.flush()
        time.sleep(0.03)


def slow_down_writes():
    "From now on, in this process, every write to a `.partial` file takes a tenth of a second."
    open_at_once = Path.open
    Path.open = lambda self, mode="r", *rest, **named: (
        SlowFile if self.suffix == ".partial" and mode == "wb" else lambda file: file
    )(open_at_once(self, mode, *rest, **named))


def start(out, data, slow=False):
    "Fork a process that runs `vae-tutorial train --resume`, and return its number."
    process = os.fork()
    if process:
        return process
    status = 99
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if slow:
            slow_down_writes()
        app(
            [
                "train",
                "--out",
                str(out),
                "--resume",
                "--data",
                "fashion-mnist",
                "--data-dir",
                str(data),
                "--device",
                "cpu",
                "--hidden",
                "4",
                "--epochs",
                "12",
                "--batch-size",
                "2",
                "--validation",
                "10",
                "--seed",
                "3",
            ]
        )
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        os._exit(status)


def wait_for_partial(out, process):
    "Return once a file is being written in `out`, or the process has ended."
    while not (list(out.glob("*.safetensors.*.partial")) if out.is_dir() else []):
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


def check_whole(out):
    "What lies in a folder after a kill: no half file under a real name, at most one left over from a write."
    for path in out.glob("*.safetensors"):
        read_safetensors(path)
    if (out / "config.json").exists():
        json.loads((out / "config.json").read_text())
    assert len(list(out.glob("*.safetensors.*.partial"))) <= 1, list(out.iterdir())


def kill_again_and_again(folder):
    "Train in one go, then under 200 kills, in new folders as often as a run completes. Prints what happened, as JSON."
    chance, data = random.Random(0), write_tiny_data(folder / "data")
    assert os.waitpid(start(folder / "straight", data), 0)[1] == 0
    kills, in_write, completed = 0, 0, []
    while kills < KILLS or not completed:
        out, killed_here, done = folder / f"killed{len(completed)}", 0, False
        while not done:
            slow = kills % 3 == 0
            process = start(out, data, slow)
            if kills < KILLS:
                if slow:
                    wait_for_partial(out, process)
                time.sleep(chance.uniform(0, 0.1 if slow else 0.5))
                os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
            done = status == 0
            if not done:
                assert status == signal.SIGKILL, status
            kills, killed_here = kills + (not done), killed_here + (not done)
            in_write += not done and any(out.glob("*.partial"))
            if out.is_dir():
                check_whole(out)
        completed.append(killed_here)
        assert not list(out.glob("*.partial")), list(out.iterdir())
        for name in RESULTS:
            assert (out / name).read_bytes() == (
                folder / "straight" / name
            ).read_bytes(), f"{name} differs in {out} after {killed_here} kills"
    print(json.dumps({"kills": kills, "in_write": in_write, "completed": completed}))


def in_fresh_process(code, *arguments):
    "Run Python code with this folder's modules; returns what it printed."
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=WORKDIR,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_two_hundred_kills_change_nothing(tmp_path):
    "Weights, optimizer, metrics and scores equal those of the uninterrupted run, bit for bit."
    counts = json.loads(
        in_fresh_process(
            "import sys, pathlib, test_faults; test_faults.kill_again_and_again(pathlib.Path(sys.argv[1]))",
            tmp_path,
        )
    )
    assert (
        counts["kills"] >= KILLS
        and counts["in_write"] >= 10
        and sum(counts["completed"]) == counts["kills"]
    ), counts


@pytest.mark.parametrize(
    "leftover",
    [
        {"config.json.partial": "{"},
        {"checkpoint.safetensors.123.partial": "half"},
        {"config.json.partial": "", "model.safetensors.7.partial": ""},
    ],
    ids=str,
)
def test_a_folder_with_leftovers_only_is_a_new_folder(leftover, tmp_path):
    "That is what a kill leaves before the first file has its name."
    data, out = write_tiny_data(tmp_path / "data", 20, 20), tmp_path / "run"
    out.mkdir()
    for name, text in leftover.items():
        (out / name).write_text(text)
    assert os.waitpid(start(out, data), 0)[1] == 0
    assert not list(out.glob("*.partial")) and VAE.load(out / "model.safetensors")


def small_vae():
    return mlp_vae((1, 4, 4), hidden=(3,))


IMAGES = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def trained(folder, epochs=3, resume=False, **options):
    "A small model after `fit`, always the same."
    torch.manual_seed(1)
    vae = small_vae()
    fit(
        vae,
        IMAGES,
        epochs=epochs,
        batch_size=4,
        checkpoint=folder and Checkpoint(folder, resume),
        log=None,
        **options,
    )
    return vae


def same(a, b):
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


@pytest.fixture
def small_disk(tmp_path):
    "A file system of its own; mounting it takes root."
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(small_disk):
    def fill(record):
        if record["epoch"] == 2:
            (small_disk / "filler").open("wb", buffering=0).write(
                bytes(2**20)
            )  # as much as fits

    with pytest.raises(
        OSError,
        match="cannot write .*(metrics.jsonl|checkpoint.safetensors).*o space left",
    ) as failure:
        trained(small_disk, callback=fill)
    assert "room" in str(failure.value)
    _, metadata = read_safetensors(small_disk / "checkpoint.safetensors")
    assert json.loads(metadata["training"])["history"][-1]["epoch"] == 1
    assert not list(small_disk.glob("*.partial"))
    (small_disk / "filler").unlink()
    assert same(trained(small_disk, resume=True), trained(None))


def test_metrics_that_do_not_fit_on_the_disk_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "outside")
    checkpoint = Checkpoint(tmp_path)

    def fill(record):
        assert not (tmp_path / "metrics.jsonl").is_symlink()
        checkpoint.metrics = open("/dev/full", "w")  # takes no byte

    torch.manual_seed(1)
    options = {"batch_size": 4, "checkpoint": checkpoint, "log": None}
    with pytest.raises(OSError, match="cannot write /dev/full.*safe in checkpoint"):
        fit(small_vae(), IMAGES, epochs=3, callback=fill, **options)
    assert not (tmp_path / "outside").exists()
    assert same(trained(tmp_path, resume=True), trained(None))


def test_a_file_size_limit_keeps_the_last_checkpoint(tmp_path):
    "What any user can have: `ulimit -f`. The limit falls during the training."
    in_fresh_process(
        """
import resource, sys, test_faults
def limit(record):
    if record["epoch"] == 2: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try: test_faults.trained(sys.argv[1], callback=limit)
except OSError as error: assert "cannot write" in str(error) and "checkpoint.safetensors" in str(error) and "room" in str(error), error
else: raise AssertionError("no error")
""",
        tmp_path,
    )
    assert sorted(path.name for path in tmp_path.glob("[a-z]*")) == [
        "checkpoint.safetensors",
        "metrics.jsonl",
    ]
    assert same(trained(tmp_path, resume=True), trained(None))


def test_a_folder_that_cannot_be_written(small_disk):
    trained(small_disk, epochs=1)
    before = {path: path.read_bytes() for path in small_disk.iterdir()}
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for resume in (False, True):
        with pytest.raises(OSError, match="ead-only"):
            trained(small_disk, resume=resume)
    assert before == {path: path.read_bytes() for path in small_disk.iterdir()}


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot write .*file.*Choose a folder"):
        trained(tmp_path / "file" / "run")


def test_a_folder_that_is_missing_is_made(tmp_path):
    trained(tmp_path / "new" / "run")
    assert read_safetensors(tmp_path / "new" / "run" / "checkpoint.safetensors")


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("keep", [False, True])
def test_a_loss_that_is_no_number_stops_with_step_checkpoint_and_cause(
    poison, keep, tmp_path
):
    vae, folder = small_vae(), tmp_path if keep else None

    def spoil(record):
        if record["epoch"] == 2 and record["step"] == 1:
            with torch.no_grad():
                vae.encoder.network[-1].bias.fill_(poison)

    with pytest.raises(
        FloatingPointError, match="epoch 2, step 2.*learning_rate"
    ) as failure:
        fit(
            vae,
            IMAGES,
            epochs=3,
            batch_size=4,
            log_every=1,
            checkpoint=folder and Checkpoint(folder),
            callback=spoil,
            log=None,
        )
    assert (str(tmp_path / "checkpoint.safetensors") in str(failure.value)) == keep
    if keep:
        tensors, metadata = read_safetensors(tmp_path / "checkpoint.safetensors")
        assert (
            all(tensor.isfinite().all() for tensor in tensors.values())
            and json.loads(metadata["training"])["history"][-1]["epoch"] == 1
        )
        records = [
            json.loads(line)
            for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
        ]
        assert [(record["epoch"], record["step"]) for record in records] == [
            (1, 1),
            (1, 2),
            (2, 1),
        ]


def test_weights_that_are_no_numbers_never_replace_a_good_checkpoint(tmp_path):
    "The last step of an epoch may spoil them although its loss was finite."
    vae = small_vae()

    def spoil(record):
        if record["epoch"] == 2:
            with torch.no_grad():
                vae.encoder.network[1].weight[0, 0] = torch.nan

    with pytest.raises(
        FloatingPointError, match="epoch.*2.*learning_rate.*checkpoint.safetensors"
    ):
        fit(
            vae,
            IMAGES,
            epochs=2,
            batch_size=8,
            checkpoint=Checkpoint(tmp_path),
            callback=spoil,
            log=None,
        )
    tensors, _ = read_safetensors(tmp_path / "checkpoint.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_learning_rate_far_too_high_is_named_as_the_cause(tmp_path):
    with pytest.raises(FloatingPointError, match="learning_rate"):
        trained(tmp_path, epochs=20, learning_rate=1e30)
