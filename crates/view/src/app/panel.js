// The frame of a view: its title and controls, how far it is, what went wrong, the same as a command and in Python.
import { command } from "./ask.js";
import { button, el, save } from "./dom.js";

/** Panels of different height stand close: each takes as many thin rows of the board as it is high. */
const [ROW, GAP] = [8, 16];
const fitting = new ResizeObserver((entries) => {
  for (const { target } of entries) target.style.gridRowEnd = `span ${Math.ceil((target.offsetHeight + GAP) / ROW)}`;
});

const TYPES = { html: "text/html", svg: "image/svg+xml", png: "image/png", csv: "text/csv", json: "application/json" };

export class Panel {
  /**
   * `needs` are the names of the state that its question depends on. `look(panel)` asks and draws; a panel that is `manual`
   * waits for its button, because its question takes long. Notes of the kinds in `says` are left out: the view says the same.
   */
  constructor({ id, title, about, needs = [], points = [], controls = [], manual, formats = [], says = [], look, point = () => {} }) {
    Object.assign(this, { id, needs, points, manual, formats, says, look, point, words: null, abort: null, stale: true });
    this.progress = el("progress", { hidden: true, "aria-label": `${title}: how much is done` });
    this.said = el("span", { class: "hint", role: "status" });
    this.cancel = button("Cancel", () => this.stop(), { hidden: true });
    this.start = manual ? button(manual, () => this.refresh(true), { class: "strong" }) : null;
    this.fault = el("div", { class: "fault", role: "alert" });
    this.notes = el("ul", { class: "notes", hidden: true, "aria-label": "Warnings and notes" });
    this.controls = el("div", { class: "controls" }, controls, this.start);
    this.body = el("div", { class: "body" });
    this.same = el("details", { class: "same", hidden: true });
    this.node = el("section", { class: "panel", id: `view-${id}`, "aria-labelledby": `title-${id}` },
      el("div", { class: "head" }, el("h2", { id: `title-${id}` }, title), el("p", { class: "hint" }, about)),
      this.controls, el("div", { class: "going" }, this.progress, this.said, this.cancel), this.fault, this.notes, this.body, this.same);
    fitting.observe(this.node);
  }

  /** Asks anew where what it depends on has changed. A long question waits for its button. */
  hear(changed) {
    if (this.needs.some((name) => changed.has(name))) {
      this.stale = true;
      if (this.manual) {
        this.stop();
        this.hint("what is asked has changed");
      } else if (this.node.isConnected) this.refresh();
    } else if (this.node.isConnected && this.points.some((name) => changed.has(name))) this.point(this);
  }

  /** Asks, unless what it shows is still true. */
  async refresh(now = false) {
    if (!this.stale && !now) return;
    if (this.manual && !now) return;
    this.stop();
    this.stale = false;
    const abort = (this.abort = new AbortController());
    this.fault.replaceChildren();
    this.notes.replaceChildren();
    this.notes.hidden = true;
    this.hint("");
    this.node.setAttribute("aria-busy", "true");
    // What is quick shows no button that flickers.
    const slow = setTimeout(() => { this.cancel.hidden = false; }, 250);
    const begin = performance.now();
    try {
      await this.look(this);
      if (this.abort === abort) this.hint(`${((performance.now() - begin) / 1000).toFixed(2)} s`);
    } catch (error) {
      if (abort.signal.aborted) return;
      this.stale = true;
      this.hint("");
      this.body.replaceChildren();
      this.same.hidden = true;
      this.fault.replaceChildren(el("p", {}, error.message), error.hint ? el("p", { class: "hint" }, error.hint) : "");
      if (!error.hint && error.constructor === TypeError) throw error;
    } finally {
      clearTimeout(slow);
      if (this.abort === abort || this.abort === null) {
        this.cancel.hidden = true;
        this.progress.hidden = true;
        this.node.removeAttribute("aria-busy");
      }
      if (this.abort === abort) this.abort = null;
    }
  }

  stop() {
    if (!this.abort) return;
    this.abort.abort();
    this.abort = null;
    this.stale = true;
    this.hint("cancelled");
  }

  hint(text) {
    this.said.textContent = text;
  }

  /** Runs a command for this view; the last one is what can be saved and typed. */
  async run(words, hear = () => {}) {
    const { abort } = this;
    const answer = await command(words, {
      signal: abort?.signal,
      hear: (event) => {
        if (this.abort !== abort) return;
        if (event.event === "waiting") this.hint(event.ahead > 0 ? `waiting: ${event.ahead} ahead${event.doing ? `, ${event.doing}` : ""}` : event.doing || "running");
        else if (event.event === "progress") this.tell(event);
        else if (event.event === "note") this.note(event);
        else hear(event);
      },
    });
    if (abort?.signal.aborted) throw new DOMException("", "AbortError");
    this.remember(words, answer);
    return answer.data;
  }

  tell({ done, of, what }) {
    Object.assign(this.progress, { hidden: false, max: of, value: done });
    this.hint(`${done} of ${of} ${what}`);
  }

  note({ kind, text }) {
    // Two runs say much the same.
    const isSaid = [...this.notes.children].some((one) => one.textContent === `${kind} ${text}`);
    if (isSaid || this.says.includes(kind)) return;
    this.notes.hidden = false;
    this.notes.append(el("li", { class: kind === "warning" ? "warning" : "" }, el("b", {}, kind), " ", text));
  }

  remember(words, answer) {
    this.words = words;
    const code = (label, text) => {
      const shown = el("pre", { tabindex: "0", "aria-label": label }, text);
      const copy = button("Copy", async () => {
        try {
          await navigator.clipboard.writeText(text);
          copy.textContent = "Copied";
        } catch {
          // Some frames and browsers keep the clipboard to themselves: the reader copies what is selected.
          getSelection().selectAllChildren(shown);
          copy.textContent = "Selected: copy it";
        }
        setTimeout(() => { copy.textContent = "Copy"; }, 1500);
      }, { "aria-label": `Copy: ${label}` });
      return el("div", { class: "code" }, el("h3", {}, label), copy, shown);
    };
    const open = this.same.open;
    this.same.replaceChildren(
      el("summary", {}, "The same as a command, in Python, as a file"),
      code("The same as a command", answer.command),
      answer.python ? code("The same in Python", answer.python) : el("p", { class: "hint" }, "The Python package spells this otherwise: see its documentation."),
      this.formats.length > 0 ? el("p", { class: "files" }, "Save as ", this.formats.map((format) => button(format.toUpperCase(), () => this.save(format), { "aria-label": `Save as ${format.toUpperCase()}` }))) : "",
    );
    this.same.hidden = false;
    this.same.open = open;
  }

  /** The file that the command writes, byte for byte. */
  async save(format) {
    try {
      const answer = await command(this.words, {}, format);
      const bytes = answer.base64 ? Uint8Array.from(atob(answer.base64), (c) => c.charCodeAt(0)) : answer.text ?? JSON.stringify(answer.data, null, 2);
      save(`${this.words[0]}.${format}`, bytes, TYPES[format] ?? "text/plain");
    } catch (error) {
      this.fault.replaceChildren(el("p", {}, error.message), error.hint ? el("p", { class: "hint" }, error.hint) : "");
    }
  }
}
