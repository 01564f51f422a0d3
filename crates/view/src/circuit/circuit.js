'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const at = (id) => document.getElementById(id);
const make = (kind, attributes, parent) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
};
const [column, row, left, above] = [62, 46, 84, 24];
const graph = at('graph');
const width = left + (data.columns + 2) * column + 24;
const height = above * 2 + (data.rows.length - 1) * row;
graph.setAttribute('width', width);
graph.setAttribute('height', height);
graph.setAttribute('viewBox', `0 0 ${width} ${height}`);
const x = (node) => left + node.column * column;
const y = (node) => above + (data.rows.length - 1 - node.row) * row;
const shown = (score) => (score < 0 ? '' : '+') + score.toFixed(5);
const named = (edge) => `${data.nodes[edge.from].name} → ${data.nodes[edge.to].name}${edge.input ? ' ' + edge.input : ''}`;
data.rows.forEach((name, number) => {
  make('text', { class: 'row', x: 8, y: above + (data.rows.length - 1 - number) * row + 4 }, graph).textContent = name;
});
// The largest are drawn last, over the others.
const paths = new Map();
for (const edge of [...data.edges].reverse()) {
  const [from, to] = [data.nodes[edge.from], data.nodes[edge.to]];
  const bend = (y(from) - y(to)) * 0.45;
  // What stands in one column would lie on one line.
  const aside = from.column === to.column ? 12 + Math.min(70, (y(from) - y(to)) * 0.14) : 0;
  const path = make('path', {
    d: `M${x(from)} ${y(from) - 9}C${x(from) + aside} ${y(from) - 9 - bend} ${x(to) + aside} ${y(to) + 9 + bend} ${x(to)} ${y(to) + 9}`,
    stroke: edge.colour,
    'stroke-width': 0.8 + 3.4 * Math.abs(edge.score) / data.reach,
  }, graph);
  make('title', {}, path).textContent = `${named(edge)}: ${shown(edge.score)}`;
  path.addEventListener('pointerenter', () => { at('said').textContent = `${named(edge)}: ${shown(edge.score)}`; });
  paths.set(edge, path);
}
const groups = data.nodes.map((node, number) => {
  const group = make('g', { class: 'node', tabindex: number === 0 ? 0 : -1, role: 'button', 'aria-label': node.name }, graph);
  const wide = Math.max(3, node.name.length) * 6.7 + 10;
  make('rect', { x: x(node) - wide / 2, y: y(node) - 9, width: wide, height: 18, rx: 4 }, group);
  make('text', { x: x(node), y: y(node) + 4, 'text-anchor': 'middle' }, group).textContent = node.name;
  group.addEventListener('pointerenter', () => { if (pinned === null) choose(number); });
  group.addEventListener('pointerleave', () => { if (pinned === null) choose(null); });
  group.addEventListener('click', () => { pinned = number; choose(number); });
  group.addEventListener('focus', () => { pinned = number; choose(number); });
  return group;
});
let pinned = null;
let chosen = null;
let least = 0;
const visible = (edge) => Math.abs(edge.score) >= least;
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
  at('name').textContent = number === null ? 'No node chosen' : data.nodes[number].name;
  const rows = number === null ? [] : data.edges.filter((edge) => (edge.from === number || edge.to === number) && visible(edge));
  at('edges').replaceChildren(...rows.map((edge) => {
    const line = document.createElement('tr');
    for (const text of [named(edge), shown(edge.score)]) {
      const cell = document.createElement('td');
      cell.textContent = text;
      line.append(cell);
    }
    return line;
  }));
  if (number !== null) at('said').textContent = `${rows.length} edges`;
}
function cut() {
  // The scale is cubic: most scores are small.
  least = data.reach * (at('least').value / 1000) ** 3;
  let count = 0;
  for (const [edge, path] of paths) {
    path.classList.toggle('gone', !visible(edge));
    count += visible(edge) ? 1 : 0;
  }
  at('shown').textContent = `|score| ≥ ${least.toFixed(5)}: ${count} of ${data.edges.length} edges`;
  choose(chosen);
}
at('least').addEventListener('input', cut);
function move(across, up) {
  const own = chosen === null ? data.nodes[0] : data.nodes[chosen];
  const distance = (node) => up
    ? (Math.sign(node.row - own.row) === up ? Math.abs(node.row - own.row) * 1000 + Math.abs(node.column - own.column) : Infinity)
    : (node.row === own.row && Math.sign(node.column - own.column) === across ? Math.abs(node.column - own.column) : Infinity);
  const best = data.nodes.map((node, number) => [distance(node), number]).sort((a, b) => a[0] - b[0])[0];
  const next = chosen === null ? 0 : best[0] === Infinity ? chosen : best[1];
  groups[next].focus();
}
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const slider = document.activeElement === at('least');
  const step = (by) => { at('least').value = Number(at('least').value) + by; cut(); };
  const keys = {
    ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, 1), ArrowDown: () => move(0, -1),
    '+': () => step(25), '-': () => step(-25),
    Escape: () => { pinned = null; document.activeElement.blur(); choose(null); },
  };
  if (!(event.key in keys) || (slider && event.key.startsWith('Arrow'))) return;
  event.preventDefault();
  keys[event.key]();
});
cut();
