// Search over the sections of the course, also from file://: the index is a script, fetched
// when the box is first focused. Its ranking puts the page that answers above a name.
(() => {
  'use strict';
  const box = document.getElementById('site-search');
  if (!box) return;
  const [input, list, status] = box.children;
  const home = document.querySelector('meta[name="smalldocs:offset"]').content;

  // ---- words: small letters, Greek ones by name, without endings
  const greek = 'alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi ' +
    'omicron pi rho sigma sigma tau upsilon phi chi psi omega';
  const greekName = letter => greek.split(' ')[letter.charCodeAt(0) - 0x3b1];
  const stem = word => {
    if (word.length < 4) return word;
    return word.replace(/ies$/, 'y').replace(/(\w{4,})(ing|ed)$/, '$1')
      .replace(/([^s])s$/, '$1').replace(/e$/, '').replace(/([bdgmnprt])\1$/, '$1');
  };
  const words = text => (text.toLowerCase().normalize('NFKD').replace(/[\u0300-\u036f]/g, '')
    .replace(/[α-ω]/g, greekName).match(/[\p{L}\p{N}]+/gu) || []).map(stem);
  const small = new Set(words(
    'a an and are as at be but by can do does for from how i in into is it its my not of on or ' +
    'that the this to was what when which why will with you your'));

  // ---- the index: for each word, how often each section says it, by field
  let entries = null, postings = null, meanLength = 1;
  const TITLE = 0, HEADING = 1, TEXT = 2, OTHER = 3; // words for it that it does not say
  function read(pages) {
    entries = [], postings = new Map();
    for (const [page, title, sections] of pages)
      for (const [anchor, heading, text, other] of sections) {
        const entry = {page, title, anchor, heading, text, fields: []};
        [title, heading, text, other || ''].forEach((source, field) => {
          entry.fields[field] = words(source);
          for (const word of entry.fields[field]) {
            if (!postings.has(word)) postings.set(word, new Map());
            const counts = postings.get(word);
            if (!counts.has(entry)) counts.set(entry, [0, 0, 0, 0]);
            counts.get(entry)[field]++;
          }
        });
        entries.push(entry);
      }
    meanLength = entries.reduce((sum, entry) => sum + entry.fields[TEXT].length, 0)
      / entries.length;
  }
  let loading = null;
  const load = () => loading ||= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = home + 'search-index.js';
    script.onload = () => { read(globalThis.searchIndex); resolve(); };
    script.onerror = reject;
    document.head.append(script);
  });

  // ---- which words of the index a typed word means, and how surely
  function distance(a, b, most) {
    if (Math.abs(a.length - b.length) > most) return most + 1;
    let row = [...Array(b.length + 1).keys()];
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++)
        next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
      row = next;
    }
    return row[b.length];
  }
  function meant(word, isLast) {
    const found = new Map(postings.has(word) ? [[word, 1]] : []);
    if (isLast && word.length > 1)
      for (const other of postings.keys())
        if (other !== word && other.startsWith(word)) found.set(other, 0.6);
    const most = word.length > 7 ? 2 : 1;
    if (!found.size && word.length > 3)
      for (const other of postings.keys())
        if (distance(word, other, most) <= most) found.set(other, 0.5);
    return found;
  }

  // ---- ranking: BM25, and more for a heading that is the question
  const trust = page => page === 'reference.html' ? 0.4 : page.startsWith('inside/') ? 0.6
    : page === 'contributing.html' ? 0.5 : page === 'glossary.html' ? 0.8 : 1;
  const rarity = count => Math.log(1 + (entries.length - count + 0.5) / (count + 0.5));
  function rank(text) {
    const typed = words(text), telling = typed.filter(word => !small.has(word));
    const query = [...new Set(telling.length ? telling : typed)];
    const scores = new Map();
    let whole = 0;
    for (const word of query) {
      const isLast = word === typed.at(-1) && /[\p{L}\p{N}]$/u.test(text);
      const best = new Map(); // of each section, by the word that fits best
      for (const [other, surety] of meant(word, isLast)) {
        const weight = surety * rarity(postings.get(other).size);
        for (const [entry, counts] of postings.get(other)) {
          const long = 0.4 + 0.6 * entry.fields[TEXT].length / meanLength;
          const often = counts[TITLE] * 1.5 + (counts[HEADING] + counts[OTHER]) * 3
            + counts[TEXT] / long;
          const heads = counts.map(count => count ? weight : 0);
          const score = weight * 2.2 * often / (often + 1.2);
          if (score > (best.get(entry)?.score || 0)) best.set(entry, {score, heads});
        }
      }
      whole += Math.max(0, ...[...best.values()].map(({heads}) => Math.max(...heads)))
        || rarity(0);
      for (const [entry, {score, heads}] of best) {
        const sum = scores.get(entry)
          || {score: 0, found: 0, heads: [0, 0, 0, 0], words: [0, 0, 0, 0]};
        sum.score += score;
        sum.found++;
        heads.forEach((head, field) => { sum.heads[field] += head; sum.words[field] += head > 0; });
        scores.set(entry, sum);
      }
    }
    return [...scores].map(([entry, {score, found, heads, words: said}]) => {
      // a page's title answers at its top, a heading at its section
      const fits = field => {
        const length = entry.fields[field].filter(word => !small.has(word)).length || 1;
        return heads[field] / whole * (0.4 + 0.6 * Math.min(1, said[field] / length));
      };
      const other = heads[OTHER] / whole * 0.9;
      const answer = Math.max(entry.anchor ? 0 : fits(TITLE), fits(HEADING), other);
      const complete = (found / query.length) ** 2;
      return {entry, query, score: (score * complete + 12 * answer) * trust(entry.page)};
    }).sort((a, b) => b.score - a.score).slice(0, 12);
  }

  // ---- what is shown
  function excerpt(text, query, into) {
    const fits = word => words(word).some(part => query.some(term => part.startsWith(term)));
    const parts = text.split(/(\s+)/), first = Math.max(0, parts.findIndex(fits) - 16);
    if (first) into.append('… ');
    for (const part of parts.slice(first, first + 60)) {
      const node = fits(part) ? document.createElement('mark') : document.createElement('span');
      node.textContent = part;
      into.append(...(node.tagName === 'MARK' ? [node] : [part]));
    }
  }
  const options = () => [...list.querySelectorAll('[role=option]')];
  let active = -1;
  function choose(place) {
    active = place;
    options().forEach((option, i) => option.setAttribute('aria-selected', String(i === active)));
    const option = options()[active];
    if (option) {
      input.setAttribute('aria-activedescendant', option.id);
      option.scrollIntoView({block: 'nearest'});
    } else input.removeAttribute('aria-activedescendant');
  }
  function open(isOpen) {
    list.hidden = !isOpen;
    input.setAttribute('aria-expanded', String(isOpen));
    if (!isOpen) choose(-1);
  }
  function show(text) {
    const found = rank(text);
    list.replaceChildren(...found.map(({entry, query}, i) => {
      const option = document.createElement('a');
      option.id = `site-search-${i}`;
      option.role = 'option';
      option.tabIndex = -1;
      option.href = home + entry.page + (entry.anchor ? '#' + entry.anchor : '');
      const line = name => {
        const div = document.createElement('div');
        div.className = name;
        option.append(div);
        return div;
      };
      line('found').textContent = entry.heading || entry.title;
      if (entry.heading) line('where').textContent = entry.title;
      excerpt(entry.text, query, line('excerpt'));
      return option;
    }));
    const number = found.length === 1 ? '1 section' : `${found.length} sections`;
    status.textContent = found.length ? `${number} found` : 'Nothing found';
    if (!found.length) {
      const none = document.createElement('div');
      none.role = 'option';
      none.ariaDisabled = 'true';
      none.textContent = 'Nothing found. Try another word for it.';
      list.replaceChildren(none);
    }
    open(true);
    choose(-1);
  }
  async function search() {
    const text = input.value.trim();
    if (text.length < 2) { status.textContent = ''; open(false); return; }
    await load();
    if (text === input.value.trim()) show(input.value);
  }
  let timer = 0;
  input.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(search, 80); });
  input.addEventListener('focus', () => { load(); if (list.hidden) search(); });
  input.addEventListener('keydown', async event => {
    const links = options().filter(option => option.href);
    if (event.key === 'Escape') {
      if (list.hidden) input.blur(); else open(false);
      event.preventDefault();
    } else if (event.key === 'Enter') {
      event.preventDefault();
      clearTimeout(timer);
      if (active < 0) await search(); // what is typed, not what was shown before
      (options()[Math.max(0, active)])?.click();
    } else if (['ArrowDown', 'ArrowUp'].includes(event.key) && links.length) {
      event.preventDefault();
      if (list.hidden) open(true);
      const step = event.key === 'ArrowDown' ? 1 : -1, turns = links.length + 1;
      choose((active + 1 + step + turns) % turns - 1); // the box itself is one stop
    }
  });
  list.addEventListener('click', () => open(false)); // a link into this very page
  box.addEventListener('focusout', event => {
    if (!box.contains(event.relatedTarget)) setTimeout(() => open(false), 150);
  });
  document.addEventListener('keydown', event => {
    const at = document.activeElement;
    const types = /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName) || at.isContentEditable;
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    const asks = (event.key === '/' && plain && !types)
      || (event.key === 'k' && (event.ctrlKey || event.metaKey));
    if (!asks) return;
    event.preventDefault();
    input.focus();
    input.select();
  });
})();
