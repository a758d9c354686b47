"""The notebooks that the site offers for download: each runs alone, wherever it lies,
also on a hosted notebook service."""

import base64
import lzma
import re

import nbformat
from notebooks import plain_sections
from site_links import has_address, has_repository

INSTALL = """\
# Only in the downloaded notebook: the course's package, if it is not here, and the stored
# numbers that this page reads.
import base64
import importlib.util
import lzma
from pathlib import Path

if importlib.util.find_spec("vae_tutorial") is None:
    {install}

results = {results}
for name, content in results.items():
    file = Path("../results", name)
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(lzma.decompress(base64.b85decode(content)))
"""
NO_ADDRESS = """raise ModuleNotFoundError(
        "This course has no public address yet. Install its package from your copy of it"
        " (%pip install PATH-OF-THE-COPY), then run this cell again."
    )"""


def install_line(config):
    "How the package comes here: from the repository, once settings.ini names a real one."
    if not has_repository(config):
        return NO_ADDRESS
    archive = f"{config.git_url}/archive/refs/heads/{config.branch}.zip"
    return f"%pip install -q {archive}"


def with_links_to_the_site(text, page, pages, config):
    "Links to other notebooks lead to their pages; without an address they are words."
    up = len(page.parts) - 1

    def link(found):
        shown, target, anchor = found[1], found[2], plain_sections(found[3] or "")
        parts = [*page.parts[:up], *target.split("/")]
        while ".." in parts:
            place = parts.index("..")
            if place == 0:
                break
            del parts[place - 1 : place + 1]
        name = pages.get("/".join(parts))
        if not has_address(config) or not name:
            return shown
        address = f"{config.doc_host}{config.doc_baseurl}/{name}{anchor}"
        return f"[{shown}]({address})"

    return re.sub(
        r"\[([^\]]+)\]\(((?:[\w./-]*/)?[\w.-]+\.ipynb)(#[^)]*)?\)", link, text
    )


def write_downloads(site, notebooks, config):
    "Each notebook for download; `notebooks` are {page: notebook}."
    pages = {old.as_posix(): new.as_posix() for new, old in notebooks.items()}
    for path in notebooks.values():
        notebook = nbformat.read(config.nbs_path / path, as_version=4)
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(standalone(notebook, path, pages, config), site / path)


def standalone(notebook, page, pages, config):
    "The notebook at `page` of the course, so that it runs alone."
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    results = {
        file.name: base64.b85encode(lzma.compress(file.read_bytes())).decode()
        for file in sorted((config.nbs_path / "results").glob("*.*"))
        if file.name in code or file.stem in re.findall(r'stored\("([\w.]+)"', code)
    }
    source = INSTALL.format(install=install_line(config), results=repr(results))
    cell = nbformat.v4.new_code_cell(source, id="runs-alone")
    cell.metadata.jupyter = {"source_hidden": True}
    for one in notebook.cells:
        if one.cell_type == "markdown":
            one.source = with_links_to_the_site(one.source, page, pages, config)
        for output in one.get("outputs", []):  # the stills lie beside the course
            if html := output.get("data", {}).get("text/html"):
                html = re.sub(r'<br><img src="[./]*vendor/stills/[^>]*>', "", html)
                output.data["text/html"] = html
    notebook.cells.insert(1, cell)
    return notebook
