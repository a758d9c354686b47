"""The doors of the docs site in a real browser: search, links, glossary, references,
keyboard, paper, and what a screen reader meets."""

# ruff: noqa: F811 (fixtures of another module)
import http.server
import io
import re
import threading
from functools import partial
from types import SimpleNamespace

import docs
import downloads
import nbformat
import pytest
import site_head
import site_links
from nbclient import NotebookClient
from PIL import Image
from browsing import NOTEBOOK_OF, PAGES, ROOT, Server, Visit

WIDE = {"width": 1366, "height": 900}
PHONE = {"width": 375, "height": 800}
BOX = "#site-search input"

# What visitors type, and where the answer stands.
SOUGHT = {
    "nan loss": "practice/questions.html#the-loss-is-nan",
    "posterior collapse": "limits/collapse.html",
    "sum or mean": "beyond/reductions.html",
    "own images": "practice/your_own_images.html",
    "how to use my own images": "practice/your_own_images.html",
    "reparameterization trick": "concepts/reparameterization.html",
    "importance weighting": "concepts/importance_weighting.html",
    "resume training": "practice/questions.html#how-do-i-sample-load-resume",
    "why log variance": "concepts/reparameterization.html#why-the-log-variance",
    "MNIST does not download": "practice/questions.html#mnist-does-not-download",
    "kl divergence of two gaussians": "concepts/distributions.html"
    "#how-far-apart-are-two-distributions",
    "blury samples": "limits/samples.html",  # as typed
    "active units": "glossary.html#active-unit",
    "elbo": "concepts/elbo.html",
    "out of distribution": "limits/strangers.html",
}


@pytest.fixture(scope="module", params=["http", "file"])
def found(request, browser, site, address):
    "A page where one can search, over http and from the disk."
    home = address if request.param == "http" else site.as_uri() + "/"
    with Visit(browser, home + "build/training.html", viewport=WIDE) as visit:
        yield SimpleNamespace(visit=visit, page=visit.page, home=home)
        assert visit.problems == []


@pytest.mark.parametrize("typed", SOUGHT)
def test_search_finds_the_answer_first(typed, found):
    found.page.fill(BOX, typed)
    first = found.page.locator("#site-search-results a").first
    expected = "../" + SOUGHT[typed]
    found.page.wait_for_function(
        "href => document.querySelector('#site-search-results a')"
        "?.getAttribute('href') === href",
        arg=expected,
        timeout=5000,
    )
    assert first.locator("mark").count() or first.inner_text()


def test_search_by_keyboard_and_to_the_section(browser, site):
    "Slash, a phrase, arrows and Enter lead to a section, on a phone as well."
    start = (site / "index.html").as_uri()
    with Visit(browser, start, viewport=PHONE) as visit:
        page, box = visit.page, visit.page.locator(BOX)
        page.keyboard.press("/")
        page.keyboard.type("nan loss")
        page.wait_for_selector("#site-search-results a")
        assert box.get_attribute("aria-expanded") == "true"
        assert re.search(r"\d+ sections found", page.inner_text("[role=status]"))
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert box.get_attribute("aria-activedescendant") == "site-search-1"
        page.keyboard.press("ArrowUp")
        edges = page.locator("#site-search-results").bounding_box()
        assert edges["x"] >= 0 and edges["x"] + edges["width"] <= 375
        page.keyboard.press("Escape")
        assert not page.locator("#site-search-results").is_visible()
        page.keyboard.press("Enter")
        page.wait_for_url("**/practice/questions.html#the-loss-is-nan")
        page.wait_for_function(
            """(() => {
              const heading = document.querySelector('#the-loss-is-nan h2');
              const top = heading.getBoundingClientRect().top;
              return top > 0 && top < 400;
            })()""",
            timeout=5000,
        )
        page.keyboard.press("Control+k")
        assert page.evaluate("document.activeElement.getAttribute('role')") == (
            "combobox"
        )
        page.keyboard.type("qqqqxxzz")
        page.wait_for_selector("#site-search-results :text('Nothing found')")
        assert visit.problems == []


def test_no_page_loads_the_index_unasked(site):
    for page in PAGES:
        assert "search-index.js" not in (site / page).read_text(encoding="utf-8")
    assert (site / "search-index.js").stat().st_size < 500_000


# ---- links


def a_config(user):
    return SimpleNamespace(
        git_url=f"https://github.com/{user}/vae_tutorial",
        doc_host=f"https://{user}.github.io",
        branch="main",
    )


def test_no_link_leads_to_a_placeholder(site):
    config = docs.get_config(path=ROOT)
    for page in [*PAGES, "contributing.html"]:
        html = (site / page).read_text(encoding="utf-8")
        assert "#LNone" not in html, page
        for link in re.findall(r'(?:href|src|content)="([^"]*)"', html):
            if not site_links.has_repository(config):
                assert not link.startswith("https://github.com/example"), page
            if not site_links.has_address(config):
                assert not link.startswith("https://example.github.io"), page


