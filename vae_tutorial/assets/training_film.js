// Scrub through a stored training: map, reconstructions and losses move together. Half of the
// frames lie in the first epoch, where most happens.
const CURVES = [['elbo', 'ELBO'], ['reconstruction', 'reconstruction'], ['kl', 'KL']];

function render({model, el}) {
  const film = readSafetensors(model.get('film')), {means, originals, reconstructions} = film;
  const [frames, points] = means.shape, [, count, height, width] = reconstructions.shape;
  const labels = film.labels.values, size = height * width, last = frames - 1;
  const history = JSON.parse(film.metadata.history), perEpoch = +film.metadata.steps_per_epoch;
  const early = history.filter(({step}) => step <= perEpoch).length;
  const colors = model.get('colors'), terms = model.get('term_colors');
  const widest = halfWidthOf(means.values, 4.5);
  const map = plane('Map of latent space at the chosen moment', widest);
  const curves = element('canvas', {role: 'img', style: 'width:24rem',
    'aria-label': 'ELBO, reconstruction and KL: left in the first epoch, right after it'});
  const above = pictures(count, height, width, '2.6rem', 'Image');
  const below = pictures(count, height, width, '2.6rem', 'Reconstruction of image');
  const when = n => (n < early && history[n].step < perEpoch ? `step ${history[n].step}`
    : `epoch ${history[n].step / perEpoch}`);
  const moment = slider('moment', {min: 0, max: last, step: 1, value: model.get('frame')},
    n => { halt(); go(n); }, when);
  const play = button('Play', () => toggle());
  const table = readouts(CURVES.map(([, name]) => name), 'nats');
  table.removeAttribute('aria-live');      // or Play would not stop talking
  map.box.style.width = '19rem';
  Object.assign(moment.style, {flex: '1', minWidth: 0});
  const wide = (style, ...nodes) =>
    element('div', {className: 'live-row live-wide', style}, ...nodes);
  const faces = element('figure', {style: 'max-width:24rem'}, strip(above), strip(below));
  frame(el, wide('flex-wrap:nowrap', play, moment),
    wide('gap:0.5rem 1rem', faces, table), map.box, curves);
  above.forEach((canvas, i) => canvas.show(unpackBits(originals.values, i, size)));

  // One curve in a box: the values of some frames, over their steps.
  function drawCurve(context, name, [left, top, right, bottom], first, end, chosen) {
    const shown = history.slice(first, end), values = shown.map(record => record[name]);
    const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
    const start = shown[0].step, length = shown.at(-1).step - start;
    const place = n => [left + ((right - left) * (history[n].step - start)) / length,
      bottom - ((bottom - top) * (history[n][name] - low)) / span];
    Object.assign(context, {fillStyle: '#222', strokeStyle: '#aaa', lineWidth: 1});
    context.textAlign = 'right';
    context.fillText(number(high, 0), left - 4, top + 8);
    context.fillText(number(low, 0), left - 4, bottom);
    line(context, [[left, top], [left, bottom], [right, bottom]]);
    Object.assign(context, {strokeStyle: terms[name], fillStyle: terms[name], lineWidth: 2});
    line(context, shown.map((_, i) => place(first + i)));
    if (chosen < first || chosen >= end) return;
    context.beginPath();
    context.arc(...place(chosen), 4, 0, 7);
    context.fill();
  }
  function drawCurves(chosen) {
    const {context, width, height} = sharp(curves, 1.15);
    const panel = (height - 36) / 3, half = width / 2;
    CURVES.forEach(([name, title], k) => {
      const top = 22 + k * panel, bottom = top + panel - 20;
      drawCurve(context, name, [42, top, half - 8, bottom], 0, early, chosen);
      drawCurve(context, name, [half + 42, top, width - 8, bottom], early - 1, frames, chosen);
      Object.assign(context, {textAlign: 'left', fillStyle: '#222'});
      context.fillText(title, 48, top - 4);
    });
    context.textAlign = 'center';
    context.fillText('the first epoch', half / 2 + 18, height - 8);
    const epochs = history[last].step / perEpoch;
    context.fillText(`epochs 1 to ${epochs}`, 1.5 * half + 18, height - 8);
  }
  function draw() {
    const n = Math.max(0, Math.min(last, model.get('frame'))), offset = 2 * points * n;
    const context = map.begin();
    drawPrior(context, map);
    drawPoints(context, map, means.values, labels, colors, 0.85, offset);
    if (history[n].kl > 1) {
      drawLabels(context, map, classAnchors(means.values, labels, offset, widest), colors);
    }
    const under = reconstructions.values;
    below.forEach((canvas, i) => canvas.show(grey(under, n * count + i, size)));
    drawCurves(n);
    moment.put(n);
    for (const [name, title] of CURVES) table.set(title, number(history[n][name]));
  }
  const go = n => { model.set('frame', n); model.save_changes(); };
  let timer = null;
  const halt = () => { clearInterval(timer); timer = null; play.textContent = 'Play'; };
  function toggle() {
    if (timer) return halt();
    if (model.get('frame') >= last) go(0);
    play.textContent = 'Pause';
    const step = () => (model.get('frame') >= last ? halt() : go(model.get('frame') + 1));
    timer = setInterval(step, 400);
    return undefined;
  }
  model.on('change:frame', draw);
  const stop = onResize(map, draw);
  draw();
  return () => { halt(); model.off('change:frame', draw); stop(); };
}
export default {render};
