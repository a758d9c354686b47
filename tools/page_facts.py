"""The line under a page's title: which step of the route it is, how many minutes it
takes, what it builds on."""

import json
import math
import os
import re
from pathlib import Path

import yaml

NBS = Path(__file__).resolve().parent.parent / "nbs"
SECONDS = NBS / "minutes.json"  # of a run of each notebook, kept by `refresh`
WORDS, LINES = 200, 20  # of prose, and of lessons' code, that one reads in a minute
NO_STEPS = {
    "",
    "Inside",
}  # sections beside the route: the index, lists, the rooms behind


def minutes(prose, code, seconds):
    "How long a page takes: read, read in code, run. At least one minute."
    words = len(re.findall(r"[^\W\d_]{2,}", re.sub(r"\$[^$]*\$", " ", prose)))
    read = words / WORDS + len(code.splitlines()) / LINES
    return max(1, math.ceil(read + seconds / 60))


def run_seconds():
    return json.loads(SECONDS.read_text())


def keep_seconds(name, seconds):
    "Keep how long a notebook ran, unless it is nearly what is kept."
    kept = run_seconds()
    if abs(kept.get(name, 0) - seconds) > max(3, 0.3 * kept.get(name, 0)):
        kept[name] = round(seconds)
        SECONDS.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def prerequisites():
    "{page: the pages that it builds on}, by file without its ending."
    text = (NBS / "prerequisites.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def facts(path, route, titles, prose, code):
    "The line of the notebook at `path`; `titles` gives a page's title."
    name = path.relative_to(NBS).as_posix()
    steps = [page for section, page in route if section not in NO_STEPS]
    section = next((section for section, page in route if page == path), "")
    parts = []
    if path in steps:
        parts.append(f"{section}, step {steps.index(path) + 1} of {len(steps)}")
    elif section:
        parts.append("Beside the route")
    time = minutes(prose, code, run_seconds().get(name, 0))
    parts.append(f"{time} minute{'s' if time > 1 else ''} to read and run")
    links = [
        f"[{titles(NBS / f'{page}.ipynb')}]({os.path.relpath(NBS / page, path.parent)}"
        ".ipynb)"
        for page in prerequisites().get(name.removesuffix(".ipynb"), [])
    ]
    if links:
        parts.append("builds on " + ", ".join(links))
    return "*" + " · ".join(parts) + "*"
