// Which parts write towards a token, and which tokens carried it there.
import { printable } from "./shared.js";
import { choice, el, field, line, signed, token } from "./dom.js";
import { Heat, diverging, legend, reach } from "./heat.js";
import { Panel } from "./panel.js";
import { bound, change, changes, state } from "./state.js";
import { prompt } from "./prompt.js";
import { run, tokens } from "./fields.js";

const named = () => [...(prompt.answer() ? ["--answer", prompt.answer()] : []), ...(state.against ? ["--against", state.against] : [])];

// --- Direct attribution.
const direct = new Heat("What each part writes towards the token; arrows move, Enter chooses", { width: 66, height: 20, side: 92, tall: 640 });
let found = null;
let unchanged = null;

function table(data, by) {
  const layers = new Map();
  let columns = by === "part" ? ["attention", "MLP"] : [];
  const rest = [];
  for (const { component, value } of data.contributions) {
    const head = /^head_out_L(\d+)H(\d+)$/.exec(component);
    const part = /^(attn|mixer|mlp)_out_(\d+)$/.exec(component);
    if (!head && !part) {
      rest.push([component, value]);
      continue;
    }
    const layer = Number(head ? head[1] : part[2]);
    const column = head ? Number(head[2]) : { attn: 0, mlp: 1, mixer: 2 }[part[1]];
    if (!layers.has(layer)) layers.set(layer, []);
    layers.get(layer)[column] = value;
    if (head) columns[column] = `H${column}`;
    else if (part[1] === "mixer") columns[2] = "recurrence";
  }
  columns = [...columns].map((name, i) => name ?? `H${i}`);
  return { layers: [...layers.keys()].sort((a, b) => b - a), columns, at: (layer, column) => layers.get(layer)?.[column] ?? null, rest };
}

async function askDirect(panel) {
  const words = (...more) => ["dla", "--by", state.by, "--positions", String(prompt.position()), ...(state.by === "part" ? [] : ["-k", state.by === "neuron" ? "40" : "100000"]), ...named(), ...more, "--", state.prompt];
  unchanged = state.changes.length > 0 ? await panel.run(words()) : null;
  found = await panel.run(words(...changes()));
  drawDirect();
}

