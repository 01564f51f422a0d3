// Uses the page of `easyroutine serve` as a reader would, against the real program and a small model.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { browser, open as opened } from "./browser.mjs";
import { TRACED, openLarge, scroll, tasks } from "./large.mjs";
import { model, printed, program, serving } from "./server.mjs";

const shots = process.env.SHOTS;
const PROMPT = "the cat sat on the mat";
const shot = (page, name) => shots && page.screenshot({ path: path.join(shots, `serve-${name}.png`), fullPage: true });
const hash = (parts) => `#${new URLSearchParams(parts)}`;
const READY = "body[data-ready=yes]";
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Opens the page with this behind #; anything that leaves the server's own address is a fault. */
const open = (address, parts, use, options = {}) =>
  opened(address + hash(parts), use, { own: [address, "blob:", "data:"], viewport: { width: 1440, height: 1000 }, ready: READY, ...options });

const settled = async (page) => {
  await page.waitForFunction(() => !document.querySelector("[aria-busy=true]"));
};

async function accessible(page, what) {
  // A string that is evaluated is not held to the page's policy, as a script in it would be.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html).slice(0, 3)]), [], what);
}

test("a prompt is typed and every layer's prediction appears", () =>
  serving(["-m", model], (address) =>
    open(address, {}, async (page) => {
      await page.locator("#model b").waitFor();
      assert.equal(await page.locator("#model b").textContent(), "llama");
      await page.locator("#prompt").fill(PROMPT);
      await page.keyboard.press("Control+Enter");
      await page.waitForSelector(READY);
      const report = printed("lens", "-m", model, PROMPT);
      const last = report.layers.at(-1).positions.at(-1);
      const side = page.locator("#view-lens aside");
      assert.equal(await side.locator("tr").first().locator(".n").textContent(), `${(100 * Math.exp(last.top[0].logprob)).toFixed(1)}%`);
      assert.ok((await side.textContent()).includes(`entropy${last.entropy.toFixed(3)} nats`));
      assert.equal(await page.locator(".strip button").count(), report.tokens.length);
      // The colours of a cell are drawn: not one colour alone stands on the canvas.
      const colours = await page.locator("#view-lens canvas").last().evaluate((canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(Array.from({ length: data.length / 4 }, (_, i) => data.slice(4 * i, 4 * i + 3).join())).size;
      });
      assert.ok(colours > 20, `${colours}`);
      await shot(page, "lens");
    }, { ready: "#model" })));

test("the prompt of an address is asked before the server has told of its model", () =>
  serving(["-m", model], (address) =>
    open(address, {}, async (page) => {
      let read;
      const asked = new Promise((done) => { read = done; });
      const questions = [];
      await page.route("**/ask", async (route) => {
        const { ask, words } = route.request().postDataJSON();
        questions.push(ask === "run" ? words[0] : ask);
        if (words?.[0] === "run") read();
        if (ask === "state") await asked;
        await route.continue();
      });
      await page.goto("about:blank");
      await page.goto(address + hash({ prompt: PROMPT, views: "next" }));
      await page.waitForSelector(READY);
      assert.deepEqual(questions, ["state", "run"], "and asked once");
    }, { ready: "#model" })));

test("one choice of token, layer and head moves every view, and stands in the address", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT }, async (page) => {
      await page.locator(".strip button").nth(2).click();
      await settled(page);
      assert.match(await page.locator("#view-lens .where").textContent(), /position 2/);
      assert.match(await page.locator("#view-attention .grow .hint").textContent(), /\(2\) looks at/);
      assert.match(await page.locator("#view-direct .body p").first().textContent(), /at position 2/);
      await page.locator("#view-attention .thumbnails button").nth(3).click();
      assert.equal(await page.locator("#view-attention h3").first().textContent(), "Layer 2, head 3");
      assert.match(page.url(), /position=2/);
      assert.match(page.url(), /head=3/);
      // A cell of the lens chooses its layer: the keys walk to it.
      await page.locator("#view-lens .heat").focus();
      await page.keyboard.press("ArrowDown");
      await page.keyboard.press("ArrowLeft");
      assert.match(await page.locator("#said").textContent(), /^layer 1, position 1/);
      await page.keyboard.press("Enter");
      await settled(page);
      assert.match(await page.locator("#view-attention h3").first().textContent(), /^Layer 1, head 3/);
      const kept = page.url();
      await page.reload();
      await page.waitForSelector(READY);
      assert.equal(page.url(), kept);
      assert.match(await page.locator("#view-lens .where").textContent(), /layer 1 after .*position 1/);
      await shot(page, "linked");
    })));

