"""The form of the pages (CONTRIBUTING.md): short lessons, checks that can fail and say
what they proved, captioned pictures, one order, no plumbing outside `inside`."""

import ast
import base64
import io
import json
import re
import subprocess
import sys

import nbformat
import notebooks
import numpy
import page_facts
import pytest
import references
from notebooks import NBS, kind
from PIL import Image

# Pages that are not in form yet, and why. A page that is must leave this list.
# `python tools/notebooks.py form` has not been run on any: their authors will.
REWRITE = "waits for its rewriting"
PENDING = {}  # all are
ALWAYS = 10_000  # lines; no limit
MOST_LINES = {"lesson": 20, "helper": 20, "check": 12, "solution": 40}
MOST_CELLS = 45
COLUMNS = 88
# What a lesson has no business with; pages in `inside` and `practice` do.
PLUMBING = {"os", "sys", "shutil", "tempfile", "subprocess", "multiprocessing"}
PLUMBING |= {"threading", "signal", "struct", "pickle", "socket", "json.dump"}
PLUMBING |= {"json.dumps"}
NO_LESSONS = ["index", "reference"]  # a front door and a list


def name(path):
    return path.relative_to(NBS).with_suffix("").as_posix()


def is_exercise(cell):
    "A question, the place for its answer, and its solution: three cells each."
    return bool(re.match(r"\*\*Exercise|check\(", cell.source)) or (
        cell.cell_type == "code" and kind(cell) == "solution"
    )


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tree(cell):
    "A cell's syntax tree; lines for the shell and magics left out."
    return ast.parse(re.sub(r"(?m)^[!%].*", "", cell.source))


def lines(cell):
    "A cell's lines that are neither blank nor directives."
    return [
        line
        for line in cell.source.splitlines()
        if line.strip() and not line.startswith("#|")
    ]


def most_lines(cell):
    if kind(cell) == "slow":
        return ALWAYS
    is_class = any(isinstance(node, ast.ClassDef) for node in tree(cell).body)
    return 40 if is_class else MOST_LINES.get(kind(cell), ALWAYS)


def code_lines(cell):
    "Lines of a cell that do something: documented parameters are documentation."
    parameter = re.compile(
        r"    \w+(: .+)?( = .+)?,  # .+|    \*,|\) -> .+:  # .+|    \w+: \w+( = .+)?,"
    )
    return [line for line in lines(cell) if not parameter.fullmatch(line)]


def layout(cell):
    "Cells too long, lines too wide."
    if len(code_lines(cell)) > most_lines(cell):
        yield f"{kind(cell)} of {len(code_lines(cell))} lines"
    for line in lines(cell):
        if len(line) > COLUMNS:
            yield f"line of {len(line)} columns: {line.strip()[:40]}"


def hiding(cell):
    "JupyterLab hides the source of what is no lesson, and of nothing else."
    hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
    if hidden != (kind(cell) in notebooks.HIDDEN):
        yield f"{kind(cell)}: source_hidden is {hidden}; run tools/notebooks.py form"
    if hidden and kind(cell) != "slow" and cell.source.startswith("#|"):
        yield "its directive is seen; run tools/notebooks.py form"


def check(cell):
    "A check says what it proved, in one line, and can fail."
    if kind(cell) != "check":
        return
    text = "".join(output.get("text", "") for output in cell.outputs)
    if not re.fullmatch(r"Checked: .+\n", text) or len(cell.outputs) != 1:
        yield f"check whose stored output is not its one line: {text[:60]!r}"
    calls = [
        ast.unparse(node.func).split(".")[-1]
        for node in ast.walk(tree(cell))
        if isinstance(node, ast.Call)
    ]
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(tree(cell)))
    if not asserts and not any(re.match("assert_|raises", call) for call in calls):
        yield "check that cannot fail"


def picture(cell):
    "A picture has a text for who cannot see it, and a caption."
    data = {key for output in cell.outputs for key in output.get("data", {})}
    draws = any(key.startswith("image/") for key in data)
    if draws and kind(cell) not in ("picture", "solution"):
        yield f"{kind(cell)} that draws"
    if kind(cell) == "picture" and "fig-alt" in cell.source:
        if not re.search(r'(?m)^#\|\s*fig-cap: ".+"$', cell.source):
            yield "picture without fig-cap"


