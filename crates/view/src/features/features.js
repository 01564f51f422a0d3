(() => {
  const { texts, features } = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const drawing = featureDrawing(texts);
  const index = drawing.index($("list"), choose);

  // In a folder, `features` is an index. The card of each comes with a script beside the page, which calls this.
  const chunks = new Map();
  const KEPT = 24;
  window.easyroutine = (number, chunk) => {
    chunks.set(number, { drawing: featureDrawing(chunk.texts), features: new Map(chunk.features.map((f) => [f.n, f])) });
    if (chunks.size > KEPT) chunks.delete(chunks.keys().next().value);
    const chosen = index.state.shown[index.state.at];
    if (chosen?.chunk === number) show(chosen);
  };
  function hint(text) {
    const line = document.createElement("p");
    line.className = "hint";
    line.textContent = text;
    return line;
  }
  function load(number) {
    const src = `chunks/${number}.js`;
    if (document.head.querySelector(`script[src="${src}"]`)) return;
    const script = document.createElement("script");
    script.src = src;
    script.addEventListener("load", () => script.remove());
    script.addEventListener("error", () => {
      script.remove();
      if (index.state.shown[index.state.at]?.chunk === number) $("card").replaceChildren(hint(`${src} cannot be read. It belongs beside this page.`));
    });
    document.head.append(script);
  }

  function show(feature) {
    if (feature.chunk === undefined) $("card").replaceChildren(...drawing.card(feature));
    else if (chunks.has(feature.chunk)) {
      const chunk = chunks.get(feature.chunk);
      const found = chunk.features.get(feature.n);
      $("card").replaceChildren(...(found ? chunk.drawing.card(found) : [hint(`chunks/${feature.chunk}.js belongs to another page.`)]));
    } else {
      $("card").replaceChildren(hint("Loading …"));
      load(feature.chunk);
    }
  }

  function choose(i) {
    const feature = index.go(i);
    if (feature) show(feature);
  }

  function select() {
    const shown = drawing.select(features, $("find").value, $("sort").value);
    $("found").textContent = `${shown.length} of ${features.length} features`;
    index.show(shown);
    if (shown.length > 0) choose(0);
    else $("card").replaceChildren(hint("No feature has this number or token."));
  }

  // --- What a reader does.
  function dark(on) {
    document.documentElement.dataset.theme = on ? "dark" : "light";
    $("dark").setAttribute("aria-pressed", String(on));
  }
  $("find").addEventListener("input", select);
  $("sort").addEventListener("change", select);
  $("dark").addEventListener("click", () => dark(document.documentElement.dataset.theme !== "dark"));
  document.addEventListener("keydown", (event) => {
    if (event.target.id === "find" || event.target.id === "sort" || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20 };
    if (moves[event.key]) choose(index.state.at + moves[event.key]);
    else if (event.key === "d") dark(document.documentElement.dataset.theme !== "dark");
    else if (event.key === "/") $("find").focus();
    else return;
    event.preventDefault();
  });
  dark(window.matchMedia("(prefers-color-scheme: dark)").matches);
  select();
  const named = index.state.shown.findIndex((f) => `#${f.n}` === window.location.hash);
  if (named > 0) choose(named);
  document.body.dataset.ready = "yes";
})();