test("a change is added and removed, and shown against the unchanged run", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT, views: "next", look: "changed" }, async (page) => {
      const text = "attn_out_1@all=0";
      await page.locator("#change").fill(text);
      await page.keyboard.press("Enter");
      await settled(page);
      assert.deepEqual(await page.locator(".chips code").allTextContents(), [text]);
      const changed = printed("run", "-m", model, "-k", "12", "--intervene", text, PROMPT).top;
      const shown = await page.locator("#view-next tbody tr").first().locator(".n").allTextContents();
      assert.equal(shown[0], `${(100 * changed[0].probability).toFixed(changed[0].probability < 0.1 ? 2 : 1)}%`);
      assert.equal(shown.length, 2, "beside it stands the unchanged run");
      await page.locator('[data-view="lens"]').click();
      await settled(page);
      await page.locator("#view-lens select").nth(1).selectOption("difference");
      assert.match(await page.locator("#view-lens .legend").textContent(), /change of the probability of/);
      assert.match(await page.locator("#view-lens aside").textContent(), /, unchanged/);
      await shot(page, "changed");
      await page.locator(".chips button").click();
      await settled(page);
      assert.equal(await page.locator("#view-next tbody tr").first().locator(".n").count(), 1);
      // What is no intervention is said where it is asked, and takes nothing else along.
      await page.locator("#change").fill("resid_outt_1@all=0");
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => document.querySelector("#view-next .fault").textContent.includes("did you mean"));
    })));

test("the changed run, the unchanged one or the difference is chosen in each view that shows them", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT, views: "attention" }, async (page) => {
      const which = page.locator("#view-attention select").first();
      assert.equal(await which.isVisible(), false, "without changes there is one run");
      await page.locator("#change").fill("attn_out_0@all=0");
      await page.keyboard.press("Enter");
      await settled(page);
      assert.equal(await page.locator("#view-attention .legend").textContent(), "01attention");
      await which.focus();
      await which.selectOption("difference");
      assert.match(await page.locator("#view-attention .legend").textContent(), /^-0\.\d\d0\+0\.\d\dattention with the changes less that without$/);
      assert.equal(await which.evaluate((select) => document.activeElement === select), true, "a choice keeps its focus");
      for (const id of ["direct", "lens"]) await page.locator(`[data-view="${id}"]`).click();
      await settled(page);
      const chosen = await page.locator("#view-direct select, #view-lens select").evaluateAll((all) => all.map((select) => select.value));
      assert.equal(chosen.filter((value) => value === "difference").length, 2);
      assert.match(await page.locator("#view-direct .legend").textContent(), /the changes make it write more/);
      assert.equal(await page.locator("#view-direct .notes li").count(), 0, "what the view says is no note beside it");
      const colour = page.locator("#view-lens select").first();
      await colour.focus();
      await colour.selectOption("entropy");
      assert.equal(await colour.evaluate((select) => document.activeElement === select), true);
      // The middle of a scale from blue to orange is the ground of the theme.
      const middle = () => page.locator("#view-attention .legend canvas").evaluate((ramp) => {
        const pen = document.createElement("canvas").getContext("2d");
        pen.drawImage(ramp, 0, 0);
        return pen.getImageData(110, 5, 1, 1).data[0];
      });
      assert.ok((await middle()) > 200);
      await page.locator("#dark").click();
      assert.ok((await middle()) < 100, "legends follow the theme");
    })));

