// What `easyroutine features` found of a dictionary over a data set: an index of features, and the card of one.
import { featureDrawing } from "./features_drawing.js";
import { command } from "./ask.js";
import { button, choice, el, field, line } from "./dom.js";
import { Panel } from "./panel.js";
import { bound, change, state } from "./state.js";
import { prompt } from "./prompt.js";

/** The name of the features of a file: `features_sae` of `runs/features_sae.jsonl`. */
const stem = (path) => path.split(/[\\/]/).pop().replace(/\.jsonl$/, "");
const file = () => state.dashboards || prompt.features[0]?.path || "";
const known = (key) => (stem(file()) === key ? file() : prompt.features.find((one) => one.key === key)?.path);
/** The number of the chosen feature, where it is one of this file. */
const number = () => {
  const [key, n] = state.feature.split(":");
  return file() !== "" && key === stem(file()) && /^\d+$/.test(n ?? "") ? Number(n) : null;
};
const dictionaries = () => state.dicts.map((text) => [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)]);
/** The dictionary that a name of features is of, where the page knows its path. */
const isNamed = (key) => dictionaries().some(([name]) => key === `features_${name}` || key.startsWith(`features_${name}_`));

/** What the features of a layer of a set are called: by the dictionary of this path, or by the one file that fits. */
export function keyOf(path, layer) {
  const named = dictionaries().find(([, other]) => other === path);
  if (named) return `features_${named[0]}_${layer}`;
  const found = prompt.features.filter(({ key }) => key.endsWith(`_${layer}`));
  return found.length === 1 ? found[0].key : null;
}

/** The card of a feature as elements; none where no file of it is known. */
export async function cardOf(key, n, examples) {
  const path = known(key);
  if (path === undefined) return [];
  try {
    const { data } = await command(["dict", "page", "--features", String(n), "--examples", String(examples), "--", path]);
    return featureDrawing(data.texts).card(data.features[0]);
  } catch (error) {
    return [el("p", { class: "warning" }, error.message)];
  }
}

// --- The index, of which only what is in sight are elements.
const rows = el("div", { class: "feature-index", role: "listbox", tabindex: "0", "aria-label": "Features" });
const count = el("p", { class: "hint", role: "status" });
const facts = el("p", { class: "feature-facts" });
let data = null;
let index = null;

function select() {
  if (!data) return;
  const shown = featureDrawing(data.texts).select(data.features, state.find, state.sort);
  count.textContent = `${shown.length.toLocaleString("en")} of ${data.features.length.toLocaleString("en")} features that are active`;
  index.show(shown, Math.max(0, shown.findIndex((feature) => feature.n === number())));
}

let waiting = 0;
function go(i, now = false) {
  const feature = index?.go(i);
  if (!feature) return;
  // Each card is a question: who runs down the list asks for the one that they stop at.
  clearTimeout(waiting);
  waiting = setTimeout(() => change({ feature: `${stem(file())}:${feature.n}` }), now ? 0 : 120);
}

rows.addEventListener("keydown", (event) => {
  if (!index || event.ctrlKey || event.metaKey || event.altKey) return;
  const page = Math.max(1, Math.floor(rows.clientHeight / 27) - 1);
  const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -1e9, End: 1e9 }[event.key];
  if (event.key === "Enter") go(index.state.at, true);
  if (!by) return;
  event.preventDefault();
  go(index.state.at + by);
});

async function look(panel) {
  files.replaceChildren(...prompt.features.map(({ key, path }) => el("option", { value: path }, `${key} (${path})`)));
  if (prompt.features.length > 0) named.placeholder = prompt.features[0].path;
  if (file() === "") {
    panel.same.hidden = true;
    panel.body.replaceChildren(el("p", { class: "hint" }, "No features are known. Collect them with ", el("code", {}, "easyroutine features -o features/"), ", start with ", el("code", {}, "easyroutine serve --features features/"), ", or name a file above."));
    return;
  }
  const asked = (examples) => panel.run(["dict", "page", "--examples", examples, "--", file()]);
  data = await asked("0");
  // Features without logits are told by the tokens of their examples.
  if (data.features.every((feature) => feature.up === null)) data = await asked("1");
  facts.replaceChildren(...data.facts.map(([name, value]) => el("span", {}, `${name} `, el("b", {}, value))));
  panel.body.replaceChildren(facts, count, rows);
  index = featureDrawing(data.texts).index(rows, (i) => go(i, true));
  select();
}

const files = el("datalist", { id: "feature-files" });
const named = line(state.dashboards, (path) => change({ dashboards: path.trim() }), { size: "34", placeholder: "features_NAME.jsonl", list: "feature-files" });
const listing = new Panel({
  id: "dashboards", title: "Features", about: "Every feature of a dictionary that is active on a data set.", needs: ["dashboards"], points: ["find", "sort"],
  controls: [
    field("File", bound("dashboards", named)), files,
    field("Find", bound("find", el("input", { type: "search", value: state.find, placeholder: "number or token", size: "14", oninput: (event) => change({ find: event.target.value }) }))),
    field("Sort", bound("sort", choice([["frequency", "frequency"], ["feature", "number"], ["max", "largest value"], ["mean", "mean value"]], state.sort, (sort) => change({ sort })))),
  ],
  formats: ["html", "json"], look, point: select,
});

// --- One feature.
const one = new Panel({
  id: "feature", title: "The feature", about: "Where it is active, how strongly, and which tokens it writes towards.", needs: ["feature", "dashboards"],
  formats: ["html", "json"],
  look: async (panel) => {
    const n = number();
    if (n === null) {
      panel.same.hidden = true;
      panel.body.replaceChildren(el("p", { class: "hint" }, "Choose a feature of the index."));
      return;
    }
    const { texts, features } = await panel.run(["dict", "page", "--features", String(n), "--examples", "20", "--", file()]);
    panel.body.replaceChildren(acts(features[0]), el("div", { class: "feature-card" }, featureDrawing(texts).card(features[0])));
  },
});

/** From a feature to the prompt: where it is active there, and what changing it does. */
function acts(feature) {
  const there = (more = {}) => change({ page: "prompt", views: [...new Set([...state.views, "features"])], ...more });
  if (!isNamed(stem(file()))) {
    return el("p", { class: "hint" }, "To see it in the prompt or to change it there, name its dictionary: ", button("Features of the prompt", () => there()));
  }
  const add = (how) => () => there({ changes: [...new Set([...state.changes, `${state.feature}@all${how}`])] });
  return el("p", { class: "acts" }, "In the prompt: ", button("Show it", () => there()), button("Remove it", add("=0")), button("Double it", add("*2")), button("Clamp it to its largest value", add(`=${feature.max}`)));
}

const node = el("div", { class: "board" });
export const dashboards = {
  node,
  show() {
    node.replaceChildren(listing.node, one.node);
    for (const panel of [listing, one]) panel.stale = true;
    document.body.dataset.ready = "";
    Promise.all([listing.refresh(), one.refresh()]).then(() => { document.body.dataset.ready = "yes"; });
  },
  hear(changed) {
    listing.hear(changed);
    one.hear(changed);
    // What an address or a step back has chosen is brought into sight.
    if (changed.has("feature") && index && number() !== index.state.shown[index.state.at]?.n) {
      const at = index.state.shown.findIndex((feature) => feature.n === number());
      if (at >= 0) index.go(at);
    }
  },
};
