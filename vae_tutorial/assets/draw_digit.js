// Draw a digit; encoder, decoder and the exact posterior run as you draw.
const PEN = 2.3, BOX = 20;                           // pen width and size of the digit, in pixels of the 28 x 28 image

function rasterize(strokes, size = 28) {             // as MNIST was made: fit into 20 x 20, then centre of mass to the middle
  const points = strokes.flat();
  if (!points.length) return new Float32Array(size * size);
  const low = [0, 1].map(i => Math.min(...points.map(p => p[i]))), high = [0, 1].map(i => Math.max(...points.map(p => p[i])));
  const scale = (BOX - PEN) / Math.max(high[0] - low[0], high[1] - low[1], 1e-3);
  const paint = shift => {
    const context = Object.assign(document.createElement('canvas'), {width: size, height: size}).getContext('2d', {willReadFrequently: true});
    Object.assign(context, {lineWidth: PEN, lineCap: 'round', lineJoin: 'round'});
    for (const stroke of strokes) {
      context.beginPath();
      stroke.forEach((p, n) => { const q = p.map((value, i) => (value - (low[i] + high[i]) / 2) * Math.min(scale, size) + size / 2 + shift[i]); n ? context.lineTo(...q) : context.moveTo(...q); });
      if (stroke.length === 1) context.lineTo(...stroke[0].map((value, i) => (value - (low[i] + high[i]) / 2) * Math.min(scale, size) + size / 2 + shift[i] + 0.01));
      context.stroke();
    }
    const data = context.getImageData(0, 0, size, size).data;
    return Float32Array.from({length: size * size}, (_, i) => data[4 * i + 3] / 255);
  };
  const grey = paint([0, 0]), mass = grey.reduce((a, b) => a + b), centre = [0, 1].map(i => grey.reduce((sum, value, n) => sum + value * ((i ? Math.floor(n / size) : n % size) + 0.5), 0) / mass);
  return paint(centre.map(value => size / 2 - value)).map(value => value >= 0.5 ? 1 : 0);
}