test("patching, ablation, attribution and circuits run at a press, with the numbers of the commands", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT, base: "the dog sat on the mat" }, async (page) => {
      const names = ["Attribution", "Patching", "Ablation", "Circuit"];
      for (const name of names) await page.locator(".views button", { hasText: new RegExp(`^${name}$`) }).click();
      for (const id of ["attribution", "patch", "ablate"]) {
        await page.locator(`#view-${id} .strong`).click();
        await page.locator(`#view-${id} .same:not([hidden])`).waitFor();
      }
      const grid = printed("patch", "-m", model, "--base", "the dog sat on the mat", PROMPT);
      await page.locator("#view-patch .heat").focus();
      await page.keyboard.press("Home");
      const value = grid.values.at(-1)[0] - grid.unchanged;
      assert.ok((await page.locator("#said").textContent()).endsWith(`effect ${value > 0 ? "+" : ""}${value.toFixed(3)}`));
      await page.locator("#view-circuit .strong").click();
      await settled(page);
      const { edges } = printed("edges", "-m", model, "--base", "the dog sat on the mat", "--top", "200", PROMPT);
      const kept = Object.entries(edges).filter(([, edge]) => edge.in_graph);
      assert.equal(await page.locator("#view-circuit path").count(), kept.length);
      // A node that is clicked chooses its head everywhere, and a head that is chosen elsewhere is marked here.
      const heads = [...new Set(kept.flatMap(([name]) => name.replace(/<.>$/, "").split("->")))].filter((name) => /^a\d+\.h\d+$/.test(name));
      const node = (name) => page.locator(`#view-circuit g.node[aria-label="${name}"]`);
      const [, layer, head] = /^a(\d+)\.h(\d+)$/.exec(heads[0]);
      await node(heads[0]).click();
      await settled(page);
      assert.equal(await page.locator("#view-attention h3").first().textContent(), `Layer ${layer}, head ${head}`);
      const touched = kept.filter(([name]) => name.replace(/<.>$/, "").split("->").includes(heads[0]));
      assert.equal(await page.locator("#view-circuit tbody tr").count(), touched.length);
      const other = heads.find((name) => name !== heads[0] && name.startsWith(`a${layer}.`));
      await page.locator("#view-attention .thumbnails button").nth(Number(/\d+$/.exec(other)[0])).click();
      await page.waitForSelector(`#view-circuit g.node.on[aria-label="${other}"]`);
      await node(other).focus();
      await page.keyboard.press("Escape");
      assert.equal(await page.locator("#view-circuit g.node.on").count(), 0);
      await page.locator("#view-circuit .same summary").click();
      assert.match(await page.locator("#view-circuit .code pre").nth(1).textContent(), /model\.edges\("the cat sat on the mat", "the dog sat on the mat", answer=\d+, against=\d+, top=200\)/);
      await page.locator("#view-patch .same summary").click();
      const [typed] = await page.locator("#view-patch .code pre").allTextContents();
      assert.match(typed, /^easyroutine patch --model .* --base 'the dog sat on the mat' .* -- 'the cat sat on the mat'$/);
      assert.match(await page.locator("#view-patch .code pre").nth(1).textContent(), /model\.sweep\("the cat sat on the mat", by="patch"/);
      // Where the clipboard is closed to the page, as in some frames, the text is selected for the reader.
      await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
      await page.locator("#view-patch .code button").first().click();
      assert.equal(await page.locator("#view-patch .code button").first().textContent(), "Selected: copy it");
      assert.equal(await page.evaluate(() => String(getSelection())), typed);
      const [download] = await Promise.all([page.waitForEvent("download"), page.locator('#view-patch [aria-label="Save as SVG"]').click()]);
      assert.equal(download.suggestedFilename(), "patch.svg");
      assert.match(readFileSync(await download.path(), "utf8"), /^<svg/);
      await shot(page, "sweeps");
    })));

test("a continuation streams, with the changes beside the unchanged", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT, views: "generation", tokens: "6", changes: "mlp_out_0@all=0" }, async (page) => {
      await page.locator("#view-generation .strong").click();
      await page.locator("#view-generation .same:not([hidden])").waitFor();
      await settled(page);
      const plain = printed("run", "-m", model, "--generate", "6", PROMPT);
      const changed = printed("run", "-m", model, "--generate", "6", "--intervene", "mlp_out_0@all=0", PROMPT);
      assert.deepEqual(await page.locator("#view-generation pre.text").allTextContents(), [plain.text, changed.text]);
    })));

