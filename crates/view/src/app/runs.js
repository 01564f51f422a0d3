// Saved runs: found, looked into, compared, tagged.
import { percent, printable } from "./shared.js";
import { button, el, field, line, signed, tip, token } from "./dom.js";
import { Heat, diverging, legend, reach, sequential } from "./heat.js";
import { Panel } from "./panel.js";
import { bound, change, state } from "./state.js";
import { prompt } from "./prompt.js";

/** Numbers that are asked for at once. */
const MOST = 300_000;
const HEIGHT = 28;

// --- The list, of which only what is in view are elements.
const rows = el("div", { class: "rows-size" });
/** The names of the columns stand above the rows while they are scrolled; a reader of the screen hears them in each row. */
const names = el("div", { class: "names", "aria-hidden": "true" }, ["saved", "experiment", "name", "model", "tags", "examples", "size"].map((name, i) => el("span", { class: i > 4 ? "n" : "" }, name)));
const list = el("div", { class: "rows", role: "listbox", tabindex: "0", "aria-label": "Saved runs, the most recent first" }, names, rows);
let found = [];
let at = 0;

const bytes = (n) => (n === undefined || n === null ? "" : n >= 1e9 ? `${(n / 1e9).toFixed(1)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : n >= 1e3 ? `${(n / 1e3).toFixed(1)} kB` : `${n} B`);
const tags = (metadata) => [...new Set([metadata.tag, ...(metadata._store?.tags ?? [])].filter(Boolean))];

function drawList() {
  rows.style.height = `${found.length * HEIGHT}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 3);
  const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 3);
  rows.replaceChildren(...found.slice(first, last).map(({ path, metadata }, k) => {
    const i = first + k;
    const row = el("div", { class: `run${i === at ? " here" : ""}`, role: "option", id: `run-${i}`, "aria-selected": String(path === state.run), "aria-setsize": found.length, "aria-posinset": i + 1, onclick: () => pick(i) },
      el("span", { class: "time" }, metadata.save_time ?? ""), el("span", {}, metadata.experiment_name ?? ""), el("span", {}, metadata._store?.name ?? path.split("/").pop()),
      el("span", {}, metadata.model_name ?? ""), el("span", {}, tags(metadata).join(", ")), el("span", { class: "n" }, `${metadata._store?.n_examples ?? ""}`), el("span", { class: "n" }, bytes(metadata._store?.n_bytes)));
    row.style.top = `${i * HEIGHT}px`;
    return row;
  }));
  if (found.length > 0) list.setAttribute("aria-activedescendant", `run-${at}`);
  else list.removeAttribute("aria-activedescendant");
}

function pick(i) {
  at = i;
  drawList();
  change({ run: found[i].path, key: "", from: "0" });
}

let frame = 0;
const later = () => {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    drawList();
  });
};
list.addEventListener("scroll", later);
new ResizeObserver(later).observe(list);
list.addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor(list.clientHeight / HEIGHT) - 2);
  const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -1e9, End: 1e9 }[event.key];
  if (event.key === "Enter" && found[at]) pick(at);
  if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  at = Math.min(found.length - 1, Math.max(0, at + by));
  if (at * HEIGHT < list.scrollTop) list.scrollTop = at * HEIGHT;
  if ((at + 2) * HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = (at + 2) * HEIGHT - list.clientHeight;
  drawList();
});

const listing = new Panel({
  id: "runs", title: "Saved runs", about: "All runs of the store, or those for which a condition holds.", needs: ["where"],
  controls: [field("Condition", bound("where", line(state.where, (where) => change({ where }), { size: "50", placeholder: "extraction_config.extract_resid_out = true and seed >= 3" }))), button("Read again", () => listing.refresh(true))],
  formats: ["csv", "json"],
  look: async (panel) => {
    const data = await panel.run(["runs", ...(state.where ? ["query", "--", state.where] : ["ls"])]);
    found = [...data.runs].reverse();
    at = Math.max(0, found.findIndex((run) => run.path === state.run));
    // What cannot be read, and what is unfinished, is said by the command itself.
    panel.body.replaceChildren(el("p", { class: "hint" }, found.length === 1 ? "1 run" : `${found.length.toLocaleString("en")} runs`), list);
    drawList();
  },
});

