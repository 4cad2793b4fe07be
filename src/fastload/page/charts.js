// Charts: bytes by dtype, bytes by layer, and how the values of a tensor spread.

const MAX_LARGEST = 5; // tensors that are listed
const MAX_BARS = 160; // of layers; more are put together
const MAX_PARTS = 6; // of a layer that have a colour of their own
const CHART = { height: 220, letter: 7, right: 8, top: 10, bottom: 26 };
const MIN_WIDTH = 260; // pixels of a chart
const MAX_PITCH = 110; // pixels from one bar to the next

// By dtype: a bar and its figures, which is also the button that shows only these.

function dtypeChart(element, chosen) {
  const sums = new Map();
  for (let row = 0; row < total; row++) {
    const name = dtypeOf(row);
    const sum = sums.get(name) ?? { tensors: 0, elements: 0, nbytes: 0 };
    sum.tensors += 1;
    sum.elements += elementsOf(row);
    sum.nbytes += nbytesOf(row);
    sums.set(name, sum);
  }
  const rows = [...sums].sort(([, one], [, other]) => other.nbytes - one.nbytes);
  const largest = rows.length ? rows[0][1].nbytes : 0;
  element.replaceChildren(
    ...rows.map(([name, sum], place) => {
      const fill = make("span", { class: `fill c${place % HUES}` });
      fill.style.width = `${largest ? (100 * sum.nbytes) / largest : 0}%`;
      const button = make(
        "button",
        { type: "button", class: "dtype-row", title: `Show only ${name} in the table` },
        make("span", { class: "dtype-name" }, name),
        make("span", { class: "track" }, fill),
        make("span", { class: "number" }, size(sum.nbytes)),
        make("span", { class: "number muted" }, percent(sum.nbytes, root.nbytes)),
        make("span", { class: "number muted wide" }, count(sum.tensors, "tensor")),
      );
      button.addEventListener("click", () => chosen(name));
      return button;
    }),
  );
  if (!rows.length) element.append(make("p", { class: "muted empty" }, "No tensors."));
  return rows.map(([name]) => name);
}

function largestRows(element, opened) {
  const rows = Array.from({ length: total }, (_, row) => row);
  rows.sort((one, other) => nbytesOf(other) - nbytesOf(one) || one - other);
  for (const row of rows.slice(0, MAX_LARGEST)) {
    const button = make("button", { type: "button", class: "large-row" }, nameOf(names[row]), make("span", { class: "number" }, size(at("nbytes", row))));
    button.addEventListener("click", () => opened(row));
    element.append(button);
  }
}

// By layer: names that have one text before their first number belong together; the number is the layer.

function layerGroups() {
  const groups = new Map();
  const number = /(?:^|\.)(\d{1,9})(?=\.|$)/;
  for (let row = 0; row < total; row++) {
    const found = number.exec(names[row]);
    if (!found) continue;
    const start = found.index + found[0].length;
    const prefix = names[row].slice(0, start - found[1].length);
    const [part] = names[row].slice(start + 1).split(".", 1);
    const group = groups.get(prefix) ?? { prefix, nbytes: 0, layers: new Map(), parts: new Map() };
    groups.set(prefix, group);
    const layer = group.layers.get(Number(found[1])) ?? { nbytes: 0, parts: new Map() };
    group.layers.set(Number(found[1]), layer);
    const nbytes = nbytesOf(row);
    for (const sum of [group, layer]) {
      sum.nbytes += nbytes;
      sum.parts.set(part, (sum.parts.get(part) ?? 0) + nbytes);
    }
  }
  return [...groups.values()].filter((group) => group.layers.size > 1).sort((one, other) => other.nbytes - one.nbytes);
}

function layerChart(element, group) {
  const parts = [...group.parts].sort((one, other) => other[1] - one[1]).map(([part]) => part);
  const own = parts.slice(0, parts.length > MAX_PARTS ? MAX_PARTS - 1 : MAX_PARTS);
  const numbers = [...group.layers.keys()].sort((one, other) => one - other);
  const step = Math.ceil(numbers.length / MAX_BARS);
  const bars = [];
  for (let start = 0; start < numbers.length; start += step) {
    const some = numbers.slice(start, start + step);
    const layers = some.map((layer) => group.layers.get(layer));
    const sums = own.map((part) => layers.reduce((sum, layer) => sum + (layer.parts.get(part) ?? 0), 0));
    const nbytes = layers.reduce((sum, layer) => sum + layer.nbytes, 0);
    if (parts.length > own.length) sums.push(nbytes - sums.reduce((sum, value) => sum + value, 0));
    const label = some.length > 1 ? `${some[0]}–${some[some.length - 1]}` : String(some[0]);
    bars.push({ label, sums, height: nbytes, told: `${clipped(group.prefix, 80)}${label}: ${size(nbytes)}` });
  }
  const legend = make("div", { class: "legend" });
  const labels = parts.length > own.length ? [...own, `${parts.length - own.length} others`] : own;
  labels.forEach((label, place) => {
    const color = place < own.length ? `c${place % HUES}` : "rest";
    legend.append(make("span", {}, make("i", { class: `dot ${color}` }), clipped(label || "(itself)", 40)));
  });
  const stacks = bars.map(({ label, sums, height, told }) => {
    const pieces = sums.map((value, place) => ({ value, color: place < own.length ? `c${place % HUES}` : "rest" }));
    return { label, told, height, pieces };
  });
  const title = `Bytes of ${count(numbers.length, "layer")} of ${clipped(group.prefix, 80)}`;
  element.replaceChildren(...barChart(stacks, { title, tick: size, width: Math.max(element.clientWidth, MIN_WIDTH) }), ...(labels.length > 1 ? [legend] : []));
}

