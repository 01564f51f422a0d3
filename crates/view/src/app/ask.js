// Questions to the server. The address of the page carries the token, and paths are relative to it.
import { prompt } from "./prompt.js";

/** What the server answers in place of a result. */
export class Refused extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint;
  }
}

const GONE = "The server has stopped, or this address is of an earlier start.";
const AGAIN = "start `easyroutine serve` again and open the address that it prints; what follows # may be kept";

/**
 * Asks one question. `hear` is given each event before the result: `waiting`, `progress`, `note`, `piece`. To abort `signal`
 * ends the work on the server too.
 */
export async function ask(question, { hear = () => {}, signal } = {}) {
  let response;
  try {
    response = await fetch("ask", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(GONE, AGAIN);
  }
  if (!response.ok) {
    const text = await response.text();
    throw new Refused(response.status === 403 ? GONE : text.trim(), response.status === 403 ? AGAIN : undefined);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [];
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refused(GONE, AGAIN);
    }
    if (read.done) throw new Refused(GONE, AGAIN);
    // A result may come in many pieces: they are joined once, at its end.
    const lines = read.value.split("\n");
    parts.push(lines.shift());
    while (lines.length > 0) {
      const event = JSON.parse(parts.join(""));
      parts = [lines.shift()];
      if (event.event === "result") return event;
      if (event.swapped) dispatchEvent(new CustomEvent("swapped", { detail: event }));
      if (event.event === "error") throw new Refused(event.message, event.hint);
      hear(event);
    }
  }
}

/**
 * Runs a command; its answer has `data`, the command as typed, and the same in Python. It names the model that the page shows:
 * where another window has loaded another one, the numbers of that would stand under the name of this.
 */
export const command = (words, options = {}, format = "page") => ask({ ask: "run", words, format, model: prompt.model?.reference }, options);