function render({model, el}) {
  const vae = loadVAE(model.get('model')), {means: {values: means}, labels: {values: labels}, images} = readSafetensors(model.get('map'));
  const colors = model.get('colors'), anchors = classAnchors(means, labels), solve = posteriorSolver(vae), size = vae.height * vae.width;
  const pad = element('canvas', {className: 'live-picture', role: 'img', 'aria-label': 'Draw a digit here with mouse or finger'});
  pad.style.cssText = 'width:11.5rem;aspect-ratio:1;cursor:crosshair;image-rendering:auto';
  const seen = picture(28, 28, '6rem', 'Your digit as the model sees it'), reconstruction = picture(28, 28, '6rem', 'Reconstruction');
  const map = plane('12.2rem', 'Map of latent space with the posterior of your digit'), zoom = plane('12.2rem', 'The same, enlarged: exact posterior as contours, the Gaussian of the encoder as an ellipse');
  const table = readouts(['reconstruction', '− KL', '= ELBO', 'gap', 'log p(x), exact'], 'nats');
  const undo = element('button', {type: 'button', textContent: 'Undo'}), clear = element('button', {type: 'button', textContent: 'Clear'}), example = element('button', {type: 'button', textContent: 'Test image'});
  const status = element('p', {className: 'live-note', role: 'status'}), captioned = (node, text) => element('figure', {}, node, element('figcaption', {textContent: text}));
  frame(el,
    element('div', {className: 'live-column'}, captioned(pad, 'draw here'), element('div', {className: 'live-row', style: 'gap:0.3rem;font-size:0.8rem'}, undo, clear, example)),
    captioned(map, 'the whole map'), captioned(zoom, 'exact posterior, and encoder'),
    element('div', {className: 'live-row', style: 'flex-basis:100%;gap:1rem;align-items:flex-start'},
      captioned(seen, 'what the model sees'), captioned(reconstruction, 'reconstruction'), element('div', {}, table), status));
  let strokes = [], shown = null, current = null, exact = null, version = 0;
  map.window.halfWidth = 4.2;

  function drawPad() {
    const ratio = window.devicePixelRatio || 1, side = pad.clientWidth || 224;
    pad.width = pad.height = Math.round(side * ratio);
    const context = pad.getContext('2d');
    Object.assign(context, {lineWidth: pad.width * 0.075, lineCap: 'round', lineJoin: 'round', strokeStyle: '#111'});
    if (shown !== null) { const x = unpackBits(images.values, shown, size), cell = pad.width / 28; x.forEach((on, i) => { if (on) context.fillRect((i % 28) * cell, Math.floor(i / 28) * cell, cell + 0.5, cell + 0.5); }); }
    for (const stroke of strokes) { context.beginPath(); stroke.forEach(([u, v], n) => n ? context.lineTo(u * pad.width, v * pad.width) : context.moveTo(u * pad.width, v * pad.width)); if (stroke.length === 1) context.lineTo(stroke[0][0] * pad.width + 0.1, stroke[0][1] * pad.width); context.stroke(); }
  }
  function ellipse(context, canvas) {                // two standard deviations of the encoder's Gaussian
    const [x, y] = canvas.toPixels(current.mean), scale = canvas.side / canvas.window.halfWidth;
    context.strokeStyle = '#e0301e'; context.lineWidth = 2;
    context.beginPath(); context.ellipse(x, y, Math.max(2, current.sd[0] * scale), Math.max(2, current.sd[1] * scale), 0, 0, 7); context.stroke();
  }
  function drawMap() {
    const context = map.begin();
    drawPrior(context, map);
    drawPoints(context, map, means, labels, colors, 0.45);
    drawLabels(context, map, anchors, colors);
    if (current) ellipse(context, map);
    if (exact) {
      const [x, y] = map.toPixels([zoom.window.centre[0] - zoom.window.halfWidth, zoom.window.centre[1] + zoom.window.halfWidth]), side = map.side * zoom.window.halfWidth / map.window.halfWidth;
      context.strokeStyle = context.ink; context.lineWidth = 1.5; context.strokeRect(x, y, side, side);
    }
  }
  function drawZoom() {
    const context = zoom.begin();
    if (!exact) return;
    const n = exact.grid.n, side = 120, values = exact.grid.values, image = context.createImageData(side, side);
    const dark = context.ink.match(/\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) > 384, levels = [0.01, 0.05, 0.2, 0.5, 0.8];
    for (let row = 0; row < side; row++) for (let column = 0; column < side; column++) {       // between grid points, bilinear in the log density
      const u = column / (side - 1) * (n - 1.001), v = (side - 1 - row) / (side - 1) * (n - 1.001), i = Math.floor(u), j = Math.floor(v), a = u - i, b = v - j;
      const value = (1 - b) * ((1 - a) * values[j * n + i] + a * values[j * n + i + 1]) + b * ((1 - a) * values[(j + 1) * n + i] + a * values[(j + 1) * n + i + 1]);
      const level = levels.filter(threshold => Math.exp(value - exact.top) > threshold).length, shade = dark ? 30 + 42 * level : 255 - 45 * level;
      image.data.set([shade, shade, shade, level ? 255 : 0], 4 * (row * side + column));
    }
    const small = Object.assign(document.createElement('canvas'), {width: side, height: side});
    small.getContext('2d').putImageData(image, 0, 0);
    context.drawImage(small, 0, 0, zoom.side, zoom.side);
    ellipse(context, zoom);
    context.fillStyle = context.ink;
    context.fillText(`${number(2 * zoom.window.halfWidth)} wide`, 8, zoom.side - 8);
  }
  async function update() {
    const mine = ++version, alive = () => mine === version, drawn = strokes.length || shown !== null;
    const x = shown === null ? rasterize(strokes) : unpackBits(images.values, shown, size);
    exact = null;
    current = drawn ? elbo(vae, x) : null;
    drawPad(); seen.show(x); reconstruction.show(drawn ? sigmoid(vae.decode(current.mean)) : new Float32Array(784));
    for (const [name, value] of [['reconstruction', current?.reconstruction], ['− KL', current && -current.kl], ['= ELBO', current?.elbo], ['gap', null], ['log p(x), exact', null]]) table.set(name, value === null || value === undefined ? '–' : number(value));
    drawMap(); drawZoom();
    status.textContent = drawn ? 'Integrating over the plane …' : 'Draw a digit, or take a test image.';
    model.set('readouts', drawn ? {mean: [...current.mean], sd: [...current.sd], reconstruction: current.reconstruction, kl: current.kl, elbo: current.elbo} : {});
    model.save_changes();
    if (!drawn) return;
    await new Promise(resolve => setTimeout(resolve, 120));       // not between two movements of the pen
    if (!alive()) return;
    const solution = await solve(x, alive);
    if (!solution) return;
    const top = solution.fine.reduce((high, point) => Math.max(high, point.value), -Infinity), heavy = solution.fine.filter(point => point.value > top - 5).map(point => point.z);
    const edge = (i, sign) => heavy.reduce((high, z) => Math.max(high, sign * z[i]), sign * current.mean[i] + 2.3 * current.sd[i]);
    const high = [edge(0, 1), edge(1, 1)], low = [-edge(0, -1), -edge(1, -1)], n = 41;
    zoom.window = {centre: [0, 1].map(i => (low[i] + high[i]) / 2), halfWidth: Math.max(0.3, 0.55 * Math.max(high[0] - low[0], high[1] - low[1]))};
    const {centre, halfWidth} = zoom.window, values = [];
    if (!await inSlices(n * n, k => values.push(vae.logJoint([centre[0] + halfWidth * (2 * (k % n) / (n - 1) - 1), centre[1] + halfWidth * (2 * Math.floor(k / n) / (n - 1) - 1)], solution.query)), alive)) return;
    exact = {top, grid: {n, values}};
    table.set('gap', number(solution.logMarginal - current.elbo)); table.set('log p(x), exact', number(solution.logMarginal));
    status.textContent = 'Grey: the exact posterior, by quadrature over the plane; contours at 1, 5, 20, 50 and 80 % of its peak. Red: two standard deviations of the encoder’s Gaussian.';
    drawMap(); drawZoom();
    model.set('readouts', {...model.get('readouts'), log_likelihood: solution.logMarginal});
    model.save_changes();
  }
  const place = event => { const box = pad.getBoundingClientRect(); return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]; };
  pad.onpointerdown = event => { pad.setPointerCapture(event.pointerId); shown = null; strokes.push([place(event)]); update(); event.preventDefault(); };
  pad.onpointermove = event => { if (pad.hasPointerCapture(event.pointerId)) { strokes.at(-1).push(place(event)); update(); } };
  undo.onclick = () => { shown = null; strokes.pop(); update(); };
  clear.onclick = () => { shown = null; strokes = []; update(); };
  let next = 0;
  example.onclick = () => { strokes = []; shown = next; next = (next + 1) % labels.length; update(); };
  const stop = onResize(map, () => { drawPad(); drawMap(); drawZoom(); });
  example.onclick();
  return () => { version++; stop(); };
}
export default {render, loadVAE, elbo, posteriorSolver, rasterize};
