"""The live figures on the site, in a real browser: over http and from file://, with mouse,
finger and keyboard, and their numbers against PyTorch's."""

import json
import math
from importlib.resources import files

import pytest

pytest.importorskip("smalldocs", reason="the docs builder needs Python 3.11")
import docs
import numpy as np
import torch
from browsing import LIVE, ROOT, Visit
from torch.distributions import Normal, kl_divergence

from vae_tutorial._live import _SHARED
from vae_tutorial.data import binarize, load_mnist
from vae_tutorial.files import read_safetensors
from vae_tutorial.likelihood import log_likelihood
from vae_tutorial.vae import VAE, mlp_vae

AT_HOME = {  # the figures of a page, and whether they are data with weights
    "index.html": "pipeline",
    "start/first_vae.html": "pipeline",
    "concepts/distributions.html": "kl_sliders",
    "concepts/reparameterization.html": "noise_sliders",
    "build/training.html": "training_film",
    "build/latent_space.html": "latent_explorer",
    "beyond/reductions.html": "beta_slider",
    "beyond/posterior_gap.html": "draw_digit",
}
ALIVE = "n => document.querySelectorAll('.live-figure[data-drawn]').length >= n"


@pytest.fixture(scope="module")
def truth():
    "The shipped model and 100 test images."
    vae = VAE.load("mnist-2d")
    return vae, binarize(load_mnist().test.images, seed=0)[:100]


@pytest.fixture(scope="module")
def wide():
    "The model of twenty dimensions, from the file that the site loads."
    path = files("vae_tutorial") / "assets" / "mnist-20d.safetensors"
    tensors, metadata = read_safetensors(path)
    vae = mlp_vae(**json.loads(metadata["vae"])["arguments"])
    names = vae.state_dict()
    vae.load_state_dict({name: tensors[name].float() for name in names})
    return vae.requires_grad_(False)


def visit_to(page, scheme, browser, site, address, **options):
    url = address + page if scheme == "http" else (site / page).as_uri()
    options.setdefault("viewport", {"width": 1366, "height": 900})
    return Visit(browser, url, **options)


@pytest.fixture(params=["http", "file"])
def live(request, browser, site, address):
    "The page that shows all figures."
    with visit_to(LIVE, request.param, browser, site, address) as visit:
        visit.page.wait_for_function(ALIVE, arg=7)
        yield visit
        assert visit.problems == []


def figure(visit, name):
    found = visit.page.locator(f".live-figure[data-figure={name}]").first
    found.scroll_into_view_if_needed()
    return found


def state(found, name):
    return found.evaluate("(el, name) => el.model.get(name)", name)


def ink(locator):
    return locator.evaluate(
        """canvas => [...canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height).data]
        .filter((_, i) => i % 4 == 0)"""
    )


def middle(locator, across=0.5, down=0.5):
    "A point of an element, in pixels of the page."
    box = locator.bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def drag(page, *points):
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("page", AT_HOME)
def test_figure_is_on_the_first_two_screens_and_soon_alive(
    page, scheme, browser, site, address
):
    with visit_to(page, scheme, browser, site, address) as visit:
        visit.page.wait_for_function(ALIVE, arg=1)
        found = visit.page.locator(f".live-figure[data-figure={AT_HOME[page]}]").first
        assert found.bounding_box()["y"] < (400 if page == "index.html" else 1300)
        # one second on a quiet machine: bench/site.py prints it
        assert int(found.get_attribute("data-drawn")) < 3000
        assert visit.problems == []


# ---- the numbers are PyTorch's


CODES = """([figure, images, zs, trait]) => {
  const el = document.querySelector(`.live-figure[data-figure=${figure}]`);
  const view = trait === 'wide' ? el.model.load(trait) : el.model.get(trait);
  return Promise.resolve(view).then(view => {
    const vae = liveFigures[figure].loadVAE(view);
    return {logits: zs.map(z => [...vae.decode(z)]), codes: images.map(x => {
      const {mean, logVariance} = vae.encode(Float32Array.from(x));
      return [...mean, ...logVariance];
    })};
  });
}"""


