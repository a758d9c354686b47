"""Run the course's notebooks as JupyterLab would, store what they show, and keep the
form of their pages (CONTRIBUTING.md). What nbdev lacks, nothing more.

python tools/notebooks.py refresh [NOTEBOOK ...]
    run each in a fresh kernel, store its outputs and how long it took; then do what
    `form` does
python tools/notebooks.py form [NOTEBOOK ...]
    hide the source of what is not the lesson; show stills of the live figures; write
    what stands under each page's title (step, minutes, what it builds on), its
    references, its Next line, and the index's table, from the route; clean; then do
    what `readme` does
python tools/notebooks.py readme
    write README.md from the stored nbs/index.ipynb

Without a notebook, all of them.
"""

import ast
import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from page_facts import facts, keep_seconds
from PIL import Image, ImageStat
from references import references
from site_links import with_lines

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
STILLS = NBS / "vendor" / "stills"  # of the live figures, from tools/stills.py


def notebooks():
    "Every notebook of the course, in reading order within each folder."
    return sorted(
        path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )


def route():
    "The course in its one order, that of the sidebar: [(section, notebook), ...]."

    def walk(entries, section):
        for entry in entries:
            if isinstance(entry, str):
                yield section, NBS / entry
                continue
            if "href" in entry:
                yield section, NBS / entry["href"]
            yield from walk(entry.get("contents", []), entry.get("section", section))

    settings = yaml.safe_load((NBS / "_quarto.yml").read_text(encoding="utf-8"))
    return list(walk(settings["website"]["sidebar"]["contents"], ""))


def heading(path):
    "A page's H1 and the subtitle under it (`> ...`), alone in its first cell."
    first = nbformat.read(path, as_version=4).cells[0].source
    return re.fullmatch(r"# (.+)\n+> (.+)", first.strip()).groups()


SETUP = {
    "use_style",
    "torch.manual_seed",
    "torch.set_default_dtype",
    "torch.set_num_threads",
}
HIDDEN = {
    "imports",
    "check",
    "picture",
    "solution",
    "helper",
    "slow",
}  # in JupyterLab, their source


def is_setup(statement):
    "Whether a statement is an import, or sets the seed or the style."
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return True
    call = getattr(statement, "value", None)
    return isinstance(call, ast.Call) and ast.unparse(call.func) in SETUP


def is_verdict(statement):
    'Whether a statement is `print("Checked: ...")`.'
    call = getattr(statement, "value", None)
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "print":
        return False
    text = next(
        (node for node in ast.walk(call) if isinstance(node, ast.Constant)), None
    )
    return str(getattr(text, "value", "")).startswith("Checked: ")


def kind(cell):
    """What a code cell is for: "imports", "check", "picture", "solution", "helper",
    "lesson"; "slow", which only `make results` runs; or, where it holds nothing but
    `#| default_exp`, "directive"."""
    for summary in ("Solution", "Helper"):
        if re.search(rf'^#\|\s*code-summary:\s*"?{summary}', cell.source, re.M):
            return summary.lower()
    if re.search(r"^[!%]", cell.source, re.M):
        return "lesson"
    statements = ast.parse(cell.source).body
    if not statements:
        return "directive"
    if all(is_setup(statement) for statement in statements):
        return "imports"
    if is_verdict(statements[-1]):
        return "check"
    if re.search(r"^#\|\s*(fig-alt:|echo:\s*false)", cell.source, re.M):
        return "picture"
    return "slow" if is_skipped(cell, ["slow"]) else "lesson"


def hide_sources(notebook):
    """Hide in JupyterLab what the site folds; of a solution, its answer too. JupyterLab
    then shows the first line: an empty one, where a directive would be noise, and that
    of a slow cell."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        hidden = {
            "source_hidden": kind(cell) in HIDDEN,
            "outputs_hidden": kind(cell) == "solution",
        }
        cell.metadata.pop("jupyter", None)
        if any(hidden.values()):
            cell.metadata.jupyter = {key: True for key in hidden if hidden[key]}
        blank = "\n" if hidden["source_hidden"] and kind(cell) != "slow" else ""
        if (source := cell.source.lstrip("\n")).startswith("#|"):
            cell.source = blank + source


def put_stills(notebook, path):
    """Give each live figure its still: JupyterLab shows no more of it before its cell
    runs, and keeps no picture that lies in the notebook's HTML itself."""
    note = "A still of a live figure: run the cells down to here, and it moves."
    opening = re.compile(r'<div class="live-figure" data-figure="(\w+)"[^>]*>')
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if found := opening.match(data.get("text/html", "")):
                still = STILLS / f"{found[1]}.webp"
                address = Path(os.path.relpath(still, path.parent)).as_posix()
                image = f'<img src="{address}" alt="{note}">'
                data["text/html"] = f"{found[0]}<em>{note}</em><br>{image}</div>"


def next_line(path):
    "The last line of a page: what comes after it. The first and the last have none."
    pages = [page for _, page in route()]
    place = pages.index(path) if path in pages else 0
    if place in (0, len(pages) - 1):
        return ""
    after = pages[place + 1]
    title, subtitle = heading(after)
    return f"**Next:** [{title}]({os.path.relpath(after, path.parent)}): {subtitle}"


GENERATED = {"facts", "references", "next"}  # cells that `form` writes, by id


def put(notebook, name, source, place):
    "Write a generated cell, or none if it has nothing to say."
    notebook.cells = [cell for cell in notebook.cells if cell.id != name]
    if source:
        place = len(notebook.cells) if place is None else place
        cell = nbformat.v4.new_markdown_cell(source, id=name)
        notebook.cells.insert(place, cell)


