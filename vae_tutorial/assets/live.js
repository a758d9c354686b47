// What the live figures share: reading safetensors, running the VAE, exact posteriors, drawing.
// Plain JavaScript, no imports. In JupyterLab each figure is this file and its own, one after the other (anywidget);
// on the docs site tools/docs.py joins them in the same way.

// ---- weights -------------------------------------------------------------------------------------------------------
const halfToFloat = half => {
  const sign = half >> 15 ? -1 : 1, exponent = half >> 10 & 31, fraction = half & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
};

function readSafetensors(view) {                     // DataView -> {name: {shape, values}}, with .metadata
  const length = Number(view.getBigUint64(0, true)), bytes = n => new Uint8Array(view.buffer, view.byteOffset + n);
  const {__metadata__: metadata = {}, ...header} = JSON.parse(new TextDecoder().decode(bytes(8).subarray(0, length)));
  const tensors = {metadata};
  for (const [name, {dtype, shape, data_offsets: [start, end]}] of Object.entries(header)) {
    const raw = bytes(8 + length + start).slice(0, end - start).buffer;
    if (dtype === 'F16') tensors[name] = {shape, values: Float32Array.from(new Uint16Array(raw), halfToFloat)};
    else tensors[name] = {shape, values: dtype === 'F32' ? new Float32Array(raw) : new Uint8Array(raw)};
  }
  return tensors;
}

const unpackBits = (packed, n, size) => {            // the n-th image of `size` black-and-white pixels
  const stride = Math.ceil(size / 8);
  return Float32Array.from({length: size}, (_, i) => packed[n * stride + (i >> 3)] >> (7 - (i & 7)) & 1);
};

// ---- the model -----------------------------------------------------------------------------------------------------
function linear({weight, bias}, x) {                 // weight is (outputs, inputs)
  const inputs = x.length, y = Float32Array.from(bias);
  for (let j = 0, row = 0; j < y.length; j++, row += inputs) {
    let sum = 0;
    for (let i = 0; i < inputs; i++) sum += weight[row + i] * x[i];
    y[j] += sum;
  }
  return y;
}

function layersOf(tensors, network) {                // in the order of their numbers; older files say "layers" for "network"
  const name = new RegExp(`^${network}\\.(?:network|layers)\\.(\\d+)\\.weight$`);
  const found = Object.keys(tensors).map(key => key.match(name)).filter(match => match);
  return found.sort((a, b) => a[1] - b[1]).map(([key]) => ({
    weight: tensors[key].values, bias: tensors[key.replace(/weight$/, 'bias')].values}));
}

const sigmoid = logits => Float32Array.from(logits, l => 1 / (1 + Math.exp(-l)));
const softplus = l => Math.max(l, 0) + Math.log1p(Math.exp(-Math.abs(l)));
const logPrior = z => -0.5 * (z[0] ** 2 + z[1] ** 2) - Math.log(2 * Math.PI);      // nats, two dimensions

