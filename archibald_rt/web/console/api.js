// What is asked of the server. The token is kept in this tab's storage and sent in a header.

const KEPT_AS = "archibald_rt.token";

/** How many milliseconds an answer may take: one that hangs is to be seen, and not waited for. */
export const PATIENCE = 10_000;

const LONGER = 30_000; // What changes something waits for the disk.

/** The server doesn't take the token (any more). */
export class Refused extends Error {}

/** The server can't be reached. */
export class Unreachable extends Error {}

/** The server says no, with a sentence why. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEPT_AS),
  keep: (text) => sessionStorage.setItem(KEPT_AS, text),
  forget: () => sessionStorage.removeItem(KEPT_AS),
  /** Whether it can stand in a header at all. */
  possible: (text) => /^[\x21-\x7e]+$/.test(text),
};

/** Write a query; what is empty is left out. */
export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(given).toString();
  return text && `?${text}`;
}

/** Return the path of something of a user's. Raises `Problem` for the two names no browser can ask for. */
export function userPath(user, what) {
  if (user === "." || user === "..") {
    // However they are encoded: they are steps in a path (URL Standard, section 4.4).
    throw new Problem(0, "No browser can ask for a user of this name; “curl --path-as-is” can.");
  }
  return `internal/users/${encodeURIComponent(user)}/${what}`;
}

let skew = 0;

/** The time of day at the server, in milliseconds since 1970: the clock here may be wrong. */
export const now = () => Date.now() + skew;

function compareClocks(response) {
  const off = Date.parse(response.headers.get("Date")) - Date.now();
  // The header has whole seconds, and takes its time to come.
  if (Math.abs(off - skew) > 2000) skew = Math.abs(off) > 2000 ? off : 0;
}

/** Ask, and return the response. Raises `Refused`, `Problem` or `Unreachable`. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {
      cache: "no-store",
      // The server has no cookies; a login that a proxy asks for has.
      credentials: "same-origin",
      redirect: "error",
      ...options,
      headers: { Authorization: `Bearer ${token.get() ?? ""}`, ...options.headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the server doesn’t answer");
  }
  compareClocks(response);
  if (response.ok) return response;
  let detail = `status ${response.status}`;
  try {
    detail = (await response.json()).detail ?? detail;
  } catch {
    // A proxy's own page, perhaps: the status says enough.
  }
  if (response.status === 401) throw new Refused(detail);
  const ours = response.headers.get("Content-Type") === "application/problem+json";
  if (!ours && response.status >= 502) throw new Unreachable(detail); // a proxy's word
  throw new Problem(response.status, detail);
}

async function text(response) {
  try {
    return await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the answer was cut off");
  }
}

/** Ask and read to the end, for so long at most; a signal of the caller's ends it before. */
async function read(path, { signal, ...options } = {}, patience = PATIENCE, late = "the server doesn’t answer") {
  const abort = new AbortController();
  const end = () => abort.abort();
  signal?.addEventListener("abort", end);
  const timer = setTimeout(end, patience);
  try {
    const response = await ask(path, { ...options, signal: abort.signal });
    return { body: await text(response), date: Date.parse(response.headers.get("Date")) };
  } catch (error) {
    if (error.name === "AbortError" && !signal?.aborted) throw new Unreachable(late);
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
}

export async function get(path, options) {
  return JSON.parse((await read(path, options)).body);
}

/** Get a text, for what is to be read exactly. */
export async function getText(path, options) {
  return (await read(path, options)).body;
}

/** Ask what time it is there: not earlier than when it answers, and a second later at most. */
export async function askTime() {
  const { date } = await read("internal/stats");
  return (Number.isNaN(date) ? Date.now() : date) + 1000;
}

/** Post a JSON text. */
export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  const late = "the server doesn’t answer: it may have been done or not";
  return JSON.parse((await read(path, { method: "POST", body, headers }, LONGER, late)).body);
}
