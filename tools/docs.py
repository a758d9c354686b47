"""Build the docs site in _docs from the notebooks: nbdev's processors, then smalldocs,
on the ordinary nbs/_quarto.yml.

Stored outputs are shown, nothing is run again but imports and `show_doc`. Lessons are
open; imports, checks, pictures and solutions are folded (`kind` in tools/notebooks.py).
Any warning, dead link or external file is an error.
python tools/docs.py"""

import ast
import base64
import io
import json
import re
import shutil
import sys
import time
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbdev.doclinks
import nbformat
import references
import yaml
from PIL import Image
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from notebooks import GENERATED, kind, own_text, plain_sections
from site_doors import with_doors, write_doors
from site_exercises import add_scripts, put_forms
from site_links import COPIES, copy_texts, is_plain, with_lines, with_post_linked
from site_links import with_real_addresses

if sys.version_info < (3, 11):
    sys.exit(
        "The docs builder needs Python 3.11 or newer: "
        "make clean, then make docs PYTHON=python3.12"
    )
from smalldocs.site import build
from vae_tutorial._live import _SHARED

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "vae_tutorial" / "assets"
KATEX_CDN = (
    "https://cdn.jsdelivr.net/npm/katex@0.16.11/dist"  # what smalldocs 0.5.4 writes
)


def page_of(path):
    """The page of a notebook: its path without the number (10_data.ipynb ->
    data.ipynb), as nbdev's links expect it."""
    return Path(_nbpath2html(path)).with_suffix(".ipynb")


def option(cell, name):
    "The value of a cell's `#| name: value`, or an empty text."
    line = re.search(rf"^#\|\s*{name}:\s*(.+)$", cell.source, re.M)
    return str(yaml.safe_load(line[1])) if line else ""


def fold(cell, summary):
    "Fold a cell's code under one line."
    cell.source = re.sub(r"(?m)^#\|\s*code-(fold|summary):.*\n", "", cell.source)
    signs = {'"': "”", "{": "(", "}": ")", "`": None}  # they would end the block's head
    plain = summary.translate(str.maketrans(signs))
    summary = json.dumps(plain, ensure_ascii=False)
    cell.source = f"#| code-fold: true\n#| code-summary: {summary}\n{cell.source}"


def picture_of(output):
    "An output's picture: what it holds, the ending of its file, width and height."
    data = output.get("data", {})
    if svg := data.get("image/svg+xml"):
        sizes = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
        return svg.encode(), "svg", *(float(size) * 4 / 3 for size in sizes)
    if png := data.get("image/png"):
        png = base64.b64decode(png)
        width, height = Image.open(io.BytesIO(png)).size
        shown = output.metadata.get("image/png", {}).get("width", width)
        return png, "png", shown, shown * height / width
    return None


COLUMN, TALLEST = 780, 520  # of a figure, in pixels


def write_figures(cell, folder, stem, number):
    """Keep each picture as a file of its own, shown as wide as the column with the
    cell's alt text; pictures and live figures get the cell's caption and a number.
    Returns the number of the next figure."""
    caption = option(cell, "fig-cap")
    for place, output in enumerate(cell.get("outputs", [])):
        live = output.get("data", {}).get("text/html", "")
        if live.startswith('<div class="live-figure"'):
            content = live if caption else ""
        elif picture := picture_of(output):
            content = write_picture(cell, picture, folder, f"{stem}-{cell.id}-{place}")
        else:
            content = ""
        if not content:
            continue
        below = ""
        if caption:
            below = f"<figcaption>\n\n**Figure {number}.** {caption}\n\n</figcaption>"
            number += 1
        figure = f'<figure class="figure">\n{content}\n{below}\n</figure>'
        output.data = nbformat.from_dict({"text/markdown": figure})
    return number


def write_picture(cell, picture, folder, name):
    "A picture as a file; the tag that shows it."
    content, ending, width, height = picture
    alt = option(cell, "fig-alt")
    if not alt:
        raise ValueError(f"{name}: a figure without #| fig-alt")
    (folder / "figures").mkdir(exist_ok=True)
    file = f"figures/{name}.{ending}"
    (folder / file).write_bytes(content)
    scale = min(COLUMN / width, TALLEST / height, 1.6)
    return (
        f'<img class="img-fluid" loading="lazy" src="{file}" '
        f'width="{scale * width:.0f}" height="{scale * height:.0f}" '
        f'alt="{escape(alt)}">'
    )


