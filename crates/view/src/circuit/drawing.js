"use strict";
// A circuit in an SVG element: the page of one file and the page of `serve` draw it alike.

/**
 * Draws `data` into `svg`. `chosen(number, edges, way)` is told which node is looked at, with its edges: `way` is `rest` while a
 * pointer is on it, `keep` once it is clicked or has the focus; the number is null where it is let go. `rest(edge)` is told of
 * an edge under the pointer.
 */
function circuitPicture(data, svg, { chosen: tell, rest = () => {} }) {
  const make = (kind, attributes, parent) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    parent.append(made);
    return made;
  };
  const [column, row, left, above] = [62, 46, 84, 24];
  const width = left + (data.columns + 2) * column + 24;
  const height = above * 2 + (data.rows.length - 1) * row;
  svg.replaceChildren();
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = (node) => left + node.column * column;
  const y = (node) => above + (data.rows.length - 1 - node.row) * row;
  const shown = (score) => (score < 0 ? "" : "+") + score.toFixed(5);
  const named = (edge) => `${data.nodes[edge.from].name} → ${data.nodes[edge.to].name}${edge.input ? " " + edge.input : ""}`;
  data.rows.forEach((name, number) => {
    make("text", { class: "row", x: 8, y: above + (data.rows.length - 1 - number) * row + 4 }, svg).textContent = name;
  });
  // The largest are drawn last, over the others.
  const paths = new Map();
  for (const edge of [...data.edges].reverse()) {
    const [from, to] = [data.nodes[edge.from], data.nodes[edge.to]];
    const bend = (y(from) - y(to)) * 0.45;
    // What stands in one column would lie on one line.
    const aside = from.column === to.column ? 12 + Math.min(70, (y(from) - y(to)) * 0.14) : 0;
    const path = make("path", {
      d: `M${x(from)} ${y(from) - 9}C${x(from) + aside} ${y(from) - 9 - bend} ${x(to) + aside} ${y(to) + 9 + bend} ${x(to)} ${y(to) + 9}`,
      stroke: edge.colour,
      "stroke-width": 0.8 + 3.4 * Math.abs(edge.score) / data.reach,
    }, svg);
    make("title", {}, path).textContent = `${named(edge)}: ${shown(edge.score)}`;
    path.addEventListener("pointerenter", () => rest(edge));
    paths.set(edge, path);
  }
  let pinned = null;
  let chosen = null;
  let least = 0;
  const visible = (edge) => Math.abs(edge.score) >= least;
  const groups = data.nodes.map((node, number) => {
    const group = make("g", { class: "node", tabindex: number === 0 ? 0 : -1, role: "button", "aria-label": node.name }, svg);
    const wide = Math.max(3, node.name.length) * 6.7 + 10;
    make("rect", { x: x(node) - wide / 2, y: y(node) - 9, width: wide, height: 18, rx: 4 }, group);
    make("text", { x: x(node), y: y(node) + 4, "text-anchor": "middle" }, group).textContent = node.name;
    group.addEventListener("pointerenter", () => { if (pinned === null) choose(number, "rest"); });
    group.addEventListener("pointerleave", () => { if (pinned === null) choose(null, "rest"); });
    group.addEventListener("click", () => keep(number));
    group.addEventListener("focus", () => keep(number));
    return group;
  });

  function keep(number) {
    if (pinned === number) return;
    pinned = number;
    choose(number, "keep");
  }

  function choose(number, way) {
    chosen = number;
    const near = new Set([number]);
    for (const [edge, path] of paths) {
      const touches = edge.from === number || edge.to === number;
      path.classList.toggle("off", number !== null && !touches);
      if (touches && visible(edge)) near.add(edge.from).add(edge.to);
    }
    groups.forEach((group, own) => {
      group.classList.toggle("on", own === number);
      group.classList.toggle("off", number !== null && !near.has(own));
      if (number !== null) group.setAttribute("tabindex", own === number ? 0 : -1);
    });
    tell(number, number === null ? [] : data.edges.filter((edge) => (edge.from === number || edge.to === number) && visible(edge)), way);
  }

  /** Hides edges below a share of the largest score, 0 to 1; gives the smallest score that is left, and how many edges. */
  function cut(share) {
    // The scale is cubic: most scores are small.
    least = data.reach * share ** 3;
    let count = 0;
    for (const [edge, path] of paths) {
      path.classList.toggle("gone", !visible(edge));
      count += visible(edge) ? 1 : 0;
    }
    choose(chosen, "cut");
    return { least, count };
  }

  function move(across, up) {
    const own = chosen === null ? data.nodes[0] : data.nodes[chosen];
    const distance = (node) => up
      ? (Math.sign(node.row - own.row) === up ? Math.abs(node.row - own.row) * 1000 + Math.abs(node.column - own.column) : Infinity)
      : (node.row === own.row && Math.sign(node.column - own.column) === across ? Math.abs(node.column - own.column) : Infinity);
    const best = data.nodes.map((node, number) => [distance(node), number]).sort((a, b) => a[0] - b[0])[0];
    groups[chosen === null ? 0 : best[0] === Infinity ? chosen : best[1]].focus();
  }

  function letGo() {
    pinned = null;
    document.activeElement?.blur();
    choose(null, "keep");
  }

  /** What a key does; false where it does nothing here. */
  function key(name) {
    const keys = { ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, 1), ArrowDown: () => move(0, -1), Escape: letGo };
    keys[name]?.();
    return name in keys;
  }

  return { cut, key, named, shown, show: (number) => { pinned = number; choose(number, "show"); } };
}
