// What stands on the horizontal axis, and where a value falls on either axis.
const AXES = {
  step: {label: 'Step', x: (curve) => curve.steps, at: (step) => step},
  epoch: {label: 'Epoch', x: (curve, run) => curve.steps.map((s) => s * (run.batch || NaN) / (run.train || NaN)),
    at: (step, time, run) => step * (run.batch || NaN) / (run.train || NaN)},
  images: {label: 'Images seen', x: (curve, run) => curve.steps.map((s) => s * (run.batch || NaN)),
    at: (step, time, run) => step * (run.batch || NaN)},
  wall: {label: 'Wall time (hours)', x: (curve, run) => curve.times.map((t) => (run.timed ? t / 3600 : NaN)),
    at: (step, time, run) => (run.timed ? time / 3600 : NaN)},
  hours: {label: 'Device-hours', x: (curve, run) => curve.times.map((t) => deviceHours(run, t)),
    at: (step, time, run) => deviceHours(run, time)},
};
const AXIS_NAMES = {step: 'Step', epoch: 'Epoch', images: 'Images', wall: 'Wall time', hours: 'Device-hours'};

function deviceHours(run, time) {
  if (!run.timed) return NaN;
  let hours = 0;
  for (const [, began, ended, , processes] of run.attempts) {
    hours += Math.min(Math.max(time - began, 0), Math.max(ended - began, 0)) * processes / 3600;
  }
  return hours;
}

/** The curve's points on the chosen axis, ascending; without those that have no place there. */
function pointsOf(curve) {
  if (curve.cache[state.axis]) return curve.cache[state.axis];
  const x = AXES[state.axis].x(curve, data.runs[curve.run]);
  let order = [...x.keys()].filter((n) => Number.isFinite(x[n]));
  if (order.some((n, place) => place && x[n] < x[order[place - 1]])) order.sort((a, b) => x[a] - x[b]);
  const points = {x: Float64Array.from(order, (n) => x[n]), y: Float64Array.from(order, (n) => curve.values[n])};
  return (curve.cache[state.axis] = points);
}

/** Mean over the points within half a window to each side. */
function smoothed(points, window) {
  const {x, y} = points;
  const result = new Float64Array(y.length);
  let begin = 0, end = 0, sum = 0, count = 0;
  const add = (value, sign) => { if (Number.isFinite(value)) { sum += sign * value; count += sign; } };
  for (let n = 0; n < x.length; n++) {
    while (end < x.length && x[end] <= x[n] + window / 2) add(y[end++], 1);
    while (x[begin] < x[n] - window / 2) add(y[begin++], -1);
    result[n] = Number.isFinite(y[n]) && count ? sum / count : NaN;
  }
  return {x, y: result};
}

/** Index of the first x that is not below. */
function firstFrom(x, value) {
  let low = 0, high = x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}

function nearest(x, value) {
  const n = firstFrom(x, value);
  if (n === 0) return 0;
  return n === x.length || value - x[n - 1] <= x[n] - value ? n - 1 : n;
}

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  if (!(raw > 0)) return [low];
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw * 0.7);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n <= high / step + 1e-9; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  const factors = high / low > 200 ? [1] : high / low > 12 ? [1, 3] : [1, 2, 3, 5, 7];
  for (let d = Math.floor(Math.log10(low)); d <= Math.ceil(Math.log10(high)); d++) {
    for (const k of factors) if (k * 10 ** d >= low && k * 10 ** d <= high) found.push(Number((k * 10 ** d).toPrecision(3)));
  }
  return found.length > 1 ? found : ticks(low, high, 4).filter((v) => v > 0);
}
