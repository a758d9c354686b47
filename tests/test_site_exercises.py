"""The exercises of the site in a real browser, over http and from file://: judged like
`check` judges them, no hint before a try, progress kept; no spoiler in JupyterLab."""

import html
import json
import math
import re

import nbformat
import pytest

pytest.importorskip("smalldocs", reason="the docs builder needs Python 3.11")
import docs
import notebooks
from browsing import Visit
import site_exercises

from vae_tutorial.exercises import _EXERCISES, check


def pages_with_exercises():
    "{page: its exercises, in order}."
    found = {}
    for path in notebooks.notebooks():
        cells = nbformat.read(path, as_version=4).cells
        asked = [site_exercises.ASKED.fullmatch(cell.source) for cell in cells]
        if names := [match[1] for match in asked if match]:
            page = docs.page_of(path.relative_to(notebooks.NBS))
            found[page.with_suffix(".html").as_posix()] = names
    return found


PAGES = pages_with_exercises()
IN_PAGE = {
    page: [name for name in names if not site_exercises.is_function(name)]
    for page, names in PAGES.items()
}
NUMBERS = [
    (page, name)
    for page, names in IN_PAGE.items()
    for name in names
    if not isinstance(_EXERCISES[name].right, str)
]
# The page of the command line answers words and numbers, that of the ELBO a function.
MIXED, WITH_FUNCTION = "practice/command_line.html", "concepts/elbo.html"


NO_NUMBER = "many"
UNKNOWN = "That is none of the usual mistakes. Try again, or take the hint."


def plain(text):
    "A reason as it is read: without its Markdown, and its HTML."
    return html.unescape(re.sub(r"<.+?>", "", site_exercises.as_html(text)))


@pytest.fixture(params=["http", "file"])
def start(request, site, address):
    return address if request.param == "http" else site.as_uri() + "/"


def visit_of(browser, url, **options):
    return Visit(browser, url, viewport={"width": 1366, "height": 900}, **options)


def exercise(page, name):
    return page.locator(f'.exercise[data-exercise="{name}"]')


def answer(place, given):
    "Answer as a reader does: type and press Enter, or choose and click."
    if isinstance(given, str) and given != NO_NUMBER:
        place.locator(f'input[value="{given}"]').check()
        place.locator("[type=submit]").click()
    else:
        field = place.locator("input[type=text]")
        field.fill(str(given))
        field.press("Enter")
    return place.locator("[role=status]").inner_text()


def mark(page, link):
    "What the sidebar says beside a page's link."
    found = page.locator(f'#quarto-sidebar a[href$="{link}"] + .exercise-mark')
    return re.sub(r"\s+", " ", found.text_content()).strip()


@pytest.mark.parametrize("page", [page for page, names in IN_PAGE.items() if names])
def test_answers_get_their_verdict(page, browser, address):
    """The right answer and each typical wrong one get their reasons, another wrong one
    the offer of a hint, which is not there before."""
    with visit_of(browser, address + page) as visit:
        for name in IN_PAGE[page]:
            known, place = _EXERCISES[name], exercise(visit.page, name)
            hint = place.get_by_role("button", name="Hint")
            assert not hint.is_visible()
            if not isinstance(known.right, str):
                assert place.get_by_label("Your answer to exercise").is_editable()
                assert answer(place, NO_NUMBER).startswith("Type a number")
                assert not hint.is_visible()
                assert answer(place, 123.456789) == f"Not yet. {UNKNOWN}"
                assert hint.is_visible()
            for wrong, reason in known.wrong:
                assert answer(place, wrong) == f"Not yet. {plain(reason)}"
            assert not place.get_by_text(plain(known.hint)).is_visible()
            hint.click()
            assert place.get_by_text(plain(known.hint)).is_visible()
            assert answer(place, known.right) == f"✓ Right. {plain(known.because)}"
            assert not hint.is_visible()
        assert visit.problems == []


# Many answers at once, each sent as a click on "Check" sends it.
JUDGE = """([name, texts]) => {
  const form = document.querySelector(`[data-exercise="${name}"] form`);
  const input = form.querySelector('input[type=text]');
  return texts.map(text => {
    if (input) input.value = text;
    else [...form.elements].find(field => field.value === text).checked = true;
    form.querySelector('[type=submit]').click();
    return form.querySelector('[role=status]').textContent.trim();
  }); }"""


def near(value):
    "Numbers on both sides of where an answer stops to count, and far from it."
    around = [1, -1, 0.5, 2, 1.001, 0.999, 1.00199, 1.00201, 0.99801, 0.99799, 1.003]
    yield from (value * factor for factor in around)
    yield from (value + step for step in (1e-9, 9e-7, -9e-7, 1.1e-6, 0.3, 1, -1))


