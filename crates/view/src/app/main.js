// The page: what is asked above, the views below, all moved by one choice of token, layer and head.
import { ask, command } from "./ask.js";
import { $, button, el, line } from "./dom.js";
import { repaint } from "./heat.js";
import { change, listen, state } from "./state.js";
import { prompt } from "./prompt.js";
import { strip } from "./strip.js";
import { lens } from "./lens.js";
import { attention } from "./attention.js";
import { attributionPanel, directPanel } from "./attribution.js";
import { ablate, patch } from "./sweeps.js";
import { circuit } from "./circuit.js";
import { generation, next } from "./generation.js";
import { features } from "./features.js";
import { graph } from "./graph.js";
import { runs } from "./runs.js";
import { dashboards } from "./dashboards.js";

const panels = [lens, next, attention, directPanel, attributionPanel, patch, ablate, circuit, features, graph, generation];
const status = (text) => { $("status").textContent = text; };

function problem(error) {
  $("problem").replaceChildren(...(error ? [el("p", {}, error.message), error.hint ? el("p", { class: "hint" }, error.hint) : ""] : []));
}

// --- The model in memory.
let busy = false;
async function know() {
  status("waiting for the server");
  let answer;
  try {
    answer = await ask({ ask: "state" }, { hear: (event) => status(event.doing || "waiting for the server") });
  } catch (error) {
    status("");
    problem(error);
    return;
  }
  await take(answer.data);
}

function take(data) {
  prompt.model = data.model;
  prompt.base = data.base;
  prompt.features = data.features ?? [];
  status("");
  const { model } = data;
  problem(data.problem);
  $("model").replaceChildren(model
    ? el("span", { title: `${model.model_type}, width ${model.d_model}, context ${model.context}` }, el("b", {}, model.name), ` · ${model.n_layers} layers · ${model.n_heads} heads · ${model.dtype}`)
    : "no model is loaded", loader(model));
  document.title = model ? `${model.name} · easyroutine` : "easyroutine";
  if (model?.notes.length > 0) $("model").append(el("ul", { class: "notes", "aria-label": "Said while the model was loaded" }, model.notes.map(({ kind, text }) => el("li", {}, el("b", {}, kind), " ", text))));
  page();
  return begin();
}

// Another window has loaded another model: this one shows it too, and says so.
addEventListener("swapped", async ({ detail }) => {
  if (busy) return;
  busy = true;
  try {
    await know();
    problem({ message: detail.message });
  } finally {
    busy = false;
  }
});