function loadVAE(view) {                             // the weights of a VAE with two latent dimensions, as saved by VAE.save
  const tensors = readSafetensors(view), encoder = layersOf(tensors, 'encoder'), decoder = layersOf(tensors, 'decoder');
  const recipe = JSON.parse(tensors.metadata.vae), last = decoder.at(-1);
  const [, height, width] = (recipe.arguments ?? recipe).image_shape;
  const relu = x => { for (let i = 0; i < x.length; i++) if (x[i] < 0) x[i] = 0; return x; };
  const run = (layers, x) => layers.reduce((x, layer, n) => (x = linear(layer, x), n < layers.length - 1 ? relu(x) : x), x);
  const hidden = z => relu(run(decoder.slice(0, -1), Float32Array.from(z)));
  const vae = {
    height, width,
    encode(x) { const out = run(encoder, x); return {mean: out.slice(0, 2), logVariance: out.slice(2)}; },
    decode: z => linear(last, hidden(z)),            // logits
    // log p(x|z) = x . logits - sum softplus(logits), and logits = W h(z) + b: what depends on z alone is kept
    summary(z) { const h = hidden(z); let s = 0; for (const l of linear(last, h)) s += softplus(l); return {h, s}; },
    query(x) {                                       // what depends on x alone: W'x and b.x
      const n = decoder.length > 1 ? decoder.at(-2).bias.length : 2, wx = new Float32Array(n);
      let bx = 0;
      x.forEach((pixel, j) => { if (pixel) { bx += pixel * last.bias[j]; for (let i = 0; i < n; i++) wx[i] += pixel * last.weight[j * n + i]; } });
      return {wx, bx};
    },
    logLikelihood({h, s}, {wx, bx}) { let sum = bx - s; for (let i = 0; i < h.length; i++) sum += h[i] * wx[i]; return sum; },
    logJoint: (z, query) => vae.logLikelihood(vae.summary(z), query) + logPrior(z),
  };
  return vae;
}

// ---- ELBO and exact posterior --------------------------------------------------------------------------------------
// Nodes and weights of Gauss-Hermite quadrature for N(0, 1), six points: exact for polynomials up to degree 11.
const HERMITE = [[0.6167065901925941, 0.4088284695560294], [1.8891758777537109, 0.0886157460419145], [3.324257433552119, 0.0025557844020562]]
  .flatMap(([node, weight]) => [[node, weight], [-node, weight]]);

function elbo(vae, x) {                              // reconstruction, kl and their difference, in nats, without noise
  const {mean, logVariance} = vae.encode(x), query = vae.query(x), sd = logVariance.map(v => Math.exp(v / 2));
  let reconstruction = 0;
  for (const [a, wa] of HERMITE) for (const [b, wb] of HERMITE)
    reconstruction += wa * wb * vae.logLikelihood(vae.summary([mean[0] + sd[0] * a, mean[1] + sd[1] * b]), query);
  const kl = 0.5 * logVariance.reduce((sum, v, i) => sum + Math.exp(v) + mean[i] ** 2 - 1 - v, 0);
  return {mean, sd, reconstruction, kl, elbo: reconstruction - kl};
}

const logSumExp = values => { let top = -Infinity, sum = 0; for (const v of values) if (v > top) top = v; for (const v of values) sum += Math.exp(v - top); return top + Math.log(sum); };
const pause = () => new Promise(resolve => setTimeout(resolve));
async function inSlices(count, work, alive = () => true) {      // work(0) ... work(count - 1), at most 12 ms at a time
  for (let i = 0; i < count;) {
    for (const end = performance.now() + 12; i < count && performance.now() < end; i++) work(i);
    await pause();
    if (!alive()) return false;
  }
  return true;
}

function posteriorSolver(vae, halfWidth = 6, side = 81) {
  const step = 2 * halfWidth / (side - 1), at = i => [(i % side) * step - halfWidth, Math.floor(i / side) * step - halfWidth], coarse = [];
  const ready = inSlices(side * side, i => coarse.push(vae.summary(at(i))));
  // log p(x) and the true posterior: everywhere on a coarse grid, then parts x parts points in each cell that counts, until enough of them lie near the top
  return async (x, alive) => {
    await ready;
    const query = vae.query(x), density = coarse.map((summary, i) => vae.logLikelihood(summary, query) + logPrior(at(i)));
    const top = Math.max(...density), counts = density.map(value => value > top - 14), around = [-side, 0, side].flatMap(n => [n - 1, n, n + 1]);
    let cells = coarse.map((_, i) => i).filter(i => around.some(n => counts[i + n]));
    for (let parts = 6; ; parts *= 2) {
      const fine = [], inside = n => ((n + 0.5) / parts - 0.5) * step;
      const done = await inSlices(cells.length * parts ** 2, k => {
        const cell = cells[Math.floor(k / parts ** 2)], [u, v] = at(cell), z = [u + inside(k % parts), v + inside(Math.floor(k / parts) % parts)];
        fine.push({cell, z, value: vae.logJoint(z, query)});
      }, alive);
      if (!done) return null;
      const peak = fine.reduce((high, point) => Math.max(high, point.value), -Infinity), near = fine.filter(point => point.value > peak - 2).length;
      if (near >= 40 || parts >= 48) return {query, fine, logMarginal: logSumExp(fine.map(point => point.value)) + 2 * Math.log(step / parts)};
      cells = [...new Set(fine.filter(point => point.value > peak - 14).map(point => point.cell))];
    }
  };
}

