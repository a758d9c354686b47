"""The papers that a page cites, from nbs/references.yml: found in its text, listed at its
end, and on the site linked from where they are cited."""

import re
from pathlib import Path

import yaml

FILE = Path(__file__).resolve().parent.parent / "nbs" / "references.yml"
# What reads like a citation: Kingma & Welling 2014, Burda et al. (2016)
NAME = r"[A-ZÀ-Ý][\w’'-]+"
CITATION = re.compile(rf"({NAME}(?: & {NAME}| et al\.)?) \(?((?:19|20)\d\d)\b\)?")
MONTHS = "January February March April May June July August September October November "
NOBODY = set((MONTHS + "December In Since Until By From").split())


def bibliography():
    "The papers: {how one is cited: its authors, title, where, url}."
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def cited(text):
    "The citations in a text, as the bibliography names them, in order of appearance."
    found = [f"{name} {year}" for name, year in CITATION.findall(text)]
    return [one for one in dict.fromkeys(found) if one.split()[0] not in NOBODY]


def anchor(name):
    "The anchor of a paper in a page's list."
    return "ref-" + re.sub(r"\W+", "-", name.lower()).strip("-")


def references(text):
    "The list at the end of a page with this text, or nothing."
    papers = bibliography()
    lines = []
    for name in sorted(set(cited(text)) & papers.keys()):
        paper, year = papers[name], name.split()[-1]
        title = f"[{paper['title']}]({paper['url']})"
        end = "" if paper["title"].endswith("?") else "."
        lines.append(f"- {paper['authors']} ({year}). {title}{end} {paper['where']}.")
    return "## References\n\n" + "\n".join(lines) if lines else ""


def with_anchors(source, text):
    "The list for the site, where citations lead to its entries."
    head, *lines = source.split("\n- ")
    names = sorted(set(cited(text)) & bibliography().keys())
    return head + "".join(
        f"\n- []{{#{anchor(name)}}}{line}"
        for name, line in zip(names, lines, strict=True)
    )


def with_links(text, is_plain):
    "A page's text whose citations lead to the list; `is_plain` says where text is text."
    papers = bibliography()

    def link(found):
        name = f"{found[1]} {found[2]}"
        if name not in papers or not is_plain(text, found.start()):
            return found[0]
        # an opening bracket stands before the name, its closing one is not the link's
        shown = found[0] if "(" in found[0] else found[0].removesuffix(")")
        return f"[{shown}](#{anchor(name)})" + found[0][len(shown) :]

    return CITATION.sub(link, text)
