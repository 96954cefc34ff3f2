// Server-Sent Events by fetch: an EventSource sends no header, and a token belongs in no address.

import { PATIENCE, Problem, Refused, Unreachable, ask } from "./api.js";

const LONGEST = 30_000;
const SILENT = 45_000; // The server writes at least a comment every 15 s.

/** Follow the traffic until stopped. Calls `on.open`, `on.data(text)`, `on.lost(error, ms)`, `on.refused`. */
export class Stream {
  constructor(on) {
    this.on = on;
    this.path = "";
    this.abort = null;
    this.timer = 0;
    this.tries = 0;
  }

  /** Begin, or begin anew with other filters. */
  follow(path) {
    this.stop();
    this.path = path;
    this.tries = 0;
    this.#connect();
  }

  /** Try now, if it waits to. */
  hurry() {
    if (this.timer) {
      clearTimeout(this.timer);
      this.timer = 0;
      this.#connect();
    }
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.abort?.abort();
    this.abort = null;
  }

  async #connect() {
    const abort = new AbortController();
    this.abort = abort;
    let error = null;
    const late = setTimeout(() => abort.abort(), PATIENCE);
    try {
      const response = await ask(this.path, { signal: abort.signal });
      clearTimeout(late);
      if (this.abort !== abort) return;
      this.tries = 0;
      this.on.open();
      error = await this.#read(response.body.getReader(), abort);
    } catch (raised) {
      error = raised.name === "AbortError" ? new Unreachable("the server doesn’t answer") : raised;
    } finally {
      clearTimeout(late);
    }
    if (this.abort !== abort) return;
    this.abort = null;
    if (error instanceof Refused) {
      this.on.refused();
      return;
    }
    const most = Math.min(LONGEST, 1000 * 2 ** this.tries);
    const wait = error instanceof Problem ? most : Math.random() * most;
    this.tries = Math.min(this.tries + 1, 5);
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.#connect();
    }, wait);
    this.on.lost(error, wait);
  }

  async #read(reader, abort) {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const watchdog = setTimeout(() => reader.cancel().catch(() => {}), SILENT);
      let step;
      try {
        step = await reader.read();
      } finally {
        clearTimeout(watchdog);
      }
      if (step.done || this.abort !== abort) return null;
      const parts = (rest + decoder.decode(step.value, { stream: true })).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const line = part.split("\n").find((each) => each.startsWith("data: "));
        if (line === undefined) continue;
        if (part.startsWith("event: rt.close\n")) {
          const { code, reason } = JSON.parse(line.slice(6)).payload;
          return code === 1008 ? new Refused(reason) : new Error(reason);
        }
        this.on.data(line.slice(6));
      }
    }
  }
}
