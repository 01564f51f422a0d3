// A table of coloured cells on one canvas: whatever its size, only what is seen is drawn.
import { blend, css, ink } from "./shared.js";
import { el, say, tip } from "./dom.js";

const hex = (text) => text.match(/../g).map((pair) => parseInt(pair, 16));
/** The colours of crates/view/src/colour.rs; a test compares them. */
export const CIVIDIS = "00224e 00285b 002e6a 043371 1a386f 273e6e 32436d 3b496c 434e6c 4b546c 52596d 5a5f6e 61656f 686a71 6f7073 757676 7c7b78 848179 8b8778 938d78 9b9376 a39a75 aba072 b3a670 bbad6c c3b469 ccba64 d4c15f ddc958 e6d051 efd748 f8df3c fee838".split(" ").map(hex);
const BLUE = "92c5de 4393c3 2166ac".split(" ").map(hex);
const ORANGE = "fdb863 e08214 b35806".split(" ").map(hex);

const isDark = () => document.documentElement.dataset.theme === "dark";
export const sequential = (x) => blend(CIVIDIS, x);
/** From -1, blue, over 0, the ground, to 1, orange. */
export const diverging = (x) => blend([isDark() ? [44, 51, 60] : [247, 247, 247], ...(x < 0 ? BLUE : ORANGE)], Math.abs(x));

/** The largest magnitude, where colours end; 1 where all is zero. */
export function reach(values) {
  let most = 0;
  for (const x of values) if (Number.isFinite(x)) most = Math.max(most, Math.abs(x));
  return most || 1;
}

const FONT = "12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
const LETTER = 7.23;
const drawn = new Set();
/** How each legend's colours are painted. */
const ramps = new WeakMap();
/** The colours of the theme, read once: to ask a style for each table in each frame costs milliseconds. */
let colours = null;
const NAMES = ["ground", "text", "faint", "accent", "empty", "alarm"];
function ofTheme() {
  if (!colours) {
    const styles = getComputedStyle(document.documentElement);
    colours = Object.fromEntries(NAMES.map((name) => [name, styles.getPropertyValue(`--${name}`).trim()]));
  }
  return colours;
}

/** Draws every table anew, in the colours of the theme. */
export function repaint() {
  colours = null;
  for (const ramp of document.querySelectorAll(".legend canvas")) ramps.get(ramp)?.();
  for (const heat of drawn) {
    if (heat.node.isConnected) heat.draw();
    else drawn.delete(heat);
  }
}

