"""What a page of the docs site costs: bytes on the wire (gzip, as a host of static pages
sends it), milliseconds to interactive and to the first drawing of its live figures, on
localhost. Medians of five fresh visits.
python bench/site.py        (after make docs)"""

import os
import shutil
import statistics
import sys
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]
from browsing import PAGES, Server  # noqa: E402

ALIVE = """document.querySelectorAll('.live-figure').length
  === document.querySelectorAll('.live-figure[data-drawn]').length"""
COST = """() => {
  const [page] = performance.getEntriesByType('navigation');
  const entries = [page, ...performance.getEntriesByType('resource')];
  const drawn = [...document.querySelectorAll('.live-figure')].map(el => +el.dataset.drawn);
  const bytes = entries.reduce((sum, entry) => sum + entry.encodedBodySize, 0);
  return [bytes / 1000, page.domInteractive, Math.max(0, ...drawn)]; }"""


def visit(browser, address, name):
    "Kilobytes, milliseconds to interactive and to the last figure, of a fresh visit."
    context = browser.new_context()
    page = context.new_page()
    response = page.goto(address + name, wait_until="load")
    if not response.ok:
        sys.exit(f"{name} answers {response.status}: run make docs first")
    page.wait_for_function(ALIVE)
    cost = page.evaluate(COST)
    context.close()
    return cost


def main():
    handler = partial(Server, directory=str(ROOT / "_docs"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    path = os.environ.get("CHROMIUM") or next(filter(None, found), None)
    print(f"{'page':34} {'kB':>6} {'interactive':>12} {'figures drawn':>14}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        for name in PAGES:
            visits = [visit(browser, address, name) for _ in range(5)]
            size, interactive, drawn = map(statistics.median, zip(*visits))
            alive = f"{drawn:.0f} ms" if drawn else ""
            print(f"{name:34} {size:6.0f} {interactive:9.0f} ms {alive:>14}")
    server.shutdown()


if __name__ == "__main__":
    main()