def test_with_a_real_address_all_links_are_there():
    settings = {
        "website": {
            "navbar": {"right": [{"text": "Source", "href": "old"}]},
            "repo-url": "https://github.com/someone/vae_tutorial",
            "repo-actions": ["source"],
            "site-url": "https://someone.github.io/vae_tutorial",
        }
    }
    real = site_links.with_real_addresses(settings, a_config("someone"))["website"]
    assert real["navbar"]["right"][0]["href"] == (
        "https://github.com/someone/vae_tutorial"
    )
    assert {"repo-url", "repo-actions", "site-url"} <= real.keys()
    left = site_links.with_real_addresses(settings, a_config("example"))["website"]
    assert left == {"navbar": {"right": []}}


@pytest.mark.parametrize("user", ["someone", "example"])
def test_links_to_the_source_end_in_a_line(user):
    config = a_config(user)
    start = f"{config.git_url}/blob/main/vae_tutorial/objectives.py"
    shown = f'---\n\n[source]({start}#LNone){{target="_blank"}}\n\n### elbo\n\n> text'
    text = site_links.with_lines(shown, config, ROOT)
    if user == "example":
        assert "source" not in text and "### elbo" in text
        return
    line = int(re.search(r"objectives\.py#L(\d+)\)", text)[1])
    source = (ROOT / "vae_tutorial" / "objectives.py").read_text().splitlines()
    assert source[line - 1].startswith("def elbo(")


def test_the_post_is_introduced_on_every_page_that_names_it(site):
    "Its first mention leads to what it is."
    named = 0
    for page in PAGES:
        html = (site / page).read_text(encoding="utf-8")
        code = r"<pre.*?</pre>|<code.*?</code>|<title>.*?</title>"
        text = re.sub(code, "", html, flags=re.S)
        main = text[text.index("<main") :]
        mentions = re.findall(r"(?<!\w)[Tt]he (?:blog )?post(?![\w-])", main)
        if page != "index.html" and mentions:
            named += 1
            assert 'index.html#sources">' in main, page
    assert named > 10


def test_what_diagnose_prints_leads_to_its_page(site):
    html = (site / "limits" / "diagnosis.html").read_text(encoding="utf-8")
    printed = re.findall(r"see: (<a href=\"[^\"]+\">)?(\w+/\d\d_\w+)", html)
    assert printed and all(link for link, _ in printed)


def test_sidebar_is_the_route(site):
    html = (site / "index.html").read_text(encoding="utf-8")
    sidebar = html[html.index('id="quarto-sidebar"') : html.index("<main")]
    links = re.findall(r'<a href="([^"#]+)" class="sidebar-item-text', sidebar)
    assert links == PAGES


# ---- words and papers


def test_words_of_the_glossary_are_explained_where_they_stand(browser, site):
    "By pointing, by keyboard and by tapping; Escape hides it."
    start = (site / "concepts" / "elbo.html").as_uri()
    with Visit(browser, start, viewport=WIDE) as visit:
        page, terms = visit.page, visit.page.locator(".term")
        words = [text.lower() for text in terms.all_inner_texts()]
        assert {"prior", "likelihood", "elbo", "entropy"} <= set(words)
        assert page.locator(":is(a, code, pre, h2, .katex) .term").count() == 0
        box = page.locator(".term-box >> visible=true")
        prior = terms.nth(words.index("prior"))
        prior.hover()
        box.wait_for()
        assert "before anything is seen" in box.inner_text()
        box.hover()  # the pointer may go there
        page.wait_for_timeout(400)
        assert box.count() == 1
        page.keyboard.press("Escape")
        assert box.count() == 0
        prior.focus()
        assert box.count() == 1 and prior.get_attribute("aria-expanded") == "true"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('.term-box') !== null")
        page.keyboard.press("Escape")
        assert box.count() == 0
        page.keyboard.press("Enter")
        box.get_by_role("link", name="Glossary").click()
        page.wait_for_url("**/glossary.html#prior")
        assert "p(z)" in page.locator("tr:has(#prior)").inner_text()
        assert visit.problems == []


def test_words_can_be_tapped_on_a_phone(browser, address):
    with Visit(
        browser, address + "build/vae.html", viewport=PHONE, has_touch=True
    ) as visit:
        visit.page.locator(".term").first.tap()
        box = visit.page.locator(".term-box >> visible=true")
        edges = box.bounding_box()
        assert edges["x"] >= 0 and edges["x"] + edges["width"] <= 375
        visit.page.locator("h1").tap()
        box.wait_for(state="detached")
        assert visit.problems == []


