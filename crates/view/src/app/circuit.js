// The circuit of the largest edges as a picture, linked with the chosen layer and head.
import { circuitPicture } from "./circuit_drawing.js";
import { el, field, line, svg } from "./dom.js";
import { Panel } from "./panel.js";
import { bound, change, state } from "./state.js";
import { prompt } from "./prompt.js";
import { base, tokens } from "./fields.js";

const drawn = svg("circuit-picture", "Nodes by layer, the input below, the logits on top; edges by score");
const sheet = el("div", { class: "sheet" }, drawn);
const name = el("h3");
const said = el("p", { class: "hint", role: "status" });
const edges = el("tbody");
const side = el("aside", { class: "node-view", "aria-label": "The chosen node" }, name, said, el("table", { class: "list" }, edges));
const least = el("input", { type: "range", min: "0", max: "1000", value: "0", oninput: cut });
const shown = el("output", { class: "hint" });
let data = null;
let picture = null;

/** The layer and the head of a node: an MLP has no head, input and logits have neither. */
function place(node) {
  const head = /^a(\d+)\.h(\d+)$/.exec(node);
  const mlp = /^m(\d+)$/.exec(node);
  return head ? { layer: Number(head[1]), head: Number(head[2]) } : mlp ? { layer: Number(mlp[1]) } : null;
}

function told(number, of, way) {
  name.textContent = number === null ? "No node chosen" : data.nodes[number].name;
  said.textContent = number === null ? "Rest on a node, click to keep it, or move with the arrow keys; Escape lets go." : `${of.length} edges`;
  edges.replaceChildren(...of.slice(0, 200).map((edge) => el("tr", {}, el("td", {}, picture.named(edge)), el("td", { class: "n" }, picture.shown(edge.score)))));
  const to = number === null || way !== "keep" ? null : place(data.nodes[number].name);
  if (to) change(to);
}

function cut() {
  if (!picture) return;
  const { least: score, count } = picture.cut(least.value / 1000);
  shown.textContent = `|score| ≥ ${score.toFixed(4)}: ${count} of ${data.edges.length} edges`;
}

async function look(panel) {
  data = await panel.run(["edges", "--base", state.base, "--top", state.edges, ...(state.answer ? ["--answer", state.answer] : []), ...(state.against ? ["--against", state.against] : []), "--", state.prompt]);
  const { faithfulness } = data.circuit;
  panel.body.replaceChildren(
    // The notes above have the metric of each run.
    el("p", {}, `${(data.edges.length + data.left_out).toLocaleString("en")} edges · faithfulness `, el("b", {}, faithfulness === null ? "none" : faithfulness.toFixed(3)),
      data.left_out > 0 ? `; the ${data.edges.length.toLocaleString("en")} largest are drawn` : ""),
    el("div", { class: "controls" }, field("Smallest score shown", least), shown),
    el("p", { class: "keys" }, el("i", { class: "more" }), " corrupting it raises the metric ", el("i", { class: "less" }), " corrupting it lowers the metric"),
    el("div", { class: "beside" }, sheet, side));
  least.value = "0";
  picture = circuitPicture(data, drawn, { chosen: told, rest: (edge) => { said.textContent = `${picture.named(edge)}: ${picture.shown(edge.score)}`; } });
  cut();
  if (state.layer !== null || state.head !== null) point();
}

/** What is chosen elsewhere is shown here, where it is in the circuit. */
function point() {
  if (!picture) return;
  const number = data.nodes.findIndex((node) => {
    const at = place(node.name);
    return at && at.layer === prompt.layer() && at.head === prompt.head();
  });
  // An MLP that was chosen here has the layer that is chosen, and no head.
  const kept = place(name.textContent);
  if (kept && kept.layer === prompt.layer() && kept.head === undefined) return;
  picture.show(number < 0 ? null : number);
}

drawn.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !picture?.key(event.key)) return;
  event.preventDefault();
});

export const circuit = new Panel({
  id: "circuit", title: "Circuit", about: "The edges between heads and MLPs that carry most of a number between two prompts (EAP-IG), run alone.",
  needs: ["prompt", "base", "answer", "against", "edges"], points: ["layer", "head", "views"], manual: "Find the circuit",
  controls: [base("Corrupted prompt"), ...tokens(), field("Edges", bound("edges", line(state.edges, (count) => change({ edges: count || "200" }), { size: "6", inputmode: "numeric" })))],
  formats: ["html", "svg", "png", "csv", "json"], look, point,
});
