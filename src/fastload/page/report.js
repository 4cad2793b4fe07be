// The page itself: what stands where, and what the reader does with it.

// Summary.

function tile(label, value, note = "") {
  return make("div", { class: "tile" }, make("dt", {}, label), make("dd", {}, value), ...(note ? [make("p", { class: "muted" }, note)] : []));
}

function summaryOf(side, label) {
  const shares = Number(side.storage_nbytes) !== Number(side.nbytes);
  const tiles = [
    tile("Tensors", grouped(side.tensors)),
    tile("Parameters", rounded(side.parameters), Number(side.parameters) >= 1e6 ? grouped(side.parameters) : ""),
    tile("Size", size(side.nbytes), shares ? `${size(side.storage_nbytes)} in storages` : `${grouped(side.nbytes)} bytes`),
  ];
  if (!label) {
    tiles.push(tile("Dtypes", grouped(data.dtypes.length), data.dtypes.slice(0, 4).join(", ")));
    if (data.modules.path.length) tiles.push(tile("Modules", grouped(data.modules.path.length), "the model was saved whole"));
  }
  tiles.push(tile("Format", side.format, clipped(side.path, 160)));
  const list = make("dl", { class: "tiles" }, ...tiles);
  return label ? [make("h2", { class: "side" }, label), list] : [list];
}

function showSummary() {
  by("subtitle").textContent = data.b ? `${clipped(data.a.path)} → ${clipped(data.b.path)}` : `${clipped(data.a.path)} · ${data.a.format}`;
  by("summary").append(...summaryOf(data.a, data.b ? "A" : ""), ...(data.b ? summaryOf(data.b, "B") : []));
  const { tensors, nbytes, bins } = data.sampling;
  by("footer").append(
    tensors
      ? `Histograms are of the ${count(tensors, "largest tensor")}: ${bins} bins, of a sample of at most ${size(nbytes)} of each, taken in runs spread evenly over it. `
      : "Made without histograms. ",
    `Made by fastload ${data.version}. This page loads nothing and sends nothing.`,
  );
  const metadata = [["", data.a.metadata], ...(data.b ? [["B", data.b.metadata]] : [])].filter(([, value]) => value && Object.keys(value).length);
  by("metadata").hidden = !metadata.length;
  for (const [label, value] of metadata) {
    const text = JSON.stringify(value, null, 2).split("\n").map(shown).join("\n");
    const cut = text.length > 100_000 ? `${text.slice(0, 100_000)}\n… ${count(text.length - 100_000, "more character")}` : text;
    by("metadata-text").append(...(label ? [make("h3", {}, label)] : []), make("pre", { tabindex: "0" }, cut));
  }
}

// The table of tensors.

const COLUMNS = [
  { id: "name", title: "Name", key: (row) => naturalKey(row) },
  { id: "dtype", title: "Dtype", key: (row) => dtypeOf(row) },
  { id: "shape", title: "Shape", key: (row) => shapes[at("shape", row)].map((part) => String(part).padStart(20, "0")).join() },
  { id: "elements", title: "Parameters", key: (row) => elementsOf(row), isNumber: true },
  { id: "nbytes", title: "Size", key: (row) => nbytesOf(row), isNumber: true },
];
let lowered = null; // made when they are first needed, as they cost some milliseconds of 50,000 names
let naturals = null;
const table = { rows: [], words: [], dtype: "", part: null, sort: null, isDown: false, list: null };
let largest = 0;

// Numbers by their value, so that layer 10 comes after layer 9.
function naturalKey(row) {
  naturals ??= names.map((name) => name.replace(/\d+/g, (digits) => digits.padStart(12, "0")));
  return naturals[row];
}

function matcher(word) {
  if (!word.includes("*")) return (name) => name.includes(word);
  // Pieces one after the other: what a glob means, in time that no pattern can make long.
  const pieces = word.split("*");
  const first = pieces.shift();
  const last = pieces.pop();
  return (name) => {
    if (!name.startsWith(first) || name.length < first.length + last.length || !name.endsWith(last)) return false;
    let place = first.length;
    for (const piece of pieces) {
      const found = name.indexOf(piece, place);
      if (found < 0) return false;
      place = found + piece.length;
    }
    return place <= name.length - last.length;
  };
}

function filterTable() {
  const { words, dtype, part, sort, isDown } = table;
  lowered ??= names.map((name) => name.toLowerCase());
  const tests = words.map(matcher);
  const code = data.dtypes.indexOf(dtype);
  const prefix = part ? `${part.path}.` : "";
  const rows = [];
  let nbytes = 0;
  for (let row = 0; row < total; row++) {
    if (dtype && at("dtype", row) !== code) continue;
    if (part && part !== root && !names[row].startsWith(prefix) && names[row] !== part.path) continue;
    if (!tests.every((test) => test(lowered[row]))) continue;
    rows.push(row);
    nbytes += nbytesOf(row);
  }
  if (sort) sortRows(rows, sort, isDown);
  table.rows = rows;
  table.list.show(rows.length);
  by("tensors-told").textContent =
    rows.length === total ? `${count(total, "tensor")}, ${size(nbytes)}` : `${grouped(rows.length)} of ${count(total, "tensor")}, ${size(nbytes)}`;
}

