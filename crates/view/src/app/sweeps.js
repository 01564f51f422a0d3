// One change after another: patching between two prompts, and ablation.
import { printable } from "./shared.js";
import { choice, el, field, line, signed, token } from "./dom.js";
import { Heat, diverging, legend, reach } from "./heat.js";
import { Panel } from "./panel.js";
import { bound, change, state } from "./state.js";
import { prompt } from "./prompt.js";
import { base, tokens } from "./fields.js";

const METRICS = [["logit-diff", "logit difference"], ["normalised", "normalised"], ["p", "probability"], ["kl", "KL divergence"], ["rank", "rank"]];

/** The tokens that a metric reads; a probability and a rank read one, a divergence none. */
function named() {
  if (state.sweep === "kl") return [];
  const answer = state.answer ? ["--answer", state.answer] : [];
  return ["p", "rank"].includes(state.sweep) || !state.against ? answer : [...answer, "--against", state.against];
}

/** A grid of effects, with what a click on a cell chooses. */
function grid(label) {
  const heat = new Heat(label, { width: 64, height: 21, side: 72, tall: 700 });
  let data = null;
  const draw = (panel) => {
    if (!data) return;
    const layers = [...data.layers].reverse();
    const row = (i) => data.layers.length - 1 - i;
    const effect = (i, j) => (data.values[row(i)][j] ?? NaN) - data.unchanged;
    const missing = (i, j) => data.activations[row(i)][j] === "";
    const most = reach(layers.flatMap((_, i) => data.columns.map((_, j) => effect(i, j))).filter(Number.isFinite));
    const place = data.columns.map((name) => /^(position|head) (\d+)$/.exec(name)).map((match) => match && [match[1], Number(match[2])]);
    const text = (j) => (place[j]?.[0] === "position" ? data.tokens[place[j][1]]?.text ?? "" : null);
    const expert = (j) => /^expert (\d+)$/.exec(data.columns[j])?.[1];
    const unreached = (i, j) => data.routed?.[row(i)][j] === 0;
    heat.width = place[0]?.[0] === "head" || data.routed ? 58 : 76;
    const digits = most >= 100 ? 0 : most >= 10 ? 1 : most >= 0.1 ? 2 : 4;
    panel.body.replaceChildren(
      el("div", { class: "lines" }, data.words.map((words) => el("p", {}, words)), Object.entries(data.prompts).map(([what, said]) => el("p", {}, `${what}: `, token(said)))),
      legend((x) => diverging(2 * x - 1), [signed(-most, 2), "0", signed(most, 2)], [el("div", {}, data.meaning[0] ? `orange: ${data.meaning[0]}` : ""), el("div", {}, data.meaning[1] ? `blue: ${data.meaning[1]}` : "")]),
      heat.node);
    const chosen = () => {
      const column = place.findIndex((one) => one && (one[0] === "head" ? one[1] === prompt.head() : one[1] === prompt.position()));
      return [layers.indexOf(prompt.layer()), column < 0 ? null : column];
    };
    heat.show({
      rows: layers.length, columns: data.columns.length, chosen,
      row: (i) => `layer ${layers[i]}`, column: (j) => (place[j]?.[0] === "head" ? `H${place[j][1]}` : place[j] ? String(place[j][1]) : expert(j) ? `E${expert(j)}` : data.columns[j]),
      foot: text(0) === null ? undefined : (j) => printable(text(j)),
      cell: (i, j) => {
        const x = effect(i, j);
        if (missing(i, j)) return { rgb: null, text: "" };
        if (unreached(i, j)) return { rgb: null, text: "-" };
        return { rgb: Number.isFinite(x) ? diverging(x / most) : null, nan: !Number.isFinite(x), text: Math.abs(x) >= most / 200 ? x.toFixed(digits) : "" };
      },
      words: (i, j) => missing(i, j) ? `layer ${layers[i]} has no ${data.columns[j]}` : `${data.activations[row(i)][j]}, ${data.columns[j]}: ${unreached(i, j) ? "no token goes through it" : `effect ${signed(effect(i, j))}`}`,
      tip: (i, j) => missing(i, j) ? [`layer ${layers[i]} has no ${data.columns[j]}`] : [el("b", {}, data.activations[row(i)][j]), ` ${data.columns[j]} `, text(j) === null ? "" : token(text(j)), data.routed ? `tokens through it: ${data.routed[row(i)][j]}` : "", el("br"), `effect ${signed(effect(i, j), 4)}, metric ${data.values[row(i)][j].toFixed(4)}`],
      select: (i, j) => change({ layer: layers[i], ...(place[j] ? { [place[j][0]]: place[j][1] } : {}) }),
    });
  };
  return { draw, take: (found, panel) => { data = found; draw(panel); } };
}

const patched = grid("Effect of each patch; arrows move, Enter chooses");
const ablated = grid("Effect of each removal; arrows move, Enter chooses");
const metric = () => field("Metric", bound("sweep", choice(METRICS, state.sweep, (sweep) => change({ sweep }))));
const estimate = () => field("Cells", bound("estimate", choice([["", "run each"], ["yes", "estimate all, run the 10 largest"]], state.estimate, (value) => change({ estimate: value }))));
const estimated = () => (state.estimate ? ["--estimate", "--check", "10"] : []);

export const patch = new Panel({
  id: "patch", title: "Patching", about: "Activations of a base prompt are put into the run of the prompt, one place after another.",
  needs: ["prompt", "base", "along", "site", "sweep", "answer", "against", "estimate"], points: ["position", "layer", "head", "views"], manual: "Patch",
  controls: [base("Base prompt"), metric(), ...tokens(), field("Along", bound("along", choice([["positions", "positions"], ["heads", "heads"], ["sites", "sites"], ["experts", "experts"]], state.along, (along) => change({ along })))),
    field("Site", bound("site", line(state.site, (site) => change({ site }), { size: "12", placeholder: "resid_in, head_out" }))), estimate()],
  formats: ["html", "svg", "png", "csv", "json"],
  look: async (panel) => patched.take(await panel.run(["patch", "--base", state.base, "--along", state.along, ...(state.site ? ["--site", state.site] : []), "--metric", state.sweep, ...named(), ...estimated(), "--", state.prompt]), panel),
  point: patched.draw,
});

export const ablate = new Panel({
  id: "ablate", title: "Ablation", about: "What removing each head, position, part or expert does to the prediction.",
  needs: ["prompt", "heads", "remove", "sweep", "answer", "against", "estimate", "base"], points: ["position", "layer", "head", "views"], manual: "Ablate",
  controls: [metric(), ...tokens(), field("Remove", bound("heads", choice([["heads", "heads"], ["positions", "positions"], ["sites", "attention and MLPs"], ["experts", "experts of a mixture"]], state.heads, (heads) => change({ heads })))),
    field("By", bound("remove", choice([["zero", "zeros"], ["mean", "the mean over the prompt"], ["resample", "the base prompt's"]], state.remove, (remove) => change({ remove })))), base("Base prompt"), estimate()],
  formats: ["html", "svg", "png", "csv", "json"],
  look: async (panel) => {
    const sweep = state.sweep === "normalised" ? "logit-diff" : state.sweep;
    ablated.take(await panel.run(["ablate", "--along", state.heads, "--by", state.remove, ...(state.remove === "resample" ? ["--with", state.base] : []), "--metric", sweep, ...named(), ...estimated(), "--", state.prompt]), panel);
  },
  point: ablated.draw,
});
