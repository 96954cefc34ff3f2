// Small charts of the last five minutes: lines over time, drawn anew with each sample.

import { bound, byId, bytes, count, duration, el, few, say } from "./dom.js";

export const SPAN = 300_000;
const LEFT = 38;
const RIGHT = 4;
const TOP = 6;
const BOTTOM = 15;

const svg = (name, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

/** Return a round number that is no smaller: 1, 2 or 5 with noughts. */
function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((step) => step * power).find((each) => each >= number * 0.999999);
}

/** Return a round number of bytes, by powers of 1024. */
function roundUpBytes(number) {
  const power = 1024 ** Math.floor(Math.log2(number) / 10);
  const most = number / power;
  return power * (most <= 512 ? roundUp(most) : 1024);
}

class Chart {
  constructor(name, title, { lines, least, axis, round = roundUp }) {
    this.title = title;
    this.lines = lines;
    this.least = least;
    this.axis = axis;
    this.round = round;
    this.samples = [];
    this.at = null;
    this.value = el("p", { className: "chart-value" });
    this.note = el("p", { className: "chart-note" });
    this.plot = svg("svg", { role: "img" });
    this.element = el(
      "figure",
      { className: "card chart", "data-testid": `chart-${name}` },
      el("figcaption", { className: "chart-head" }, el("span", { className: "chart-title", textContent: title })),
      this.value,
      this.note,
      this.plot,
    );
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.point(null));
  }

  add(time, values) {
    this.samples.push({ time, values });
    while (this.samples[0].time < time - SPAN - 10_000) this.samples.shift();
    this.draw();
  }

  show(value, unit, note, warn = "") {
    this.current = [value, unit];
    if (this.at === null) this.write(value, unit);
    this.note.replaceChildren(note);
    if (warn) this.note.append(note ? " · " : "", el("span", { className: "warn", textContent: warn }));
  }

  write(value, unit) {
    this.value.replaceChildren(value, el("small", { textContent: unit }));
  }

  point(event) {
    this.at = event && event.clientX - this.plot.getBoundingClientRect().left;
    if (this.at === null && this.current) this.write(...this.current);
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    const height = this.plot.clientHeight;
    if (!width || !height) return;
    const now = this.samples.at(-1)?.time ?? 0;
    const values = this.samples.flatMap((each) => each.values ?? []);
    const top = this.round(Math.max(this.least, ...values));
    // At first a minute is wide enough.
    const age = now - (this.samples[0]?.time ?? now);
    const minutes = [1, 2, 5].find((each) => each * 60_000 >= age) ?? 5;
    const x = (time) => width - RIGHT - ((now - time) / (minutes * 60_000)) * (width - LEFT - RIGHT);
    const y = (value) => height - BOTTOM - (value / top) * (height - TOP - BOTTOM);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = Math.round(y(top * share)) + 0.5;
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
      parts.push(svg("text", { x: LEFT - 6, y: at + 3.5, "text-anchor": "end" }, this.axis(top * share)));
    }
    parts.push(svg("text", { x: LEFT, y: height - 3 }, `${minutes} min ago`));
    parts.push(svg("text", { x: width - RIGHT, y: height - 3, "text-anchor": "end" }, "now"));
    this.lines.forEach((name, line) => parts.push(...this.#line(name, line, x, y)));
    if (this.at !== null) parts.push(...this.#cursor(x, y, height));
    this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.plot.setAttribute("aria-label", `${this.title}, ${this.value.textContent}. ${this.note.textContent}`);
    this.plot.replaceChildren(...parts);
  }

  #line(name, line, x, y) {
    // What was not sampled, since the server was away, is a gap and no straight line.
    const runs = [[]];
    for (const { time, values } of this.samples) {
      if (values === null) runs.push([]);
      else if (x(time) >= LEFT) runs.at(-1).push([x(time).toFixed(1), y(values[line]).toFixed(1)]);
    }
    const parts = [];
    for (const run of runs.filter((each) => each.length)) {
      const points = run.map((each) => each.join(" ")).join("L");
      if (line === 0) {
        const [first, last] = [run[0][0], run.at(-1)[0]];
        parts.push(svg("path", { class: "area", d: `M${first} ${y(0)}L${points}L${last} ${y(0)}Z` }));
      }
      parts.push(svg("path", { class: `series ${name}`, d: `M${points}${run.length === 1 ? "h.1" : ""}` }));
    }
    return parts;
  }

  #cursor(x, y, height) {
    const known = this.samples.filter((each) => each.values !== null && x(each.time) >= LEFT);
    if (!known.length) return [];
    const distance = (each) => Math.abs(x(each.time) - this.at);
    const nearest = known.reduce((best, each) => (distance(each) < distance(best) ? each : best));
    const when = new Date(nearest.time).toLocaleTimeString("en-GB");
    this.write(nearest.values.map((each) => this.axis(each)).join(" / "), when);
    const at = Math.round(x(nearest.time)) + 0.5;
    return [svg("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: height - BOTTOM })];
  }
}

/** The four charts, fed with what `/internal/stats` answers. */
export class Charts {
  constructor() {
    const axis = (number) => (number >= 10_000 ? `${few(number / 1000)}k` : number >= 10 || number === 0 ? count(Math.round(number)) : String(+number.toFixed(2)));
    this.connections = new Chart("connections", "Connections", { lines: ["", "second"], least: 4, axis });
    this.rate = new Chart("rate", "Events per second", { lines: ["", "quiet"], least: 2, axis });
    this.latency = new Chart("latency", "Delivery latency", { lines: [""], least: 0.2, axis });
    this.log = new Chart("log", "Log size", {
      lines: [""],
      least: 65536,
      axis: (number) => (number ? bound(number).replace(/iB$/, "").replace(" ", "") : "0"),
      round: roundUpBytes,
    });
    this.all = [this.connections, this.rate, this.latency, this.log];
    this.meter = el("div", { className: "meter" }, el("span"));
    this.log.note.after(this.meter);
    byId("charts").replaceChildren(...this.all.map((each) => each.element));
    this.before = null;
    this.clear();
  }

  clear() {
    for (const each of this.all) {
      each.samples = [];
      each.show("–", "", "");
      each.draw();
    }
    this.meter.hidden = true;
    this.before = null;
  }

  /** Leave a gap: nothing is known of this moment. */
  gap() {
    const now = Date.now();
    for (const each of this.all) if (each.samples.length && each.samples.at(-1).values) each.add(now, null);
    this.before = null;
  }

  add(stats) {
    const now = Date.now();
    const { connections, events, log } = stats;
    const users = `${count(connections.users)} ${connections.users === 1 ? "user" : "users"}`;
    this.connections.add(now, [connections.total, connections.behind]);
    this.connections.show(count(connections.total), "", users, connections.behind ? `${count(connections.behind)} behind` : "");

    const before = this.before;
    // Sums over other servers than before say nothing of what happened in between.
    const nodes = (of) => (of.nodes ?? []).map((each) => each.node).join();
    if (before && stats.uptimeMs > before.uptimeMs && nodes(stats) === nodes(before)) {
      const seconds = (stats.uptimeMs - before.uptimeMs) / 1000;
      const durable = (events.durable - before.events.durable) / seconds;
      const transient = (events.transient - before.events.transient) / seconds;
      const sent = Math.max(0, (events.sent - before.events.sent) / seconds);
      this.rate.add(now, [durable + transient, durable]);
      const dropped = events.dropped > before.events.dropped ? "transient ones dropped" : "";
      this.rate.show(few(durable + transient), "/s", `${few(durable)} durable · ${few(sent)} deliveries/s`, dropped);
    }
    this.before = stats;

    this.latency.add(now, [events.averageLatencyMs]);
    this.latency.show(few(events.averageLatencyMs), "ms", "commit to outbox, average");

    this.log.add(now, [log.bytes]);
    const share = log.limit ? log.bytes / log.limit : 0;
    const percent = share < 0.01 && share > 0 ? "under 1" : count(Math.round(share * 100));
    const note = log.limit ? `${percent} % of ${bound(log.limit)}` : "no limit is set";
    const [size, unit] = bytes(log.bytes).split(" ");
    this.log.show(size, unit, note, share > 1 ? "above its limit" : "");
    this.meter.hidden = !log.limit;
    this.meter.firstChild.style.width = `${Math.min(100, share * 100)}%`;
    this.meter.dataset.high = share > 0.9;
    for (const each of this.all) each.draw();
    const servers = stats.nodes?.length > 1 ? ` · ${count(stats.nodes.length)} servers` : "";
    say(byId("facts"), `up ${duration(stats.uptimeMs)} · log at ${log.epoch}:${log.head}${servers}`);
  }
}
