// What is asked of the server. The token is kept in this tab's storage and sent in a header.

const KEPT_AS = "archibald_rt.token";

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

/** Ask, and return the response. Raises `Refused`, `Problem` or `Unreachable`. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      ...options,
      headers: { Authorization: `Bearer ${token.get() ?? ""}`, ...options.headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the server doesn’t answer");
  }
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

export async function get(path, options) {
  return JSON.parse(await text(await ask(path, options)));
}

/** Get a text, for what is to be read exactly. */
export async function getText(path, options) {
  return text(await ask(path, options));
}

/** Post a JSON text. */
export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return JSON.parse(await text(await ask(path, { method: "POST", body, headers })));
}
