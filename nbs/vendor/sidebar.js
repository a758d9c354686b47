// The page that is open, in the middle of the sidebar: one sees where one is.
(() => {
  const link = document.querySelector('.sidebar-link.active');
  let box = link;
  while (box && box.scrollHeight <= box.clientHeight + 1) box = box.parentElement;
  if (!link || !box || box === document.documentElement || box === document.body) return;
  const [own, outer] = [link, box].map(node => node.getBoundingClientRect());
  box.scrollTop += own.top - outer.top - outer.height / 2;
})();