test("features of a dictionary are shown at each token, and one is removed by a press", () => {
  const gpt2 = path.join(model, "../gpt2");
  const dictionary = `sae=${path.join(model, "../../dictionaries/saelens_standard")}`;
  return serving(["-m", gpt2], (address) =>
    open(address, { prompt: PROMPT, views: "features", dicts: dictionary }, async (page) => {
      const [first] = printed("dict", "active", "-m", gpt2, "--dict", dictionary, "--positions", "last", "-k", "1", PROMPT).features;
      await page.locator("#view-features .heat").focus();
      await page.keyboard.press("ArrowUp");
      assert.ok((await page.locator("#said").textContent()).startsWith(`${first.key}:${first.feature} at`));
      await page.keyboard.press("Enter");
      await shot(page, "features");
      await page.locator("#view-features button", { hasText: "Remove it" }).click();
      await settled(page);
      assert.deepEqual(await page.locator(".chips code").allTextContents(), [`features_sae:${first.feature}@all=0`]);
      assert.equal(await page.locator("#view-features .fault").textContent(), "");
      await page.locator('[data-view="next"]').click();
      await settled(page);
      assert.equal(await page.locator("#view-next tbody tr").first().locator(".n").count(), 2);
      await page.locator("#view-features input").waitFor();
      await page.locator('[data-view="graph"]').click();
      await page.locator("#view-graph input").first().fill(path.join(model, "../../dictionaries/circuit_tracer_plt"));
      await page.keyboard.press("Enter");
      await page.locator("#view-graph .strong").click();
      await page.locator("#view-graph .same:not([hidden])").waitFor();
      assert.match(await page.locator("#view-graph .body p").first().textContent(), /nodes and \d+ edges are kept/);
      const transcoders = path.join(model, "../../dictionaries/circuit_tracer_plt");
      const { nodes, links } = printed("graph", "-m", gpt2, "--dict-set", transcoders, PROMPT);
      assert.equal(await page.locator("#view-graph g.node").count(), nodes.length);
      assert.equal(await page.locator("#view-graph path.edge").count(), links.length);
      const mark = page.locator('#view-graph g.node[aria-label^="feature"]').first();
      const [, layer, position] = / in layer (\d+) at (\d+)$/.exec(await mark.getAttribute("aria-label"));
      await mark.click();
      await settled(page);
      assert.match(page.url(), new RegExp(`position=${position}&layer=${layer}`));
      assert.equal(await page.locator('.strip [aria-pressed="true"]').getAttribute("title").then((title) => title.split(",")[0]), `position ${position}`);
      assert.ok((await page.locator("#view-graph .node-view tbody tr").count()) > 0);
      // Another token that is chosen has its own column marked.
      await page.locator(".strip button").nth(1).click();
      assert.equal(await page.locator("#view-graph .band").evaluateAll((bands) => bands.findIndex((band) => band.classList.contains("here"))), 1);
      await page.locator("#view-graph .same summary").click();
      assert.match(await page.locator("#view-graph .code pre").nth(1).textContent(), /model\.attribution_graph\("the cat sat on the mat", ".*circuit_tracer_plt"\)/);
      await shot(page, "features-graph");
      await accessible(page, "features");
    }));
});

/** What `easyroutine features` found of a dictionary, in a folder that `use` is given. */
async function collected(use) {
  const [gpt2, folder] = [path.join(model, "../gpt2"), mkdtempSync(path.join(tmpdir(), "features-"))];
  const dictionary = `sae=${path.join(model, "../../dictionaries/saelens_standard")}`;
  try {
    writeFileSync(`${folder}/prompts.txt`, `${PROMPT}\nthe dog <b>sat</b> \u202ehere\nhello\n`);
    execFileSync(program, ["features", "--file", `${folder}/prompts.txt`, "-m", gpt2, "--dict", dictionary, "-o", `${folder}/found`], { stdio: "ignore" });
    await use({ gpt2, dictionary, folder: `${folder}/found`, file: `${folder}/found/features_sae.jsonl` });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("features over a data set are browsed, and lead to the prompt", () =>
  collected(({ gpt2, dictionary, folder, file }) =>
    serving(["-m", gpt2, "--features", folder], (address) =>
      open(address, { page: "features", prompt: PROMPT, dicts: dictionary }, async (page) => {
        const all = readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line)).filter((one) => one.count > 0);
        assert.match(await page.locator("#view-dashboards .body").textContent(), new RegExp(`${all.length} of ${all.length} features`));
        all.sort((a, b) => b.frequency - a.frequency || a.feature - b.feature);
        await page.locator(".feature-index").focus();
        await page.keyboard.press("ArrowDown");
        await page.waitForFunction((n) => document.querySelector("#view-feature h2:not([id])")?.textContent === `Feature ${n}`, all[1].feature);
        assert.match(page.url(), new RegExp(`feature=features_sae%3A${all[1].feature}`));
        assert.equal(await page.locator("#view-feature .example").count(), all[1].top.length + all[1].drawn.length);
        assert.equal(await page.locator("main b b, .example b b").count(), 0, "text stays text");
        await page.locator("#view-dashboards input[type=search]").fill(String(all[0].feature));
        assert.match(await page.locator("#view-dashboards [role=status]").last().textContent(), /^\d+ of/);
        await page.reload();
        await page.waitForSelector(READY);
        assert.equal(await page.locator("#view-feature .feature-card h2").textContent(), `Feature ${all[1].feature}`);
        await page.locator("#view-feature .same summary").click();
        assert.match(await page.locator("#view-feature .code pre").first().textContent(), /^easyroutine dict page --features \d+ --examples 20 -- /);
        await accessible(page, "feature dashboards");
        await shot(page, "dashboards");
        await page.locator("#view-feature button", { hasText: "Remove it" }).click();
        await page.waitForSelector(READY);
        await settled(page);
        assert.deepEqual(await page.locator(".chips code").allTextContents(), [`features_sae:${all[1].feature}@all=0`]);
        assert.equal(await page.locator("#view-features .feature-card h2").textContent(), `Feature ${all[1].feature}`);
        // A file that is none is said, and the page stays.
        await page.locator("#page-features").click();
        await page.locator("#view-dashboards input").first().fill(folder);
        await page.keyboard.press("Enter");
        await page.locator("#view-dashboards .fault p").first().waitFor();
        assert.match(await page.locator("#view-dashboards .fault").textContent(), /is a folder.*features_sae\.jsonl/);
      }))));

