import http.server
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="module")
def browser():
    "A real Chromium, headless: $CHROMIUM, the system's, or Playwright's own (see tools/browser.sh)."
    from playwright.sync_api import (
        sync_playwright,
    )  # after the path is set; the sync interface is per module

    path = os.environ.get("CHROMIUM") or next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
        ),
        None,
    )
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site, built once for all test workers."
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent  # of this run; alone, it would be that of all runs
    with FileLock(common / "site.lock"):
        if not (common / "site.built").exists():
            subprocess.run(
                [sys.executable, ROOT / "tools" / "docs.py"], check=True, cwd=ROOT
            )
            (common / "site.built").touch()
    return ROOT / "_docs"


@pytest.fixture(scope="module")
def address(site):
    "The site's address, from a server of its own."
    from browsing import Server

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Server, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
