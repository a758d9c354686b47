"The command line as a user meets it: real processes, signals, terminals and folders."

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pexpect
import pytest
import torch
from tiny import write_tiny_data
from typer.testing import CliRunner

from vae_tutorial.cli import app
from vae_tutorial.entrance import main
from vae_tutorial.vae import VAE

COMMAND = str(Path(sys.executable).parent / "vae-tutorial")
SMALL = ("--hidden", "16", "--epochs", "1")
PICTURES = {
    "losses.png",
    "reconstructions.png",
    "latent_map.png",
    "manifold.png",
    "samples.png",
}


def run(*arguments, **options):
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def quickly(*arguments):
    "The same command in a fork, which has imported torch already."
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            sys.argv = [COMMAND, *map(str, arguments)]
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
            code = 0
            try:
                main()
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [(file.seek(0), file.read())[1] for file in (out, errors)]
    return subprocess.CompletedProcess(arguments, code, *texts)


def refused(*arguments, match):
    result = quickly(*arguments)
    assert result.returncode in (1, 2) and "Traceback" not in result.stderr, (
        result.stderr
    )
    assert match in result.stderr, result.stderr
    return result


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A complete small run."
    out = tmp_path_factory.mktemp("runs") / "finished"
    result = run("train", "--out", out, *SMALL)
    assert result.returncode == 0, result.stderr
    return out, result


def test_train_leaves_everything(finished):
    out, result = finished
    assert {path.name for path in out.iterdir()} - {".lock"} == PICTURES | {
        "config.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "model.safetensors",
        "evaluation.json",
    }
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    records = [
        json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()
    ]
    assert [record["step"] for record in records] == [100, 200, 300, 400, 469]
    assert all(
        abs(record["elbo"] - record["reconstruction"] + record["kl"]) < 1e-2
        for record in records
    )
    assert all(str(out / name) in result.stdout for name in PICTURES)
    assert json.loads((out / "config.json").read_text())["hidden"] == [16]


def test_plain_lines_without_a_terminal(finished):
    _, result = finished
    assert "\r" not in result.stdout + result.stderr and result.stderr == ""
    assert "epoch 1/1  step 100/469  ELBO" in result.stdout


def test_progress_bar_on_a_terminal(tmp_path):
    child = pexpect.spawn(
        COMMAND,
        ["train", "--out", str(tmp_path / "run"), *SMALL],
        encoding="utf-8",
        timeout=200,
        dimensions=(40, 120),
    )
    child.expect(r"\d+%\|.*step/s")
    child.expect("epoch 1/1  step 469/469")
    child.expect("samples.png")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_the_other_commands(finished, tmp_path):
    out, trained = finished
    scored = run("evaluate", out)
    assert (
        scored.returncode == 0
        and scored.stdout.strip().splitlines()[-2] in trained.stdout
    )  # the same table
    assert (
        run("sample", out, "--num", 9, "--out", tmp_path / "s.png").returncode == 0
        and (tmp_path / "s.png").exists()
    )
    result = run("reconstruct", out, "--num", 3, "--out", tmp_path / "r.png")
    assert (
        result.returncode == 0
        and result.stdout.count("z = ") == 3
        and (tmp_path / "r.png").exists()
    )
    refused("sample", out, "--out", tmp_path / "s.png", match="exists already")
    refused("reconstruct", out, "--num", 0, match="--num")


@pytest.mark.parametrize("latent_dim", [1, 5])
def test_pictures_for_other_latent_sizes(latent_dim, tmp_path):
    result = run(
        "train",
        "--out",
        tmp_path / "run",
        *SMALL,
        "--latent-dim",
        latent_dim,
        "--pixels",
        "grey",
        "--validation",
        1000,
    )
    assert result.returncode == 0, result.stderr
    assert "validation" in result.stdout and "cross-entropy" in result.stdout


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("tiny"), num_test=120)


BEYOND = {
    "vamp": ("--prior", "vamp"),
    "mixture": ("--prior", "mixture", "--num-samples", 3),
    "flow": ("--prior", "flow", "--network", "conv", "--hidden", "4,4"),
    "iwae": ("--objective", "iwae", "--num-samples", 5),
    "both": ("--objective", "iwae", "--num-samples", 2, "--prior", "vamp"),
    "residual": ("--network", "residual", "--hidden", "4,4"),
    "dreg": ("--objective", "dreg", "--num-samples", 3),
    "residual vamp": ("--network", "residual", "--hidden", "4", "--prior", "vamp"),
    "told": ("--conditional", "--validation", 20),
    "told, iwae": ("--conditional", "--objective", "iwae", "--num-samples", 2),
    "told, conv": ("--conditional", "--network", "conv", "--hidden", "4,4"),
    "told, beta": ("--conditional", "--beta", 2),
}


