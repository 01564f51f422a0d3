// Which features carried a prediction: the attribution graph over transcoders that stand for the MLPs, as a picture that is
// linked with the chosen token and layer.
import { graphPicture } from "./graph_drawing.js";
import { el, field, line, svg } from "./dom.js";
import { Panel } from "./panel.js";
import { bound, change, state } from "./state.js";
import { prompt } from "./prompt.js";
import { cardOf, keyOf } from "./dashboards.js";

const drawn = svg("graph-picture", "Nodes by position and layer, the tokens below, the logits on top; edges by weight");
const sheet = el("div", { class: "sheet" }, drawn);
const name = el("h3");
const said = el("p", { class: "hint", role: "status" });
const lists = el("div");
const card = el("div", { class: "feature-card" });
const side = el("aside", { class: "node-view", "aria-label": "The chosen node" }, name, said, lists, card);
const nodes = el("input", { type: "range", min: "0", max: "1000", value: "1000", oninput: cut });
const least = el("input", { type: "range", min: "0", max: "1000", value: "0", oninput: cut });
const shown = el("output", { class: "hint" });
let data = null;
let picture = null;
let kept = null;

const list = (title, edges, end) => (edges.length === 0 ? [] : [el("h4", {}, title), el("table", { class: "list" }, el("tbody", {}, edges.slice(0, 100).map((edge) =>
  el("tr", {}, el("td", {}, el("button", { type: "button", class: "link", onclick: () => picture.focus(edge[end]) }, data.nodes[edge[end]].title)), el("td", { class: "n" }, picture.shown(edge.weight))))))]);

function told(number, from, to, way) {
  const node = number === null ? null : data.nodes[number];
  name.textContent = node === null ? "No node chosen" : node.title;
  said.textContent = node === null ? "Rest on a node, click to keep it, or move with the arrow keys; Escape lets go." : picture.about(node);
  lists.replaceChildren(...list("Comes from", from, "from"), ...list("Leads to", to, "to"));
  if (way === "rest" || way === "cut") return;
  kept = node;
  describe(node);
  if (node === null || way !== "keep") return;
  const key = node.kind === "feature" ? keyOf(state.transcoders, node.layer) : null;
  change({ position: node.position, ...(node.layer === null ? {} : { layer: node.layer }), ...(key === null ? {} : { feature: `${key}:${node.name}` }) });
}

/** What is known of a feature over a data set stands below its edges. */
async function describe(node) {
  card.replaceChildren();
  const key = node?.kind === "feature" ? keyOf(state.transcoders, node.layer) : null;
  if (key === null) return;
  const found = await cardOf(key, Number(node.name), 4);
  if (kept === node) card.replaceChildren(...found);
}

function cut() {
  if (!picture) return;
  const { least: weight, edges, nodes: count } = picture.cut(least.value / 1000, nodes.value / 1000);
  shown.textContent = `${count} of ${data.nodes.length} nodes, ${edges} of ${data.edges.length} edges with |weight| ≥ ${weight.toPrecision(2)}`;
}

async function look(panel) {
  if (!state.transcoders) {
    panel.body.replaceChildren(el("p", { class: "hint" }, "Name a set of transcoders: a folder of circuit-tracer, or any other set with one for each MLP."));
    panel.same.hidden = true;
    return;
  }
  data = await panel.run(["graph", "--dict-set", state.transcoders, ...(state.answer ? ["--answer", state.answer] : []), "--", state.prompt]);
  panel.body.replaceChildren(
    el("p", {}, `${data.nodes.length} nodes and ${(data.edges.length + data.left_out).toLocaleString("en")} edges are kept${data.left_out > 0 ? `; the ${data.edges.length.toLocaleString("en")} largest edges are drawn` : ""}`),
    el("div", { class: "controls" }, field("Nodes: share of influence", nodes), field("Edges: smallest weight", least), shown),
    el("p", { class: "keys" }, el("i", { class: "more" }), " raises ", el("i", { class: "less" }), " lowers · circles are features, diamonds errors, boxes tokens and logits"),
    el("div", { class: "beside" }, sheet, side));
  [nodes.value, kept] = ["1000", null];
  picture = graphPicture(data, drawn, { chosen: told, rest: (edge) => { said.textContent = `${data.nodes[edge.from].title} → ${data.nodes[edge.to].title}: ${picture.shown(edge.weight)}`; } });
  least.value = String(picture.begin);
  cut();
  picture.mark(prompt.position());
  // What is explained stands at the end.
  sheet.scrollLeft = picture.width;
}

function point() {
  if (!picture) return;
  picture.mark(prompt.position());
  if (kept !== null && kept.position !== prompt.position()) picture.show(null);
}

drawn.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !picture?.key(event.key)) return;
  event.preventDefault();
});

export const graph = new Panel({
  id: "graph", title: "Graph", about: "Which features of transcoders, one for each MLP, carried the prediction (attribution graph).",
  needs: ["prompt", "transcoders", "answer"], points: ["position", "views"], manual: "Trace",
  controls: [field("Transcoders", bound("transcoders", line(state.transcoders, (transcoders) => change({ transcoders }), { size: "40", placeholder: "a folder of circuit-tracer" }))),
    field("Answer", bound("answer", line(state.answer, (answer) => change({ answer }), { placeholder: "what the model predicts", size: "16" })))],
  formats: ["html", "csv", "json"], look, point,
});
