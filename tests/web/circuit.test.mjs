// Opens the page of a circuit in a real browser, from file://, and uses it as a reader would.
// PAGES names a folder with circuit.html (run.sh copies the one that the tests of the pictures expect).
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { open as opened } from "./browser.mjs";

const shots = process.env.SHOTS;

const open = (use) => opened("circuit.html", use, { ready: "#graph g.node" });

const name = (page) => page.locator("#name").textContent();

test("every node and edge is drawn, and resting on a node shows its edges", () =>
  open(async (page) => {
    assert.equal(await page.locator("#graph g.node").count(), 5);
    assert.equal(await page.locator("#graph path").count(), 6);
    await page.locator('#graph g.node[aria-label="a0.h1"]').hover();
    assert.equal(await name(page), "a0.h1");
    assert.deepEqual(await page.locator("#edges tr td:first-child").allTextContents(), ["input → a0.h1 v", "a0.h1 → m0", "a0.h1 → a1.h2 q"]);
    assert.equal(await page.locator("#graph path.off").count(), 3);
    await page.mouse.move(5, 5);
    assert.equal(await name(page), "No node chosen");
    if (shots) await page.screenshot({ path: path.join(shots, "circuit.png"), fullPage: true });
  }));

test("the slider and the keys hide small edges", () =>
  open(async (page) => {
    await page.locator("#least").fill("600");
    assert.match(await page.locator("#shown").textContent(), /: 3 of 6 edges$/);
    assert.equal(await page.locator("#graph path.gone").count(), 3);
    for (let i = 0; i < 24; i += 1) await page.keyboard.press("-");
    assert.match(await page.locator("#shown").textContent(), /: 6 of 6 edges$/);
  }));

test("arrows move between nodes, and Escape lets go", () =>
  open(async (page) => {
    await page.keyboard.press("ArrowUp");
    assert.equal(await name(page), "input");
    await page.keyboard.press("ArrowUp");
    assert.equal(await name(page), "a0.h1");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("ArrowDown");
    assert.equal(await name(page), "a0.h1");
    await page.keyboard.press("Escape");
    assert.equal(await name(page), "No node chosen");
  }));
