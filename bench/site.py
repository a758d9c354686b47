"""What a page of the docs site costs: bytes on the wire (gzip, as a host of static pages sends it), milliseconds to interactive
and to the first drawing of its live figures, on localhost. Medians of five fresh visits.
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
from test_site import PAGES, _Server  # noqa: E402


def main():
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Server, directory=str(ROOT / "_docs"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = os.environ.get("CHROMIUM") or next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
        ),
        None,
    )
    print(f"{'page':34} {'kB':>6} {'interactive':>12} {'figures drawn':>14}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        for name in PAGES:
            visits = []
            for _ in range(5):
                context = browser.new_context()
                page = context.new_page()
                response = page.goto(
                    f"http://127.0.0.1:{server.server_port}/{name}", wait_until="load"
                )
                if not response.ok:
                    sys.exit(f"{name} answers {response.status}: run make docs first")
                page.wait_for_function(
                    "document.querySelectorAll('.live-figure').length === document.querySelectorAll('.live-figure[data-drawn]').length"
                )
                visits.append(
                    page.evaluate("""() => { const entries = performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'));
                    return [entries.reduce((sum, entry) => sum + entry.encodedBodySize, 0) / 1000, performance.getEntriesByType('navigation')[0].domInteractive,
                            Math.max(0, ...[...document.querySelectorAll('.live-figure')].map(el => +el.dataset.drawn))]; }""")
                )
                context.close()
            size, interactive, drawn = (
                statistics.median(values) for values in zip(*visits)
            )
            print(
                f"{name:34} {size:6.0f} {interactive:9.0f} ms {f'{drawn:.0f} ms' if drawn else '':>14}"
            )
    server.shutdown()


if __name__ == "__main__":
    main()
