// Where the bytes are: rectangles as large as what they stand for, parts within parts.

const MAX_CELLS = 1000;
const MIN_AREA = 60; // square pixels; smaller parts are drawn as one
const LABEL = 20; // pixels for the name of a part above what is in it
const HUES = 7;

class Treemap {
  constructor(element, { opened, moved, told }) {
    Object.assign(this, { element, opened, moved, told, part: root, width: 0 });
    element.addEventListener("click", (event) => this.choose(event.target.closest("button")));
    element.addEventListener("pointerover", (event) => this.tell(event.target.closest("button")));
    element.addEventListener("focusin", (event) => this.tell(event.target.closest("button")));
    element.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => {
      if (element.clientWidth !== this.width) requestAnimationFrame(() => this.draw());
    }).observe(element);
  }

  show(part) {
    this.part = part;
    this.draw();
    this.moved(part);
  }

  draw() {
    const { element } = this;
    const hadFocus = element.contains(document.activeElement);
    this.width = element.clientWidth;
    this.cells = [];
    this.left = MAX_CELLS;
    const children = partsOf(this.part);
    this.fill(children, { x: 0, y: 0, width: this.width, height: element.clientHeight }, 0, null);
    const buttons = this.cells.map((cell) => this.button(cell));
    if (!buttons.length) buttons.push(make("p", { class: "muted empty" }, "No bytes here."));
    else buttons[0].tabIndex = 0;
    element.replaceChildren(...buttons);
    if (hadFocus) (buttons[0].matches("button") ? buttons[0] : element).focus();
  }

  fill(parts, box, depth, hue) {
    const area = box.width * box.height;
    const nbytes = parts.reduce((sum, part) => sum + part.nbytes, 0);
    if (!nbytes || area < MIN_AREA) return;
    const isLarge = (part) => (part.nbytes / nbytes) * area >= MIN_AREA;
    const large = parts.filter(isLarge).sort((one, other) => other.nbytes - one.nbytes);
    const kept = large.slice(0, Math.max(1, Math.min(large.length, this.left - 1)));
    const rest = parts.length - kept.length;
    const keptBytes = kept.reduce((sum, part) => sum + part.nbytes, 0);
    if (rest > 0 && keptBytes < nbytes) kept.push({ rest, nbytes: nbytes - keptBytes });
    this.left -= kept.length;
    const boxes = squarified(kept.map((part) => (part.nbytes / nbytes) * area), box);
    kept.forEach((part, place) => {
      const color = hue === null ? place % HUES : hue;
      const inside = boxes[place];
      const isOpen = !part.rest && part.children.size > 0 && inside.width > 60 && inside.height > 46 && depth < 4;
      this.cells.push({ part, box: inside, depth, hue: part.rest ? null : color, isOpen });
      if (isOpen && this.left > 1) {
        const { x, y, width, height } = inside;
        this.fill(partsOf(part), { x: x + 3, y: y + LABEL, width: width - 6, height: height - LABEL - 3 }, depth + 1, color);
      }
    });
  }

  button({ part, box, depth, hue, isOpen }) {
    const text = part.rest ? `${grouped(part.rest)} smaller` : clipped(part.label ?? part.key, 120);
    const share = `${size(part.nbytes)}, ${percent(part.nbytes, this.part.nbytes)}`;
    const label = part.rest ? `${text}: ${share}` : `${clipped(part.path)}: ${share}`;
    const button = make("button", {
      type: "button", tabindex: "-1", "aria-label": label,
      class: `cell d${depth} ${hue === null ? "rest" : `c${hue}`}${isOpen ? " open" : ""}`,
    });
    Object.assign(button.style, {
      left: `${box.x}px`, top: `${box.y}px`, width: `${Math.max(box.width - 1, 1)}px`, height: `${Math.max(box.height - 1, 1)}px`,
    });
    if (box.width > 34 && box.height > 16) {
      button.append(make("span", { class: "key" }, text));
      if (isOpen ? box.width > 190 : box.height > 34 && box.width > 80) {
        button.append(make("span", { class: "size" }, size(part.nbytes)));
      }
    }
    Object.assign(button, { shows: part, told: label }); // not `part`, which elements have already
    return button;
  }

  tell(button) {
    if (button) this.told(button.told);
  }

  choose(button) {
    if (!button || button.shows.rest) return;
    const part = button.shows;
    if (part.children.size) this.show(part);
    else if (part.tensor >= 0) this.opened(part.tensor);
  }

  up() {
    let { parent } = this.part;
    while (parent && parent.parent && parent.children.size === 1 && parent.tensor < 0) ({ parent } = parent);
    if (parent) this.show(parent);
  }

  onKey(event) {
    const buttons = [...this.element.querySelectorAll("button")];
    const place = buttons.indexOf(document.activeElement);
    const moves = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: buttons.length - 1 };
    if (event.key in moves) {
      const next = buttons[Math.max(0, Math.min(moves[event.key], buttons.length - 1))];
      if (place >= 0) buttons[place].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if (event.key === "Escape" || event.key === "Backspace") this.up();
    else return;
    event.preventDefault();
  }
}

// What a part is made of; a tensor that has others below its name is one of its own parts.
function partsOf(part) {
  const parts = [...part.children.values()].filter((child) => child.nbytes > 0).map(straightened);
  if (part.tensor >= 0 && part.children.size) {
    parts.push({ ...node(part.key, part.path, part), tensor: part.tensor, nbytes: nbytesOf(part.tensor) });
  }
  return parts;
}

// Parts that have one part alone are shown as that, with the names of both.
function straightened(part) {
  let inner = part;
  let label = part.key;
  while (inner.children.size === 1 && inner.tensor < 0) {
    inner = inner.children.values().next().value;
    label = `${label}.${inner.key}`;
  }
  return inner === part ? part : Object.assign(Object.create(inner), { label });
}

// Boxes of the given areas, which descend, that fill a box and are as square as may be (Bruls, Huizing, van Wijk).
function squarified(areas, { x, y, width, height }) {
  const boxes = [];
  let start = 0;
  while (start < areas.length) {
    const side = Math.max(Math.min(width, height), 1e-6);
    let end = start + 1;
    let sum = areas[start];
    while (end < areas.length && worst(areas[start], areas[end], sum + areas[end], side) <= worst(areas[start], areas[end - 1], sum, side)) {
      sum += areas[end];
      end += 1;
    }
    const thickness = sum / side;
    let along = 0;
    for (const area of areas.slice(start, end)) {
      const length = area / thickness;
      if (width >= height) boxes.push({ x, y: y + along, width: thickness, height: length });
      else boxes.push({ x: x + along, y, width: length, height: thickness });
      along += length;
    }
    if (width >= height) {
      x += thickness;
      width = Math.max(width - thickness, 0);
    } else {
      y += thickness;
      height = Math.max(height - thickness, 0);
    }
    start = end;
  }
  return boxes;
}

// The worst ratio of sides in a row of boxes from largest to smallest that lie along a side.
function worst(largest, smallest, sum, side) {
  return Math.max((side * side * largest) / (sum * sum), (sum * sum) / (side * side * smallest));
}
