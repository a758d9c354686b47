// What the live figures compute: reading safetensors, running a VAE, its ELBO, its exact posterior.
// Plain JavaScript, no imports. A figure is this file, live_parts.js and its own, one after the
// other: anywidget gets them so in JupyterLab, and tools/docs.py joins them so for the site.

// ---- weights ------------------------------------------------------------------------------------
const halfToFloat = half => {
  const sign = half >> 15 ? -1 : 1, exponent = (half >> 10) & 31, fraction = half & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
};

function readSafetensors(view) {           // DataView -> {name: {shape, values}}, with .metadata
  const bytes = start => new Uint8Array(view.buffer, view.byteOffset + start);
  const length = Number(view.getBigUint64(0, true));
  const head = JSON.parse(new TextDecoder().decode(bytes(8).subarray(0, length)));
  const {__metadata__: metadata = {}, ...header} = head;
  const tensors = {metadata};
  for (const [name, {dtype, shape, data_offsets: [start, end]}] of Object.entries(header)) {
    const raw = bytes(8 + length + start).slice(0, end - start).buffer;
    if (dtype === 'F16') {
      tensors[name] = {shape, values: Float32Array.from(new Uint16Array(raw), halfToFloat)};
    } else {
      tensors[name] = {shape, values: new (dtype === 'F32' ? Float32Array : Uint8Array)(raw)};
    }
  }
  return tensors;
}

function unpackBits(packed, n, size) {     // the n-th image of `size` black-and-white pixels
  const stride = Math.ceil(size / 8);
  const bit = i => (packed[n * stride + (i >> 3)] >> (7 - (i & 7))) & 1;
  return Float32Array.from({length: size}, (_, i) => bit(i));
}

// ---- the model ----------------------------------------------------------------------------------
function linear({weight, bias}, x) {       // weight is (outputs, inputs)
  const inputs = x.length, y = Float32Array.from(bias);
  for (let j = 0, row = 0; j < y.length; j++, row += inputs) {
    let sum = 0;
    for (let i = 0; i < inputs; i++) sum += weight[row + i] * x[i];
    y[j] += sum;
  }
  return y;
}

function layersOf(tensors, network) {      // by their numbers; older files say "layers"
  const name = new RegExp(`^${network}\\.(?:network|layers)\\.(\\d+)\\.weight$`);
  const found = Object.keys(tensors).map(key => key.match(name)).filter(match => match);
  return found.sort((a, b) => a[1] - b[1]).map(([key]) => ({
    weight: tensors[key].values,
    bias: tensors[key.replace(/weight$/, 'bias')].values,
  }));
}

const sigmoid = logits => Float32Array.from(logits, l => 1 / (1 + Math.exp(-l)));
const softplus = l => Math.max(l, 0) + Math.log1p(Math.exp(-Math.abs(l)));
const sum = values => values.reduce((total, value) => total + value, 0);
const logPrior = z => -0.5 * (sum(z.map(u => u * u)) + z.length * Math.log(2 * Math.PI));    // nats

function relu(x) {
  for (let i = 0; i < x.length; i++) if (x[i] < 0) x[i] = 0;
  return x;
}

function loadVAE(view) {                   // an mlp_vae of one channel, as saved by VAE.save
  const tensors = readSafetensors(view), {vae: recipe} = tensors.metadata;
  const encoder = layersOf(tensors, 'encoder'), decoder = layersOf(tensors, 'decoder');
  const settings = JSON.parse(recipe), last = decoder.at(-1), below = decoder.slice(0, -1);
  const [, height, width] = (settings.arguments ?? settings).image_shape;
  const latentDim = encoder.at(-1).bias.length / 2, inputs = last.weight.length / last.bias.length;
  const run = (layers, x) => layers.reduce(
    (y, layer, n) => (n < layers.length - 1 ? relu(linear(layer, y)) : linear(layer, y)), x);
  const hidden = z => below.reduce((y, layer) => relu(linear(layer, y)), Float32Array.from(z));
  const vae = {
    height, width, latentDim,
    encode(x) {
      const out = run(encoder, x);
      return {mean: out.slice(0, latentDim), logVariance: out.slice(latentDim)};
    },
    decode: z => linear(last, hidden(z)),  // logits
    // log p(x|z) = x . logits - sum softplus(logits), and logits = W h(z) + b:
    // what depends on z alone is kept
    summary(z) {
      const h = hidden(z);
      let s = 0;
      for (const logit of linear(last, h)) s += softplus(logit);
      return {h, s};
    },
    query(x) {                             // what depends on x alone: W'x and b.x
      const wx = new Float32Array(inputs);
      let bx = 0;
      x.forEach((pixel, j) => {
        if (!pixel) return;
        bx += pixel * last.bias[j];
        for (let i = 0; i < inputs; i++) wx[i] += pixel * last.weight[j * inputs + i];
      });
      return {wx, bx};
    },
    logLikelihood({h, s}, {wx, bx}) {
      let total = bx - s;
      for (let i = 0; i < h.length; i++) total += h[i] * wx[i];
      return total;
    },
    logJoint: (z, query) => vae.logLikelihood(vae.summary(z), query) + logPrior(z),
  };
  return vae;
}

