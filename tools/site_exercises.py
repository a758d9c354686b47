"""The exercises on the docs site: a number or a word is answered in the page, a function
in JupyterLab. nbs/vendor/exercises.js makes the forms and judges as `check` does; what
it knows comes from `_EXERCISES`. Called by tools/docs.py."""

import base64
import json
import re
from html import escape, unescape

import nbformat

from vae_tutorial.exercises import _EXERCISES

ASKED = re.compile(r'check\("([^"]+)", None\)')
IN_LAB = re.compile(r"^Replace `None` by your answer.*$", re.M)  # of each notebook
IN_PAGE = (
    "Answer here: the page says whether it is right, and if not, what probably went"
    " wrong. A hint can be had after a wrong try."
)
SOME = " Functions are written in JupyterLab, where `check` judges them."
ALL = (
    "You write these in JupyterLab: `check` says there whether your function is right,"
    " and if not, what probably went wrong."
)


def is_function(name):
    return _EXERCISES[name].inputs is not None


def as_html(text):
    "A reason with its little Markdown: `code` and *stress*."
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)


def known(name, question):
    """What the page must know to judge as `check` does: the right answer, then the
    typical wrong ones, in this order; words and whole numbers must agree exactly."""
    exercise = _EXERCISES[name]
    answers = [(exercise.right, exercise.because), *exercise.wrong]
    words = [value for value, _ in answers if isinstance(value, str)]
    places = {word: question.find(f'"{word}"') % 10**6 for word in words}  # -1: last
    return {
        "answers": [
            {
                "value": value,
                "exact": isinstance(value, (str, int)),
                "says": as_html(says),
            }
            for value, says in answers
        ],
        "choices": sorted(words, key=lambda word: (places[word], word)),
        "hint": as_html(exercise.hint),
    }


def place(name, number, notebook):
    "What stands in the page instead of `check(name, None)`."
    marks = f'data-exercise="{name}" data-number="{number}"'
    if is_function(name):
        return (
            f'<p class="exercise exercise-lab" {marks}>You write a function here:'
            f' do it in JupyterLab (<a href="{notebook}" download>download this'
            " notebook</a>).</p>"
        )
    return (
        f'<div class="exercise" {marks}>'
        "<noscript>Answering in the page needs JavaScript.</noscript></div>"
    )


def html_cell(html, name):
    return nbformat.v4.new_markdown_cell(f"```{{=html}}\n{html}\n```", id=name)


def put_forms(cells, notebook):
    """A page's cells with its exercises as forms, and below the last of them a place
    for the progress."""
    names = [match[1] for cell in cells if (match := ASKED.fullmatch(cell.source))]
    if not names:
        return cells
    words = IN_PAGE + SOME * any(map(is_function, names))
    words = ALL if all(map(is_function, names)) else words
    kept, number, introductions = [], 0, 0
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source, found = IN_LAB.subn(words, cell.source)
            introductions += found
        elif match := ASKED.fullmatch(cell.source):
            number += 1
            cell = html_cell(place(match[1], number, notebook), cell.id)
        kept.append(cell)
        if number == len(names) and 'code-summary: "Solution' in cell.source:
            kept.append(html_cell('<div class="exercise-progress"></div>', "progress"))
    if introductions != 1:
        raise ValueError(f"{notebook}: {introductions} introductions of its exercises")
    return kept


def put_known(html):
    """A page with what its forms must know. It is in base64: no secret, but nobody
    reads an answer by accident in the page's source."""

    def filled(match):
        name = match[1]
        if is_function(name):
            return match[0]
        end = match.start()
        question = html[html.rindex("<strong>Exercise", 0, end) : end]
        packed = json.dumps(known(name, unescape(question))).encode()
        return f'{match[0]} data-known="{base64.b64encode(packed).decode()}"'

    return re.sub(r'data-exercise="([^"]+)"', filled, html)


def add_scripts(site):
    """The form's style and script on every page, and which exercises each page has, for
    the sidebar: a script of its own, so that it works from file://, too."""
    pages = {
        page: page.read_text(encoding="utf-8") for page in sorted(site.rglob("*.html"))
    }
    course = {
        page.relative_to(site).as_posix(): names
        for page, html in pages.items()
        if (names := re.findall(r'data-exercise="([^"]+)"', html))
    }
    (site / "vendor" / "course.js").write_text(
        f"globalThis.courseExercises = {json.dumps(course, indent=1)};\n"
    )
    for page, html in pages.items():
        up = "../" * (len(page.relative_to(site).parts) - 1)
        style = f'<link rel="stylesheet" href="{up}vendor/exercises.css">'
        scripts = (
            f'<script src="{up}vendor/course.js" defer></script>'
            f'<script src="{up}vendor/exercises.js" data-root="{up or "./"}" defer>'
            "</script>"
        )
        html = put_known(html).replace("</head>", style + "</head>", 1)
        html = html.replace("</body>", scripts + "</body>")
        page.write_text(html, encoding="utf-8")
