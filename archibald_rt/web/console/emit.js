// One event, or the whole life of a job, by the same calls that back ends make.

import { post } from "./api.js";
import { byId, count, say } from "./dom.js";

/** Wait, until the run is stopped at the latest. */
const pause = (run, milliseconds) =>
  new Promise((done) => {
    run.wake = done;
    setTimeout(done, milliseconds);
    if (run.stopped) done();
  });

export class Emit {
  constructor({ failed, mayEmit }) {
    this.failed = failed;
    this.mayEmit = mayEmit;
    this.dialog = byId("emit");
    this.running = null;
    byId("emit-close").addEventListener("click", () => this.dialog.close());
    byId("emit-one").addEventListener("click", () => this.#choose("one"));
    byId("emit-job").addEventListener("click", () => this.#choose("job"));
    byId("event-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#event();
    });
    byId("job-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#job();
    });
    byId("job-stop").addEventListener("click", () => this.stop());
  }

  open(user = "") {
    if (user) byId("emit-user").value = byId("job-user").value = user;
    byId("job-id").value ||= `job-${Math.floor(Math.random() * 9000 + 1000)}`;
    if (!this.running) this.#result("");
    this.permit();
    this.dialog.showModal();
    const first = byId("event-form").hidden ? byId("job-user") : byId("emit-user");
    if (this.mayEmit()) (first.value ? first.closest("form").querySelector("button.primary") : first).focus();
  }

  /** Let be filled in what the token is good for. */
  permit() {
    byId("emit-denied").hidden = this.mayEmit();
    for (const field of this.dialog.querySelectorAll("form :is(input, select, textarea, button)")) {
      field.disabled = !this.mayEmit();
    }
  }

  /** Leave it all as it is: what it takes to go on is gone. */
  close() {
    if (this.running) this.running.abandoned = true;
    this.stop();
    if (this.dialog.open) this.dialog.close();
  }

  stop() {
    if (!this.running) return;
    this.running.stopped = true;
    this.running.wake();
  }

  #choose(which) {
    byId("emit-one").setAttribute("aria-pressed", String(which === "one"));
    byId("emit-job").setAttribute("aria-pressed", String(which === "job"));
    byId("event-form").hidden = which !== "one";
    byId("job-form").hidden = which !== "job";
  }

  async #event() {
    const user = byId("emit-user").value;
    const payload = byId("emit-payload").value.trim() || "null";
    try {
      JSON.parse(payload);
    } catch (error) {
      this.#result(`The payload is no JSON: ${error.message}`, true);
      byId("emit-payload").focus();
      return;
    }
    const durable = byId("emit-durable").value;
    // The payload goes as it was written: read and written again, a long number would be another.
    const members = [`"type":${JSON.stringify(byId("emit-type").value)}`, `"payload":${payload}`];
    if (user) members.unshift(`"userId":${JSON.stringify(user)}`);
    if (durable) members.push(`"durable":${durable}`);
    try {
      const result = await post(user ? "internal/emit" : "internal/broadcast", `{${members.join(",")}}`);
      const kept = result.durable ? `Stored as ${result.id}` : "Not stored (transient)";
      this.#result(`${kept}, handed to ${count(result.delivered)} live ${result.delivered === 1 ? "device" : "devices"}.`);
    } catch (error) {
      this.#refused(error);
    }
  }

  async #job() {
    const value = (id) => byId(id).value.trim();
    const [user, job, end] = [byId("job-user").value, value("job-id"), value("job-end")];
    const steps = Math.min(100, Math.max(0, Math.floor(Number(value("job-steps")) || 0)));
    const wait = (Math.min(600, Math.max(0, Number(value("job-seconds")) || 0)) * 1000) / (steps + 1);
    const run = { stopped: false, abandoned: false, wake: () => {} };
    this.running = run;
    this.#busy(true);
    const tell = (type, payload) => post("internal/emit", JSON.stringify({ userId: user, type, payload: { jobId: job, ...payload } }));
    try {
      await tell("JOB_STARTED", { steps });
      for (let step = 1; step <= steps && !run.stopped; step += 1) {
        this.#result(`${job}: step ${step} of ${steps}`);
        await pause(run, wait);
        if (!run.stopped) await tell("JOB_PROGRESS", { step, steps, percent: Math.round((step / (steps + 1)) * 100) });
      }
      if (!run.stopped) await pause(run, wait);
      if (run.abandoned) return;
      const type = run.stopped ? "JOB_FAILED" : end;
      await tell(type, type === "JOB_FAILED" ? { error: run.stopped ? "stopped in the console" : "it was to fail" } : {});
      this.#result(`${job}: ${type === "JOB_FAILED" ? "failed" : "completed"}.`);
    } catch (error) {
      if (!run.abandoned) this.#refused(error);
    } finally {
      this.running = null;
      this.#busy(false);
    }
  }

  #busy(busy) {
    byId("job-stop").hidden = !busy;
    this.dialog.querySelector("#job-form .primary").hidden = busy;
    // The button that was pressed is gone.
    if (document.activeElement === document.body && this.dialog.open) byId(busy ? "job-stop" : "job-id").focus();
  }

  #refused(error) {
    this.#result(error.message, true);
    this.failed(error);
  }

  #result(words, bad = false) {
    byId("emit-result").dataset.is = bad ? "bad" : "";
    say(byId("emit-result"), words);
  }
}