// ---- ELBO and log likelihood --------------------------------------------------------------------
// Nodes and weights of Gauss-Hermite quadrature for N(0, 1), six points: exact for polynomials up
// to degree 11.
const HERMITE = [
  [0.6167065901925941, 0.4088284695560294],
  [1.8891758777537109, 0.0886157460419145],
  [3.324257433552119, 0.0025557844020562],
].flatMap(([node, weight]) => [[node, weight], [-node, weight]]);

function answerOf(vae, x) {                // the encoder's answer, and its KL to the prior
  const {mean, logVariance} = vae.encode(x), sd = logVariance.map(v => Math.exp(v / 2));
  const klPerDimension = logVariance.map((v, i) => 0.5 * (Math.exp(v) + mean[i] ** 2 - 1 - v));
  return {mean, sd, klPerDimension, kl: sum(klPerDimension)};
}

function elbo(vae, x) {                    // in nats, without noise, for two latent dimensions
  const answer = answerOf(vae, x), {mean, sd, kl} = answer, query = vae.query(x);
  let reconstruction = 0;
  for (const [a, wa] of HERMITE) {
    for (const [b, wb] of HERMITE) {
      const z = [mean[0] + sd[0] * a, mean[1] + sd[1] * b];
      reconstruction += wa * wb * vae.logLikelihood(vae.summary(z), query);
    }
  }
  return {...answer, reconstruction, elbo: reconstruction - kl};
}