// --- One run.
const shown = new Panel({
  id: "run", title: "The run", about: "What it is, what is in it, and its tags.", needs: ["run"], points: ["key", "other"],
  formats: ["json"],
  look: async (panel) => {
    if (!state.run) {
      panel.body.replaceChildren(el("p", { class: "hint" }, "Choose a run above."));
      return;
    }
    current = await panel.run(["runs", "show", "--", state.run]);
    drawRun(panel);
  },
  point: drawRun,
});
let current = null;

function drawRun(panel) {
  if (!current || !state.run) return;
  const { metadata, tensors } = current;
  const store = metadata._store ?? {};
  const facts = [["path", current.path], ["saved", metadata.save_time], ["model", metadata.model_name], ["model digest", store.model_digest], ["positions", JSON.stringify(metadata.target_token_positions)], ["examples", store.n_examples], ["size", bytes(store.n_bytes)], ["digest", store.digest], ["revision", store.revision], ["writer", store.writer],
    ...Object.entries(metadata).filter(([key]) => !["_store", "tag", "save_time", "model_name", "experiment_name", "target_token_positions"].includes(key)).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)])];
  const name = line("", () => {}, { size: "12", "aria-label": "New tag" });
  const tag = async (...words) => {
    try {
      await panel.run(["runs", "tag", ...words]);
      panel.stale = true;
      await panel.refresh();
    } catch (error) {
      panel.fault.replaceChildren(el("p", {}, error.message), error.hint ? el("p", { class: "hint" }, error.hint) : "");
    }
  };
  panel.body.replaceChildren(
    el("p", { class: "acts" }, "tags: ", tags(metadata).map((one) => el("span", { class: "chip" }, one, button("×", () => tag(`--remove=${one}`, "--", state.run), { "aria-label": `Remove the tag ${one}` }))), name, button("Add tag", () => { if (name.value.trim()) tag("--", state.run, name.value.trim()); })),
    el("p", {}, state.other && state.other !== state.run ? ["compared with ", el("code", {}, state.other), " ", button("Compare no more", () => change({ other: "" }))] : button("Compare others with this one", () => change({ other: state.run }))),
    el("details", {}, el("summary", {}, "Metadata"), el("dl", { class: "facts" }, facts.filter(([, value]) => value !== undefined && value !== null).map(([key, value]) => [el("dt", {}, key), el("dd", {}, String(value))]))),
    el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Tensors" }, el("table", { class: "list" },
      el("thead", {}, el("tr", {}, ["tensor", "type", "shape"].map((one) => el("th", { scope: "col" }, one)))),
      el("tbody", {}, tensors.map((one) => el("tr", { class: one.name === state.key ? "chosen" : "" }, el("td", {}, el("button", { type: "button", class: "link", "aria-pressed": String(one.name === state.key), onclick: () => change({ key: one.name, from: "0" }) }, one.name)), el("td", {}, `${one.kind} ${one.dtype}`), el("td", {}, JSON.stringify(one.shape))))))));
}

// --- One tensor.
/** Whether examples of different length lie end to end, so that the first axis counts tokens. */
const isRagged = ({ kind }) => kind === "rows" || kind === "ragged_nd";
const heat = new Heat("Numbers of the tensor; arrows move", { width: 12, height: 14, side: 74, tall: 420 });
const tensor = new Panel({
  id: "tensor", title: "The tensor", about: "Its numbers, their statistics, and how they differ from those of another run.", needs: ["key", "from", "other", "run", "reading"],
  formats: ["csv", "json"],
  look: async (panel) => {
    const entry = current?.tensors.find((one) => one.name === state.key);
    if (!state.run || !state.key || !entry) {
      panel.body.replaceChildren(el("p", { class: "hint" }, state.key && current ? `The run has no tensor ${state.key}.` : "Choose a tensor of the run."));
      return;
    }
    const all = (isRagged(entry) ? current.metadata._store?.n_examples : entry.shape[0]) ?? 1;
    const each = Math.max(1, entry.shape.reduce((a, b) => a * b, 1) / Math.max(1, all));
    const most = Math.max(1, Math.floor(MOST / each));
    const from = Math.min(Math.max(0, Number(state.from) || 0), Math.max(0, all - 1));
    const to = Math.min(all, from + most);
    // What was kept beside the examples is one tensor of its own.
    const part = entry.kind === "object" ? [] : ["--rows", `${from}:${to}`];
    const load = (run) => panel.run(["runs", "load", ...part, "--", run, state.key]);
    const other = state.other && state.other !== state.run ? await load(state.other) : null;
    const data = await load(state.run);
    const isStream = drawTensor(panel, data, other, { from, to, all });
    if (isStream && state.reading === "lens") await readLens(panel, from, to);
  },
});