test("a field shows what another field or the address has changed", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT, views: "direct" }, async (page) => {
      await page.locator('[data-view="patch"]').click();
      const [here, there] = ["direct", "patch"].map((id) => page.locator(`#view-${id} .field`, { hasText: "Answer" }).locator("input"));
      await there.fill("a");
      await page.keyboard.press("Enter");
      await settled(page);
      assert.equal(await here.inputValue(), "a");
      await page.goBack();
      assert.equal(await here.inputValue(), "");
      assert.equal(await there.inputValue(), "");
      await settled(page);
    })));

test("a long run can be cancelled, and the next question is answered", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT, views: "ablate" }, async (page) => {
      // One that never ends; that the server ends its own work is a test of its own.
      await page.route("**/ask", (route) => (route.request().postDataJSON().words?.[0] === "ablate" ? undefined : route.continue()));
      await page.locator("#view-ablate .strong").click();
      await page.locator("#view-ablate .going button").click();
      assert.equal(await page.locator("#view-ablate .going .hint").textContent(), "cancelled");
      await page.locator('[data-view="next"]').click();
      await page.locator("#view-next tbody tr").first().waitFor({ timeout: 10_000 });
    })));

test("hostile text stays text", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: '<img src=x onerror=alert(1)></script>\u202e"\'&\u0000', views: "lens", changes: "<b>x</b>@all=0" }, async (page) => {
      await settled(page);
      assert.equal(await page.locator("main img, main b:has-text('x'), .chips b").count(), 0);
      assert.equal(await page.locator(".chips code").textContent(), "<b>x</b>@all=0");
      assert.match(await page.locator("#view-lens .fault").textContent(), /<b>x<\/b>|no activation/);
      await page.locator(".chips button").click();
    })));

test("without the token, and from a page of another origin, there is nothing", () =>
  serving(["-m", model], async (address) => {
    const { origin, port } = new URL(address);
    const context = await browser.newContext();
    const page = await context.newPage();
    const answer = await page.goto(`${origin}/`);
    assert.equal(answer.status(), 403);
    assert.match(await page.locator("body").textContent(), /lacks the token/);
    // A page of another origin may neither read an answer nor frame the page.
    await page.route("http://evil.example/", (route) => route.fulfill({ contentType: "text/html", body: `<iframe src="${address}"></iframe>` }));
    await page.goto("http://evil.example/");
    const read = await page.evaluate((to) => fetch(`${to}ask`, { method: "POST", body: "{}" }).then(() => "answered", () => "refused"), address);
    assert.equal(read, "refused");
    // A name that resolves to this machine is not this machine's name.
    const rebound = await browser.newContext();
    const other = await rebound.newPage();
    const refused = await other.request.get(address, { headers: { Host: `evil.example:${port}` } });
    assert.equal(refused.status(), 421);
    await context.close();
    await rebound.close();
  }));

test("two windows look at different things", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT, position: 1 }, (one) =>
      open(address, { prompt: "the dog", views: "lens" }, async (other) => {
        assert.match(await one.locator("#view-lens .where").textContent(), /position 1/);
        await other.locator(".strip button").first().click();
        assert.match(await other.locator("#view-lens .where").textContent(), /position 0/);
        assert.match(await one.locator("#view-lens .where").textContent(), /position 1/);
      }))));

test("a window is not given the numbers of a model that another window loads", () =>
  serving(["-m", model], (address) =>
    open(address, { prompt: PROMPT, views: "next" }, (one) =>
      open(address, { prompt: PROMPT, views: "next" }, async (other) => {
        await other.locator(".loader summary").click();
        await other.locator(".loader input").fill(path.join(model, "../gpt2"));
        await other.keyboard.press("Enter");
        await other.locator(".loader .strong").click();
        await other.waitForFunction(() => document.querySelector("#model b").textContent === "gpt2");
        await settled(other);
        assert.equal(await one.locator("#model b").textContent(), "llama");
        await one.locator("#change").fill("attn_out_1@all=0");
        await one.keyboard.press("Enter");
        await one.waitForFunction(() => document.querySelector("#problem").textContent.includes("is no longer loaded"));
        await settled(one);
        assert.equal(await one.locator("#model b").textContent(), "gpt2");
        const [first] = printed("run", "-m", path.join(model, "../gpt2"), "-k", "12", "--intervene", "attn_out_1@all=0", PROMPT).top;
        const shown = await one.locator("#view-next tbody tr").first().locator(".n").first().textContent();
        assert.equal(shown, `${(100 * first.probability).toFixed(first.probability < 0.1 ? 2 : 1)}%`);
      }))));

