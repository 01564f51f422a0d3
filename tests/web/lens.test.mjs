// Opens pages of the logit lens in a real browser, from file://, and uses them as a reader would.
// PAGES names a folder with capitals.html and hostile.html (run.sh makes it).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { addressOf, browser, folder, open as opened } from "./browser.mjs";

const shots = process.env.SHOTS;
const report = JSON.parse(readFileSync(process.env.REPORT, "utf8"));

// What the page makes itself and hands to the reader never leaves it.
const OWN = ["data:", "blob:"];
const open = (name, use, options) =>
  opened(name, use, { viewport: { width: 1440, height: 960 }, own: OWN, ...options });

const cell = (page, row, column) => page.locator(`td[data-row="${row}"][data-column="${column}"]`);
const ground = (locator) => locator.evaluate((node) => getComputedStyle(node).backgroundColor);
const shot = (page, name) => shots && page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });
/** Rows of the table begin with the final layer. */
const at = (row, column) => report.layers[report.layers.length - 1 - row].positions[column];
const shown = (text) => text.replace(/^ /, "·").replace("\n", "↵");

test("the whole table is there, each cell with its top token", () =>
  open("capitals.html", async (page) => {
    assert.equal(await page.locator("#lens td").count(), report.layers.length * report.tokens.length);
    for (const [row, column] of [[0, 0], [0, 12], [7, 3], [30, 5]]) {
      assert.equal(await cell(page, row, column).textContent(), shown(at(row, column).top[0].text));
    }
    assert.equal(await page.locator("#lens tbody th").first().textContent(), "29");
    assert.equal(await page.locator("#lens tbody th").last().textContent(), "emb");
    assert.match(await page.locator("header").textContent(), /SmolLM2.*resid_out.*own statistics.*no BOS/s);
    assert.equal(await page.locator("#lens td.same").count() > 60, true);
    await shot(page, "light");
  }));

test("hovering a cell shows its candidates and numbers", () =>
  open("capitals.html", async (page) => {
    const tip = page.locator("#tip");
    assert.equal(await tip.isVisible(), false);
    await cell(page, 3, 12).hover();
    assert.equal(await tip.isVisible(), true);
    const expected = at(3, 12).top;
    const rows = tip.locator("tr");
    assert.equal(await rows.count(), expected.length);
    assert.equal(await rows.first().locator("td").first().textContent(), shown(expected[0].text));
    assert.equal(await rows.first().locator("td.n").textContent(), `${(Math.exp(expected[0].logprob) * 100).toFixed(1)}%`);
    const widths = await tip.locator("i").evaluateAll((bars) => bars.map((bar) => bar.getBoundingClientRect().width));
    assert.ok(widths[0] > widths[1] && widths[1] > 0, `${widths}`);
    const text = await tip.textContent();
    assert.match(text, /layer 26 after ·is \(position 12\)/);
    assert.ok(text.includes(`entropy${at(3, 12).entropy.toFixed(3)} nats`), text);
    assert.ok(text.includes(`KL(final ‖ layer)${at(3, 12).kl_to_final.toFixed(3)} nats`), text);
    await cell(page, 5, 3).hover();
    assert.ok((await tip.textContent()).includes(`rank of ·is (next)${at(5, 3).rank_of_next}`));
    await shot(page, "hover");
    await page.mouse.move(2, 2);
    assert.equal(await tip.isVisible(), false);
  }));

