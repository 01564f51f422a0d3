// Which tokens each head looks at.
import { choice, el, field, signed, token } from "./dom.js";
import { Heat, diverging, legend, reach, sequential } from "./heat.js";
import { Panel } from "./panel.js";
import { change, changes, state } from "./state.js";
import { prompt } from "./prompt.js";
import { run } from "./fields.js";

/** Weights that are asked for at once; more are asked for by layer, then by head. */
const MOST = 4e6;

const heads = new Heat("Layers by heads, coloured by where the chosen token looks; arrows move, Enter chooses", { width: 34, height: 19, side: 40, tall: 640 });
const large = new Heat("Attention of the chosen head: queries by keys", { width: 30, height: 21, side: 108, tall: 460 });
const thumbnails = el("div", { class: "thumbnails" });
const key = el("div");
const title = el("h3");
const strongest = el("p", { class: "hint" });
const measure = { key: "other" };
const MEASURES = {
  other: ["most on any token but the first", (row) => Math.max(0, ...row.slice(1))],
  first: ["on the first token", (row) => row[0]],
  previous: ["on the token before", (row) => row[row.length - 2] ?? 0],
  itself: ["on itself", (row) => row[row.length - 1]],
};
let now = null;
let before = null;

class Patterns {
  constructor(data) {
    this.tokens = data.tokens;
    this.layers = data.layers;
    this.columns = data.columns;
    const decode = (text) => new Uint16Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
    this.heads = new Map(data.heads.map((head) => [`${head.layer},${head.head}`, decode(head.weights)]));
  }

  weights(layer, head) { return this.heads.get(`${layer},${head}`); }
  row(layer, head, query) {
    const start = (query * (query + 1)) / 2;
    return [...this.weights(layer, head).subarray(start, start + query + 1)].map((x) => x / 65535);
  }

  at(layer, head, query, key) { return key > query ? null : this.weights(layer, head)[(query * (query + 1)) / 2 + key] / 65535; }
}

/** The flags that ask for as much as a page holds. */
function part() {
  const n = prompt.tokens.length;
  const cells = (n * (n + 1)) / 2;
  const { n_layers: layers, n_heads: count } = prompt.model;
  if (cells * layers * count <= MOST) return [];
  if (cells * count <= MOST) return ["--layer", String(prompt.layer())];
  return ["--layer", String(prompt.layer()), "--head", String(prompt.head())];
}

async function ask(panel) {
  const patterns = async (...more) => new Patterns(await panel.run(["attn", ...part(), ...more, "--", state.prompt]));
  before = state.changes.length > 0 ? await patterns() : null;
  now = await patterns(...changes());
  panel.body.replaceChildren(
    field("Colour of the heads", choice(Object.entries(MEASURES).map(([key, [words]]) => [key, words]), measure.key, (key) => { measure.key = key; draw(); })),
    key, el("div", { class: "beside" }, heads.node, el("div", { class: "grow" }, thumbnails, title, strongest, large.node)));
  draw();
}

function point(panel) {
  const has = now?.weights(prompt.layer(), prompt.head());
  if (now && !has && part().length > 0) {
    panel.stale = true;
    panel.refresh();
    return;
  }
  draw();
}

const shown = () => (before && state.look === "unchanged" ? before : now);