def still(cell):
    "A live figure that is stored has its still, which exists."
    for output in cell.get("outputs", []):
        html = output.get("data", {}).get("text/html", "")
        if 'class="live-figure"' not in html:
            continue
        found = re.search(r'<img src="[./]*vendor/stills/(\w+\.webp)"', html)
        if not found or not (notebooks.STILLS / found[1]).is_file():
            yield "live figure without its still; run tools/notebooks.py form"


def sections(path, notebook):
    """A link to a section names the cell that begins with its heading: JupyterLab finds
    that at once. The cell's id is the section's name on the site."""
    text = "".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )
    for page, name in re.findall(r"\]\(([\w./-]*\.ipynb)?#([^)]+)\)", text):
        place = (path.parent / page) if page else path
        cells = {
            f"cell-id={cell.id}": cell.source
            for cell in nbformat.read(place, as_version=4).cells
        }
        words = re.match(r"#+ (.+)", cells.get(name, ""))
        slug = words and re.sub(r"[^\w\s-]", "", words[1].lower()).replace(" ", "-")
        if name != f"cell-id={slug}":
            yield f"no section for {page}#{name}"


def plumbing(cell):
    "A lesson handles no files and processes, and exports no guards."
    for node in ast.walk(tree(cell)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_"):
            yield f"defines {node.name}: guards live in inside/"
        if not isinstance(node, (ast.Name, ast.Attribute)):
            continue
        used = ast.unparse(node)
        if used in PLUMBING and kind(cell) == "lesson":
            yield f"lesson with {used}"


def order(notebook):
    "Imports stand at the top, before any other code; a seed may be set again below."
    is_late = False
    for cell in code_cells(notebook):
        is_late |= kind(cell) in ("lesson", "check")
        if is_late and kind(cell) == "imports" and "import " in cell.source:
            yield f"{cell.id}: imports below the first code"


def statements(path):
    "One statement a line."
    command = ["-m", "ruff", "check", "--no-cache", "--select", "E701,E702"]
    command += ["--isolated", "--output-format", "json", str(path)]
    found = subprocess.run([sys.executable, *command], capture_output=True, check=False)
    for fault in json.loads(found.stdout):
        where = f"code cell {fault['cell']}, row {fault['location']['row']}"
        yield f"{where}: {fault['message']}"


def complaints(path):
    "All that a page's form lacks."
    notebook, found = nbformat.read(path, as_version=4), []
    rules = [layout, hiding, check, picture, still]
    if path.parent.name not in ("inside", "practice") and path.stem not in NO_LESSONS:
        rules.append(plumbing)
    for cell in code_cells(notebook):
        found += [f"{cell.id}: {fault}" for rule in rules for fault in rule(cell)]
    found += [*statements(path), *sections(path, notebook)]
    try:
        notebooks.heading(path)
    except AttributeError:
        found.append("the first cell is not a title and its subtitle")
    if path.stem in NO_LESSONS:
        return found
    read = [
        cell
        for cell in notebook.cells
        if not is_exercise(cell) and cell.id not in notebooks.GENERATED
    ]
    if len(read) > MOST_CELLS and path.parent.name != "inside":
        found.append(f"{len(read)} cells")
    last = notebook.cells[-1].source.splitlines()[-1:]
    if (line := notebooks.next_line(path)) and last != [line]:
        found.append(f"does not end with {line!r}; run tools/notebooks.py form")
    return found + list(order(notebook))


def pages():
    "Each page, expected to fail while it is pending."
    for path in notebooks.notebooks():
        reason = PENDING.get(name(path))
        marks = pytest.mark.xfail(reason=reason, strict=True) if reason else ()
        yield pytest.param(path, id=name(path), marks=marks)


@pytest.mark.parametrize("path", list(pages()))
def test_page_has_its_form(path):
    found = complaints(path)
    assert not found, "\n".join(["", *found])


def test_only_pages_are_pending():
    assert PENDING.keys() <= {name(path) for path in notebooks.notebooks()}


def test_every_page_is_on_the_route():
    route = [path for _, path in notebooks.route()]
    assert sorted(route) == notebooks.notebooks()
    assert len(set(route)) == len(route)


@pytest.mark.xfail("index" in PENDING, reason=REWRITE, strict=True)
def test_the_index_shows_the_route():
    index = nbformat.read(NBS / "index.ipynb", as_version=4)
    assert any(notebooks.table() in cell.source for cell in index.cells)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("#| default_exp vae", "directive"),
        ("#| exports\nimport torch\nfrom torch import nn", "imports"),
        ("use_style()\ntorch.manual_seed(0);", "imports"),
        ("assert 1 < 2\nprint('Checked: one is less than two.')", "check"),
        ('assert x\nprint(f"Checked: {x} isn\'t \\"nothing\\".")', "check"),
        ("print('Checked: no.')\nx", "lesson"),
        ('#| fig-alt: "a line"\nplt.plot(x)', "picture"),
        ('#| code-fold: true\n#| code-summary: "Solution 2"\nx', "solution"),
        ("#| slow\nx = 2", "slow"),
        ("!ls", "lesson"),
    ],
)
def test_kinds_of_cells(source, expected):
    assert kind(nbformat.v4.new_code_cell(source)) == expected


