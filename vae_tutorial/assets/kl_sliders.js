// Two Gaussians on a line, and the KL divergence between them, both ways.
const kl = (m, v, m2, v2) => 0.5 * (v2 - v + (Math.exp(v) + (m - m2) ** 2) / Math.exp(v2) - 1);

function render({model, el}) {
  const label = 'The densities of q, a solid line, and p, dashed', colors = model.get('colors');
  const canvas = element('canvas', {role: 'img', style: 'width:100%', 'aria-label': label});
  const table = readouts(['KL(q ‖ p)', 'KL(p ‖ q)'], 'nats');
  const NAMES = {mean_of_q: 'mean of q', log_variance_of_q: 'log variance of q',
    mean_of_p: 'mean of p', log_variance_of_p: 'log variance of p'};
  const sliders = traitSliders(model, NAMES);
  frame(el, element('div', {className: 'live-column live-equal', style: 'flex:1 1 18rem;gap:0'},
    ...sliders.nodes, table),
  element('div', {style: 'flex:1 1 20rem;min-width:0'}, canvas));

  function draw() {
    const {context, width, height} = sharp(canvas, 1.6), foot = height - 22;
    const [m, v, m2, v2] = Object.keys(NAMES).map(name => model.get(name));
    const density = (z, mean, variance) =>
      Math.exp(-0.5 * ((z - mean) ** 2 / Math.exp(variance) + variance + Math.log(2 * Math.PI)));
    const top = 1.1 * Math.max(density(m, m, v), density(m2, m2, v2), 0.4);
    const x = z => (width * (z + 8)) / 16, y = value => foot - ((foot - 8) * value) / top;
    line(context, [[0, foot], [width, foot]]);
    for (let z = -6; z <= 6; z += 2) context.fillText(number(z, 0), x(z) - 4, height - 6);
    const grid = Array.from({length: 401}, (_, i) => i / 25 - 8);
    [[m, v, 'q', []], [m2, v2, 'p', [6, 4]]].forEach(([mean, variance, name, dash], n) => {
      Object.assign(context, {strokeStyle: colors[2 * n], lineWidth: 2.5});
      context.setLineDash(dash);
      line(context, grid.map(z => [x(z), y(density(z, mean, variance))]));
      context.setLineDash([]);
      Object.assign(context, {fillStyle: '#222', font: 'bold 14px sans-serif'});
      context.fillText(name, x(mean) + (n ? -14 : 6), y(density(mean, mean, variance)) + 4);
    });
    context.font = '12px sans-serif';
    table.set('KL(q ‖ p)', number(kl(m, v, m2, v2)));
    table.set('KL(p ‖ q)', number(kl(m2, v2, m, v)));
  }
  return sliders.follow(canvas, draw);
}
export default {render, kl};
