// What the live figures are made of: planes with a point to drag, small pictures, a drawing pad,
// sliders, a bar for the ELBO. The colours are the course's own: blue for the encoder, amber for
// the latent space and its price, red for the decoder.
const STYLE = `
.live { font-size: 0.9rem; line-height: 1.4; max-width: 100%; --latent: #e69500; --decoder: #bd1f01;
  --line: color-mix(in srgb, currentColor 35%, transparent); }
.live, .live * { box-sizing: border-box; }
.live, .live-row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.live-row { gap: 0.5rem; align-items: center; }
.live-column { display: flex; flex-direction: column; gap: 0.6rem; max-width: 100%; min-width: 0; }
.live-wide { flex-basis: 100%; }
.live figure { margin: 0; min-width: 0; }
.live figcaption { font-size: 0.8rem; text-align: center; margin-top: 0.2rem; color: inherit; }
.live canvas { display: block; max-width: 100%; background: white; border-radius: 6px; }
.live-plane { position: relative; max-width: 100%; }
.live-plane canvas, .live-pad { width: 100%; border: 1px solid var(--line); }
.live-plane canvas { aspect-ratio: 1; touch-action: pan-y; }
.live-pad { aspect-ratio: 1; cursor: crosshair; touch-action: none; }
.live-picture { image-rendering: pixelated; border: 1px solid #8888; }
.live .live-knob { position: absolute; width: 44px; height: 44px; margin: -22px 0 0 -22px;
  padding: 0; min-height: 0; border: 0; border-radius: 50%; background: none; cursor: grab;
  touch-action: none; }
.live .live-knob::before { content: ""; position: absolute; inset: 8px; border: 3px solid black;
  border-radius: 50%; box-shadow: 0 0 0 2px white; }   /* hollow: what lies there is seen */
.live-hint { position: absolute; margin: -2.9rem 0 0 -1.7rem; padding: 0 0.45rem;
  border-radius: 1em; background: black;
  color: white; font-size: 0.8rem; white-space: nowrap; pointer-events: none; }
.live :focus-visible { outline: 3px solid #3f90da; outline-offset: 2px; }
.live table { display: table; width: auto; margin: 0; border-collapse: collapse; background: none;
  font-variant-numeric: tabular-nums; align-self: flex-start; }
.live :is(td, th) { padding: 0.05rem 0.8rem 0.05rem 0; border: 0; text-align: left;
  font-weight: normal; }
.live td { text-align: right; padding-right: 0; min-width: 4.2em; }
.live button, .live summary { font: inherit; color: inherit; cursor: pointer; min-height: 2rem; }
.live button { background: color-mix(in srgb, currentColor 8%, transparent); border-radius: 4px;
  border: 1px solid var(--line); padding: 0.15rem 0.55rem; }
.live button[aria-pressed=true] { background: #1a5fb4; border-color: #1a5fb4; color: white; }
.live label { display: flex; gap: 0.6rem; align-items: center; min-width: 0; }
.live label > span { flex: 0 0 auto; }
.live-equal label > span { width: 9.5em; }
.live input[type=range] { flex: 1; min-width: 4rem; min-height: 2rem; accent-color: #1a5fb4; }
.live-note { font-size: 0.85rem; margin: 0; }
.live-bar { width: 100%; }
.live-bar p { margin: 0 0 0.3rem; font-variant-numeric: tabular-nums; }
.live-track { position: relative; display: flex; height: 1.1rem; border-radius: 3px;
  background: color-mix(in srgb, currentColor 10%, transparent); }
.live-track i:nth-of-type(1) { background: var(--decoder); border-radius: 3px 0 0 3px; }
.live-track i:nth-of-type(2) { background: var(--latent); }
.live-usual { position: relative; height: 0.5rem; margin-top: 2px; }
.live-scale { display: flex; justify-content: space-between; font-size: 0.75rem; }
.live-usual i { position: absolute; height: 100%; border: 2px solid currentColor; border-top: 0; }
.live-key { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px;
  margin-right: 0.3em; }`;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role' || name === 'style') node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function frame(el, ...children) {          // the figure's outermost element
  const box = element('div', {className: 'live'}, ...children);
  el.replaceChildren(element('style', {textContent: STYLE}), box);
  return box;
}