// How the values of a tensor spread.

function histogramChart(place) {
  const { counts, low, high, values } = Object.fromEntries(
    ["counts", "low", "high", "values"].map((name) => [name, data.histograms[name][place]]),
  );
  if (!counts.length) return [make("p", { class: "muted" }, "No value is finite.")];
  const width = (high - low) / counts.length;
  const isWhole = width === 1 && Number.isInteger(low + 0.5); // a bin for each integer
  const stacks = counts.map((amount, bin) => {
    const edges = [low + bin * width, low + (bin + 1) * width].map((edge) => figure(Number(edge.toPrecision(4))));
    const range = isWhole ? figure(low + 0.5 + bin) : edges.join(" to ");
    return { told: `${range}: ${count(amount, "value")}, ${percent(amount, values)}`, height: amount, pieces: [{ value: amount, color: "c0" }] };
  });
  const title = `Histogram of ${count(values, "value")} from ${figure(low)} to ${figure(high)}`;
  const chart = make("div");
  const ends = isWhole ? [low + 0.5, high - 0.5] : [low, high];
  const isLog = make("input", { type: "checkbox" });
  const redraw = () => chart.replaceChildren(...barChart(stacks, { title, tick: grouped, width: Math.max(by("detail-body").clientWidth, MIN_WIDTH), ends, isLog: isLog.checked, gap: counts.length < 40 ? 1 : 0.5 }));
  isLog.addEventListener("change", redraw);
  redraw();
  return [chart, make("label", { class: "inline" }, isLog, " logarithmic counts")];
}

// Stacked bars with an axis, and a line below that tells of the bar under the pointer, or chosen by the arrow keys.

function barChart(stacks, { title, tick, width, ends = null, isLog = false, gap = 1.5 }) {
  const { height, letter, right, top, bottom } = CHART;
  const most = Math.max(...stacks.map((stack) => stack.height), 1);
  const scale = isLog ? (value) => Math.log1p(value) / Math.log1p(most) : (value) => value / most;
  const room = height - top - bottom;
  const longest = (texts) => Math.max(...texts.map((text) => text.length)) * letter;
  const marks = isLog ? [1, Math.round(Math.sqrt(most)), most] : [0.25, 0.5, 0.75, 1].map((share) => share * most);
  const left = longest(marks.map((value) => tick(Math.round(value)))) + 12;
  const pitch = Math.min((width - left - right) / stacks.length, MAX_PITCH);
  const y = (value) => top + room * (1 - scale(value));
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", tabindex: "0", "aria-label": `${title}. Arrow keys tell of each bar.` });
  for (const value of new Set(marks)) {
    if (!isLog && tick === grouped && !Number.isInteger(value) && most < 4) continue;
    svg.append(draw("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tick(Math.round(value))));
  }
  const places = stacks.map((stack, place) => {
    const x = left + place * pitch;
    let below = 0;
    for (const { value, color } of stack.pieces) {
      if (!value) continue;
      const from = y(below);
      below += value;
      const tall = Math.max(from - y(below), below === stack.height ? 0.75 : 0);
      svg.append(draw("rect", { class: `piece ${color}`, x: x + gap / 2, y: from - tall, width: Math.max(pitch - gap, 0.5), height: tall }));
    }
    return x;
  });
  svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: top + room, y2: top + room }));
  const base = height - 8;
  if (ends) {
    const [low, high] = ends;
    const right_ = left + pitch * stacks.length;
    svg.append(draw("text", { class: "tick", x: left, y: base }, figure(low)));
    if (high !== low) svg.append(draw("text", { class: "tick", x: right_, y: base, "text-anchor": "end" }, figure(high)));
    const zero = left + ((0 - low) / (high - low)) * (right_ - left);
    if (zero > left + 60 && zero < right_ - 60) {
      svg.append(draw("line", { class: "zero", x1: zero, x2: zero, y1: top, y2: top + room }), draw("text", { class: "tick", x: zero, y: base, "text-anchor": "middle" }, "0"));
    }
  } else {
    const every = Math.ceil((longest(stacks.map((stack) => stack.label)) + 16) / pitch);
    stacks.forEach((stack, place) => {
      if (place % every === 0) svg.append(draw("text", { class: "tick", x: places[place] + pitch / 2, y: base, "text-anchor": "middle" }, stack.label));
    });
  }
  const cursor = draw("rect", { class: "cursor", y: top, height: room, width: pitch, visibility: "hidden" });
  svg.append(cursor);
  const told = make("p", { class: "told muted", role: "status" }, "\u00a0");
  let chosen = -1;
  const choose = (place) => {
    chosen = Math.max(0, Math.min(place, stacks.length - 1));
    cursor.setAttribute("x", places[chosen]);
    cursor.setAttribute("visibility", "visible");
    told.textContent = stacks[chosen].told;
  };
  svg.addEventListener("pointermove", (event) => {
    const bounds = svg.getBoundingClientRect();
    const x = ((event.clientX - bounds.left) / bounds.width) * width;
    if (x >= left && x < left + pitch * stacks.length) choose(Math.floor((x - left) / pitch));
  });
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: chosen + 1, ArrowLeft: chosen - 1, Home: 0, End: stacks.length - 1 };
    if (!(event.key in moves)) return;
    choose(moves[event.key]);
    event.preventDefault();
  });
  return [svg, told];
}
