// One user: the devices, the log page by page, and the end of all connections.

import { askTime, get, getText, now, post, query, userPath } from "./api.js";
import { byId, bytes, count, duration, el, explain, few, oneLine, readJson, say } from "./dom.js";
import { howText, stateText } from "./devices.js";
import { eventRow } from "./events.js";

const PAGE = 50;

export class User {
  constructor({ failed, mayEmit, emit, watch }) {
    this.failed = failed;
    this.mayEmit = mayEmit;
    this.dialog = byId("user");
    this.user = "";
    this.befores = [];
    this.after = "";
    this.next = null;
    this.timer = 0;
    byId("user-close").addEventListener("click", () => this.dialog.close());
    byId("user-emit").addEventListener("click", () => {
      this.dialog.close();
      emit(this.user);
    });
    byId("user-watch").addEventListener("click", () => {
      this.dialog.close();
      watch(this.user);
    });
    byId("user-kick").addEventListener("click", () => this.#ask());
    byId("confirm").addEventListener("close", () => {
      if (byId("confirm").returnValue === "yes") this.#kick(byId("confirm-revoke").checked);
    });
    byId("log-first").addEventListener("click", () => this.#turn("", []));
    byId("log-next").addEventListener("click", () => this.#turn(this.next, [...this.befores, this.after]));
    byId("log-back").addEventListener("click", () => this.#turn(this.befores.at(-1), this.befores.slice(0, -1)));
    // A click beside it closes it, as Escape does.
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.dialog.addEventListener("close", () => clearInterval(this.timer));
  }

  open(user) {
    this.user = user;
    byId("user-title").textContent = user;
    this.#result("");
    byId("user-devices").replaceChildren();
    byId("log-rows").replaceChildren();
    this.dialog.showModal();
    this.#refresh();
    this.#turn("", []);
    clearInterval(this.timer);
    this.timer = setInterval(() => this.#refresh(), 2000);
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  async #refresh() {
    const user = this.user;
    const kick = byId("user-kick");
    kick.disabled = !this.mayEmit();
    kick.title = kick.disabled ? "This takes an emit token" : "";
    try {
      const { connections } = await get(`internal/connections${query({ user, limit: 100 })}`);
      if (user !== this.user) return;
      this.devices = connections.length;
      const cards = connections.map((each) => card(each));
      const none = el("p", { className: "muted", textContent: "None is connected. Durable events wait in the log until one is." });
      byId("user-devices").replaceChildren(...(cards.length ? cards : [none]));
    } catch (error) {
      this.failed(error);
    }
  }

  async #turn(after, befores) {
    const user = this.user;
    let text;
    try {
      text = await getText(`${userPath(user, "events")}${query({ after, limit: PAGE })}`);
    } catch (error) {
      this.#result(error.message, true);
      this.failed(error);
      return;
    }
    if (user !== this.user) return;
    const page = readJson(text);
    [this.after, this.befores, this.next] = [after, befores, page.next];
    const rows = page.events.map((event) =>
      eventRow(event, { what: event.type, preview: oneLine(event.payload), kind: "durable", log: true }),
    );
    byId("log-rows").replaceChildren(...rows);
    const empty = byId("log-empty");
    empty.hidden = rows.length > 0;
    explain(empty, "Nothing is retained", "Durable events for this user, and durable broadcasts, are listed here once they are emitted.");
    byId("log-first").disabled = byId("log-back").disabled = befores.length === 0;
    byId("log-next").disabled = page.next === null;
    say(byId("log-page"), rows.length ? `Page ${befores.length + 1}, ${count(rows.length)} events` : "");
  }

  #ask() {
    const devices = this.devices ?? 0;
    const these = devices === 1 ? "One device is connected as" : `${count(devices)} devices are connected as`;
    const then = devices === 1 ? "It is closed with 4002 and comes" : "They are closed with 4002 and come";
    byId("confirm-text").textContent = `${these} ${this.user}. ${then} back if the token is still good.`;
    byId("confirm-revoke").checked = false;
    byId("confirm").returnValue = "";
    byId("confirm").showModal();
  }

  async #kick(revoke) {
    try {
      // By the server's clock: by one that is slow the newest tokens would stay good.
      const body = revoke ? { revokeBefore: new Date(await askTime()).toISOString() } : {};
      const { disconnected } = await post(userPath(this.user, "disconnect"), JSON.stringify(body));
      const devices = disconnected === 1 ? "One device was" : `${count(disconnected)} devices were`;
      this.#result(`${devices} disconnected${revoke ? ", and tokens issued until now are refused" : ""}.`);
      this.#refresh();
    } catch (error) {
      this.#result(error.message, true);
      this.failed(error);
    }
  }

  #result(words, bad = false) {
    byId("user-result").dataset.is = bad ? "bad" : "";
    say(byId("user-result"), words);
  }
}

function card(device) {
  const facts = {
    Connected: `${duration(now() - Date.parse(device.since))} ago`,
    Address: device.address ?? "–",
    Outbox: bytes(device.outboxBytes),
    Position: count(device.position),
    "Events sent": count(device.sent),
    "Transient dropped": count(device.dropped),
    "Last heard": device.silentMs === null ? "–" : `${duration(device.silentMs)} ago`,
    "Round trip": device.roundTripMs === null ? "–" : `${few(device.roundTripMs)} ms`,
  };
  const list = el("dl");
  for (const [name, value] of Object.entries(facts)) {
    list.append(el("div", {}, el("dt", { textContent: name }), el("dd", { textContent: value, title: value })));
  }
  const state = el("span", { className: `state ${device.state}`, textContent: stateText(device) });
  const how = el("span", { className: "id muted", textContent: howText(device) });
  return el("div", { className: "device-card" }, el("div", { className: "device-line" }, state, " ", how), list);
}
