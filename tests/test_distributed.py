"Training in several real processes, started by torchrun: the same curve, and a clean restart when one of them is killed."

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

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


SMALL = """
import sys
import torch
from torch.utils.data import Dataset
from vae_tutorial import kernels
from vae_tutorial.processes import join_processes, own_rows, rank_and_world, shared_step
from vae_tutorial.objectives import elbo
from vae_tutorial.training import fit
from vae_tutorial.vae import mlp_vae


class Stored(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


if torch.backends.mkldnn.is_available():  # as on a processor by AMD
    kernels._onednn = torch.ops.mkldnn._linear_pointwise
out, number, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
join_processes(torch.device("cpu"))
torch.manual_seed(0)
model = mlp_vae((1, 28, 28), 2, (128, 64))
images = torch.rand(number, 1, 28, 28, generator=torch.Generator().manual_seed(1))
images = Stored(images) if kind == "stored" else images
rank, world = rank_and_world()
how = {}
if world > 1:
    how = {"step": shared_step(model, elbo), "batches": own_rows}
history = fit(model, images, epochs=3, batch_size=4, pixels="grey", log=None, **how)
torch.save([model.state_dict(), history], f"{out}/{world}-{rank}.pt")
"""


@pytest.mark.parametrize("number, kind", [(9, "tensor"), (10, "stored"), (1, "tensor")])
def test_a_last_batch_smaller_than_the_number_of_processes(number, kind, tmp_path):
    "Three processes, 9, 10 or 1 images in batches of 4: one or two processes have no row of the last batch."
    script = tmp_path / "small.py"
    script.write_text(SMALL)
    arguments = [str(script), str(tmp_path), str(number), kind]
    for command in ([sys.executable], [*TORCHRUN[:-1], "3"]):
        run = subprocess.run(
            [*command, *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr[-3000:]
    alone, history = torch.load(tmp_path / "1-0.pt")
    for rank in range(3):
        weights, records = torch.load(tmp_path / f"3-{rank}.pt")
        first, _ = torch.load(tmp_path / "3-0.pt")
        assert all(torch.equal(weights[name], first[name]) for name in first)
        for name in alone:
            torch.testing.assert_close(weights[name], alone[name], rtol=1e-3, atol=1e-4)
        for a, b in zip(records, history, strict=True):
            assert a["elbo"] == pytest.approx(b["elbo"], rel=1e-4)
