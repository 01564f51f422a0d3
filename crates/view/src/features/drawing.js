"use strict";
// An index of features and the card of one: the page of one file and the page of `serve` draw them alike.

/** `texts` are the tokens that features name by number. */
function featureDrawing(texts) {
  // Text from a report only ever goes in as text nodes.
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const digits = (x) => (x === 0 ? "0" : Math.abs(x) >= 0.01 && Math.abs(x) < 1e5 ? Number(x.toPrecision(4)).toString() : x.toExponential(2));
  const share = (x) => `${digits(100 * x)} %`;
  // In the index of a folder, a feature carries the words to show and to search instead of its card.
  const words = (f) => f.words?.map((t) => texts[t]).join(" ") ?? (f.up ? f.up.slice(0, 4).map(([t]) => texts[t]).join(" ") : f.top.slice(0, 4).map((o) => texts[o[4][o[3]]]).join(" "));

  /** The features that have this number or say this, in the order of a key. */
  function select(features, text, key) {
    const wanted = text.trim().toLowerCase();
    const has = wanted === "" ? [] : texts.map((text) => text.toLowerCase().includes(wanted));
    const said = (f) => f.said?.some((t) => has[t]) ?? ([...(f.up ?? []), ...(f.down ?? [])].some(([t]) => has[t]) || f.top.some((o) => has[o[4][o[3]]]));
    const kept = wanted === "" ? [...features] : features.filter((f) => String(f.n) === wanted || said(f));
    const by = { feature: (a, b) => a.n - b.n, frequency: (a, b) => b.frequency - a.frequency, max: (a, b) => b.max - a.max, mean: (a, b) => b.mean - a.mean }[key];
    return kept.sort((a, b) => by(a, b) || a.n - b.n);
  }

  /** Only rows in sight are elements, so that tens of thousands scroll well. `choose(i)` is called by a click. */
  function index(list, choose) {
    const state = { shown: [], at: 0 };
    const inner = el("div");
    list.replaceChildren(inner);
    let frame = 0;
    const later = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        draw();
      });
    };
    const tall = () => parseFloat(getComputedStyle(list).lineHeight) || 27.2;
    function draw() {
      const height = tall();
      inner.style.height = `${state.shown.length * height}px`;
      const first = Math.max(0, Math.floor(list.scrollTop / height) - 5);
      const last = Math.min(state.shown.length, first + Math.ceil(list.clientHeight / height) + 10);
      const rows = [];
      for (let i = first; i < last; i += 1) {
        const f = state.shown[i];
        const row = el("div", { class: "feature-row", role: "option", id: `feature-row-${i}`, "aria-selected": String(i === state.at), "aria-setsize": state.shown.length, "aria-posinset": i + 1 }, el("span", {}, String(f.n)), el("span", {}, share(f.frequency)), el("span", {}, words(f)));
        row.style.top = `${i * height}px`;
        row.addEventListener("click", () => choose(i));
        rows.push(row);
      }
      inner.replaceChildren(...rows);
      if (state.at >= first && state.at < last) list.setAttribute("aria-activedescendant", `feature-row-${state.at}`);
      else list.removeAttribute("aria-activedescendant");
    }
    function show(features, at = 0) {
      Object.assign(state, { shown: features, at });
      list.scrollTop = 0;
      go(at);
    }
    /** Brings a row into sight, and gives its feature. */
    function go(i) {
      state.at = Math.max(0, Math.min(state.shown.length - 1, i));
      const height = tall();
      inner.style.height = `${state.shown.length * height}px`;
      const top = state.at * height;
      if (top < list.scrollTop) list.scrollTop = top;
      if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
      draw();
      return state.shown[state.at] ?? null;
    }
    list.addEventListener("scroll", later);
    window.addEventListener("resize", later);
    return { state, show, go };
  }

  function logits(title, entries) {
    const table = el("table", { class: "feature-logits" });
    for (const [token, value] of entries) table.append(el("tr", {}, el("td", {}, texts[token]), el("td", {}, digits(value))));
    return el("div", {}, el("h3", {}, title), table);
  }

  function histogram(bins) {
    const box = el("div", { class: "bins", role: "img", "aria-label": "How often the feature has which value" });
    const most = Math.max(...bins.map((b) => b[2]));
    const byEdge = new Map(bins.map((b) => [b[0], b]));
    // Bins that hold nothing are left out of the data; the axis is logarithmic.
    let from = bins[0][0];
    const end = bins[bins.length - 1][1];
    let steps = 0;
    while (from < end && steps < 400) {
      const found = [...byEdge.keys()].find((edge) => Math.abs(edge - from) <= 1e-3 * from);
      const bin = found === undefined ? null : byEdge.get(found);
      const mark = el("i", { title: bin ? `${digits(bin[0])} to ${digits(bin[1])}: ${bin[2]}` : "" });
      mark.style.height = `${bin ? Math.max(1.5, (100 * bin[2]) / most) : 0}%`;
      box.append(mark);
      const octave = 2 ** Math.floor(Math.log2(from) + 1e-6);
      from = bin ? bin[1] : from + octave / 8;
      steps += 1;
    }
    return el("div", {}, el("h3", {}, "Values where it is active"), box, el("div", { class: "ends" }, el("span", {}, digits(bins[0][0])), el("span", {}, "logarithmic"), el("span", {}, digits(end))));
  }

  function example(f, [prompt, position, value, at, tokens, values]) {
    const text = el("p", { title: `prompt ${prompt}, position ${position}` });
    tokens.forEach((token, i) => {
      const word = el("span", { title: `${texts[token]}  ${digits(values[i])}` }, texts[token]);
      if (values[i] > 0) word.style.backgroundColor = `rgba(var(--mark-rgb), ${(0.12 + (0.78 * values[i]) / f.max).toFixed(3)})`;
      if (i === at) word.className = "now";
      text.append(word);
    });
    return el("div", { class: "example" }, el("b", {}, digits(value)), text);
  }

  /** Everything that is told of one feature, as elements. */
  function card(f) {
    const facts = [["active on", `${f.count} tokens, ${share(f.frequency)}`], ["mean where active", digits(f.mean)], ["largest", digits(f.max)]];
    const line = el("p", { class: "feature-facts" }, ...facts.map(([name, value]) => el("span", {}, `${name} `, el("b", {}, value))));
    const parts = [el("h2", {}, `Feature ${f.n}`), line];
    if (f.up) parts.push(el("div", { class: "both" }, logits("Raises", f.up), logits("Lowers", f.down)));
    if (f.bins.length > 0) parts.push(histogram(f.bins));
    for (const [title, kept] of [["Strongest tokens", f.top], ["Drawn from all", f.drawn]]) {
      if (kept.length > 0) parts.push(el("h3", {}, title), ...kept.map((one) => example(f, one)));
    }
    if (f.count === 0) parts.push(el("p", { class: "hint" }, "It is active on no token of this data set."));
    return parts;
  }

  return { select, index, card };
}
