// Events as they happen, newest first: a bounded list, filtered by the server.

import { query } from "./api.js";
import { byId, count, el, explain, momentOf, oneLine, readJson, say, timeOf } from "./dom.js";

const SHOWN = 500;
const EVERY = 200; // Milliseconds between two looks at what has come: a flood is drawn in one go.

// Where there is just one server it has no name.
const at = (node) => (node ? `at ${node}` : "");

// A map, since types are anybody's: an object has members that nobody put there.
const HAPPENINGS = new Map([
  ["rt.connected", ({ protocol, address, node }) => ["connected", [protocol, address && `from ${address}`, at(node)].filter(Boolean).join(" ")]],
  ["rt.disconnected", ({ code, reason, node }) => ["disconnected", [code, reason, at(node)].filter(Boolean).join(" ")]],
  ["rt.state", ({ state, node }) => [state === "live" ? "is live" : "fell behind", at(node)]],
]);

/** Make a row of an event; its details are made when they are looked at. */
export function eventRow(event, { what, preview, kind, log = false }) {
  const user = event.userId === null ? "everybody" : event.userId;
  const details = el("details", { className: `event ${kind}` });
  const cells = [
    el("time", { textContent: log ? momentOf(event.timestamp) : timeOf(event.timestamp), title: event.timestamp }),
    el("span", { className: event.userId === null ? "all" : "user-id", textContent: user ?? "", title: user ?? "" }),
    el("span", { className: "what user-id", textContent: what, title: what }),
    el("span", { className: "count", textContent: event.delivered === undefined ? "" : `to ${count(event.delivered)}` }),
    el("span", { className: "preview", textContent: preview }),
  ];
  const shown = log ? [cells[0], cells[2], cells[4]] : cells;
  details.append(el("summary", {}, ...shown));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(body(event));
  });
  return el("li", { "data-testid": log ? "log-event" : "event" }, details);
}

function body(event) {
  const facts = el("dl");
  const add = (name, value) => facts.append(el("dt", { textContent: name }), el("dd", { textContent: value }));
  if (event.durable !== undefined) add("kept", event.durable ? "durable: in the log" : "transient: not stored");
  if (event.id) add("id", event.id);
  if (event.userId !== undefined) add("user", event.userId === null ? "everybody (a broadcast)" : event.userId);
  add("type", event.type);
  add("timestamp", event.timestamp);
  if (event.delivered !== undefined) add("delivered", `to ${count(event.delivered)} live ${event.delivered === 1 ? "device" : "devices"}`);
  return el("div", { className: "event-body" }, facts, el("pre", { textContent: JSON.stringify(event.payload, null, 2) }));
}

export class Events {
  constructor({ follow }) {
    this.list = byId("event-rows");
    this.user = byId("event-user");
    this.type = byId("event-type");
    this.pauseButton = byId("event-pause");
    this.follow = follow;
    this.waiting = [];
    this.seen = 0;
    this.lost = 0;
    this.paused = false;
    this.timer = 0;
    let typing = 0;
    for (const input of [this.user, this.type]) {
      input.addEventListener("input", () => {
        clearTimeout(typing);
        typing = setTimeout(() => this.filter(), 250);
      });
      input.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && input.value) {
          event.preventDefault();
          input.value = "";
          this.filter();
        }
      });
    }
    this.pauseButton.addEventListener("click", () => this.pause(!this.paused));
    byId("event-clear").addEventListener("click", () => this.clear());
  }

  path() {
    return `internal/stream${query({ user: this.user.value, type: this.type.value.trim() })}`;
  }

  /** Show only what is of this user and type from now on. */
  filter() {
    this.clear();
    this.follow();
  }

  clear() {
    this.waiting = [];
    this.seen = 0;
    this.lost = 0;
    this.list.replaceChildren();
    this.#say();
  }

  pause(paused) {
    this.paused = paused;
    this.pauseButton.setAttribute("aria-pressed", String(paused));
    this.flush();
  }

  /** Take a message of the stream. */
  take(text) {
    this.seen += 1;
    this.#keep({ text });
  }

  /** Say in the list that something is missing at this place. */
  mark(words) {
    if (this.list.childElementCount || this.waiting.length) this.#keep({ words });
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = 0;
    if (!this.paused) {
      const come = this.waiting;
      this.waiting = [];
      const rows = come.map((each) => this.#row(each)).filter(Boolean);
      this.list.prepend(...rows.reverse());
      while (this.list.childElementCount > SHOWN) this.list.lastElementChild.remove();
    }
    this.#say();
  }

  #keep(item) {
    this.waiting.push(item);
    if (this.waiting.length > SHOWN) this.waiting.splice(0, this.waiting.length - SHOWN);
    this.timer ||= setTimeout(() => this.flush(), EVERY);
  }

  #row({ text, words }) {
    if (words) return el("li", { className: "mark", textContent: words });
    const event = readJson(text);
    if (event.type === "rt.dropped") {
      this.lost += event.payload.count;
      return el("li", { className: "mark", textContent: `${count(event.payload.count)} more came faster than they could be shown` });
    }
    const happening = HAPPENINGS.get(event.type);
    if (happening) {
      const [what, preview] = happening(event.payload);
      const { userId, ...payload } = event.payload;
      return eventRow({ ...event, userId, payload }, { what, preview, kind: "happening" });
    }
    const kind = event.durable ? "durable" : "transient";
    return eventRow(event, { what: event.type, preview: oneLine(event.payload), kind });
  }

  #say() {
    const held = this.paused ? `paused, ${count(this.waiting.length)} waiting` : "";
    const all = this.seen ? `${count(this.seen)} seen` : "";
    say(byId("event-count"), held || all);
    const empty = byId("event-empty");
    empty.hidden = this.list.childElementCount > 0;
    if (empty.hidden) return;
    if (this.user.value || this.type.value) {
      explain(empty, "Nothing that matches has happened yet", "Events show up here as they are emitted. Empty the two fields to see all of them.");
    } else {
      explain(empty, "Nothing has happened yet", "Events and connections show up here as they happen. “Emit…” makes one.");
    }
  }
}