export class Heat {
  /**
   * `label` is what it is called. `spec` says what it shows: numbers of `rows` and `columns`, their labels `row(i)`, `column(j)`
   * and `foot(j)`, `cell(i, j)` with `rgb`, `text`, `mark`; `words(i, j)` for readers and `tip(i, j)` for pointers;
   * `select(i, j)` is called by a click or Enter, `chosen()` gives `[i, j]`, either null.
   */
  constructor(label, { width = 88, height = 21, side = 56, tall = 460 } = {}) {
    Object.assign(this, { width, height, side, spec: null, at: [0, 0], shown: "", over: null, frame: 0 });
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.size = el("div", { class: "heat-size" }, this.canvas);
    this.node = el("div", { class: "heat", tabindex: "0", role: "application", "aria-roledescription": "table of coloured cells", "aria-label": label }, this.size);
    this.node.style.maxHeight = `min(${tall}px, 84vh)`;
    this.node.addEventListener("scroll", () => this.later());
    this.node.addEventListener("mousemove", (event) => this.point(event));
    this.node.addEventListener("mouseleave", () => this.leave());
    this.node.addEventListener("blur", () => this.leave());
    this.node.addEventListener("click", (event) => {
      const cell = this.cellAt(event);
      if (cell) this.choose(cell);
    });
    this.node.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.later()).observe(this.node);
  }

  show(spec) {
    this.spec = spec;
    drawn.add(this);
    this.at = [Math.min(this.at[0], spec.rows - 1), Math.min(this.at[1], spec.columns - 1)].map((x) => Math.max(0, x));
    const chosen = spec.chosen?.() ?? [];
    const moved = `${chosen}` !== this.shown;
    this.shown = `${chosen}`;
    this.at = this.at.map((x, k) => (chosen[k] >= 0 ? chosen[k] : x));
    this.size.style.width = `${this.side + spec.columns * this.width + 1}px`;
    this.size.style.height = `${this.top() + spec.rows * this.height + this.bottom() + 1}px`;
    // What another view has chosen is brought into view.
    if (moved && this.node.isConnected) this.reveal(this.at);
    this.draw();
  }

  top() { return this.spec.column ? this.height + 2 : 1; }
  bottom() { return this.spec.foot ? this.height + 2 : 1; }

  later() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const { node, canvas, spec } = this;
    if (!spec || !node.isConnected) return;
    const [wide, tall] = [Math.min(node.clientWidth, this.side + spec.columns * this.width + 1), Math.min(node.clientHeight, parseFloat(this.size.style.height))];
    if (wide <= 0 || tall <= 0) return;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(wide * scale) || canvas.height !== Math.round(tall * scale)) {
      Object.assign(canvas, { width: Math.round(wide * scale), height: Math.round(tall * scale) });
      canvas.style.width = `${wide}px`;
      canvas.style.height = `${tall}px`;
    }
    const { ground, text, faint, accent, empty, alarm } = ofTheme();
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = ground;
    pen.fillRect(0, 0, wide, tall);
    pen.font = FONT;
    pen.textBaseline = "middle";
    const [x0, y0] = [this.side - node.scrollLeft, this.top() - node.scrollTop];
    const first = [Math.max(0, Math.floor((this.top() - y0) / this.height)), Math.max(0, Math.floor((this.side - x0) / this.width))];
    const last = [Math.min(spec.rows, Math.ceil((tall - y0) / this.height)), Math.min(spec.columns, Math.ceil((wide - x0) / this.width))];
    const chosen = spec.chosen?.() ?? [null, null];
    for (let i = first[0]; i < last[0]; i += 1) {
      for (let j = first[1]; j < last[1]; j += 1) {
        const cell = spec.cell(i, j);
        if (!cell) continue;
        const [x, y] = [x0 + j * this.width, y0 + i * this.height];
        pen.fillStyle = cell.rgb ? css(cell.rgb) : cell.nan ? alarm : empty;
        pen.fillRect(x, y, this.width - 1, this.height - 1);
        const on = cell.rgb ? ink(cell.rgb) : cell.nan ? "#fff" : text;
        if (cell.mark) {
          pen.fillStyle = on;
          pen.fillRect(x, y, 2, this.height - 1);
          pen.fillRect(x + this.width - 3, y, 2, this.height - 1);
        }
        if (cell.text) this.write(pen, cell.text, x, y, this.width - 1, on, "center");
      }
    }
    // Where row and column of what is chosen run.
    pen.strokeStyle = accent;
    const ring = (i, j, thick) => {
      if (i === null || j === null || i === undefined || j === undefined) return;
      pen.lineWidth = thick;
      pen.strokeRect(x0 + j * this.width, y0 + i * this.height, this.width - 1, this.height - 1);
    };
    ring(chosen[0], chosen[1], 3);
    if (this.over) ring(this.over[0], this.over[1], 1.5);
    if (document.activeElement === node) {
      pen.setLineDash([3, 2]);
      ring(this.at[0], this.at[1], 2);
      pen.setLineDash([]);
    }
    const band = (y, label) => {
      pen.fillStyle = ground;
      pen.fillRect(0, y, wide, this.height + 2);
      for (let j = first[1]; j < last[1]; j += 1) {
        this.write(pen, label(j), x0 + j * this.width, y + 1, this.width - 1, j === chosen[1] || j === this.over?.[1] ? accent : text, "center");
      }
    };
    if (spec.column) band(0, spec.column);
    if (spec.foot) band(Math.min(tall, y0 + spec.rows * this.height + this.bottom()) - this.height - 2, spec.foot);
    pen.fillStyle = ground;
    pen.fillRect(0, this.top() - 1, this.side - 1, tall - this.top() - (spec.foot ? this.height + 2 : 0) + 1);
    for (let i = first[0]; i < last[0]; i += 1) {
      const y = y0 + i * this.height;
      if (y < this.top() - this.height || (spec.foot && y > tall - this.bottom())) continue;
      this.write(pen, spec.row(i), 0, y, this.side - 4, i === chosen[0] || i === this.over?.[0] ? accent : faint, "right");
    }
    for (const [y, label] of [[0, spec.corner], [Math.min(tall, y0 + spec.rows * this.height + this.bottom()) - this.height - 2, spec.footCorner]]) {
      if (label === undefined) continue;
      pen.fillStyle = ground;
      pen.fillRect(0, y, this.side - 1, this.height + 1);
      this.write(pen, label, 0, y + 1, this.side - 4, faint, "right");
    }
  }

  /** Writes into a cell, with a sign for what is left out. */
  write(pen, text, x, y, width, colour, align) {
    if (!text) return;
    const room = Math.max(1, Math.floor((width - 6) / LETTER));
    const chars = [...text];
    const shown = chars.length > room ? `${chars.slice(0, Math.max(1, room - 1)).join("")}…` : text;
    pen.fillStyle = colour;
    pen.textAlign = align;
    const at = align === "right" ? x + width : x + width / 2;
    // Letters that are no ASCII may be wider than one column.
    if (/^[\x20-\x7e·…]*$/.test(shown)) pen.fillText(shown, at, y + this.height / 2);
    else pen.fillText(shown, at, y + this.height / 2, width - 4);
  }

  cellAt(event) {
    const box = this.node.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - this.node.clientLeft, event.clientY - box.top - this.node.clientTop];
    if (!this.spec || x < this.side || y < this.top()) return null;
    const [i, j] = [Math.floor((y - this.top() + this.node.scrollTop) / this.height), Math.floor((x - this.side + this.node.scrollLeft) / this.width)];
    return i < this.spec.rows && j < this.spec.columns ? [i, j] : null;
  }

  point(event) {
    const cell = this.cellAt(event);
    if (`${cell}` === `${this.over}`) return;
    this.over = cell;
    this.later();
    this.spec?.hover?.(cell);
    tip(cell && this.spec.tip?.(...cell), event.clientX, event.clientY);
  }

  leave() {
    this.over = null;
    this.later();
    tip(null);
    this.spec?.hover?.(null);
  }

  choose(cell) {
    this.at = cell;
    this.spec.select?.(...cell);
    this.later();
  }

  /** Brings a cell into view. */
  reveal([i, j]) {
    const { node } = this;
    const [x, y] = [j * this.width, i * this.height];
    const [wide, tall] = [node.clientWidth - this.side, node.clientHeight - this.top() - this.bottom()];
    if (x < node.scrollLeft) node.scrollLeft = x;
    if (x + this.width > node.scrollLeft + wide) node.scrollLeft = x + this.width - wide;
    if (y < node.scrollTop) node.scrollTop = y;
    if (y + this.height > node.scrollTop + tall) node.scrollTop = y + this.height - tall;
  }

  key(event) {
    if (!this.spec || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.node.clientHeight / this.height) - 3);
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-page, 0], PageDown: [page, 0], Home: [0, -1e9], End: [0, 1e9] };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(this.at);
      return;
    }
    if (event.key === "Escape") tip(null);
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const limit = [this.spec.rows - 1, this.spec.columns - 1];
    this.at = this.at.map((x, k) => Math.min(limit[k], Math.max(0, x + move[k])));
    this.reveal(this.at);
    this.later();
    say(this.spec.words?.(...this.at) ?? "");
    const box = this.node.getBoundingClientRect();
    const [i, j] = this.at;
    tip(this.spec.tip?.(i, j), box.left + this.side + (j + 1) * this.width - this.node.scrollLeft, box.top + this.top() + (i + 1) * this.height - this.node.scrollTop);
  }
}

/** What the colours of a table mean. */
export function legend(colour, ticks, words) {
  const ramp = el("canvas", { width: "220", height: "10", "aria-hidden": "true" });
  const paint = () => {
    const pen = ramp.getContext("2d");
    for (let x = 0; x < 220; x += 1) {
      pen.fillStyle = css(colour(x / 219));
      pen.fillRect(x, 0, 1, 10);
    }
  };
  paint();
  ramps.set(ramp, paint);
  return el("div", { class: "legend" }, el("div", { class: "scale" }, ramp, el("div", { class: "ticks" }, ticks.map((tick) => el("span", {}, tick)))), el("div", {}, words));
}