def test_citations_lead_to_the_list_at_the_end(browser, address):
    with Visit(browser, address + "limits/strangers.html", viewport=WIDE) as visit:
        visit.page.get_by_role("link", name="Nalisnick et al. (2019)").click()
        entry = visit.page.locator("li:has(:target)")
        assert "https://arxiv.org/abs/1810.09136" in entry.inner_html()
        assert visit.problems == []


# ---- without a mouse, and with a screen reader


def test_skip_link_is_the_first_stop_and_leads_past_the_menus(browser, address):
    with Visit(browser, address + "concepts/elbo.html", viewport=WIDE) as visit:
        page, active = visit.page, "document.activeElement"
        page.keyboard.press("Tab")
        assert page.evaluate(f"{active}.textContent") == "Skip to the lesson"
        assert page.locator(".skip-link").bounding_box()["y"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate(f"{active}.id") == "quarto-document-content"
        page.keyboard.press("Tab")
        assert page.evaluate(f"{active}.closest('main') !== null")


def test_everything_that_can_be_clicked_can_be_focused_and_shows_it(browser, address):
    with Visit(browser, address + "concepts/elbo.html", viewport=WIDE) as visit:
        unreachable = visit.page.evaluate(
            """[...document.querySelectorAll(
                 '[onclick], [role=button], [data-bs-toggle], summary, button')]
               .filter(node => node.getClientRects().length && node.tabIndex < 0)
               .filter(node => node.getAttribute('aria-hidden') !== 'true')
               .map(node => node.outerHTML.slice(0, 100))"""
        )
        assert unreachable == []
        visit.page.keyboard.press("/")
        for _ in range(30):
            visit.page.keyboard.press("Tab")
            outline = visit.page.evaluate(
                """(() => {
                  const {outlineStyle, outlineWidth} =
                    getComputedStyle(document.activeElement);
                  return outlineStyle === 'solid' && parseFloat(outlineWidth) >= 2;
                })()"""
            )
            assert outline
        section = visit.page.get_by_role("button", name="Concepts")
        section.focus()
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("#quarto-sidebar-section-2", state="hidden")


@pytest.fixture(scope="module", params=["light", "dark"])
def examined(request, browser, address):
    "One tab for all pages, in a scheme; of the dark one, colours only."
    context = browser.new_context(viewport=WIDE, color_scheme=request.param)
    options = {"resultTypes": ["violations"]}
    if request.param == "dark":  # the rest is the same
        options["runOnly"] = ["color-contrast"]
    yield SimpleNamespace(page=context.new_page(), home=address, options=options)
    context.close()


def grave(examined):
    "What axe-core has against a page, but for trifles."
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    result = axe.run(examined.page, options=examined.options)
    return [
        f"{fault['id']}: {node['html'][:120]}"
        for fault in result.response["violations"]
        if fault["impact"] in ("moderate", "serious", "critical")
        for node in fault["nodes"]
    ]


# Dark colours come from one style sheet: every third page.
AXED = [("light", page) for page in [*PAGES, "contributing.html"]]
AXED += [("dark", page) for page in PAGES[::3]]


@pytest.mark.parametrize("examined, page", AXED, indirect=["examined"])
def test_axe_finds_nothing_serious(page, examined):
    examined.page.goto(examined.home + page)
    examined.page.wait_for_function(
        "document.querySelectorAll('.math:not(:has(.katex))').length === 0"
    )
    found = grave(examined)
    assert not found, "\n".join(found)


def test_axe_finds_nothing_in_what_opens(examined):
    examined.page.goto(examined.home + "concepts/elbo.html")
    examined.page.fill(BOX, "posterior collapse")
    examined.page.wait_for_selector("#site-search-results a")
    examined.page.keyboard.press("ArrowDown")
    assert grave(examined) == []
    examined.page.keyboard.press("Escape")
    examined.page.locator(".term").first.focus()
    assert examined.page.locator(".term-box >> visible=true").count() == 1
    assert grave(examined) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_goes_on_has_a_shadow_at_its_edge(scheme, browser, address):
    "On a phone: at the right edge first, after scrolling at the left one."
    with Visit(
        browser, address + "limits/diagnosis.html", viewport=PHONE, color_scheme=scheme
    ) as visit:
        table = visit.page.locator("main table").first
        table.scroll_into_view_if_needed()
        hidden = table.evaluate("node => node.scrollWidth - node.clientWidth")
        assert hidden > 50

        def shades():
            "The darkness of the left and right edge against the page, below the head."
            shot = Image.open(io.BytesIO(table.screenshot())).convert("L")
            row, paper = 2, shot.getpixel((shot.width // 2, 2))
            edges = (shot.getpixel((x, row)) for x in (1, shot.width - 3))
            return [abs(edge - paper) > 20 for edge in edges]

        assert shades() == [False, True]
        table.evaluate("node => { node.scrollLeft = node.scrollWidth; }")
        assert shades() == [True, False]


# ---- anywhere


def test_no_path_is_absolute(site):
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = file.read_text(encoding="utf-8")
        found = re.findall(
            r"""(?:href|src|content)="(/[^"]*)"|url\(["']?(/[^)]*)""", text
        )
        assert found == [], file


def test_the_site_works_under_any_path(browser, site, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(site)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Server, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/a/b/"
    for page in ("index.html", "build/latent_space.html", "limits/strangers.html"):
        with Visit(browser, home + page, viewport=WIDE) as visit:
            visit.page.fill(BOX, "nan loss")
            first = visit.page.locator("#site-search-results a").first
            first.click()
            visit.page.wait_for_url(f"{home}practice/questions.html#the-loss-is-nan")
            assert visit.problems == []
    server.shutdown()


def head_of(html):
    head = html[: html.index("</head>")]
    return dict(
        re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)"', head)
    )


def test_every_page_says_what_it_is_and_shows_the_card(site):
    about = {}
    for page in PAGES:
        head = head_of((site / page).read_text(encoding="utf-8"))
        about[page] = head["description"]
        assert head["twitter:card"] == "summary_large_image"
        if not site_links.has_address(docs.get_config(path=ROOT)):
            card = (site / page).parent / head["og:image"]
            assert card.resolve() == (site / "vendor" / "card.png").resolve()
    assert all(len(text) > 20 for text in about.values())
    assert len(set(about.values())) == len(about)
    with Image.open(site / "vendor" / "card.png") as card:
        assert card.size == (1200, 630)
    assert (site / "vendor" / "card.png").stat().st_size < 150_000


def test_with_a_real_address_the_head_names_it():
    config = a_config("someone")
    config.doc_baseurl, config.title = "/course", "a course"
    html = "<head><title>Data – a course</title></head>"
    head = site_head.with_head(html, "build/data.html", "../", config)
    home = "https://someone.github.io/course/"
    assert f'<link rel="canonical" href="{home}build/data.html">' in head
    assert head_of(head)["og:image"] == home + "vendor/card.png"


def test_on_paper_there_is_the_lesson_and_nothing_else(browser, address):
    with Visit(
        browser, address + "concepts/elbo.html", viewport=WIDE, color_scheme="dark"
    ) as visit:
        visit.page.emulate_media(media="print", color_scheme="dark")
        for name in ("header#quarto-header", "#quarto-sidebar", ".page-navigation"):
            assert not visit.page.locator(name).first.is_visible()
        body = visit.page.evaluate(
            "getComputedStyle(document.querySelector('p')).color"
        )
        assert body == "rgb(0, 0, 0)"
        assert visit.page.locator("main h1").is_visible()
        assert visit.page.locator("main details[open]").count() == 0


# ---- downloaded notebooks


def test_downloaded_notebook_runs_alone(site, tmp_path):
    "In an empty folder, with the stored numbers that it reads."
    path = site / NOTEBOOK_OF["practice/results.html"]
    notebook = nbformat.read(path, as_version=4)
    (tmp_path / "anywhere").mkdir()
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path / "anywhere")}},
    ).execute()
    assert (tmp_path / "results" / "headline.json").exists()


