"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  for (const [name, { columns, rows }] of Object.entries(page.data)) {
    page.data[name] = rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
  }
  const root = document.documentElement;
  const themeButton = document.getElementById("theme");
  const chips = [...document.querySelectorAll("[data-strategy]")];
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();
  let chosenTheme = null;

  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const selects = [...document.querySelectorAll("[data-signal]")];
  const has = (id, signal) => page.specs[id].params.some((p) => p.name === signal);
  const shown = () => chips.filter((c) => c.getAttribute("aria-pressed") === "true").map((c) => c.dataset.strategy);

  function chartConfig() {
    const axis = {
      domainColor: color("line"), gridColor: color("line"), tickColor: color("line"),
      labelColor: color("soft"), titleColor: color("soft"),
      labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8,
    };
    return {
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      view: { stroke: null },
      axis,
      // A narrow plot has room for few numbers under it.
      axisX: { grid: false, tickCount: { signal: "max(2, ceil(width / 90))" }, labelOverlap: "greedy", labelFlush: true },
      axisY: { tickCount: 5 },
      text: { color: color("ink"), fontSize: 12 },
      legend: { labelColor: color("soft"), titleColor: color("soft"), labelFontSize: 12 },
      rule: { color: color("ink") },
      range: {
        category: Array.from({ length: 10 }, (_, i) => color(`c${i}`)),
        diverging: [color("worse"), color("line"), color("better")],
      },
    };
  }

  async function draw(id) {
    const name = page.chartData[id];
    const spec = { ...page.specs[id], datasets: { [name]: page.data[name] } };
    const dark = root.dataset.theme === "dark";
    const old = views.get(id);
    const { view } = await window.vegaEmbed(`#${id}`, spec, {
      actions: false, renderer: "svg", config: chartConfig(), tooltip: { theme: dark ? "dark" : "light" },
    });
    if (old) old.finalize();
    views.set(id, view);
    for (const select of selects) if (has(id, select.dataset.signal)) view.signal(select.dataset.signal, select.value);
    await view.signal("shown", shown()).runAsync();
  }

  let drawing = Promise.resolve();
  function drawAll() {
    // One after the other: two themes chosen in quick succession must not draw into the same element at once.
    drawing = drawing.then(async () => {
      for (const id of Object.keys(page.specs)) await draw(id);
      root.dataset.drawn = root.dataset.theme;
    });
  }

  function applyTheme() {
    const dark = chosenTheme === null ? systemDark.matches : chosenTheme === "dark";
    root.dataset.theme = dark ? "dark" : "light";
    themeButton.textContent = `Switch to ${dark ? "light" : "dark"} theme`;
    drawAll();
  }

  function remembered() {
    try { return localStorage.getItem("bidkv-theme"); } catch { return null; }  // a file opened locally may have no storage
  }
  function remember(theme) {
    try { localStorage.setItem("bidkv-theme", theme); } catch { /* then the choice lasts as long as the page */ }
  }

  function csv(rows) {
    const names = rows.length ? Object.keys(rows[0]) : [];
    const cell = (v) => (v === null ? "" : /[",\n]/.test(String(v)) ? `"${String(v).replaceAll('"', '""')}"` : String(v));
    return [names.join(","), ...rows.map((row) => names.map((n) => cell(row[n])).join(","))].join("\n") + "\n";
  }

  themeButton.addEventListener("click", () => {
    chosenTheme = root.dataset.theme === "dark" ? "light" : "dark";
    remember(chosenTheme);
    applyTheme();
  });
  systemDark.addEventListener("change", () => { if (chosenTheme === null) applyTheme(); });

  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      for (const view of views.values()) view.signal("shown", shown()).runAsync();
    });
  }

  // A pointer or the focus on a strategy's button brings its lines forward in every plot.
  const highlight = (strategy) => {
    for (const [id, view] of views) if (has(id, "highlight")) view.signal("highlight", strategy).runAsync();
  };
  for (const chip of chips) {
    for (const name of ["pointerenter", "focus"]) chip.addEventListener(name, () => highlight(chip.dataset.strategy));
    for (const name of ["pointerleave", "blur"]) chip.addEventListener(name, () => highlight(""));
  }

  const regions = [...document.querySelectorAll(".scroll")];
  const mark = () => regions.forEach((r) => r.classList.toggle("overflows", r.scrollWidth > r.clientWidth + 1));
  addEventListener("resize", mark);
  mark();

  for (const select of selects) {
    select.addEventListener("change", () => {
      const name = select.dataset.signal;
      for (const [id, view] of views) if (has(id, name)) view.signal(name, select.value).runAsync();
    });
  }

  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => {
      const name = button.dataset.download;
      const url = URL.createObjectURL(new Blob([csv(page.data[name])], { type: "text/csv" }));
      const link = Object.assign(document.createElement("a"), { href: url, download: `bidkv-${name}.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    });
  }

  chosenTheme = remembered();
  applyTheme();
})();