function statistics(values) {
  let [n, sum, least, most, broken, zero] = [0, 0, Infinity, -Infinity, 0, 0];
  for (const x of values) {
    if (typeof x !== "number" || !Number.isFinite(x)) {
      broken += 1;
      continue;
    }
    n += 1;
    sum += x;
    least = Math.min(least, x);
    most = Math.max(most, x);
    if (x === 0) zero += 1;
  }
  const mean = sum / n;
  let square = 0;
  for (const x of values) if (typeof x === "number" && Number.isFinite(x)) square += (x - mean) ** 2;
  return { numbers: n, mean, deviation: Math.sqrt(square / n), least, most, zeros: zero, "not finite": broken };
}

/** The magnitude below which 199 of 200 finite numbers lie, as far as a sample of them tells. */
function usual(numbers) {
  const step = Math.max(1, Math.floor(numbers.length / 20_000));
  const sizes = [];
  for (let i = 0; i < numbers.length; i += step) if (Number.isFinite(numbers[i])) sizes.push(Math.abs(numbers[i]));
  sizes.sort((a, b) => a - b);
  return sizes[Math.floor(0.995 * (sizes.length - 1))] ?? 0;
}

function drawTensor(panel, data, other, { from, to, all }) {
  const width = data.shape.length > 1 ? data.shape[data.shape.length - 1] : 1;
  const count = Math.ceil(data.values.length / Math.max(1, width));
  const agrees = other && ["shape", "offsets"].every((key) => JSON.stringify(other[key]) === JSON.stringify(data[key]));
  const numbers = agrees ? data.values.map((x, i) => x - other.values[i]) : data.values;
  const own = statistics(data.values);
  const columns = [["this run", own], ...(other ? [["the other", statistics(other.values)]] : []), ...(agrees ? [["difference", statistics(numbers)]] : [])];
  const format = (x) => (Number.isInteger(x) ? x.toLocaleString("en") : Number.isFinite(x) ? x.toPrecision(5) : "none");
  let dot = 0, left = 0, right = 0;
  if (agrees) data.values.forEach((x, i) => { dot += x * other.values[i]; left += x * x; right += other.values[i] ** 2; });
  const isWeight = /^pattern/.test(state.key) && !agrees;
  // A few entries are a thousand times the others in most models: colours end where all but one in 200 lie.
  const largest = reach(numbers);
  const least = usual(numbers);
  const most = isWeight ? 1 : least > 0 && largest > 4 * least ? least : largest;
  // Axes before the last count the rows: examples, positions, queries.
  const inner = data.shape.slice(1, -1);
  const name = (i) => {
    const parts = [];
    let rest = i;
    for (let k = inner.length - 1; k >= 0; k -= 1) {
      parts.unshift(rest % inner[k]);
      rest = Math.floor(rest / inner[k]);
    }
    if (!isRagged(data)) return [rest + from, ...parts].join(",");
    const example = data.offsets.findLastIndex((start) => start <= rest);
    return [example + from, rest - data.offsets[example], ...parts].join(",");
  };
  const value = (i, j) => numbers[i * width + j];
  heat.width = width <= 80 ? 16 : 6;
  panel.body.replaceChildren(
    el("p", { class: "hint" }, `${state.key}, shape ${JSON.stringify(data.shape)}, ${data.dtype}; examples ${from} to ${to - 1} of ${all} `,
      from > 0 ? button("Earlier", () => change({ from: String(Math.max(0, from - (to - from))) })) : "", to < all ? button("Later", () => change({ from: String(to) })) : ""),
    other && !agrees ? el("p", { class: "warning" }, `The other run's ${JSON.stringify(other.shape) === JSON.stringify(data.shape) ? "examples have other lengths" : `tensor has the shape ${JSON.stringify(other.shape)}`}: no difference can be taken.`) : "",
    el("table", { class: "list" }, el("thead", {}, el("tr", {}, el("td"), columns.map(([what]) => el("th", { scope: "col" }, what)))),
      el("tbody", {}, Object.keys(own).map((key) => el("tr", {}, el("th", { scope: "row" }, key), columns.map(([, one]) => el("td", { class: "n" }, format(one[key]))))))),
    agrees ? el("p", {}, `cosine of the two: ${(dot / Math.sqrt(left * right)).toFixed(6)}`) : "",
    isWeight ? legend(sequential, ["0", "1"], "attention: rows are queries, columns keys") : legend((x) => diverging(2 * x - 1), [signed(-most, 2), "0", signed(most, 2)], `${agrees ? "this run less the other" : "rows are examples and positions, columns the last axis"}${most < largest ? `; the largest is ${largest.toPrecision(4)}, and what is beyond the scale has its last colour` : ""}`),
    heat.node);
  const isStream = prompt.model?.d_model === width && data.dtype === "F32" && data.shape.length > 1 && /^(resid|attn_out|mlp_out|head_out)/.test(state.key);
  lensed.replaceChildren();
  if (isStream) panel.body.append(el("p", {}, button("Through the lens of the model that is loaded", () => change({ reading: "lens" }))), lensed);
  heat.show({
    rows: count, columns: width, row: name,
    cell: (i, j) => {
      const x = value(i, j);
      if (x === undefined) return null;
      const bad = typeof x !== "number" || !Number.isFinite(x);
      return { nan: bad, rgb: bad ? null : isWeight ? sequential(x) : diverging(x / most) };
    },
    words: (i, j) => `row ${name(i)}, column ${j}: ${value(i, j)}`,
    tip: (i, j) => [el("b", {}, `[${name(i)}, ${j}]`), ` ${value(i, j)}`],
  });
  return isStream;
}