function drawDirect() {
  if (!found) return;
  const [total] = found.logit_diff;
  const lead = el("p", {}, "logit of ", token(tokenText(found.answer)), state.against ? [" less that of ", token(state.against)] : "", ` at position ${total.position}: `, el("b", {}, signed(total.value)),
    unchanged ? `, unchanged ${signed(unchanged.logit_diff[0].value)}` : "");
  if (state.by === "neuron") {
    directPanel.body.replaceChildren(lead, el("table", { class: "list" },
      el("thead", {}, el("tr", {}, ["layer", "neuron", "writes"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, found.contributions.map(({ component, neuron, value }) => el("tr", {}, el("td", {}, component.replace("mlp_hidden_", "")), el("td", {}, neuron === null ? component : String(neuron)), el("td", { class: "n" }, signed(value, 4)))))));
    return;
  }
  const differs = unchanged !== null && state.look === "difference";
  const [now, before] = [table(state.look === "unchanged" && unchanged ? unchanged : found, state.by), unchanged && table(unchanged, state.by)];
  const value = (layer, column) => {
    const x = now.at(layer, column);
    return x === null || !differs ? x : x - before.at(layer, column);
  };
  const all = now.layers.flatMap((layer) => now.columns.map((_, column) => value(layer, column) ?? 0));
  const most = reach(all);
  const rest = now.rest.filter(([, x]) => x !== 0);
  direct.width = state.by === "part" ? 120 : 58;
  directPanel.body.replaceChildren(lead,
    legend((x) => diverging(2 * x - 1), [signed(-most, 2), "0", signed(most, 2)], differs ? "orange: the changes make it write more towards the token; blue: less" : "orange writes towards the token, blue away from it"),
    direct.node,
    rest.length > 0 ? el("p", { class: "hint" }, "besides: ", rest.map(([name, x]) => `${name} ${signed(x)}`).join(", ")) : "");
  direct.show({
    rows: now.layers.length, columns: now.columns.length,
    chosen: () => [now.layers.indexOf(prompt.layer()), state.by === "head" ? now.columns.indexOf(`H${prompt.head()}`) : null],
    row: (i) => `layer ${now.layers[i]}`, column: (j) => now.columns[j],
    cell: (i, j) => {
      const x = value(now.layers[i], j);
      return x === null ? null : { rgb: diverging(x / most), text: Math.abs(x) >= most / 200 ? x.toFixed(2) : "" };
    },
    words: (i, j) => `layer ${now.layers[i]}, ${now.columns[j]}: ${signed(value(now.layers[i], j))}`,
    tip: (i, j) => [el("b", {}, `layer ${now.layers[i]}, ${now.columns[j]}`), ` writes ${signed(value(now.layers[i], j), 4)}`],
    select: (i, j) => change({ layer: now.layers[i], ...(state.by === "head" ? { head: Number(now.columns[j].slice(1)) } : {}) }),
  });
}

/** The text of a token that the first questions have named. */
function tokenText(id) {
  return prompt.top.find((one) => one.id === id)?.text ?? (state.answer.startsWith("id:") ? state.answer : state.answer || `id:${id}`);
}

export const directPanel = new Panel({
  id: "direct", title: "Direct attribution", about: "What each part writes itself towards a token, at the chosen position.",
  needs: ["prompt", "changes", "answer", "against", "by", "position"], points: ["layer", "head", "look", "views"],
  controls: [...tokens(), field("By", bound("by", choice([["head", "head"], ["part", "part"], ["neuron", "neuron"]], state.by, (by) => change({ by })))), run()],
  formats: ["csv", "json"], says: ["sum"], look: askDirect, point: drawDirect,
});

// --- Attribution to tokens, and to activations between two prompts.
const bars = new Heat("Score of each token; arrows move, Enter chooses", { width: 88, height: 24, side: 64, tall: 120 });
let scores = null;

async function askScores(panel) {
  const pair = state.against ? ["--metric", "logit-diff"] : ["--metric", "logit"];
  const words = state.method === "integrated"
    ? ["attribute", "--method", "integrated", ...pair, ...named(), ...(state.base ? ["--base", state.base] : []), "--", state.prompt]
    : ["attribute", "-k", "60", "-a", state.of, ...pair, ...named(), "--base", state.base, "--", state.prompt];
  scores = await panel.run(words);
  drawScores();
}

function drawScores() {
  if (!scores) return;
  if (scores.method === "patching") {
    attributionPanel.body.replaceChildren(el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Estimates, the largest first" }, el("table", { class: "list" },
      el("thead", {}, el("tr", {}, ["activation", "part", "position", "token", "estimate"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, scores.cells.map((cell) => {
        const layer = /_L?(\d+)/.exec(cell.activation);
        const go = () => change({ position: cell.position, ...(layer ? { layer: Number(layer[1]) } : {}), ...(cell.part !== null && state.of.startsWith("z") ? { head: cell.part } : {}) });
        return el("tr", {}, el("td", {}, el("button", { type: "button", class: "link", onclick: go }, cell.activation)), el("td", {}, cell.part ?? ""), el("td", {}, String(cell.position)), el("td", {}, token(cell.token)), el("td", { class: "n" }, signed(cell.score, 4)));
      })))));
    return;
  }
  const most = reach(scores.tokens.map((one) => one.score));
  attributionPanel.body.replaceChildren(legend((x) => diverging(2 * x - 1), [signed(-most, 2), "0", signed(most, 2)], "how much of the metric each token carried"), bars.node);
  bars.show({
    rows: 1, columns: scores.tokens.length, chosen: () => [0, prompt.position()],
    row: () => "score", column: (j) => printable(scores.tokens[j].token),
    cell: (_, j) => ({ rgb: diverging(scores.tokens[j].score / most), text: signed(scores.tokens[j].score, 2) }),
    words: (_, j) => `${printable(scores.tokens[j].token)} at ${j}: ${signed(scores.tokens[j].score)}`,
    tip: (_, j) => [token(scores.tokens[j].token), ` (${j}): ${signed(scores.tokens[j].score, 4)}`],
    select: (_, j) => change({ position: j }),
  });
}

export const attributionPanel = new Panel({
  id: "attribution", title: "Attribution", about: "Integrated gradients by token; between two prompts, estimates of every activation.",
  needs: ["prompt", "answer", "against", "method", "of", "base"], points: ["position", "views"], manual: "Attribute",
  controls: [...tokens(), field("Method", bound("method", choice([["integrated", "integrated gradients"], ["patching", "attribution patching"]], state.method, (method) => change({ method })))),
    field("Of", bound("of", line(state.of, (of) => change({ of: of || "z_L*" }), { size: "12", title: "the activations of attribution patching" }))),
    field("Base prompt", bound("base", line(state.base, (base) => change({ base }), { size: "30", placeholder: "zeros; patching needs one" })))],
  formats: ["csv", "json"], look: askScores, point: drawScores,
});
