// Exercises that are answered in the page, judged as `check` in vae_tutorial/exercises.py
// does. tools/site_exercises.py writes what this needs: a place for each exercise with its
// answers, and course.js, the exercises of every page. Progress, 'tried' or 'solved' for
// each exercise, stays in the browser and is shown in the sidebar.
(() => {
  const root = new URL(document.currentScript.dataset.root, document.baseURI);
  const course = globalThis.courseExercises ?? {};

  // ---- what is solved

  const KEY = 'vae-tutorial-exercises';
  let progress = {};
  const recall = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY));
      progress = kept && typeof kept === 'object' ? kept : {};
    } catch {} // blocked or spoiled: this page's own progress will do
  };
  const keep = () => {
    try { localStorage.setItem(KEY, JSON.stringify(progress)); } catch {}
  };
  const mark = (name, state) => {
    recall(); // another tab may have gone on
    if (progress[name] === state) return;
    if (state) progress[name] = state;
    else delete progress[name];
    keep();
    show();
  };
  const isSolved = name => progress[name] === 'solved';
  const isTried = name => isSolved(name) || progress[name] === 'tried';

  // ---- reading a number: 0.25, 0,25, 60,000, 1/3, 1e-3, -784*ln(2)

  const CONSTANTS = {e: Math.E, pi: Math.PI, 'π': Math.PI};
  const FUNCTIONS = {ln: Math.log, log: Math.log, exp: Math.exp, sqrt: Math.sqrt};
  const SIGNS = {'−': '-', '–': '-', '×': '*', '·': '*', '÷': '/', '√': 'sqrt'};
  const TOKEN = /(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|\*\*|pi|ln|log|exp|sqrt|\S/g;

  function evaluate(text) {
    const tokens = text.match(TOKEN) ?? [];
    const next = (...wanted) => wanted.includes(tokens[0]) && tokens.shift();
    const sum = () => {
      let value = product();
      for (let sign; (sign = next('+', '-'));) {
        value = sign === '+' ? value + product() : value - product();
      }
      return value;
    };
    const product = () => {
      let value = signed();
      for (let sign; (sign = next('*', '/'));) {
        value = sign === '*' ? value * signed() : value / signed();
      }
      return value;
    };
    const signed = () => next('-') ? -signed() : next('+') ? signed() : power();
    const power = () => {
      const base = atom();
      return next('^', '**') ? base ** signed() : base;
    };
    const atom = () => {
      const token = tokens.shift() ?? '';
      if (Object.hasOwn(CONSTANTS, token)) return CONSTANTS[token];
      if (Object.hasOwn(FUNCTIONS, token)) return FUNCTIONS[token](atom());
      if (token === '(') {
        const value = sum();
        return next(')') ? value : NaN;
      }
      return /\d/.test(token) ? Number(token) / (next('%') ? 100 : 1) : NaN;
    };
    const value = sum();
    return tokens.length ? NaN : value;
  }

  // A comma before three digits may stand for thousands or for the decimal point: both
  // are meant well, so both are tried.
  function readings(text) {
    const plain = text.toLowerCase().replace(/./gu, sign => SIGNS[sign] ?? sign)
      .replace(/(\d)[\s'’](?=\d{3}(?!\d))/g, '$1');
    const thousands = plain.replace(/(\d),(?=\d{3}(?!\d))/g, '$1');
    return [thousands, plain.replaceAll(',', '.')].map(evaluate).filter(Number.isFinite);
  }

  // ---- judging

  const same = (answer, {value, exact}) => exact ? answer === value
    : Math.abs(answer - value) <= 1e-6 + Math.abs(2e-3 * value);

  // [is right, what to say] of an answer's readings.
  function judge(answers, given) {
    const match = answers.find(known => given.some(answer => same(answer, known)));
    if (match) return [match === answers[0], match.says];
    const {value, exact} = answers[0];
    const near = answer => Math.abs(answer - value) <= 0.02 * Math.abs(value);
    if (!exact && given.some(near)) return [false, 'Nearly: give one more digit.'];
    return [false, 'That is none of the usual mistakes. Try again, or take the hint.'];
  }

  // ---- the forms

  const element = (html) => {
    const holder = document.createElement('template');
    holder.innerHTML = html;
    return holder.content.firstElementChild;
  };
  const unpack = text => JSON.parse(new TextDecoder().decode(
    Uint8Array.from(atob(text), letter => letter.charCodeAt(0))));
  const stops = [...document.querySelectorAll('main .exercise, main details.solution')];

  const choice = (name, word) => `<label class="exercise-choice">
    <input type="radio" name="${name}" value="${word}"> <code>${word}</code></label>`;

  function formOf(name, number, choices) {
    const label = `Your answer<span class="visually-hidden"> to exercise ${number}</span>`;
    const field = choices.length
      ? `<fieldset><legend>${label}</legend>
          ${choices.map(word => choice(name, word)).join('')}</fieldset>`
      : `<label class="exercise-number"><span>${label}</span>
          <input type="text" class="form-control" autocomplete="off" spellcheck="false"
            autocapitalize="off" maxlength="60"></label>`;
    return element(`<form novalidate>
      <div class="exercise-row">${field}
        <button type="submit" class="exercise-check">Check</button>
        <button type="button" class="exercise-ask" aria-expanded="false" hidden>Hint</button>
        <span class="exercise-solved" hidden>✓ Solved</span></div>
      <p class="exercise-verdict" role="status"></p>
      <p class="exercise-hint" hidden></p></form>`);
  }

  function formIn(place) {
    const {exercise: name, number, known} = place.dataset;
    const {answers, choices, hint} = unpack(known);
    const form = formOf(name, number, choices);
    const part = kind => form.querySelector(`.exercise-${kind}`);
    const [verdict, ask, help] = [part('verdict'), part('ask'), part('hint')];
    const input = form.querySelector('input[type=text]');

    const say = (kind, lead, text) => {
      verdict.className = `exercise-verdict ${kind}`;
      verdict.innerHTML = `<strong>${lead}</strong> ${text}`;
    };
    form.addEventListener('submit', event => {
      event.preventDefault();
      const word = form.querySelector('input:checked')?.value;
      const given = input ? readings(input.value) : word === undefined ? [] : [word];
      if (!given.length) { // not a try yet
        say('', '', input ? 'Type a number, like 0.25, 1/3 or -3*ln(2).' : 'Choose one.');
        return;
      }
      const [right, says] = judge(answers, given);
      say(right ? 'right' : 'wrong', right ? '✓ Right.' : 'Not yet.', says);
      if (right || !isSolved(name)) mark(name, right ? 'solved' : 'tried');
      place.show();
      ask.hidden = right;
      if (right) help.hidden = true;
      ask.setAttribute('aria-expanded', String(!help.hidden));
    });
    ask.addEventListener('click', () => {
      help.hidden = !help.hidden;
      ask.setAttribute('aria-expanded', String(!help.hidden));
    });
    help.innerHTML = `<strong>Hint.</strong> ${hint}`;

    // the fold with the solution shows code; its outcome belongs there, too
    const solution = stops[stops.indexOf(place) + 1];
    const {value, exact, says} = answers[0];
    const digits = {maximumSignificantDigits: exact ? 15 : 6};
    const outcome = choices.length ? value : value.toLocaleString('en', digits);
    solution?.append(element(`<p>Answer: <code>${outcome}</code><br>${says}</p>`));

    place.replaceChildren(form);
    place.show = () => { // that it is solved, where the verdict does not say so
      part('solved').hidden = !isSolved(name) || verdict.matches('.right');
      if (progress[name] === 'tried') ask.hidden = false;
    };
    place.forget = () => {
      form.reset();
      verdict.replaceChildren();
      verdict.className = 'exercise-verdict';
      ask.hidden = help.hidden = true;
    };
  }

  // A function is judged in JupyterLab; the reader says here that it is done.
  function tickIn(place) {
    const {exercise: name, number} = place.dataset;
    const label = element(`<label class="exercise-choice"><input type="checkbox"> Solved
      <span class="visually-hidden">exercise ${number} in JupyterLab</span></label>`);
    const box = label.querySelector('input');
    box.addEventListener('change', () => mark(name, box.checked && 'solved'));
    place.append(' ', label);
    place.show = place.forget = () => { box.checked = isSolved(name); };
  }

  // ---- progress: beside each page's link, and below the exercises

  const address = link => link.href.split('#')[0];
  const links = [...document.querySelectorAll('#quarto-sidebar a.sidebar-link[href]')];
  const marks = Object.entries(course).flatMap(([page, names]) => {
    const link = links.find(link => address(link) === new URL(page, root).href);
    const sign = element('<span class="exercise-mark"></span>');
    link?.after(sign);
    return link ? [{names, sign}] : [];
  });
  const all = Object.values(course).flat();
  const footer = document.querySelector('.exercise-progress');
  const places = [...document.querySelectorAll('main .exercise')];

  function show() {
    for (const {names, sign} of marks) {
      const solved = names.filter(isSolved).length;
      const short = solved === names.length ? '✓' : `${solved}/${names.length}`;
      const long = `${solved} of ${names.length} exercises solved`;
      sign.innerHTML = names.some(isTried) ? `<span aria-hidden="true" title="${long}">
        ${short}</span> <span class="visually-hidden">${long}</span>` : '';
    }
    for (const place of places) place.show?.();
    if (!footer) return;
    footer.hidden = !all.some(isTried);
    footer.firstElementChild.textContent = `You have solved ${all.filter(isSolved).length}`
      + ` of the course's ${all.length} exercises. Only this browser knows.`;
  }

  function forget() {
    if (!confirm('Forget which exercises you have solved, on all pages?')) return;
    progress = {};
    try { localStorage.removeItem(KEY); } catch {}
    for (const place of places) place.forget?.();
    show();
    places[0].querySelector('input').focus(); // the button is gone
  }

  for (const place of places) (place.dataset.known ? formIn : tickIn)(place);
  if (footer) {
    footer.append(element('<span></span>'),
      element('<button type="button" class="exercise-forget">Forget my progress</button>'));
    footer.querySelector('button').addEventListener('click', forget);
  }
  const renew = () => { recall(); show(); };
  addEventListener('storage', renew);
  addEventListener('pageshow', renew); // also when the browser goes back to a kept page
  renew();
})();
