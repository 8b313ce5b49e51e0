import { byId, number } from "/elements.js";
import { startReview } from "/review.js";
import { startSearch } from "/search.js";

// The token stands behind # in the printed address, which browsers send to nobody; from there it goes into this tab's
// storage, which other ports of this machine cannot read, as they could a cookie.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", "/");
}

// The address of a server that was started anew, in an open tab, is another fragment and nothing more.
addEventListener("hashchange", () => location.reload());

// Before the server has said what there is to search, too: the browser would load the page anew.
byId("ask").addEventListener("submit", event => event.preventDefault());

const trouble = byId("trouble");

async function ask(path, body, signal) {
  const options = { signal, headers: { authorization: `Bearer ${sessionStorage.getItem("token")}` } };
  if (body) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    say("The server does not answer; start sharpen serve again, and open the address that it prints.");
    throw error;
  }
  const answer = await reply.json().catch(error => {
    if (error.name === "AbortError") throw error;
    return { error: `The server failed (${reply.status}); see its terminal.` };
  });
  if (!reply.ok || answer.error) {
    say(answer.error);
    throw new Error(answer.error);
  }
  say("");
  return answer;
}

function say(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

function show(view) {
  for (const name of ["search", "review"]) {
    byId(name).hidden = name !== view;
    if (name === view) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
}

async function start() {
  if (!sessionStorage.getItem("token")) {
    say("Open the address that sharpen serve has printed, with all that stands behind #.");
    return;
  }
  const about = await ask("/api/about");
  document.title = `${about.run} · sharpen`;
  byId("run").textContent = about.run;
  byId("about").textContent = `${number(about.documents)} documents · marks and decisions by ${about.who}`;
  const search = startSearch(about, ask), review = startReview(about, ask);
  byId("to-search").addEventListener("click", () => { show("search"); search.enter(); });
  byId("to-review").addEventListener("click", () => { show("review"); review.enter(); });
  search.enter();
}

start().catch(error => { if (trouble.hidden) say(String(error.message)); });
