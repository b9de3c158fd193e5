// One chart: a metric of all runs that are switched on.
const LEFT = 52, RIGHT = 14, TOP = 10, BOTTOM = 38;

function makeChart(metric) {
  const figure = make('figure', {class: 'chart card', 'data-key': metric.key});
  const log = make('button', {class: 'button', type: 'button', 'aria-pressed': 'false', title: 'Logarithmic scale', 'aria-label': `Log scale for ${metric.title}`}, 'log');
  const wide = make('button', {class: 'button', type: 'button', 'aria-pressed': 'false', title: 'Full width', 'aria-label': `Show ${metric.title} at full width`}, '↔');
  const svg = make('svg', {tabindex: '0', role: 'application', 'aria-roledescription': 'chart', 'aria-label': `${metric.title}. Arrow keys read the values of all runs.`});
  const says = make('p', {class: 'says'});
  figure.append(make('header', {}, make('h3', {}, metric.title, make('code', {}, metric.key)), log, wide), svg, says);
  const chart = {metric, figure, svg, says, log, seen: false, stale: true, cursor: null};
  log.addEventListener('click', () => {
    if (!state.log.delete(metric.key)) state.log.add(metric.key);
    chart.stale = true; draw(chart); showControls();
  });
  wide.addEventListener('click', () => {
    wide.setAttribute('aria-pressed', String(figure.classList.toggle('wide')));
    chart.stale = true; draw(chart);
  });
  listen(chart);
  return chart;
}

function isOn(curve) { return !state.off.has(curve.run); }

function draw(chart) {
  if (!chart.stale || !chart.seen) return;
  chart.stale = false;
  measure(chart);
  const {svg, width, height} = chart;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  svg.replaceChildren(...frame(chart), ...chart.lines.map((line) => drawLine(chart, line)), ...marks(chart));
  chart.over = svg.appendChild(make('g', {class: 'cursor'}));
  chart.log.hidden = !chart.positive;
  chart.log.setAttribute('aria-pressed', String(chart.logarithmic));
  chart.says.textContent = remarks(chart);
  applyFocus(chart);
}

/** Evaluations are few and exact, and the schedule of the learning rate is known: neither is smoothed. */
function isNoisy(metric) { return metric.family !== 'evaluation' && !/\blr$/.test(metric.key); }

/** Decide the lines, their extent and the scales. */
function measure(chart) {
  chart.width = Math.max(chart.svg.clientWidth || chart.figure.clientWidth - 30, 240);
  chart.height = chart.figure.classList.contains('wide') ? 400 : 250;
  const all = curvesOf(chart.metric.key).map((curve) => ({curve, points: pointsOf(curve)}));
  chart.placeless = new Set(all.filter((line) => !line.points.x.length && line.curve.steps.length).map((line) => line.curve.run)).size;
  chart.lines = all.filter((line) => isOn(line.curve) && line.points.x.length);
  const whole = extent(chart.lines.map((line) => line.points.x));
  chart.x = state.zoom || whole || [0, 1];
  if (chart.x[0] === chart.x[1]) chart.x = [chart.x[0] - 0.5, chart.x[1] + 0.5];
  chart.window = isNoisy(chart.metric) && whole ? state.smooth * (whole[1] - whole[0]) : 0;
  for (const line of chart.lines) {
    line.smooth = chart.window ? smoothed(line.points, chart.window) : null;
  }
  scaleUp(chart);
}

function scaleUp(chart) {
  const [left, right] = chart.x;
  let y = null;
  for (const {points} of chart.lines) {
    const from = Math.max(firstFrom(points.x, left) - 1, 0), to = Math.min(firstFrom(points.x, right) + 2, points.x.length);
    y = extent([points.y.subarray(from, to)], y);
  }
  chart.finite = y !== null;
  y = y || [0, 1];
  chart.positive = y[0] > 0;
  chart.logarithmic = state.log.has(chart.metric.key) && chart.positive;
  if (chart.logarithmic) {
    const room = Math.max((y[1] / y[0]) ** 0.05, 1.02);
    chart.y = [y[0] / room, y[1] * room];
  } else {
    const room = 0.06 * (y[1] - y[0]) || Math.abs(y[1]) * 0.05 || 0.5;
    chart.y = [y[0] - (y[0] >= 0 && y[0] < room ? y[0] : room), y[1] + room];
  }
}

function extent(arrays, begin) {
  let low = begin ? begin[0] : Infinity, high = begin ? begin[1] : -Infinity;
  for (const array of arrays) {
    for (const value of array) if (Number.isFinite(value)) { if (value < low) low = value; if (value > high) high = value; }
  }
  return low <= high ? [low, high] : null;
}

function placeX(chart, x) {
  return LEFT + (chart.width - LEFT - RIGHT) * (x - chart.x[0]) / (chart.x[1] - chart.x[0]);
}

function placeY(chart, y) {
  const t = chart.logarithmic ? Math.log(y / chart.y[0]) / Math.log(chart.y[1] / chart.y[0]) : (y - chart.y[0]) / (chart.y[1] - chart.y[0]);
  return TOP + (chart.height - TOP - BOTTOM) * (1 - t);
}

function valueX(chart, px) {
  return chart.x[0] + (chart.x[1] - chart.x[0]) * (px - LEFT) / (chart.width - LEFT - RIGHT);
}

