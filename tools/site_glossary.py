"""The glossary on every page: nbs/vendor/glossary.js marks the first mention of a word
and shows what it means. A page carries only the words that it uses."""

import json
import re
from html import escape, unescape

import nbformat

ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+?) \| \[[^]]+\]\(([^)]+)\) \|$", re.M)
# Pages where nothing is marked: the glossary itself, and lists of names.
UNMARKED = {"glossary.html", "reference.html", "contributing.html"}


# Words that mostly mean something else: marked only where they are explained.
AMBIGUOUS = {"score", "mode", "reconstruction", "factor"}


def slug(word):
    "The anchor of a word in the glossary."
    return re.sub(r"\W+", "-", word.lower()).strip("-")


def terms(folder):
    "The glossary's rows: {word: (meaning, notebook)}."
    notebook = nbformat.read(folder / "glossary.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells)
    return {
        word: (meaning.replace(r"\|", "|"), page)
        for word, meaning, page in ROW.findall(text)
    }


def forms(word):
    "How a word is written: β (beta) in two ways, others in one."
    return [form for form in re.split(r"[ ]?[()]", word) if form]


def pattern(form):
    "A form in a text: any hyphen for a space, small or large first letter, plural."
    first = re.escape(form[0])
    if form[0].isascii() and not form[:2].isupper():
        first = f"[{form[0].lower()}{form[0].upper()}]"
    rest = re.sub(r"(\\ |\\-)", "[ -]", re.escape(form[1:]))
    return rf"(?<!\w){first}{rest}s?(?!\w)"


def with_anchors(html, words):
    "The glossary's page, each word with its anchor."
    for word in words:
        cell = f"<td><strong>{escape(word, quote=False)}</strong>"
        html = html.replace(cell, cell.replace("<td>", f'<td id="{slug(word)}">'))
    return html


def with_terms(html, page, words, up, pages):
    "A page with what its words mean, and the script that shows it."
    if page in UNMARKED:
        return html
    text = unescape(re.sub(r"<pre.*?</pre>|<[^>]+>", "", html, flags=re.S))
    used = []
    for word, (meaning, notebook) in words.items():
        if word in AMBIGUOUS and pages[notebook.split("#")[0]] != page:
            continue
        patterns = [pattern(form) for form in forms(word)]
        if any(re.search(found, text) for found in patterns):
            where = up + pages[notebook.split("#")[0]]
            used.append([word, "|".join(patterns), meaning, where, slug(word)])
    used.sort(key=lambda term: -len(term[0]))  # the longer word wins
    data = json.dumps(used, ensure_ascii=False).replace("</", "<\\/")
    tags = (
        f'<script type="application/json" id="glossary-terms">{data}</script>'
        f'<script src="{up}vendor/glossary.js" defer></script>'
    )
    return html.replace("</body>", tags + "</body>")
