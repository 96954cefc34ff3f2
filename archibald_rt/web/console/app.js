// The console: asks for a token, then looks at the server until it is taken away again.

import { Refused, Unreachable, get, token } from "./api.js";
import { Charts } from "./charts.js";
import { Devices } from "./devices.js";
import { byId, say } from "./dom.js";
import { Emit } from "./emit.js";
import { Events } from "./events.js";
import { Stream } from "./stream.js";
import { User } from "./user.js";

const EVERY = 2000;
const LONGEST = 30_000;

class App {
  constructor() {
    const failed = (error) => this.failed(error);
    const mayEmit = () => this.access === "emit";
    this.access = null;
    this.timer = 0;
    this.soon = 0;
    this.tries = 0;
    this.down = false;
    this.streaming = false;
    this.faults = "";
    this.refusedStream = "";
    this.charts = new Charts();
    this.events = new Events({ follow: () => this.stream.follow(this.events.path()) });
    this.stream = new Stream({
      open: () => {
        this.streaming = true;
        this.refusedStream = "";
        this.show();
      },
      data: (text) => this.take(text),
      lost: (error, wait) => this.lost(error, wait),
      refused: () => this.leave("The token is not accepted any more."),
    });
    this.emit = new Emit({ failed, mayEmit });
    this.user = new User({
      failed,
      mayEmit,
      emit: (user) => this.emit.open(user),
      watch: (user) => {
        byId("event-user").value = user;
        this.events.filter();
      },
    });
    this.devices = new Devices({ open: (user) => this.user.open(user) });
    this.devices.changed = () => this.look();
    this.#listen();
    if (token.get()) this.enter();
    else this.leave("");
  }

  #listen() {
    byId("gate-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.try(byId("token").value.trim());
    });
    byId("forget").addEventListener("click", () => this.leave(""));
    byId("open-emit").addEventListener("click", () => this.emit.open(this.events.user.value));
    byId("retry").addEventListener("click", () => this.look());
    document.addEventListener("keydown", (event) => {
      const typing = event.target.closest?.("input, textarea, select, dialog");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey && !byId("app").hidden) {
        event.preventDefault();
        byId("device-search").focus();
      }
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && token.get()) this.look();
    });
  }

  /** Try a token that was typed in. */
  async try(text) {
    const say_ = (words) => say(byId("gate-error"), words);
    if (!token.possible(text)) {
      say_(text ? "That is no token: it has spaces or letters that none has." : "Paste a token first.");
      byId("token").focus();
      return;
    }
    say_("");
    byId("connect").disabled = true;
    token.keep(text);
    try {
      await get("internal/stats");
      byId("token").value = "";
      this.enter();
    } catch (error) {
      token.forget();
      say_(error instanceof Refused ? "This token is not accepted." : `It can’t be tried: ${error.message}.`);
      byId("token").select();
    } finally {
      byId("connect").disabled = false;
    }
  }

  enter() {
    byId("gate").hidden = true;
    byId("app").hidden = false;
    this.show();
    this.events.clear();
    this.stream.follow(this.events.path());
    this.look();
    byId("devices").focus({ preventScroll: true });
  }

  /** Forget the token and all that was shown. */
  leave(words) {
    clearTimeout(this.timer);
    this.timer = 0;
    this.stream.stop();
    token.forget();
    [this.access, this.down, this.streaming, this.faults, this.tries] = [null, false, false, "", 0];
    if (byId("confirm").open) byId("confirm").close("no");
    this.user.close();
    this.emit.close();
    this.charts.clear();
    this.devices.clear();
    this.events.clear();
    this.events.pause(false);
    for (const id of ["user-devices", "log-rows", "user-title"]) byId(id).replaceChildren();
    for (const id of ["event-user", "event-type", "device-search", "emit-user", "job-user"]) byId(id).value = "";
    byId("app").hidden = true;
    byId("gate").hidden = false;
    say(byId("gate-error"), words);
    byId("token").value = "";
    byId("token").focus();
  }

  take(text) {
    if (text.startsWith('{"type":"rt.watching"')) {
      this.access = JSON.parse(text).payload.access;
      this.emit.permit();
      return;
    }
    // Somebody came, went or fell behind: that is to be seen at once, and in a storm twice a second.
    if (text.startsWith('{"type":"rt.')) this.soon ||= setTimeout(() => this.#lookAtDevices(), 500);
    this.events.take(text);
  }

  async #lookAtDevices() {
    this.soon = 0;
    if (!token.get()) return;
    try {
      await this.devices.refresh();
    } catch (error) {
      this.failed(error);
    }
  }

  lost(error, wait) {
    if (this.streaming) this.events.mark("The stream was interrupted: something may be missing here");
    this.streaming = false;
    // The server is there and says why not: as many watch as may.
    this.refusedStream = error && !(error instanceof Unreachable) && wait ? error.message : "";
    this.show();
  }

  /** Look at the figures and at who is connected, now and then again. */
  async look() {
    clearTimeout(this.timer);
    if (!token.get()) return;
    const mine = (this.looking = {});
    let wait = EVERY;
    try {
      const [stats] = await Promise.all([get("internal/stats"), this.devices.refresh()]);
      if (this.looking !== mine || !token.get()) return;
      const wasDown = this.down;
      [this.down, this.tries] = [false, 0];
      this.faults = [
        stats.draining ? "The server is draining: it takes nothing new and is about to end." : "",
        stats.log.fault === null ? "" : `Commits fail, and durable emissions are refused: ${stats.log.fault}`,
        stats.missing?.length ? `No answer from ${stats.missing.join(", ")}: what is there is missing here.` : "",
      ].filter(Boolean).join(" ");
      this.charts.add(stats);
      if (wasDown) this.stream.hurry();
    } catch (error) {
      if (this.looking !== mine) return;
      wait = this.failed(error);
      if (wait === null) return;
    }
    this.show();
    this.timer = setTimeout(() => this.look(), document.hidden ? Math.max(wait, 5 * EVERY) : wait);
  }

  /** Take note that a call failed; returns when to try again, null for never. */
  failed(error) {
    if (error instanceof Refused) {
      // The sentence of a call that takes an emit token is for those who made it.
      if (this.access === "read" && error.message.includes("an emit token") && !error.message.includes("read token")) return EVERY;
      this.leave("The token is not accepted any more.");
      return null;
    }
    if (error instanceof Unreachable) {
      this.down = true;
      this.charts.gap();
      const wait = Math.max(500, Math.random() * Math.min(LONGEST, 1000 * 2 ** this.tries));
      this.tries = Math.min(this.tries + 1, 5);
      this.show();
      return wait;
    }
    return EVERY;
  }

  show() {
    const is = this.down ? "down" : this.streaming ? "live" : "waiting";
    byId("status").dataset.is = is;
    say(byId("status-text"), { down: "Server gone", live: "Live", waiting: "Connecting…" }[is]);
    const gone = "The server doesn’t answer. What is shown is from before; the console goes on by itself as soon as it is back.";
    const refused = this.refusedStream && !this.streaming ? `Events can’t be followed for now: ${this.refusedStream}.` : "";
    const words = this.down ? gone : this.faults || refused;
    byId("notice").hidden = !words;
    byId("retry").hidden = !this.down;
    say(byId("notice-text"), words);
  }
}

new App();
