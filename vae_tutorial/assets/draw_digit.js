// Draw a digit; encoder, decoder and the exact posterior run as you draw. With twenty latent
// dimensions there is no map and no exact posterior: then the price of each dimension is shown.
const DRAW = `
.live-draw { display: grid; gap: 0.6rem 0.8rem; width: 100%; max-width: 54rem; align-items: start;
  grid-template: "pad map zoom" auto "seen seen numbers" auto / 10.5rem 1.15fr 1fr; }
.live-draw > * { min-width: 0; }
.live-draw .wide { grid-column: 2 / 4; grid-row: 1; }
@container (max-width: 600px) {
  .live-draw { grid-template: "pad seen" auto "map map" auto "numbers numbers" auto "zoom zoom" auto
    / minmax(0, 1fr) minmax(0, 1fr); }
  .live-draw .wide { grid-column: 1 / 3; grid-row: 2; }
  .live-draw .live-plane { width: 18rem; margin: auto; }
  .live-draw button { font-size: 0.75rem; padding: 0.15rem 0.25rem; white-space: nowrap; }
  .live-draw .live-picture { width: 5rem !important; }
}`;
const LEVELS = [0.01, 0.05, 0.2, 0.5, 0.8], ROWS = ['reconstruction', '− KL', '= ELBO'];

// The exact posterior on a grid around its mass and the encoder's answer: {window, top, n, values}.
async function enlarge(vae, solution, {mean, sd}, alive, n = 41) {
  const heavy = solution.fine.filter(({value}) => value > solution.top - 5).map(({z}) => z);
  const edge = (i, sign) =>
    heavy.reduce((far, z) => Math.max(far, sign * z[i]), sign * mean[i] + 2.3 * sd[i]);
  const high = [edge(0, 1), edge(1, 1)], low = [-edge(0, -1), -edge(1, -1)];
  const centre = [0, 1].map(i => (low[i] + high[i]) / 2), values = [];
  const halfWidth = Math.max(0.3, 0.55 * Math.max(high[0] - low[0], high[1] - low[1]));
  const at = k => centre[0] + halfWidth * ((2 * (k % n)) / (n - 1) - 1);
  const up = k => centre[1] + halfWidth * ((2 * Math.floor(k / n)) / (n - 1) - 1);
  const done = await inSlices(
    n * n, k => values.push(vae.logJoint([at(k), up(k)], solution.query)), alive);
  return done && {window: {centre, halfWidth}, top: solution.top, n, values};
}

