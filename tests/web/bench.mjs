// From the start of `serve` to the first lens on SmolLM2, and how long the main thread is held up while 80 layers by 2,000
// tokens are scrolled: node bench.mjs PROGRAM [RUNS]. Prints the rows of docs/performance.md.
import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";
import { LAYERS, TOKENS, TRACED, openLarge, scroll, tasks } from "./large.mjs";

[, , process.env.PROGRAM] = process.argv;
const { serving } = await import("./server.mjs");
const runs = Number(process.argv[3] ?? 5);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--headless", "--no-sandbox", "--disable-gpu"] });
const starts = [];
for (let run = 0; run < runs; run += 1) {
  const begin = performance.now();
  await serving(["-m", "smollm2"], async (address) => {
    const page = await browser.newPage();
    await page.goto(`${address}#${new URLSearchParams({ prompt: "The capital of France is", views: "lens" })}`);
    await page.waitForSelector("body[data-ready=yes]");
    starts.push((performance.now() - begin) / 1000);
    await page.close();
  });
}
starts.sort((a, b) => a - b);
console.log(`from the start of serve to the first lens on SmolLM2, ${runs} times: ${starts[0].toFixed(2)} to ${starts.at(-1).toFixed(2)} s, median ${starts[Math.floor(runs / 2)].toFixed(2)} s`);

const file = path.join(tmpdir(), `scroll-${process.pid}.json`);
const longest = [];
const rates = [];
await serving([], async (address) => {
  for (let run = 0; run < runs; run += 1) {
    const page = await browser.newPage({ viewport: { width: 1440, height: 1000 } });
    await openLarge(page, address);
    await browser.startTracing(page, { path: file, categories: TRACED });
    rates.push(await scroll(page));
    await browser.stopTracing();
    const all = tasks(readFileSync(file, "utf8"));
    longest.push(all[0]);
    if (process.env.DETAILS) for (const task of all.slice(0, 4)) console.error(task.ms.toFixed(1), "ms, on the processor", task.cpu.toFixed(1), task.inside.map(([name, ms]) => `${name} ${ms.toFixed(1)}`).join(", "));
    await page.close();
  }
});
rmSync(file);
await browser.close();
const worst = longest.sort((a, b) => b.ms - a.ms)[0];
console.log(`scrolling ${LAYERS} layers by ${TOKENS.toLocaleString("en")} tokens, ${runs} times: longest task ${worst.ms.toFixed(0)} ms (${worst.cpu.toFixed(0)} ms on the processor), ${Math.min(...rates).toFixed(0)} to ${Math.max(...rates).toFixed(0)} frames a second`);
