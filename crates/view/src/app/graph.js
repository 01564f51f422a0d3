// Which features carried a prediction: the attribution graph over transcoders that stand for the MLPs.
import { el, field, line, signed, token } from "./dom.js";
import { Panel } from "./panel.js";
import { bound, change, state } from "./state.js";

export const graph = new Panel({
  id: "graph", title: "Graph", about: "Which features of transcoders, one for each MLP, carried the prediction (attribution graph). Save it as HTML for its picture.",
  needs: ["prompt", "transcoders", "answer"], manual: "Trace",
  controls: [field("Transcoders", bound("transcoders", line(state.transcoders, (transcoders) => change({ transcoders }), { size: "40", placeholder: "a folder of circuit-tracer" }))),
    field("Answer", bound("answer", line(state.answer, (answer) => change({ answer }), { placeholder: "what the model predicts", size: "16" })))],
  formats: ["html", "csv", "json"],
  look: async (panel) => {
    const data = await panel.run(["graph", "--dict-set", state.transcoders, ...(state.answer ? ["--answer", state.answer] : []), "--", state.prompt]);
    const nodes = new Map(data.nodes.map((node) => [node.node_id, node]));
    const tokens = data.metadata?.prompt_tokens ?? [];
    const name = (id) => {
      const node = nodes.get(id);
      const isFeature = node.feature_type === "cross layer transcoder";
      const isError = node.feature_type === "mlp reconstruction error";
      const layer = isFeature || isError ? Number(node.layer) : null;
      const words = isFeature ? `layer ${layer}, feature ${node.node_id.split("_")[1]}` : isError ? `error of MLP ${layer}` : node.clerp || "token";
      return [el("button", { type: "button", class: "link", onclick: () => change({ position: node.ctx_idx, ...(layer === null ? {} : { layer }) }) }, words), tokens[node.ctx_idx] === undefined ? "" : [" at ", token(tokens[node.ctx_idx])]];
    };
    const links = [...data.links].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, 200);
    panel.body.replaceChildren(
      el("p", {}, `${data.nodes.length} nodes and ${data.links.length} edges are kept. The largest edges:`),
      el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Edges, the largest first" }, el("table", { class: "list" },
        el("thead", {}, el("tr", {}, ["from", "to", "weight"].map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, links.map((link) => el("tr", {}, el("td", {}, name(link.source)), el("td", {}, name(link.target)), el("td", { class: "n" }, signed(link.weight, 4))))))));
  },
});
