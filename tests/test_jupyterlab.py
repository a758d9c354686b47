"""The pages' form, the live figures and the training panel in a real JupyterLab, driven
by a real browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import notebooks
import pytest
from jupyter_client import BlockingKernelClient
from playwright.sync_api import TimeoutError


PAGE = [
    ("imports", "import matplotlib.pyplot as plt\nimport torch"),
    ("imports", "from vae_tutorial.plots import use_style"),
    ("imports", "use_style()\ntorch.manual_seed(0);"),
    ("lesson", "two = 1 + 1\ntwo"),
    ("check", "assert two == 2\nprint('Checked: one and one are', two)"),
    ("picture", '#| fig-alt: "A line."\nplt.plot([1, 2]);'),
    ("solution", '#| code-fold: true\n#| code-summary: "Solution 1"\nprint(42)'),
]
FIGURES = ["Pipeline", "LatentExplorer", "DigitPad", "TrainingFilm", "BetaSlider"]
FIGURES += ["KLSliders", "ReparameterizationSliders"]
PANEL = """data = load_mnist()
labels = data.validation.labels[:1000]
watched = data.train.images[:4000], data.validation.images[:1000]
panel = TrainingPanel(*watched, labels=labels)
panel.epochs.value = 1
panel.start()
panel.wait()
panel"""


def write_page(path):
    "A page with a cell of every kind, as tools/notebooks.py stores it."
    cells = [
        nbformat.v4.new_code_cell(source, id=f"c{n}")
        for n, (_, source) in enumerate(PAGE)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    notebook = notebooks.run(path)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    notebooks.tidy_outputs(notebook)
    notebooks.hide_sources(notebook)
    nbformat.write(notebook, path)


def write_figures(path):
    "A page with every live figure, each under a name, and a panel that has trained."
    imports = (
        "from vae_tutorial.data import load_mnist\nfrom vae_tutorial.widgets import *"
    )
    sources = [f"{name.lower()} = {name}()\n{name.lower()}" for name in FIGURES]
    cells = [nbformat.v4.new_code_cell(text) for text in [imports, *sources, PANEL]]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A running JupyterLab over a copy of the notebooks; its address, and the folder
    where it keeps the kernels' connection files."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(notebooks.NBS, folder / "nbs")
    write_page(folder / "nbs" / "page.ipynb")
    write_figures(folder / "nbs" / "figures.ipynb")
    environment = os.environ | {
        "JUPYTER_DATA_DIR": str(folder / "data"),  # where it keeps what it trusts
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "OMP_NUM_THREADS": "1",
    }
    log = (folder / "lab.log").open("w+")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--ip=127.0.0.1",
            "--port=0",
            "--allow-root",
            "--ServerApp.port_retries=50",
            f"--config={notebooks.ROOT / 'tools' / 'jupyter_lab.py'}",
        ],
        cwd=folder / "nbs",
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    for _ in range(600):
        if found := re.search(
            r"(http://127\.0\.0\.1:\d+)/lab\?token=(\w+)",
            (folder / "lab.log").read_text(),
        ):
            break
        assert process.poll() is None, (folder / "lab.log").read_text()
        time.sleep(0.1)
    yield found[1], found[2], folder / "runtime"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def ours(error):
    """Whether an error on the page has passed through a widget's module (a blob) or any
    other script that JupyterLab and its extensions do not ship."""
    return "blob:" in (error.stack or "") or not any(
        place in (error.stack or "") for place in ("/static/lab/", "/lab/extensions/")
    )


def answer_dialog(dialog):
    """JupyterLab on a slow machine may ask something first (which kernel, say): press
    its last button, the default, and leave its text in the test's output."""
    print("JupyterLab asked:", dialog.first.inner_text())
    dialog.first.locator(".jp-Dialog-footer button").last.click()


# JupyterLab calls a notebook idle before it has asked for a kernel; cells that are run
# then make it ask which one
READY = """document.querySelector(
  '.jp-Notebook-ExecutionIndicator[data-status=idle]'
) && /Python/.test(document.querySelector('.jp-Toolbar-kernelName')?.innerText)"""
KERNEL = "/Python/.test(document.querySelector('.jp-Toolbar-kernelName')?.innerText)"
FAULTS = (
    "[data-mime-type='application/vnd.jupyter.error'], "
    "[data-mime-type='application/vnd.jupyter.stderr']"
)


