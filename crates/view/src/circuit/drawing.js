"use strict";
// A circuit in an SVG element: the page of one file and the page of `serve` draw it alike.

/**
 * Draws `data` into `svg`. `chosen(number, edges, way)` is told which node is looked at, with its edges: `way` is `rest` while a
 * pointer is on it, `keep` once it is clicked or has the focus; the number is null where it is let go. `rest(edge)` is told of
 * an edge under the pointer.
 */
function circuitPicture(data, svg, { chosen: tell, rest = () => {} }) {
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
    svgElement("text", { class: "row", x: 8, y: above + (data.rows.length - 1 - number) * row + 4 }, svg).textContent = name;
  });
  // The largest are drawn last, over the others.
  const paths = new Map();
  for (const edge of [...data.edges].reverse()) {
    const [from, to] = [data.nodes[edge.from], data.nodes[edge.to]];
    const bend = (y(from) - y(to)) * 0.45;
    // What stands in one column would lie on one line.
    const aside = from.column === to.column ? 12 + Math.min(70, (y(from) - y(to)) * 0.14) : 0;
    const path = svgElement("path", {
      d: `M${x(from)} ${y(from) - 9}C${x(from) + aside} ${y(from) - 9 - bend} ${x(to) + aside} ${y(to) + 9 + bend} ${x(to)} ${y(to) + 9}`,
      stroke: edge.colour,
      "stroke-width": 0.8 + 3.4 * Math.abs(edge.score) / data.reach,
    }, svg);
    svgElement("title", {}, path).textContent = `${named(edge)}: ${shown(edge.score)}`;
    path.addEventListener("pointerenter", () => rest(edge));
    paths.set(edge, path);
  }
  let least = 0;
  const visible = (edge) => Math.abs(edge.score) >= least;
  const distance = (from, to, across, up) => {
    const [own, other] = [data.nodes[from], data.nodes[to]];
    if (up) return Math.sign(other.row - own.row) === up ? Math.abs(other.row - own.row) * 1000 + Math.abs(other.column - own.column) : Infinity;
    return other.row === own.row && Math.sign(other.column - own.column) === across ? Math.abs(other.column - own.column) : Infinity;
  };
  const choice = nodeChoice({ paths, visible, first: 0, distance, tell });
  for (const node of data.nodes) {
    const group = choice.add(node.name, svg);
    const wide = Math.max(3, node.name.length) * 6.7 + 10;
    svgElement("rect", { x: x(node) - wide / 2, y: y(node) - 9, width: wide, height: 18, rx: 4 }, group);
    svgElement("text", { x: x(node), y: y(node) + 4, "text-anchor": "middle" }, group).textContent = node.name;
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
    choice.again();
    return { least, count };
  }

  return { cut, named, shown, key: choice.key, show: choice.show };
}