@pytest.mark.parametrize("page", [page for page, names in IN_PAGE.items() if names])
def test_page_judges_as_check_does(page, browser, site):
    "Also from file://: all known answers, and for numbers a grid around them."
    with visit_of(browser, (site / page).as_uri()) as visit:
        for name in IN_PAGE[page]:
            known = _EXERCISES[name]
            grid = [known.right, *(wrong for wrong, _ in known.wrong)]
            if not isinstance(known.right, str):
                grid += [float(given) for value in grid for given in near(value)]
            shown = visit.page.evaluate(JUDGE, [name, list(map(str, grid))])
            for given, said in zip(grid, shown):
                verdict = check(name, given)
                reason = verdict.message.partition("Hint: ")[0].strip() or UNKNOWN
                lead = "✓ Right." if verdict.right else "Not yet."
                assert said == f"{lead} {plain(reason)}", (name, given)
        assert visit.problems == []


READ = {
    "3.5": ["3,5", " 3.50 ", "7/2", "+3.5", "35e-1", "3,500", "350%", "-(-3.5)"],
    "-3.5": ["−3.5", "-7/2", "-121 - -124.5 - 7", "1-4.5"],
    "4.5": [
        "2*2.25",
        "sqrt(20.25)",
        "√20.25",
        "ln(exp(4.5))",
        "1.5^2*2",
        "4+1/2",
    ],
    "1": ["e/e", "pi/π", "2 ** 0", "1 000/1,000", "3·2÷6", "2-1"],
    "nothing": [
        "",
        "many",
        "3..5",
        "1/0",
        "(3.5",
        "3.5)",
        "7 2",
        "2e",
        "--",
        "𝟑",
        "x=3",
    ],
}


def test_numbers_are_read_as_people_write_them(browser, address):
    "The exercise knows 3.5, -3.5, 4.5 and 1."
    with visit_of(browser, address + "beyond/posterior_gap.html") as visit:
        for number, texts in READ.items():
            shown = visit.page.evaluate(JUDGE, ["posterior_gap.1", texts])
            if number == "nothing":
                expected = "Type a number"
            else:
                verdict = check("posterior_gap.1", float(number))
                expected = plain(verdict.message.partition(" Hint: ")[0])
            for text, verdict in zip(texts, shown):
                assert expected in verdict, (text, verdict)
        assert visit.problems == []


def test_progress_is_kept_and_shown(browser, start):
    names, total = PAGES[MIXED], sum(map(len, PAGES.values()))
    with visit_of(browser, start + MIXED) as visit:
        page, link = visit.page, MIXED.split("/")[1]
        page.on("dialog", lambda dialog: dialog.accept())
        below = page.locator(".exercise-progress")
        assert mark(page, link) == "" and not below.is_visible()
        answer(exercise(page, names[0]), _EXERCISES[names[0]].wrong[0][0])
        assert mark(page, link) == f"0/3 0 of {len(names)} exercises solved"
        for name in names[1:]:
            answer(exercise(page, name), _EXERCISES[name].right)
        seen = mark(page, link)
        assert seen == f"2/3 2 of {len(names)} exercises solved"
        answer(exercise(page, names[1]), _EXERCISES[names[1]].wrong[0][0])
        page.reload()
        assert mark(page, link) == seen  # what is solved stays solved
        hints = [exercise(page, name).get_by_text("Hint", exact=True) for name in names]
        assert [hint.is_visible() for hint in hints] == [True, False, False]
        solved = [exercise(page, name).get_by_text("✓ Solved") for name in names]
        assert [mark.is_visible() for mark in solved] == [False, True, True]
        page.goto(start + WITH_FUNCTION)
        assert mark(page, link) == seen
        place = exercise(page, "elbo.2")
        place.get_by_label("Solved").check()
        assert mark(page, WITH_FUNCTION.split("/")[1]).startswith("1/2 ")
        assert f"solved 3 of the course's {total} exercises" in below.inner_text()
        page.goto(start + "index.html")
        assert mark(page, link) == seen
        page.goto(start + MIXED)
        answer(exercise(page, names[0]), _EXERCISES[names[0]].right)
        assert mark(page, link).startswith("✓ ")
        page.get_by_role("button", name="Forget my progress").click()
        assert mark(page, link) == "" and not below.is_visible()
        assert page.locator(".exercise [role=status]").all_inner_texts() == [""] * 3
        page.goto(start + WITH_FUNCTION)
        assert not place.get_by_label("Solved").is_checked()
        assert visit.problems == []


BLOCKED = """Object.defineProperty(window, 'localStorage', {
  get() { throw new DOMException('blocked', 'SecurityError'); }});"""


@pytest.mark.parametrize("kept", ["blocked", "{", "7", "null", '"solved"', "[1]"])
def test_page_works_without_memory(kept, browser, address):
    with visit_of(browser, address + "index.html") as visit:
        spoil = f"localStorage.setItem('vae-tutorial-exercises', {json.dumps(kept)})"
        visit.page.add_init_script(BLOCKED if kept == "blocked" else spoil)
        visit.page.goto(address + MIXED)
        name = PAGES[MIXED][1]
        assert answer(exercise(visit.page, name), 469).startswith("✓ Right.")
        assert mark(visit.page, "command_line.html").startswith("1/3 ")
        assert visit.problems == []


