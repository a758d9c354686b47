"""The docs site in a real browser, over http and from file://: complete,
self-contained, legible, the lesson first, and alive.

Another session of the same machine may be busy, so times are given room; the bars
themselves are printed by bench/site.py."""

import re
from urllib.parse import urljoin

import pytest

pytest.importorskip("smalldocs", reason="the docs builder needs Python 3.11")
import docs
import nbformat
import notebooks
import site_links
from browsing import LIVE, NOTEBOOK_OF, PAGES, ROOT, Visit

LESSONS = ("start/", "concepts/", "build/", "limits/", "beyond/")
# Pages that one opens to read code: nothing else is on them.
OF_CODE = ("inside/", "practice/gradients_by_hand")


# From a file all pages are of one make; those with live figures: tests/test_live.py.
ADDRESSES = [("http", page) for page in PAGES] + [("file", page) for page in PAGES[::8]]


@pytest.mark.parametrize("scheme, page", ADDRESSES)
def test_page_is_complete(scheme, page, browser, site, address):
    "Formulas rendered, nothing from elsewhere, no error, no wider than a phone; light."
    url = address + page if scheme == "http" else (site / page).as_uri()
    with Visit(browser, url, viewport={"width": 375, "height": 800}) as visit:
        visit.page.wait_for_function(
            "document.querySelectorAll('.math:not(:has(.katex))').length === 0"
        )
        assert visit.page.locator(".katex-error").count() == 0
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 375
        live = visit.page.locator(".live-figure").count()
        visit.page.wait_for_function(
            "n => document.querySelectorAll('.live-figure[data-drawn]').length === n",
            arg=live,
        )
        if scheme == "http":
            sizes = visit.page.evaluate(
                """['resource', 'navigation']
                .flatMap(type => performance.getEntriesByType(type))
                .map(entry => entry.encodedBodySize)"""
            )
            assert 50_000 < sum(sizes) < 1_500_000
        assert visit.problems == []


LEGIBLE = """() => {
  const channel = value =>
    (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) =>
    0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const background = node => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0.5) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll(`main p, main li, main h2, main td,
      main pre, main pre span, main summary, main figcaption, .katex, .live td,
      .sidebar-item-text, #TOC a, .show-all-code label`)) {
    if (!node.textContent.trim() || !node.getClientRects().length) continue;
    const [a, b] = [parse(getComputedStyle(node).color), background(node)]
      .map(luminance).sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), text = node.textContent.trim();
    if (ratio < 4.5)
      poor.push(`${node.tagName} ${ratio.toFixed(2)} ${text.slice(0, 30)}`);
  }
  return poor; }"""


@pytest.mark.parametrize(
    "page",
    [
        "index.html",
        "concepts/elbo.html",
        "build/latent_space.html",
        LIVE,
        "reference.html",
    ],
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(page, scheme, browser, address):
    with Visit(
        browser,
        address + page,
        viewport={"width": 1300, "height": 900},
        color_scheme=scheme,
    ) as visit:
        darkness = visit.page.evaluate(
            """getComputedStyle(document.body).backgroundColor.match(/\\d+/g)
            .slice(0, 3).reduce((a, b) => a + +b, 0)"""
        )
        assert (darkness < 200) == (scheme == "dark")
        assert visit.page.evaluate(LEGIBLE) == []


def test_links_anchors_and_files(site):
    assert docs.complaints(site) == []


def test_site_has_what_readers_expect(browser, site, address):
    "Search, theme switch, copy buttons, arrows, links to the notebook, llms.txt."
    with Visit(
        browser,
        address + "build/training.html",
        viewport={"width": 1300, "height": 900},
    ) as visit:
        page = visit.page
        assert page.locator(".nav-page-previous a").get_attribute("href").endswith(
            "vae.html"
        ) and page.locator(".nav-page-next a").get_attribute("href").endswith(
            "evaluation.html"
        )
        source = page.locator("a:has-text('View source')")
        if site_links.has_repository(docs.get_config(path=ROOT)):
            address = source.get_attribute("href")
            assert address.endswith("/nbs/build/13_training.ipynb")
        else:
            assert source.count() == 0
        assert (
            page.locator("a:has-text('Download notebook')").get_attribute("href")
            == "../build/13_training.ipynb"
        )
        assert page.locator("button.code-copy-button").count() > 10
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click(".quarto-color-scheme-toggle >> visible=true")
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        )
        page.fill(
            "input[type=search], #quarto-search input, .search-input", "importance"
        )
        page.wait_for_selector("a[href*='importance_weighting.html'] >> visible=true")
        assert visit.problems == []
    assert "elbo.llms.md" in (site / "llms.txt").read_text()


NEXT = re.compile(r'nav-page-next"><a href="([^"]+)"')


def test_reading_order_is_the_route(browser, address, site):
    "Following `next` from the first page visits every page once, in the route's order."
    seen = ["index.html"]
    while after := NEXT.search((site / seen[-1]).read_text()):
        seen.append(urljoin("/" + seen[-1], after[1]).removeprefix("/"))
        assert len(seen) <= len(PAGES)
    assert seen == PAGES
    with Visit(browser, address + seen[0]) as visit:
        visit.page.locator(".nav-page-next a").first.click()
        visit.page.wait_for_url(address + seen[1])


# ---- the lesson first