@pytest.mark.parametrize("options", BEYOND.values(), ids=BEYOND)
def test_models_of_the_chapters_beyond(options, tiny, tmp_path):
    "Trained, resumed to the bit, scored, sampled, reconstructed and diagnosed."

    def call(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        return result.output

    data = ("--data", "fashion-mnist", "--data-dir", tiny)
    for out, epochs in (("whole", [2]), ("parts", [1, 2])):
        for number in epochs:
            more = ("--epochs", number, "--resume", "--batch-size", 50)
            call("train", "--out", tmp_path / out, *data, *more, *options)
        assert {path.name for path in (tmp_path / out).iterdir()} >= PICTURES
    models = [tmp_path / out / "model.safetensors" for out in ("whole", "parts")]
    assert models[0].read_bytes() == models[1].read_bytes()
    again = call("evaluate", tmp_path / "whole", "--data-dir", tiny)
    assert "ELBO" in again and (" of 2" in again) == ("--prior" not in options)
    is_told = "--conditional" in options
    model = VAE.load(models[0]).given(7) if is_told else VAE.load(models[0])
    assert model.sample(3, seed=0).shape == (3, 1, 28, 28)
    label = ("--label", 7) if is_told else ()
    call("sample", tmp_path / "whole", "--num", 3, "--out", tmp_path / "s.png", *label)
    call("reconstruct", tmp_path / "whole", "--num", 2, "--data-dir", tiny)
    assert "healthy" in call("diagnose", tmp_path / "whole", "--data-dir", tiny)


def test_labels_that_a_run_does_not_know(finished, tiny, tmp_path):
    plain, told = finished[0], tmp_path / "told"
    refused("sample", plain, "--label", 7, match="train one with --conditional")
    data = ("--data", "fashion-mnist", "--data-dir", tiny, *SMALL)
    both = ("--conditional", "--prior", "vamp")
    refused("train", "--out", told, *data, *both, match="--prior normal")
    assert run("train", "--out", told, *data, "--conditional").returncode == 0
    assert run("sample", told, "--num", 20).returncode == 0
    refused("sample", told, "--label", 10, match="labels 0 to 9")
    np.save(tmp_path / "images.npy", np.random.rand(30, 8, 8))
    own = ("--data", tmp_path / "images.npy", "--conditional")
    refused("train", "--out", tmp_path / "own", *own, match="subfolder for each class")


def test_a_run_of_before_has_no_prior_in_its_settings(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    for name in ("prior", "objective", "num_samples", "conditional"):
        del config[name]
    path.write_text(json.dumps(config))
    assert run("sample", tmp_path / "old", "--num", 2).returncode == 0


def test_help_names_every_option():
    text = run("train", "--help").stdout
    for option in (
        "--data",
        "--pixels",
        "--latent-dim",
        "--hidden",
        "--epochs",
        "--batch-size",
        "--lr",
        "--seed",
        "--device",
        "--out",
        "--resume",
        "--overwrite",
        "--prior",
        "--objective",
        "--num-samples",
        "--conditional",
    ):
        assert option in text
    commands = quickly("--help").stdout
    assert all(
        command in commands
        for command in ("train", "evaluate", "sample", "reconstruct", "diagnose")
    )


def test_nothing_is_overwritten(finished, tmp_path):
    out, _ = finished
    before = {path: path.read_bytes() for path in out.iterdir()}
    refused("train", "--out", out, *SMALL, match="--overwrite")
    refused(
        "train", "--out", out, "--resume", "--seed", 7, match="--seed (was 0, is 7)"
    )
    refused("train", "--out", out, "--resume", "--overwrite", match="contradict")
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "diary.txt").write_text("mine")
    for flags in ((), ("--resume",), ("--overwrite",)):
        refused("train", "--out", tmp_path, *SMALL, *flags, match="holds no run")
    refused("train", "--out", tmp_path / "diary.txt", *SMALL, match="is a file")
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_overwrite_replaces_the_run_and_nothing_else(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    (out / "diary.txt").write_text("mine")
    assert (
        run("train", "--out", out, *SMALL, "--overwrite", "--seed", 5).returncode == 0
    )
    assert (out / "diary.txt").read_text() == "mine" and json.loads(
        (out / "config.json").read_text()
    )["seed"] == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:3000]),
    ],
    ids=["missing", "cut"],
)
def test_resume_without_a_good_checkpoint_keeps_the_finished_model(
    damage, finished, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    damage(out / "checkpoint.safetensors")
    before = {path: path.read_bytes() for path in out.iterdir()}
    for more in ((), ("--epochs", 2)):
        refused("train", "--out", out, "--resume", *more, match="cannot resume")
    assert before == {path: path.read_bytes() for path in out.iterdir()}


def test_resume_with_more_epochs_drops_the_old_model_first(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    refused("train", "--out", out, "--resume", "--epochs", 0, match="epochs")
    process = subprocess.Popen(
        [COMMAND, "train", "--out", out, "--resume", "--epochs", "50"],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("epoch  2/50"):
            break
    process.kill()
    process.wait()
    refused(
        "evaluate", out, match="--resume"
    )  # not the one-epoch model under the name of fifty epochs


def test_bad_options_write_nothing(tmp_path):
    new = tmp_path / "new"
    for option, match in [
        (("--latent-dim", 0), "--latent-dim"),
        (("--epochs", 0), "--epochs"),
        (("--batch-size", -3), "--batch-size"),
        (("--lr", 0), "--lr"),
        (("--hidden", "a,b"), "--hidden"),
        (("--data", "mnst"), "fashion-mnist"),
        (("--pixels", "gray"), "--pixels"),
        (("--device", "tpu7"), "--device"),
        (("--validation", 60000), "--validation"),
        (("--seed", "x"), "--seed"),
        (("--prior", "vmap"), "--prior"),
        (("--num-samples", 0), "--num-samples"),
        (("--objective", "iwae", "--beta", 2), "--beta"),
        (("--prior", "flow", "--latent-dim", 1), "--latent-dim"),
    ]:
        refused("train", "--out", new, *option, match=match)
        assert not new.exists()
    refused("train", match="--out")
    refused("train", "--out", "/proc/new", *SMALL, match="cannot write")


def test_runs_that_are_none(finished, tmp_path):
    refused("evaluate", tmp_path / "nowhere", match="not a run folder")
    (tmp_path / "config.json").write_text("{")
    refused("sample", tmp_path, match="damaged")
    (tmp_path / "config.json").write_bytes((finished[0] / "config.json").read_bytes())
    refused("sample", tmp_path, match="--resume")
    torch.save({}, tmp_path / "model.safetensors")
    refused("sample", tmp_path, match="pickle")
    (tmp_path / "model.safetensors").write_bytes(
        (finished[0] / "model.safetensors").read_bytes()[:1000]
    )
    refused("reconstruct", tmp_path, match="complete safetensors")


def test_ctrl_c_then_resume_gives_the_same_model(tmp_path):
    arguments = ["--hidden", "16", "--epochs", "3"]
    assert run("train", "--out", tmp_path / "straight", *arguments).returncode == 0
    listen = lambda: signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # a shell's background jobs ignore Ctrl-C, and so would their children
    process = subprocess.Popen(
        [COMMAND, "train", "--out", tmp_path / "stopped", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )
    for line in process.stdout:
        if line.startswith("epoch 2/3  step 200"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (
        process.returncode == 130 and "--resume" in errors and "Traceback" not in errors
    )
    refused("evaluate", tmp_path / "stopped", match="--resume")
    resumed = run("train", "--out", tmp_path / "stopped", "--resume")
    assert (
        resumed.returncode == 0
        and "epoch 1/3" not in resumed.stdout
        and "epoch 2/3  step 100" in resumed.stdout
    )
    for name in ("metrics.jsonl", "evaluation.json", "model.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (
            tmp_path / "straight" / name
        ).read_bytes(), name


def test_killed_before_the_first_epoch_ends(tmp_path):
    "There is a checkpoint from the start."
    process = subprocess.Popen(
        [COMMAND, "train", "--out", tmp_path / "run", *SMALL],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if "step 100" in line:
            break
    process.kill()
    process.wait()
    time.sleep(0.1)
    assert run("train", "--out", tmp_path / "run", "--resume").returncode == 0
    assert VAE.load(tmp_path / "run" / "model.safetensors").recipe["arguments"][
        "hidden"
    ] == [16]
