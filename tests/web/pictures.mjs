// Takes the pictures of the book's first chapter, from the folder of the repository:
// PROGRAM=… MODEL=fixtures/tiny/llama node tests/web/pictures.mjs FOLDER smollm2
// MODEL's neighbours have the dictionaries that smollm2 lacks. The pictures are looked at, made small and committed by hand.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";
import { model as tiny, program, serving } from "./server.mjs";

const [, , folder, smollm2] = process.argv;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--headless", "--no-sandbox", "--disable-gpu"] });
const base = mkdtempSync(path.join(tmpdir(), "pictures-"));

/** Opens the page, presses the buttons of long questions, and takes a picture of each view. */
async function take(args, parts, views, before = async () => {}) {
  await serving(args, async (address) => {
    const context = await browser.newContext({ viewport: { width: 700, height: 900 }, colorScheme: "light" });
    const page = await context.newPage();
    await page.goto(`${address}#${new URLSearchParams({ views: "", ...parts })}`);
    await page.waitForSelector("body[data-ready=yes]", { timeout: 300_000 });
    for (const [id, name] of views) {
      const view = page.locator(`#view-${id}`);
      if (!(await view.count())) await page.locator(`[data-view="${id}"]`).click();
      const long = view.locator("> .controls > .strong");
      if (await long.count()) await long.click();
      await page.waitForFunction((of) => {
        const panel = document.querySelector(of);
        return panel && !panel.hasAttribute("aria-busy") && panel.querySelector(".body").children.length > 0;
      }, `#view-${id}`, { timeout: 580_000 });
      await before(page, id);
      await page.mouse.move(0, 0);
      // A picture of a book is a glance.
      await view.evaluate((panel) => panel.querySelectorAll(".heat, .sheet, .rows").forEach((one) => { one.style.maxHeight = one.className === "sheet" ? "440px" : "300px"; }));
      await page.waitForTimeout(150);
      await view.screenshot({ path: path.join(folder, `${name}.png`) });
      if (!parts.page) await page.locator(`[data-view="${id}"]`).click();
    }
    await context.close();
  });
}

const france = { prompt: "The capital of France is", base: "The capital of Italy is" };
await take(["-m", smollm2], { ...france, layer: "23", head: "4" }, [["lens", "lens"], ["next", "next"], ["attention", "attention"], ["direct", "direct"], ["generation", "generation"]]);
await take(["-m", smollm2], { ...france, estimate: "yes", edges: "60" }, [["attribution", "attribution"], ["patch", "patching"], ["ablate", "ablation"], ["circuit", "circuit"]]);
const [gpt2, dictionaries] = [path.join(tiny, "../gpt2"), path.join(tiny, "../../dictionaries")];
const sae = `sae=${path.join(dictionaries, "saelens_standard")}`;
writeFileSync(`${base}/prompts.txt`, "the cat sat on the mat\nthe dog sat on the cat\nhello there\n");
execFileSync(program, ["features", "--file", `${base}/prompts.txt`, "-m", gpt2, "--dict", sae, "--top", "5", "--drawn", "0", "-o", `${base}/features`], { stdio: "ignore" });
await take(["-m", gpt2, "--features", `${base}/features`], { prompt: "the cat sat", dicts: sae, transcoders: path.join(dictionaries, "circuit_tracer_plt") }, [["features", "features"], ["graph", "graph"]]);
await take(["--features", `${base}/features`], { page: "features", feature: "features_sae:61" }, [["feature", "feature"]]);
execFileSync(program, ["extract", france.prompt, "-m", smollm2, "-a", "resid_out_*", "--positions", "all", "-o", `${base}/runs/`, "--tag", "pilot"], { stdio: "ignore" });
await take(["-m", smollm2, "--base", `${base}/runs`], { page: "runs", key: "resid_out_24" }, [["runs", "runs"], ["tensor", "tensor"]], async (page, id) => {
  if (id !== "runs") return;
  await page.locator(".run").first().click();
  await page.waitForFunction(() => !document.querySelector("[aria-busy=true]"));
  await page.locator("#view-run .list button", { hasText: /^resid_out_24$/ }).click();
  await page.locator("#view-tensor button", { hasText: "Through the lens" }).click();
  await page.waitForFunction(() => !document.querySelector("[aria-busy=true]"));
});
await browser.close();
rmSync(base, { recursive: true });