def test_stored_pictures_keep_rare_colours():
    "A legend's few pixels are as true as the thousand shades of a map."
    pixels = numpy.full((300, 300, 3), 255, dtype=numpy.uint8)
    shades = numpy.random.default_rng(0).integers(60, 255, (200, 300))
    pixels[:200] = numpy.stack([shades, 255 - shades // 2, shades], -1)
    legend = {"purple": (131, 45, 182), "orange": (231, 99, 0), "red": (189, 31, 1)}
    for place, colour in enumerate(legend.values()):
        pixels[220:228, 20 * place : 20 * place + 8] = colour
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    stored = notebooks.shrink_png(base64.b64encode(file.getvalue()).decode())
    kept = Image.open(io.BytesIO(base64.b64decode(stored))).convert("RGB")
    error = numpy.abs(numpy.asarray(kept).astype(int) - pixels.astype(int)).max(-1)
    assert error[220:228].max() < 24 and error[:200].max() < 40


# ---- what `form` writes around a lesson


def prose_and_docstrings(path):
    notebook = nbformat.read(path, as_version=4)
    return notebooks.own_text(notebook, lambda _: True)


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=name)
def test_what_stands_around_the_lesson_is_up_to_date(path):
    notebook = nbformat.read(path, as_version=4)
    before = [(cell.id, cell.source) for cell in notebook.cells]
    if path.stem != "index":
        notebooks.write_around(path, notebook)
    now = [(cell.id, cell.source) for cell in notebook.cells]
    assert now == before, "run tools/notebooks.py form"


def test_every_citation_is_in_the_bibliography_and_every_paper_is_cited():
    papers, cited = references.bibliography(), {}
    for path in notebooks.notebooks():
        for citation in references.cited(prose_and_docstrings(path)):
            cited.setdefault(citation, name(path))
    assert cited.keys() - papers.keys() == set()
    assert papers.keys() - cited.keys() == set()
    for citation, paper in papers.items():
        assert paper.keys() == {"authors", "title", "where", "url"}, citation
        first = paper["authors"].split(",")[0].split(". ")[-1]
        assert citation.startswith(first), citation


@pytest.mark.parametrize(
    "text, expected",
    [
        ("so (Kingma & Welling 2014; Rezende et al. 2014)", 2),
        ("Burda et al. (2016) call it active", 1),
        ("REINFORCE, Williams 1992).", 1),
        ("Loaiza-Ganem & Cunningham 2019, Petroff 2021", 2),
        ("in 2014, since 2016, on 3 May 2020", 0),
        ("In 2014 and In June 2020", 0),
    ],
)
def test_what_reads_like_a_citation(text, expected):
    found = references.cited(text)
    assert len([one for one in found if not one.startswith("May")]) == expected


def test_pages_build_on_pages_before_them():
    order = [name(path) for _, path in notebooks.route()]
    for page, needed in page_facts.prerequisites().items():
        for other in needed:
            assert other in order and page in order, (page, other)
            assert order.index(other) < order.index(page), (page, other)


@pytest.mark.parametrize(
    "words, lines, seconds, expected",
    [(200, 0, 0, 1), (201, 0, 0, 2), (400, 20, 30, 4), (0, 0, 1, 1)],
)
def test_minutes_are_words_lines_and_the_run(words, lines, seconds, expected):
    prose, code = "word " * words, "x = 1\n" * lines
    assert page_facts.minutes(prose, code, seconds) == expected