// --- What saved streams would predict.
const lensed = el("div");
const tops = new Heat("Likeliest tokens of each saved vector; arrows move", { width: 104, height: 21, side: 84, tall: 420 });

async function readLens(panel, from, to) {
  let told;
  try {
    told = await panel.run(["runs", "lens", "-k", "6", "--rows", `${from}:${Math.min(to, from + 16)}`, "--", state.run, state.key]);
  } catch (error) {
    lensed.replaceChildren(el("p", { class: "warning" }, error.message));
    return;
  }
  lensed.replaceChildren(el("p", { class: "hint" }, "the likeliest tokens of each vector, coloured by their probability"), tops.node);
  tops.show({
    rows: told.rows.length, columns: 6, row: (i) => told.rows[i].place, column: (j) => String(j + 1),
    cell: (i, j) => {
      const one = told.rows[i].top[j];
      return one ? { rgb: sequential(one.probability), text: printable(one.text) } : null;
    },
    words: (i, j) => `row ${told.rows[i].place}, rank ${j + 1}: ${printable(told.rows[i].top[j]?.text ?? "not a number")} ${percent(told.rows[i].top[j]?.probability ?? NaN)}`,
    tip: (i, j) => (told.rows[i].top[j] ? [token(told.rows[i].top[j].text), ` ${percent(told.rows[i].top[j].probability)}`] : null),
  });
}

const node = el("div", { class: "board runs" });
export const runs = {
  node,
  show() {
    tip(null);
    if (!prompt.base) {
      node.replaceChildren(el("p", { class: "hint" }, "No store was named. Start with ", el("code", {}, "easyroutine serve --base runs/"), "."));
      return;
    }
    node.replaceChildren(listing.node, shown.node, tensor.node);
    for (const panel of [listing, shown]) panel.stale = true;
    document.body.dataset.ready = "";
    Promise.all([listing.refresh(), shown.refresh().then(() => tensor.refresh(true))]).then(() => { document.body.dataset.ready = "yes"; });
  },
  async hear(changed) {
    listing.hear(changed);
    if (changed.has("run")) {
      at = Math.max(0, found.findIndex((run) => run.path === state.run));
      drawList();
      current = null;
      shown.stale = true;
      await shown.refresh();
      tensor.stale = true;
      await tensor.refresh();
      return;
    }
    shown.hear(changed);
    tensor.hear(changed);
  },
};