test("a server that stops is said, and what is shown stays", () =>
  serving(["-m", model], async (address, child) => {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(address + hash({ prompt: PROMPT }));
    await page.waitForSelector(READY);
    child.kill("SIGINT");
    await page.locator(".views button", { hasText: "Next tokens" }).click();
    await page.locator("#change").fill("attn_out_1@all=0");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector("#view-lens .fault").textContent.includes("The server has stopped"));
    assert.equal(await page.locator(".strip button").count(), printed("tokens", "-m", model, PROMPT).tokens.length);
    await context.close();
  }));

test("a model that does not load is said, and another takes its place after its cost was said", () =>
  serving(["-m", "/nonexistent"], (address) =>
    open(address, { prompt: PROMPT, views: "lens" }, async (page) => {
      await page.waitForFunction(() => document.querySelector("#problem").textContent.includes("/nonexistent"));
      await shot(page, "no-model");
      await page.locator(".loader summary").click();
      await page.locator(".loader input").fill(model);
      await page.keyboard.press("Enter");
      await page.locator(".loader .strong").click();
      await page.waitForSelector(READY);
      assert.equal(await page.locator("#model b").textContent(), "llama");
      assert.equal(await page.locator("#problem").textContent(), "");
    }, { ready: "#model" })));

test("saved runs are listed, found, looked into, compared and tagged; one that is gone is said", async () => {
  const base = mkdtempSync(path.join(tmpdir(), "store-"));
  cpSync(path.join(model, "../../store/v1"), base, { recursive: true });
  try {
    await serving(["--base", base], (address) =>
      open(address, { page: "runs" }, async (page) => {
        const { runs } = printed("runs", "--base", base, "ls");
        assert.equal(await page.locator(".run").count(), runs.length);
        assert.deepEqual(await page.locator(".names span").allTextContents(), ["saved", "experiment", "name", "model", "tags", "examples", "size"]);
        // However narrow the page is, each column has room: it scrolls.
        await page.setViewportSize({ width: 400, height: 900 });
        const widths = await page.evaluate(() => [...document.querySelectorAll(".names span, .run:first-child span")].map((one) => one.clientWidth));
        assert.ok(Math.min(...widths) > 40, JSON.stringify(widths));
        await page.setViewportSize({ width: 1440, height: 1000 });
        // As high as its rows: those of a few runs leave no empty half of a screen.
        assert.ok((await page.locator(".rows").boundingBox()).height < 28 * (runs.length + 2));
        await page.locator(".run").last().click();
        await settled(page);
        await page.locator("#view-run button", { hasText: "Compare others with this one" }).click();
        await page.locator(".rows").focus();
        await page.keyboard.press("ArrowUp");
        await page.keyboard.press("Enter");
        await settled(page);
        await page.locator("#view-run .list button", { hasText: /^resid_out_0$/ }).click();
        await page.locator("#view-tensor .heat").waitFor();
        await settled(page);
        assert.deepEqual(await page.locator("#view-tensor thead th").allTextContents(), ["this run", "the other", "difference"]);
        assert.match(await page.locator("#view-tensor").textContent(), /cosine of the two: 0\.99/);
        await page.locator('[aria-label="New tag"]').fill("seen");
        await page.locator("#view-run button", { hasText: "Add tag" }).click();
        await page.locator(".chip", { hasText: "seen" }).waitFor();
        assert.equal(printed("runs", "--base", base, "query", "--tag", "seen").runs.length, 1);
        await accessible(page, "runs");
        await shot(page, "runs");
        await page.locator("#view-runs input").fill("seed = 1");
        await page.keyboard.press("Enter");
        await page.waitForFunction(() => document.querySelectorAll(".run").length === 1);
        await page.locator("#view-runs input").fill("seed >=");
        await page.keyboard.press("Enter");
        await page.locator("#view-runs .fault p").first().waitFor();
        for (const name of readdirSync(base)) rmSync(path.join(base, name), { recursive: true });
        await page.locator("#view-run .list button", { hasText: /^resid_out_1$/ }).click();
        await page.locator("#view-tensor .fault p").first().waitFor();
      }));
  } finally {
    rmSync(base, { recursive: true });
  }
});

