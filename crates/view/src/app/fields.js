// Fields that several views have.
import { field, line } from "./dom.js";
import { bound, change, state } from "./state.js";

/** The fields that name the two tokens of a difference. */
export const tokens = () => [
  field("Answer", bound("answer", line(state.answer, (answer) => change({ answer }), { placeholder: "what the model predicts", size: "16" }))),
  field("Against", bound("against", line(state.against, (against) => change({ against }), { placeholder: "none", size: "10" }))),
];

/** The other prompt of two. */
export const base = (label) => field(label, bound("base", line(state.base, (value) => change({ base: value }), { size: "40", placeholder: "as many tokens as the prompt" })));
