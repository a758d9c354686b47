// The whole VAE in one view: an image, the encoder's answer, a sample on the map, the decoder's
// image, and the ELBO of it all. A point wanders over the map until someone takes hold of it.
const SHAPES = `
.live-flow { display: grid; gap: 0.5rem 0.6rem; align-items: center; width: 100%; max-width: 52rem;
  grid-template: "pad encoder map decoder image" auto "bar bar bar bar bar" auto
    / minmax(0, 8.2rem) 6.8rem minmax(12rem, 1fr) 3.6rem minmax(0, 8.2rem); }
.live-flow button { font-size: 0.8rem; padding: 0.15rem 0.4rem; }
.live-flow > * { min-width: 0; }
.live-part { display: flex; flex-direction: column; gap: 0.2rem; font-size: 0.85rem; }
.live-part > b { color: white; text-align: center; padding: 0.3rem 0; font-weight: 600; }
.live-part.encoder > b { background: #1a5fb4; padding: 0.7rem 0;
  clip-path: polygon(0 0, 100% 22%, 100% 78%, 0 100%); }
.live-part.decoder > b { background: var(--decoder); padding: 1.3rem 0; font-size: 0.75rem;
  clip-path: polygon(0 22%, 100% 0, 100% 100%, 0 78%); }
.live-part summary { min-height: 1.6rem; }
.live-part details p { font-size: 0.8rem; margin: 0 0 0.3rem; }
.live-part summary span { font-variant-numeric: tabular-nums; display: block; white-space: nowrap; }
@container (max-width: 600px) {
  .live-flow { grid-template: "pad image" auto "map map" auto "encoder encoder" auto "bar bar" auto
    / 1fr 1fr; }
  .live-flow .live-plane { max-width: 20rem; margin: auto; }
  .live-flow .decoder { display: none; }
  .live-flow .encoder { flex-direction: row; gap: 0.6rem; }
  .live-flow .encoder > b { flex: 0 0 5rem; align-self: flex-start; }
}`;

function render({model, el}) {
  const vae = loadVAE(model.get('model')), size = vae.height * vae.width;
  const {means, labels, images, usual} = readMap(model.get('map'));
  const colors = model.get('colors'), halfWidth = halfWidthOf(means);
  const anchors = classAnchors(means, labels, 0, halfWidth);
  const map = plane('Map of latent space: a dot for each test image, coloured by digit', halfWidth);
  const decoded = picture(vae.height, vae.width, '100%', 'What the decoder draws at the point');
  const pad = drawingPad(x => show(x)), bar = elboBar('ELBO of the drawing'), said = announcer();
  const fact = (name, text) => {
    const value = element('span');
    const summary = element('summary', {}, element('strong', {textContent: name}), value);
    return {value, node: element('details', {}, summary, element('p', {textContent: text}))};
  };
  const mean = fact('mean', 'Where on the map the image belongs: the middle of the red ellipse.');
  const width = fact('width', 'How sure the encoder is, along each axis: the standard deviation. '
    + 'The ellipse reaches two of them.');
  const wander = button('Pause', () => setWander(!wandering));
  const area = (name, ...nodes) =>
    element('div', {style: `grid-area:${name}`, className: 'live-column'}, ...nodes);
  const part = (name, ...nodes) => element('div',
    {className: `live-part ${name}`, style: `grid-area:${name}`},
    element('b', {textContent: name}), ...nodes);
  const row = (...nodes) => element('div',
    {className: 'live-row', style: 'gap:0.3rem;justify-content:center'}, ...nodes);
  const box = frame(el, element('div', {className: 'live-flow'},
    area('pad', captioned(pad, 'draw a digit, or take one'),
      row(button('Clear', () => pad.clear()), button('Next digit', () => take(next)))),
    part('encoder', mean.node, width.node),
    area('map', map.box, row(button('⚄ Sample again', () => roll()), wander)),
    part('decoder'),
    area('image', captioned(decoded, 'decoded at the point')),
    element('div', {style: 'grid-area:bar'}, bar, said)));
  box.style.containerType = 'inline-size';
  el.append(element('style', {textContent: SHAPES}));
  const knob = movablePoint(map, z => move(z), () => setWander(false));
  let answer = null, next = 0, wandering = false, moved = 0;

  function draw() {
    const context = map.begin();
    drawPrior(context, map);
    drawPoints(context, map, means, labels, colors);
    drawLabels(context, map, anchors, colors, answer?.mean);
    if (answer) drawEllipse(context, map, answer);
    pad.redraw();
  }
  function follow(z = model.get('z')) {    // the point has moved
    knob.show(z);
    decoded.show(sigmoid(vae.decode(z)));
  }
  function move(z) { model.set('z', z); model.save_changes(); }
  function show(x) {                       // the image has changed
    answer = x && elbo(vae, x);
    const pair = values => (answer ? [...values].map(value => number(value)).join(', ') : '–');
    mean.value.textContent = pair(answer?.mean);
    width.value.textContent = pair(answer?.sd);
    const alike = answer && lookAlike(answer.mean, means, labels);
    const quartiles = alike && quartilesOf(usual, alike.digit);
    said.textContent = alike ? verdict(alike, answer.elbo, quartiles)
      : 'Draw a digit, or take one.';
    bar.show(answer, alike?.digit, quartiles);
    draw();
    if (answer && !wandering) move([...answer.mean]);
  }
  function take(n) {
    const x = unpackBits(images, n, size);
    next = (n + 1) % labels.length;
    pad.show(x);
    show(x);
  }
  function roll() {                        // z = mean + width * noise
    setWander(false);
    if (!answer) return;
    const noise = normals(2, (Math.random() * 2 ** 31) | 0);
    move([0, 1].map(i => Math.round(1000 * (answer.mean[i] + answer.sd[i] * noise[i])) / 1000));
  }
  function step(now) {                     // a closed curve through the middle of the prior
    if (!wandering) return;
    if (!el.isConnected) { wandering = false; return; }
    if (now - moved > 40 && !document.hidden) {
      const t = now / 4000;
      moved = now;
      follow([1.7 * Math.sin(2 * t), 1.5 * Math.sin(3 * t + 1)]);     // Python is not told
    }
    requestAnimationFrame(step);
  }
  function setWander(on) {
    if (on === wandering) return;
    wandering = on;
    wander.textContent = on ? 'Pause' : 'Wander';
    if (on) requestAnimationFrame(step);
  }
  const told = () => follow();
  model.on('change:z', told);
  const stop = onResize(map, draw);
  take(0);
  follow();
  wander.textContent = 'Wander';
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) setWander(true);
  return () => { wandering = false; model.off('change:z', told); stop(); };
}
export default {render, loadVAE};
