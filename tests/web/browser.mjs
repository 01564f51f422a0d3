// A real browser for the tests of a page. PAGES names a folder with the pages (run.sh makes it).
import assert from "node:assert/strict";
import path from "node:path";
import { after, before } from "node:test";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export const folder = process.env.PAGES;
export let browser;

before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
});
after(() => browser.close());

/** The address of a page of the folder, or of a server. */
export const addressOf = (name) => (name.startsWith("http:") ? name : pathToFileURL(path.join(folder, name)).href);

/**
 * Opens a page, waits for `ready`, runs `use` on it, and fails on anything that left the page or went wrong in it.
 * `own` are beginnings of addresses that never leave it.
 */
export async function open(name, use, { ready = "body[data-ready=yes]", own = ["data:"], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light", ...options });
  const page = await context.newPage();
  const address = addressOf(name);
  const faults = [];
  page.on("request", (request) => {
    const url = request.url();
    if (url !== address && !own.some((beginning) => url.startsWith(beginning))) faults.push(`request: ${url}`);
  });
  page.on("console", (message) => faults.push(`console ${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => { faults.push("dialog"); dialog.dismiss(); });
  await page.goto(address);
  await page.waitForSelector(ready);
  await use(page);
  assert.deepEqual(faults, []);
  await context.close();
}