function frame(chart) {
  const {width, height} = chart, floor = height - BOTTOM, parts = [];
  const up = !chart.finite ? [] : chart.logarithmic ? logTicks(...chart.y) : ticks(...chart.y, 5);
  for (const value of up) {
    const y = placeY(chart, value);
    parts.push(make('line', {class: 'gridline', x1: LEFT, x2: width - RIGHT, y1: y, y2: y}));
    parts.push(make('text', {x: LEFT - 7, y: y + 4, 'text-anchor': 'end'}, short(value)));
  }
  for (const value of ticks(...chart.x, Math.max(2, Math.floor(width / 62)))) {
    parts.push(make('text', {x: placeX(chart, value), y: floor + 16, 'text-anchor': 'middle'}, short(value)));
  }
  parts.push(make('line', {class: 'axisline', x1: LEFT, x2: width - RIGHT, y1: floor, y2: floor}));
  parts.push(make('text', {class: 'axis', x: (LEFT + width - RIGHT) / 2, y: height - 4, 'text-anchor': 'middle'}, AXES[state.axis].label));
  const nothing = !chart.lines.length ? 'No run to show on this axis' : chart.finite ? '' : 'Never finite';
  if (nothing) parts.push(make('text', {class: 'empty', x: (LEFT + width - RIGHT) / 2, y: floor / 2, 'text-anchor': 'middle'}, nothing));
  const clip = make('clipPath', {id: `clip-${chart.number}`}, make('rect', {x: LEFT, y: 0, width: width - LEFT - RIGHT, height: floor + 1}));
  return [clip, ...parts];
}

/** One curve: its line, a shape at its end, crosses where it was not finite. */
function drawLine(chart, line) {
  const {curve, points, smooth} = line, run = data.runs[curve.run], style = curve.average ? 'ema' : 'raw';
  const group = make('g', {class: `series k${run.colour}`, 'data-run': curve.run, 'data-average': curve.average});
  const clipped = group.appendChild(make('g', {'clip-path': `url(#clip-${chart.number})`}));
  if (smooth) clipped.append(make('path', {class: 'faint', d: pathOf(chart, points)}));
  clipped.append(make('path', {class: style, d: pathOf(chart, smooth || points)}));
  const broken = crosses(chart, points);
  if (broken) clipped.append(make('path', {class: 'broken', d: broken}));
  const shown = smooth || points;
  let last = shown.x.length - 1;
  while (last >= 0 && !Number.isFinite(shown.y[last])) last--;
  if (last >= 0 && !curve.average && shown.x[last] >= chart.x[0] && shown.x[last] <= chart.x[1]) {
    const at = `translate(${placeX(chart, shown.x[last])} ${placeY(chart, shown.y[last])}) scale(.85)`;
    group.append(make('path', {class: 'end', d: data.shapes[run.shape], transform: at}));
  }
  return group;
}

function pathOf(chart, {x, y}) {
  let text = '', pen = 'M';
  for (let n = 0; n < x.length; n++) {
    if (!Number.isFinite(y[n])) { pen = 'M'; continue; }
    text += `${pen}${placeX(chart, x[n]).toFixed(1)} ${placeY(chart, y[n]).toFixed(1)}`;
    const alone = pen === 'M' && !Number.isFinite(y[n + 1]);
    if (alone) text += 'h.01';
    pen = 'L';
  }
  return text;
}

function crosses(chart, {x, y}) {
  let text = '', before = -9;
  const floor = chart.height - BOTTOM - 6;
  for (let n = 0; n < x.length; n++) {
    const px = placeX(chart, x[n]);
    if (Number.isFinite(y[n]) || px - before < 4) continue;
    text += `M${(px - 3).toFixed(1)} ${floor - 3}l6 6m0 -6l-6 6`;
    before = px;
  }
  return text;
}

/** Restarts as ticks on the axis, and the target. */
function marks(chart) {
  const found = [], floor = chart.height - BOTTOM;
  const runs = new Set(chart.lines.map((line) => line.curve.run));
  for (const n of runs) {
    const run = data.runs[n], group = make('g', {class: `series k${run.colour}`, 'data-run': n});
    for (const [number, began, , step] of run.attempts.slice(1)) {
      const x = AXES[state.axis].at(step, began, run);
      if (!(x >= chart.x[0] && x <= chart.x[1])) continue;
      const tick = make('path', {class: 'restart', d: `M${placeX(chart, x).toFixed(1)} ${floor - 7}v12`});
      tick.append(make('title', {}, `${run.name}: attempt ${number} from step ${counted(step)}`));
      group.append(tick);
    }
    if (group.childElementCount) found.push(group);
  }
  if (chart.metric.key === data.metric && data.target !== null && data.target >= chart.y[0] && data.target <= chart.y[1]) {
    const y = placeY(chart, data.target);
    found.unshift(make('line', {class: 'target', x1: LEFT, x2: chart.width - RIGHT, y1: y, y2: y}),
      make('text', {class: 'target', x: LEFT + 6, y: y - 5}, `target ${written(data.target)}`));
  }
  return found;
}

function remarks(chart) {
  const parts = [];
  if (chart.window) parts.push(`Smoothed over ${100 * state.smooth} % of the axis; faint: the real values.`);
  if (chart.logarithmic) parts.push('Logarithmic scale.');
  if (chart.placeless) parts.push(`${chart.placeless} ${chart.placeless === 1 ? 'run does' : 'runs do'} not tell what this axis needs.`);
  return parts.join(' ');
}
