"""The doors of the docs site in a real browser: search, links, glossary, references,
keyboard, paper, and what a screen reader meets."""

# ruff: noqa: F811 (fixtures of another module)
import re
from types import SimpleNamespace

import docs
import pytest
import site_links
from test_site import PAGES, ROOT, _Visit, address, site  # noqa: F401

WIDE = {"width": 1366, "height": 900}
PHONE = {"width": 375, "height": 800}
BOX = "#site-search input"

# What visitors type, and where the answer stands.
SOUGHT = {
    "nan loss": "practice/questions.html#the-loss-is-nan",
    "posterior collapse": "limits/collapse.html",
    "sum or mean": "beyond/reductions.html",
    "own images": "practice/your_own_images.html",
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
    with _Visit(browser, home + "build/training.html", viewport=WIDE) as visit:
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
    with _Visit(browser, start, viewport=PHONE) as visit:
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
