(() => {
  const { report, palette } = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const NS = "http://www.w3.org/2000/svg";

  function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const name = (layer) => (layer === -1 ? "emb" : String(layer));
  /** Four digits; null is what no finite number is. */
  const short = (x) => (x === null || x === undefined ? "–" : x === 0 ? "0" : Math.abs(x) >= 0.001 && Math.abs(x) < 1000 ? x.toFixed(4) : x.toExponential(2));
  /** So near to 1 that its distance matters. */
  const cosine = (x) => (x === null ? "–" : x.toFixed(7));
  const part = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)}%`);
  const text = (token) => pieces(token).map(([shown, sign]) => (sign ? el("span", { class: "sign" }, shown) : shown));
  const most = (values) => values.reduce((a, x) => (Number.isFinite(x) ? Math.max(a, Math.abs(x)) : a), 0);

  /** A bar of 0 to 1; below 0 in another colour. */
  function bar(share) {
    const svg = document.createElementNS(NS, "svg");
    svg.setAttribute("viewBox", "0 0 100 10");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    if (Number.isFinite(share)) {
      const rect = document.createElementNS(NS, "rect");
      rect.setAttribute("width", String(Math.min(100, 100 * Math.abs(share))));
      rect.setAttribute("height", "10");
      if (share < 0) rect.setAttribute("class", "less");
      svg.append(rect);
    }
    return el("td", { class: "bar" }, svg);
  }
  const number = (shown) => el("td", { class: "number" }, shown);
  function table(header, rows, attributes = {}) {
    const cell = (title) => el("th", title.startsWith("#") ? { class: "number", scope: "col" } : { scope: "col" }, title.replace("#", ""));
    return el("table", attributes, el("thead", {}, el("tr", {}, ...header.map(cell))), el("tbody", {}, ...rows));
  }

  function layers() {
    const hasKl = report.layers.some((of) => of.kl !== undefined);
    const [errors, kls] = ["error", "kl"].map((key) => most(report.layers.map((of) => of[key])) || 1);
    const row = (of) => {
      const cells = [el("td", {}, name(of.layer)), number(short(of.error)), bar(of.error / errors), number(cosine(of.cosine))];
      if (hasKl) cells.push(number(short(of.kl)), bar(of.kl / kls), number(of.kl === undefined ? "–" : part(of.top_changed / of.places)));
      if (of.nan > 0) cells.push(number(`${of.nan} NaN`));
      return el("tr", {}, ...cells);
    };
    const header = ["layer", "#error", "", "#cosine", ...(hasKl ? ["#kl", "", "#top changed"] : [])];
    at("layers").append(table(header, [...report.layers].reverse().map(row)));
  }

  /** A coloured cell: 0 is dark, 1 is bright. */
  function cell(share, words) {
    const td = el("td", { title: words });
    if (Number.isFinite(share)) {
      const rgb = blend(palette, share);
      td.style.setProperty("background", css(rgb));
    }
    return td;
  }

  function heads() {
    if (report.heads.length === 0) {
      at("heads").append(el("p", { class: "hint" }, "These models have no attention heads."));
      return;
    }
    const reach = most(report.heads.map((of) => of.error)) || 1;
    const rows = new Map();
    for (const of of report.heads) {
      if (!rows.has(of.layer)) rows.set(of.layer, []);
      rows.get(of.layer).push(cell(of.error / reach, `layer ${of.layer}, head ${of.head}: error ${short(of.error)}, cosine ${short(of.cosine)}`));
    }
    const lines = [...rows].reverse().map(([layer, cells]) => el("tr", {}, el("th", { scope: "row" }, String(layer)), ...cells));
    at("heads").append(el("table", { class: "cells" }, el("tbody", {}, ...lines)));
  }

  const share = (tensor) => tensor.removed ?? tensor.added;
  function tensors() {
    const { patched } = report;
    const differing = report.tensors.filter((tensor) => !tensor.equal);
    const equal = report.tensors.length - differing.length;
    const whole = patched ? (patched.kl === null || patched.kl === undefined ? `error ${short(patched.error)}` : `KL ${short(patched.kl)}`) : "";
    at("patched").textContent = patched
      ? `One tensor at a time from the other checkpoint, over ${patched.tokens} tokens; the whole difference is ${whole}. ${equal} of ${report.tensors.length} tensors are equal.`
      : `Not patched. ${equal} of ${report.tensors.length} tensors are equal.`;
    const tested = differing.filter((tensor) => share(tensor) !== undefined);
    if (tested.length > 1) kinds(tested);
    const error = most(differing.map((tensor) => tensor.error)) || 1;
    const sides = ["removed", "added"].filter((key) => tested.some((tensor) => tensor[key] !== undefined));
    const reach = most(tested.flatMap((tensor) => sides.map((key) => tensor[key]))) || 1;
    const row = (tensor) => {
      const cells = [el("td", {}, printable(tensor.name))];
      for (const key of sides) cells.push(number(part(tensor[key])), bar(tensor[key] / reach));
      cells.push(number(short(tensor.error)), bar(tensor.error / error), el("td", {}, `${tensor.a} → ${tensor.b}`));
      return el("tr", {}, ...cells);
    };
    const header = ["tensor", ...sides.flatMap((key) => [key === "removed" ? "#removes" : "#adds", ""]), "#weight error", "", "A → B"];
    if (differing.length > 0) at("tensors").append(table(header, differing.map(row)));
  }

  /** Layers by kinds of tensors: those with the same name but for the layer. */
  function kinds(tested) {
    const kind = (tensor) => tensor.name.replace(`.${tensor.layer}.`, ".*.").replace(/^.*\*\./, "").replace(/\.weight$/, "");
    const columns = [...new Set(tested.filter((tensor) => tensor.layer >= 0).map(kind))].sort();
    if (columns.length === 0) return;
    const reach = most(tested.filter((tensor) => tensor.layer >= 0).map(share)) || 1;
    const places = new Map(tested.map((tensor) => [`${tensor.layer} ${kind(tensor)}`, tensor]));
    const levels = [...new Set(tested.filter((tensor) => tensor.layer >= 0).map((tensor) => tensor.layer))].sort((a, b) => b - a);
    const line = (layer) => {
      const of = (column) => {
        const tensor = places.get(`${layer} ${column}`);
        return tensor ? cell(Math.max(0, share(tensor)) / reach, `${printable(tensor.name)}: ${part(share(tensor))}`) : el("td");
      };
      return el("tr", {}, el("th", { scope: "row" }, String(layer)), ...columns.map(of));
    };
    const head = el("tr", {}, el("th", {}, "layer"), ...columns.map((column) => el("th", { scope: "col" }, printable(column))));
    at("grid").append(el("table", { class: "cells" }, el("thead", {}, head), el("tbody", {}, ...levels.map(line))));
  }

  function worst() {
    const last = (place) => place.layers[place.layers.length - 1];
    const predicted = (place, side) => {
      const top = last(place).top?.[side];
      return top ? [...text(top.text), ` ${percent(top.p ?? NaN)}`] : ["–"];
    };
    const rows = report.worst.map((place) => {
      const line = el(
        "tr",
        { class: "choice", tabindex: "0", "aria-selected": "false" },
        number(String(place.row)),
        number(String(place.position)),
        el("td", {}, ...text(place.text)),
        number(place.parts_at === null ? "–" : name(place.parts_at)),
        number(short(last(place).kl ?? last(place).error)),
        el("td", {}, ...predicted(place, 0)),
        el("td", {}, ...predicted(place, 1)),
      );
      const choose = () => {
        rows.forEach((other) => other.setAttribute("aria-selected", String(other === line)));
        show(place);
      };
      line.addEventListener("click", choose);
      line.addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        if (event.key === "Enter" || event.key === " ") choose();
        else if (step) (rows[rows.indexOf(line) + step] ?? line).focus();
        else return;
        event.preventDefault();
      });
      return line;
    });
    if (rows.length === 0) return;
    at("worst").append(table(["#prompt", "#position", "token", "#parts at", last(report.worst[0]).kl === undefined ? "#error" : "#kl", "A predicts", "B predicts"], rows));
    rows[0].click();
  }

  function show(place) {
    const [before, token, after] = place.context;
    const row = (of) => {
      const cells = [el("td", {}, name(of.layer)), number(short(of.error)), number(cosine(of.cosine))];
      if (of.top) cells.push(number(short(of.kl)), ...of.top.flatMap((top) => [el("td", {}, ...text(top.text)), number(percent(top.p ?? NaN))]));
      const differs = of.top && of.top[0].id !== of.top[1].id;
      return el("tr", differs ? { class: "apart" } : {}, ...cells);
    };
    const header = ["layer", "#error", "#cosine", ...(place.layers[0].top ? ["#kl", "A predicts", "", "B predicts", ""] : [])];
    at("place").replaceChildren(
      el("h3", {}, `Prompt ${place.row}, position ${place.position}`),
      el("p", { class: "context" }, ...text(before), el("mark", {}, ...text(token)), ...text(after)),
      el("div", { class: "sheet" }, table(header, [...place.layers].reverse().map(row))),
    );
  }

  function dark(on) {
    document.documentElement.dataset.theme = on ? "dark" : "light";
    at("dark").setAttribute("aria-pressed", String(on));
  }
  at("dark").addEventListener("click", () => dark(document.documentElement.dataset.theme !== "dark"));
  dark(window.matchMedia("(prefers-color-scheme: dark)").matches);
  at("facts").textContent = [
    `A ${printable(report.a.name)}`,
    `B ${printable(report.b.name)}`,
    `${report.tokens} tokens of ${report.rows} ${report.rows === 1 ? "prompt" : "prompts"}`,
    ...(report.equal ? ["all tensors are equal"] : []),
  ].join(" · ");
  at("lens").textContent = `Predictions: ${report.lens}`;
  layers();
  tensors();
  heads();
  worst();
  document.body.dataset.ready = "yes";
})();