@pytest.mark.parametrize("page", PAGES)
def test_functions_are_left_to_jupyterlab(page, site):
    """A function's place says where to write it and leads to the notebook; `check` with
    no answer, and what it says to that, stand nowhere."""
    text = (site / page).read_text(encoding="utf-8")
    lines = re.findall(r'<p class="exercise exercise-lab" .+?</p>', text)
    functions = [name for name in PAGES[page] if site_exercises.is_function(name)]
    assert len(lines) == len(functions)
    for name, line in zip(functions, lines):
        assert f'data-exercise="{name}"' in line
        assert "You write a function here: do it in JupyterLab" in line
        file = re.search(r'href="([^"]+\.ipynb)" download', line)[1]
        assert (site / page).parent.joinpath(file).is_file()
    shown = html.unescape(re.sub("<.+?>", "", text))
    assert "No answer given" not in shown and not site_exercises.ASKED.search(shown)
    assert text.count('<details class="code-fold solution">') == len(PAGES[page])
    for name in PAGES[page]:  # neither answer nor hint is read by accident
        assert html.escape(_EXERCISES[name].hint, quote=False) not in text
        assert html.escape(_EXERCISES[name].because, quote=False) not in text


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const faint = node => // how much of it is seen: a link of the sidebar is pale
    node ? getComputedStyle(node).opacity * faint(node.parentElement) : 1;
  const light = ([r, g, b]) => {
    const part = v => v <= 10.3 ? v / 3294 : ((v / 255 + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = node => {
    const own = rgb(getComputedStyle(node).backgroundColor);
    return own[3] || !node.parentElement ? own : ground(node.parentElement);
  };
  const parts = ':is(.exercise, .exercise-progress) :is(strong, button, input, span, p,'
    + ' legend, label), .exercise-mark span';
  return [...document.querySelectorAll(parts)]
    .filter(node => node.checkVisibility() && node.textContent + (node.value ?? ''))
    .map(node => {
      const ink = rgb(getComputedStyle(node).color);
      const [paper, part] = [ground(node), faint(node)];
      const seen = ink.map((value, i) => part * value + (1 - part) * paper[i]);
      const two = [light(seen), light(paper)];
      return [node.outerHTML.slice(0, 60),
        (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05)];
    }); }"""


@pytest.mark.parametrize("width", [1366, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_legible_and_large_enough(scheme, width, browser, address):
    names = PAGES[MIXED]
    with Visit(
        browser,
        address + MIXED,
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    ) as visit:
        page = visit.page
        answer(exercise(page, names[0]), _EXERCISES[names[0]].wrong[0][0])
        exercise(page, names[0]).get_by_role("button", name="Hint").click()
        for name in names[1:]:
            answer(exercise(page, name), _EXERCISES[name].right)
        looks = page.evaluate(CONTRAST)
        assert len(looks) > 20
        assert [look for look in looks if look[1] < 4.5] == []
        targets = page.locator(":is(.exercise, .exercise-progress) :is(button, label)")
        sizes = [target.bounding_box() for target in targets.all()]
        sizes = [(box["width"], box["height"]) for box in sizes if box]
        assert len(sizes) > 8 and min(map(min, sizes)) >= 24
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.problems == []


def test_works_without_a_mouse(browser, address):
    with visit_of(browser, address + MIXED) as visit:
        page, (name, *_) = visit.page, PAGES[MIXED]
        place = exercise(page, name)
        place.locator("input").first.focus()
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        assert place.get_by_role("status").inner_text().startswith("Not yet.")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        hint = place.get_by_role("button", name="Hint")
        assert hint.get_attribute("aria-expanded") == "true"
        group = place.get_by_role("group", name="Your answer to exercise 1")
        assert group.get_by_role("radio").count() == 4


def test_choices_stand_as_in_the_question():
    asked = 'one of `"train"`, `"validation"`, `"test"` or `"all"`?'
    known = site_exercises.known("data.2", asked.replace("`", ""))
    assert known["choices"] == ["train", "validation", "test", "all"]
    assert site_exercises.known("command_line.3", "Which flag?")["choices"] == [
        "--out",
        "--overwrite",
        "--resume",
        "--seed",
    ]


def test_every_exercise_has_its_place(site):
    script = (site / "vendor" / "course.js").read_text()
    assert json.loads(script[script.index("{") : script.rindex("}") + 1]) == PAGES
    assert sorted(sum(PAGES.values(), [])) == sorted(_EXERCISES)
    assert len(NUMBERS) > 20 and all(
        math.isfinite(_EXERCISES[n].right) for _, n in NUMBERS
    )


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda path: path.stem)
def test_notebook_stores_no_spoiler(path):
    "Neither a solution's output nor a hint; but the page of the answers is theirs."
    if path.stem == "85_exercises":
        return
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code if notebooks.kind(cell) == "solution")
    stored = json.dumps([cell.outputs for cell in code], ensure_ascii=False)
    assert "Hint:" not in stored
    for known in _EXERCISES.values():
        for text in (known.hint, known.because):
            assert json.dumps(text, ensure_ascii=False)[1:-1] not in stored
