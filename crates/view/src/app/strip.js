// The tokens of the prompt in one line, of which only those in view are elements.
import { el, token } from "./dom.js";
import { printable } from "./shared.js";
import { change } from "./state.js";
import { prompt } from "./prompt.js";

const LETTER = 7.83;

export function strip() {
  const inner = el("div", { class: "strip-size" });
  const node = el("div", { class: "strip", role: "group", "aria-label": "Tokens of the prompt" }, inner);
  let starts = [0];
  let measured = null;

  function measure() {
    measured = prompt.tokens;
    starts = [0];
    for (const one of prompt.tokens) starts.push(starts[starts.length - 1] + Math.max(24, [...printable(one.text)].length * LETTER + 14));
    inner.style.width = `${starts[starts.length - 1]}px`;
  }

  // What is in view already stays as it is: a step of scrolling touches the few elements at the ends.
  let shown = new Map();
  function draw() {
    node.hidden = prompt.tokens.length === 0;
    if (node.hidden) return;
    const anew = measured !== prompt.tokens;
    if (anew) measure();
    const [from, to] = [node.scrollLeft - 200, node.scrollLeft + node.clientWidth + 200];
    const chosen = prompt.position();
    const focused = inner.contains(document.activeElement);
    const before = anew ? new Map() : shown;
    const first = Math.max(0, starts.findIndex((start) => start >= from) - 1);
    shown = new Map();
    for (let i = first; i < prompt.tokens.length && starts[i] <= to; i += 1) shown.set(i, before.get(i) ?? element(prompt.tokens[i]));
    if (anew) inner.replaceChildren();
    for (const [i, gone] of before) if (!shown.has(i)) gone.remove();
    let k = 0;
    for (const [i, here] of shown) {
      if (inner.children[k] !== here) inner.insertBefore(here, inner.children[k] ?? null);
      const on = i === chosen;
      if (here.ariaPressed !== String(on)) Object.assign(here, { ariaPressed: String(on), tabIndex: on ? 0 : -1 });
      k += 1;
    }
    if (focused) inner.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }

  function element({ position, id, text }) {
    const here = el("button", { type: "button", title: `position ${position}, id ${id}`, onclick: () => change({ position }) }, token(text));
    here.style.left = `${starts[position]}px`;
    here.style.width = `${starts[position + 1] - starts[position] - 2}px`;
    return here;
  }

  /** Moves by a token, and brings it into view. */
  function move(by) {
    const position = Math.min(prompt.tokens.length - 1, Math.max(0, prompt.position() + by));
    if (starts[position] < node.scrollLeft) node.scrollLeft = starts[position];
    if (starts[position + 1] > node.scrollLeft + node.clientWidth) node.scrollLeft = starts[position + 1] - node.clientWidth;
    change({ position });
  }

  let frame = 0;
  const later = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
  node.addEventListener("scroll", later);
  new ResizeObserver(later).observe(node);
  node.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move(by);
  });
  return { node, draw };
}
