// A lens of many layers and tokens, as the server sends one, and a page that shows it and is scrolled.

export const [LAYERS, TOKENS] = [80, 2000];

function lens(layers, tokens) {
  const vocab = Array.from({ length: 500 }, (_, i) => [i, ` word${i}`]);
  const cell = (i, j) => [j % 7 === 0 ? 1 : 0, [(i * 31 + j) % 500, -0.5, (i + j) % 500, -2, (i * j) % 500, -3], 1.5, 0.2, 3, -((i * 13 + j * 7) % 50) / 10, null];
  const rows = Array.from({ length: layers }, (_, i) => ({ layer: layers - 1 - i, name: `resid_out_${layers - 1 - i}`, label: String(layers - 1 - i), cells: Array.from({ length: tokens }, (_, j) => cell(i, j)) }));
  const all = Array.from({ length: tokens }, (_, j) => ({ position: j, id: j % 500, text: ` word${j % 500}` }));
  const palette = ["#00224e", "#7c7b78", "#fee838"];
  const report = { report: {}, title: "", lines: [], positions: all.map((t) => t.position), right: all.map(() => false), finals: all.map((_, j) => j % 500), tracked: null, rows, metrics: [{ key: "final", words: "probability", ticks: ["0%", "100%"], dark: 0, bright: 1, log: false }], palette, vocab };
  return { lens: report, run: { tokens: all, top: [{ id: 1, text: " word1", probability: 0.5, logprob: -0.7 }], entropy: 1 } };
}

/** Answers the page's questions with the large lens, and opens it. */
export async function openLarge(page, address) {
  const data = lens(LAYERS, TOKENS);
  const state = { version: "", model: { name: "large", n_layers: LAYERS, n_heads: 64, notes: [], context: 4096, d_model: 1, model_type: "x", dtype: "f32" }, problem: null, base: null, features: [] };
  await page.route("**/ask", (route) => {
    const question = route.request().postDataJSON();
    const answer = question.ask === "state" ? state : question.words[0] === "lens" ? data.lens : data.run;
    return route.fulfill({ contentType: "application/x-ndjson", body: `${JSON.stringify({ event: "result", data: answer, command: "easyroutine", python: null })}\n` });
  });
  await page.goto("about:blank");
  await page.goto(`${address}#${new URLSearchParams({ prompt: "long", views: "lens" })}`);
  await page.waitForSelector("body[data-ready=yes]", { timeout: 30_000 });
}

/** Scrolls table and tokens from end to end, a step a frame; frames a second. */
export const scroll = (page) => page.evaluate(async () => {
  const heat = document.querySelector("#view-lens .heat");
  const strip = document.querySelector(".strip");
  const begin = performance.now();
  for (let step = 0; step < 120; step += 1) {
    heat.scrollLeft = (step * heat.scrollWidth) / 120;
    heat.scrollTop = (step * 17) % heat.scrollHeight;
    strip.scrollLeft = (step * strip.scrollWidth) / 120;
    await new Promise(requestAnimationFrame);
  }
  return 120 / ((performance.now() - begin) / 1000);
});

/** What is traced: the tasks of the threads, and what is done in them. */
export const TRACED = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline", "v8", "blink", "cc"];

/** What a Chromium trace says of the main thread: the tasks, the longest first, each with what took longest in it. */
export function tasks(trace) {
  const { traceEvents: events } = JSON.parse(trace);
  const main = new Set(events.filter((one) => one.name === "thread_name" && one.args.name === "CrRendererMain").map((one) => `${one.pid} ${one.tid}`));
  const own = events.filter((one) => one.ph === "X" && main.has(`${one.pid} ${one.tid}`));
  const all = own.filter((one) => /RunTask$/.test(one.name)).sort((a, b) => b.dur - a.dur);
  return all.map((task) => {
    const inside = own.filter((one) => one !== task && one.tid === task.tid && one.pid === task.pid && one.ts >= task.ts && one.ts + one.dur <= task.ts + task.dur);
    const by = new Map();
    for (const one of inside) by.set(one.name, (by.get(one.name) ?? 0) + one.dur / 1000);
    return { ms: task.dur / 1000, cpu: (task.tdur ?? NaN) / 1000, inside: [...by].sort((a, b) => b[1] - a[1]).slice(0, 6) };
  });
}