def shown_names(notebook):
    "The names whose definition a page shows (`#| exports`): their signature is there."
    names = set()
    for cell in notebook.cells:
        if cell.cell_type == "code" and re.search(r"^#\|\s*exports", cell.source, re.M):
            names |= {getattr(node, "name", "") for node in ast.parse(cell.source).body}
    return names


def without_boxes(cells, original):
    """Cells without nbdev's signature above a definition that is shown anyway; an
    anchor is left there, so that links lead to the definition."""
    ids, names, kept = {cell.id for cell in original.cells}, shown_names(original), []
    for cell in cells:
        box = re.search(r"^show_doc\((\w+)\)", cell.source, re.M)
        if box and box[1] in names and cell.id not in ids:
            anchor = f'```{{=html}}\n<a id="{box[1].lower()}"></a>\n```'
            cell = nbformat.v4.new_markdown_cell(anchor, id=cell.id)
        kept.append(cell)
    return kept


def join_imports(cells, kinds):
    "Make one cell of imports of those that follow one another."
    kept = []
    for cell in cells:
        if kinds.get(cell.id) == "imports" and kept:
            if kinds.get(kept[-1].id) == "imports":
                code = re.sub(r"(?m)^#\|.*\n", "", cell.source)
                kept[-1].source += "\n\n" + code
                continue
        kept.append(cell)
    return kept


def role_of(cell):
    "A code cell's kind."
    return kind(cell) if cell.cell_type == "code" else None


def shape_code(cell, role):
    "Fold a code cell as its kind asks for."
    if option(cell, "echo") == "False" or role is None:
        return
    if role == "imports":
        fold(cell, "Imports")
    elif role == "check":
        fold(cell, "".join(output.get("text", "") for output in cell.outputs).strip())
        cell.outputs = []
    elif role == "picture":
        fold(cell, "Code of the figure")
    elif role == "solution":
        cell.outputs = []  # its answer would stand below the fold
    elif role == "helper":
        own = re.search(r'^#\|\s*code-summary:\s*"?(Helper[^"\n]*)', cell.source, re.M)
        fold(cell, own[1] if own else "Helper")
    elif role == "slow":
        fold(cell, "How the stored numbers were made (takes long)")
    else:  # nbdev marks exported source
        cell.source = re.sub(r"(?m)^#\|\s*code-(fold|summary):.*\n", "", cell.source)


def mend_signatures(cell, config):
    """Undo the links that nbdev puts around names in the comments of a signature, since
    a code block shows them as they are; give its links to the source their lines."""
    for output in cell.get("outputs", []):
        if text := output.get("data", {}).get("text/markdown"):
            text = re.sub(
                r"```.*?```",
                lambda block: re.sub(r"\[(`[^`]+`)\]\([^)]*\)", r"\1", block[0]),
                text,
                flags=re.S,
            )
            output.data["text/markdown"] = with_lines(text, config, ROOT)


LINK = re.compile(r"(\]\((?:[\w./-]*/)?)([\w.-]+\.ipynb)")


def shape_text(cell, old, config):
    "Links between pages by the pages' names, others to the site's copies, a download."
    if cell.cell_type == "raw":
        address = f"{config.doc_host}{config.doc_baseurl}/{old.as_posix()}"
        cell.source = re.sub(
            r"(?m)^output-file:.*$",
            "other-links:\n- {text: Download notebook, icon: download, "
            f'href: "{address}"}}',
            cell.source,
        )
        return
    mark = "<!-- WARNING: THIS FILE WAS AUTOGENERATED! DO NOT EDIT! -->"
    text = LINK.sub(
        lambda match: match[1] + page_of(Path(match[2])).name,
        cell.source.replace(mark, ""),
    )
    for name, copy in COPIES.items():
        text = text.replace(f"](../{name})", f"]({copy})")
    cell.source = plain_sections(text)


def shape_around(notebook, text, up):
    """The cells around a lesson and what leads to them: the line under the title, the
    list of papers and the citations, the first mention of the post."""
    cells = {cell.id: cell for cell in notebook.cells}
    if facts := cells.get("facts"):
        facts.source = f"::: {{.lesson-facts}}\n{facts.source.strip('*')}\n:::"
    own = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "markdown" and cell.id not in GENERATED
    ]
    if papers := cells.get("references"):
        listed = references.with_anchors(papers.source, text)
        papers.source = f"::: {{.references}}\n{listed}\n:::"
        for cell in own:
            cell.source = references.with_links(cell.source, is_plain)
    sources = f"{up}index.ipynb#sources"
    linked = with_post_linked([cell.source for cell in own], sources)
    for cell, source in zip(own, linked):
        cell.source = source