// ---- drawing -------------------------------------------------------------------------------------------------------
const STYLE = `
.live { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; font-size: 0.9rem; line-height: 1.4; max-width: 100%; }
.live canvas { max-width: 100%; touch-action: none; background: white; color: #222; border-radius: 6px; }   /* figures are drawn on white paper, also in the dark */
.live-plane { border: 1px solid color-mix(in srgb, currentColor 35%, transparent); border-radius: 6px; aspect-ratio: 1; }
.live-picture { image-rendering: pixelated; background: white; border: 1px solid #8888; border-radius: 4px; }
.live :focus-visible { outline: 3px solid #3f90da; outline-offset: 2px; }
.live-column { display: flex; flex-direction: column; gap: 0.6rem; max-width: 100%; }
.live-row { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; }
.live figure { margin: 0; text-align: center; font-size: 0.8rem; }
.live table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0; }
.live td { padding: 0.05rem 0.8rem 0.05rem 0; border: 0; text-align: left; } .live td + td { text-align: right; padding-right: 0; min-width: 4.2em; }
.live button { font: inherit; color: inherit; background: color-mix(in srgb, currentColor 8%, transparent); border: 1px solid color-mix(in srgb, currentColor 40%, transparent); border-radius: 4px; padding: 0.15rem 0.55rem; min-height: 2rem; cursor: pointer; }
.live input[type=range] { flex: 1; min-width: 10rem; }
.live-note { font-size: 0.8rem; opacity: 0.85; margin: 0; max-width: 24rem; }`;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(properties)) if (name.includes('-') || name === 'role') node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function frame(el, ...children) {                    // the figure's outermost element
  const box = element('div', {className: 'live'}, ...children);
  el.replaceChildren(element('style', {textContent: STYLE}), box);
  return box;
}

function picture(height, width, size, label) {       // a small image, ink dark on white
  const canvas = element('canvas', {width, height, className: 'live-picture', role: 'img', 'aria-label': label});
  canvas.style.cssText = `width:${size};aspect-ratio:${width}/${height}`;
  const context = canvas.getContext('2d'), pixels = context.createImageData(width, height);
  canvas.show = values => {
    for (let i = 0; i < values.length; i++) pixels.data.set([255 * (1 - values[i]), 255 * (1 - values[i]), 255 * (1 - values[i]), 255], 4 * i);
    context.putImageData(pixels, 0, 0);
  };
  return canvas;
}

function plane(size, label) {                        // a sharp square canvas whose coordinates are those of latent space
  const canvas = element('canvas', {className: 'live-plane', role: 'img', 'aria-label': label});
  canvas.style.width = size;
  canvas.window = {centre: [0, 0], halfWidth: 4};
  canvas.toPixels = ([u, v]) => { const {centre, halfWidth} = canvas.window, s = canvas.side / (2 * halfWidth); return [(u - centre[0] + halfWidth) * s, (centre[1] + halfWidth - v) * s]; };
  canvas.toLatent = event => {
    const {centre, halfWidth} = canvas.window, box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
      .map((share, i) => centre[i] + halfWidth * (2 * share - 1) * (i ? -1 : 1));
  };
  canvas.begin = () => {                             // clear, and return the context in CSS pixels
    const ratio = window.devicePixelRatio || 1, side = canvas.clientWidth || 300;
    if (canvas.width !== Math.round(side * ratio)) canvas.width = canvas.height = Math.round(side * ratio);
    canvas.side = side;
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, side, side);
    context.ink = getComputedStyle(canvas).color;
    context.strokeStyle = context.fillStyle = context.ink;
    context.lineWidth = 1;
    context.font = '12px sans-serif';
    return context;
  };
  return canvas;
}

