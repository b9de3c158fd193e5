// The curves as page_payload.py writes them, and the state that all charts share.
const data = JSON.parse(document.getElementById('data').textContent);
const state = {axis: 'step', smooth: 0.01, family: 'overview', metric: '', off: new Set(), log: new Set(), zoom: null, focus: null};
const drawings = [];

function sums(differences) {
  let total = 0;
  return Float64Array.from(differences, (d) => (total += d));
}

function decode([run, average, steps, values, times]) {
  const tick = data.runs[run].tick;
  return {
    run, average, steps: sums(steps), times: sums(times).map((t) => t * tick),
    values: Float64Array.from(values, (v) => (v === null ? NaN : v)), cache: {},
  };
}

const decoded = {};
function curvesOf(key) {
  if (!decoded[key]) decoded[key] = (data.curves[key] || []).map(decode);
  return decoded[key];
}

function make(tag, attributes, ...children) {
  const svg = ['svg', 'g', 'path', 'line', 'text', 'circle', 'rect', 'clipPath'].includes(tag);
  const element = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function markOf(run) {
  const {colour, shape} = data.runs[run];
  return make('svg', {class: `mark k${colour}`, viewBox: '-6.5 -6.5 13 13', 'aria-hidden': 'true'},
    make('path', {d: data.shapes[shape]}));
}

function written(value) {
  if (value === null || Number.isNaN(value)) return 'not finite';
  const size = Math.abs(value);
  if (size >= 1e9 || (size > 0 && size < 1e-4)) return value.toExponential(3).replace('-', '−');
  return value.toLocaleString('en-US', {maximumSignificantDigits: 5}).replace('-', '−');
}

/** A step or a number of images to its last digit. */
function counted(value) { return Number.isInteger(value) ? value.toLocaleString('en-US') : written(value); }

/** With the same number of places each, so that a column of them can be read. */
function writtenAlike(values) {
  const texts = values.map((value) => (value === undefined ? '–' : written(value)));
  const plain = texts.map((text) => /^[−\d,.]+$/.test(text));
  const places = Math.max(0, ...texts.map((text, n) => (plain[n] && text.includes('.') ? text.length - text.indexOf('.') - 1 : 0)));
  const digits = {minimumFractionDigits: Math.min(places, 8), maximumFractionDigits: Math.min(places, 8)};
  return texts.map((text, n) => (plain[n] ? values[n].toLocaleString('en-US', digits).replace('-', '−') : text));
}

function short(value) {
  const size = Math.abs(value);
  for (const [unit, sign] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (size >= unit * (unit === 1e3 ? 10 : 1)) return `${Number((value / unit).toPrecision(4))}${sign}`;
  }
  if (size > 0 && size < 1e-4) return value.toExponential(0).replace('-', '−');
  return String(Number(value.toPrecision(6))).replace('-', '−');
}
