"What `pip install .` gives works without the repository around it."

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info"),
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            folder,
            folder / "source",
        ],
        check=True,
    )
    return next(folder.glob("*.whl"))


def test_wheel_installs_in_an_empty_environment_and_trains(wheel, tmp_path):
    "No download but the packages: MNIST comes out of the wheel."
    venv.create(tmp_path / "env", with_pip=True)
    bin = tmp_path / "env" / "bin"
    subprocess.run(
        [
            bin / "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--disable-pip-version-check",
            wheel,
        ],
        check=True,
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "VAE_TUTORIAL_DATA": str(tmp_path / "data"),
    }
    result = subprocess.run(
        [bin / "vae-tutorial", "train", "--out", tmp_path / "run", "--epochs", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (
        "ELBO" in result.stdout
        and (tmp_path / "run" / "manifold.png").stat().st_size > 10_000
    )
    found = subprocess.run(
        [bin / "python", "-c", "import vae_tutorial; print(vae_tutorial.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(tmp_path / "env")


def test_nothing_lies_in_the_repository_that_does_not_belong_there():
    "A test or a command run at the root leaves folders behind: they are no source."
    listed = ["git", "ls-files", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    first = {name.split(b"/")[0].decode() for name in names.split(b"\0") if name}
    known = {"nbs", "vae_tutorial", "tests", "tools", "bench", "Makefile", "setup.py"}
    known |= {".ci", ".github", ".gitattributes", ".gitignore", "settings.ini"}
    known |= {".pre-commit-config.yaml", "MANIFEST.in", "CITATION.cff"}
    assert {
        name for name in first if not name.endswith((".md",)) and name != "LICENSE"
    } <= known