def run_all(page, address, token, notebook):
    """Open a notebook, run every cell from the menu, wait until the last has run;
    return a list that gathers the page's errors. A menu that opens while JupyterLab
    still starts may swallow the click: load again."""
    problems = []
    page.on("pageerror", lambda error: ours(error) and problems.append(error.stack))
    page.add_locator_handler(page.locator("dialog.jp-Dialog"), answer_dialog)
    for attempt in range(4):
        page.goto(f"{address}/lab/tree/{notebook}?token={token}&reset")
        problems.clear()  # a page that was given up says nothing about this one
        try:
            page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
            page.wait_for_function(READY, timeout=60_000)
            page.click(".lm-MenuBar-itemLabel:has-text('Run')", timeout=20_000)
            page.click(
                ".lm-Menu-item:has-text('Run All Cells') >> nth=0", timeout=20_000
            )
            page.wait_for_selector(
                ".jp-Notebook-ExecutionIndicator[data-status=busy]", timeout=15_000
            )
        except TimeoutError as error:
            print(f"attempt {attempt + 1}: {error}")
            continue
        break
    else:
        pytest.fail("JupyterLab did not run the notebook")
    page.wait_for_selector(
        ".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=300_000
    )
    return problems


def ask(runtime, code):
    "Evaluate code in the notebook's kernel, beside the browser."
    connection = max(
        runtime.glob("kernel-*.json"), key=lambda path: path.stat().st_mtime
    )
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels()
    try:
        reply = client.execute(
            "",
            user_expressions={"answer": f"__import__('json').dumps({code})"},
            reply=True,
            timeout=60,
        )
        return json.loads(
            eval(reply["content"]["user_expressions"]["answer"]["data"]["text/plain"])
        )
    finally:
        client.stop_channels()


def scroll_to(page, selector):
    """JupyterLab draws only the cells near the window: walk down the notebook until the
    selector is there."""
    scroller = page.locator(".jp-WindowedPanel-outer").first
    for position in range(0, 60_000, 400):
        if page.locator(selector).count():
            break
        scroller.evaluate("(node, top) => { node.scrollTop = top; }", position)
        page.wait_for_timeout(120)
    target = page.locator(selector).first
    target.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    return target


def says(pattern):
    "JavaScript: whether a widget shows a text like this."
    return f"""[...document.querySelectorAll('.jupyter-widgets')]
        .some(node => /{pattern}/.test(node.innerText))"""


CELLS = """() => {
  const seen = node => !!node && node.getClientRects().length > 0;
  return [...document.querySelectorAll('.jp-CodeCell')].map(cell => ({
    source: seen(cell.querySelector('.jp-InputArea-editor')),
    output: [...cell.querySelectorAll('.jp-OutputArea-output')].filter(seen)
      .map(node => node.innerText.trim()).join(),
    picture: cell.querySelector('img[src^="data:image/png"]')?.clientWidth,
  })); }"""


def test_first_opening_shows_the_lesson(browser, lab):
    "Before anything is run: lessons open, the rest hidden, verdicts and figures seen."
    address, token, _ = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(f"{address}/lab/tree/page.ipynb?token={token}&reset")
    page.wait_for_selector(".jp-CodeCell img", timeout=60_000)
    page.wait_for_timeout(1000)
    cells = page.evaluate(CELLS)
    kinds = [kind for kind, _ in PAGE]
    assert [cell["source"] for cell in cells] == [kind == "lesson" for kind in kinds]
    shown = dict(zip(kinds, cells))
    assert shown["lesson"]["output"] == "2"
    assert shown["check"]["output"] == "Checked: one and one are 2"
    assert shown["solution"]["output"] == ""
    assert shown["picture"]["picture"] > 400
    page.close()


