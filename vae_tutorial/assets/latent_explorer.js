// Drag a point over the map of encoded images; the decoder runs as you drag.
function render({model, el}) {
  const vae = loadVAE(model.get('model')), {means: {values: means}, labels: {values: labels}, images} = readSafetensors(model.get('map'));
  const colors = model.get('colors'), anchors = classAnchors(means, labels), size = vae.height * vae.width;
  const map = plane('20rem', 'Map of latent space with a movable point'), decoded = picture(vae.height, vae.width, '9rem', 'Decoded image');
  Object.assign(map, {tabIndex: 0});
  map.setAttribute('role', 'application');
  map.setAttribute('aria-label', 'Map of latent space. Drag the point, or move it with the arrow keys; Shift makes larger steps.');
  map.style.cursor = 'crosshair';
  const neighbours = Array.from({length: 5}, () => ({image: picture(vae.height, vae.width, '2.6rem', 'Near test image'), caption: element('figcaption')}));
  const table = readouts(['z₁', 'z₂', 'log p(z) in nats', 'prior mass farther out']);
  frame(el, map, element('div', {className: 'live-column'},
    element('figure', {style: 'align-self:flex-start'}, decoded, element('figcaption', {textContent: 'decoded'})), table,
    element('div', {className: 'live-note', textContent: 'Nearest test images:'}),
    element('div', {className: 'live-row'}, ...neighbours.map(({image, caption}) => element('figure', {}, image, caption)))));
  map.window.halfWidth = Math.min(6, Math.max(3.5, 1.05 * [...means].map(Math.abs).sort((a, b) => a - b)[Math.floor(0.998 * means.length)]));

  function draw() {
    const z = model.get('z'), context = map.begin(), [x, y] = map.toPixels(z);
    drawPrior(context, map);
    drawPoints(context, map, means, labels, colors);
    drawLabels(context, map, anchors, colors);
    context.beginPath(); context.arc(x, y, 9, 0, 7);
    context.lineWidth = 5; context.strokeStyle = 'white'; context.stroke();
    context.lineWidth = 3; context.strokeStyle = 'black'; context.stroke();
    context.fillStyle = 'black'; context.fillRect(x - 1, y - 1, 2, 2);
    decoded.show(sigmoid(vae.decode(z)));
    const order = labels.reduce((list, _, i) => (list.push([(means[2 * i] - z[0]) ** 2 + (means[2 * i + 1] - z[1]) ** 2, i]), list), []).sort((a, b) => a[0] - b[0]);
    neighbours.forEach(({image, caption}, n) => { const i = order[n][1]; image.show(unpackBits(images.values, i, size)); caption.textContent = labels[i]; });
    table.set('z₁', number(z[0])); table.set('z₂', number(z[1]));
    table.set('log p(z) in nats', number(logPrior(z)));
    table.set('prior mass farther out', `${number(100 * Math.exp(-0.5 * (z[0] ** 2 + z[1] ** 2)), 1)} %`);
  }
  function move(z) {
    const limit = map.window.halfWidth;
    model.set('z', z.map(value => Math.round(1000 * Math.max(-limit, Math.min(limit, value))) / 1000));
    model.save_changes();
  }
  map.onpointerdown = event => { map.setPointerCapture(event.pointerId); map.focus({preventScroll: true}); move(map.toLatent(event)); event.preventDefault(); };
  map.onpointermove = event => { if (map.hasPointerCapture(event.pointerId)) move(map.toLatent(event)); };
  map.onkeydown = event => {
    const step = event.shiftKey ? 0.5 : 0.1, [u, v] = model.get('z');
    const to = {ArrowLeft: [u - step, v], ArrowRight: [u + step, v], ArrowUp: [u, v + step], ArrowDown: [u, v - step], Home: [0, 0]}[event.key];
    if (to) { move(to); event.preventDefault(); }
  };
  model.on('change:z', draw);
  const stop = onResize(map, draw);
  draw();
  return () => { model.off('change:z', draw); stop(); };
}
export default {render, loadVAE};