@pytest.mark.parametrize("page", PAGES)
def test_downloaded_notebook_begins_with_what_it_needs(page, site):
    notebook = nbformat.read(site / NOTEBOOK_OF[page], as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[1].id == "runs-alone"
    text = "".join(cell.source for cell in notebook.cells[2:])
    for name in re.findall(r"""results/([\w.]+\.json)"\)\.read""", text):
        assert name in notebook.cells[1].source
    prose = "".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert not re.findall(r"\]\((?!http)[^)]*\.ipynb", prose)


def test_downloaded_notebook_says_how_to_get_the_package(monkeypatch):
    line = downloads.install_line(a_config("someone"))
    assert line == (
        "%pip install -q "
        "https://github.com/someone/vae_tutorial/archive/refs/heads/main.zip"
    )
    source = downloads.INSTALL.format(
        install=downloads.install_line(a_config("example")), results="{}"
    )
    exec(source, {})  # the package is here
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="no public address"):
        exec(source, {})


def test_links_of_a_downloaded_notebook_lead_to_the_site():
    config = a_config("someone")
    config.doc_baseurl = "/course"
    text = "see [the data](../build/10_data.ipynb#where) and [x](https://x.org)"
    page, pages = (
        docs.Path("limits/24_limits.ipynb"),
        {"build/10_data.ipynb": "build/data.html"},
    )
    there = downloads.with_links_to_the_site(text, page, pages, config)
    assert "https://someone.github.io/course/build/data.html#where" in there
    nowhere = downloads.with_links_to_the_site(text, page, pages, a_config("example"))
    assert nowhere == "see the data and [x](https://x.org)"