@pytest.mark.parametrize("latent_dim", [2, 20])
def test_encoder_and_decoder_equal_pytorchs(live, truth, wide, latent_dim):
    vae, trait = (truth[0], "model") if latent_dim == 2 else (wide, "wide")
    images = truth[1]
    z = torch.randn(100, latent_dim, generator=torch.Generator().manual_seed(0))
    given = ["draw_digit", images.flatten(1).tolist(), z.tolist(), trait]
    answer = live.page.evaluate(CODES, given)
    with torch.no_grad():
        q, logits = vae.encode(images), vae.decode(z).base_dist.logits.flatten(1)
    expected = torch.cat([q.mean, q.log_variance], 1)
    close = {"atol": 1e-3, "rtol": 1e-3}
    torch.testing.assert_close(torch.tensor(answer["codes"]), expected, **close)
    torch.testing.assert_close(torch.tensor(answer["logits"]), logits, **close)
    assert logits.std() > 1 and q.mean.std() > 0.3


def elbo_by_nodes(vae, x):
    "Reconstruction and KL with six by six Gauss-Hermite nodes, as the page has them."
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(6))
    noise = torch.cartesian_prod(nodes, nodes).float()[:, None]
    weight = torch.cartesian_prod(weights, weights).prod(1) / (2 * math.pi)
    q = vae.encode(x)
    scores = vae.decode(q.mean + q.stddev * noise).log_prob(x)
    return (weight[:, None] * scores).sum(0).float(), vae.elbo(x).kl


def test_elbo_and_exact_likelihood_equal_pythons(live, truth):
    vae, images = truth
    exact = log_likelihood(vae, images[:10], method="quadrature").values
    answer = live.page.evaluate(
        """async images => {
        const {loadVAE, elbo, posteriorSolver} = liveFigures.draw_digit;
        const el = document.querySelector('.live-figure[data-figure=draw_digit]');
        const vae = loadVAE(el.model.get('model'));
        const solve = posteriorSolver(vae), rows = [];
        for (const [n, x] of images.entries()) {
          const {reconstruction, kl} = elbo(vae, x);
          const exact = n < 10 ? await solve(x, () => true) : {logMarginal: 0};
          rows.push([reconstruction, kl, exact.logMarginal]);
        }
        return rows; }""",
        images.flatten(1).tolist(),
    )
    reconstruction, kl, log_marginal = torch.tensor(answer).T
    torch.testing.assert_close(log_marginal[:10], exact.float(), atol=0.02, rtol=0)
    with torch.no_grad():
        expected = torch.stack(elbo_by_nodes(vae, images))
    ours = torch.stack([reconstruction, kl])
    torch.testing.assert_close(ours, expected, atol=0.02, rtol=1e-4)


def test_sampled_bounds_of_twenty_dimensions_equal_pythons(live, truth, wide):
    "With the page's own noise."
    images = truth[1]
    noise, answer = live.page.evaluate(
        """async images => {
        const {loadVAE, sampledBounds, normals} = liveFigures.draw_digit, rows = [];
        const el = document.querySelector('.live-figure[data-figure=draw_digit]');
        const vae = loadVAE(await el.model.load('wide'));
        for (const x of images) {
          const {kl, elbo, bound} = await sampledBounds(vae, x, () => true, 50);
          rows.push([kl, elbo, bound]);
        }
        return [[...normals(50 * 20)], rows]; }""",
        images.flatten(1).tolist(),
    )
    e, q = torch.tensor(noise).view(50, 1, 20), wide.encode(images)
    assert e.mean().abs() < 0.1 and abs(e.std() - 1) < 0.1
    z = q.mean + q.stddev * e
    log_p = wide.decode(z).log_prob(images)
    log_weights = log_p + wide.prior.log_prob(z) - q.log_prob(z)
    kl = wide.elbo(images).kl
    bound = log_weights.logsumexp(0) - math.log(50)
    expected = torch.stack([kl, log_p.mean(0) - kl, bound], 1)
    torch.testing.assert_close(torch.tensor(answer), expected, atol=0.02, rtol=1e-3)


def test_kl_of_the_sliders_equals_torchs(live):
    rows = (
        4 * torch.rand(100, 4, generator=torch.Generator().manual_seed(0)) - 2
    ).double()
    answer = live.page.evaluate(
        "rows => rows.map(row => liveFigures.kl_sliders.kl(...row))", rows.tolist()
    )
    mean, v, mean_of_p, v_of_p = rows.T
    q, p = Normal(mean, (v / 2).exp()), Normal(mean_of_p, (v_of_p / 2).exp())
    expected = kl_divergence(q, p)
    torch.testing.assert_close(torch.tensor(answer).double(), expected)


