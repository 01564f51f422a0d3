"use strict";
// What the pictures of a circuit and of a graph share: their elements, the choice of a node, and the keys.

function svgElement(kind, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

/**
 * The choice of one node. `paths` are the elements of the edges (`{from, to}`), by edge; `visible(edge)` says which are not hidden.
 * Arrow keys start at the node `first` and move to the node with the smallest `distance(from, to, across, up)`.
 * `tell(number, edges, way)` is told which node is looked at, with its visible edges, the largest first: `way` is `rest` while a
 * pointer is on it, `keep` once it is clicked or has the focus; the number is null where it is let go.
 */
function nodeChoice({ paths, visible, first, distance, tell }) {
  const groups = [];
  let pinned = null;
  let chosen = null;
  const touches = (edge, number) => edge.from === number || edge.to === number;

  /** The element of the next node, into which it is drawn. */
  function add(label, parent) {
    const number = groups.length;
    const group = svgElement("g", { class: "node", tabindex: number === 0 ? 0 : -1, role: "button", "aria-label": label }, parent);
    group.addEventListener("pointerenter", () => { if (pinned === null) choose(number, "rest"); });
    group.addEventListener("pointerleave", () => { if (pinned === null) choose(null, "rest"); });
    group.addEventListener("click", () => keep(number));
    group.addEventListener("focus", () => keep(number));
    groups.push(group);
    return group;
  }

  function keep(number) {
    if (pinned === number) return;
    pinned = number;
    choose(number, "keep");
  }

  function choose(number, way) {
    chosen = number;
    const near = new Set([number]);
    const edges = [];
    for (const [edge, path] of paths) {
      const isNear = touches(edge, number);
      path.classList.toggle("off", number !== null && !isNear);
      if (!isNear || !visible(edge)) continue;
      near.add(edge.from).add(edge.to);
      edges.push(edge);
    }
    groups.forEach((group, own) => {
      group.classList.toggle("on", own === number);
      group.classList.toggle("off", number !== null && !near.has(own));
      if (number !== null) group.setAttribute("tabindex", own === number ? 0 : -1);
    });
    // What is drawn last is the largest.
    tell(number, edges.reverse(), way);
  }

  /** Tells anew what is visible; a node that is hidden is let go. */
  function again(hidden = () => false) {
    if (chosen !== null && hidden(chosen)) pinned = chosen = null;
    choose(chosen, "cut");
  }

  function move(across, up) {
    if (chosen === null) {
      groups[first].focus();
      return;
    }
    const [nearest] = groups.map((_, number) => [distance(chosen, number, across, up), number]).sort((a, b) => a[0] - b[0]);
    if (nearest[0] !== Infinity) groups[nearest[1]].focus();
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

  /** Shows a node that was chosen elsewhere. */
  function show(number) {
    pinned = number;
    choose(number, "show");
  }

  return { add, again, key, show, groups };
}
