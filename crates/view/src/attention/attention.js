"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { tokens, layers, columns, palette } = data;
  const n = tokens.length;
  const $ = (id) => document.getElementById(id);

  // Weights lie row by row, each row as long as its query can see.
  const start = (query) => (query * (query + 1)) / 2;
  const decode = (text) => new Uint16Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const heads = new Map(data.heads.map((h) => [`${h.layer},${h.head}`, { ...h, weights: decode(h.weights) }]));
  const at = (head, query, key) => head.weights[start(query) + key] / 65535;
  const state = { sink: data.sink, row: 0, column: 0, top: 1 };

  // --- Elements. Text from the report only ever goes in as text nodes.
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function colour(weight) {
    const place = Math.min(1, weight / state.top) * (palette.length - 1);
    const low = Math.min(Math.floor(place), palette.length - 2);
    return palette[low].map((c, i) => Math.round(c + (palette[low + 1][i] - c) * (place - low)));
  }

  /** Draws a pattern with one pixel a cell, at most `side` cells a side; a cell is its largest weight. */
  function paint(canvas, head, side) {
    const cells = Math.min(n, side);
    canvas.width = cells;
    canvas.height = cells;
    const largest = new Float32Array(cells * cells).fill(-1);
    for (let query = 0; query < n; query += 1) {
      const row = Math.floor((query * cells) / n) * cells;
      for (let key = state.sink ? 1 : 0; key <= query; key += 1) {
        const cell = row + Math.floor((key * cells) / n);
        largest[cell] = Math.max(largest[cell], at(head, query, key));
      }
    }
    const image = new ImageData(cells, cells);
    largest.forEach((weight, i) => {
      if (weight >= 0) image.data.set([...colour(weight), 255], 4 * i);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // --- Thumbnails, the last layer on top.
  const cells = new Map();
  function build() {
    const names = columns.map((head) => el("th", { scope: "col" }, `H${head}`));
    $("heads").append(el("thead", {}, el("tr", {}, el("th"), ...names)));
    const body = el("tbody");
    layers.forEach((layer, row) => {
      const line = el("tr", {}, el("th", { scope: "row" }, `L${layer}`));
      columns.forEach((head, column) => {
        const pattern = heads.get(`${layer},${head}`);
        if (!pattern) return line.append(el("th"));
        const cell = el("td", { tabindex: "-1", "aria-label": `layer ${layer}, head ${head}`, "data-head": `${layer},${head}` }, el("canvas"));
        cell.addEventListener("click", () => choose(row, column));
        cells.set(`${row},${column}`, cell);
        line.append(cell);
      });
      body.append(line);
    });
    $("heads").append(body);
  }
  const chosen = () => heads.get(`${layers[state.row]},${columns[state.column]}`);

  function choose(row, column) {
    if (!cells.has(`${row},${column}`)) return;
    Object.assign(state, { row, column });
    for (const [place, cell] of cells) {
      const here = place === `${row},${column}`;
      cell.setAttribute("aria-selected", String(here));
      cell.tabIndex = here ? 0 : -1;
    }
    enlarge();
  }

  // --- One head large, with its tokens.
  function enlarge() {
    const head = chosen();
    const size = Math.max(3, Math.min(44, Math.floor(700 / n)));
    const canvas = el("canvas", { id: "matrix", role: "img", "aria-label": `attention of layer ${head.layer}, head ${head.head}` });
    paint(canvas, head, n);
    canvas.style.width = canvas.style.height = `${n * size + 2}px`;
    // Lower than a line of text only some tokens have a name.
    const step = Math.ceil(12 / size);
    const label = (side) => (token, i) => {
      const node = el("span", {}, i % step === 0 ? token : "");
      node.style[side] = `${size}px`;
      return node;
    };
    const over = el("div", { class: "over" }, ...tokens.map(label("width")));
    const beside = el("div", { class: "side" }, ...tokens.map(label("height")));
    $("large").replaceChildren(el("div", { class: "grid" }, over, beside, canvas));
    $("name").textContent = `Layer ${head.layer}, head ${head.head}`;
    say(head, null);
    canvas.addEventListener("mousemove", (event) => {
      const place = (offset) => Math.floor((offset - 1) / size);
      const [query, key] = [place(event.offsetY), place(event.offsetX)];
      const inside = query >= 0 && query < n && key >= 0 && key <= query;
      [...over.children].forEach((node, i) => node.classList.toggle("now", inside && i === key));
      [...beside.children].forEach((node, i) => node.classList.toggle("now", inside && i === query));
      say(head, inside ? [query, key] : null);
    });
    canvas.addEventListener("mouseleave", () => {
      document.querySelectorAll(".now").forEach((node) => node.classList.remove("now"));
      say(head, null);
    });
  }

  function say(head, place) {
    if (place) {
      const [query, key] = place;
      $("said").textContent = `${tokens[query]} (${query}) looks at ${tokens[key]} (${key}): ${at(head, query, key).toFixed(4)}`;
      return;
    }
    const mean = (of) => {
      let sum = 0;
      for (let query = 1; query < n; query += 1) sum += at(head, query, of(query));
      return n > 1 ? (sum / (n - 1)).toFixed(3) : "–";
    };
    $("said").textContent = `mean weight on the first token ${mean(() => 0)}, itself ${mean((q) => q)}, the token before ${mean((q) => q - 1)}`;
  }

  function redraw() {
    state.top = 1;
    if (state.sink) {
      let top = 0;
      for (const head of heads.values()) {
        for (let query = 1; query < n; query += 1) {
          for (let key = 1; key <= query; key += 1) top = Math.max(top, at(head, query, key));
        }
      }
      state.top = top || 1;
    }
    $("sink").checked = state.sink;
    $("range").textContent = `0 to ${Number(state.top.toFixed(3))}`;
    const ramp = $("ramp").getContext("2d");
    for (let x = 0; x < 165; x += 1) {
      ramp.fillStyle = `rgb(${colour((x / 164) * state.top).join()})`;
      ramp.fillRect(x, 0, 1, 10);
    }
    for (const cell of cells.values()) paint(cell.firstChild, heads.get(cell.dataset.head), 52);
    enlarge();
  }

  function hide(on) {
    state.sink = on;
    redraw();
  }

  // --- Dark mode follows the system until the button is pressed.
  const system = matchMedia("(prefers-color-scheme: dark)");
  let own = null;
  function theme() {
    const dark = own ?? system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("dark").setAttribute("aria-pressed", String(dark));
  }
  function turn() {
    own = document.documentElement.dataset.theme !== "dark";
    theme();
  }

  const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "s") return hide(!state.sink);
    if (event.key === "d") return turn();
    const move = MOVES[event.key];
    if (!move || !event.target.closest?.("#heads td")) return;
    event.preventDefault();
    choose(state.row + move[0], state.column + move[1]);
    cells.get(`${state.row},${state.column}`).focus();
  });
  $("sink").addEventListener("change", (event) => hide(event.target.checked));
  $("dark").addEventListener("click", turn);
  system.addEventListener("change", theme);

  build();
  theme();
  const first = cells.keys().next().value.split(",").map(Number);
  choose(...first);
  redraw();
  document.body.dataset.ready = "yes";
})();