# ---- mouse, finger, keyboard


def test_explorer_follows_mouse_and_keys(live):
    explorer = figure(live, "latent_explorer")
    decoded = explorer.locator("canvas.live-picture").first
    plane, knob = explorer.locator("canvas.live-map"), explorer.get_by_role("button")
    first = ink(decoded)
    drag(live.page, middle(plane), middle(plane, 0.2, 0.3))
    z = state(explorer, "z")
    half_width = plane.evaluate("canvas => canvas.window.halfWidth")
    assert abs(z[0] + 0.6 * half_width) < 0.1 and abs(z[1] - 0.4 * half_width) < 0.1
    dragged = ink(decoded)
    assert sum(abs(a - b) for a, b in zip(first, dragged)) > 10_000
    vae = VAE.load("mnist-2d")
    with torch.no_grad():
        expected = 255 * (1 - vae.decode(torch.tensor([z])).mean.flatten())
    assert (torch.tensor(dragged, dtype=torch.float32) - expected).abs().max() < 2
    knob.press("ArrowRight")
    assert abs(state(explorer, "z")[0] - z[0] - 0.1) < 1e-6
    knob.press("Home")
    assert state(explorer, "z") == [0, 0]


PHONE = {"viewport": {"width": 375, "height": 667}, "has_touch": True}


def swipe(page, start, end):
    "One finger, from a point to another, as the browser's own gestures see it."
    session = page.context.new_cdp_session(page)
    steps = [tuple(a + (b - a) * n / 10 for a, b in zip(start, end)) for n in range(11)]
    for n, (x, y) in enumerate(steps):
        kind = "touchMove" if n else "touchStart"
        touch = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
        session.send("Input.dispatchTouchEvent", touch)
        page.wait_for_timeout(16)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(300)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_finger_taps_drags_and_scrolls(scheme, browser, site, address):
    page = "build/latent_space.html"
    options = {**PHONE, "is_mobile": True}
    with visit_to(page, scheme, browser, site, address, **options) as visit:
        explorer = figure(visit, "latent_explorer")
        plane, knob = (
            explorer.locator("canvas.live-map"),
            explorer.get_by_role("button"),
        )
        plane.evaluate("node => node.scrollIntoView({block: 'center'})")
        visit.page.touchscreen.tap(*middle(plane, 0.75, 0.5))
        tapped = state(explorer, "z")
        assert tapped[0] > 1
        swipe(visit.page, middle(knob), middle(plane, 0.3, 0.2))
        dragged = state(explorer, "z")
        assert dragged[0] < 0 and dragged[1] > 1
        before = visit.page.evaluate("scrollY")
        swipe(visit.page, middle(plane, 0.8, 0.7), middle(plane, 0.8, 0.1))
        assert visit.page.evaluate("scrollY") > before + 80
        assert state(explorer, "z") == dragged
        swipe(visit.page, middle(plane, 0.2, 0.9), middle(plane, 0.9, 0.9))
        assert state(explorer, "z")[0] > 1


@pytest.mark.parametrize("page", ["index.html", "beyond/posterior_gap.html"])
def test_cause_and_effect_fit_one_screen_of_a_phone(page, browser, site, address):
    options = {**PHONE, "is_mobile": True}
    with visit_to(page, "http", browser, site, address, **options) as visit:
        visit.page.wait_for_function(ALIVE, arg=1)
        found = visit.page.locator(".live-figure").first
        boxes = [
            found.locator(name).first.bounding_box()
            for name in (".live-pad", ".live-map")
        ]
        boxes += [found.locator("canvas.live-picture").first.bounding_box()]
        top = min(box["y"] for box in boxes)
        assert max(box["y"] + box["height"] for box in boxes) - top < 600
        assert boxes[1]["width"] >= 300


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_pipeline_wanders_until_it_is_touched(scheme, browser, site, address):
    with visit_to("index.html", scheme, browser, site, address) as visit:
        pipeline = figure(visit, "pipeline")
        knob, decoded = (
            pipeline.locator(".live-knob"),
            pipeline.locator(".live-picture"),
        )
        assert pipeline.get_by_text("drag me").is_visible()
        before, place = ink(decoded), knob.bounding_box()
        visit.page.wait_for_timeout(700)
        assert ink(decoded) != before and knob.bounding_box() != place
        drag(visit.page, middle(knob), middle(pipeline.locator(".live-map"), 0.3, 0.5))
        assert pipeline.get_by_text("drag me").count() == 0
        held, place = ink(decoded), knob.bounding_box()
        visit.page.wait_for_timeout(400)
        assert ink(decoded) == held and knob.bounding_box() == place
        assert visit.problems == []


