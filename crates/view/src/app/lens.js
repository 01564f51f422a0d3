// What each layer would predict next, at every token.
import { blend, percent, printable } from "./shared.js";
import { choice, el, field, line, token } from "./dom.js";
import { Heat, diverging, legend, reach } from "./heat.js";
import { Panel } from "./panel.js";
import { bound, change, changes, state } from "./state.js";
import { prompt } from "./prompt.js";
import { run } from "./fields.js";

/** The report of a lens as the page draws it: the last layer on top. */
class Lens {
  constructor(data) {
    this.data = data;
    this.rows = data.rows;
    this.palette = data.palette.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  }

  text(index) { return index === null || index === undefined ? "" : this.data.vocab[index][1]; }

  cell(i, j) {
    const [agrees, flat, entropy, kl, rank, final, tracked] = this.rows[i].cells[j];
    const top = flat.flatMap((_, k) => (k % 2 ? [] : [{ token: flat[k], logprob: flat[k + 1] ?? NaN }]));
    return { agrees: agrees === 1, top, entropy: entropy ?? NaN, kl: kl ?? NaN, rank, final: final ?? NaN, tracked };
  }

  value(i, j, key) {
    const cell = this.cell(i, j);
    switch (key) {
      case "final": return Math.exp(cell.final);
      case "p": return cell.top.length > 0 ? Math.exp(cell.top[0].logprob) : NaN;
      case "rank": return cell.rank;
      case "entropy": return cell.entropy;
      case "kl": return cell.kl;
      default: return cell.tracked === null ? null : Math.exp(cell.tracked);
    }
  }

  colour(x, metric) {
    const number = metric.log ? Math.log10(Math.max(Number.MIN_VALUE, x)) : x;
    return blend(this.palette, (number - metric.dark) / (metric.bright - metric.dark));
  }

  /** The token that the model itself predicts at a column. */
  final(j) { return this.data.finals[j]; }
}

const heat = new Heat("Top token of each layer after each token; arrows move, Enter chooses", { width: 80, side: 64, tall: 702 });
const aside = el("aside", { class: "cell-view", "aria-label": "The chosen cell" });
const key = el("div");
const metric = el("span");
let now = null;
let before = null;

async function ask(panel) {
  const k = prompt.tokens.length > 400 ? "3" : "10";
  const words = (track, ...more) => ["lens", "-k", k, ...more, ...(track ? ["--track", track] : []), "--", state.prompt];
  const lens = async (...given) => new Lens(await panel.run(words(...given)));
  before = null;
  if (state.changes.length === 0) {
    now = await lens(state.track);
  } else {
    // Both runs are read at one token: the one that is followed, or what the unchanged run predicts at the end.
    before = await lens(state.track);
    const last = before.final(before.data.positions.length - 1);
    const followed = state.track || `id:${before.data.vocab[last][0]}`;
    if (!state.track) before = await lens(followed);
    now = await lens(followed, ...changes());
  }
  panel.body.replaceChildren(key, el("div", { class: "beside" }, heat.node, aside));
  draw();
}

const shown = () => (before && state.look === "unchanged" ? before : now);

