"use strict";
// An attribution graph in an SVG element: the page of one file and the page of `serve` draw it alike.

/**
 * Draws `data` into `svg`. `chosen(number, from, to, way)` is told which node is looked at, with the edges that lead to it and from
 * it: `way` is `rest` while a pointer is on it, `keep` once it is clicked or has the focus; the number is null where it is let
 * go. `rest(edge)` is told of an edge under the pointer.
 */
function graphPicture(data, svg, { chosen: tell, rest = () => {} }) {
  const [step, left, above, least_column] = [17, 62, 30, 54];
  const short = (text, most) => ([...text].length > most ? [...text].slice(0, most - 1).join("") + "…" : text);
  const shown = (weight) => (weight < 0 ? "" : "+") + weight.toPrecision(3);
  // Rows that hold a node; empty ones take no room.
  const rows = [...new Set(data.nodes.map((node) => node.row))].sort((a, b) => a - b);
  // Few layers have room between them.
  const row = Math.max(38, Math.min(84, Math.round(440 / rows.length)));
  const row_name = (number) => (number === 0 ? "tokens" : number === data.layers + 1 ? "logits" : `layer ${number - 1}`);
  // Nodes of one place stand side by side, and a column is as wide as its fullest place.
  const places = new Map();
  data.nodes.forEach((node, number) => {
    const key = `${node.row} ${node.position}`;
    if (!places.has(key)) places.set(key, []);
    places.get(key).push(number);
  });
  const wide = (node) => (node.kind === "logit" ? 62 : step);
  const columns = data.tokens.map((token) => Math.max(least_column, Math.min(10, [...token].length) * 7 + 12));
  for (const numbers of places.values()) {
    const { position } = data.nodes[numbers[0]];
    columns[position] = Math.max(columns[position], numbers.reduce((sum, number) => sum + wide(data.nodes[number]), 0) + 14);
  }
  const starts = [left];
  for (const column of columns) starts.push(starts[starts.length - 1] + column);
  const width = starts[starts.length - 1] + 16;
  const height = above + (rows.length - 1) * row + 64;
  svg.replaceChildren();
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const y_of = (number) => above + (rows.length - 1 - rows.indexOf(number)) * row;
  const spots = new Map();
  for (const numbers of places.values()) {
    const all = numbers.reduce((sum, number) => sum + wide(data.nodes[number]), 0);
    const { position, row: own } = data.nodes[numbers[0]];
    let x = starts[position] + (columns[position] - all) / 2;
    for (const number of numbers) {
      spots.set(number, [x + wide(data.nodes[number]) / 2, y_of(own)]);
      x += wide(data.nodes[number]);
    }
  }
  const bands = data.tokens.map((token, position) =>
    svgElement("rect", { class: "band", x: starts[position], y: 0, width: columns[position], height, "fill-opacity": position % 2 === 0 ? 1 : 0 }, svg));
  data.tokens.forEach((token, position) => {
    const label = svgElement("text", { x: starts[position] + columns[position] / 2, y: height - 12, "text-anchor": "middle" }, svg);
    label.textContent = short(token, Math.floor(columns[position] / 7));
    svgElement("title", {}, label).textContent = `${position}: ${token}`;
  });
  // The largest are drawn last, over the others.
  const paths = new Map();
  for (const edge of [...data.edges].reverse()) {
    const [[x0, y0], [x1, y1]] = [spots.get(edge.from), spots.get(edge.to)];
    const bend = Math.max(12, (y0 - y1) * 0.45);
    // What stands in one column would lie on one line.
    const aside = Math.abs(x0 - x1) < 2 ? 8 + Math.min(40, (y0 - y1) * 0.12) : 0;
    const path = svgElement("path", {
      class: "edge",
      d: `M${x0} ${y0 - 6}C${x0 + aside} ${y0 - 6 - bend} ${x1 + aside} ${y1 + 6 + bend} ${x1} ${y1 + 6}`,
      stroke: edge.colour,
      "stroke-width": 0.6 + 3.4 * Math.abs(edge.weight) / data.reach,
    }, svg);
    path.addEventListener("pointerenter", () => rest(edge));
    paths.set(edge, path);
  }
  let least = 0;
  let share = 1;
  // Tokens and logits stay: without them nothing begins or ends.
  const kept = (node) => node.kind === "token" || node.kind === "logit" || node.cumulative <= share;
  const visible = (edge) => Math.abs(edge.weight) >= least && kept(data.nodes[edge.from]) && kept(data.nodes[edge.to]);
  const distance = (from, to, across, up) => {
    const [[x, y], [other_x, other_y]] = [spots.get(from), spots.get(to)];
    if (!kept(data.nodes[to])) return Infinity;
    if (up) return Math.sign(y - other_y) === up ? Math.abs(other_y - y) * 1000 + Math.abs(other_x - x) : Infinity;
    return other_y === y && Math.sign(other_x - x) === across ? Math.abs(other_x - x) : Infinity;
  };
  const choice = nodeChoice({
    paths, visible, distance,
    first: Math.max(data.nodes.findIndex((node) => node.kind === "logit"), 0),
    tell: (number, edges, way) => tell(number, edges.filter((edge) => edge.to === number), edges.filter((edge) => edge.from === number), way),
  });
  data.nodes.forEach((node, number) => {
    const [x, y] = spots.get(number);
    const group = choice.add(node.title, svg);
    if (node.kind === "feature") svgElement("circle", { class: "mark", cx: x, cy: y, r: 6 }, group);
    else if (node.kind === "error") svgElement("path", { class: "mark shape", d: `M${x} ${y - 7}L${x + 7} ${y}L${x} ${y + 7}L${x - 7} ${y}Z` }, group);
    else if (node.kind === "token") svgElement("rect", { class: "mark", x: x - 6, y: y - 6, width: 12, height: 12 }, group);
    else {
      svgElement("rect", { class: "mark", x: x - 29, y: y - 9, width: 58, height: 18, rx: 3 }, group);
      svgElement("text", { x, y: y + 4, "text-anchor": "middle" }, group).textContent = short(node.name, 8);
    }
    svgElement("title", {}, group).textContent = node.title;
  });

  // The names of rows stay at the left where a wide picture is scrolled.
  const names = svgElement("g", { class: "rows" }, svg);
  svgElement("rect", { x: 0, y: 0, width: left - 2, height }, names);
  for (const number of rows) svgElement("text", { x: 6, y: y_of(number) + 4 }, names).textContent = row_name(number);
  const sheet = svg.parentElement;
  if (sheet) sheet.onscroll = () => names.setAttribute("transform", `translate(${sheet.scrollLeft} 0)`);

  /** Hides small edges and nodes of little influence, both as shares from 0 to 1; says what is left. */
  function cut(of_reach, of_influence) {
    // The scale is cubic: most weights are small.
    least = data.reach * of_reach ** 3;
    share = of_influence;
    let edges = 0;
    for (const [edge, path] of paths) {
      path.classList.toggle("gone", !visible(edge));
      edges += visible(edge) ? 1 : 0;
    }
    const hidden = (number) => !kept(data.nodes[number]);
    choice.groups.forEach((group, number) => group.classList.toggle("gone", hidden(number)));
    choice.again(hidden);
    return { least, edges, nodes: data.nodes.filter(kept).length };
  }

  /** Marks the column of a token. */
  function mark(position) {
    bands.forEach((band, own) => {
      band.classList.toggle("here", own === position);
      band.setAttribute("fill-opacity", own === position || own % 2 === 0 ? 1 : 0);
    });
  }

  // A picture of thousands of edges shows nothing: it begins with the largest.
  const MOST = 400;
  const begin = data.edges.length > MOST ? Math.ceil(1000 * Math.cbrt(Math.abs(data.edges[MOST - 1].weight) / data.reach)) : 0;
  const about = (node) => {
    const value = node.value === null ? "" : node.kind === "logit" ? `probability ${node.value.toFixed(3)} · ` : `value ${node.value.toPrecision(4)} · `;
    const influence = node.kind === "logit" ? "" : node.influence !== null ? `influence ${node.influence.toPrecision(3)} · ` : `within ${(100 * node.cumulative).toFixed(1)} % of all influence · `;
    return `${value}${influence}at ${node.position} “${data.tokens[node.position]}”`;
  };
  return { cut, mark, shown, about, begin, width, key: choice.key, show: choice.show, focus: (number) => choice.groups[number].focus() };
}