def test_pipeline_keeps_still_for_who_asks_for_it(browser, site, address):
    still = {"reduced_motion": "reduce"}
    with visit_to("index.html", "http", browser, site, address, **still) as visit:
        knob = figure(visit, "pipeline").locator(".live-knob")
        place = knob.bounding_box()
        visit.page.wait_for_timeout(400)
        assert knob.bounding_box() == place


def test_pipeline_shows_every_step(live, truth):
    vae, images = truth
    pipeline = figure(live, "pipeline")
    pipeline.get_by_role("button", name="Clear").click()
    assert "Nothing is drawn" in pipeline.inner_text()
    pad = pipeline.locator(".live-pad")
    drag(live.page, middle(pad, 0.55, 0.15), middle(pad, 0.45, 0.85))
    text = pipeline.inner_text()
    assert "Looks like a 1" in text and "Usual for a 1: −61 to −46" in text
    pipeline.get_by_role("button", name="Next digit").click()
    with torch.no_grad():
        q = vae.encode(images[1:2])
    minus = [f"{value:.2f}".replace("-", "−") for value in q.mean[0].tolist()]
    details = pipeline.locator("details").first
    assert ", ".join(minus) in details.inner_text()
    details.locator("summary").click()
    assert "middle of the red ellipse" in details.inner_text()
    rolled = set()
    for _ in range(8):
        pipeline.get_by_role("button", name="Sample again").click()
        z = torch.tensor(state(pipeline, "z"))
        assert ((z - q.mean[0]).abs() < 6 * q.stddev[0] + 1e-3).all()
        rolled.add(tuple(z.tolist()))
    assert len(rolled) > 6
    torch.manual_seed(0)
    elbo = vae.elbo(images[1:2], num_samples=4000).elbo.item()
    shown = pipeline.locator("strong", has_text="ELBO").inner_text()
    assert abs(float(shown.split()[-2].replace("−", "-")) - elbo) < 0.6


READOUTS = (
    "document.querySelector('.live-figure[data-figure=draw_digit]')"
    ".model.get('readouts')"
)


def test_digit_pad_draws_scores_and_undoes(live):
    pad = figure(live, "draw_digit")
    pad.get_by_role("button", name="Clear").click()
    assert state(pad, "readouts") == {}
    canvas = pad.locator("canvas").first
    drag(live.page, middle(canvas, 0.55, 0.15), middle(canvas, 0.45, 0.85))  # a one
    live.page.wait_for_function(f"{READOUTS}.log_likelihood !== undefined")
    one = state(pad, "readouts")
    assert one["log_likelihood"] > one["elbo"] > -120
    assert abs(one["elbo"] - one["reconstruction"] + one["kl"]) < 1e-6
    seen = [1 - value / 255 for value in ink(pad.locator("canvas.live-picture").first)]
    rows = [sum(seen[28 * r : 28 * r + 28]) for r in range(28)]
    assert set(seen) <= {0.0, 1.0} and 18 <= sum(row > 0 for row in rows) <= 21
    down = sum(r * row for r, row in enumerate(rows)) / sum(rows)
    across = sum((i % 28) * value for i, value in enumerate(seen)) / sum(seen)
    assert abs(down - 13.5) < 0.7 and abs(across - 13.5) < 0.7  # centre of mass
    corners = [(0.1, 0.1), (0.9, 0.9), (0.1, 0.9), (0.9, 0.1)]
    drag(live.page, *(middle(canvas, *corner) for corner in corners))
    live.page.wait_for_function(f"{READOUTS}.log_likelihood < -150")  # no digit
    pad.get_by_role("button", name="Undo").click()
    live.page.wait_for_function(
        f"value => Math.abs({READOUTS}.log_likelihood - value) < 1e-6",
        arg=one["log_likelihood"],
    )