def stage_page(folder, old, new, config):
    "One page: its links, its folds, its figures."
    path, new = folder / old, folder / new
    notebook = nbformat.read(path, as_version=4)
    original = nbformat.read(config.nbs_path / old, as_version=4)
    kinds = {cell.id: role_of(cell) for cell in original.cells}
    cells = [cell for cell in notebook.cells if cell.cell_type == "raw" or cell.source]
    cells = put_forms(join_imports(without_boxes(cells, original), kinds), old.name)
    notebook.cells = cells
    number = 1
    for cell in notebook.cells:
        if cell.cell_type != "code":
            shape_text(cell, old, config)
            continue
        shape_code(cell, kinds.get(cell.id))
        mend_signatures(cell, config)
        number = write_figures(cell, new.parent, new.stem, number)
    up = "../" * (len(new.relative_to(folder).parts) - 1)
    shape_around(notebook, own_text(original, lambda _: True), up)
    path.unlink()
    nbformat.write(notebook, new)


def stage(folder, config):
    """Name the processed notebooks like their pages, and shape these. Returns
    {page: notebook}."""
    names = {
        path.relative_to(folder): page_of(path.relative_to(folder))
        for path in sorted(folder.rglob("*.ipynb"))
    }
    for old, new in names.items():
        stage_page(folder, old, new, config)
    settings = yaml.safe_load((folder / "_quarto.yml").read_text())
    renamed = {old.as_posix(): new.as_posix() for old, new in names.items()}

    def rename(entry):
        if isinstance(entry, str):
            return renamed.get(entry, entry)
        if isinstance(entry, dict):
            return {key: rename(value) for key, value in entry.items()}
        return [rename(value) for value in entry] if isinstance(entry, list) else entry

    for name in settings.pop("metadata-files"):
        settings["website"] |= yaml.safe_load((folder / name).read_text())["website"]
    settings = with_real_addresses(rename(settings), config)
    (folder / "_quarto.yml").write_text(yaml.safe_dump(settings, sort_keys=False))
    copy_texts(folder, ROOT, renamed)
    return {new.with_suffix(".html"): old for old, new in names.items()}


def write_live(site):
    """The live figures as plain scripts, which also work from file://: each module, and
    each data file in base64."""
    folder = site / "live"
    folder.mkdir()
    shared = "".join((ASSETS / name).read_text("utf-8") for name in _SHARED)
    for module in sorted(ASSETS.glob("*.js")):
        if module.name in _SHARED:
            continue
        own = module.read_text("utf-8").replace("export default ", "return ")
        (folder / module.name).write_text(
            f"(globalThis.liveFigures ||= {{}}).{module.stem} = "
            f"(() => {{\n{shared}\n{own}\n}})();\n",
            encoding="utf-8",
        )
    for file in ASSETS.glob("mnist-*d*.safetensors"):
        content = base64.b64encode(file.read_bytes()).decode()
        (folder / f"{file.name}.js").write_text(
            f'(globalThis.liveData ||= {{}})["{file.name}"] = "{content}";\n'
        )
    shutil.copy(ROOT / "nbs" / "vendor" / "live_host.js", folder)


FOLDS = {
    "imports": "Imports",
    "check": "Checked:",
    "picture": "Code of the figure",
    "solution": "Solution",
    "helper": "Helper",
}


def unbroken(cell):
    "A table's cell in which a line may end before an error, not within it."
    return cell[0].replace("± ", "±&nbsp;").replace(" %", "&nbsp;%")


