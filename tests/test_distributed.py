"Training in several real processes, started by torchrun: the same curve, and a clean restart when one of them is killed."

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from vae_tutorial.vae import VAE

OPTIONS = [
    "--epochs",
    "3",
    "--validation",
    "55000",
    "--hidden",
    "32",
]  # 5,000 images to train on
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
]


def train(command, out, extra=()):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [
            *command,
            "-m",
            "vae_tutorial.cli",
            "train",
            "--out",
            str(out),
            *OPTIONS,
            *extra,
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def records(out):
    return [
        json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    "The folder of a run in two processes, and what it printed."
    out = tmp_path_factory.mktemp("pair") / "run"
    process = train(TORCHRUN, out)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return out, text


def test_two_processes_follow_the_curve_of_one(pair, tmp_path):
    alone = train([sys.executable], tmp_path / "alone")
    text, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, text
    one, two = records(tmp_path / "alone"), records(pair[0])
    assert len(one) == len(two) == 6 and [r["step"] for r in one] == [
        r["step"] for r in two
    ]
    for a, b in zip(one, two):
        assert all(
            abs(a[term] - b[term]) < 1e-3 * abs(a[term])
            for term in ("elbo", "reconstruction", "kl")
        )
    difference = [
        (p - q).abs().max().item()
        for p, q in zip(
            VAE.load(tmp_path / "alone" / "model.safetensors").parameters(),
            VAE.load(pair[0] / "model.safetensors").parameters(),
        )
    ]
    assert max(difference) < 1e-2


def test_only_one_process_prints_and_writes(pair):
    out, text = pair
    assert text.count("in 2 processes") == 1 and text.count("pictures:") == 1
    assert text.count("validation") == 3 and not list(out.glob("*.partial"))


def test_a_killed_worker_is_restarted_and_nothing_is_lost(pair, tmp_path):
    "torchrun stops the others, starts all again, and --resume goes on from the last complete epoch, to the same bits."
    out = tmp_path / "run"
    process = train([*TORCHRUN, "--max-restarts", "1"], out, extra=["--resume"])
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or len(records(out)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    found = subprocess.run(
        ["pgrep", "-f", f"vae_tutorial.cli train --out {out}"],
        capture_output=True,
        text=True,
    ).stdout.split()
    os.kill(max(int(pid) for pid in found if int(pid) != process.pid), signal.SIGKILL)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert "resuming on" in text and records(out) == records(pair[0])
    assert (out / "model.safetensors").read_bytes() == (
        pair[0] / "model.safetensors"
    ).read_bytes()
