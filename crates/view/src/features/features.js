(() => {
  const { texts, features } = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const drawing = featureDrawing(texts);
  const index = drawing.index($("list"), choose);

  function choose(i) {
    const feature = index.go(i);
    if (feature) $("card").replaceChildren(...drawing.card(feature));
  }

  function select() {
    const shown = drawing.select(features, $("find").value, $("sort").value);
    $("found").textContent = `${shown.length} of ${features.length} features`;
    index.show(shown);
    if (shown.length > 0) choose(0);
    else {
      const none = document.createElement("p");
      none.className = "hint";
      none.textContent = "No feature has this number or token.";
      $("card").replaceChildren(none);
    }
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
