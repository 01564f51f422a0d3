'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const at = (id) => document.getElementById(id);
const make = (kind, attributes, parent) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
};
const [step, left, above, least_column] = [17, 62, 30, 54];
const short = (text, most) => ([...text].length > most ? [...text].slice(0, most - 1).join('') + '…' : text);
const shown = (weight) => (weight < 0 ? '' : '+') + weight.toPrecision(3);
// Rows that hold a node; empty ones take no room.
const rows = [...new Set(data.nodes.map((node) => node.row))].sort((a, b) => a - b);
// Few layers have room between them.
const row = Math.max(38, Math.min(84, Math.round(440 / rows.length)));
const row_name = (number) => (number === 0 ? 'tokens' : number === data.layers + 1 ? 'logits' : `layer ${number - 1}`);
// Nodes of one place stand side by side, and a column is as wide as its fullest place.
const places = new Map();
data.nodes.forEach((node, number) => {
  const key = `${node.row} ${node.position}`;
  if (!places.has(key)) places.set(key, []);
  places.get(key).push(number);
});
const wide = (node) => (node.kind === 'logit' ? 62 : step);
const columns = data.tokens.map((token, position) => {
  let widest = Math.max(least_column, Math.min(10, [...token].length) * 7 + 12);
  for (const numbers of places.values()) {
    if (data.nodes[numbers[0]].position === position) {
      widest = Math.max(widest, numbers.reduce((sum, number) => sum + wide(data.nodes[number]), 0) + 14);
    }
  }
  return widest;
});
const starts = columns.reduce((all, width) => [...all, all[all.length - 1] + width], [left]);
const width = starts[starts.length - 1] + 16;
const height = above + rows.length * row + 34;
const graph = at('graph');
graph.setAttribute('width', width);
graph.setAttribute('height', height);
graph.setAttribute('viewBox', `0 0 ${width} ${height}`);
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
data.tokens.forEach((token, position) => {
  if (position % 2 === 0) make('rect', { class: 'band', x: starts[position], y: 0, width: columns[position], height }, graph);
});
data.tokens.forEach((token, position) => {
  const label = make('text', { x: starts[position] + columns[position] / 2, y: height - 12, 'text-anchor': 'middle' }, graph);
  label.textContent = short(token, Math.floor(columns[position] / 7));
  make('title', {}, label).textContent = `${position}: ${token}`;
});
for (const number of rows) make('text', { class: 'row', x: 6, y: y_of(number) + 4 }, graph).textContent = row_name(number);
// The largest are drawn last, over the others.
const paths = new Map();
for (const edge of [...data.edges].reverse()) {
  const [[x0, y0], [x1, y1]] = [spots.get(edge.from), spots.get(edge.to)];
  const bend = Math.max(12, (y0 - y1) * 0.45);
  // What stands in one column would lie on one line.
  const aside = Math.abs(x0 - x1) < 2 ? 8 + Math.min(40, (y0 - y1) * 0.12) : 0;
  const path = make('path', {
    class: 'edge',
    d: `M${x0} ${y0 - 6}C${x0 + aside} ${y0 - 6 - bend} ${x1 + aside} ${y1 + 6 + bend} ${x1} ${y1 + 6}`,
    stroke: edge.colour,
    'stroke-width': 0.6 + 3.4 * Math.abs(edge.weight) / data.reach,
  }, graph);
  path.addEventListener('pointerenter', () => {
    at('said').textContent = `${data.nodes[edge.from].title} → ${data.nodes[edge.to].title}: ${shown(edge.weight)}`;
  });
  paths.set(edge, path);
}
let pinned = null;
let chosen = null;
let least = 0;
let share = 1;
const groups = data.nodes.map((node, number) => {
  const [x, y] = spots.get(number);
  const group = make('g', { class: 'node', tabindex: number === 0 ? 0 : -1, role: 'button', 'aria-label': node.title }, graph);
  if (node.kind === 'feature') make('circle', { class: 'mark', cx: x, cy: y, r: 6 }, group);
  else if (node.kind === 'error') make('path', { class: 'mark shape', d: `M${x} ${y - 7}L${x + 7} ${y}L${x} ${y + 7}L${x - 7} ${y}Z` }, group);
  else if (node.kind === 'token') make('rect', { class: 'mark', x: x - 6, y: y - 6, width: 12, height: 12 }, group);
  else {
    make('rect', { class: 'mark', x: x - 29, y: y - 9, width: 58, height: 18, rx: 3 }, group);
    make('text', { x, y: y + 4, 'text-anchor': 'middle' }, group).textContent = short(node.name, 8);
  }
  make('title', {}, group).textContent = node.title;
  group.addEventListener('pointerenter', () => { if (pinned === null) choose(number); });
  group.addEventListener('pointerleave', () => { if (pinned === null) choose(null); });
  group.addEventListener('click', () => { pinned = number; choose(number); });
  group.addEventListener('focus', () => { pinned = number; choose(number); });
  return group;
});
// Tokens and logits stay: without them nothing begins or ends.
const kept = (node) => node.kind === 'token' || node.kind === 'logit' || node.cumulative <= share;
const visible = (edge) => Math.abs(edge.weight) >= least && kept(data.nodes[edge.from]) && kept(data.nodes[edge.to]);
function list(id, edges, other) {
  at(id).replaceChildren(...edges.map((edge) => {
    const line = document.createElement('tr');
    const [name, weight] = [document.createElement('td'), document.createElement('td')];
    const button = document.createElement('button');
    button.textContent = data.nodes[other(edge)].title;
    button.addEventListener('click', () => groups[other(edge)].focus());
    name.append(button);
    weight.textContent = shown(edge.weight);
    line.append(name, weight);
    return line;
  }));
}
function choose(number) {
  chosen = number;
  const near = new Set([number]);
  for (const [edge, path] of paths) {
    const touches = edge.from === number || edge.to === number;
    path.classList.toggle('off', number !== null && !touches);
    if (touches && visible(edge)) near.add(edge.from).add(edge.to);
  }
  groups.forEach((group, own) => {
    group.classList.toggle('on', own === number);
    group.classList.toggle('off', number !== null && !near.has(own));
    if (number !== null) group.setAttribute('tabindex', own === number ? 0 : -1);
  });
  const node = number === null ? null : data.nodes[number];
  at('name').textContent = node === null ? 'No node chosen' : node.title;
  const [from, to] = number === null ? [[], []] : [
    data.edges.filter((edge) => edge.to === number && visible(edge)),
    data.edges.filter((edge) => edge.from === number && visible(edge)),
  ];
  list('from', from, (edge) => edge.from);
  list('to', to, (edge) => edge.to);
  for (const heading of document.querySelectorAll('.of')) heading.hidden = node === null;
  if (node === null) { at('said').textContent = ''; return; }
  const value = node.value === null ? '' : node.kind === 'logit' ? `probability ${node.value.toFixed(3)} · ` : `value ${node.value.toPrecision(4)} · `;
  const influence = node.kind === 'logit' ? '' : `influence ${node.influence.toPrecision(3)} · `;
  at('said').textContent = `${value}${influence}at ${node.position} “${data.tokens[node.position]}”`;
}
function cut() {
  // The scale is cubic: most weights are small.
  least = data.reach * (at('least').value / 1000) ** 3;
  share = at('nodes').value / 1000;
  let count = 0;
  for (const [edge, path] of paths) {
    path.classList.toggle('gone', !visible(edge));
    count += visible(edge) ? 1 : 0;
  }
  groups.forEach((group, number) => group.classList.toggle('gone', !kept(data.nodes[number])));
  const nodes = data.nodes.filter(kept).length;
  at('shown').textContent = `${nodes} of ${data.nodes.length} nodes · |weight| ≥ ${least.toPrecision(2)}: ${count} of ${data.edges.length} edges`;
  if (chosen !== null && !kept(data.nodes[chosen])) pinned = chosen = null;
  choose(chosen);
}
at('least').addEventListener('input', cut);
at('nodes').addEventListener('input', cut);
function move(across, up) {
  const first = data.nodes.findIndex((node) => node.kind === 'logit');
  if (chosen === null) { groups[Math.max(first, 0)].focus(); return; }
  const [x, y] = spots.get(chosen);
  const distance = (number) => {
    const [other_x, other_y] = spots.get(number);
    if (!kept(data.nodes[number])) return Infinity;
    if (up) return Math.sign(y - other_y) === up ? Math.abs(other_y - y) * 1000 + Math.abs(other_x - x) : Infinity;
    return other_y === y && Math.sign(other_x - x) === across ? Math.abs(other_x - x) : Infinity;
  };
  const best = data.nodes.map((node, number) => [distance(number), number]).sort((a, b) => a[0] - b[0])[0];
  if (best[0] !== Infinity) groups[best[1]].focus();
}
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const slider = document.activeElement instanceof HTMLInputElement;
  const change = (id, by) => { at(id).value = Number(at(id).value) + by; cut(); };
  const keys = {
    ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, 1), ArrowDown: () => move(0, -1),
    '+': () => change('least', 25), '-': () => change('least', -25),
    '[': () => change('nodes', -25), ']': () => change('nodes', 25),
    Escape: () => { pinned = null; document.activeElement.blur(); choose(null); },
  };
  if (!(event.key in keys) || (slider && event.key.startsWith('Arrow'))) return;
  event.preventDefault();
  keys[event.key]();
});
// What is explained stands at the end.
graph.parentElement.scrollLeft = width;
// A picture of thousands of edges shows nothing: it begins with the largest.
const most = 400;
if (data.edges.length > most) at('least').value = Math.ceil(1000 * Math.cbrt(Math.abs(data.edges[most - 1].weight) / data.reach));
cut();
