// Reading values: by pointing, by touch and with arrow keys; and dragging to look closer.
const readout = document.getElementById('readout');

function listen(chart) {
  const {svg} = chart;
  let from = null;
  const within = (event) => event.clientX - svg.getBoundingClientRect().left;
  svg.addEventListener('pointerdown', (event) => {
    if (event.pointerType === 'mouse' && event.button === 0) { from = within(event); svg.setPointerCapture(event.pointerId); }
    read(chart, valueX(chart, within(event)), event.offsetY);
  });
  svg.addEventListener('pointermove', (event) => {
    read(chart, valueX(chart, within(event)), event.offsetY);
    if (from !== null) brush(chart, from, within(event));
  });
  svg.addEventListener('pointerup', (event) => {
    if (from !== null && Math.abs(within(event) - from) > 8) {
      zoomTo([valueX(chart, Math.min(from, within(event))), valueX(chart, Math.max(from, within(event)))]);
    }
    from = null;
  });
  svg.addEventListener('pointercancel', () => { from = null; });
  svg.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse') letGo(chart); });
  svg.addEventListener('dblclick', () => zoomTo(null));
  svg.addEventListener('blur', () => letGo(chart));
  svg.addEventListener('focus', () => { if (svg.matches(':focus-visible')) read(chart, chart.x[1], null); });
  svg.addEventListener('keydown', (event) => pressed(chart, event));
}

function pressed(chart, event) {
  const places = [...new Set(chart.lines.flatMap((line) => [...line.points.x]))].filter((x) => x >= chart.x[0] && x <= chart.x[1]).sort((a, b) => a - b);
  if (!places.length || event.ctrlKey || event.metaKey || event.altKey) return;
  const here = chart.cursor === null ? places.length - 1 : nearest(places, chart.cursor);
  const stride = event.shiftKey ? 10 : 1;
  const moves = {ArrowLeft: here - stride, ArrowRight: here + stride, Home: 0, End: places.length - 1};
  if (event.key in moves) read(chart, places[Math.min(Math.max(moves[event.key], 0), places.length - 1)], null);
  else if (event.key === 'Escape') letGo(chart);
  else if (event.key === '+' || event.key === '=') closer(chart, 0.5);
  else if (event.key === '-') closer(chart, 2);
  else return;
  event.preventDefault();
}

function closer(chart, factor) {
  const middle = chart.cursor === null ? (chart.x[0] + chart.x[1]) / 2 : chart.cursor;
  const half = (chart.x[1] - chart.x[0]) * factor / 2;
  const all = wholeAxis() || [0, 1];
  const wanted = [Math.max(middle - half, all[0]), Math.min(middle + half, all[1])];
  zoomTo(wanted[0] <= all[0] && wanted[1] >= all[1] ? null : wanted);
}

function zoomTo(range) {
  state.zoom = range;
  redraw();
  showControls();
}

function brush(chart, from, to) {
  chart.over.append(make('rect', {class: 'brush', x: Math.min(from, to), width: Math.abs(to - from), y: TOP, height: chart.height - TOP - BOTTOM}));
}

/** Of each run its values at the point nearest to x, best first. */
function valuesAt(chart, x) {
  const rows = new Map();
  const inside = chart.lines.filter((line) => line.points.x.length);
  let place = null;
  for (const line of inside) {
    const at = nearest(line.points.x, x), found = line.points.x[at];
    if (place === null || Math.abs(found - x) < Math.abs(place - x)) place = found;
    const row = rows.get(line.curve.run) || {run: line.curve.run, x: found, values: [undefined, undefined]};
    row.values[line.curve.average] = line.points.y[at];
    if (!line.curve.average) row.x = found;
    rows.set(line.curve.run, row);
  }
  const lower = chart.metric.key === data.metric ? !data.higher : /loss|seconds/.test(chart.metric.key);
  const key = (row) => { const v = row.values[0] !== undefined ? row.values[0] : row.values[1]; return Number.isFinite(v) ? (lower ? v : -v) : Infinity; };
  return {place, rows: [...rows.values()].sort((a, b) => key(a) - key(b) || a.run - b.run)};
}

