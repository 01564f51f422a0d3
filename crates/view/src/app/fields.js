// Fields that several views have.
import { choice, el, field, line } from "./dom.js";
import { bound, change, listen, state } from "./state.js";

/** The fields that name the two tokens of a difference. */
export const tokens = () => [
  field("Answer", bound("answer", line(state.answer, (answer) => change({ answer }), { placeholder: "what the model predicts", size: "16" }))),
  field("Against", bound("against", line(state.against, (against) => change({ against }), { placeholder: "none", size: "10" }))),
];

/** The other prompt of two. */
export const base = (label) => field(label, bound("base", line(state.base, (value) => change({ base: value }), { size: "40", placeholder: "as many tokens as the prompt" })));

/** Which run is shown, while there are changes. */
export function run() {
  const RUNS = [["changed", "with the changes"], ["unchanged", "unchanged"], ["difference", "difference"]];
  const node = el("span", {}, field("Run", bound("look", choice(RUNS, state.look, (look) => change({ look })))));
  const show = () => { node.hidden = state.changes.length === 0; };
  listen((changed) => { if (changed.has("changes")) show(); });
  show();
  return node;
}