function drawPrior(context, canvas) {                // circles at one, two and three standard deviations
  context.save();
  context.globalAlpha = 0.35;
  context.setLineDash([4, 4]);
  const [x, y] = canvas.toPixels([0, 0]);
  for (const radius of [1, 2, 3]) { context.beginPath(); context.arc(x, y, radius * canvas.side / (2 * canvas.window.halfWidth), 0, 7); context.stroke(); }
  context.restore();
}

function drawPoints(context, canvas, means, labels, colors, alpha = 0.75, offset = 0) {
  context.save();
  context.globalAlpha = alpha;
  labels.forEach((label, i) => {
    const [x, y] = canvas.toPixels([means[offset + 2 * i], means[offset + 2 * i + 1]]);
    context.fillStyle = colors[label % 10];
    context.fillRect(x - 1.5, y - 1.5, 3, 3);
  });
  context.restore();
}

function drawLabels(context, canvas, anchors, colors) {       // digits on white discs, at [[u, v], ...]
  context.save();
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  context.font = 'bold 13px sans-serif';
  Object.entries(anchors).forEach(([digit, place]) => {
    const [x, y] = canvas.toPixels(place);
    context.beginPath(); context.arc(x, y, 10, 0, 7);
    context.fillStyle = 'white'; context.fill();
    context.lineWidth = 2; context.strokeStyle = colors[digit % 10]; context.stroke();
    context.fillStyle = '#222'; context.fillText(digit, x, y + 0.5);
  });
  context.restore();
}

function classAnchors(means, labels, offset = 0) {   // where to write each digit: at a point of its own with many of its like around it and few others, away from the digits already written
  const some = Math.min(labels.length, 1000), anchors = {};
  for (const digit of [...new Set(labels)].sort()) {
    let best = -Infinity, place;
    for (let i = 0, tried = 0; i < some && tried < 40; i++) {
      if (labels[i] !== digit) continue;
      const u = means[offset + 2 * i], v = means[offset + 2 * i + 1];
      let own = 0, all = 10;                         // ten strangers more, so that a lonely point does not win
      for (let k = 0; k < some; k++) if ((means[offset + 2 * k] - u) ** 2 + (means[offset + 2 * k + 1] - v) ** 2 < 0.25) { all++; own += labels[k] === digit; }
      const crowded = Object.values(anchors).some(([x, y]) => Math.hypot(x - u, y - v) < 0.7);
      if (own / all - crowded > best) { best = own / all - crowded; place = [u, v]; }
      tried++;
    }
    anchors[digit] = place;
  }
  return anchors;
}

function readouts(rows, unit = '') {                 // a table of labelled numbers; set(name, text)
  const cells = {}, table = element('table', {'aria-live': 'polite'});
  if (unit) table.append(element('tr', {}, element('td'), element('td', {textContent: unit, style: 'opacity:0.75'})));
  for (const name of rows) { cells[name] = element('td', {textContent: '–'}); table.append(element('tr', {}, element('td', {textContent: name}), cells[name])); }
  table.set = (name, text) => { cells[name].textContent = text; };
  return table;
}

const number = (value, digits = 2) => value.toFixed(digits).replace('-', '−');
function onResize(el, redraw) {                      // redraw when the size or the theme changes; returns the clean-up
  const size = new ResizeObserver(redraw), theme = new MutationObserver(redraw);
  size.observe(el);
  for (const node of [document.documentElement, document.body]) theme.observe(node, {attributes: true});
  return () => { size.disconnect(); theme.disconnect(); };
}
