// Opens the page of attention patterns in a real browser, from file://, and uses it as a reader would.
// PAGES names a folder with attention.html (run.sh makes it).
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { open as opened } from "./browser.mjs";

const shots = process.env.SHOTS;

const open = (use, options) => opened("attention.html", use, options);

const said = (page) => page.locator("#said").textContent();
/** Colour of a cell of the large picture, which has one pixel a cell. Read from a copy: reading the picture itself twice makes the browser warn. */
const pixel = (page, query, key) =>
  page.locator("#matrix").evaluate((canvas, [x, y]) => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    return [...copy.getImageData(x, y, 1, 1).data];
  }, [key, query]);

test("every head has a thumbnail, the last layer on top, and one is large", () =>
  open(async (page) => {
    assert.equal(await page.locator("#heads canvas").count(), 4);
    assert.deepEqual(await page.locator("#heads tbody th").allTextContents(), ["L1", "L0"]);
    assert.equal(await page.locator("#name").textContent(), "Layer 1, head 0");
    await page.locator('td[data-head="0,0"]').click();
    assert.equal(await page.locator("#name").textContent(), "Layer 0, head 0");
    assert.match(await said(page), /mean weight on the first token 0\.8/);
    if (shots) await page.screenshot({ path: path.join(shots, "attention.png"), fullPage: true });
  }));

test("hovering a cell names query, key and weight", () =>
  open(async (page) => {
    await page.locator('td[data-head="0,1"]').click();
    await page.locator("#matrix").hover({ position: { x: 2 * 44 + 5, y: 3 * 44 + 5 } });
    assert.match(await said(page), /\(3\) looks at ·cat \(2\): 0\.2500/);
    assert.equal(await page.locator(".now").count(), 2);
    await page.locator("#matrix").hover({ position: { x: 4 * 44 + 5, y: 5 } });
    assert.match(await said(page), /mean weight/, "there is nothing above the diagonal");
  }));

test("hiding the first token blanks its column and stretches the colours", () =>
  open(async (page) => {
    await page.locator('td[data-head="1,1"]').click();
    const before = await pixel(page, 4, 4);
    assert.equal((await pixel(page, 4, 0))[3], 255);
    await page.locator("#sink").check();
    assert.equal((await pixel(page, 4, 0))[3], 0);
    assert.notDeepEqual(await pixel(page, 4, 4), before);
    assert.match(await page.locator("#range").textContent(), /^0 to 0\.\d+$/);
    await page.keyboard.press("s");
    assert.deepEqual(await pixel(page, 4, 4), before);
  }));

test("the keyboard moves between heads", () =>
  open(async (page) => {
    await page.locator('td[data-head="1,0"]').focus();
    for (const [key, name] of [["ArrowRight", "Layer 1, head 1"], ["ArrowDown", "Layer 0, head 1"], ["ArrowDown", "Layer 0, head 1"], ["ArrowLeft", "Layer 0, head 0"]]) {
      await page.keyboard.press(key);
      assert.equal(await page.locator("#name").textContent(), name);
    }
    assert.equal(await page.locator('#heads td[tabindex="0"]').count(), 1);
  }));

test("a token that is markup stays text, and nothing hides", () =>
  open(async (page) => {
    assert.equal(await page.locator("img").count(), 0);
    assert.equal(await page.locator("script").count(), 2);
    assert.ok((await page.title()).startsWith("Attention"));
    const text = await page.locator(".side").textContent();
    assert.ok(text.includes("</script><img") && text.includes("\\u{202e}sat↵"), text);
  }));

test("dark mode follows the system and the button", () =>
  open(async (page) => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(await ground(), "rgb(20, 23, 28)");
    await page.locator("#dark").click();
    assert.equal(await ground(), "rgb(255, 255, 255)");
  }, { colorScheme: "dark" }));
