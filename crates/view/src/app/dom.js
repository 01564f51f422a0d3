// Elements. Text from a model, a prompt or a file only ever goes in as text nodes.
import { pieces } from "./shared.js";

/** An element; attributes that begin with `on` are listeners, false and undefined ones are left out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** An empty picture of a class, with what it shows in words. */
export function svg(className, label) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ class: className, role: "group", "aria-label": label })) node.setAttribute(name, value);
  return node;
}

export const $ = (id) => document.getElementById(id);
export const button = (label, act, attributes = {}) => el("button", { type: "button", onclick: act, ...attributes }, label);

/** A token, with signs for what cannot be seen. */
export const token = (text) =>
  el("span", { class: "token", dir: "ltr" }, pieces(text).map(([shown, sign]) => (sign ? el("span", { class: "sign" }, shown) : shown)));

let names = 0;
/** A label around a field. */
export function field(label, input) {
  names += 1;
  input.id ||= `field-${names}`;
  return el("span", { class: "field" }, el("label", { for: input.id }, label), input);
}

export function choice(options, value, onchange) {
  const select = el("select", { onchange: () => onchange(select.value) }, options.map(([key, words]) => el("option", { value: key, selected: key === value }, words)));
  return select;
}

/** A line of text that is taken over by Enter or when the field is left. */
export function line(value, onchange, attributes = {}) {
  const input = el("input", { type: "text", value, spellcheck: "false", autocomplete: "off", onchange: () => onchange(input.value), ...attributes });
  return input;
}

/** What a reader of the screen hears. */
export function say(text) {
  $("said").textContent = text;
}

/** Shows what stands under the pointer, beside it. */
export function tip(content, x, y) {
  const box = $("tip");
  if (!content) {
    box.hidden = true;
    return;
  }
  box.replaceChildren(...[content].flat(Infinity));
  box.hidden = false;
  const own = box.getBoundingClientRect();
  const left = x + 16 + own.width < innerWidth ? x + 16 : Math.max(4, x - own.width - 16);
  box.style.left = `${left}px`;
  box.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - own.height - 6))}px`;
}

/** Hands a file to the reader. */
export function save(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

export const signed = (x, digits = 3) => (x === null || Number.isNaN(x) ? "NaN" : `${x > 0 ? "+" : ""}${x.toFixed(digits)}`);
