// Drag a point over the map of encoded images; the decoder runs as you drag.
function render({model, el}) {
  const vae = loadVAE(model.get('model')), size = vae.height * vae.width;
  const {means, labels, images} = readMap(model.get('map'));
  const colors = model.get('colors'), halfWidth = halfWidthOf(means);
  const anchors = classAnchors(means, labels, 0, halfWidth);
  const map = plane('Map of latent space: a dot for each test image, coloured by digit', halfWidth);
  const decoded = picture(vae.height, vae.width, '9rem', 'Decoded image');
  const near = pictures(5, vae.height, vae.width, '2.6rem', 'Near test image');
  const names = near.map(image => captioned(image, ''));
  const table = readouts(['z₁', 'z₂', 'log p(z) in nats', 'prior mass farther out']);
  map.box.style.width = '21rem';
  frame(el, map.box, element('div', {className: 'live-column', style: 'flex:1 1 9rem'},
    captioned(decoded, 'decoded at the point', 'align-self:flex-start'), table,
    element('div', {className: 'live-note', textContent: 'The nearest test images:'}),
    element('div', {className: 'live-row'}, ...names)));
  const knob = movablePoint(map, z => {
    trail.push(z);
    model.set('z', z);
    model.save_changes();
    draw();
  }), trail = [];                          // where the point has been dragged

  function draw() {
    const context = map.begin();
    drawPrior(context, map);
    drawPoints(context, map, means, labels, colors);
    context.lineWidth = 1.5;
    line(context, trail.slice(-200).map(map.toPixels));
    drawLabels(context, map, anchors, colors);
  }
  function follow() {
    const z = model.get('z'), farther = Math.exp(-0.5 * (z[0] ** 2 + z[1] ** 2));
    knob.show(z);
    decoded.show(sigmoid(vae.decode(z)));
    lookAlike(z, means, labels).nearest.slice(0, near.length).forEach((i, n) => {
      near[n].show(unpackBits(images, i, size));
      names[n].lastChild.textContent = labels[i];
    });
    table.set('z₁', number(z[0]));
    table.set('z₂', number(z[1]));
    table.set('log p(z) in nats', number(logPrior(z)));
    table.set('prior mass farther out', `${number(100 * farther, 1)} %`);
  }
  model.on('change:z', follow);
  const stop = onResize(map, draw);
  draw();
  follow();
  return () => { model.off('change:z', follow); stop(); };
}
export default {render, loadVAE};