function normals(count, seed = 1) {        // standard normal numbers, the same ones every time
  let state = seed;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({length: count}, () =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

function logSumExp(values) {
  let top = -Infinity, total = 0;
  for (const v of values) if (v > top) top = v;
  for (const v of values) total += Math.exp(v - top);
  return top + Math.log(total);
}

const pause = () => new Promise(resolve => setTimeout(resolve));
async function inSlices(count, work, alive = () => true) {   // work(0) ... work(count - 1)
  for (let i = 0; i < count;) {            // at most 12 ms at a time
    for (const end = performance.now() + 12; i < count && performance.now() < end; i++) work(i);
    await pause();
    if (!alive()) return false;
  }
  return true;
}

// With more than two dimensions: the ELBO and the importance-weighted bound (Burda et al. 2016)
// from the same samples.
async function sampledBounds(vae, x, alive, numSamples = 400) {
  const answer = answerOf(vae, x), {mean, sd, kl} = answer, query = vae.query(x);
  const noise = normals(numSamples * vae.latentDim), reconstructions = [], weights = [];
  const done = await inSlices(numSamples, k => {
    const e = noise.subarray(k * vae.latentDim, (k + 1) * vae.latentDim);
    const z = Float32Array.from(mean, (m, i) => m + sd[i] * e[i]);
    const reconstruction = vae.logLikelihood(vae.summary(z), query);
    const logPosterior = logPrior(e) - sum(Array.from(sd, Math.log));
    reconstructions.push(reconstruction);
    weights.push(reconstruction + logPrior(z) - logPosterior);
  }, alive);
  if (!done) return null;
  const reconstruction = sum(reconstructions) / numSamples;
  const bound = logSumExp(weights) - Math.log(numSamples);
  return {...answer, reconstruction, elbo: reconstruction - kl, bound};
}

// log p(x) and the true posterior in the plane: everywhere on a coarse grid, then parts x parts
// points in each cell that counts, until enough of them lie near the top.
function posteriorSolver(vae, halfWidth = 6, side = 81) {
  const step = (2 * halfWidth) / (side - 1), coarse = [];
  const at = i => [(i % side) * step - halfWidth, Math.floor(i / side) * step - halfWidth];
  const around = [-side, 0, side].flatMap(n => [n - 1, n, n + 1]);
  const ready = inSlices(side * side, i => coarse.push(vae.summary(at(i))));
  return async (x, alive) => {
    await ready;
    const query = vae.query(x);
    const density = coarse.map((known, i) => vae.logLikelihood(known, query) + logPrior(at(i)));
    const top = Math.max(...density), counts = density.map(value => value > top - 14);
    let cells = coarse.map((_, i) => i).filter(i => around.some(n => counts[i + n]));
    for (let parts = 6; ; parts *= 2) {
      const fine = [], inside = n => ((n + 0.5) / parts - 0.5) * step;
      const done = await inSlices(cells.length * parts ** 2, k => {
        const cell = cells[Math.floor(k / parts ** 2)], [u, v] = at(cell);
        const z = [u + inside(k % parts), v + inside(Math.floor(k / parts) % parts)];
        fine.push({cell, z, value: vae.logJoint(z, query)});
      }, alive);
      if (!done) return null;
      const peak = fine.reduce((high, point) => Math.max(high, point.value), -Infinity);
      const near = fine.filter(point => point.value > peak - 2).length;
      if (near >= 40 || parts >= 48) {
        const logMass = logSumExp(fine.map(point => point.value));
        return {query, fine, top: peak, logMarginal: logMass + 2 * Math.log(step / parts)};
      }
      cells = [...new Set(fine.filter(({value}) => value > peak - 14).map(({cell}) => cell))];
    }
  };
}

// ---- the map ------------------------------------------------------------------------------------
function readMap(view) {                   // images, their codes and labels, what is usual for each
  const {means, labels, images, usual} = readSafetensors(view);
  return {means: means.values, labels: labels.values, images: images.values, usual: usual?.values};
}

// The 25 codes nearest to z vote: which digit does it look like, and how many of them say so?
function lookAlike(z, means, labels, voters = 25) {
  const distances = Array.from(labels, (label, i) => {
    let distance = 0;
    z.forEach((value, k) => { distance += (means[z.length * i + k] - value) ** 2; });
    return [distance, label, i];
  });
  const nearest = distances.sort((a, b) => a[0] - b[0]).slice(0, voters), votes = {};
  for (const [, label] of nearest) votes[label] = (votes[label] ?? 0) + 1;
  const [digit, count] = Object.entries(votes).sort((a, b) => b[1] - a[1])[0];
  return {digit: +digit, count, voters: nearest.length, nearest: nearest.map(([, , i]) => i)};
}

// ---- a drawing ----------------------------------------------------------------------------------
const PEN = 2.3, BOX = 20;                 // pen and size of a digit, in pixels of 28 x 28

// As MNIST was made: fit into 20 x 20, then the centre of mass to the middle. Black or white.
function rasterize(strokes, size = 28) {
  const points = strokes.flat();
  if (!points.length) return new Float32Array(size * size);
  const low = [0, 1].map(i => Math.min(...points.map(p => p[i])));
  const high = [0, 1].map(i => Math.max(...points.map(p => p[i])));
  const extent = Math.max(high[0] - low[0], high[1] - low[1], 1e-3);
  const scale = Math.min((BOX - PEN) / extent, size);
  const paint = shift => {
    const canvas = Object.assign(document.createElement('canvas'), {width: size, height: size});
    const context = canvas.getContext('2d', {willReadFrequently: true});
    const place = (value, i) => (value - (low[i] + high[i]) / 2) * scale + size / 2 + shift[i];
    Object.assign(context, {lineWidth: PEN, lineCap: 'round', lineJoin: 'round'});
    for (const stroke of strokes) {
      context.beginPath();
      stroke.forEach((p, n) => context[n ? 'lineTo' : 'moveTo'](...p.map(place)));
      if (stroke.length === 1) context.lineTo(...stroke[0].map((v, i) => place(v, i) + 0.01));
      context.stroke();
    }
    const {data} = context.getImageData(0, 0, size, size);
    return Float32Array.from({length: size * size}, (_, i) => data[4 * i + 3] / 255);
  };
  const grey = paint([0, 0]), mass = sum(grey);
  const middle = i => (i ? n => Math.floor(n / size) : n => n % size);
  const centre = [0, 1].map(i => sum(grey.map((value, n) => value * (middle(i)(n) + 0.5))) / mass);
  return paint(centre.map(value => size / 2 - value)).map(value => (value >= 0.5 ? 1 : 0));
}