test("a store of another version, a damaged run and a damaged record are said, and the rest is shown", async () => {
  const base = mkdtempSync(path.join(tmpdir(), "store-"));
  try {
    cpSync(path.join(model, "../../store/v1"), base, { recursive: true });
    const paths = printed("runs", "--base", base, "ls").runs.map((run) => run.path);
    writeFileSync(path.join(base, paths[0], "metadata.json"), "{");
    const shard = readdirSync(path.join(base, paths[1]), { recursive: true }).find((name) => name.endsWith(".safetensors"));
    writeFileSync(path.join(base, paths[1], shard), "none");
    await serving(["--base", base], (address) =>
      open(address, { page: "runs" }, async (page) => {
        assert.match(await page.locator("#view-runs .notes").textContent(), new RegExp(`warning ${paths[0]}: `));
        assert.equal(await page.locator(".run").count(), paths.length - 1);
        await page.locator(".run").last().click();
        await settled(page);
        await page.locator("#view-run .list button").first().click();
        await page.locator("#view-tensor .fault p").first().waitFor();
        assert.match(await page.locator("#view-tensor .fault").textContent(), /safetensors|damaged|checksum/);
        await accessible(page, "damage");
        // The store is one of a later version from here on: what is shown stays, and it is said.
        const mark = path.join(base, ".easyroutine/store.json");
        writeFileSync(mark, readFileSync(mark, "utf8").replace(/"(version|min_reader)": *\d+/g, '"$1":99'));
        await page.locator("#view-runs button", { hasText: "Read again" }).click();
        await page.locator("#view-runs .fault p").first().waitFor();
        assert.match(await page.locator("#view-runs .fault").textContent(), /version 99|newer/);
      }));
  } finally {
    rmSync(base, { recursive: true });
  }
});

test("examples of different length are told apart in a saved tensor", async () => {
  const base = mkdtempSync(path.join(tmpdir(), "store-"));
  try {
    writeFileSync(`${base}/prompts.txt`, "a cat sat\nthe dog\nhello you there all\n");
    execFileSync(program, ["extract", "--file", `${base}/prompts.txt`, "-m", model, "-a", "resid_out_1", "--positions", "all", "-o", `${base}/runs/`], { stdio: "ignore" });
    await serving(["--base", `${base}/runs`], (address) =>
      open(address, { page: "runs" }, async (page) => {
        await page.locator(".run").click();
        await settled(page);
        await page.locator("#view-run .list button", { hasText: /^resid_out_1$/ }).click();
        await settled(page);
        assert.match(await page.locator("#view-tensor").textContent(), /examples 0 to 2 of 3/);
        const { offsets } = printed("runs", "--base", `${base}/runs`, "load", "-1", "resid_out_1");
        await page.locator("#view-tensor .heat").first().focus();
        for (let i = 0; i < offsets[1]; i += 1) await page.keyboard.press("ArrowDown");
        assert.match(await page.locator("#said").textContent(), /^row 1,0, column 0: /);
      }));
  } finally {
    rmSync(base, { recursive: true });
  }
});

test("saved streams are read through the lens of the model that is loaded", async () => {
  const base = mkdtempSync(path.join(tmpdir(), "store-"));
  try {
    execFileSync(program, ["extract", PROMPT, "-m", model, "-a", "resid_out_*,pattern_L0H0", "--positions", "all", "-o", `${base}/runs/`], { stdio: "ignore" });
    await serving(["-m", model, "--base", `${base}/runs`], (address) =>
      open(address, { page: "runs" }, async (page) => {
        await page.locator(".run").click();
        await settled(page);
        await page.locator("#view-run .list button", { hasText: /^resid_out_2$/ }).click();
        await page.locator("#view-tensor button", { hasText: "Through the lens" }).click();
        await settled(page);
        const { rows } = printed("runs", "--base", `${base}/runs`, "lens", "-1", "resid_out_2", "-m", model, "-k", "6");
        await page.locator("#view-tensor .heat").last().focus();
        await page.keyboard.press("ArrowDown");
        const { text, probability } = rows[1].top[0];
        const said = await page.locator("#said").textContent();
        assert.ok(said.startsWith("row 0,1, rank 1: ") && said.endsWith(`${(100 * probability).toFixed(probability < 0.1 ? 2 : 1)}%`), `${said} ${text}`);
        await shot(page, "saved-lens");
        await accessible(page, "saved lens");
        await page.locator("#view-run .list button", { hasText: /^pattern_L0H0$/ }).click();
        await settled(page);
        assert.match(await page.locator("#view-tensor .legend").textContent(), /rows are queries/);
      }));
  } finally {
    rmSync(base, { recursive: true });
  }
});