def test_a_dot_is_more_probable_than_digits(live):
    pad = figure(live, "draw_digit")
    pad.get_by_role("button", name="Clear").click()
    live.page.mouse.click(*middle(pad.locator("canvas").first))
    live.page.wait_for_function(f"{READOUTS}.log_likelihood !== undefined")
    assert -46 < state(pad, "readouts")["log_likelihood"] < -40


def test_pad_switches_to_twenty_dimensions(live):
    pad = figure(live, "draw_digit")
    two, twenty = (pad.get_by_role("button", name=f"{n} dimensions") for n in (2, 20))
    assert two.get_attribute("aria-pressed") == "true"
    assert pad.get_by_text("exact posterior, and encoder").is_visible()
    live.page.wait_for_function(f"{READOUTS}.log_likelihood !== undefined")
    plain = state(pad, "readouts")
    twenty.click()
    live.page.wait_for_function(f"{READOUTS}.bound !== undefined")
    wide = state(pad, "readouts")
    assert len(wide["mean"]) == 20 and wide["kl"] > plain["kl"] + 5
    assert wide["elbo"] > plain["elbo"] and wide["bound"] > wide["elbo"]
    assert twenty.get_attribute("aria-pressed") == "true"
    assert pad.get_by_text("exact posterior, and encoder").is_hidden()
    assert pad.get_by_text("what each of the 20 dimensions costs").is_visible()
    assert "Looks like a 7" in pad.inner_text()
    two.click()
    live.page.wait_for_function(f"{READOUTS}.log_likelihood !== undefined")
    assert abs(state(pad, "readouts")["elbo"] - plain["elbo"]) < 1e-6


def test_film_scrubs_and_plays(live):
    film = figure(live, "training_film")
    below = film.locator("canvas.live-picture").nth(6)
    first = ink(below)
    film.get_by_role("slider").fill("39")
    assert state(film, "frame") == 39 and ink(below) != first
    assert "epoch 20" in film.inner_text() and "−545.64" not in film.inner_text()
    film.get_by_role("slider").fill("0")
    assert "step 0" in film.inner_text() and "−545.64" in film.inner_text()
    film.get_by_role("button", name="Play").click()
    live.page.wait_for_function(
        """document.querySelector('.live-figure[data-figure=training_film]')
        .model.get('frame') >= 2"""
    )
    film.get_by_role("button", name="Pause").click()


def test_beta_slider_shows_what_is_stored(live):
    path = files("vae_tutorial") / "assets" / "mnist-2d-betas.safetensors"
    tensors, metadata = read_safetensors(path)
    rows = json.loads(metadata["rows"])
    found = figure(live, "beta_slider")
    sample = found.locator("canvas.live-picture").first
    for chosen in (0, 7):
        found.get_by_role("slider").fill(str(chosen))
        row = rows[chosen]
        terms = f"reconstruction {row['reconstruction']:.1f} − KL {row['kl']:.1f}"
        assert terms.replace("-", "−") in found.inner_text()
        stored = 255 - tensors["samples"][chosen, 0].flatten().int()
        assert (torch.tensor(ink(sample)) - stored).abs().max() <= 1


@pytest.mark.parametrize("name", ["kl_sliders", "noise_sliders"])
def test_sliders_redraw(live, name):
    found = figure(live, name)
    canvas, before = found.locator("canvas"), found.inner_text()
    drawn = ink(canvas)
    found.get_by_role("slider").first.fill("3")
    assert ink(canvas) != drawn and found.inner_text() != before


# ---- what is shipped


def test_live_data_is_the_packages(site):
    for file in docs.ASSETS.glob("mnist-*d*.safetensors"):
        script = (site / "live" / f"{file.name}.js").read_text()
        assert json.dumps(file.name) in script
        assert len(script) > 4 / 3 * file.stat().st_size
        assert file.stat().st_size < 530_000
    shipped = {path.name for path in docs.ASSETS.glob("*.js")} - set(_SHARED)
    assert set(AT_HOME.values()) == {name.removesuffix(".js") for name in shipped}


def test_lines_of_javascript_are_short():
    scripts = [*docs.ASSETS.glob("*.js"), *(ROOT / "nbs" / "vendor").glob("*.js")]
    long = [
        f"{path.name}:{n}: {len(line)}"
        for path in scripts
        for n, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert long == []