function draw() {
  if (!now) return;
  const patterns = shown();
  const differs = before !== null && state.look === "difference";
  const [query, layer] = [prompt.position(), patterns.layers.includes(prompt.layer()) ? prompt.layer() : patterns.layers[0]];
  const head = patterns.weights(layer, prompt.head()) ? prompt.head() : patterns.columns.find((column) => patterns.weights(layer, column));
  const [words, of] = MEASURES[measure.key];
  const amount = (i, j) => {
    if (!patterns.weights(patterns.layers[i], patterns.columns[j])) return null;
    const value = (one) => of(one.row(patterns.layers[i], patterns.columns[j], query));
    return differs ? value(now) - value(before) : value(patterns);
  };
  const n = patterns.tokens.length;
  const value = (i, j) => {
    if (j > i) return null;
    return differs ? now.at(layer, head, i, j) - before.at(layer, head, i, j) : patterns.at(layer, head, i, j);
  };
  const each = (rows, columns, of) => Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => of(i, j) ?? 0)).flat();
  const most = differs ? reach([...each(patterns.layers.length, patterns.columns.length, amount), ...each(n, n, value)]) : 1;
  const colour = (x) => (differs ? diverging(x / most) : sequential(x));
  key.replaceChildren(differs
    ? legend((x) => diverging(2 * x - 1), [signed(-most, 2), "0", signed(most, 2)], "attention with the changes less that without")
    : legend(sequential, ["0", "1"], "attention"));
  heads.show({
    rows: patterns.layers.length, columns: patterns.columns.length,
    chosen: () => [patterns.layers.indexOf(layer), patterns.columns.indexOf(head)],
    row: (i) => `L${patterns.layers[i]}`, column: (j) => `H${patterns.columns[j]}`,
    cell: (i, j) => {
      const x = amount(i, j);
      return x === null ? null : { rgb: colour(x) };
    },
    words: (i, j) => `layer ${patterns.layers[i]}, head ${patterns.columns[j]}: ${signed(amount(i, j))} ${words}`,
    tip: (i, j) => [el("b", {}, `L${patterns.layers[i]}H${patterns.columns[j]}`), ` from position ${query}: ${(amount(i, j) ?? NaN).toFixed(3)} ${words}`],
    select: (i, j) => change({ layer: patterns.layers[i], head: patterns.columns[j] }),
  });
  thumbnails.replaceChildren(...patterns.columns.filter((column) => patterns.weights(layer, column)).map((column) => thumbnail(patterns, layer, column, head)));
  title.textContent = `Layer ${layer}, head ${head}`;
  const row = patterns.row(layer, head, query);
  const order = row.map((_, key) => key).sort((a, b) => row[b] - row[a]).slice(0, 4);
  strongest.replaceChildren(token(prompt.tokens[query]?.text ?? ""), ` (${query}) looks at `, ...order.flatMap((key, k) => [k ? ", " : "", token(prompt.tokens[key]?.text ?? ""), ` (${key}) ${row[key].toFixed(3)}`]));
  // Few tokens have room for their names.
  large.width = n <= 10 ? 68 : n <= 24 ? 34 : 20;
  large.show({
    rows: n, columns: n, chosen: () => [query, null],
    row: (i) => patterns.tokens[i], column: n <= 24 ? (j) => patterns.tokens[j] : undefined,
    cell: (i, j) => {
      const x = value(i, j);
      return x === null ? null : { rgb: colour(x) };
    },
    words: (i, j) => `${patterns.tokens[i]} at ${i} looks at ${patterns.tokens[j]} at ${j}: ${signed(value(i, j) ?? 0)}`,
    tip: (i, j) => (j > i ? null : [token(prompt.tokens[i].text), ` (${i}) looks at `, token(prompt.tokens[j].text), ` (${j}): ${value(i, j).toFixed(4)}`]),
    select: (i) => change({ position: i }),
  });
}

/** A pattern with one pixel a cell, at most 48 a side; a cell is its largest weight. */
function thumbnail(patterns, layer, head, chosen) {
  const n = patterns.tokens.length;
  const cells = Math.min(n, 48);
  const most = new Float32Array(cells * cells).fill(-1);
  for (let query = 0; query < n; query += 1) {
    for (let key = 0; key <= query; key += 1) {
      const at = Math.floor((query * cells) / n) * cells + Math.floor((key * cells) / n);
      most[at] = Math.max(most[at], patterns.at(layer, head, query, key));
    }
  }
  const canvas = el("canvas", { width: cells, height: cells, "aria-hidden": "true" });
  const image = new ImageData(cells, cells);
  most.forEach((weight, i) => { if (weight >= 0) image.data.set([...sequential(weight), 255], 4 * i); });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return el("button", { type: "button", "aria-label": `H${head} of layer ${layer}`, "aria-pressed": String(head === chosen), onclick: () => change({ layer, head }) }, canvas, el("span", {}, `H${head}`));
}

export const attention = new Panel({
  id: "attention", title: "Attention", about: "Which tokens each head looks at from the chosen token.",
  needs: ["prompt", "changes"], points: ["position", "layer", "head", "look", "views"],
  controls: [run()], formats: ["html", "svg", "png", "csv", "json"], look: ask, point,
});