function read(chart, x, pointerY) {
  if (chart.stale || !chart.lines.length) return;
  const {place, rows} = valuesAt(chart, x);
  const away = 0.02 * (chart.x[1] - chart.x[0]);
  chart.cursor = place;
  const px = placeX(chart, place);
  const dots = [];
  let near = null, distance = 26;
  for (const row of rows) {
    row.values.forEach((value, average) => {
      if (!Number.isFinite(value) || Math.abs(row.x - place) > away) return;
      const y = placeY(chart, value), gap = pointerY === null ? Infinity : Math.abs(y - pointerY);
      dots.push(make('circle', {class: `k${data.runs[row.run].colour}`, cx: placeX(chart, row.x), cy: y, r: average ? 3 : 4}));
      if (gap < distance) { distance = gap; near = row.run; }
    });
  }
  chart.over.replaceChildren(make('line', {x1: px, x2: px, y1: TOP, y2: chart.height - BOTTOM}), ...dots);
  focusOn(data.runs.length > 3 ? near : null);
  tell(chart, place, rows, near, away, px);
}

function tell(chart, place, rows, near, away, px) {
  const average = rows.some((row) => row.values[1] !== undefined);
  const table = make('table', {});
  if (average) table.append(make('tr', {}, make('th', {}), make('th', {}, 'raw'), make('th', {}, 'EMA')));
  const texts = writtenAlike(rows.flatMap((row) => row.values));
  rows.forEach((row, number) => {
    const far = Math.abs(row.x - place) > away;
    const line = make('tr', {class: `${row.run === near ? 'near' : ''}${far ? ' off' : ''}`, 'data-run': row.run});
    line.append(make('th', {scope: 'row'}, markOf(row.run), ` ${data.runs[row.run].name}`));
    const [raw, ema] = texts.slice(2 * number, 2 * number + 2);
    for (const text of average ? [raw, ema] : [raw]) line.append(make('td', {}, text));
    if (far) line.append(make('th', {}, `at ${short(row.x)}`));
    table.append(line);
  });
  readout.replaceChildren(make('b', {}, `${AXES[state.axis].label} ${counted(place)}`), table);
  readout.hidden = false;
  const box = chart.svg.getBoundingClientRect(), own = readout.getBoundingClientRect();
  const right = box.left + px + 18 + own.width < document.documentElement.clientWidth - 8;
  readout.style.left = `${window.scrollX + Math.max(8, right ? box.left + px + 18 : box.left + px - 18 - own.width)}px`;
  readout.style.top = `${window.scrollY + Math.max(60, Math.min(box.top + 8, window.innerHeight - own.height - 12))}px`;
}

function letGo(chart) {
  chart.cursor = null;
  if (chart.over) chart.over.replaceChildren();
  readout.hidden = true;
  focusOn(null);
}

function focusOn(run) {
  if (state.focus === run) return;
  state.focus = run;
  drawings.forEach(applyFocus);
}

function applyFocus(chart) {
  chart.svg.classList.toggle('focused', state.focus !== null);
  for (const group of chart.svg.querySelectorAll('.series')) group.classList.toggle('on', Number(group.dataset.run) === state.focus);
}

/** A word about a mark of a plot, for pointer, touch and keyboard alike. */
function listenForTips() {
  for (const title of document.querySelectorAll('[data-tip] > title')) title.remove();
  const show = (event) => {
    const mark = event.target.closest('[data-tip]');
    if (!mark) { if (!event.target.closest('.chart')) readout.hidden = true; return; }
    readout.replaceChildren(mark.dataset.tip);
    readout.hidden = false;
    const box = mark.getBoundingClientRect(), own = readout.getBoundingClientRect();
    readout.style.left = `${window.scrollX + Math.max(8, Math.min(box.left + 14, document.documentElement.clientWidth - own.width - 8))}px`;
    readout.style.top = `${window.scrollY + (box.top - own.height - 10 > 56 ? box.top - own.height - 10 : box.bottom + 10)}px`;
  };
  document.addEventListener('pointerover', show);
  document.addEventListener('pointerdown', show);
  document.addEventListener('focusin', show);
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') readout.hidden = true; });
}
