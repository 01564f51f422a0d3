const data = JSON.parse(document.getElementById('data').textContent);
const at = (id) => document.getElementById(id);
const picture = graphPicture(data, at('graph'), {
  chosen(number, from, to) {
    const node = number === null ? null : data.nodes[number];
    at('name').textContent = node === null ? 'No node chosen' : node.title;
    list('from', from, (edge) => edge.from);
    list('to', to, (edge) => edge.to);
    for (const heading of document.querySelectorAll('.of')) heading.hidden = node === null;
    at('said').textContent = node === null ? '' : picture.about(node);
  },
  rest(edge) {
    at('said').textContent = `${data.nodes[edge.from].title} → ${data.nodes[edge.to].title}: ${picture.shown(edge.weight)}`;
  },
});
function list(id, edges, other) {
  at(id).replaceChildren(...edges.map((edge) => {
    const line = document.createElement('tr');
    const [name, weight] = [document.createElement('td'), document.createElement('td')];
    const button = document.createElement('button');
    button.textContent = data.nodes[other(edge)].title;
    button.addEventListener('click', () => picture.focus(other(edge)));
    name.append(button);
    weight.textContent = picture.shown(edge.weight);
    line.append(name, weight);
    return line;
  }));
}
function cut() {
  const { least, edges, nodes } = picture.cut(at('least').value / 1000, at('nodes').value / 1000);
  at('shown').textContent = `${nodes} of ${data.nodes.length} nodes · |weight| ≥ ${least.toPrecision(2)}: ${edges} of ${data.edges.length} edges`;
}
at('least').addEventListener('input', cut);
at('nodes').addEventListener('input', cut);
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { '+': ['least', 25], '-': ['least', -25], '[': ['nodes', -25], ']': ['nodes', 25] }[event.key];
  if (step) {
    at(step[0]).value = Number(at(step[0]).value) + step[1];
    cut();
  } else if (document.activeElement instanceof HTMLInputElement && event.key.startsWith('Arrow')) return;
  else if (!picture.key(event.key)) return;
  event.preventDefault();
});
// What is explained stands at the end.
at('graph').parentElement.scrollLeft = picture.width;
at('least').value = picture.begin;
cut();
