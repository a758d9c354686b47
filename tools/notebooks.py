"""Run the course's notebooks as JupyterLab would, and store what they show. What nbdev lacks, nothing more.

python tools/notebooks.py refresh [NOTEBOOK ...]    run each in a fresh kernel, store its outputs, clean; then write README.md
python tools/notebooks.py readme                    write README.md from the stored nbs/index.ipynb
"""

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from PIL import Image, ImageStat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"


def notebooks():
    "Every notebook of the course, in reading order within each folder."
    return sorted(
        path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )


def is_skipped(cell, flags):
    "Whether a code cell carries one of the directives in `flags` (`#| slow`) or `#| eval: false`."
    directives = re.findall(r"^#\|\s*(.+?)\s*$", cell.source, re.M)
    return any(
        directive in flags or re.fullmatch(r"eval:\s*false", directive)
        for directive in directives
    )


def run(path, skip_flags=None):
    "Run a notebook top to bottom in a fresh kernel, in its own folder; skipped cells keep their stored outputs. Returns the notebook."
    flags = (
        get_config(path=ROOT).tst_flags.split() if skip_flags is None else skip_flags
    )
    notebook = nbformat.read(path, as_version=4)
    runnable = nbformat.from_dict(
        {
            **notebook,
            "cells": [
                cell
                for cell in notebook.cells
                if cell.cell_type == "code" and not is_skipped(cell, flags)
            ],
        }
    )
    NotebookClient(
        runnable,
        timeout=900,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    outputs = {cell.id: cell.outputs for cell in runnable.cells}
    for cell in notebook.cells:
        if cell.id in outputs:
            cell.outputs = outputs[cell.id]
    return notebook


def complaints(notebook):
    "Outputs that do not belong into a stored notebook: warnings, progress-bar residue, colour codes, paths of this machine."
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") or output.get("data", {}).get(
                "text/plain", ""
            )
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{cell.id}: stderr: {text[:200]}")
            if "\r" in text or "\x1b[" in text or "Warning" in text:
                found.append(f"{cell.id}: residue or warning: {text[:200]}")
            if re.search(r"(?<![\w.])/(root|tmp|home|work|Users)/", text):
                found.append(f"{cell.id}: path of this machine: {text[:200]}")
    return found


def shrink_png(data):
    "A PNG in base64 with 128 colours, or 16 shades from black to white where there is no colour: a third of the size."
    picture, small = (
        Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"),
        io.BytesIO(),
    )
    is_opaque = picture.getextrema()[3][0] == 255
    if not is_opaque:
        picture = picture.quantize(
            64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
    elif ImageStat.Stat(picture.convert("RGB").convert("HSV")).extrema[1][1] == 0:
        picture = picture.convert("L").point(lambda shade: round(shade / 17) * 17)
    else:
        picture = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def tidy_outputs(notebook):
    "Make pictures small, also those inside of SVG and HTML, and drop views of widgets, which nothing can show once the kernel is gone."
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in data:
                data["image/png"] = shrink_png(data["image/png"])
            for kind in {"image/svg+xml", "text/html"} & data.keys():
                data[kind] = re.sub(
                    r"(data:image/png;base64,\s*)([^\"]+)",
                    lambda match: match[1] + shrink_png(match[2]),
                    data[kind],
                )
            if "image/svg+xml" in data:
                svg = re.sub(
                    r"\s*(<metadata>.*?</metadata>|<!--.*?-->)|(?<=>)\s+(?=<)",
                    "",
                    data["image/svg+xml"],
                    flags=re.S,
                )
                data["image/svg+xml"] = re.sub(
                    r"(\d\.\d{2})\d+", r"\1", svg
                )  # hundredths of a point are enough


def refresh(paths):
    for path in paths:
        notebook = run(path)
        if found := complaints(notebook):
            sys.exit(f"{path}:\n" + "\n".join(found))
        tidy_outputs(notebook)
        nbformat.write(notebook, path)
        print(
            "refreshed",
            path.relative_to(ROOT),
            f"{path.stat().st_size / 1000:.0f} kB",
            flush=True,
        )
    nbdev_clean()


def readme():
    "README.md is the index page without the code behind its tables, its links seen from the top of the repository."
    notebook = nbformat.read(NBS / "index.ipynb", as_version=4)
    for cell in notebook.cells:
        if is_skipped(cell, ["echo: false"]):
            cell.source = ""
        cell.outputs = [
            output
            for output in cell.get("outputs", [])
            if "live-figure" not in output.get("data", {}).get("text/html", "")
        ]
    notebook.cells = [cell for cell in notebook.cells if cell.source or cell.outputs]
    notebook.metadata["language_info"] = {"name": "python"}
    body, _ = MarkdownExporter().from_notebook_node(notebook)
    body = re.sub(r"(!?\[[^]]*\]\()(?!https?:|#)([^)]+\))", r"\1nbs/\2", body).replace(
        "](nbs/../", "]("
    )
    return (
        "<!-- Made from nbs/index.ipynb by tools/notebooks.py: edit that. -->\n\n"
        + re.sub(r"\n{3,}", "\n\n", re.sub(r"```python\s*```\n", "", body)).strip()
        + "\n"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["refresh"]:
        refresh([Path(name).resolve() for name in sys.argv[2:]] or notebooks())
    elif sys.argv[1:] != ["readme"]:
        sys.exit(__doc__)
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
