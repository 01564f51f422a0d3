// What the model says next: the likeliest tokens beside those of the unchanged run, and a continuation as it comes.
import { percent } from "./shared.js";
import { el, field, line, token } from "./dom.js";
import { Panel } from "./panel.js";
import { bound, change, changes, listen, state } from "./state.js";
import { prompt } from "./prompt.js";

export const next = new Panel({
  id: "next", title: "Next tokens", about: "The likeliest tokens after the prompt.",
  // What the others stand on is asked once, by the page itself.
  needs: ["prompt", "changes"], formats: ["csv", "json"],
  look: async (panel) => {
    const words = (...more) => ["run", "-k", "12", ...more, "--", state.prompt];
    const asked = words();
    const isKnown = prompt.first && asked.join("\n") === prompt.first.words.join("\n");
    if (isKnown) panel.remember(asked, prompt.first.answer);
    const unchanged = isKnown ? prompt.first.answer.data : await panel.run(asked);
    const now = state.changes.length > 0 ? await panel.run(words(...changes())) : null;
    const before = new Map(unchanged.top.map((one) => [one.id, one.probability]));
    const bar = (p) => {
      const node = el("i");
      node.style.width = `${100 * p}%`;
      return node;
    };
    const rows = (now ?? unchanged).top.map((one) => {
      const old = before.get(one.id);
      return el("tr", {}, el("td", {}, token(one.text)), el("td", { class: "n" }, percent(one.probability)), el("td", { class: "b" }, bar(one.probability)),
        now ? el("td", { class: "n" }, old === undefined ? "below the first 12" : percent(old)) : "");
    });
    panel.body.replaceChildren(el("table", { class: "bars" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "token"), el("th", { scope: "col", class: "n" }, now ? "changed" : "probability"), el("th", { scope: "col" }, el("span", { class: "hidden" }, "bar")), now ? el("th", { scope: "col", class: "n" }, "unchanged") : "")),
      el("tbody", {}, rows)),
      el("p", { class: "hint" }, `entropy ${(now ?? unchanged).entropy?.toFixed(3) ?? "NaN"} nats${now ? `, unchanged ${unchanged.entropy?.toFixed(3) ?? "NaN"}` : ""}`));
  },
});

export const generation = new Panel({
  id: "generation", title: "Generation", about: "The prompt continued, token by token, under the changes too.",
  needs: ["prompt", "changes", "tokens", "temperature", "chat"], manual: "Generate",
  controls: [field("Tokens", bound("tokens", line(state.tokens, (value) => change({ tokens: value || "40" }), { size: "5", inputmode: "numeric" }))),
    field("Temperature", bound("temperature", line(state.temperature, (value) => change({ temperature: value || "0" }), { size: "5", inputmode: "decimal" }))),
    (() => {
      const box = el("input", { type: "checkbox", checked: state.chat !== "", onchange: () => change({ chat: box.checked ? "yes" : "" }) });
      listen((changed) => { if (changed.has("chat")) box.checked = state.chat !== ""; });
      return field("Chat template", box);
    })()],
  formats: ["csv", "json"],
  look: async (panel) => {
    const text = el("pre", { class: "text", tabindex: "0", "aria-label": "Continuation" });
    const under = (words) => el("div", { class: "column" }, el("h3", {}, words));
    const words = (...more) => ["run", "--generate", state.tokens, ...(Number(state.temperature) > 0 ? ["--temperature", state.temperature] : []), ...(state.chat ? ["--chat"] : []), ...more, "--", state.prompt];
    const stream = (into) => (event) => { if (event.event === "piece") into.append(event.text); };
    if (state.changes.length === 0) {
      panel.body.replaceChildren(text);
      const done = await panel.run(words(), stream(text));
      panel.body.append(el("p", { class: "hint" }, `${done.generated.length} tokens; ended by ${done.finish}`));
      return;
    }
    const plain = el("pre", { class: "text", tabindex: "0", "aria-label": "Continuation without the changes" });
    const [left, right] = [under("unchanged"), under("with the changes")];
    left.append(plain);
    right.append(text);
    panel.body.replaceChildren(el("div", { class: "columns" }, left, right));
    await panel.run(words(), stream(plain));
    await panel.run(words(...changes()), stream(text));
  },
});
