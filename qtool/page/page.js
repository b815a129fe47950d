"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const cards = Array.from(document.querySelectorAll(".card"));
  const filter = document.getElementById("filter");
  const form = document.getElementById("form");
  const count = document.getElementById("count");

  // Values are numbers where the column says so; what has none stays last in either direction.
  function sort(column, descending) {
    const numeric = heads[column].classList.contains("number");
    const key = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
      return descending ? -order : order;
    };
    body.append(...rows.slice().sort(compare));
    heads.forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const sorted = head.getAttribute("aria-sort");
      const first = head.classList.contains("number") && column > 0;
      sort(column, sorted === null ? first : sorted === "ascending");
    });
  });

  function show() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set();
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every((word) => text.includes(word)) &&
        (!form.value || row.dataset.form === form.value);
      row.hidden = !fits;
      if (fits) shown.add(row.dataset.layer);
    }
    for (const card of cards) card.hidden = !shown.has(card.id);
    count.textContent = shown.size === rows.length
      ? `${rows.length} layers` : `${shown.size} of ${rows.length} layers`;
  }
  filter.addEventListener("input", show);
  form.addEventListener("change", show);
  filter.form.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { filter.value = ""; show(); }
  });
  if (filter.value || form.value) show();  // what the browser kept from before

  // A link to a layer that the filter hides shows it again.
  function reveal() {
    const card = document.getElementById(location.hash.slice(1));
    if (card && card.hidden) { filter.value = ""; form.value = ""; show(); card.scrollIntoView(); }
  }
  addEventListener("hashchange", reveal);

  const copy = document.getElementById("copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(document.getElementById("script").textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(document.getElementById("script"));
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    });
  }
})();