def test_figures_and_panel_in_jupyterlab(browser, lab):
    address, token, runtime = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    assets = {
        path: path.read_bytes()
        for path in sorted((notebooks.ROOT / "vae_tutorial" / "assets").iterdir())
    }
    assert run_all(page, address, token, "inside/74_behind_the_figures.ipynb") == []
    assert page.locator(FAULTS).count() == 0
    problems = run_all(page, address, token, "inside/86_live_figures.ipynb")
    assert page.locator(FAULTS).count() == 0

    start = scroll_to(page, "button:has-text('Start')")
    ask(runtime, "setattr(panel.epochs, 'value', 20)")
    start.click()
    page.wait_for_function(
        says(r"epoch \d+, step \d+: ELBO"),
        timeout=60_000,
    )
    began = time.monotonic()
    assert (
        ask(runtime, "6 * 7") == 42 and time.monotonic() - began < 10
    )  # the kernel is free while it trains
    first = ask(runtime, "[len(panel.history), len(panel.picture.value)]")
    page.wait_for_timeout(2500)
    later = ask(runtime, "[len(panel.history), len(panel.picture.value)]")
    assert later[0] > first[0] and later[1] > 10_000
    page.click("button:has-text('Stop')")
    page.wait_for_function(
        says("stopped at epoch"),
        timeout=60_000,
    )
    ask(runtime, "panel.wait()")
    assert (
        ask(runtime, "panel.thread.is_alive()") is False
        and ask(runtime, "panel.vae.training") is False
    )
    image = page.locator(".jupyter-widgets img.widget-image").first
    assert image.evaluate("node => node.naturalWidth") > 500
    assert problems == []
    assert all(path.read_bytes() == content for path, content in assets.items()), (
        "running all cells wrote into the package: slow cells must be left alone"
    )
    page.close()


OUTPUTS = """() => ({
  pictures: [...document.querySelectorAll('.jp-OutputArea-output img')]
    .filter(image => image.naturalWidth > 0).length,
  text: [...document.querySelectorAll('.jp-OutputArea-output')]
    .map(node => node.textContent).join('\\n'),
  hidden: [...document.querySelectorAll('.jp-PlaceholderText')]
    .map(node => node.textContent),
})"""


