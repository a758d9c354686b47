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
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "_modidx" and path.parent.name != "assets"
)
# A module may import only modules above it (DESIGN.md, section 3). What stands for
# itself comes first; `cli` chooses among all and is imported by none.
CHAPTERS = (
    "bounds convolutional disentanglement flows hierarchy latent_diffusion priors"
)
CHAPTERS = f"{CHAPTERS} text vector_quantization".split()
CHAPTERS = {f"variants.{chapter}" for chapter in CHAPTERS}
LAYERS = [
    {"__init__", "_guards", "kernels", "exercises", "variants.__init__"},
    {"files"},
    {"_mnist", "distributions", "plots", "stored"},
    {"data", "objectives", "linear_gaussian", "checkpoints", "recipes"},
    {"networks", "_door", "importance", "own_images", "variants.reductions"},
    {"annealing"},
    {"vae", "training", "evaluation", "likelihood", "_judging"},
    {"fast", "processes", "diagnosis", "_live", *CHAPTERS},
    {"variants.conditional"},
    {"widgets"},
    {"cli"},
    {"entrance"},
]
NEVER = {  # what must not know each other, though their layers would allow it
    "training": {"fast", "processes", "checkpoints", "files", "vae"},
    "vae": {"data", "training", "_mnist", "files"},
    "networks": {"data", "files"},
    "objectives": {"data", "files", "_mnist"},
}


def layer(module):
    "How far down a module stands; all rooms of a subpackage stand together."
    own = {module, module.split(".")[0]}
    return next(i for i, modules in enumerate(LAYERS) if own & modules)


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
    has_code = any(cell.cell_type == "code" for cell in notebook.cells)
    assert not has_code or any(cell.get("outputs") for cell in notebook.cells), (
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


ALONE = """
import os, sys, traceback
import ipywidgets, matplotlib.pyplot, sklearn, torch, torchvision, typer  # once for all
for module in sys.argv[1:]:  # each in a process of its own
    if os.fork() == 0:
        try:
            __import__("vae_tutorial." + module)
        except BaseException:
            print(module, traceback.format_exc().replace("\\n", " "), flush=True)
        os._exit(0)
    os.wait()
"""


def test_every_module_imports_alone():
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", ALONE, *MODULES]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not result.stdout


def imported_by(module):
    "Modules of the package that a module imports."
    path = PACKAGE / (module.replace(".", "/") + ".py")
    package = ["vae_tutorial", *module.split(".")[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = package[: len(package) + 1 - node.level] if node.level else []
        name = ".".join([*parts, *(node.module or "").split(".")]).rstrip(".")
        if name.startswith("vae_tutorial."):
            found.add(name.removeprefix("vae_tutorial."))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    top = module.split(".")[0]
    for other in imported_by(module):
        if other.split(".")[0] == top and "." in module:
            continue  # rooms of one subpackage
        assert layer(other) < layer(module), f"{module} imports {other}"
        assert other not in NEVER.get(module, ()), f"{module} imports {other}"


DIAGNOSIS = sorted((PACKAGE / "diagnosis").glob("*.py"))


@pytest.mark.parametrize("path", DIAGNOSIS, ids=lambda path: path.stem)
def test_rooms_of_diagnosis_point_downwards(path):
    "They know the objective, the lab the images, and the door how NaN may pass."
    imported = {
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == 2
    }
    allowed = {"lab": {"data", "diagnosis"}, "forms": {"objectives"}}
    allowed["__init__"] = {"_guards"}
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
            "--ignore",
            "F722",  # names of dimensions in jaxtyping annotations
            PACKAGE,
            ROOT / "tools",
            ROOT / "tests",
        ],
        check=True,
    )
