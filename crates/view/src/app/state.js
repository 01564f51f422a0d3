// What the page shows, all of it in the address behind #: kept, shared between windows of one user, reloaded.

const DEFAULTS = {
  page: "prompt", prompt: "", base: "", changes: [], dicts: [], feature: "", transcoders: "", views: ["lens", "attention", "direct"],
  position: null, layer: null, head: null,
  track: "", answer: "", against: "", metric: "final", look: "changed", by: "head", method: "integrated", of: "z_L*",
  along: "positions", site: "", sweep: "logit-diff", remove: "zero", heads: "heads", estimate: "", edges: "200",
  tokens: "40", temperature: "0", chat: "", where: "", run: "", key: "", reading: "", from: "0", other: "",
  dashboards: "", find: "", sort: "frequency",
};
const LISTS = new Set(["changes", "dicts", "views"]);
const NUMBERS = new Set(["position", "layer", "head"]);
/** What is pointed at or typed letter by letter: no step of the history. */
const POINTED = new Set([...NUMBERS, "feature", "find"]);

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const found = {};
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (!given.has(name)) found[name] = Array.isArray(value) ? [...value] : value;
    else if (LISTS.has(name)) found[name] = given.getAll(name).filter((text) => text !== "");
    else if (NUMBERS.has(name)) found[name] = /^\d{1,9}$/.test(given.get(name)) ? Number(given.get(name)) : null;
    else found[name] = given.get(name);
  }
  return found;
}

export const state = read();
const listeners = new Set();

/** Calls `hear` with the names of what changed. */
export const listen = (hear) => listeners.add(hear);

const same = (a, b) => (Array.isArray(a) ? a.length === b.length && a.every((x, i) => x === b[i]) : a === b);

function address() {
  const out = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (same(state[name], value)) continue;
    if (!LISTS.has(name)) out.set(name, state[name] ?? "");
    else if (state[name].length === 0) out.set(name, "");
    else state[name].forEach((one) => out.append(name, one));
  }
  return `#${out}`;
}

function take(update) {
  const changed = new Set(Object.keys(update).filter((name) => !same(state[name], update[name])));
  if (changed.size === 0) return;
  Object.assign(state, update);
  return changed;
}

/** Changes what is shown. What is asked becomes a step of the history, what is only pointed at does not. */
export function change(update) {
  const changed = take(update);
  if (!changed) return;
  const step = [...changed].some((name) => !POINTED.has(name));
  history[step ? "pushState" : "replaceState"](null, "", address());
  listeners.forEach((hear) => hear(changed));
}

function reread() {
  const changed = take(read());
  if (changed) listeners.forEach((hear) => hear(changed));
}
addEventListener("popstate", reread);
addEventListener("hashchange", reread);

/** A field that shows a part of the state, whichever field or address changes it. */
export function bound(name, input, text = (value) => value) {
  listen((changed) => { if (changed.has(name)) input.value = text(state[name]); });
  return input;
}

/** The flags of the changes of the page, and of the dictionaries whose features they may name. */
export const changes = () => [...state.dicts.flatMap((text) => ["--dict", text]), ...state.changes.flatMap((text) => ["--intervene", text])];
