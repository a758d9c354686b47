// The same model trained at several weights of the KL: map, samples, reconstructions and the two
// terms, as stored.
function render({model, el}) {
  const stored = readSafetensors(model.get('stored')), {means, samples, reconstructions} = stored;
  const rows = JSON.parse(stored.metadata.rows), labels = stored.labels.values;
  const [, points] = means.shape, [, numSamples, height, width] = samples.shape;
  const count = reconstructions.shape[1], size = height * width, colors = model.get('colors');
  const map = plane('Map of latent space at the chosen β: each dot is a test image');
  const bar = elboBar();
  const drawn = pictures(numSamples, height, width, '100%', 'Sample');
  const above = pictures(count, height, width, '2.6rem', 'Image');
  const below = pictures(count, height, width, '2.6rem', 'Reconstruction of image');
  const steps = {min: 0, max: rows.length - 1, step: 1, value: model.get('chosen')};
  const beta = slider('weight β', steps,
    n => { model.set('chosen', n); model.save_changes(); }, n => String(rows[n].beta));
  map.box.style.width = '19rem';
  const columns = 'display:grid;grid-template-columns:repeat(5,1fr);gap:0.25rem;width:15rem';
  const grid = element('div', {style: columns}, ...drawn);
  const faces = element('figure', {style: 'align-self:flex-start'}, strip(above), strip(below),
    element('figcaption', {textContent: 'test images, and their reconstructions'}));
  const words = 'the map, at its own scale; dashed: 1, 2, 3 widths of the prior';
  frame(el, beta, captioned(map.box, words),
    element('div', {className: 'live-column', style: 'flex:1 1 15rem'},
      captioned(grid, 'decoded from the same twenty draws of the prior',
        'align-self:flex-start;max-width:15rem'), faces, bar));
  above.forEach((canvas, i) => canvas.show(unpackBits(stored.originals.values, i, size)));
  const show = (tensor, n, i) => grey(tensor.values, n * tensor.shape[1] + i, size);

  function draw() {
    const n = model.get('chosen'), [start, end] = [n, n + 1].map(place => 2 * points * place);
    const codes = means.values.subarray(start, end), halfWidth = halfWidthOf(codes, 4);
    map.window.halfWidth = halfWidth;
    const context = map.begin();
    drawPoints(context, map, codes, labels, colors, 0.85);
    drawPrior(context, map);
    context.fillText(`${number(2 * halfWidth, 0)} wide`, 8, map.side - 8);
    if (rows[n].kl > 0.5) {
      drawLabels(context, map, classAnchors(codes, labels, 0, halfWidth), colors);
    }
    drawn.forEach((canvas, i) => canvas.show(show(samples, n, i)));
    below.forEach((canvas, i) => canvas.show(show(reconstructions, n, i)));
    bar.show(rows[n]);
    beta.put(n);
  }
  model.on('change:chosen', draw);
  const stop = onResize(map, draw);
  draw();
  return () => { model.off('change:chosen', draw); stop(); };
}
export default {render};
