import { byId, element, isElsewhere, number, plural, replace } from "/elements.js";

let systems = [], ask, query = "", answer = null, marks = {}, under = null;

export function startSearch(about, asking) {
  systems = about.systems;
  ask = asking;
  byId("ask").addEventListener("submit", search);
  byId("columns").addEventListener("keydown", keys);
  byId("columns").addEventListener("focusin", event => current(event.target.closest(".card")));
  addEventListener("keydown", event => {
    if (event.key !== "/" || isElsewhere(event) || byId("search").hidden) return;
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  });
  told(about.marked.queries, about.marked.marks, about.marked.use);
  search();  // what was asked for already
  return { enter: () => byId("query").focus() };
}

async function search() {
  under?.abort();
  under = new AbortController();
  const asked = byId("query").value.trim();
  if (!asked) return;
  byId("said").textContent = "searching …";
  // a reranker reads a hundred documents, so the others do not wait for it
  const slow = systems.filter(system => system.name === "reranked").map(system => system.name);
  const quick = systems.map(system => system.name).filter(name => !slow.includes(name));
  try {
    answer = await ask("/api/search", { query: asked, systems: quick }, under.signal);
    query = asked;  // with its results: until then the cards on the page, and marks on them, are the last query's
    marks = answer.marks;
    draw();
    if (!slow.length) return;
    const more = await ask("/api/search", { query: asked, systems: slow }, under.signal);
    Object.assign(answer.systems, more.systems);
    Object.assign(answer.documents, more.documents);
    const column = document.querySelector('[data-system="reranked"]');
    column.replaceWith(systemColumn(systems.find(system => system.name === "reranked")));
  } catch (error) {
    if (error.name !== "AbortError") byId("said").textContent = "";
  }
}

function draw() {
  byId("found").hidden = false;
  replace(byId("columns"), systems.map(systemColumn));
  byId("columns").querySelector(".card")?.setAttribute("tabindex", "0");
  replace(byId("moved"), moved());
  byId("columns").scrollLeft = 0;
  const found = new Set(Object.values(answer.systems).flatMap(system => system.hits.map(hit => hit.id)));
  byId("said").textContent = `${plural(found.size, "document", "documents")} found`;
}

function systemColumn(system) {
  const found = answer.systems[system.name];
  const head = element("header", {}, element("h3", {}, system.label),
    system.deploy ? element("span", { class: "best" }, "to deploy") : null,
    element("span", { class: "note" }, found ? `${number(found.milliseconds)} ms` : "…"));
  const cards = (found?.hits ?? []).map((hit, place) => element("li", {}, card(system, hit, place + 1)));
  const body = found && !cards.length ? element("p", { class: "note" }, "nothing found") : element("ol", {}, cards);
  return element("section", { class: "system", "data-system": system.name, "aria-label": system.label }, head, body);
}

function card(system, hit, rank) {
  const found = answer.documents[hit.id];
  const made = element("article", { class: "card", tabindex: "-1", "data-id": hit.id, "aria-label": `${system.label}, rank ${rank}: ${found.name}` },
    element("div", { class: "head" }, element("span", { class: "rank" }, String(rank)), change(system, hit.id, rank),
      element("span", { class: "score" }, hit.score.toFixed(3))),
    found.title.length ? element("h4", {}, marked(found.title)) : null,
    element("p", { class: "text" }, marked(found.text)),
    element("p", { class: "id" }, hit.id),
    element("div", { class: "choices" }, choice("yes", "relevant", hit.id, true), choice("no", "not relevant", hit.id, false)));
  colour(made);
  return made;
}

// Pieces of a text, of which some are words of the query.
const marked = pieces => pieces.map(([piece, common]) => common ? element("mark", {}, piece) : piece);