CODE = "main pre:not(.cell-output pre)"
LOOK = """code => {
  // what a closed fold holds still has rectangles
  const seen = node =>
    node.getClientRects().length > 0 && !node.closest('details:not([open])');
  const box = node => node.getBoundingClientRect();
  const blocks = [...document.querySelectorAll(code)].filter(seen);
  const onScreen = node => seen(node) && box(node).top < innerHeight - 50;
  const first = selector => [...document.querySelectorAll(selector)].filter(onScreen);
  const height = nodes => nodes.reduce((sum, node) => sum + box(node).height, 0);
  return {
    share: height(blocks) / box(document.querySelector('main')).height,
    sentences: first('main section p, main > p, main .cell ~ p').length,
    shown: first('main .katex-display, main img, main canvas, main .live-figure')
      .length,
    plumbing: blocks.filter(onScreen).map(node => node.innerText)
      .filter(text => /^(import|from) |^ *assert|\\b(os|json|tempfile)\\./m.test(text)),
  }; }"""
CUT_OFF = """code => {
  document.querySelectorAll('details').forEach(fold => { fold.open = true; });
  return [...document.querySelectorAll(code)]
    .filter(node => node.scrollWidth > node.clientWidth + 1)
    .map(node => node.innerText.split('\\n').sort((a, b) => b.length - a.length)[0]);
}"""


def faults(visit, page):
    "What of a page hides the lesson."
    visit.page.set_viewport_size({"width": 1366, "height": 900})
    visit.page.wait_for_function(
        "document.querySelectorAll('.math:not(:has(.katex))').length === 0"
    )
    look = visit.page.evaluate(LOOK, CODE)
    if look["share"] > 0.4 and not page.startswith(OF_CODE):
        yield f"{look['share']:.0%} of the height is open code"
    if page.startswith(LESSONS):
        if not look["sentences"]:
            yield "no sentence on the first screen"
        if not look["shown"]:
            yield "neither picture nor formula on the first screen"
        if look["plumbing"]:
            yield f"plumbing on the first screen: {look['plumbing'][0][:80]}"
    for width in (1366, 1100):
        visit.page.set_viewport_size({"width": width, "height": 900})
        for line in visit.page.evaluate(CUT_OFF, CODE):
            yield f"code cut off at {width} px, {len(line)} columns: {line[:60]}"


def folded(visit, page):
    "Each check is closed under its line, which stands nowhere else; figures are open."
    notebook = nbformat.read(notebooks.NBS / NOTEBOOK_OF[page], as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lines = [
        re.sub(r"\W+", " ", cell.outputs[0].text).strip()
        for cell in cells
        if notebooks.kind(cell) == "check"
    ]
    captions = [caption for cell in cells if (caption := docs.option(cell, "fig-cap"))]
    checks = visit.page.locator("main details.check:not([open])")
    shown = [
        re.sub(r"\W+", " ", text).strip()
        for text in checks.locator("summary").all_inner_texts()
    ]
    assert shown == lines
    assert visit.page.locator("main .cell-output:has-text('Checked:')").count() == 0
    figures = visit.page.locator("main .cell-output figure.figure:has(figcaption)")
    numbers = figures.locator("figcaption strong").all_inner_texts()
    assert numbers == [f"Figure {n}." for n in range(1, len(captions) + 1)]
    assert figures.locator("img, .live-figure").count() == len(captions)
    helpers = sum(notebooks.kind(cell) == "helper" for cell in cells)
    assert visit.page.locator("main details.helper").count() == helpers
    assert visit.page.locator("main details[open]").count() == 0


@pytest.mark.parametrize("page", PAGES)
def test_the_lesson_comes_first(page, browser, address):
    with Visit(browser, address + page) as visit:
        folded(visit, page)
        found = list(faults(visit, page))
    assert not found, "\n".join(["", *found])


def test_switch_shows_all_code_and_is_remembered(browser, address):
    opened = "details.code-fold:not(.solution)[open]"
    with Visit(
        browser,
        address + "concepts/elbo.html",
        viewport={"width": 1366, "height": 900},
    ) as visit:
        page = visit.page
        folds = page.locator("details.code-fold:not(.solution)").count()
        assert folds > 2 and page.locator(opened).count() == 0
        page.get_by_label("Show all code").check()
        assert page.locator(opened).count() == folds
        page.goto(address + "concepts/reparameterization.html")
        page.wait_for_selector(opened)
        assert page.get_by_label("Show all code").is_checked()
        assert page.locator("details.solution").count() == 3
        assert page.locator("details.solution[open]").count() == 0
        page.get_by_label("Show all code").uncheck()
        page.reload()
        page.wait_for_selector(".show-all-code")
        assert page.locator(opened).count() == 0
        assert visit.problems == []


def test_figures_are_as_wide_as_the_column(browser, address):
    "A landscape figure of five inches or more fills the column, and none leaves it."
    with Visit(
        browser,
        address + "concepts/reparameterization.html",
        viewport={"width": 1366, "height": 900},
    ) as visit:
        wide = "document.querySelector('main').clientWidth"
        column = visit.page.evaluate(wide)
        widths = visit.page.evaluate(
            "[...document.querySelectorAll('.cell-output figure.figure img')]"
            ".map(image => image.clientWidth)"
        )
    assert widths and all(0.95 * column <= width <= column for width in widths)


def test_no_signature_stands_twice(site):
    "Above an exported definition that is shown there is an anchor, and no box."
    page = (site / "build" / "networks.html").read_text()
    assert page.count('def</span> <span class="fu">mlp') == 1
    assert page.count('id="mlp"') == 1


def test_every_exported_name_is_in_the_reference(site):
    page = (site / "reference.html").read_text()
    for module in sorted(
        path.stem
        for path in (ROOT / "vae_tutorial").glob("*.py")
        if not path.stem.startswith("_") and path.stem not in ("cli", "entrance")
    ):
        names = __import__(f"vae_tutorial.{module}", fromlist=["__all__"]).__all__
        assert [
            name
            for name in names
            if f'id="{name.lower()}"' not in page
            and f"<code>{name}</code>" not in page
            and f">{name}</a>" not in page
        ] == []
