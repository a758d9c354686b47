"""Addresses of the repository and of the site: shown only when settings.ini has real
ones, and then all of them."""

import ast
import functools
import re
from urllib.parse import urlsplit

EXAMPLE = "example"  # whose repository and site settings.ini names until there is one


def has_repository(config):
    "Whether `git_url` is a real address."
    return urlsplit(config.git_url).path.split("/")[1] != EXAMPLE


def has_address(config):
    "Whether the site's `doc_host` is a real one."
    return urlsplit(config.doc_host).hostname.split(".")[0] != EXAMPLE


@functools.cache
def _lines(path):
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node.lineno
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    found[f"{node.name}.{inner.name}"] = inner.lineno
    return found


def with_lines(text, config, root):
    """What `show_doc` wrote, its link to the source led to a line, or gone if nobody can
    reach it. (nbdev 2.4.14 looks for full names among short ones: all end in #LNone.)"""

    def link(found):
        address, file, style, heading, name = found.groups()
        if not has_repository(config):
            return heading + name
        line = _lines(root / file).get(name)
        return f"[source]({address}{f'#L{line}' if line else ''}){style}{heading}{name}"

    source = r"\[source\]\((\S+?/blob/[^/]+/(\S+\.py))#LNone\)(\{[^}]*\})"
    return re.sub(source + r"(\s+#+ )([\w.]+)", link, text)


def with_real_addresses(settings, config):
    "The site's settings without buttons that lead to a placeholder."
    website = settings["website"]
    links = website["navbar"]["right"]
    if has_repository(config):
        for link in links:
            link["href"] = config.git_url
    else:
        website["navbar"]["right"] = []
        website.pop("repo-actions", None)
        website.pop("repo-url", None)
    if not has_address(config):
        website.pop("site-url", None)
    return settings


# Texts of the repository that pages link to, so that they can be read without it.
COPIES = {
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE-MNIST.md": "license-mnist.md",
    "LICENSE": "license.txt",
}


def copy_texts(folder, root, pages):
    "Copy the repository's texts beside the pages, their links to pages mended."
    for name, copy in COPIES.items():
        text = re.sub(
            r"\]\(nbs/([\w/]+\.ipynb)",
            lambda link: f"]({pages[link[1]]}",
            (root / name).read_text(encoding="utf-8"),
        )
        if copy.endswith(".md") and not text.startswith("# "):
            text = f"# {name.removesuffix('.md')}\n\n{text}"
        (folder / copy).write_text(text, encoding="utf-8")


POST = re.compile(r"(?<![\w\[])[Tt]he (?:blog )?post(?![\w\]])|(?<=Chinese )blog post")


def is_plain(text, place):
    "Whether a place in a page's Markdown is in no heading, code, formula or link."
    before = text[:place]
    line = before[before.rfind("\n") + 1 :]
    return not (
        line.startswith("#")
        or line.count("`") % 2
        or line.count("$") % 2
        or line.rfind("[") > line.rfind("]")
        or before.count("```") % 2
    )


def with_post_linked(texts, sources):
    "A page's texts, where the first that speaks of the post links to what that is."
    if any(f"]({sources})" in text for text in texts):
        return texts
    for place, text in enumerate(texts):
        for found in POST.finditer(text):
            if is_plain(text, found.start()):
                link = f"[{found[0]}]({sources})"
                linked = text[: found.start()] + link + text[found.end() :]
                return [*texts[:place], linked, *texts[place + 1 :]]
    return texts


def with_pages_linked(html, up, pages):
    "What `diagnose` prints (see: limits/26_collapse) leads there."

    def link(found):
        page = pages.get(found[2] + ".ipynb")
        return f'{found[1]}<a href="{up}{page}">{found[2]}</a>' if page else found[0]

    return re.sub(r"(\bsee: )(\w+/\d\d_\w+)", link, html)
