// One switch in the bar at the top, "Show all code", opens and closes every fold of the page
// but the solutions; its place is remembered over pages.
(() => {
  const folds = document.querySelectorAll('details.code-fold:not(.solution)');
  const bar = document.querySelector('#navbarCollapse .ms-auto');
  if (!bar) return;
  const memory = {
    get() {
      try { return localStorage.getItem('show-all-code') === 'yes'; } catch { return false; }
    },
    set(on) { try { localStorage.setItem('show-all-code', on ? 'yes' : 'no'); } catch {} },
  };
  const item = document.createElement('li');
  item.className = 'nav-item show-all-code';
  item.innerHTML = '<label class="nav-link form-switch">'
    + '<input type="checkbox" role="switch" class="form-check-input"> Show all code</label>';
  bar.prepend(item);
  const box = item.querySelector('input');
  const apply = () => folds.forEach(fold => { fold.open = box.checked; });
  box.addEventListener('change', () => {
    // what is read stays where it is
    const below = node => node.getBoundingClientRect().top > 80;
    const anchor = [...document.querySelectorAll('main h2, main h3, main p')].find(below);
    const before = anchor?.getBoundingClientRect().top;
    memory.set(box.checked);
    apply();
    if (!anchor) return;
    scrollBy({top: anchor.getBoundingClientRect().top - before, behavior: 'instant'});
  });
  box.checked = memory.get();
  if (box.checked) apply();
})();
