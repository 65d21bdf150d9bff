// Light or dark before the first paint: a script of its own, because the page may not hold one.
// What the person chose is kept in this browser; otherwise the system decides.
'use strict';
(() => {
  const read = () => {
    try {
      return localStorage.getItem('theme') || '';
    } catch {
      return ''; // storage is switched off: the choice lasts as long as the page
    }
  };
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new Event('themechange'));
  };
  apply(read());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => apply(read()));
  addEventListener('DOMContentLoaded', () => {
    const select = document.getElementById('theme');
    select.value = read();
    select.addEventListener('change', () => {
      try {
        localStorage.setItem('theme', select.value);
      } catch {
        // As above.
      }
      apply(select.value);
    });
  });
})();
