"The notebooks are clean, in sync with the package, and run; the modules stand alone and point downwards."

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import notebooks
import pytest

ROOT = notebooks.ROOT
PACKAGE = ROOT / "vae_tutorial"
NOTEBOOKS = notebooks.notebooks()
MODULES = sorted(
    path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")
)
ALLOWED_IMPORTS = {  # module -> modules of the package it may import (DESIGN.md, section 3)
    "distributions": set(),
    "data": {"distributions"},
    "networks": {"distributions"},
    "plots": {"distributions"},
    "objectives": {"distributions"},
    "linear_gaussian": {"distributions"},
    "vae": {"data", "distributions", "networks", "objectives"},
    "fast": {"networks", "vae"},
    "training": {"data", "distributions", "fast", "networks", "objectives", "vae"},
    "evaluation": {"data", "distributions", "networks", "objectives", "vae"},
    "stored": set(),
    "exercises": set(),
    "own_images": {"data", "networks"},
    "widgets": {"data", "distributions", "networks", "plots", "training", "vae"},
    "cli": set(MODULES) - {"cli"},
}


def name(path):
    return str(path.relative_to(notebooks.NBS))


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    "A copy of the repository after nbdev_clean and nbdev_export; the checkout itself is not touched."
    copy = tmp_path_factory.mktemp("copy")
    for folder, pattern in (
        ("nbs", "*.ipynb"),
        ("vae_tutorial", "*.py"),
        (".", "settings.ini"),
    ):
        for path in (
            (ROOT / folder).rglob(pattern) if folder != "." else [ROOT / pattern]
        ):
            (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.relative_to(ROOT))
    for command in ("nbdev_clean", "nbdev_export"):
        subprocess.run([Path(sys.executable).parent / command], cwd=copy, check=True)
    return copy


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_clean(path, processed):
    assert (processed / path.relative_to(ROOT)).read_text() == path.read_text(), (
        "run nbdev_clean"
    )


def test_export_is_in_sync(processed):
    exported = {
        str(path.relative_to(processed / "vae_tutorial")): path.read_text()
        for path in (processed / "vae_tutorial").rglob("*.py")
    }
    committed = {
        str(path.relative_to(PACKAGE)): path.read_text()
        for path in PACKAGE.rglob("*.py")
    }
    assert exported == committed, "run nbdev_export"


def test_readme_is_in_sync():
    assert (ROOT / "README.md").read_text() == notebooks.readme(), (
        "run: python tools/notebooks.py readme"
    )


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", (ROOT / "README.md").read_text())
    assert links and not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_links_lead_somewhere(path):
    text = "".join(
        cell.source for cell in read(path).cells if cell.cell_type == "markdown"
    )
    assert not [
        link
        for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text)
        if not (path.parent / link.split("#")[0]).exists()
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_has_small_clean_stored_outputs(path):
    notebook = read(path)
    assert path.stat().st_size < 300_000
    assert any(cell.get("outputs") for cell in notebook.cells), (
        "run: python tools/notebooks.py refresh"
    )
    assert not notebooks.complaints(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_imports_have_cells_of_their_own(path):
    "A cell that mixes imports with other code would be run again by the docs build."
    for cell in read(path).cells:
        if cell.cell_type != "code" or re.search(r"^[!%]", cell.source, re.M):
            continue
        imports = {
            isinstance(node, (ast.Import, ast.ImportFrom))
            for node in ast.parse(cell.source).body
        }
        assert len(imports) < 2, cell.source
        assert "import *" not in cell.source


def test_notebook_names_are_unique():
    stems = [re.sub(r"^\d+_", "", path.stem) for path in NOTEBOOKS]
    assert len(set(stems)) == len(stems)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_runs_in_a_fresh_kernel(path):
    assert not notebooks.complaints(notebooks.run(path))


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_alone(module):
    subprocess.run(
        [
            sys.executable,
            "-W",
            "error::SyntaxWarning",
            "-c",
            f"import vae_tutorial.{module}",
        ],
        check=True,
    )


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    imported = {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    }
    imported |= {
        node.module.split(".")[-1]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and not node.level
        and node.module.startswith("vae_tutorial")
    }
    assert imported <= ALLOWED_IMPORTS[module]


DIAGNOSIS = sorted((PACKAGE / "diagnosis").glob("*.py"))


@pytest.mark.parametrize("path", DIAGNOSIS, ids=lambda path: path.stem)
def test_rooms_of_diagnosis_stand_alone_and_point_downwards(path):
    "They know the objective, and the lab the images; of the package nothing else."
    room = "" if path.stem == "__init__" else f".{path.stem}"
    command = f"import vae_tutorial.diagnosis{room}"
    subprocess.run([sys.executable, "-c", command], check=True)
    imported = {
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == 2
    }
    allowed = {"lab": {"data", "diagnosis"}, "forms": {"objectives"}}
    assert imported <= allowed.get(path.stem, set()), imported


def test_no_undefined_names():
    "An exported function that uses a notebook's global passes in the notebook and dies on import."
    subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--no-cache",
            "--select",
            "F",
            PACKAGE,
            ROOT / "tools",
            ROOT / "tests",
        ],
        check=True,
    )