function draw() {
  if (!now) return;
  const lens = shown();
  const { data } = lens;
  const known = data.metrics.find((one) => one.key === state.metric) ?? data.metrics[0];
  drawMetrics(data.metrics, known.key);
  const differs = before && state.look === "difference";
  const difference = (i, j) => (now.value(i, j, "tracked") ?? NaN) - (before.value(i, j, "tracked") ?? NaN);
  const most = differs ? reach(lens.rows.flatMap((_, i) => data.positions.map((_, j) => difference(i, j)))) : 1;
  const followed = data.tracked === null ? "" : printable(lens.text(data.tracked));
  key.replaceChildren(differs
    ? legend((x) => diverging(2 * x - 1), [`-${percent(most)}`, "0", percent(most)], [el("div", {}, "change of the probability of ", token(lens.text(data.tracked)))])
    : legend((x) => blend(lens.palette, x), known.ticks, [el("div", {}, "▕ ▏ same token as the model predicts"), el("div", {}, "* the model's top token is the actual next one")]));
  const next = (j) => prompt.tokens[data.positions[j] + 1]?.text;
  const rowOf = (layer) => lens.rows.findIndex((row) => row.layer === layer);
  const chosen = () => {
    const column = data.positions.indexOf(prompt.position());
    const row = state.layer === null ? 0 : rowOf(state.layer);
    return [row < 0 ? null : row, column < 0 ? null : column];
  };
  const describe = (i, j) => {
    const cell = lens.cell(i, j);
    const top = cell.top[0];
    return `layer ${lens.rows[i].label}, position ${data.positions[j]}: ${top ? `${printable(lens.text(top.token))} ${percent(Math.exp(top.logprob))}` : "not a number"}${cell.agrees ? ", same as the final layer" : ""}`;
  };
  heat.show({
    rows: lens.rows.length, columns: data.positions.length, chosen,
    row: (i) => lens.rows[i].label,
    column: (j) => (next(j) === undefined ? "" : `${data.right[j] ? "*" : ""}${printable(next(j))}`),
    foot: (j) => printable(prompt.tokens[data.positions[j]]?.text ?? ""),
    corner: "next →", footCorner: "input →",
    cell: (i, j) => {
      const cell = lens.cell(i, j);
      const broken = cell.top.length === 0 || Number.isNaN(cell.top[0].logprob);
      const x = differs ? difference(i, j) : lens.value(i, j, known.key);
      const bad = broken || Number.isNaN(x);
      const rgb = bad || x === null ? null : differs ? diverging(x / most) : lens.colour(x, known);
      return { rgb, nan: bad, mark: cell.agrees, text: broken ? "NaN" : printable(lens.text(cell.top[0].token)) };
    },
    words: describe,
    tip: (i, j) => details(lens, i, j, followed, 6),
    select: (i, j) => {
      const { layer } = lens.rows[i];
      change({ position: data.positions[j], layer: layer < 0 ? null : layer });
    },
  });
  const [row, column] = chosen();
  aside.replaceChildren(...(row === null || column === null ? [] : details(lens, row, column, followed, 10)));
}

/** The colours to choose from; the field stays where it is, and keeps its focus, while they are the same. */
function drawMetrics(metrics, chosen) {
  const select = metric.querySelector("select");
  const isSame = select && metrics.map(({ key }) => key).join() === [...select.options].map((option) => option.value).join();
  if (isSame) select.value = chosen;
  else metric.replaceChildren(field("Colour", choice(metrics.map((one) => [one.key, one.words]), chosen, (value) => change({ metric: value }))));
}

/** A cell in numbers. */
function details(lens, i, j, followed, most) {
  const cell = lens.cell(i, j);
  const row = lens.rows[i];
  const position = lens.data.positions[j];
  const largest = Math.max(...cell.top.map((one) => Math.exp(one.logprob)), 1e-9);
  const candidates = cell.top.slice(0, most).map((one) => {
    const bar = el("i");
    bar.style.width = `${(100 * Math.exp(one.logprob)) / largest || 0}%`;
    return el("tr", { class: one.token === lens.final(j) ? "final" : "" }, el("td", {}, token(lens.text(one.token))), el("td", { class: "n" }, percent(Math.exp(one.logprob))), el("td", { class: "b" }, bar));
  });
  const fact = (name, what) => [el("dt", {}, name), el("dd", {}, what)];
  const nats = (x) => (Number.isNaN(x) ? "NaN" : `${x.toFixed(3)} nats`);
  return [
    el("p", { class: "where" }, el("b", {}, row.layer < 0 ? "embedding" : `layer ${row.label}`), " after ", token(prompt.tokens[position]?.text ?? ""), ` (position ${position})`),
    el("table", { class: "bars" }, el("tbody", {}, candidates)),
    el("dl", {},
      fact("entropy", nats(cell.entropy)), fact("KL(final ‖ layer)", nats(cell.kl)),
      fact(["final's ", token(lens.text(lens.final(j)))], percent(Math.exp(cell.final))),
      cell.rank === null ? [] : fact("rank of the next token", String(cell.rank)),
      followed && cell.tracked !== null ? fact(["followed ", followed], percent(Math.exp(cell.tracked))) : [],
      followed && before && lens === now ? fact(["followed ", followed, ", unchanged"], percent(before.value(i, j, "tracked") ?? NaN)) : []),
  ];
}

export const lens = new Panel({
  id: "lens", title: "Logit lens", about: "What each layer would predict next, at every token.",
  needs: ["prompt", "changes", "track"], points: ["position", "layer", "metric", "look", "views"],
  controls: [metric, run(), field("Follow a token", bound("track", line(state.track, (track) => change({ track }), { placeholder: "' Paris' or id:7042", size: "14" })))],
  formats: ["html", "svg", "png", "csv", "json"], look: ask, point: draw,
});
