// Marks the first mention of each word of the glossary on a page. Pointing at it, focusing or
// tapping it shows what it means; Escape, leaving, or a tap elsewhere hides it.
(() => {
  'use strict';
  const data = document.getElementById('glossary-terms');
  const main = document.querySelector('main');
  if (!data || !main) return;
  const home = document.querySelector('meta[name="smalldocs:offset"]').content;
  const never = 'a, code, pre, h1, h2, h3, h4, summary, button, label, input, textarea, svg, ' +
    '.math, .katex, .live-figure, .exercise, .term, .lesson-facts, .references, .description, ' +
    'figure, nav';

  function texts() {
    const found = [];
    for (const block of main.querySelectorAll('p, li, td')) {
      if (block.closest('.live-figure, .exercise, .references, .lesson-facts, pre')) continue;
      const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
      while (walker.nextNode())
        if (!walker.currentNode.parentElement.closest(never)) found.push(walker.currentNode);
    }
    return [...new Set(found)];
  }

  function mark(node, from, to, [word, , meaning, page, anchor]) {
    node.splitText(to);
    const said = node.splitText(from);
    const term = document.createElement('span');
    term.className = 'term';
    term.tabIndex = 0;
    term.role = 'button';
    term.ariaExpanded = 'false';
    said.replaceWith(term);
    term.append(said);
    const box = document.createElement('span');
    box.className = 'term-box';
    box.id = `term-${anchor}`;
    box.role = 'group';
    box.ariaLabel = word;
    box.hidden = true;
    const bold = document.createElement('strong'), links = document.createElement('span');
    bold.textContent = word;
    links.className = 'term-links';
    for (const [text, href] of [['Explained here', page],
      ['Glossary', `${home}glossary.html#${anchor}`]]) {
      const isHere = new URL(href, location).pathname === location.pathname;
      if (isHere) continue;
      const link = document.createElement('a');
      link.textContent = text;
      link.href = href;
      links.append(link);
    }
    box.append(bold, ` ${meaning} `, links);
    term.after(box);
    term.setAttribute('aria-controls', box.id);
    attach(term, box);
  }

  // ---- one box at a time
  let shown = null, timer = 0;
  function hide() {
    clearTimeout(timer);
    if (!shown) return;
    shown.box.hidden = true;
    shown.term.ariaExpanded = 'false';
    shown = null;
  }
  function show(term, box) {
    clearTimeout(timer);
    if (shown?.box === box) return;
    hide();
    box.hidden = false;
    term.ariaExpanded = 'true';
    shown = {term, box};
    const at = term.getClientRects()[0], {width, height} = box.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8));
    const isRoomBelow = at.bottom + height + 12 < innerHeight;
    box.style.left = `${left}px`;
    box.style.top = `${isRoomBelow ? at.bottom + 4 : at.top - height - 4}px`;
  }
  function attach(term, box) {
    const soon = (task, wait) => { clearTimeout(timer); timer = setTimeout(task, wait); };
    for (const part of [term, box]) { // the pointer may move onto the box
      part.addEventListener('pointerenter', event => {
        if (event.pointerType === 'mouse') soon(() => show(term, box), 150);
      });
      part.addEventListener('pointerleave', event => {
        if (event.pointerType === 'mouse') soon(hide, 250);
      });
      part.addEventListener('focusout', event => {
        if (![term, box].some(own => own.contains(event.relatedTarget))) soon(hide, 0);
      });
    }
    term.addEventListener('focus', () => show(term, box));
    term.addEventListener('click', () => show(term, box));
    term.addEventListener('keydown', event => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      if (box.hidden) show(term, box); else hide();
    });
  }
  document.addEventListener('keydown', event => {
    if (event.key !== 'Escape' || !shown) return;
    const {term, box} = shown;
    if (box.contains(document.activeElement)) term.focus();
    hide();
  });
  document.addEventListener('pointerdown', event => {
    if (shown && !shown.term.contains(event.target) && !shown.box.contains(event.target)) hide();
  });
  addEventListener('scroll', hide, {passive: true});

  for (const term of JSON.parse(data.textContent)) {
    const pattern = new RegExp(term[1].replaceAll('(?<!\\w)', '(?<![\\p{L}\\p{N}_])')
      .replaceAll('(?!\\w)', '(?![\\p{L}\\p{N}_])'), 'u');
    for (const node of texts()) {
      const found = pattern.exec(node.data);
      if (!found) continue;
      mark(node, found.index, found.index + found[0].length, term);
      break;
    }
  }
})();
