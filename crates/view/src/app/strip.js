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

  function draw() {
    node.hidden = prompt.tokens.length === 0;
    if (node.hidden) return;
    if (measured !== prompt.tokens) measure();
    const [from, to] = [node.scrollLeft - 200, node.scrollLeft + node.clientWidth + 200];
    const chosen = prompt.position();
    const focused = inner.contains(document.activeElement);
    const seen = prompt.tokens.filter((_, i) => starts[i + 1] >= from && starts[i] <= to);
    inner.replaceChildren(...seen.map((one) => {
      const on = one.position === chosen;
      const here = el("button", { type: "button", tabindex: on ? "0" : "-1", "aria-pressed": String(on), title: `position ${one.position}, id ${one.id}`, onclick: () => change({ position: one.position }) }, token(one.text));
      here.style.left = `${starts[one.position]}px`;
      here.style.width = `${starts[one.position + 1] - starts[one.position] - 2}px`;
      return here;
    }));
    if (focused) inner.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
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