/** Another model in the place of this one, with what it needs said first. */
function loader(model) {
  const told = el("p", { class: "hint", role: "status" });
  const name = line("", () => {}, { placeholder: "folder, .gguf file, org/name in the cache", size: "34", "aria-label": "Model to load", onkeydown: (event) => { if (event.key === "Enter") cost(); } });
  const go = button("Load it", load, { hidden: true, class: "strong" });
  const bytes = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(1)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(0)} MB` : `${(n / 1e3).toFixed(0)} kB`);
  async function cost() {
    go.hidden = true;
    told.textContent = "looking at it";
    try {
      const { data } = await command(["model", "info", "--offline", "--", name.value.trim()]);
      told.textContent = `${data.parameters.toLocaleString("en")} parameters; the weights take ${bytes(data.weights_f32_bytes)}, or ${bytes(data.weights_bf16_bytes)} with --dtype bf16${model ? `; ${model.name} leaves the memory` : ""}`;
      go.hidden = false;
    } catch (error) {
      told.textContent = `${error.message}${error.hint ? `; ${error.hint}` : ""}`;
    }
  }
  async function load() {
    if (busy) return;
    busy = true;
    told.textContent = "loading";
    try {
      take((await ask({ ask: "load", model: name.value.trim() })).data);
    } catch (error) {
      await know();
      problem(error);
    } finally {
      busy = false;
    }
  }
  return el("details", { class: "loader" }, el("summary", {}, model ? "another" : "load one"), el("div", { class: "drop" }, name, button("What it needs", cost), go, told));
}

// --- What is asked.
const text = el("textarea", { id: "prompt", rows: "2", spellcheck: "false", placeholder: "The capital of France is" });
const look = button("Look", submit, { class: "strong", title: "Ctrl+Enter" });
const cancel = button("Cancel", () => {
  begun?.abort();
  status("cancelled");
}, { hidden: true });
const chips = el("ul", { class: "chips", "aria-label": "Changes of the run" });
const added = line("", () => {}, { id: "change", placeholder: "resid_out_10@last*0.5", size: "28" });
const tokensLine = strip();
const toggles = el("div", { class: "views", role: "group", "aria-label": "Views" });
const board = el("div", { class: "board" });
const empty = el("p", { class: "hint" }, "Type a prompt and press Look, or Ctrl+Enter. Every view that is chosen above shows the same run; a click on a token, a layer or a head moves them all.");

function submit() {
  if (text.value === state.prompt) begin();
  else change({ prompt: text.value, position: null });
}

function add(words) {
  const trimmed = words.trim();
  if (trimmed && !state.changes.includes(trimmed)) change({ changes: [...state.changes, trimmed] });
}

function drawChanges() {
  const [layer, head, position] = [prompt.layer(), prompt.head(), prompt.position()];
  chips.replaceChildren(...state.changes.map((one) => el("li", {}, el("code", {}, one), button("×", () => change({ changes: state.changes.filter((other) => other !== one) }), { "aria-label": `Remove ${one}` }))));
  quick.replaceChildren(...[
    [`Remove head L${layer}H${head}`, `head_out_L${layer}H${head}@all=0`],
    [`Remove attention ${layer}`, `attn_out_${layer}@all=0`],
    [`Remove MLP ${layer}`, `mlp_out_${layer}@all=0`],
    [`Hide token ${position} from attention`, `pattern_L*@pre:columns:${position}=-inf`],
  ].map(([label, words]) => button(label, () => add(words))));
}
const quick = el("span", { class: "quick" });
added.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  add(added.value);
  added.value = "";
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    submit();
  }
});

const asking = el("div", { class: "asking" },
  el("div", { class: "row" }, el("label", { for: "prompt" }, "Prompt"), text, look, cancel),
  el("div", { class: "row" }, el("label", { for: "change" }, "Changes"), chips, added, button("Add", () => { add(added.value); added.value = ""; }), quick),
  tokensLine.node, toggles);

// --- Views.
function drawViews() {
  toggles.replaceChildren(...panels.map((panel) => button(panel.node.querySelector("h2").textContent, () => {
    const on = state.views.includes(panel.id);
    change({ views: on ? state.views.filter((id) => id !== panel.id) : [...state.views, panel.id] });
  }, { "aria-pressed": String(state.views.includes(panel.id)), "data-view": panel.id })));
  const shown = panels.filter((panel) => state.views.includes(panel.id));
  // What is shown already stays where it is: it keeps its focus and how far it is scrolled.
  for (const panel of panels) if (!shown.includes(panel)) panel.node.remove();
  shown.forEach((panel, i) => { if (board.children[i] !== panel.node) board.insertBefore(panel.node, board.children[i] ?? null); });
}

/** Without a prompt there is nothing to show, and a word on how to begin. */
function showEmpty() {
  empty.hidden = state.prompt !== "";
  board.hidden = !empty.hidden;
}

/** Asks for the tokens of the prompt and the likeliest next ones. */
function readPrompt() {
  const [abort, words] = [new AbortController(), ["run", "-k", "12", "--", state.prompt]];
  const hear = (event) => { if (event.event === "waiting" && event.ahead > 0) status(`waiting: ${event.ahead} ahead, ${event.doing}`); };
  return { prompt: state.prompt, abort, words, answer: command(words, { signal: abort.signal, hear }) };
}

/** Asked at once, beside what the server holds: it has both answers while the page is still being built. */
let early = null;
let begun = null;
/** Reads the prompt first, since every view speaks of its tokens; then all that are shown ask for themselves. */
async function begin() {
  begun?.abort();
  for (const panel of panels) panel.stop();
  tokensLine.draw();
  showEmpty();
  // What was asked of no model has no answer that counts.
  if (!prompt.model) early = null;
  if (!prompt.model || pages[state.page] || state.prompt === "") return;
  const reading = early?.prompt === state.prompt ? early : readPrompt();
  if (early !== reading) early?.abort.abort();
  early = null;
  begun = reading.abort;
  const { words, abort: { signal } } = reading;
  status("reading the prompt");
  const slow = setTimeout(() => { cancel.hidden = false; }, 250);
  try {
    const answer = await reading.answer;
    Object.assign(prompt, { first: { words, answer }, tokens: answer.data.tokens, top: answer.data.top });
    problem(null);
    status("");
  } catch (error) {
    if (signal.aborted) return;
    Object.assign(prompt, { first: null, tokens: [], top: [] });
    status("");
    problem(error);
    tokensLine.draw();
    return;
  } finally {
    clearTimeout(slow);
    cancel.hidden = true;
  }
  document.body.dataset.ready = "";
  // Long rows take the whole width.
  board.classList.toggle("wide", prompt.tokens.length > 7);
  tokensLine.draw();
  drawChanges();
  for (const panel of panels) panel.stale = true;
  await Promise.all(panels.filter((panel) => panel.node.isConnected).map((panel) => panel.refresh()));
  if (!signal.aborted) document.body.dataset.ready = "yes";
}

const pages = { runs, features: dashboards };
function page() {
  const other = pages[state.page];
  for (const name of ["prompt", "runs", "features"]) $(`page-${name}`).setAttribute("aria-pressed", String(pages[name] === other));
  $("main").replaceChildren(...(other ? [other.node] : [asking, empty, board]));
  showEmpty();
  if (other) other.show();
  else drawViews();
}

listen((changed) => {
  if (changed.has("page")) {
    page();
    if (!pages[state.page] && (changed.has("prompt") || !prompt.first)) begin();
    return;
  }
  if (pages[state.page]) {
    pages[state.page].hear(changed);
    return;
  }
  if (changed.has("prompt")) {
    text.value = state.prompt;
    begin();
    return;
  }
  if (changed.has("views")) drawViews();
  if (["position", "layer", "head", "changes"].some((name) => changed.has(name))) drawChanges();
  if (changed.has("position")) tokensLine.draw();
  if (prompt.tokens.length === 0) return;
  for (const panel of panels) {
    panel.hear(changed);
    // A view that is opened asks, unless what it asked before still stands.
    if (changed.has("views") && panel.node.isConnected) panel.refresh();
  }
});

// --- Dark mode follows the system until the button is pressed.
const system = matchMedia("(prefers-color-scheme: dark)");
let own = null;
function theme() {
  const dark = own ?? system.matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("dark").setAttribute("aria-pressed", String(dark));
  repaint();
  lens.point();
}
$("dark").addEventListener("click", () => {
  own = document.documentElement.dataset.theme !== "dark";
  theme();
});
system.addEventListener("change", theme);
for (const name of ["prompt", "runs", "features"]) $(`page-${name}`).addEventListener("click", () => change({ page: name }));

text.value = state.prompt;
theme();
page();
drawChanges();
const known = know();
if (state.prompt !== "" && !pages[state.page]) {
  early = readPrompt();
  // Without a model nobody waits for it.
  early.answer.catch(() => {});
}
await known;