function contours({top, n, values}, side = 120) {    // bilinear in the log density
  const canvas = Object.assign(document.createElement('canvas'), {width: side, height: side});
  const context = canvas.getContext('2d'), image = context.createImageData(side, side);
  for (let k = 0; k < side * side; k++) {
    const u = ((k % side) / (side - 1)) * (n - 1.001);
    const v = ((side - 1 - Math.floor(k / side)) / (side - 1)) * (n - 1.001);
    const i = Math.floor(u), j = Math.floor(v), a = u - i, b = v - j, at = j * n + i;
    const below = (1 - a) * values[at] + a * values[at + 1];
    const above = (1 - a) * values[at + n] + a * values[at + n + 1];
    const density = Math.exp((1 - b) * below + b * above - top);
    const level = LEVELS.filter(threshold => density > threshold).length, shade = 255 - 45 * level;
    image.data.set([shade, shade, shade, level ? 255 : 0], 4 * k);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function render({model, el}) {
  const plain = {vae: loadVAE(model.get('model')), ...readMap(model.get('map'))};
  const {labels, images} = plain, size = 28 * 28, colors = model.get('colors');
  const solve = posteriorSolver(plain.vae), halfWidth = halfWidthOf(plain.means);
  const anchors = classAnchors(plain.means, labels, 0, halfWidth);
  const pad = drawingPad(x => show(x));
  const seen = picture(28, 28, '6rem', 'Your digit as the model sees it');
  const below = picture(28, 28, '6rem', 'Reconstruction');
  const map = plane('Map of latent space with the posterior of your digit', halfWidth);
  const zoom = plane('The same, enlarged: exact posterior as grey contours, the Gaussian of the '
    + 'encoder as a red ellipse');
  const prices = element('canvas', {role: 'img'}), table = readouts([...ROWS, 'log p(x)'], 'nats');
  prices.setAttribute('aria-label', 'The KL of each of the twenty latent dimensions, as bars');
  prices.style.width = '100%';
  const row = (...nodes) => element('div', {className: 'live-row', style: 'gap:0.3rem'}, ...nodes);
  const said = announcer(), area = (name, ...nodes) =>
    element('div', {style: `grid-area:${name}`, className: 'live-column'}, ...nodes);
  const switches = [2, 20].map(n => button(`${n} dimensions`, () => choose(n)));
  const hasWide = Boolean(model.load || model.get('wide')?.byteLength);
  const ofMap = area('map', captioned(map.box, 'the whole map'));
  const ofZoom = area('zoom', captioned(zoom.box, 'exact posterior, and encoder'));
  const ofPrices = captioned(prices, 'what each of the 20 dimensions costs: its KL, in nats');
  ofPrices.className = 'wide';
  const box = frame(el, ...(hasWide ? [row('The model’s latent space has', ...switches)] : []),
    element('div', {className: 'live-draw'},
      area('pad', captioned(pad, 'draw here'), row(button('Undo', () => pad.undo()),
        button('Clear', () => pad.clear()), button('Next digit', () => take(next)))),
      ofMap, ofZoom, ofPrices,
      element('div', {className: 'live-row', style: 'grid-area:seen;align-items:flex-start'},
        captioned(seen, 'as the model sees it'), captioned(below, 'reconstruction')),
      area('numbers', table)), said);
  box.style.containerType = 'inline-size';
  el.append(element('style', {textContent: DRAW}));
  let shown = plain, image = null, current = null, exact = null, version = 0, next = 0, wide = null;

  function drawMap() {
    const context = map.begin();
    drawPrior(context, map);
    drawPoints(context, map, plain.means, labels, colors, 0.45);
    drawLabels(context, map, anchors, colors, current?.mean);
    if (current) drawEllipse(context, map, current);
    if (!exact) return;
    const {centre, halfWidth} = exact.window;
    const [x, y] = map.toPixels([centre[0] - halfWidth, centre[1] + halfWidth]);
    const side = (map.side * halfWidth) / map.window.halfWidth;
    context.strokeRect(x, y, side, side);
  }
  function drawZoom() {
    const context = zoom.begin();
    if (!exact) {
      if (current) context.fillText('integrating …', 12, 24);
      return;
    }
    zoom.window = exact.window;
    context.drawImage(contours(exact), 0, 0, zoom.side, zoom.side);
    drawEllipse(context, zoom, current);
    context.fillText(`${number(2 * zoom.window.halfWidth)} wide`, 8, zoom.side - 8);
  }
  function drawPrices() {
    const {context, width, height} = sharp(prices, 2), values = current?.klPerDimension ?? [];
    const top = Math.max(3, ...values), step = (width - 40) / 20;
    const y = v => (height - 24) * (1 - v / top) + 8;
    context.fillText(number(top, 1), 4, 14);
    context.fillText('0', 4, height - 14);
    context.fillText('latent dimension', width / 2 - 40, height - 2);
    context.fillStyle = '#e69500';
    values.forEach((v, i) => context.fillRect(34 + i * step, y(v), step - 3, y(0) - y(v)));
  }
  function drawAll() {
    pad.redraw();
    if (shown !== plain) return drawPrices();
    drawMap();
    return drawZoom();
  }
  function report(terms) {
    for (const [name, value] of Object.entries(terms)) {
      table.set(name, value === undefined ? '–' : number(value));
    }
  }
  function judge(elbo) {                   // which digit the model takes it for, and why
    const alike = lookAlike(current.mean, shown.means, labels);
    const usual = quartilesOf(shown.usual, alike.digit), of = i => number(usual[i], 0);
    const among = usual ? ` The ELBO of ${alike.digit}s is usually ${of(0)} to ${of(2)}.` : '';
    said.textContent = verdict(alike, elbo, usual) + among;
  }
  async function bounds(x, alive) {        // terms, and the log likelihood or a bound on it
    if (shown !== plain) {
      return sampledBounds(shown.vae, x, alive);
    }
    const solution = await solve(x, alive);
    if (!solution) return null;
    exact = await enlarge(plain.vae, solution, current, alive);
    return exact && {...current, log_likelihood: solution.logMarginal};
  }
  function tell(values) { model.set('readouts', values); model.save_changes(); }
  async function show(x) {
    const mine = ++version, alive = () => mine === version, {vae} = shown;
    image = x;
    exact = null;
    current = x && (shown === plain ? elbo(vae, x) : answerOf(vae, x));
    seen.show(x ?? new Float32Array(size));
    below.show(x ? sigmoid(vae.decode(current.mean)) : new Float32Array(size));
    report({reconstruction: current?.reconstruction, '− KL': x ? -current.kl : undefined,
      '= ELBO': current?.elbo, 'log p(x)': undefined});
    drawAll();
    if (!x) {
      said.textContent = 'Draw a digit, or take a test image.';
      return tell({});
    }
    judge(current.elbo);
    const {mean, sd, reconstruction, kl} = current;
    const answer = {mean: [...mean], sd: [...sd], kl};
    if (reconstruction) tell({...answer, reconstruction, elbo: current.elbo});
    await new Promise(resolve => setTimeout(resolve, 120));       // not while the pen still moves
    const terms = alive() && await bounds(x, alive);
    if (!terms || !alive()) return undefined;
    const {bound, log_likelihood} = terms, least = bound !== undefined;
    report({reconstruction: terms.reconstruction, '− KL': -kl, '= ELBO': terms.elbo});
    table.set('log p(x)', least ? `≥ ${number(bound)}` : number(log_likelihood));
    drawAll();
    judge(terms.elbo);
    const known = least ? {bound} : {log_likelihood};
    return tell({...answer, reconstruction: terms.reconstruction, elbo: terms.elbo, ...known});
  }
  function take(n) {
    const x = unpackBits(images, n, size);
    next = (n + 1) % labels.length;
    pad.show(x);
    show(x);
  }
  async function choose(n) {
    if (n === 20 && !wide) {
      const view = model.load ? await model.load('wide') : model.get('wide');
      const {means, usual} = readSafetensors(view);
      wide = {vae: loadVAE(view), means: means.values, usual: usual.values};
    }
    shown = n === 20 ? wide : plain;
    ofMap.hidden = ofZoom.hidden = n === 20;
    ofPrices.hidden = n === 2;
    switches.forEach((node, i) => node.setAttribute('aria-pressed', [2, 20][i] === n));
    return show(image);
  }
  const stop = onResize(el, drawAll);
  ofPrices.hidden = true;
  switches[0].setAttribute('aria-pressed', true);
  switches[1].setAttribute('aria-pressed', false);
  take(0);
  return () => { version++; stop(); };
}
export default {render, loadVAE, elbo, normals, sampledBounds, posteriorSolver};
