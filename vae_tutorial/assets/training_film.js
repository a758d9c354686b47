// Scrub through the epochs of a stored run: map, reconstructions and losses move together.
function render({model, el}) {
  const {means, labels: {values: labels}, originals, reconstructions, metadata} = readSafetensors(model.get('film'));
  const [frames, points] = means.shape, [, count, height, width] = reconstructions.shape, size = height * width;
  const history = JSON.parse(metadata.history), colors = model.get('colors'), terms = model.get('term_colors'), last = frames - 1;
  const map = plane('18rem', 'Map of latent space at the chosen epoch'), curves = plane('18rem', 'ELBO, reconstruction and KL against epochs');
  const above = Array.from({length: count}, (_, i) => picture(height, width, '2.6rem', `Image ${i + 1}`)), below = Array.from({length: count}, (_, i) => picture(height, width, '2.6rem', `Its reconstruction`));
  const slider = element('input', {type: 'range', min: 0, max: last, step: 1, value: model.get('epoch'), 'aria-label': 'Epoch'});
  const play = element('button', {type: 'button', textContent: 'Play'}), clock = element('span', {style: 'min-width:6.5em'}), table = readouts(['ELBO', 'reconstruction', 'KL'], 'nats');
  map.window.halfWidth = 4.5;
  originals.shape[0] && above.forEach((canvas, i) => canvas.show(unpackBits(originals.values, i, size)));
  const row = list => element('div', {className: 'live-row', style: 'gap:0.25rem;flex-wrap:nowrap'}, ...list);
  for (const canvas of [...above, ...below]) canvas.style.minWidth = '0';
  frame(el, element('div', {className: 'live-row', style: 'flex-basis:100%'}, play, slider, clock),
    map, curves, element('div', {className: 'live-row', style: 'flex-basis:100%;gap:1rem;align-items:flex-start'}, element('div', {className: 'live-column', style: 'gap:0.25rem;max-width:24rem'}, row(above), row(below)), table));

  function drawCurves(epoch) {
    const context = curves.begin(), side = curves.side, names = ['elbo', 'reconstruction', 'kl'], left = 44, panel = (side - 24) / 3;
    names.forEach((name, k) => {
      const values = history.map(record => record[name]), low = Math.min(...values.slice(1)), high = Math.max(...values), top = 16 + k * panel, bottom = top + panel - 22;
      const x = n => left + (side - left - 10) * n / last, y = value => Math.min(bottom, bottom - (bottom - top) * (value - low) / (high - low || 1));      // epoch 0 is off the scale
      context.fillStyle = context.ink; context.textAlign = 'left'; context.fillText({elbo: 'ELBO', reconstruction: 'reconstruction', kl: 'KL'}[name], left + 6, top - 3);
      context.textAlign = 'right'; context.fillText(number(high, 0), left - 4, top + 8); context.fillText(number(low, 0), left - 4, bottom);
      context.globalAlpha = 0.4; context.lineWidth = 1; context.strokeStyle = context.ink; context.beginPath(); context.moveTo(left, top); context.lineTo(left, bottom); context.lineTo(side - 10, bottom); context.stroke();
      context.beginPath(); context.moveTo(x(epoch), top); context.lineTo(x(epoch), bottom); context.stroke(); context.globalAlpha = 1;
      context.strokeStyle = context.fillStyle = terms[name]; context.lineWidth = 2; context.beginPath(); values.forEach((value, n) => n ? context.lineTo(x(n), y(value)) : context.moveTo(x(n), y(value))); context.stroke();
      context.beginPath(); context.arc(x(epoch), y(values[epoch]), 4, 0, 7); context.fill();
    });
    context.fillStyle = context.ink; context.textAlign = 'center'; context.fillText('epoch', side / 2, side - 6);
  }
  function draw() {
    const epoch = Math.max(0, Math.min(last, model.get('epoch'))), context = map.begin(), offset = 2 * points * epoch;
    drawPrior(context, map);
    drawPoints(context, map, means.values, labels, colors, 0.85, offset);
    drawLabels(context, map, classAnchors(means.values, labels, offset), colors);
    below.forEach((canvas, i) => canvas.show(reconstructions.values.subarray((epoch * count + i) * size, (epoch * count + i + 1) * size).reduce((list, value) => (list.push(value / 255), list), [])));
    drawCurves(epoch);
    slider.value = epoch; clock.textContent = `epoch ${epoch} of ${last}`;
    const record = history[epoch];
    table.set('ELBO', number(record.elbo)); table.set('reconstruction', number(record.reconstruction)); table.set('KL', number(record.kl));
  }
  const go = epoch => { model.set('epoch', epoch); model.save_changes(); };
  let timer = null;
  const halt = () => { clearInterval(timer); timer = null; play.textContent = 'Play'; };
  slider.oninput = () => { halt(); go(+slider.value); };
  play.onclick = () => {
    if (timer) return halt();
    if (model.get('epoch') >= last) go(0);
    play.textContent = 'Pause';
    timer = setInterval(() => model.get('epoch') >= last ? halt() : go(model.get('epoch') + 1), 400);
  };
  model.on('change:epoch', draw);
  const stop = onResize(map, draw);
  draw();
  return () => { halt(); model.off('change:epoch', draw); stop(); };
}
export default {render};
