// The same noise, moved and stretched: z = mean + exp(log_variance / 2) * noise.
function render({model, el}) {
  const label = 'Twelve draws of noise above, joined to the samples that they become below';
  const canvas = element('canvas', {role: 'img', style: 'width:100%', 'aria-label': label});
  const colors = model.get('colors');
  const formula = element('p', {className: 'live-note live-wide', role: 'status'});
  const noise = model.get('noise'), NAMES = {mean: 'mean', log_variance: 'log variance'};
  const sliders = traitSliders(model, NAMES);
  const box = frame(el, ...sliders.nodes, formula,
    element('div', {style: 'flex:1 1 20rem;min-width:0;max-width:36rem'}, canvas));
  box.classList.add('live-equal');

  function draw() {
    const {context, width, height} = sharp(canvas, 2.6), mean = model.get('mean');
    const sd = Math.exp(model.get('log_variance') / 2), x = value => (width * (value + 8)) / 16;
    const above = 34, below = height - 40;
    for (const e of noise) {
      context.strokeStyle = '#999';
      line(context, [[x(e), above], [x(mean + sd * e), below]]);
    }
    for (const e of noise) {
      context.fillStyle = colors[0];
      context.beginPath();
      context.arc(x(e), above, 5, 0, 7);
      context.fill();
      context.fillStyle = colors[2];
      context.fillRect(x(mean + sd * e) - 5, below - 5, 10, 10);
    }
    Object.assign(context, {fillStyle: '#222', font: '13px sans-serif'});
    context.fillText('noise ε: always the same twelve draws', 8, 16);
    context.fillText('samples z = mean + width · ε', 8, height - 18);
    for (let z = -6; z <= 6; z += 2) context.fillText(number(z, 0), x(z) - 4, height - 3);
    formula.textContent = `z = ${number(mean)} + ${number(sd)} · ε`;
  }
  return sliders.follow(canvas, draw);
}
export default {render};