@pytest.mark.parametrize(
    "name", ["index", "start/00_first_vae", "inside/86_live_figures"]
)
def test_page_opens_with_its_outputs_and_saves_unchanged(name, browser, lab):
    "Before a cell is run, in a notebook that is not trusted; then Ctrl-S."
    address, token, runtime = lab
    path = runtime.parent / "nbs" / f"{name}.ipynb"
    before, was = path.read_bytes(), path.stat().st_mtime_ns
    cells = nbformat.reads(before.decode(), as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [
        output
        for output in outputs
        if "image/png" in output.get("data", {})
        or "vendor/stills" in output.get("data", {}).get("text/html", "")
    ]
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(f"{address}/lab/tree/{name}.ipynb?token={token}&reset")
    page.wait_for_function(f"({OUTPUTS})().pictures === {len(pictures)}")
    texts = [output.get("text", "").strip() for output in outputs]
    page.wait_for_function(
        f"texts => texts.every(text => ({OUTPUTS})().text.includes(text))", arg=texts
    )
    seen = page.evaluate(OUTPUTS)
    assert "<Figure size" not in seen["text"]
    assert not [line for line in seen["hidden"] if line.startswith("#|")]
    page.wait_for_function(KERNEL)  # JupyterLab has now added what it knows of it
    page.locator(".jp-Notebook").press("Control+s")
    deadline = time.monotonic() + 20
    while path.stat().st_mtime_ns == was and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert path.stat().st_mtime_ns != was, "it was not saved"
    page.wait_for_timeout(300)
    assert path.read_bytes() == before
    page.close()


def top_of(page, heading):
    "Where a heading stands in the notebook's panel, in pixels from its top."
    return page.evaluate(
        """heading => {
          const found = [...document.querySelectorAll('.jp-RenderedMarkdown h2')]
            .find(node => node.textContent.startsWith(heading)
              && node.getClientRects().length);
          const panel = found?.closest('.jp-WindowedPanel-outer');
          return panel ? found.getBoundingClientRect().top
            - panel.getBoundingClientRect().top : 1e6; }""",
        heading,
    )


@pytest.mark.parametrize(
    "name, link, heading",
    [
        ("practice/64_questions", "04_reparam", "Why the log variance?"),
        ("index", "#cell-id=sources", "Sources"),
    ],
)
def test_link_reaches_its_section(name, link, heading, browser, lab):
    "In another notebook, opened by the click, and in the same one."
    address, token, _ = lab
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(f"{address}/lab/tree/{name}.ipynb?token={token}&reset")
    target = page.locator(f".jp-RenderedMarkdown a[href*='{link}']").first
    target.wait_for(timeout=60_000)
    page.wait_for_function(KERNEL)
    assert not 0 <= top_of(page, heading) < 500
    target.click()
    for _ in range(100):
        page.wait_for_timeout(100)
        if 0 <= top_of(page, heading) < 500:
            break
    page.wait_for_timeout(1000)  # pictures above it may still move it
    assert 0 <= top_of(page, heading) < 500
    page.close()


SIZES = """() => [...document.querySelectorAll('.live, .widget-vbox')]
  .map(node => node.closest('.jp-OutputArea-output'))
  .map(node => [node.scrollHeight, node.scrollWidth - node.clientWidth])"""


def test_every_figure_in_jupyterlab(browser, lab):
    "Their sizes, what reaches the kernel and what comes from it."
    address, token, runtime = lab
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    sent, said = [], []
    page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    page.on(
        "websocket",
        lambda socket: socket.on("framesent", lambda message: sent.append(message)),
    )
    problems = run_all(page, address, token, "figures.ipynb")
    page.wait_for_function("document.querySelectorAll('.live').length === 7")
    page.wait_for_timeout(1500)
    sizes = page.evaluate(SIZES)
    assert len(sizes) == 8  # of 647 pixels that the notebook has
    assert all(height <= 600 and wider <= 0 for height, wider in sizes), sizes

    before = len(sent)
    pad = scroll_to(page, ".live-flow .live-plane canvas")
    here = page.locator(".live-flow .live-knob").bounding_box()
    page.wait_for_timeout(1500)
    assert page.locator(".live-flow .live-knob").bounding_box() != here
    assert len(sent) == before  # the point wanders without the kernel
    box = pad.bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    page.wait_for_timeout(500)
    z = ask(runtime, "pipeline.z")
    assert z[0] > 1 and z[1] > 1
    page.locator(".live-flow .live-knob").press("ArrowRight")
    page.wait_for_timeout(500)
    assert ask(runtime, "pipeline.z")[0] == pytest.approx(z[0] + 0.1)
    ask(runtime, "setattr(pipeline, 'z', [0.0, 0.0])")
    page.wait_for_function(
        """parseFloat(document.querySelector('.live-flow .live-knob').style.left)
          === 50"""
    )

    scroll_to(page, "button:has-text('20 dimensions')").click()
    page.wait_for_function("document.querySelector('.live-draw .wide').offsetHeight")
    page.wait_for_function(
        "document.querySelector('.live-draw table').innerText.includes('≥')"
    )
    for name in ("mean", "log variance"):
        for whose in "qp":
            slider = page.get_by_role("slider", name=f"{name} of {whose}", exact=False)
            assert slider.count() == 1
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_timeout(500)
    assert ask(runtime, "klsliders.log_variance_of_p") == pytest.approx(0.05)
    ask(runtime, "setattr(klsliders, 'mean_of_q', 2.0)")
    mean = page.get_by_role("slider", name="mean of q")
    page.wait_for_function("node => node.value === '2'", arg=mean.element_handle())

    picture = "__import__('vae_tutorial._live', fromlist=['_'])._progress(panel)"
    titles = ask(runtime, f"[axes.get_title() for axes in {picture}.axes]")
    assert any(title.startswith("codes of") for title in titles)
    colors = "{tuple(c) for a in %s.axes for s in a.collections for c in s.get_fc()}"
    assert len(ask(runtime, f"list({colors % picture})")) == 10  # one for each digit

    page.set_viewport_size({"width": 800, "height": 768})
    page.wait_for_timeout(1000)
    assert all(wider <= 0 for _, wider in page.evaluate(SIZES))
    assert problems == [] and said == []
    page.close()