// Against the base, for what was made from it.
function change(system, id, rank) {
  if (system.name === "base" || system.name === "bm25") return null;
  const before = answer.systems.base?.hits.findIndex(hit => hit.id === id) + 1;
  if (!before) return element("span", { class: "up" }, "new");
  if (before === rank) return element("span", { class: "note" }, "=");
  const up = before > rank;
  return element("span", { class: up ? "up" : "down" }, `${up ? "▲" : "▼"} ${Math.abs(before - rank)}`);
}

function choice(kind, label, id, relevant) {
  return element("button", { type: "button", class: kind, tabindex: "-1", onclick: () => mark(id, marks[id] === relevant ? null : relevant) }, label);
}

async function mark(id, relevant) {
  const asked = query;
  let reply;
  try {
    reply = await ask("/api/mark", { query: asked, document: id, relevant });
  } catch (error) {
    return;  // it was said
  }
  told(reply.queries, reply.total, reply.use);
  if (asked !== query) return;
  marks = reply.marks;
  document.querySelectorAll("#columns .card").forEach(colour);
}

function colour(made) {
  const marked = marks[made.dataset.id];
  made.classList.toggle("relevant", marked === true);
  made.classList.toggle("not", marked === false);
  made.querySelector(".yes").setAttribute("aria-pressed", String(marked === true));
  made.querySelector(".no").setAttribute("aria-pressed", String(marked === false));
}

function told(queries, total, use) {
  byId("marked-count").textContent = total
    ? `${plural(total, "mark", "marks")} of ${plural(queries, "query", "queries")}; how to use them`
    : "Nothing marked yet";
  byId("marked-use").textContent = use;
}

const rank = place => place.rank === null ? "–" : number(place.rank);

function moved() {
  if (!answer.moves.length) return element("p", { class: "note" }, "Nothing: the first documents are the same, in the same order.");
  const rows = answer.moves.map(move => element("tr", {},
    element("th", { scope: "row" }, answer.documents[move.document].name, element("span", { class: "id" }, move.document)),
    element("td", { class: "number", "data-label": "base" }, rank(move.base)),
    element("td", { class: "number", "data-label": "tuned" }, rank(move.tuned)),
    element("td", { class: `number ${["entered", "up"].includes(move.kind) ? "up" : "down"}` }, move.kind),
    element("td", { class: "number", "data-label": "BM25" }, move.bm25 === null ? "0" : move.bm25.toFixed(1)),
    element("td", { class: "why" }, move.sentence)));
  const heads = ["document", "base", "tuned", "moved", "BM25", "why"];
  return element("table", {},
    element("thead", {}, element("tr", {}, heads.map(head => element("th", { scope: "col" }, head)))),
    element("tbody", {}, rows));
}

// One card at a time is a stop of the tabulator, with its buttons.
function current(made) {
  if (!made) return;
  for (const other of document.querySelectorAll("#columns .card")) {
    other.tabIndex = other === made ? 0 : -1;
    for (const button of other.querySelectorAll("button")) button.tabIndex = other === made ? 0 : -1;
  }
}

function keys(event) {
  const made = event.target.closest(".card");
  if (!made || isElsewhere(event)) return;
  const column = made.closest(".system"), cards = [...column.querySelectorAll(".card")], place = cards.indexOf(made);
  const go = card => card?.focus();
  const beside = step => {
    const columns = [...document.querySelectorAll("#columns .system")].filter(other => other.querySelector(".card"));
    const other = columns[columns.indexOf(column) + step];
    const there = other ? [...other.querySelectorAll(".card")] : [];
    go(there[Math.min(place, there.length - 1)]);
  };
  const actions = {
    j: () => go(cards[place + 1]), ArrowDown: () => go(cards[place + 1]),
    k: () => go(cards[place - 1]), ArrowUp: () => go(cards[place - 1]),
    l: () => beside(1), ArrowRight: () => beside(1), h: () => beside(-1), ArrowLeft: () => beside(-1),
    y: () => mark(made.dataset.id, true), n: () => mark(made.dataset.id, false), u: () => mark(made.dataset.id, null),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}
