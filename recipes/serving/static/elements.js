// Elements are made here and nowhere else, and texts become text nodes: what stands in a document is never markup.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
}

export function replace(place, ...children) {
  place.replaceChildren(...children.flat());
}

export const byId = id => document.getElementById(id);

export const number = value => value.toLocaleString("en");

export function plural(count, one, many) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

// Whether a key is meant for a field, or for the browser.
export function isElsewhere(event) {
  const place = event.target;
  return event.ctrlKey || event.metaKey || event.altKey || place.matches("input, textarea, select");
}
