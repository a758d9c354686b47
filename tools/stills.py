"""Take a still of each live figure, for JupyterLab before a kernel runs: from the site
in _docs (make docs first) to nbs/vendor/stills. Then run tools/notebooks.py form.
python tools/stills.py"""

import io
import os
import shutil

from notebooks import ROOT, STILLS
from PIL import Image
from playwright.sync_api import sync_playwright

PAGE = ROOT / "_docs" / "inside" / "live_figures.html"
WIDTH = 780  # as wide as the site's column


def main():
    STILLS.mkdir(exist_ok=True)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        page.emulate_media(reduced_motion="reduce")  # the pipeline holds still
        page.goto(PAGE.as_uri())
        page.wait_for_function("window.liveFigures")
        page.wait_for_timeout(2000)
        for figure in page.locator(".live-figure").all():
            figure.evaluate(f"node => {{ node.style.width = '{WIDTH}px'; }}")
            figure.evaluate("node => node.model.set('frame', 39)")  # the film's end
            figure.scroll_into_view_if_needed()
            page.wait_for_timeout(500)  # the exact posterior takes a while
            still = STILLS / f"{figure.get_attribute('data-figure')}.webp"
            Image.open(io.BytesIO(figure.screenshot())).save(still, quality=60)
            print(still.relative_to(ROOT), f"{still.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
