"use strict";
// What the page is about: the columns of the JSON, the tree of names, and how numbers and names are shown.

const data = JSON.parse(document.getElementById("data").textContent);
const MAX_DEPTH = 64; // of the tree; hostile names have a million dots
const MAX_SHOWN = 400; // characters of a name in a row
const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

const names = [];
data.names.rest.forEach((rest, row) => {
  names.push(row ? names[row - 1].slice(0, data.names.shared[row]) + rest : rest);
});
const total = names.length;

// A column in which all values are one is that value.
function at(column, row) {
  const values = data.columns[column];
  return Array.isArray(values) ? values[row] : values;
}

const shapes = data.shapes;
const shapeTexts = shapes.map((shape) => (shape.length ? shape.join(" × ") : "scalar"));
const shapeElements = shapes.map((shape) => shape.reduce((product, size) => product * Number(size), 1));
const dtypeOf = (row) => data.dtypes[at("dtype", row)];
const nbytesOf = (row) => Number(at("nbytes", row)); // integers beyond 2**53 are text
const elementsOf = (row) => shapeElements[at("shape", row)];
const histogramOf = new Map(data.histograms.row.map((row, place) => [row, place]));
const unsampledOf = new Map(data.unsampled.row.map((row, place) => [row, data.unsampled.why[place]]));
const findingOf = new Map(data.differences ? data.differences.name.map((name, place) => [name, place]) : []);

// The tree of names, split at their dots, and of modules where the file has them.

function node(key, path, parent) {
  return { key, path, parent, children: new Map(), tensor: -1, type: "", tensors: 0, elements: 0, nbytes: 0 };
}

function descend(root, path, touch) {
  let found = root;
  touch(found);
  const keys = path.split(".");
  if (keys.length > MAX_DEPTH) keys.splice(MAX_DEPTH, keys.length, keys.slice(MAX_DEPTH).join("."));
  for (const key of keys) {
    let child = found.children.get(key);
    if (child === undefined) {
      child = node(key, found === root ? key : `${found.path}.${key}`, found);
      found.children.set(key, child);
    }
    found = child;
    touch(found);
  }
  return found;
}

const root = node("", "", null);
for (let row = 0; row < total; row++) {
  const nbytes = nbytesOf(row);
  const elements = elementsOf(row);
  const leaf = descend(root, names[row], (part) => {
    part.tensors += 1;
    part.elements += elements;
    part.nbytes += nbytes;
  });
  leaf.tensor = row;
}
data.modules.path.forEach((path, place) => {
  const part = path ? descend(root, path, () => undefined) : root;
  part.type = data.modules.type[place];
});

// How things are shown.

// What Python's str.isprintable() refuses, as escapes: control and bidi characters, lone surrogates, odd spaces.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

function shown(text) {
  return text.replace(UNPRINTABLE, (character) => {
    const code = character.codePointAt(0);
    const digits = code.toString(16);
    if (code < 0x100) return `\\x${digits.padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${digits.padStart(4, "0")}` : `\\U${digits.padStart(8, "0")}`;
  });
}

function clipped(text, limit = MAX_SHOWN) {
  if (text.length <= limit) return shown(text);
  const half = Math.floor(limit / 2);
  return `${shown(text.slice(0, half))} … ${shown(text.slice(-half))}`;
}

function count(number, noun) {
  return `${grouped(number)} ${noun}${Number(number) === 1 ? "" : "s"}`;
}

// Exact integers with commas; those that came as text have more digits than a number here can hold.
function grouped(number) {
  return typeof number === "string" ? BigInt(number).toLocaleString("en") : number.toLocaleString("en");
}

function size(nbytes) {
  let amount = Number(nbytes);
  if (amount < 1024) return `${amount} B`;
  let unit = -1;
  while (amount >= 1023.995 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${amount.toFixed(2)} ${UNITS[unit]}`;
}

function percent(part, whole) {
  const share = whole ? (100 * part) / whole : 0;
  return share && share < 0.1 ? "< 0.1 %" : `${share.toFixed(share < 10 ? 1 : 0)} %`;
}

// Short for people: a million of something.
function rounded(number) {
  const amount = Number(number);
  for (const [size, word] of [[1e12, "trillion"], [1e9, "billion"], [1e6, "million"]]) {
    if (amount >= size) return `${(amount / size).toFixed(amount / size < 100 ? 1 : 0)} ${word}`;
  }
  return grouped(number);
}

function figure(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "string") return value;
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return grouped(value).replace("-", "−");
  const isTiny = Math.abs(value) < 1e-3;
  return (isTiny ? value.toExponential(3) : String(Number(value.toPrecision(5)))).replaceAll("-", "−");
}

// Making elements. Whatever comes from the file is text of a node, or a value of an attribute that is named here.

function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const by = (id) => document.getElementById(id);

// A name whose end is kept where there is little room: there names differ.
function nameOf(text) {
  const cut = text.length > MAX_SHOWN ? clipped(text) : shown(text);
  const dot = cut.lastIndexOf(".", cut.lastIndexOf(".") - 1);
  const stem = cut.slice(0, dot + 1);
  return make("span", { class: "name", title: cut }, ...(stem ? [make("span", { class: "stem" }, stem)] : []), make("span", { class: "leaf" }, cut.slice(dot + 1)));
}
