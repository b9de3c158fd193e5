// Begin: charts first, as they are what one waits for.
byId('charts').classList.toggle('many', data.runs.length > 8);
listenToControls();
makeLegend();
showCharts();
showControls();
performance.mark('first-chart');

document.querySelectorAll('table.sortable').forEach(makeSortable);
listenForTips();

const themeButton = byId('theme');
const darkWanted = window.matchMedia('(prefers-color-scheme: dark)');
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : darkWanted.matches;
}
function showTheme() {
  themeButton.hidden = false;
  themeButton.textContent = isDark() ? 'Light' : 'Dark';
  themeButton.setAttribute('aria-label', `Switch to ${isDark() ? 'light' : 'dark'} colours`);
}
themeButton.addEventListener('click', () => {
  document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
  try { localStorage.setItem('cait-theme', document.documentElement.dataset.theme); } catch (denied) { /* not remembered then */ }
  showTheme();
});
darkWanted.addEventListener('change', showTheme);
showTheme();

let width = window.innerWidth;
window.addEventListener('resize', () => {
  if (window.innerWidth === width) return;
  width = window.innerWidth;
  requestAnimationFrame(redraw);
});
window.addEventListener('beforeprint', () => {
  document.querySelectorAll('details').forEach((one) => { one.open = true; });
  drawings.forEach((chart) => { chart.seen = true; draw(chart); });
});
