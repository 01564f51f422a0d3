"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { report, vocab, metrics, palette } = data;
  const MAX_PINS = 6;
  const SVG = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);

  // A number that JSON cannot hold is null there.
  const real = (x) => (x === null ? NaN : x);
  const rows = data.rows.map((row) => ({
    ...row,
    cells: row.cells.map(([agrees, top, entropy, kl, rank, final, tracked]) => ({
      agrees: agrees === 1,
      top: top.flatMap((_, i) => (i % 2 ? [] : [{ token: top[i], logprob: real(top[i + 1]) }])),
      entropy: real(entropy), kl: real(kl), rank, final: real(final), tracked: report.settings.tracked ? real(tracked) : null,
    })),
  }));
  const tokens = new Map(report.tokens.map((t) => [t.position, t]));
  const columns = data.positions.map((position, i) => ({
    position, token: tokens.get(position), next: tokens.get(position + 1), right: data.right[i], final: data.finals[i],
  }));
  const state = { metric: 0, stride: 1, turned: false, log: false, row: 0, column: columns.length - 1, pins: [] };
  const text = (token) => (token === null || token === undefined ? "" : vocab[token][1]);

  // --- Elements. Text from the report only ever goes in as text nodes.
  const make = (namespace) => (tag, attributes = {}, ...children) => {
    const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.flat(Infinity));
    return node;
  };
  const el = make();
  const draw = make(SVG);
  const div = (...children) => el("div", {}, ...children);
  const hint = (...children) => el("p", { class: "hint" }, ...children);
  const button = (label, act, attributes) => el("button", { type: "button", onclick: act, ...attributes }, label);
  const toggle = (node, on) => node.setAttribute("aria-pressed", String(on));

  // --- Text.
  const nodes = (text) => pieces(text).map(([shown, sign]) => (sign ? el("span", { class: "sign" }, shown) : shown));
  const tokenNode = (text) => el("span", { class: "token", dir: "ltr" }, nodes(text));

  // --- Numbers and colours.
  const nats = (x) => (Number.isNaN(x) ? "NaN" : x.toFixed(3) + " nats");
  const broken = (cell) => cell.top.length === 0 || Number.isNaN(cell.top[0].logprob);

  /** Number of a cell: NaN is a fault, null is "there is none". */
  function value(cell, column) {
    switch (metrics[state.metric].key) {
      case "final": return Math.exp(cell.final);
      case "p": return broken(cell) ? NaN : Math.exp(cell.top[0].logprob);
      case "rank": return cell.rank === null && broken(cell) ? NaN : cell.rank;
      case "entropy": return cell.entropy;
      case "kl": return cell.kl;
      case "tracked": return cell.tracked === null ? null : Math.exp(cell.tracked);
      default: { // A pinned token.
        const pin = state.pins[state.pins.length - 1];
        if (!pin) return null;
        const known = probability(cell, column, pin.token);
        return known.exact ? known.p : null;
      }
    }
  }

  /** Probability of a token in a cell: exact, or (outside the top-k) the most that it can be. */
  function probability(cell, column, token) {
    if (column.final === token) return { p: Math.exp(cell.final), exact: true };
    const found = cell.top.find((c) => c.token === token);
    if (found) return { p: Math.exp(found.logprob), exact: true };
    if (report.settings.tracked && vocab[token][0] === report.settings.tracked.id) return { p: Math.exp(cell.tracked), exact: true };
    return { p: broken(cell) ? NaN : Math.exp(cell.top[cell.top.length - 1].logprob), exact: false };
  }

  const channels = palette.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  function colour(metric, x) {
    const number = metric.log ? Math.log10(Math.max(Number.MIN_VALUE, x)) : x;
    return blend(channels, (number - metric.dark) / (metric.bright - metric.dark));
  }
  // --- The table.
  /** Rows to show: the final one, every n-th below it, the embedding. */
  const shown = () => rows.filter((row) => row.layer < 0 || (rows[0].layer - row.layer) % state.stride === 0);
  const cells = new Map();
  const key = (row, column) => `${row},${column}`;

  function cellNode(row, column, visible) {
    const r = rows.indexOf(row);
    const cell = row.cells[column];
    const at = visible.indexOf(row);
    const same = (i) => visible[i] !== undefined && visible[i].cells[column].agrees;
    const classes = [];
    if (cell.agrees) classes.push("same", ...(same(at - 1) ? [] : ["first"]), ...(same(at + 1) ? [] : ["last"]));
    const node = el("td", { role: "gridcell", tabindex: -1, class: classes.join(" "), "data-row": r, "data-column": column, "aria-describedby": "tip" });
    node.append(...(broken(cell) ? ["NaN"] : nodes(text(cell.top[0].token))));
    cells.set(key(r, column), node);
    return node;
  }

  function table() {
    const visible = shown();
    const head = (scope, className, ...children) => el("th", { scope, class: className }, ...children);
    const next = (column) => (column.next ? [column.right ? "*" : "", ...nodes(column.next.text)] : []);
    const given = (column) => (column.token ? nodes(column.token.text) : []);
    cells.clear();
    const lens = $("lens");
    lens.classList.toggle("turned", state.turned);
    if (state.turned) {
      const layers = [...visible].reverse();
      lens.replaceChildren(
        el("thead", {}, el("tr", {}, head("col", "side", "input ↓"), layers.map((row) => head("col", "", row.label)), head("col", "", "next"))),
        el("tbody", {}, columns.map((column, c) =>
          el("tr", {}, head("row", "side", given(column)), layers.map((row) => cellNode(row, c, visible)), head("row", "", next(column))))),
      );
    } else {
      lens.replaceChildren(
        el("thead", {}, el("tr", {}, head("col", "side", "next →"), columns.map((column) => head("col", "", next(column))))),
        el("tbody", {}, visible.map((row) =>
          el("tr", {}, head("row", "side", row.label), columns.map((_, c) => cellNode(row, c, visible))))),
        el("tfoot", {}, el("tr", {}, head("col", "side", "input →"), columns.map((column) => head("col", "", given(column))))),
      );
    }
    if (!visible.includes(rows[state.row])) state.row = 0;
    paint();
  }

  function paint() {
    const metric = metrics[state.metric];
    for (const [at, node] of cells) {
      const [r, c] = at.split(",").map(Number);
      const cell = rows[r].cells[c];
      const number = value(cell, columns[c]);
      const fault = Number.isNaN(number);
      const rgb = fault || number === null ? null : colour(metric, number);
      node.classList.toggle("nan", fault);
      node.classList.toggle("pinned", state.pins.some((pin) => pin.row === r && pin.column === c));
      node.style.backgroundColor = rgb ? css(rgb) : "";
      node.style.color = rgb ? ink(rgb) : "";
      node.tabIndex = r === state.row && c === state.column ? 0 : -1;
      const top = broken(cell) ? "not a number" : `${printable(text(cell.top[0].token))} ${percent(Math.exp(cell.top[0].logprob))}`;
      node.setAttribute("aria-label", `layer ${rows[r].label}, position ${columns[c].position}: ${top}${cell.agrees ? ", same as the final layer" : ""}`);
    }
    legend(metric);
  }

  function legend(metric) {
    const ramp = el("div", { class: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${palette.join(",")})`;
    const fault = [...cells.values()].some((node) => node.classList.contains("nan"));
    $("legend").replaceChildren(
      el("div", { class: "scale", "data-metric": metric.key }, ramp, el("div", { class: "ticks" }, metric.ticks.map((t) => el("span", {}, t)))),
      div(div(el("i", { class: "key" }), "same token as the model predicts"), div("*  the model's top token is the actual next one")),
      div(fault ? div(el("i", { class: "key nan" }), "not a number") : "", metric.key === "pinned" ? div("no colour: outside the top-", report.settings.k) : ""),
    );
  }

  // --- The tooltip.
  function tip(r, c, node) {
    const row = rows[r], column = columns[c], cell = row.cells[c];
    const most = Math.max(...cell.top.map((x) => Math.exp(x.logprob)), 1e-9);
    const line = (candidate) => {
      const bar = el("i");
      bar.style.width = `${(100 * Math.exp(candidate.logprob)) / most || 0}%`;
      const final = candidate.token === column.final;
      return el("tr", { class: final ? "final" : "" }, el("td", {}, nodes(text(candidate.token))), el("td", { class: "n" }, percent(Math.exp(candidate.logprob))), el("td", { class: "b" }, bar));
    };
    const fact = (name, ...what) => [el("dt", {}, ...name), el("dd", {}, ...what)];
    const facts = [fact(["entropy"], nats(cell.entropy)), fact(["KL(final ‖ layer)"], nats(cell.kl))];
    if (column.next) facts.push(fact(["rank of ", tokenNode(column.next.text), " (next)"], cell.rank === null ? "-" : `${cell.rank}`));
    if (column.final !== null) facts.push(fact(["final's ", tokenNode(text(column.final))], percent(Math.exp(cell.final))));
    if (report.settings.tracked) facts.push(fact(["tracked ", tokenNode(report.settings.tracked.text)], percent(Math.exp(cell.tracked))));
    const box = $("tip");
    box.replaceChildren(
      div(el("b", {}, row.layer < 0 ? "embedding" : `layer ${row.label}`), " after ", tokenNode(column.token ? column.token.text : ""), ` (position ${column.position})`),
      el("table", {}, cell.top.map(line)), el("dl", {}, facts),
    );
    box.hidden = false;
    const from = node.getBoundingClientRect(), own = box.getBoundingClientRect();
    const right = from.right + 10 + own.width < innerWidth;
    box.style.left = `${Math.max(4, right ? from.right + 10 : from.left - own.width - 10)}px`;
    box.style.top = `${Math.max(4, Math.min(from.top - 8, innerHeight - own.height - 8))}px`;
    for (const th of $("lens").querySelectorAll("th.hot")) th.classList.remove("hot");
    const line0 = node.parentNode, index = [...line0.children].indexOf(node);
    for (const th of [line0.firstChild, ...$("lens").querySelectorAll(`:is(thead, tfoot) th:nth-child(${index + 1})`)]) th.classList.add("hot");
    marker(row);
  }
  const hideTip = () => { $("tip").hidden = true; };

  // --- Pinned tokens and their way through the layers.
  function pin(r, c, token) {
    if (token === undefined) return;
    const column = columns[c];
    const old = state.pins.findIndex((p) => p.column === c && p.token === token);
    if (old >= 0) state.pins.splice(old, 1);
    const free = [...Array(MAX_PINS).keys()].find((s) => state.pins.every((p) => p.style !== s));
    const style = free === undefined ? state.pins.shift().style : free;
    state.pins.push({ row: r, column: c, token, style, position: column.position });
    refreshPins();
  }
  function unpin(one) {
    state.pins = state.pins.filter((p) => p !== one);
    refreshPins();
  }
  function refreshPins() {
    const last = state.pins[state.pins.length - 1];
    const at = metrics.findIndex((m) => m.key === "pinned");
    if (at >= 0) metrics.splice(at, 1);
    if (last) metrics.push({ ...metrics[0], key: "pinned", log: false, words: `probability of the pinned “${printable(text(last.token))}”` });
    if (state.metric >= metrics.length) state.metric = 0;
    choices();
    paint();
    trajectory();
  }

  const BOX = { width: 460, height: 250, left: 42, right: 12, top: 12, bottom: 34 };
  const path = [...rows].reverse();
  const xOf = (i) => BOX.left + (path.length < 2 ? 0 : (i / (path.length - 1)) * (BOX.width - BOX.left - BOX.right));
  const LOWEST = -6;
  const yOf = (p) => {
    const part = state.log ? 1 - Math.max(LOWEST, Math.log10(Math.max(p, 1e-12))) / LOWEST : p;
    return BOX.height - BOX.bottom - part * (BOX.height - BOX.top - BOX.bottom);
  };
  function marker(row) {
    const x = xOf(path.indexOf(row));
    for (const line of document.querySelectorAll(".now")) { line.setAttribute("x1", x); line.setAttribute("x2", x); line.removeAttribute("visibility"); }
  }
  function trajectory() {
    const chart = draw("svg", { class: "chart", viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": "Probability of the pinned tokens by layer" });
    const floor = BOX.height - BOX.bottom;
    const ticks = state.log ? [1, 1e-2, 1e-4, 1e-6] : [0, 0.25, 0.5, 0.75, 1];
    for (const p of ticks) {
      chart.append(draw("line", { class: "axis", x1: BOX.left, x2: BOX.width - BOX.right, y1: yOf(p), y2: yOf(p) }),
        draw("text", { x: BOX.left - 5, y: yOf(p) + 3, "text-anchor": "end" }, state.log ? (p === 1 ? "1" : p.toExponential(0)) : `${p * 100}%`));
    }
    const every = [1, 2, 5, 10, 20, 50].find((n) => path.length / n <= 11) ?? 100;
    path.forEach((row, i) => {
      const first = path.findIndex((other) => other.layer === row.layer) === i;
      if (first && (row.layer < 0 || (row.layer % every === 0 && (row.layer > 0 || path[0].layer >= 0 || every === 1)))) chart.append(draw("text", { x: xOf(i), y: floor + 14, "text-anchor": "middle" }, row.layer < 0 ? "emb" : row.layer));
    });
    chart.append(draw("text", { x: (BOX.left + BOX.width - BOX.right) / 2, y: floor + 28, "text-anchor": "middle" }, "layer"));
    chart.append(draw("line", { class: "now", y1: BOX.top, y2: floor, visibility: "hidden" }));
    for (const p of state.pins) {
      const column = columns[p.column];
      const points = path.map((row, i) => ({ i, ...probability(row.cells[p.column], column, p.token) }));
      let d = "";
      points.forEach((q, i) => {
        if (q.exact && Number.isFinite(q.p)) d += `${i > 0 && points[i - 1].exact && Number.isFinite(points[i - 1].p) ? "L" : "M"}${xOf(i).toFixed(1)} ${yOf(q.p).toFixed(1)}`;
      });
      chart.append(draw("path", { class: `line s${p.style}`, d }));
      for (const q of points) if (Number.isFinite(q.p)) chart.append(draw("circle", { class: `s${p.style} ${q.exact ? "known" : "atmost"}`, cx: xOf(q.i), cy: yOf(q.p), r: q.exact ? 2.6 : 2.2 }));
    }
    const bounded = chart.querySelector(".atmost") ? `Hollow: outside the layer's top-${report.settings.k}, at most this.` : "";
    const items = state.pins.map((p) => {
      const sample = draw("svg", { width: 34, height: 8 }, draw("path", { class: `line s${p.style}`, d: "M0 4H34" }));
      const after = columns[p.column].token;
      return el("li", {}, sample, el("b", {}, tokenNode(text(p.token))), el("span", {}, "after ", tokenNode(after ? after.text : ""), ` (position ${p.position})`),
        button("×", () => unpin(p), { "aria-label": `remove ${printable(text(p.token))}` }));
    });
    const last = state.pins[state.pins.length - 1];
    const other = last ? rows[last.row].cells[last.column].top.filter((x) => x.token !== last.token) : [];
    const scale = button("logarithmic", () => { state.log = !state.log; trajectory(); }, { "aria-pressed": String(state.log) });
    $("path").replaceChildren(
      el("h2", {}, "Through the layers ", scale), chart,
      el("ul", { class: "pins" }, items),
      hint(state.pins.length ? bounded : "Click a cell, or press Enter on it, to follow its token."),
      ...(other.length ? [hint(`Also in the top-${report.settings.k} of layer ${rows[last.row].label} there:`),
        el("div", { class: "other" }, other.map((x) => button(nodes(text(x.token)), () => pin(last.row, last.column, x.token))))] : []),
    );
  }

  // --- Export: what is shown as a picture, everything as data.
  function save(name, type, content) {
    const blob = content instanceof Blob ? content : new Blob([content], { type });
    const url = URL.createObjectURL(blob);
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
  function picture() {
    const style = getComputedStyle(document.documentElement);
    const shade = (name) => style.getPropertyValue(name).trim();
    const around = $("lens").getBoundingClientRect();
    const lines = [data.title, ...data.lines, `Colour: ${metrics[state.metric].words}. Frame: same token as the model predicts. *: the model's top token is the actual next one.`];
    const top = 24 + lines.length * 17, ramp = 20;
    const width = Math.ceil(Math.max(around.width + 32, 16 + 7.3 * Math.max(...lines.map((l) => l.length)))), height = Math.ceil(top + ramp + 26 + around.height + 16);
    const svg = draw("svg", { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "DejaVu Sans Mono, Menlo, Consolas, monospace", "font-size": 12 });
    svg.append(draw("rect", { width, height, fill: shade("--ground") }));
    lines.forEach((line, i) => svg.append(draw("text", { x: 16, y: 26 + i * 17, fill: shade(i ? "--faint" : "--text"), "font-weight": i ? "normal" : "bold" }, line)));
    palette.forEach((fill, i) => svg.append(draw("rect", { x: 16 + i * 8, y: top, width: 8.5, height: 10, fill })));
    const ticks = metrics[state.metric].ticks, length = palette.length * 8;
    ticks.forEach((t, i) => svg.append(draw("text", { x: 16 + (i / (ticks.length - 1)) * length, y: top + 21, "font-size": 9, "text-anchor": "middle", fill: shade("--faint") }, t)));
    for (const node of $("lens").querySelectorAll("th, td")) {
      const at = node.getBoundingClientRect();
      const x = 16 + at.left - around.left, y = top + ramp + 14 + at.top - around.top;
      const own = getComputedStyle(node);
      if (node.tagName === "TD") svg.append(draw("rect", { x, y, width: at.width, height: at.height, fill: node.style.backgroundColor || shade("--empty") }));
      const middle = draw("text", { x: x + at.width / 2, y: y + at.height / 2 + 4, "text-anchor": "middle", fill: own.color, "xml:space": "preserve" });
      const room = Math.max(1, Math.round((at.width - 8) / 7.2));
      const whole = [...node.textContent];
      middle.textContent = whole.length > room ? whole.slice(0, room - 1).join("") + "…" : node.textContent;
      svg.append(middle);
      if (node.classList.contains("same")) {
        const has = (name) => node.classList.contains(name);
        const [l, t, r, b] = [x + 1, y + 1, x + at.width - 1, y + at.height - 1];
        const sides = state.turned ? [`M${l} ${t}H${r}`, `M${l} ${b}H${r}`] : [`M${l} ${t}V${b}`, `M${r} ${t}V${b}`];
        if (has("first")) sides.push(state.turned ? `M${r} ${t}V${b}` : `M${l} ${t}H${r}`);
        if (has("last")) sides.push(state.turned ? `M${l} ${t}V${b}` : `M${l} ${b}H${r}`);
        svg.append(draw("path", { d: sides.join(""), stroke: own.color, "stroke-width": 2, "stroke-linecap": "square" }));
      }
    }
    return { svg: new XMLSerializer().serializeToString(svg), width, height };
  }
  function savePng() {
    const { svg, width, height } = picture();
    const image = new Image();
    image.onload = () => {
      const scale = Math.min(2, 16000 / Math.max(width, height));
      const canvas = el("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => blob && save("lens.png", "image/png", blob));
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  }
  const whole = () => {
    const layers = [...rows].reverse().map((row) => ({
      layer: row.layer, name: row.name,
      positions: row.cells.map((cell, c) => ({
        position: columns[c].position,
        top: cell.top.map((x) => ({ id: vocab[x.token][0], text: text(x.token), logprob: x.logprob })),
        entropy: cell.entropy, kl_to_final: cell.kl, rank_of_next: cell.rank, logprob_of_final_top: cell.final, tracked: cell.tracked,
      })),
    }));
    const { schema, model, settings, tokens, ...rest } = report;
    return { schema, model, settings, tokens, layers, ...rest };
  };
  function csv() {
    const SHORT = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '""' };
    const field = (x) => (typeof x === "string" ? `"${x.replace(/[\\\n\r\t"]/g, (c) => SHORT[c])}"` : x ?? "");
    const lines = whole().layers.reverse().flatMap(({ layer, name, positions }) => positions.map((at, c) => {
      const { token, next } = columns[c], top = at.top[0] ?? {};
      const same = rows.find((row) => row.name === name).cells[c].agrees;
      return [layer, name, at.position, token?.text, next?.text, top.id, top.text, top.logprob, Number(same),
        at.logprob_of_final_top, at.entropy, at.kl_to_final, at.rank_of_next, at.tracked].map(field).join(",");
    }));
    return [data.header, ...lines, ""].join("\r\n");
  }
  const EXPORTS = {
    SVG: () => save("lens.svg", "image/svg+xml", picture().svg), PNG: savePng,
    CSV: () => save("lens.csv", "text/csv", csv()), JSON: () => save("lens.json", "application/json", JSON.stringify(whole())),
  };

  // --- Controls.
  function choices() {
    $("metric").replaceChildren(...metrics.map((m, i) => el("option", { value: i }, m.words)));
    $("metric").value = state.metric;
  }
  function setMetric(i) {
    if (i < 0 || i >= metrics.length) return;
    state.metric = i;
    $("metric").value = i;
    paint();
  }
  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    toggle($("dark"), theme === "dark");
  }
  const toggleTheme = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  function turn() {
    state.turned = !state.turned;
    toggle($("turn"), state.turned);
    hideTip();
    table();
  }

  function move(event) {
    const visible = shown();
    const last = visible.length - 1, line = visible.indexOf(rows[state.row]);
    // Up is towards the final layer; turned, right is.
    const arrows = state.turned ? ["Right", "Left", "Up", "Down"] : ["Up", "Down", "Left", "Right"];
    let [r, c] = [line, state.column];
    const way = arrows.findIndex((name) => event.key === `Arrow${name}`);
    if (way >= 0) [r, c] = [r + [-1, 1, 0, 0][way], c + [0, 0, -1, 1][way]];
    else if (event.key === "Home") c = 0;
    else if (event.key === "End") c = columns.length - 1;
    else if (event.key === "PageUp") r = 0;
    else if (event.key === "PageDown") r = last;
    else if (event.key === "Enter" || event.key === " ") pinCell(state.row, state.column);
    else if (event.key === "Escape") hideTip();
    else return;
    event.preventDefault();
    r = rows.indexOf(visible[Math.min(last, Math.max(0, r))]);
    c = Math.min(columns.length - 1, Math.max(0, c));
    if (r === state.row && c === state.column) return;
    cells.get(key(state.row, state.column)).tabIndex = -1;
    [state.row, state.column] = [r, c];
    const node = cells.get(key(r, c));
    node.tabIndex = 0;
    node.focus();
    node.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  function pinCell(r, c) {
    const top = rows[r].cells[c].top[0];
    if (top) pin(r, c, top.token);
  }
  const place = (event) => {
    const node = event.target.closest("td");
    return node ? [Number(node.dataset.row), Number(node.dataset.column), node] : null;
  };
  const overCell = (act) => (event) => {
    const at = place(event);
    if (at) act(...at);
  };

  const lens = $("lens");
  lens.addEventListener("mouseover", overCell(tip));
  lens.addEventListener("mouseleave", hideTip);
  lens.addEventListener("focusin", overCell((r, c, node) => {
    [state.row, state.column] = [r, c];
    tip(r, c, node);
  }));
  lens.addEventListener("focusout", hideTip);
  lens.addEventListener("click", overCell((r, c, node) => { pinCell(r, c); node.focus(); }));
  lens.addEventListener("keydown", move);
  $("sheet").addEventListener("scroll", hideTip);
  $("metric").addEventListener("change", (event) => setMetric(Number(event.target.value)));
  $("stride").addEventListener("change", (event) => { state.stride = Number(event.target.value); table(); });
  $("turn").addEventListener("click", turn);
  $("dark").addEventListener("click", toggleTheme);
  $("export").append(...Object.entries(EXPORTS).map(([name, act]) => button(name, act)));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input")) return;
    if (event.key === "m") setMetric((state.metric + 1) % metrics.length);
    else if (event.key === "t") turn();
    else if (event.key === "d") toggleTheme();
    else if (event.key >= "1" && event.key <= "9") setMetric(Number(event.key) - 1);
  });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  $("dark").addEventListener("click", () => { chosen = true; });
  dark.addEventListener("change", () => { if (!chosen) setTheme(dark.matches ? "dark" : "light"); });
  setTheme(dark.matches ? "dark" : "light");
  choices();
  if (rows.length && columns.length) {
    table();
    // The picture begins with what was asked for: the way of the tracked token, else of the last prediction.
    const asked = data.metrics.findIndex((m) => m.key === "tracked");
    if (asked >= 0) setMetric(asked);
    if (asked >= 0) pin(0, columns.length - 1, data.tracked);
    else pinCell(0, columns.length - 1);
  }
  document.body.dataset.ready = "yes";
})();
