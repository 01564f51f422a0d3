// Opens the page of 20,000 features in a real browser, from file://, and uses it as a reader would.
// PAGES names a folder with features.html and features/ (run.sh makes them of what features.mjs writes).
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { addressOf, open as opened } from "./browser.mjs";

const shots = process.env.SHOTS;

const open = (use, options) => opened("features.html", use, options);

const shown = (page) => page.locator("#found").textContent();
const card = (page) => page.locator("#card h2").textContent();
const rows = (page) => page.locator("#list .feature-row");
const first = (page) => rows(page).first().locator("span").first().textContent();

/** Milliseconds that a change takes until the index is drawn again. */
const timed = (page, id, value, kind) =>
  page.evaluate(
    ([id, value, kind]) => {
      const start = performance.now();
      const node = document.getElementById(id);
      node.value = value;
      node.dispatchEvent(new Event(kind));
      document.getElementById("list").getBoundingClientRect();
      return performance.now() - start;
    },
    [id, value, kind],
  );

test("the index lists all features, holds only those in sight, and shows the first", () =>
  open(async (page) => {
    assert.equal(await shown(page), "20000 of 20000 features");
    assert.ok((await rows(page).count()) < 100);
    assert.equal(await card(page), "Feature 0");
    assert.match(await page.locator("#card").textContent(), /active on no token/);
    if (shots) await page.screenshot({ path: path.join(shots, "features.png"), fullPage: true });
  }));

test("search finds a token or a number, and says where nothing is", () =>
  open(async (page) => {
    const took = await timed(page, "find", "unmistakable", "input");
    assert.ok(took < 500, `${took} ms`);
    assert.equal(await shown(page), "1 of 20000 features");
    assert.equal(await card(page), "Feature 12345");
    await page.locator("#find").fill("777");
    assert.equal(await card(page), "Feature 777");
    await page.locator("#find").fill("no such token");
    assert.equal(await shown(page), "0 of 20000 features");
    assert.match(await page.locator("#card").textContent(), /No feature has this/);
    await page.locator("#find").fill("");
    assert.equal(await shown(page), "20000 of 20000 features");
  }));

test("the index sorts by number, frequency and value, within a frame or two", () =>
  open(async (page) => {
    const took = await timed(page, "sort", "frequency", "change");
    assert.ok(took < 500, `${took} ms`);
    assert.equal(await first(page), "1");
    await page.locator("#sort").selectOption("max");
    assert.equal(await first(page), "976");
    await page.locator("#sort").selectOption("feature");
    assert.equal(await first(page), "0");
  }));

test("scrolling to the end reaches the last feature, and a click chooses it", () =>
  open(async (page) => {
    await page.locator("#list").evaluate((list) => { list.scrollTop = list.scrollHeight; });
    const last = rows(page).last();
    await last.locator("span", { hasText: "19999" }).first().waitFor();
    await last.click();
    assert.equal(await card(page), "Feature 19999");
    assert.equal(await page.locator("#card .example").count(), 2);
    assert.equal(await page.locator("#card .bins i[title]").count() > 2, true);
    assert.deepEqual(await page.locator("#card table").first().locator("td").allTextContents(), ["·dog", "2.5"]);
  }));

test("arrows move, / searches, and an address names a feature", () =>
  open(async (page) => {
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("PageDown");
    assert.equal(await card(page), "Feature 21");
    await page.keyboard.press("/");
    assert.equal(await page.evaluate(() => document.activeElement.id), "find");
    await page.goto("about:blank");
    await page.goto(`${addressOf("features.html")}#12000`);
    assert.equal(await card(page), "Feature 12000");
  }, { own: ["data:", "about:", addressOf("features.html")] }));

test("tokens are text, never elements", () =>
  open(async (page) => {
    await page.locator("#find").fill("bold");
    assert.equal(await page.locator("#card b b, #list b").count(), 0);
    assert.match(await page.locator("#list").textContent(), /<b>bold<\/b>/);
  }));

// The same features as a folder, whose cards are loaded from disk.
const own = ["data:", addressOf("features/chunks/")];
const openFolder = (use, options) => opened("features/index.html", use, { own, ...options });
const loaded = (page, number) => page.locator("#card:has(.feature-facts) h2", { hasText: new RegExp(`^Feature ${number}$`) }).waitFor();

test("a folder searches and sorts all features, and loads only what is chosen", () => {
  const scripts = new Set();
  return openFolder(async (page) => {
    page.on("request", (request) => scripts.add(request.url().split("/").pop()));
    await loaded(page, 0);
    assert.equal(await shown(page), "20000 of 20000 features");
    const took = await timed(page, "find", "unmistakable", "input");
    assert.ok(took < 500, `${took} ms`);
    await loaded(page, 12345);
    assert.deepEqual(await page.locator("#card table").first().locator("td").allTextContents(), ["·unmistakable", "2.5"]);
    assert.deepEqual([...scripts], [`${Math.floor(12345 / 256)}.js`]);
    await page.locator("#find").fill("");
    await page.locator("#sort").selectOption("max");
    assert.equal(await first(page), "976");
    await loaded(page, 976);
    assert.equal(await page.locator("#card .example").count(), 2);
    if (shots) await page.screenshot({ path: path.join(shots, "features-folder.png"), fullPage: true });
  });
});

test("an address names a feature of a folder, and keys move through its files", () =>
  openFolder(async (page) => {
    await page.goto("about:blank");
    await page.goto(`${addressOf("features/index.html")}#12000`);
    await loaded(page, 12000);
    for (let i = 0; i < 40; i += 1) await page.keyboard.press("PageDown");
    await loaded(page, 12800);
  }, { own: [...own, "about:", addressOf("features/index.html")] }));

test("tokens of a folder are text, never elements", () =>
  openFolder(async (page) => {
    await page.locator("#find").fill("bold");
    await page.locator("#card .feature-facts").waitFor();
    assert.equal(await page.locator("#card b b, #list b").count(), 0);
    assert.match(await page.locator("#card").textContent(), /<b>bold<\/b>/);
  }));
