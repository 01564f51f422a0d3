// Opens the page of an attribution graph in a real browser, from file://, and uses it as a reader would.
// PAGES names a folder with graph.html (run.sh copies the one that the tests of the pictures expect).
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { open as opened } from "./browser.mjs";

const shots = process.env.SHOTS;

const open = (use, options = {}) => opened("graph.html", use, { ready: "#graph g.node", ...options });

const name = (page) => page.locator("#name").textContent();

const cells = (page, of) => page.locator(`#${of} tr td:first-child`).allTextContents();

test("every node and edge is drawn, and resting on a node shows what it comes from and leads to", () =>
  open(async (page) => {
    assert.equal(await page.locator("#graph g.node").count(), 9);
    assert.equal(await page.locator("#graph path.edge").count(), 6);
    await page.locator('#graph g.node[aria-label="feature 7 in layer 2 at 3"]').hover();
    assert.equal(await name(page), "feature 7 in layer 2 at 3");
    assert.deepEqual(await cells(page, "from"), ["feature 12 in layer 0 at 2", "error of layer 0 at 3"]);
    assert.deepEqual(await cells(page, "to"), ['logit " </script>"']);
    assert.match(await page.locator("#said").textContent(), /^value 0\.2500 · influence 0\.250 · at 3/);
    assert.equal(await page.locator("#graph path.off").count(), 3);
    if (shots) await page.screenshot({ path: path.join(shots, "graph.png"), fullPage: true });
    await page.mouse.move(5, 5);
    assert.equal(await name(page), "No node chosen");
  }));

test("the sliders and the keys hide nodes of little influence and small edges", () =>
  open(async (page) => {
    await page.locator("#nodes").fill("600");
    assert.match(await page.locator("#shown").textContent(), /^7 of 9 nodes .*: 3 of 6 edges$/);
    await page.locator("#least").fill("800");
    assert.match(await page.locator("#shown").textContent(), /: 1 of 6 edges$/);
    await page.locator("#nodes").blur();
    for (let i = 0; i < 16; i += 1) await page.keyboard.press("]");
    for (let i = 0; i < 32; i += 1) await page.keyboard.press("-");
    assert.match(await page.locator("#shown").textContent(), /^9 of 9 nodes .*: 6 of 6 edges$/);
  }));

test("arrows move between nodes, a click on a neighbour goes to it, and Escape lets go", () =>
  open(async (page) => {
    await page.keyboard.press("ArrowUp");
    assert.equal(await name(page), 'logit " </script>"');
    await page.keyboard.press("ArrowRight");
    assert.equal(await name(page), 'logit "b"');
    await page.keyboard.press("ArrowDown");
    assert.equal(await name(page), "feature 7 in layer 2 at 3");
    await page.locator("#from button").first().click();
    assert.equal(await name(page), "feature 12 in layer 0 at 2");
    await page.keyboard.press("ArrowUp");
    assert.equal(await name(page), "feature 7 in layer 2 at 3");
    await page.keyboard.press("Escape");
    assert.equal(await name(page), "No node chosen");
  }));

for (const colorScheme of ["light", "dark"]) {
  test(`on a narrow ${colorScheme} screen nothing but the picture scrolls sideways`, () =>
    open(
      async (page) => {
        const [wide, view] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
        assert.ok(wide <= view, `${wide} of ${view}`);
        const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        assert.equal(ground === "rgb(255, 255, 255)", colorScheme === "light");
        if (shots) await page.screenshot({ path: path.join(shots, `graph-400-${colorScheme}.png`), fullPage: true });
      },
      { viewport: { width: 400, height: 800 }, colorScheme },
    ));
}