test("another metric gives other colours and another legend", () =>
  open("capitals.html", async (page) => {
    // Another token than the tracked one, which is pinned from the start.
    await cell(page, 0, 4).click();
    const seen = new Set();
    const legends = new Set();
    const options = await page.locator("#metric option").allTextContents();
    assert.equal(options[0], "probability of the final layer's top token");
    assert.equal(options.length, 7, "six metrics and the pinned token");
    for (let i = 0; i < options.length; i += 1) {
      await page.locator("#metric").selectOption(String(i));
      seen.add(await page.locator("#lens td").evaluateAll((cells) => cells.map((c) => c.style.backgroundColor).join()));
      legends.add(await page.locator(".scale").getAttribute("data-metric"));
    }
    assert.equal(seen.size, options.length);
    assert.equal(legends.size, options.length);
    await page.locator("#metric").selectOption("2");
    assert.deepEqual(await page.locator(".ticks span").allTextContents(), ["≥10k", "1k", "100", "10", "1"]);
    // Rank 1 is the bright end of the scale, and no rank (after the last token) is no colour of it.
    assert.equal(at(0, 4).rank_of_next, 1);
    assert.equal(await ground(cell(page, 0, 4)), "rgb(254, 232, 56)");
    assert.equal(await cell(page, 0, 12).evaluate((node) => node.style.backgroundColor), "");
    await page.locator("body").press("1");
    assert.equal(await page.locator("#metric").inputValue(), "0");
    await page.locator("body").press("m");
    assert.equal(await page.locator("#metric").inputValue(), "1");
  }));

test("the keyboard moves between cells and shows each", () =>
  open("capitals.html", async (page) => {
    await cell(page, 0, 12).focus();
    const focused = () => page.evaluate(() => [document.activeElement.dataset.row, document.activeElement.dataset.column].map(Number));
    for (const [key, place] of [
      ["ArrowDown", [1, 12]], ["ArrowLeft", [1, 11]], ["ArrowUp", [0, 11]], ["ArrowUp", [0, 11]], ["Home", [0, 0]],
      ["ArrowLeft", [0, 0]], ["PageDown", [30, 0]], ["End", [30, 12]], ["ArrowRight", [30, 12]], ["PageUp", [0, 12]],
    ]) {
      await page.keyboard.press(key);
      assert.deepEqual(await focused(), place, key);
    }
    assert.match(await page.locator("#tip").textContent(), /layer 29 after ·is/);
    // One cell at a time is in the tab order, and it has a name.
    assert.equal(await page.locator('#lens td[tabindex="0"]').count(), 1);
    assert.match(await cell(page, 0, 12).getAttribute("aria-label"), /layer 29, position 12: ·Rome .*same as the final layer/);
    const outline = await cell(page, 0, 12).evaluate((node) => getComputedStyle(node).outlineStyle);
    assert.equal(outline, "solid");
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("#tip").isVisible(), false);
  }));

test("a pinned token draws its way through the layers", () =>
  open("capitals.html", async (page) => {
    const lines = page.locator(".chart .line");
    assert.equal(await lines.count(), 1, "the last prediction is there from the start");
    await cell(page, 0, 4).click();
    assert.equal(await lines.count(), 2);
    assert.ok((await page.locator(".pins").textContent()).includes("·Paris"));
    // The final layer's token is known in every layer: 31 points, highest where its probability is.
    const points = await page.locator(".chart circle.s1.known").evaluateAll((all) => all.map((c) => Number(c.getAttribute("cy"))));
    assert.equal(points.length, report.layers.length);
    const expected = report.layers.map((layer) => Math.exp(layer.positions[4].logprob_of_final_top));
    const best = expected.indexOf(Math.max(...expected));
    assert.equal(points.indexOf(Math.min(...points)), best);
    await cell(page, 12, 8).focus();
    await page.keyboard.press("Enter");
    assert.equal(await lines.count(), 3);
    assert.ok(await page.locator(".chart circle.atmost").count() > 0, "outside the top-k only a bound is known");
    await shot(page, "pinned");
    for (let i = 0; i < 9; i += 1) await cell(page, 6 + i, i).click();
    assert.ok(await lines.count() <= 6);
    for (let left = await lines.count(); left > 0; left -= 1) await page.locator(".pins button").first().click();
    assert.equal(await lines.count(), 0);
  }));

test("layers can be skipped and the table turned", () =>
  open("capitals.html", async (page) => {
    await page.locator("#stride").selectOption("5");
    assert.deepEqual(await page.locator("#lens tbody th").allTextContents(), ["29", "24", "19", "14", "9", "4", "emb"]);
    await page.locator("#turn").click();
    assert.deepEqual((await page.locator("#lens thead th").allTextContents()).slice(1, -1), ["emb", "4", "9", "14", "19", "24", "29"]);
    assert.equal(await page.locator("#lens tbody tr").count(), 13);
    await cell(page, 0, 12).focus();
    await page.keyboard.press("ArrowLeft");
    assert.equal(await page.evaluate(() => document.activeElement.dataset.row), "5");
    await shot(page, "turned");
  }));

