// A list of any length, of which only the rows in sight are elements. The grid or tree keeps the focus; its active row
// is told by aria-activedescendant, and moved by the arrow keys.

const MAX_HEIGHT = 15e6; // pixels; browsers have a limit not far above it
const SPARE = 6; // rows above and below those in sight

class List {
  // rowOf(place): an element for a row. opened(place): it was clicked, or Enter was pressed. keyed(event, place): a key
  // that means something else; true if it did. most: pixels, of a list that is no higher than its rows need.
  constructor(element, { role, rowOf, opened, keyed = () => false, header = null, rowHeight, most = 0 }) {
    Object.assign(this, { element, role, rowOf, opened, keyed, header, rowHeight, most, count: 0, active: 0 });
    this.canvas = make("div", { class: "canvas", role: "presentation" });
    this.viewport = make("div", { class: "viewport", role: "presentation", tabindex: "-1" });
    if (header) this.viewport.append(header);
    this.viewport.append(this.canvas);
    element.append(this.viewport);
    this.viewport.addEventListener("scroll", () => this.draw(), { passive: true });
    element.addEventListener("keydown", (event) => this.onKey(event));
    element.addEventListener("focus", () => this.draw());
    element.addEventListener("blur", () => this.draw());
    this.canvas.addEventListener("click", (event) => {
      const row = event.target.closest("[data-place]");
      if (row) this.open(Number(row.dataset.place), event);
    });
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.viewport);
  }

  open(place, event) {
    this.active = place;
    this.element.focus({ preventScroll: true });
    this.draw();
    this.opened(place, event);
  }

  show(count, { keep = false } = {}) {
    this.count = count;
    this.active = keep ? Math.max(0, Math.min(this.active, count - 1)) : 0;
    this.element.setAttribute(this.role === "tree" ? "data-rows" : "aria-rowcount", count + (this.header ? 1 : 0));
    this.canvas.style.height = `${Math.min(count * this.rowHeight, MAX_HEIGHT)}px`;
    if (this.most) this.element.style.height = `${Math.min(count * this.rowHeight + 2, this.most)}px`;
    if (!keep) this.viewport.scrollTop = 0;
    this.draw();
  }

  resize(rowHeight) {
    if (rowHeight === this.rowHeight) return;
    this.rowHeight = rowHeight;
    this.show(this.count, { keep: true });
  }

  get room() {
    return Math.max(this.viewport.clientHeight - (this.header ? this.header.offsetHeight : 0), this.rowHeight);
  }

  // How far all rows are scrolled: further than the canvas where that is shorter than they are.
  get top() {
    const height = this.count * this.rowHeight;
    const { scrollTop } = this.viewport;
    return height <= MAX_HEIGHT ? scrollTop : (scrollTop * (height - this.room)) / (MAX_HEIGHT - this.room);
  }

  draw() {
    const top = this.top;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - SPARE);
    const last = Math.min(this.count, Math.ceil((top + this.room) / this.rowHeight) + SPARE);
    const shift = this.viewport.scrollTop - top;
    const rows = [];
    for (let place = first; place < last; place++) {
      const row = this.rowOf(place);
      row.id = `${this.element.id}-${place}`;
      row.dataset.place = place;
      row.classList.add("row");
      if (place === this.active) row.classList.add("active");
      if (this.role === "grid") row.setAttribute("aria-rowindex", place + 1 + (this.header ? 1 : 0));
      row.style.transform = `translateY(${place * this.rowHeight + shift}px)`;
      row.style.height = `${this.rowHeight}px`;
      rows.push(row);
    }
    this.canvas.replaceChildren(...rows);
    const isSeen = this.active >= first && this.active < last;
    if (isSeen) this.element.setAttribute("aria-activedescendant", `${this.element.id}-${this.active}`);
    else this.element.removeAttribute("aria-activedescendant");
  }

  move(place) {
    if (!this.count) return;
    this.active = Math.max(0, Math.min(place, this.count - 1));
    const start = this.active * this.rowHeight;
    const top = this.top;
    let wanted = top;
    if (start < top) wanted = start;
    else if (start + this.rowHeight > top + this.room) wanted = start + this.rowHeight - this.room;
    if (wanted !== top) {
      const height = this.count * this.rowHeight;
      this.viewport.scrollTop =
        height <= MAX_HEIGHT ? wanted : (wanted * (MAX_HEIGHT - this.room)) / (height - this.room);
    }
    this.draw();
  }

  onKey(event) {
    if (event.target !== this.element || event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.room / this.rowHeight) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.move(this.active + moves[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && this.count) this.opened(this.active, event);
    else if (!this.count || !this.keyed(event, this.active)) return;
    event.preventDefault();
  }
}

// Rows have two lines on a phone.
const phone = matchMedia("(max-width: 640px)");
const heights = (lists) => {
  for (const list of lists) list.resize(phone.matches ? 54 : 32);
};
