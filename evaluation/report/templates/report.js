"use strict";
const table = document.getElementById("queries"), body = table.tBodies[0];
const [words, outcome, count] = ["words", "outcome", "count"].map(id => document.getElementById(id));
const heads = [...table.tHead.rows[0].cells];
heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
  const ascending = head.getAttribute("aria-sort") === "descending";
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = row => column ? Number(row.cells[column].dataset.value) : row.cells[column].dataset.value;
  const order = (a, b) => column ? value(a) - value(b) : value(a).localeCompare(value(b));
  [...body.rows].sort((a, b) => ascending ? order(a, b) : order(b, a)).forEach(row => body.append(row));
}));
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of body.rows) {
    const text = row.cells[0].textContent.toLowerCase();
    const matches = wanted.every(word => text.includes(word));
    row.hidden = !(matches && (!outcome.value || row.dataset.outcome === outcome.value));
    shown += !row.hidden;
  }
  count.textContent = `${shown} queries`;
}
words.addEventListener("input", filter);
outcome.addEventListener("change", filter);
function reveal() {
  const row = location.hash.startsWith("#q-") && document.getElementById(location.hash.slice(1));
  if (row && row.hidden) { words.value = ""; outcome.value = ""; filter(); row.scrollIntoView(); }
}
addEventListener("hashchange", reveal);
