// One tensor, opened: its facts, how its values spread, and in what the other checkpoint differs.

const detail = { name: "", place: -1 };

function factsOf(row) {
  const offset = at("offset", row);
  const file = data.files[at("file", row)];
  const storage = at("storage", row);
  const facts = [
    ["Dtype", dtypeOf(row)],
    ["Shape", shapeTexts[at("shape", row)]],
    ["Parameters", grouped(elementsOf(row))],
    ["Size", `${size(at("nbytes", row))}${nbytesOf(row) >= 1024 ? `, ${grouped(at("nbytes", row))} bytes` : ""}`],
    ["Kind", data.kinds[at("kind", row)]],
    ["Offset", offset === null ? "none" : `byte ${grouped(offset)}`],
    ["Reading", at("zero_copy", row) ? "a view of the file, no copy" : "made when it is read"],
  ];
  if (file !== null && file !== undefined) facts.push(["File", clipped(file)]);
  if (storage !== null && storage !== undefined) {
    const others = [];
    for (let other = 0; other < total; other++) {
      if (other !== row && at("storage", other) === storage) others.push(names[other]);
    }
    const more = others.length > 5 ? `, and ${count(others.length - 5, "other")}` : "";
    facts.push(["Same storage", others.slice(0, 5).map((name) => clipped(name, 120)).join(", ") + more]);
  }
  return facts;
}

function spreadOf(row) {
  const place = histogramOf.get(row);
  if (place === undefined) {
    const why = unsampledOf.get(row);
    const most = data.sampling.tensors;
    const text = why ? shown(why) : elementsOf(row) === 0 ? "It has no elements." : most ? `Not among the ${grouped(most)} largest tensors, of which this page has histograms.` : "This page was made without histograms.";
    return [make("p", { class: "muted" }, text)];
  }
  const found = Object.fromEntries(Object.keys(data.histograms).map((name) => [name, data.histograms[name][place]]));
  const isAll = found.values >= elementsOf(row);
  const facts = [["Min", found.min], ["Max", found.max], ["Mean", found.mean], ["Std", found.std], ["Zeros", found.zeros], ["NaN", found.nans], ["Infinite", found.infinities]];
  return [
    ...histogramChart(place),
    make("dl", { class: "figures" }, ...facts.map(([label, value]) => make("div", {}, make("dt", {}, label), make("dd", {}, figure(value))))),
    make("p", { class: "muted" }, isAll ? "Of all its values." : `Of a sample: ${grouped(found.values)} of ${grouped(elementsOf(row))} values.`),
  ];
}

function openTensor(row, place = -1) {
  openDetail(names[row], row, place);
}

function openDetail(name, row, place) {
  Object.assign(detail, { name, place });
  by("detail-name").textContent = clipped(name, 2000);
  by("detail-said").textContent = "";
  if (!by("detail").open) by("detail").showModal();
  const body = [];
  const finding = findingOf.get(name);
  if (finding !== undefined) body.push(make("p", { class: "differs" }, `${signOf(finding)} ${saidOf(finding)}`));
  if (row >= 0) {
    body.push(make("dl", { class: "facts" }, ...factsOf(row).flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, value)])));
    body.push(make("h3", {}, "Values"), ...spreadOf(row));
  }
  by("detail-body").replaceChildren(...body);
  by("detail-before").hidden = by("detail-after").hidden = place < 0;
  by("detail-before").disabled = place <= 0;
  by("detail-after").disabled = place >= table.rows.length - 1;
}

function step(by_) {
  const place = detail.place + by_;
  if (detail.place < 0 || place < 0 || place >= table.rows.length) return;
  table.list.move(place);
  openTensor(table.rows[place], place);
}

async function copyName() {
  const said = by("detail-said");
  try {
    await navigator.clipboard.writeText(detail.name);
    said.textContent = "Copied.";
  } catch {
    // Browsers give the clipboard to secure pages alone; the old way works from a file.
    const area = make("textarea", { class: "hide" });
    area.value = detail.name;
    by("detail").append(area);
    area.select();
    said.textContent = document.execCommand("copy") ? "Copied." : "The browser refuses: select the name and copy it.";
    area.remove();
  }
}