def own_text(notebook, of):
    "The sources of a page's own cells for which `of` holds, one after the other."
    own = [cell for cell in notebook.cells if cell.id not in GENERATED]
    return "\n\n".join(cell.source for cell in own if of(cell))


def facts_line(path, notebook):
    "What stands under a page's title; nothing where the route does not lead."
    if all(not section for section, page in route() if page == path):
        return ""
    prose = own_text(notebook, lambda cell: cell.cell_type == "markdown")
    code = own_text(
        notebook, lambda cell: cell.cell_type == "code" and kind(cell) == "lesson"
    )
    return facts(path, route(), lambda page: heading(page)[0], prose, code)


def write_around(path, notebook):
    "The cells around the lesson: facts under the title, references and Next at the end."
    last = notebook.cells[-1]
    if last.cell_type == "markdown" and last.id not in GENERATED:
        last.source = re.sub(r"(?m)^\*\*Next:\*\*.*\Z", "", last.source).rstrip()
        notebook.cells = [
            cell for cell in notebook.cells if cell.source or cell != last
        ]
    put(notebook, "facts", facts_line(path, notebook), 1)
    put(notebook, "references", references(own_text(notebook, lambda _: True)), None)
    put(notebook, "next", next_line(path), None)


def table():
    "The course as a table, for the index: the route's sections, titles and subtitles."
    rows, section = ["| page | what it answers |", "|---|---|"], ""
    for own, path in route()[1:]:
        if own and own != section:
            rows.append(f"| **{own}** | |")
        section = own
        title, subtitle = (text.replace("|", "\\|") for text in heading(path))
        rows.append(f"| [{title}]({path.relative_to(NBS)}) | {subtitle} |")
    return "\n".join(rows)


def write_table(notebook):
    "Put the table of the course instead of the one in the index."
    old = r"(?m)^\| (?:notebook|page) \| what it answers \|\n(?:\|.*(?:\n|\Z))+"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(old, lambda _: table() + "\n", cell.source)


def form(paths):
    "Bring pages into their form, and the index's table up to date."
    for path in dict.fromkeys([*paths, NBS / "index.ipynb"]):
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        hide_sources(notebook)
        put_stills(notebook, path)
        if path.name == "index.ipynb":
            write_table(notebook)
        else:
            write_around(path, notebook)
        if nbformat.writes(notebook) != before:
            nbformat.write(notebook, path)
            print("formed", path.relative_to(ROOT))
    nbdev_clean()


def is_skipped(cell, flags):
    """Whether a code cell carries one of the directives in `flags` (`#| slow`) or
    `#| eval: false`."""
    directives = re.findall(r"^#\|\s*(.+?)\s*$", cell.source, re.M)
    return any(
        directive in flags or re.fullmatch(r"eval:\s*false", directive)
        for directive in directives
    )


def run(path, skip_flags=None):
    """Run a notebook top to bottom in a fresh kernel, in its own folder; skipped cells
    keep their stored outputs. Returns the notebook."""
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
    """Outputs that do not belong into a stored notebook: warnings, residue of progress
    bars, colour codes, paths of this machine."""
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
    """A PNG in base64 with 128 colours, or 16 shades from black to white where there is
    no colour: a third of the size."""
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
    small = io.BytesIO()
    is_opaque = picture.getextrema()[3][0] == 255
    if not is_opaque:
        picture = picture.quantize(
            64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
    elif ImageStat.Stat(picture.convert("RGB").convert("HSV")).extrema[1][1] == 0:
        picture = picture.convert("L").point(lambda shade: round(shade / 17) * 17)
    else:
        # by coverage: a median cut merges rare colours, as a legend's, with others
        picture = picture.convert("RGB").quantize(
            128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    picture.save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def tidy_outputs(notebook):
    """Make pictures small, also those inside of SVG and HTML, mend links to the source,
    and drop views of widgets, which nothing can show once the kernel is gone."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if text := data.get("text/markdown"):  # of show_doc
                data["text/markdown"] = with_lines(text, get_config(path=ROOT), ROOT)
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
                # hundredths of a point are enough
                data["image/svg+xml"] = re.sub(r"(\d\.\d{2})\d+", r"\1", svg)


def refresh(paths):
    "Run pages and store what they show."
    for path in paths:
        start = time.monotonic()
        notebook = run(path)
        keep_seconds(path.relative_to(NBS).as_posix(), time.monotonic() - start)
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
    form(paths)


def plain_sections(text):
    """Links to sections as the site and GitHub know them. JupyterLab reaches a section
    at once only by its cell, whose id is therefore the section's name on the site."""
    return re.sub(r"((?:\]\([^)\s]*|^)#)cell-id=", r"\1", text)


def readme():
    """README.md is the index page without the code behind its tables, its links seen
    from the top of the repository."""
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
    body = plain_sections(body)
    return (
        "<!-- Made from nbs/index.ipynb by tools/notebooks.py: edit that. -->\n\n"
        + re.sub(r"\n{3,}", "\n\n", re.sub(r"```python\s*```\n", "", body)).strip()
        + "\n"
    )


def main(command="", *names):
    "What the command line asks for."
    paths = [Path(name).resolve() for name in names] or notebooks()
    if command == "refresh":
        refresh(paths)
    elif command == "form":
        form(paths)
    elif command != "readme" or names:
        sys.exit(__doc__)
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
