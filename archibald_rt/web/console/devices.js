// Who is connected: a table whose rows stay where they are while their figures change.

import { get, now, query } from "./api.js";
import { byId, bytes, count, duration, el, explain, few, say } from "./dom.js";

export const SHOWN = 200;

/** What is known of a device by its kind, which one it is, and where, if there are several servers. */
export const howText = (device) => [device.protocol, device.connection, device.node].filter(Boolean).join(" · ");

export const stateText = (device) =>
  device.state === "live" ? "live" : device.behindBy ? `behind ≤ ${count(device.behindBy)}` : "behind";

export class Devices {
  constructor({ open }) {
    this.open = open;
    this.rows = new Map();
    this.body = byId("device-rows");
    this.search = byId("device-search");
    this.sort = byId("device-sort");
    this.abort = null;
    let typing = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.changed(), 150);
    });
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.search.value) {
        event.preventDefault();
        this.search.value = "";
        this.changed();
      }
    });
    this.sort.addEventListener("change", () => this.changed());
    this.changed = () => {};
  }

  clear() {
    this.abort?.abort();
    this.rows.clear();
    this.body.replaceChildren();
    say(byId("device-count"), "");
  }

  /** Ask who is connected, and show it. Raises as `api.ask`; a newer call takes an older one's place. */
  async refresh() {
    this.abort?.abort();
    const abort = new AbortController();
    this.abort = abort;
    const asked = query({ search: this.search.value.trim(), sort: this.sort.value, limit: SHOWN });
    try {
      const { connections, total } = await get(`internal/connections${asked}`, { signal: abort.signal });
      if (this.abort === abort) this.show(connections, total);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  show(connections, total) {
    const gone = new Set(this.rows.keys());
    let place = this.body.firstElementChild;
    for (const device of connections) {
      gone.delete(device.connection);
      let row = this.rows.get(device.connection);
      if (!row) {
        row = this.#row(device);
        this.rows.set(device.connection, row);
      }
      this.#fill(row, device);
      if (row.element === place) place = place.nextElementSibling;
      else this.body.insertBefore(row.element, place);
    }
    for (const connection of gone) {
      this.rows.get(connection).element.remove();
      this.rows.delete(connection);
    }
    const shown = connections.length;
    say(byId("device-count"), shown < total ? `${count(shown)} of ${count(total)}` : count(total));
    const empty = byId("device-empty");
    empty.hidden = shown > 0;
    if (shown === 0 && this.search.value.trim()) {
      explain(empty, "Nobody like that is connected", "The search looks at users, addresses and connections. Escape empties it.");
    } else if (shown === 0) {
      explain(empty, "Nobody is connected", "Devices show up here as soon as they connect to /ws/realtime or /events on the public listener.");
    }
  }

  #row(device) {
    const name = el("button", { type: "button", className: "link user-id", textContent: device.userId, title: device.userId });
    name.addEventListener("click", () => this.open(device.userId));
    const how = el("span", { className: "sub", textContent: howText(device) });
    const state = el("span", { className: "state" });
    const cells = {
      outbox: el("td", { className: "num" }),
      trip: el("td", { className: "num wide" }),
      address: el("td", { className: "wide" }),
      since: el("td", { className: "num" }),
    };
    const element = el("tr", { "data-testid": "device" }, el("td", {}, name, how), el("td", {}, state), ...Object.values(cells));
    return { element, state, ...cells };
  }

  #fill(row, device) {
    row.state.classList.toggle("behind", device.state !== "live");
    say(row.state, stateText(device));
    row.state.title = device.state === "live" ? "" : "Events of all users in the log after what it has read: it is owed at most as many";
    say(row.outbox, device.outboxBytes ? bytes(device.outboxBytes) : "0");
    row.outbox.classList.toggle("heavy", device.outboxBytes >= 65536);
    say(row.trip, device.roundTripMs === null ? "–" : `${few(device.roundTripMs)} ms`);
    say(row.address, device.address ?? "–");
    row.address.title = device.address ?? "";
    say(row.since, duration(now() - Date.parse(device.since)));
  }
}
