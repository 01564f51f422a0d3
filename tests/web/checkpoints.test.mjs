// Opens the page of two checkpoints, made by the program (run.sh), in a real browser, from file://.
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { open as opened } from "./browser.mjs";

const shots = process.env.SHOTS;
const open = (use, options) => opened("checkpoints.html", use, options);

test("layers, heads, tensors and the worst positions are there", () =>
  open(async (page) => {
    const layers = await page.locator("#layers tbody tr").count();
    assert.equal(await page.locator("#layers tbody tr").last().locator("td").first().textContent(), "emb");
    // A row of heads for each layer.
    assert.equal(await page.locator("#heads tr").count(), layers - 1);
    assert.match(await page.locator("#patched").textContent(), /the whole difference is KL/);
    assert.ok((await page.locator("#tensors tbody tr").count()) > 5);
    assert.equal(await page.locator("#grid tbody tr").count(), layers - 1);
    assert.ok((await page.locator("#worst tbody tr").count()) > 2);
    assert.equal(await page.locator("#place tbody tr").count(), layers);
    if (shots) await page.screenshot({ path: path.join(shots, "checkpoints.png"), fullPage: true });
  }));

test("a click and the arrow keys choose a position", () =>
  open(async (page) => {
    const rows = page.locator("#worst tbody tr");
    const position = (n) => rows.nth(n).locator("td").nth(1).textContent();
    await rows.nth(1).click();
    assert.match(await page.locator("#place h3").textContent(), new RegExp(`position ${await position(1)}$`));
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    assert.match(await page.locator("#place h3").textContent(), new RegExp(`position ${await position(2)}$`));
    assert.equal(await rows.nth(2).getAttribute("aria-selected"), "true");
  }));

test("the page is readable in the dark and without scripts", async () => {
  await open(async (page) => {
    const before = await page.evaluate(() => document.documentElement.dataset.theme);
    await page.locator("#dark").click();
    assert.notEqual(await page.evaluate(() => document.documentElement.dataset.theme), before);
    if (shots) await page.screenshot({ path: path.join(shots, "checkpoints-dark.png"), fullPage: true });
  });
  await open(
    async (page) => assert.match(await page.locator("pre").textContent(), /emb/),
    { javaScriptEnabled: false, ready: "pre" },
  );
});
