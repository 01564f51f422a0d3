const data = JSON.parse(document.getElementById('data').textContent);
const at = (id) => document.getElementById(id);
const picture = circuitPicture(data, at('graph'), {
  chosen(number, edges) {
    at('name').textContent = number === null ? 'No node chosen' : data.nodes[number].name;
    at('edges').replaceChildren(...edges.map((edge) => {
      const line = document.createElement('tr');
      for (const text of [picture.named(edge), picture.shown(edge.score)]) {
        const cell = document.createElement('td');
        cell.textContent = text;
        line.append(cell);
      }
      return line;
    }));
    if (number !== null) at('said').textContent = `${edges.length} edges`;
  },
  rest(edge) {
    at('said').textContent = `${picture.named(edge)}: ${picture.shown(edge.score)}`;
  },
});
function cut() {
  const { least, count } = picture.cut(at('least').value / 1000);
  at('shown').textContent = `|score| ≥ ${least.toFixed(5)}: ${count} of ${data.edges.length} edges`;
}
at('least').addEventListener('input', cut);
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { '+': 25, '-': -25 }[event.key];
  if (step) {
    at('least').value = Number(at('least').value) + step;
    cut();
  } else if (document.activeElement === at('least') && event.key.startsWith('Arrow')) return;
  else if (!picture.key(event.key)) return;
  event.preventDefault();
});
cut();
