"""The site's search: an index of sections as a script, because a page that was opened
from a disk may load scripts and nothing else, and the box for nbs/vendor/search.js."""

import json
import re
from html.parser import HTMLParser

import yaml

BOX = """<div class="site-search" id="site-search">
<input type="search" class="form-control form-control-sm" placeholder="Search"
 aria-label="Search the course" autocomplete="off" spellcheck="false" role="combobox"
 aria-autocomplete="list" aria-expanded="false" aria-controls="site-search-results">
<div id="site-search-results" role="listbox" aria-label="Sections found" hidden></div>
<div role="status" class="visually-hidden"></div></div>"""
BRAND = '<div class="navbar-brand-container mx-auto">'
THEIRS = re.compile(
    r'<div class="quarto-navbar-tools"><div class="smalldocs-search".*?</div></div></div>'
)
FUSE = re.compile(r'<script src="[./]*site_libs/fuse/fuse\.min\.js"></script>')

# Code, formulas and what is folded (solutions!) are not searched, nor is what leads
# away: other pages' titles would be found here.
SKIPPED = {"pre", "details", "script", "style", "button", "nav", "svg", "form"}
SKIPPED_CLASSES = {"math", "live-figure", "lesson-facts", "references"}
BLOCKS = {"p", "li", "td", "th", "figcaption", "dd"}
HEADINGS = {"h1", "h2", "h3"}
VOID = {"img", "br", "hr", "input", "meta", "link", "source", "wbr", "col"}


class _Sections(HTMLParser):
    "Of a page: its title, and [anchor, heading, text] of each section."

    def __init__(self, html):
        super().__init__()
        self.title, self.sections = "", [["", "", []]]
        self.main = self.skipped = 0  # how deep inside of <main>, of something skipped
        self.section_ids, self.heading, self.block = [], None, []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in VOID or not (self.main or tag == "main"):
            return
        self.main += 1
        classes = set((attributes.get("class") or "").split())
        if self.skipped or tag in SKIPPED or classes & SKIPPED_CLASSES:
            self.skipped += 1
            return
        if tag in HEADINGS or (tag == "td" and "id" in attributes):
            anchor = attributes.get("data-anchor-id") or attributes.get("id", "")
            self.heading = [tag, anchor]
        if tag in BLOCKS or tag in HEADINGS or "description" in classes:
            self.end_block()

    def handle_endtag(self, tag):
        if not self.main or tag in VOID:
            return
        self.main -= 1
        if self.skipped:
            self.skipped -= 1
        elif self.heading and self.heading[0] == tag:
            text, self.block = " ".join("".join(self.block).split()), []
            if tag == "h1":
                self.title = text
            else:
                self.sections.append([self.heading[1], text, []])
            self.heading = None
        elif tag in BLOCKS or tag == "div":
            self.end_block()

    def handle_data(self, data):
        if self.main and not self.skipped:
            self.block.append(data)

    def end_block(self):
        text, self.block = " ".join("".join(self.block).split()), []
        led_away = text == "page" or text.startswith(("Next:", "Back to top"))
        if text and not led_away:
            self.sections[-1][2].append(text)


def sections(html):
    "A page's title, and [anchor, heading, text] of each of its sections."
    page = _Sections(html)
    return page.title, [[*head, " ".join(text)] for *head, text in page.sections]


def write_index(site, words):
    """Write the sections of all pages, with the other words for them in the file
    `words`, and drop the index that only a server can give."""
    pages, others = [], yaml.safe_load(words.read_text(encoding="utf-8"))
    for path in sorted(site.rglob("*.html")):
        title, found = sections(path.read_text(encoding="utf-8"))
        page = path.relative_to(site).as_posix()
        for section in found:
            place = f"{page}#{section[0]}" if section[0] else page
            section += [others.pop(place)] if place in others else []
        pages.append([page, title, found])
    if others:
        raise ValueError(f"{words.name} names what is not there: {', '.join(others)}")
    index = json.dumps(pages, ensure_ascii=False, separators=(",", ":"))
    (site / "search-index.js").write_text(
        f"globalThis.searchIndex = {index};\n", encoding="utf-8"
    )
    (site / "search.json").unlink()


def with_box(html, up):
    "Our box instead of smalldocs' one: beside the title, also on a phone."
    html, theirs = THEIRS.subn("", html)
    html, fuse = FUSE.subn("", html)
    if (theirs, fuse, html.count(BRAND)) != (1, 1, 1):
        raise ValueError("smalldocs' search box is not where it was")
    end = html.index("</div>", html.index(BRAND)) + len("</div>")
    script = f'<script src="{up}vendor/search.js" defer></script>'
    return (html[:end] + BOX + html[end:]).replace("</body>", script + "</body>")