const OWN_KEYS = {'data-lm-suppress-shortcuts': 'true'};     // JupyterLab leaves the arrows alone
const captioned = (node, text, style = '') =>
  element('figure', {style}, node, element('figcaption', {textContent: text}));
const button = (text, onclick, more = {}) =>
  element('button', {type: 'button', textContent: text, onclick, ...more});
const number = (value, digits = 2) => value.toFixed(digits).replace('-', '−');
const announcer = () => element('p', {className: 'live-note', role: 'status'});

// ---- pictures -----------------------------------------------------------------------------------
function picture(height, width, size, label) {       // a small image, ink dark on white
  const style = `width:${size};aspect-ratio:${width}/${height}`, role = 'img';
  const canvas = element('canvas', {width, height, className: 'live-picture', role, style});
  canvas.setAttribute('aria-label', label);
  const context = canvas.getContext('2d'), pixels = context.createImageData(width, height);
  canvas.show = values => {                // from 0, white, to 1, black
    for (let i = 0; i < values.length; i++) {
      const shade = 255 * (1 - values[i]);
      pixels.data.set([shade, shade, shade, 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
  };
  return canvas;
}

const pictures = (count, height, width, size, label) =>
  Array.from({length: count}, (_, i) => picture(height, width, size, `${label} ${i + 1}`));

const grey = (bytes, n, size) =>           // the n-th image of `size` bytes
  Float32Array.from(bytes.subarray(n * size, (n + 1) * size), value => value / 255);

function strip(list) {                     // pictures in one row, however narrow
  for (const canvas of list) canvas.style.minWidth = '0';
  const style = 'gap:0.25rem;flex-wrap:nowrap;margin-bottom:0.25rem';
  return element('div', {className: 'live-row', style}, ...list);
}

function sharp(canvas, aspect = 1) {       // cleared, its context in CSS pixels
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 300;
  const height = width / aspect, pixels = [width, height].map(side => Math.round(side * ratio));
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) {
    [canvas.width, canvas.height] = pixels;
  }
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const look = {strokeStyle: '#222', fillStyle: '#222', lineWidth: 1, font: '12px sans-serif'};
  Object.assign(context, look);
  return {context, width, height};
}

function line(context, points) {
  context.beginPath();
  points.forEach((point, n) => context[n ? 'lineTo' : 'moveTo'](...point));
  context.stroke();
}

// ---- a plane of latent space --------------------------------------------------------------------
function plane(label, halfWidth = 4) {     // a square whose coordinates are those of latent space
  const canvas = element('canvas', {className: 'live-map', role: 'img', 'aria-label': label});
  canvas.box = element('div', {className: 'live-plane'}, canvas);
  canvas.window = {centre: [0, 0], halfWidth};
  canvas.share = z => {                    // from the left and from the top, 0 to 1
    const {centre, halfWidth} = canvas.window, s = 1 / (2 * halfWidth);
    return [(z[0] - centre[0] + halfWidth) * s, (centre[1] + halfWidth - z[1]) * s];
  };
  canvas.toPixels = z => canvas.share(z).map(share => share * canvas.side);
  canvas.toLatent = event => {
    const {centre, halfWidth} = canvas.window, box = canvas.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width;
    const down = (event.clientY - box.top) / box.height;
    return [centre[0] + halfWidth * (2 * across - 1), centre[1] - halfWidth * (2 * down - 1)];
  };
  canvas.begin = () => {
    const {context, width} = sharp(canvas);
    canvas.side = width;
    return context;
  };
  return canvas;
}

// A point on the plane: a button, so that the keyboard reaches it. The mouse may press anywhere on
// the plane. A finger drags the point itself, taps elsewhere, or swipes across; a vertical swipe
// beside the point scrolls the page.
function movablePoint(map, move, onTouch = () => {}) {
  const label = 'Point on the map. Arrow keys move it, Shift: larger steps, Home: the middle.';
  const knob = element('button',
    {type: 'button', className: 'live-knob', 'aria-label': label, ...OWN_KEYS});
  const hint = element('span', {className: 'live-hint', textContent: 'drag me'});
  let z = [0, 0], start = null;
  map.box.append(knob, hint);
  map.style.cursor = 'crosshair';
  knob.show = place => {
    z = place;
    const [left, top] = map.share(z).map(share => `${100 * share}%`);
    for (const node of [knob, hint]) Object.assign(node.style, {left, top});
  };
  const to = place => {
    const {centre, halfWidth} = map.window;
    const within = (value, i) =>
      Math.max(centre[i] - halfWidth, Math.min(centre[i] + halfWidth, value));
    hint.remove();
    onTouch();
    move(place.map(within).map(value => Math.round(1000 * value) / 1000));
  };
  const drag = (node, event) => {
    node.setPointerCapture(event.pointerId);
    start = null;
    to(map.toLatent(event));
  };
  for (const node of [map, knob]) {
    node.onpointerdown = event => {
      start = event;
      if (node === map && event.pointerType === 'touch') return;
      knob.focus({preventScroll: true});
      event.preventDefault();
      drag(node, event);
    };
    node.onpointermove = event => {
      if (node.hasPointerCapture(event.pointerId) && !start) to(map.toLatent(event));
      else if (start && Math.abs(event.clientX - start.clientX) > 8) drag(node, event);
    };
    node.onpointerup = event => { if (start) to(map.toLatent(event)); start = null; };
    node.onpointercancel = () => { start = null; };
  }
  knob.onkeydown = event => {
    const step = event.shiftKey ? 0.5 : 0.1, [u, v] = z;
    const places = {ArrowLeft: [u - step, v], ArrowRight: [u + step, v], Home: [0, 0],
      ArrowUp: [u, v + step], ArrowDown: [u, v - step]};
    if (!places[event.key]) return;
    to(places[event.key]);
    event.preventDefault();
  };
  return knob;
}

function drawPrior(context, map) {         // circles at one, two and three standard deviations
  const [x, y] = map.toPixels([0, 0]);
  context.save();
  context.globalAlpha = 0.4;
  context.setLineDash([4, 4]);
  for (const radius of [1, 2, 3]) {
    context.beginPath();
    context.arc(x, y, (radius * map.side) / (2 * map.window.halfWidth), 0, 7);
    context.stroke();
  }
  context.restore();
}

function drawPoints(context, map, means, labels, colors, alpha = 0.75, offset = 0) {
  context.save();
  context.globalAlpha = alpha;
  labels.forEach((label, i) => {
    const [x, y] = map.toPixels([means[offset + 2 * i], means[offset + 2 * i + 1]]);
    context.fillStyle = colors[label % 10];
    context.fillRect(x - 1.5, y - 1.5, 3, 3);
  });
  context.restore();
}

function drawLabels(context, map, anchors, colors, avoid = null) {     // digits on white discs
  context.save();
  context.font = 'bold 13px sans-serif';
  Object.assign(context, {textAlign: 'center', textBaseline: 'middle'});
  for (const [digit, place] of Object.entries(anchors)) {
    const [x, y] = map.toPixels(place), [u, v] = map.toPixels(avoid ?? [Infinity, 0]);
    if (Math.hypot(x - u, y - v) < 22) continue;
    context.beginPath();
    context.arc(x, y, 10, 0, 7);
    context.fillStyle = 'white';
    context.fill();
    Object.assign(context, {lineWidth: 2, strokeStyle: colors[digit % 10], fillStyle: '#222'});
    context.stroke();
    context.fillText(digit, x, y + 0.5);
  }
  context.restore();
}

function drawEllipse(context, map, {mean, sd}) {     // two standard deviations of q(z|x)
  const [x, y] = map.toPixels(mean), scale = map.side / map.window.halfWidth;
  const [a, b] = [0, 1].map(i => Math.max(3, sd[i] * scale));
  context.save();
  for (const [lineWidth, strokeStyle] of [[5, 'white'], [2.5, '#e0301e']]) {
    Object.assign(context, {lineWidth, strokeStyle});
    context.beginPath();
    context.ellipse(x, y, a, b, 0, 0, 7);
    context.stroke();
  }
  context.restore();
}

// Where to write each digit: at a point of its own with many of its like around it and few others,
// away from the digits already written.
function classAnchors(means, labels, offset = 0, halfWidth = 4) {
  const some = Math.min(labels.length, 1000), anchors = {}, at = i => offset + 2 * i;
  const reach = (halfWidth / 8) ** 2;
  for (const digit of [...new Set(labels)].sort()) {
    let best = -Infinity, place;
    for (let i = 0, tried = 0; i < some && tried < 40; i++) {
      if (labels[i] !== digit) continue;
      const u = means[at(i)], v = means[at(i) + 1];
      let own = 0, all = 10;               // ten strangers more: a lonely point does not win
      for (let k = 0; k < some; k++) {
        if ((means[at(k)] - u) ** 2 + (means[at(k) + 1] - v) ** 2 > reach) continue;
        all++;
        own += labels[k] === digit;
      }
      const near = ([x, y]) => Math.hypot(x - u, y - v) < 0.17 * halfWidth;
      const score = own / all - Object.values(anchors).some(near);
      if (score > best) { best = score; place = [u, v]; }
      tried++;
    }
    anchors[digit] = place;
  }
  return anchors;
}

// The half width of a square around the origin that holds nearly all of these codes.
function halfWidthOf(means, least = 3.5, share = 0.998) {
  const sorted = Array.from(means, Math.abs).sort((a, b) => a - b);
  return Math.max(least, 1.05 * sorted[Math.floor(share * (sorted.length - 1))]);
}

// ---- numbers ------------------------------------------------------------------------------------
function readouts(rows, unit = '') {       // a table of labelled numbers; set(name, text)
  const cells = {}, table = element('table', {'aria-live': 'polite'});
  if (unit) table.append(element('tr', {}, element('th'), element('td', {textContent: unit})));
  for (const name of rows) {
    cells[name] = element('td', {textContent: '–'});
    const head = element('th', {scope: 'row', textContent: name});
    table.append(element('tr', {}, head, cells[name]));
  }
  table.set = (name, text) => { cells[name].textContent = text; };
  return table;
}

// The ELBO as one bar, from zero, which would be perfect: what the reconstruction costs, and what
// the code costs beside it. Below, where the middle half of all such digits ends.
function elboBar(name = 'ELBO') {
  const text = element('p'), below = element('p', {className: 'live-note'});
  const track = element('div', {className: 'live-track'});
  const parts = [element('i'), element('i')], bracket = element('i'), end = element('span');
  const scale = element('div', {className: 'live-scale'}, 'perfect: 0', end);
  const usual = element('div', {className: 'live-usual'}, bracket);
  track.append(...parts);
  const box = element('div', {className: 'live-bar'}, text, track, usual, scale, below);
  const key = (color, name) => element('span', {},
    element('span', {className: 'live-key', style: `background:${color}`}), name);
  box.show = (terms, digit = null, quartiles = null) => {
    const full = Math.max(300, 1.1 * -(terms?.elbo ?? 0));
    const percent = nats => `${(100 * nats) / full}%`;
    usual.style.visibility = terms && quartiles ? 'visible' : 'hidden';
    below.hidden = !terms || !quartiles;
    end.textContent = `longer is worse: ${number(-full, 0)}`;
    parts[0].style.width = percent(terms ? -terms.reconstruction : 0);
    parts[1].style.width = percent(terms?.kl ?? 0);
    if (!terms) return text.replaceChildren('Nothing is drawn.');
    text.replaceChildren(
      element('strong', {textContent: `${name} ${number(terms.elbo, 1)} nats`}), ' = ',
      key('var(--decoder)', `reconstruction ${number(terms.reconstruction, 1)}`), ' − ',
      key('var(--latent)', `KL ${number(terms.kl, 1)}`));
    if (!quartiles) return undefined;
    const [low, , high] = quartiles;
    Object.assign(bracket.style, {left: percent(-high), width: percent(high - low)});
    below.textContent = `Usual for a ${digit}: ${number(low, 0)} to ${number(high, 0)} `
      + '(the bracket: half of all such test images).';
    return undefined;
  };
  return box;
}

// Which digit a code is taken for, and why; whether the image is unlike all of them.
function verdict({digit, count, voters}, elbo, quartiles) {
  const share = Math.round((100 * count) / voters), [low, , high] = quartiles ?? [NaN, 0, NaN];
  const odd = elbo < low - 1.5 * (high - low);       // where a box plot begins to draw outliers
  return `Looks like a ${digit}, ${share} %: ${count} of the ${voters} nearest codes are ${digit}s.`
    + (odd ? ` But the ELBO is far below what is usual for ${digit}s: perhaps it is none.` : '');
}

function quartilesOf(usual, digit) {       // of the ELBO of the test images with this label
  const row = usual ? [...usual.slice(3 * digit, 3 * digit + 3)] : [NaN];
  return row.some(Number.isNaN) ? null : row;
}

// ---- controls -----------------------------------------------------------------------------------
function slider(text, {min, max, step, value}, oninput, show = v => number(v)) {
  const input = element('input',
    {type: 'range', min, max, step, oninput: () => set(+input.value), ...OWN_KEYS});
  const shown = element('output', {style: 'min-width:3.2em;text-align:right'});
  const put = v => {
    input.value = v;
    shown.textContent = show(v);
    input.setAttribute('aria-valuetext', show(v));
  };
  const set = v => { put(v); oninput(v); };
  const name = element('span', {textContent: text});
  const label = element('label', {className: 'live-wide'}, name, input, shown);
  put(value);
  return Object.assign(label, {put, input});
}

// Sliders for traits of the model: means and log variances, by name. follow(canvas, draw) draws
// whenever one of them moves, and returns the clean-up.
function traitSliders(model, names) {
  const controls = Object.entries(names).map(([name, text]) => [name, slider(text,
    {min: -4, max: text.startsWith('mean') ? 4 : 3, step: 0.05, value: model.get(name)},
    value => { model.set(name, value); model.save_changes(); })]);
  const follow = (canvas, draw) => {
    const redraw = () => {
      draw();
      for (const [name, control] of controls) control.put(model.get(name));
    };
    for (const [name] of controls) model.on(`change:${name}`, redraw);
    const stop = onResize(canvas, redraw);
    redraw();
    return () => {
      for (const [name] of controls) model.off(`change:${name}`, redraw);
      stop();
    };
  };
  return {nodes: controls.map(([, control]) => control), follow};
}

// A canvas to draw on; change(strokes) after each movement of the pen.
function drawingPad(change) {
  const label = 'Draw a digit here with mouse, pen or finger, or take one with the buttons.';
  const pad = element('canvas', {className: 'live-pad', role: 'img', 'aria-label': label});
  let strokes = [], image = null;
  pad.redraw = () => {
    const {context, width} = sharp(pad), cell = width / 28;
    Object.assign(context, {lineWidth: width * 0.075, lineCap: 'round', lineJoin: 'round'});
    image?.forEach((on, i) => {
      if (on) context.fillRect((i % 28) * cell, Math.floor(i / 28) * cell, cell + 0.5, cell + 0.5);
    });
    for (const stroke of strokes) {
      const dot = stroke.length === 1 ? [[stroke[0][0] + 1e-3, stroke[0][1]]] : [];
      line(context, [...stroke, ...dot].map(point => point.map(value => value * width)));
    }
  };
  pad.show = x => { strokes = []; image = x; pad.redraw(); };
  pad.undo = () => { image = null; strokes.pop(); draw(); };
  pad.clear = () => { image = null; strokes = []; draw(); };
  const draw = () => { pad.redraw(); change(strokes.length ? rasterize(strokes) : null); };
  const place = event => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  pad.onpointerdown = event => {
    pad.setPointerCapture(event.pointerId);
    if (image) { image = null; strokes = []; }
    strokes.push([place(event)]);
    draw();
    event.preventDefault();
  };
  pad.onpointermove = event => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    strokes.at(-1).push(place(event));
    draw();
  };
  return pad;
}

function onResize(node, redraw) {          // when size or theme change; returns the clean-up
  const size = new ResizeObserver(redraw), theme = new MutationObserver(redraw);
  size.observe(node);
  theme.observe(document.documentElement, {attributes: true});
  theme.observe(document.body, {attributes: true});
  return () => { size.disconnect(); theme.disconnect(); };
}