def finish(page, site, notebooks, config):
    """Make a page stand on its own: KaTeX and links from the site itself, its folds
    named by what they hold, the scripts of its live figures."""
    html = page.read_text(encoding="utf-8")
    up = "../" * (len(page.relative_to(site).parts) - 1)
    for name, summary in FOLDS.items():
        html = re.sub(
            rf'<details class="code-fold">(?=\s*<summary>{summary})',
            f'<details class="code-fold {name}">',
            html,
        )
    scripts = ["vendor/folds.js", "vendor/sidebar.js"]
    html = html.replace(KATEX_CDN, f"{up}vendor/katex").replace(
        "contrib/auto-render", "auto-render"
    )
    html = html.replace(f'href="{config.doc_host}{config.doc_baseurl}/', f'href="{up}')
    html = re.sub(
        r'href="[\w./]*\.html#(\w+\.\w+)"', rf'href="{up}reference.html#\1"', html
    )  # methods are documented there only
    html = re.sub("<td[^>]*>[^<]*</td>", unbroken, html)
    if notebook := notebooks.get(page.relative_to(site)):
        html = html.replace(
            f'/nbs/{page.relative_to(site).with_suffix(".ipynb").as_posix()}"',
            f'/nbs/{notebook.as_posix()}"',
        )
    pages = {old.as_posix(): new.as_posix() for new, old in notebooks.items()}
    html = with_doors(html, page.relative_to(site).as_posix(), up, pages, config)
    figures = re.findall(
        r'class="live-figure" data-figure="(\w+)" data-files="([^"]*)"', html
    )
    if figures:
        files = {
            file
            for _, listed in figures
            for file in json.loads(listed.replace("&quot;", '"')).values()
        }
        scripts += [
            *sorted(f"live/{file}.js" for file in files),
            *sorted({f"live/{figure}.js" for figure, _ in figures}),
            "live/live_host.js",
        ]
    tags = "".join(f'<script src="{up}{name}" defer></script>' for name in scripts)
    html = html.replace("</body>", tags + "</body>")
    page.write_text(html, encoding="utf-8")


class _Page(HTMLParser):
    "What a page links to, what it loads, and which anchors it has."

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads, self.without_alt = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {
            attributes[name] for name in ("id", "name") if attributes.get(name)
        }
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        if tag in ("script", "img", "iframe", "source") and attributes.get("src"):
            self.loads.append(attributes["src"])
        if tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(attributes["href"])
        if tag == "img" and not attributes.get("alt"):
            self.without_alt.append(attributes.get("src", "")[:80])


def complaints(site):
    "Dead links and anchors, files from elsewhere, pictures without alt text."
    pages = {
        path: _Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }
    found = []
    for path, page in pages.items():
        where = path.relative_to(site).as_posix()
        found += [
            f"{where}: picture without alt text: {source}"
            for source in page.without_alt
        ]
        for target in [*page.links, *page.loads]:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https") or target.startswith("//"):
                if target in page.loads:
                    found.append(f"{where}: loads {target}")
                continue
            if parts.scheme:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if file.is_dir():
                file /= "index.html"
            if not file.is_file():
                found.append(f"{where}: dead link {target}")
            elif (
                parts.fragment
                and file in pages
                and unquote(parts.fragment) not in pages[file].anchors
            ):
                found.append(f"{where}: no such anchor {target}")
    for style in site.rglob("*.css"):
        found += [
            f"{style.relative_to(site)}: loads {url}"
            for url in re.findall(
                r"""(?:@import\s+|url\()["']?((?:https?:)?//[^"')]+)""",
                style.read_text(encoding="utf-8"),
            )
        ]
    return found


def main():
    start, config = time.monotonic(), get_config(path=ROOT)
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    shutil.rmtree(ROOT / "_proc", ignore_errors=True)
    folder = proc_nbs(n_workers=1, force=True)
    notebooks = stage(folder, config)
    built = build(folder, quiet=True)
    for style in (built.out / "site_libs").rglob(
        "*.css"
    ):  # themes import web fonts; the system's will do
        style.write_text(
            re.sub(
                r"""@import\s*(url\([^)]*\)|"[^"]*"|'[^']*');?""",
                "",
                style.read_text(encoding="utf-8"),
            ),
            encoding="utf-8",
        )
    write_live(built.out)
    for figures in folder.glob("*/figures"):
        shutil.copytree(figures, built.out / figures.relative_to(folder))
    for page in built.out.rglob("*.html"):
        finish(page, built.out, notebooks, config)
    add_scripts(built.out)
    write_doors(built.out, notebooks, config)
    shutil.rmtree(config.doc_path, ignore_errors=True)
    shutil.move(built.out, config.doc_path)
    shutil.rmtree(folder)
    if found := [*built.warnings, *complaints(config.doc_path)]:
        sys.exit("\n".join(found))
    folder, seconds = config.doc_path.relative_to(ROOT), time.monotonic() - start
    print(f"{len(notebooks)} pages in {folder} after {seconds:.0f} s")


if __name__ == "__main__":
    main()
