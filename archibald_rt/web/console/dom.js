// Elements, texts and numbers. All that comes from outside is put in as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** Make an element: properties by name, attributes where a name has a dash or is a role, children. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Replace a text where it differs, so that nothing is laid out anew for nothing. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fill what stands where a list is empty: what is so, and what to do next. */
export function explain(element, what, next) {
  element.replaceChildren(el("strong", { textContent: what }), document.createTextNode(next));
}

const whole = new Intl.NumberFormat("en");

export const count = (number) => whole.format(number);

/** Write a number in few digits: 0.21, 7.4, 128, 12,400. */
export function few(number) {
  if (number === 0 || number >= 100) return count(Math.round(number));
  return number >= 10 ? number.toFixed(1) : number.toFixed(2);
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let size = number;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${size} B` : `${few(size)} ${units[unit]}`;
}

/** Write how long something takes, in two units at most: 8s, 3m 05s, 2h 10m, 4d 3h. */
export function duration(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const two = (number) => String(number).padStart(2, "0");
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h ${two(Math.floor(seconds / 60) % 60)}m`;
  return `${Math.floor(seconds / 86400)}d ${Math.floor(seconds / 3600) % 24}h`;
}

/** Write a bound, which is a round number as a rule, without noughts. */
export const bound = (number) => bytes(number).replace(/(\.\d*?)0+(?= )/, "$1").replace(". ", " ");

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});

/** Write the time of day of a timestamp, here; a text that is none stays as it is. */
export function timeOf(timestamp) {
  const date = new Date(timestamp);
  return Number.isNaN(date.getTime()) ? String(timestamp) : clock.format(date);
}

const day = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short" });

/** Write the day as well, for what may be of last week. */
export function momentOf(timestamp) {
  const date = new Date(timestamp);
  return Number.isNaN(date.getTime()) ? String(timestamp) : `${day.format(date)} ${clock.format(date)}`;
}

const keepsSource = typeof JSON.rawJSON === "function";

/** Read JSON; numbers that this language can't hold keep the digits they were written with. */
export function readJson(text) {
  return JSON.parse(text, (_key, value, context) => {
    const source = context?.source;
    const exact = typeof value !== "number" || source === undefined || String(value) === source;
    return exact || !keepsSource ? value : JSON.rawJSON(source);
  });
}

/** Write a value on one line, cut off where nobody reads any further. */
export function oneLine(value) {
  const text = JSON.stringify(value) ?? "";
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