function sortRows(rows, column, isDown) {
  const keys = new Map(rows.map((row) => [row, column.key(row)]));
  const sign = isDown ? -1 : 1;
  rows.sort((one, other) => {
    const a = keys.get(one);
    const b = keys.get(other);
    return a < b ? -sign : a > b ? sign : one - other;
  });
}

function sortBy(column, isDown) {
  table.sort = column;
  table.isDown = isDown;
  for (const header of by("tensors-list").querySelectorAll("[role=columnheader]")) {
    const isSorted = column && header.dataset.column === column.id;
    header.setAttribute("aria-sort", isSorted ? (isDown ? "descending" : "ascending") : "none");
  }
  by("sort").value = column ? `${column.id} ${isDown ? "down" : "up"}` : "";
  filterTable();
}

function tensorRow(place) {
  const row = table.rows[place];
  const fill = make("span", { class: "fill c0" });
  fill.style.width = `${largest ? (100 * nbytesOf(row)) / largest : 0}%`;
  const name = nameOf(names[row]);
  if (findingOf.has(names[row])) name.prepend(make("span", { class: "mark-differs", title: "differs" }, "≠ "));
  const cells = [
    [name, "cell-name"],
    [dtypeOf(row), "cell-dtype"],
    [clipped(shapeTexts[at("shape", row)], 80), "cell-shape"],
    [grouped(elementsOf(row)), "number cell-elements"],
    [make("span", {}, size(at("nbytes", row)), make("span", { class: "track" }, fill)), "number cell-size"],
  ];
  return make("div", { role: "row" }, ...cells.map(([content, kind]) => make("div", { role: "gridcell", class: kind }, content)));
}

function showTable() {
  for (let row = 0; row < total; row++) largest = Math.max(largest, nbytesOf(row));
  const header = make("div", { class: "header", role: "row", "aria-rowindex": "1" });
  for (const column of COLUMNS) {
    const button = make("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      if (table.sort !== column) sortBy(column, Boolean(column.isNumber));
      else if (table.isDown === Boolean(column.isNumber)) sortBy(column, !table.isDown);
      else sortBy(null, false); // the order of the file again
    });
    header.append(make("div", { role: "columnheader", "aria-sort": "none", "data-column": column.id, class: column.isNumber ? "number" : "" }, button));
    for (const [word, way] of column.isNumber ? [["largest first", "down"], ["smallest first", "up"]] : [["", "up"]]) {
      by("sort").append(make("option", { value: `${column.id} ${way}` }, word ? `${column.title}, ${word}` : column.title));
    }
  }
  by("sort").prepend(make("option", { value: "" }, "File order"));
  by("sort").value = "";
  by("dtype").append(make("option", { value: "" }, "All dtypes"));
  table.list = new List(by("tensors-list"), {
    role: "grid", header, rowHeight: 32, rowOf: tensorRow, opened: (place) => openTensor(table.rows[place], place),
  });
  by("search").addEventListener("input", () => {
    table.words = by("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    filterTable();
  });
  by("search").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown") return;
    by("tensors-list").focus();
    event.preventDefault();
  });
  by("dtype").addEventListener("change", () => filterDtype(by("dtype").value));
  by("sort").addEventListener("change", () => {
    const [id, way] = by("sort").value.split(" ");
    sortBy(COLUMNS.find((column) => column.id === id) ?? null, way === "down");
  });
  by("part").addEventListener("click", () => {
    filterPart(null);
    by("search").focus();
  });
  filterTable();
}

function filterDtype(name) {
  table.dtype = name;
  by("dtype").value = name;
  filterTable();
}

function filterPart(part) {
  table.part = part && part !== root ? part : null;
  by("part").hidden = !table.part;
  by("part").replaceChildren();
  if (table.part) {
    by("part").append(make("span", {}, `in ${clipped(part.path, 60)}`), " ✕");
    by("part").setAttribute("aria-label", `Only in ${clipped(part.path)}: show all again`);
  }
  filterTable();
}

// The tree of names.

const MAX_OPENED = 17; // rows of the tree at first

const tree = { rows: [], open: new Set(), list: null };

function treeRows() {
  const rows = [];
  const walk = (part, level) => {
    let place = 0;
    for (const child of part.children.values()) {
      place += 1;
      rows.push({ part: child, level, place, siblings: part.children.size });
      if (tree.open.has(child)) walk(child, level + 1);
    }
  };
  walk(root, 1);
  tree.rows = rows;
}