for (const scheme of ["light", "dark"]) {
  for (const width of [1440, 400]) {
    test(`axe-core finds nothing, ${scheme}, ${width} px, and nothing runs over the edge`, () =>
      serving(["-m", model], (address) =>
        open(address, { prompt: PROMPT, base: "the dog sat on the mat", changes: "attn_out_1@all=0" }, async (page) => {
          for (const id of ["next", "attribution", "patch", "ablate", "circuit", "generation"]) await page.locator(`[data-view="${id}"]`).click();
          for (const id of ["attribution", "patch", "ablate", "circuit", "generation"]) await page.locator(`#view-${id} .strong`).click();
          for (const id of ["attribution", "patch", "ablate", "circuit", "generation"]) await page.locator(`#view-${id} .same:not([hidden])`).waitFor();
          await settled(page);
          await page.locator("#view-lens .same summary").click();
          await accessible(page, `${scheme} ${width}`);
          assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
          await shot(page, `all-${scheme}-${width}`);
        }, { colorScheme: scheme, viewport: { width, height: 900 } })));
  }
}

test("2,000 tokens and 80 layers scroll without a long task, on a bounded number of nodes", () =>
  serving([], (address) =>
    open(address, {}, async (page) => {
      await openLarge(page, address);
      const nodes = await page.evaluate(() => document.querySelectorAll("*").length);
      assert.ok(nodes < 800, `${nodes} nodes`);
      const file = path.join(mkdtempSync(path.join(tmpdir(), "trace-")), "trace.json");
      await browser.startTracing(page, { path: file, categories: TRACED });
      const frames = await scroll(page);
      await browser.stopTracing();
      const [longest] = tasks(readFileSync(file, "utf8"));
      rmSync(path.dirname(file), { recursive: true });
      console.log(`scrolling 80 layers by 2,000 tokens: longest task ${longest.ms.toFixed(0)} ms, ${longest.cpu.toFixed(0)} of them on the processor; ${frames.toFixed(0)} frames a second, ${nodes} nodes`);
      // On the processor: how long other programs had it in between says nothing of the page.
      assert.ok(longest.cpu < 50, JSON.stringify(longest));
      assert.ok(await page.evaluate(() => document.querySelectorAll("*").length) < 800);
    }, { ready: "#model" })));

test("a store of 10,000 runs is a list of a bounded number of nodes", () =>
  serving([], (address) =>
    open(address, {}, async (page) => {
      const runs = Array.from({ length: 10_000 }, (_, i) => ({ path: `experiment/model/${i}`, metadata: { tag: `t${i}`, save_time: "2026-11-24 21:45:41", experiment_name: "experiment", model_name: "model", _store: { name: `run ${i}`, n_examples: i, n_bytes: 1000 * i } } }));
      const state = { version: "", model: null, problem: null, base: "runs" };
      await page.route("**/ask", (route) => {
        const question = route.request().postDataJSON();
        const data = question.ask === "state" ? state : question.words[1] === "ls" ? { runs, problems: [], unfinished: [] } : { path: question.words.at(-1), metadata: { tag: "x" }, tensors: [], values: {} };
        return route.fulfill({ contentType: "application/x-ndjson", body: `${JSON.stringify({ event: "result", data, command: "easyroutine", python: null })}\n` });
      });
      await page.goto("about:blank");
      await page.goto(address + hash({ page: "runs" }));
      await page.waitForSelector(READY);
      assert.equal(await page.locator("#view-runs .body p").first().textContent(), "10,000 runs");
      await page.locator(".rows").focus();
      await page.keyboard.press("End");
      await page.keyboard.press("Enter");
      await settled(page);
      // The most recent stand first.
      assert.match(page.url(), /run=experiment%2Fmodel%2F0(&|$)/);
      assert.equal(await page.locator('.run[aria-selected="true"]').getAttribute("aria-posinset"), "10000");
      // The names of the columns stand above the rows, whatever is scrolled, and hide none that is chosen.
      const box = (of) => page.locator(of).boundingBox();
      const [names, rows] = [await box(".names"), await box(".rows")];
      const last = await box('.run[aria-selected="true"]');
      assert.ok(Math.abs(names.y - rows.y) <= 2 && last.y + last.height <= rows.y + rows.height + 1, JSON.stringify([names, last, rows]));
      await page.locator(".rows").focus();
      for (let i = 0; i < 20; i += 1) await page.keyboard.press("ArrowUp");
      await page.keyboard.press("Enter");
      await settled(page);
      assert.ok((await box('.run[aria-selected="true"]')).y >= names.y + names.height - 1);
      assert.ok(await page.evaluate(() => document.querySelectorAll("*").length) < 800);
    }, { ready: "#model" })));

assert.ok(program, "PROGRAM names the program under test");
