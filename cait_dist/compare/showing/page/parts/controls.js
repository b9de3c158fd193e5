// Which charts, which axis, which runs.
const byId = (id) => document.getElementById(id);
const chips = [];

function redraw() {
  for (const chart of drawings) { chart.stale = true; chart.cursor = null; }
  readout.hidden = true;
  drawings.forEach(draw);
}

const watcher = 'IntersectionObserver' in window && new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = drawings.find((one) => one.figure === entry.target);
    if (chart && entry.isIntersecting) { chart.seen = true; draw(chart); }
  }
}, {rootMargin: '600px'});

function wantedMetrics() {
  if (state.metric) return data.metrics.filter((metric) => metric.key === state.metric);
  if (state.family === 'overview') return data.overview.map((key) => data.metrics.find((metric) => metric.key === key));
  return data.metrics.filter((metric) => metric.family === state.family);
}

function showCharts() {
  drawings.length = 0;
  if (watcher) watcher.disconnect();
  const metrics = wantedMetrics();
  metrics.forEach((metric, number) => {
    const chart = makeChart(metric);
    chart.number = number;
    if (state.metric) chart.figure.classList.add('wide');
    drawings.push(chart);
  });
  byId('charts').replaceChildren(...(drawings.length ? drawings.map((chart) => chart.figure) : [make('p', {class: 'none'}, 'No run has recorded any curve.')]));
  drawings.slice(0, 1).forEach((chart) => { chart.seen = true; draw(chart); });
  for (const chart of drawings) { if (watcher) watcher.observe(chart.figure); else { chart.seen = true; draw(chart); } }
}

function showControls() {
  for (const tab of byId('families').children) tab.setAttribute('aria-selected', String(!state.metric && tab.dataset.family === state.family));
  for (const option of byId('axis').children) {
    const chosen = option.dataset.axis === state.axis;
    option.setAttribute('aria-checked', String(chosen));
    option.tabIndex = chosen ? 0 : -1;
  }
  const losses = data.metrics.filter((metric) => /loss$/.test(metric.key));
  byId('log').hidden = !losses.length;
  byId('log').setAttribute('aria-pressed', String(losses.length > 0 && losses.every((metric) => state.log.has(metric.key))));
  byId('unzoom').hidden = state.zoom === null;
  byId('late').hidden = state.zoom !== null;
  for (const {chip, runs} of chips) chip.setAttribute('aria-pressed', String(runs.some((run) => !state.off.has(run))));
}

function listenToControls() {
  byId('families').addEventListener('click', (event) => {
    if (!event.target.dataset.family) return;
    state.family = event.target.dataset.family;
    state.metric = byId('metric').value = '';
    showCharts(); showControls();
  });
  byId('metric').addEventListener('change', (event) => { state.metric = event.target.value; showCharts(); showControls(); });
  byId('smooth').addEventListener('change', (event) => { state.smooth = Number(event.target.value); redraw(); });
  byId('log').addEventListener('click', toggleLosses);
  byId('late').addEventListener('click', () => {
    const whole = wholeAxis();
    if (whole) zoomTo([whole[1] - (whole[1] - whole[0]) / 4, whole[1]]);
  });
  byId('unzoom').addEventListener('click', () => zoomTo(null));
  for (const [axis, name] of Object.entries(AXIS_NAMES)) {
    byId('axis').append(make('button', {type: 'button', role: 'radio', 'data-axis': axis}, name));
  }
  byId('axis').addEventListener('click', (event) => { if (event.target.dataset.axis) chooseAxis(event.target.dataset.axis); });
  byId('axis').addEventListener('keydown', (event) => {
    const names = Object.keys(AXIS_NAMES), turn = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (!turn) return;
    chooseAxis(names[(names.indexOf(state.axis) + turn + names.length) % names.length]);
    byId('axis').querySelector('[aria-checked="true"]').focus();
    event.preventDefault();
  });
}

/** From where to where the runs go that are switched on. */
function wholeAxis() {
  const curves = drawings.flatMap((chart) => curvesOf(chart.metric.key)).filter(isOn);
  return extent(curves.map((curve) => pointsOf(curve).x));
}

function toggleLosses() {
  const losses = data.metrics.filter((metric) => /loss$/.test(metric.key)).map((metric) => metric.key);
  const on = losses.every((key) => state.log.has(key));
  losses.forEach((key) => (on ? state.log.delete(key) : state.log.add(key)));
  redraw(); showControls();
}

function chooseAxis(axis) {
  state.axis = axis;
  state.zoom = null;
  redraw(); showControls();
}

function makeLegend() {
  const legend = byId('legend'), runs = data.runs.map((run, n) => n);
  if (runs.length > 1) legend.append(chipFor('all runs', runs));
  const labels = [...data.groups, ''].filter((label) => data.runs.some((run) => run.group === label));
  for (const label of labels) {
    const members = runs.filter((n) => data.runs[n].group === label);
    const box = legend.appendChild(make('span', {class: 'of'}));
    if (label && members.length > 1 && labels.length > 1) box.append(chipFor(label, members));
    members.forEach((n) => box.append(chipFor(data.runs[n].name, [n], markOf(n))));
  }
}

function chipFor(text, runs, mark) {
  const chip = make('button', {class: mark ? 'chip' : 'chip group', type: 'button', title: text}, ...(mark ? [mark] : []), make('span', {}, text));
  if (mark) chip.dataset.run = runs[0];
  chip.addEventListener('click', () => {
    const anyOn = runs.some((run) => !state.off.has(run));
    runs.forEach((run) => (anyOn ? state.off.add(run) : state.off.delete(run)));
    redraw(); showControls();
  });
  chip.addEventListener('dblclick', () => {
    state.off = new Set(data.runs.map((run, n) => n).filter((n) => !runs.includes(n)));
    redraw(); showControls();
  });
  if (mark) {
    chip.addEventListener('pointerenter', (event) => { if (event.pointerType === 'mouse') focusOn(runs[0]); });
    chip.addEventListener('pointerleave', () => focusOn(null));
    chip.addEventListener('focus', () => { if (chip.matches(':focus-visible')) focusOn(runs[0]); });
    chip.addEventListener('blur', () => focusOn(null));
  }
  chips.push({chip, runs});
  return chip;
}
