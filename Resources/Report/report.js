"use strict";
(function () {
  const byId = (id) => document.getElementById(id);
  const body = document.querySelector("#table tbody");
  const rows = Array.from(body.rows);
  const heads = Array.from(document.querySelectorAll("#table thead th[data-key]"));
  const text = byId("filter-text"), eyes = byId("filter-eyes");
  const choices = { structure: byId("filter-structure"), verdict: byId("filter-verdict"), review: byId("filter-review") };
  const viewer = byId("viewer"), help = byId("help");
  const haystacks = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let current = null;

  const visible = () => Array.from(body.rows).filter((row) => !row.hidden);

  function filter() {
    const needle = text.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const passes = (!needle || haystacks.get(row).includes(needle)) && (!eyes.checked || row.dataset.eyes) &&
        Object.entries(choices).every(([key, select]) => !select.value || row.dataset[key] === select.value);
      row.hidden = !passes;
      count += passes ? 1 : 0;
    }
    byId("shown").textContent = count + " of " + rows.length + " results shown";
    byId("nothing").hidden = count > 0 || rows.length === 0;
  }

  function sort(key, direction) {
    const head = heads.find((one) => one.dataset.key === key);
    const numeric = head.dataset.kind === "number";
    const value = (row) => numeric ? (row.dataset[key] === "" ? null : Number(row.dataset[key])) : row.dataset[key].toLowerCase();
    const sorted = rows.map((row, index) => ({ row, index, value: value(row) })).sort((a, b) => {
      if (a.value === null || b.value === null) { return (a.value === null) - (b.value === null) || a.index - b.index; }
      const order = numeric ? a.value - b.value : a.value.localeCompare(b.value, undefined, { numeric: true });
      return direction * order || a.index - b.index;
    });
    body.append(...sorted.map((one) => one.row));
    for (const one of heads) { one.removeAttribute("aria-sort"); }
    head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  }

  function select(row) {
    if (current) { current.tabIndex = -1; }
    current = row;
    if (row) { row.tabIndex = 0; row.focus(); row.scrollIntoView({ block: "nearest" }); }
  }

  function move(step) {
    const list = visible();
    if (!list.length) { return; }
    const at = list.indexOf(current);
    select(list[at < 0 ? 0 : Math.min(list.length - 1, Math.max(0, at + step))]);
  }

  function show(row) {
    const images = row.querySelectorAll("img");
    if (!images.length) { return; }
    current = row;
    const title = row.dataset.structure + " in " + row.dataset.case;
    byId("viewer-title").textContent = title;
    byId("viewer-text").textContent = Array.from(row.querySelectorAll("td:not([data-label=Picture], [data-label=Structure], .nothing)"))
      .map((cell) => cell.dataset.label + ": " + Array.from(cell.childNodes, (part) => part.textContent.trim()).filter(Boolean).join(", ").replace(/^(\S), /, "$1 "))
      .join(" · ");
    byId("viewer-image").src = images[0].src;
    byId("viewer-image").alt = "Axial, coronal, sagittal and worst axial view of " + title;
    byId("viewer-mask").hidden = images.length < 2;
    if (images.length > 1) { byId("viewer-mask").src = images[1].src; }
    if (!viewer.open) { viewer.showModal(); }
  }

  function step(by) {
    const list = visible().filter((row) => row.querySelector("img"));
    const at = list.indexOf(current) + by;
    if (at >= 0 && at < list.length) { show(list[at]); }
  }

  function toggle() {
    const off = document.body.classList.toggle("no-mask");
    byId("viewer-toggle").setAttribute("aria-pressed", String(!off));
  }

  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(head.dataset.key, now === "ascending" ? -1 : now === "descending" ? 1 : head.dataset.kind === "number" ? -1 : 1);
    });
  }
  byId("sort-narrow").addEventListener("change", (event) => sort(event.target.value, ["attention", "volume"].includes(event.target.value) ? -1 : 1));
  for (const control of [text, eyes, ...Object.values(choices)]) {
    for (const kind of ["input", "change"]) { control.addEventListener(kind, filter); }
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(filter));
  byId("clear-again").addEventListener("click", () => byId("filters").reset());
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (event.target.closest("button.picture")) { show(row); }
  });
  body.addEventListener("focusin", (event) => { current = event.target.closest("tr") || current; });
  byId("viewer-before").addEventListener("click", () => step(-1));
  byId("viewer-after").addEventListener("click", () => step(1));
  byId("viewer-toggle").addEventListener("click", toggle);
  byId("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => select(current));
  byId("help-button").addEventListener("click", () => help.showModal());
  byId("help-close").addEventListener("click", () => help.close());

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) { return; }
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox") {
      if (event.key === "Escape") { event.target.blur(); }
      return;
    }
    const keys = viewer.open
      ? { ArrowLeft: () => step(-1), ArrowRight: () => step(1), k: () => step(-1), j: () => step(1), m: toggle }
      : help.open ? {}
      : { ArrowDown: () => move(1), j: () => move(1), ArrowUp: () => move(-1), k: () => move(-1), m: toggle,
          "/": () => text.focus(), "?": () => help.showModal(),
          Enter: event.target.tagName === "BUTTON" || event.target.tagName === "A" ? null : () => current && show(current) };
    const action = keys[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  const volumes = byId("volumes-shown");
  if (volumes && window.matchMedia("(max-width: 760px)").matches) { volumes.open = false; }
  sort("attention", -1);
}());