function treeRow(place) {
  const { part, level, place: among, siblings } = tree.rows[place];
  const isBranch = part.children.size > 0;
  const isOpen = tree.open.has(part);
  const row = make(
    "div",
    { role: "treeitem", "aria-level": level, "aria-posinset": among, "aria-setsize": siblings, "aria-expanded": isBranch ? String(isOpen) : null },
    make("span", { class: "twist", "aria-hidden": "true" }, isBranch ? (isOpen ? "▾" : "▸") : ""),
    make("span", { class: "name key" }, clipped(part.key, 160) || "(empty)"),
    make("span", { class: "type muted" }, part.type ? clipped(part.type.split(".").pop(), 60) : part.tensor >= 0 ? shapeTexts[at("shape", part.tensor)] : part.tensors > 1 ? count(part.tensors, "tensor") : ""),
    make("span", { class: "number" }, part.nbytes ? size(part.nbytes) : ""),
  );
  row.style.paddingLeft = `${Math.min(level - 1, 20) * 14 + 6}px`;
  return row;
}

function toggle(part, isOpen) {
  if (isOpen) tree.open.add(part);
  else tree.open.delete(part);
  treeRows();
  tree.list.show(tree.rows.length, { keep: true });
}

function treeKey(event, place) {
  const { part } = tree.rows[place];
  if (event.key === "ArrowRight") {
    if (part.children.size && !tree.open.has(part)) toggle(part, true);
    else if (part.children.size) tree.list.move(place + 1);
  } else if (event.key === "ArrowLeft") {
    if (tree.open.has(part)) toggle(part, false);
    else if (part.parent !== root) tree.list.move(tree.rows.findIndex((row) => row.part === part.parent));
  } else return false;
  return true;
}

// A beginning is open: the outermost parts first, as far as all rows stay in sight.
function openSome() {
  let rows = root.children.size;
  const waiting = [...root.children.values()];
  for (const part of waiting) {
    if (!part.children.size || rows + part.children.size > MAX_OPENED) continue;
    rows += part.children.size;
    tree.open.add(part);
    waiting.push(...part.children.values());
  }
}

function showTree() {
  if (data.modules.path.length) by("tree-title").textContent = "Modules";
  tree.list = new List(by("tree-list"), {
    role: "tree", rowHeight: 32, rowOf: treeRow, keyed: treeKey,
    opened: (place, event) => {
      const { part } = tree.rows[place];
      if (part.tensor >= 0 && !part.children.size) openTensor(part.tensor);
      else if (part.children.size && event.type === "click") toggle(part, !tree.open.has(part));
      if (part.children.size) filterPart(part);
    },
  });
  openSome();
  treeRows();
  tree.list.show(tree.rows.length);
  by("tree-all").addEventListener("click", () => {
    const isAll = tree.open.size > 0 && by("tree-all").textContent === "Collapse all";
    tree.open.clear();
    const walk = (one) => {
      for (const child of one.children.values()) {
        if (child.children.size) {
          tree.open.add(child);
          walk(child);
        }
      }
    };
    if (!isAll) walk(root);
    by("tree-all").textContent = isAll ? "Expand all" : "Collapse all";
    treeRows();
    tree.list.show(tree.rows.length);
  });
}

// The map of bytes, and the charts.

function showCharts() {
  const told = by("treemap-told");
  const treemap = new Treemap(by("treemap"), {
    opened: openTensor,
    told: (text) => (told.textContent = text),
    moved: (part) => {
      const way = [];
      for (let step = part; step; step = step.parent) way.unshift(step);
      by("crumbs").replaceChildren(
        ...way.map((step) => {
          const crumb = make("button", { type: "button", class: "crumb", "aria-current": step === part ? "true" : null }, step === root ? "all" : clipped(step.key, 40));
          crumb.addEventListener("click", () => treemap.show(step));
          return crumb;
        }),
      );
      told.textContent = `${part === root ? "all" : clipped(part.path)}: ${size(part.nbytes)} in ${count(part.tensors, "tensor")}`;
    },
  });
  treemap.show(root);
  for (const name of dtypeChart(by("dtypes-chart"), filterDtype)) by("dtype").append(make("option", { value: name }, name));
  largestRows(by("largest"), openTensor);
  const groups = layerGroups();
  by("layers").hidden = !groups.length;
  by("charts").classList.toggle("single", !groups.length);
  groups.slice(0, 100).forEach((group, place) => {
    by("layers-group").append(make("option", { value: place }, `${clipped(group.prefix, 60) || "the root"} (${grouped(group.layers.size)})`));
  });
  if (!groups.length) return;
  const redraw = () => layerChart(by("layers-chart"), groups[Number(by("layers-group").value)]);
  by("layers-group").addEventListener("change", redraw);
  let width = -1;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === width) return;
    ({ width } = contentRect);
    requestAnimationFrame(redraw);
  }).observe(by("layers-chart"));
}
