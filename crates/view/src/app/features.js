// Which features of a dictionary are active at each token, and what changing one does.
import { printable } from "./shared.js";
import { button, el, field, line, token } from "./dom.js";
import { Heat, legend, reach, sequential } from "./heat.js";
import { Panel } from "./panel.js";
import { bound, change, changes, state } from "./state.js";
import { prompt } from "./prompt.js";
import { cardOf } from "./dashboards.js";

/** Features that are drawn, those of the largest values first. */
const MOST = 80;

const heat = new Heat("Features by tokens; arrows move, Enter chooses", { width: 64, height: 20, side: 150, tall: 520 });
const chosen = el("div", { class: "chosen-feature" });
let data = null;

async function look(panel) {
  if (state.dicts.length === 0) {
    panel.body.replaceChildren(el("p", { class: "hint" }, "Name a dictionary: NAME=PATH, a folder or a file of SAELens, Gemma Scope, sparsify, dictionary_learning, Qwen-Scope, Llama Scope or circuit-tracer."));
    return;
  }
  data = await panel.run(["dict", "active", "-k", "30", ...changes(), "--", state.prompt]);
  panel.body.replaceChildren();
  draw(panel);
}

function draw(panel) {
  if (!data || state.dicts.length === 0) return;
  const rows = new Map();
  for (const one of data.features) {
    const name = `${one.key}:${one.feature}`;
    if (!rows.has(name)) rows.set(name, { name, most: 0, at: new Map() });
    const row = rows.get(name);
    row.most = Math.max(row.most, Math.abs(one.value));
    row.at.set(one.position, one.value);
  }
  // At the chosen token first, then by size.
  const here = prompt.position();
  const all = [...rows.values()].sort((a, b) => Math.abs(b.at.get(here) ?? 0) - Math.abs(a.at.get(here) ?? 0) || b.most - a.most).slice(0, MOST);
  const most = reach(all.map((row) => row.most));
  panel.body.replaceChildren(
    el("p", { class: "hint" }, data.keys.map(({ key, n_features: n, l0 }) => `${key}: ${l0.toFixed(1)} of ${n.toLocaleString("en")} active at a token`).join("; "), ". The 30 largest of each token; those of the chosen token first."),
    legend(sequential, ["0", most.toPrecision(3)], "activation"), heat.node, chosen);
  const value = (i, j) => all[i].at.get(data.positions[j]);
  heat.show({
    rows: all.length, columns: data.positions.length, chosen: () => [all.findIndex((row) => row.name === state.feature), data.positions.indexOf(here)],
    row: (i) => all[i].name.replace(/^features_/, ""), column: (j) => printable(data.tokens[data.positions[j]].text),
    cell: (i, j) => {
      const x = value(i, j);
      return x === undefined ? {} : { rgb: sequential(Math.abs(x) / most), text: x.toPrecision(2) };
    },
    words: (i, j) => `${all[i].name} at ${printable(data.tokens[data.positions[j]].text)}: ${value(i, j) ?? "not among the largest"}`,
    tip: (i, j) => [el("b", {}, all[i].name), " at ", token(data.tokens[data.positions[j]].text), `: ${value(i, j)?.toFixed(4) ?? "not among the largest"}`],
    select: (i, j) => change({ feature: all[i].name, position: data.positions[j] }),
  });
  const add = (how) => () => {
    const words = `${state.feature}@all${how}`;
    if (!state.changes.includes(words)) change({ changes: [...state.changes, words] });
  };
  // Of every feature that is listed, also where not all are drawn; one that is not active has no largest value.
  const largest = rows.get(state.feature)?.most;
  chosen.replaceChildren(...(state.feature ? [el("b", {}, state.feature), " ", button("Remove it", add("=0")), " ", button("Double it", add("*2")), " ", largest === undefined ? "" : button("Clamp it to its largest value here", add(`=${largest}`))] : []));
  describe();
}

/** What is known of the chosen feature over a data set. */
const card = el("div", { class: "feature-card" });
let described = "";
async function describe() {
  if (!state.feature) return;
  chosen.append(card);
  if (described === state.feature) return;
  described = state.feature;
  const [key, n] = described.split(":");
  const found = await cardOf(key, Number(n), 6);
  if (described === `${key}:${n}`) card.replaceChildren(...found);
}

export const features = new Panel({
  id: "features", title: "Features", about: "Which features of a sparse autoencoder or transcoder are active at each token.",
  needs: ["prompt", "changes", "dicts"], points: ["position", "feature", "views"],
  controls: [field("Dictionaries", bound("dicts", line(state.dicts.join(" "), (text) => change({ dicts: text.trim().split(/\s+/).filter(Boolean) }), { size: "44", placeholder: "NAME=PATH, several with blanks between" }), (dicts) => dicts.join(" ")))],
  formats: ["csv", "json"], look, point: draw,
});