test("dark mode follows the system and the button", async () => {
  const dark = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await open("capitals.html", async (page) => {
    assert.equal(await dark(page), "rgb(20, 23, 28)");
    await cell(page, 4, 6).hover();
    await shot(page, "dark");
    await page.locator("#dark").click();
    assert.equal(await dark(page), "rgb(255, 255, 255)");
  }, { colorScheme: "dark" });
  await open("capitals.html", async (page) => {
    assert.equal(await dark(page), "rgb(255, 255, 255)");
    await page.emulateMedia({ colorScheme: "dark" });
    await page.waitForSelector("html[data-theme=dark]");
    assert.equal(await dark(page), "rgb(20, 23, 28)");
  });
});

test("exports hold what was shown", () =>
  open("capitals.html", async (page) => {
    const save = async (name) => {
      const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name, exact: true }).click()]);
      const file = path.join(folder, `export.${name.toLowerCase()}`);
      await download.saveAs(file);
      return readFileSync(file);
    };
    assert.deepEqual(JSON.parse(await save("JSON")), report);
    const csv = (await save("CSV")).toString().trim().split("\r\n");
    assert.equal(csv.length, 1 + report.layers.length * report.tokens.length);
    assert.ok(csv[0].startsWith("layer,name,position,token,next,top_id,top,logprob"));
    assert.match((await save("SVG")).toString(), /Colour: probability of [^<]*Rome/, "a page with a tracked token begins with it");
    await page.locator("#metric").selectOption("0");
    const svg = (await save("SVG")).toString();
    assert.ok(svg.startsWith("<svg") && svg.includes("·Paris") && svg.includes("Colour: probability of the final"));
    const png = await save("PNG");
    assert.equal(png.subarray(1, 4).toString(), "PNG");
    assert.ok(png.readUInt32BE(16) > 1200, "two pixels a unit");
  }));

test("a token that is markup stays text", () =>
  open("hostile.html", async (page) => {
    const markup = "</script><img src=x onerror=\"document.title='owned'\">";
    assert.equal(await page.locator("img").count(), 0);
    assert.equal(await page.locator("script").count(), 2);
    assert.ok((await page.title()).startsWith("Logit lens"));
    assert.equal(await cell(page, 3, 0).textContent(), markup);
    await cell(page, 3, 0).hover();
    assert.equal(await page.locator("#tip tr td").first().textContent(), markup);
    await cell(page, 3, 0).click();
    assert.ok((await page.locator("#metric").textContent()).includes(markup));
    // Bidi and zero-width characters are shown, not obeyed; three of them stand in other tokens.
    const text = await page.locator("#lens").textContent();
    assert.ok(text.includes("\\u{202e}\\u{2066}gnp.exe␛]0;x␇") && text.includes("👩\\u{200d}💻") && text.includes("中文字"));
    assert.ok(!/[\u202e\u2066\u200d\u001b]/.test(await page.locator("body").innerText()));
    await shot(page, "hostile");
  }));

test("what is not a number is marked", () =>
  open("hostile.html", async (page) => {
    assert.equal(await page.locator("#lens td.nan").count(), 1);
    assert.equal(await page.locator("#lens td.nan").textContent(), "NaN");
    assert.ok((await page.locator("#legend").textContent()).includes("not a number"));
    await page.locator("#metric").selectOption({ label: "KL(final ‖ layer), in nats" });
    assert.equal(await page.locator("#lens td.nan").count(), 2);
  }));

test("without scripts a plain table remains", async () => {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto(addressOf("capitals.html"));
  const rows = page.locator("noscript tr");
  assert.equal(await rows.count(), 1 + report.layers.length);
  assert.ok((await rows.nth(1).textContent()).includes("·Rome"));
  await context.close();
});