function readyDetail() {
  by("detail-close").addEventListener("click", () => by("detail").close());
  by("detail-copy").addEventListener("click", copyName);
  by("detail-before").addEventListener("click", () => step(-1));
  by("detail-after").addEventListener("click", () => step(1));
  by("detail").addEventListener("click", (event) => {
    if (event.target === by("detail")) by("detail").close(); // beside it
  });
}

// In what two checkpoints differ.

const SIGNS = { "only in a": "−", "only in b": "+", shape: "~", dtype: "~", values: "~", "not compared": "?" };
const KINDS = { "only in a": "only in A", "only in b": "only in B", shape: "shape", dtype: "dtype", values: "values", "not compared": "not compared" };
const found = { rows: [], kind: "", list: null };

const signOf = (place) => SIGNS[data.differences.what[place]];
const kindOf = (place) => data.differences.what[place].replaceAll(" ", "-");

function factOf(side) {
  return side ? `${data.dtypes[side[0]]} ${clipped(shapeTexts[side[1]], 80)}` : "";
}

function saidOf(place) {
  const { a, b, differing, elements, max_abs: most, why } = data.differences;
  if (!b[place]) return `only in A: ${factOf(a[place])}`;
  if (!a[place]) return `only in B: ${factOf(b[place])}`;
  const parts = factOf(a[place]) === factOf(b[place]) ? [] : [`${factOf(a[place])} → ${factOf(b[place])}`];
  if (differing[place]) {
    const extent = most[place] === null ? "" : `, by at most ${figure(most[place])}`;
    parts.push(`${grouped(differing[place])} of ${grouped(elements[place])} values (${percent(Number(differing[place]), Number(elements[place]))})${extent}`);
  } else if (differing[place] === 0) parts.push("equal values");
  if (why[place]) parts.push(`values not compared: ${shown(why[place])}`);
  return parts.join("; ");
}

function findingRow(index) {
  const place = found.rows[index];
  return make(
    "div",
    { role: "row", class: `finding ${kindOf(place)}` },
    make("div", { role: "gridcell", class: "sign" }, make("span", { title: KINDS[data.differences.what[place]] }, signOf(place))),
    make("div", { role: "gridcell", class: "cell-name" }, nameOf(data.differences.name[place])),
    make("div", { role: "gridcell", class: "said" }, saidOf(place)),
  );
}

function showDifferences() {
  const { differences } = data;
  if (!differences) return;
  by("differences").hidden = false;
  const kinds = new Map();
  for (const what of differences.what) kinds.set(what, (kinds.get(what) ?? 0) + 1);
  const all = differences.name.length;
  const values = differences.values_compared ? "" : "; values were not compared";
  by("differences-told").textContent = all
    ? `${count(all, "difference")}; ${count(differences.common, "name")} in both${values}`
    : `None: ${count(differences.common, "tensor")} in both, and all equal${values}`;
  by("differences-list").hidden = !all;
  if (!all) return;
  found.list = new List(by("differences-list"), {
    role: "grid", rowHeight: 32, most: 420, rowOf: findingRow,
    opened: (index) => {
      const name = differences.name[found.rows[index]];
      openDetail(name, differences.a[found.rows[index]] ? names.indexOf(name) : -1, -1);
    },
  });
  const chips = [["", all], ...kinds].map(([kind, amount]) => {
    const chip = make("button", { type: "button", class: `chip ${kind.replaceAll(" ", "-")}`, "aria-pressed": String(!kind) }, `${kind ? `${SIGNS[kind]} ${KINDS[kind]}` : "all"} ${grouped(amount)}`);
    chip.addEventListener("click", () => {
      for (const other of by("differences-kinds").children) other.setAttribute("aria-pressed", String(other === chip));
      filterFindings(kind);
    });
    return chip;
  });
  by("differences-kinds").append(...chips);
  filterFindings("");
}

function filterFindings(kind) {
  const places = data.differences.what.map((what, place) => (!kind || what === kind ? place : -1));
  found.rows = places.filter((place) => place >= 0);
  found.list.show(found.rows.length);
}
