import { byId, element, isElsewhere, number, plural, replace } from "/elements.js";

const GROUPS = {
  accepted: "accepted queries", borderline: "borderline queries", rejected: "rejected queries",
  negatives: "negatives trained on", dropped: "candidates taken for relevant",
};
let ask, start = 0, page = 20, total = 0, entered = false, under = null;

export function startReview(about, asking) {
  ask = asking;
  replace(byId("group"), Object.entries(GROUPS).map(([name, label]) =>
    element("option", { value: name }, `${label} (${number(about.groups[name])})`)));
  byId("group").addEventListener("change", () => load(0));
  byId("words").addEventListener("input", () => load(0));
  byId("choose").addEventListener("submit", event => event.preventDefault());
  byId("earlier").addEventListener("click", () => load(start - page, true));
  byId("later").addEventListener("click", () => load(start + page, true));
  byId("items").addEventListener("keydown", keys);
  byId("items").addEventListener("focusin", event => current(event.target.closest(".card")));
  byId("decided-use").textContent = about.next;
  told(about.decided);
  return { enter: () => { if (!entered) { entered = true; load(0); } byId("group").focus(); } };
}

async function load(from, focus = false) {
  under?.abort();
  under = new AbortController();
  let answer;
  try {
    const asked = { group: byId("group").value, words: byId("words").value, start: Math.max(0, from) };
    answer = await ask("/api/items", asked, under.signal);
  } catch (error) {
    return;
  }
  ({ start, page, total } = answer);
  replace(byId("items"), answer.items.map(card));
  const last = start + answer.items.length;
  byId("reviewed").textContent = total ? `${number(start + 1)} to ${number(last)} of ${number(total)}` : "None.";
  byId("earlier").disabled = start === 0;
  byId("later").disabled = last >= total;
  const first = byId("items").querySelector(".card");
  if (first) first.tabIndex = 0;
  if (focus) first?.focus();
}

function card(item) {
  const isNegative = item.positive !== null;
  const corrected = item.text !== null;
  const made = element("article", { class: `card ${item.decision ?? ""}`, tabindex: "-1", "data-key": item.key, "aria-label": `${item.query}; ${item.decision ?? "not decided"}` },
    element("p", { class: "query" }, corrected ? element("span", { class: "was" }, item.query) : item.query,
      corrected ? " " : null, corrected ? item.text : null),
    isNegative ? [element("h3", {}, "Answer"), shown(item.positive), element("h3", {}, "Negative")] : null,
    shown(item.document),
    element("p", { class: "note" }, item.why),
    element("div", { class: "choices" },
      choice(item, "accept", "yes", isNegative ? "is a negative" : "accept"),
      choice(item, "reject", "no", isNegative ? "is none" : "reject"),
      isNegative ? choice(item, "relevant", "yes", "answers, too")
        : element("button", { type: "button", class: "yes", "data-decision": "correct", "aria-pressed": String(item.decision === "correct"), onclick: () => edit(made, item) }, "correct")));
  made.item = item;
  tabs(made, false);
  return made;
}

function shown(found) {
  return element("div", {}, found.title ? element("p", { class: "title" }, found.title) : null,
    element("p", { class: "text" }, found.text), element("p", { class: "id" }, found.id));
}

function choice(item, decision, kind, label) {
  return element("button", { type: "button", class: kind, "data-decision": decision, "aria-pressed": String(item.decision === decision),
    onclick: event => decide(event.target.closest(".card"), item.decision === decision ? null : decision) }, label);
}

function edit(made, item) {
  if (made.querySelector(".edit")) return;
  const field = element("textarea", { maxlength: "2000" });
  field.value = item.text ?? item.query;
  const close = () => { form.remove(); made.focus(); };
  const save = () => { if (field.value.trim()) decide(made, "correct", field.value.trim()); };
  const form = element("form", { class: "edit", onsubmit: event => { event.preventDefault(); save(); } },
    element("label", {}, "the query as it should be", field),
    element("div", { class: "row" }, element("button", { type: "submit", class: "main" }, "Save"),
      element("button", { type: "button", onclick: close }, "Cancel")));
  form.addEventListener("keydown", event => {
    if (event.key === "Escape") { event.preventDefault(); close(); }
    if (event.key === "Enter" && !event.shiftKey && event.target === field) { event.preventDefault(); save(); }
  });
  made.append(form);
  field.focus();
  field.select();
}

async function decide(made, decision, text = null) {
  const hadFocus = made.contains(document.activeElement);
  let answer;
  try {
    const { key, query, copy_key } = made.item;
    answer = await ask("/api/decide", { key, query, copy_key, decision, text });
  } catch (error) {
    return;
  }
  const fresh = card(answer.item);
  made.replaceWith(fresh);
  told(answer.decided);
  if (hadFocus) (decision && fresh.nextElementSibling ? fresh.nextElementSibling : fresh).focus();
}

function told(decided) {
  byId("decided").textContent = decided ? `${plural(decided, "decision", "decisions")}; how to use them` : "No decisions yet";
}

function tabs(made, isCurrent) {
  made.tabIndex = isCurrent ? 0 : -1;
  for (const button of made.querySelectorAll(".choices button")) button.tabIndex = isCurrent ? 0 : -1;
}

function current(made) {
  if (made) for (const other of byId("items").querySelectorAll(".card")) tabs(other, other === made);
}

function keys(event) {
  const made = event.target.closest(".card");
  if (!made || isElsewhere(event)) return;
  const press = decision => made.querySelector(`[data-decision="${decision}"]`);
  const actions = {
    j: () => made.nextElementSibling?.focus(), ArrowDown: () => made.nextElementSibling?.focus(),
    k: () => made.previousElementSibling?.focus(), ArrowUp: () => made.previousElementSibling?.focus(),
    a: () => decide(made, "accept"), r: () => decide(made, "reject"), u: () => decide(made, null),
    e: () => press("correct") ? edit(made, made.item) : decide(made, "relevant"),
    "]": () => { if (!byId("later").disabled) load(start + page, true); },
    "[": () => { if (!byId("earlier").disabled) load(start - page, true); },
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}
