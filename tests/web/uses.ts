// How an application in TypeScript uses the client; what must not pass is marked as an error.
import { connect, type Gap, type Realtime, type RealtimeEvent } from "archibald-rt-client";

const rt: Realtime = connect("https://app.example.com", {
  token: async () => "a.b.c",
  from: "earliest",
  transport: "auto",
  store: { get: async (key) => localStorage.getItem(key), set: async () => {} },
});

type Job = { jobId: string; percent: number };

const undo: () => void = rt.on<Job>("JOB_PROGRESS", (event) => {
  const percent: number = event.payload.percent;
  console.log(percent.toFixed(), event.id?.length, event.timestamp);
});
rt.on("*", async (event: RealtimeEvent) => console.log(event.type));
rt.on("rt.state", ({ state, retryInMs }) => console.log(state.length, retryInMs?.toFixed()));
rt.on("rt.gap", (gap: Gap) => console.log(gap.reason));
rt.on("rt.live", ({ replayed, reconnected }) => console.log(replayed.toFixed(), reconnected));
rt.on("rt.error", ({ error, during }) => console.log(error, during));
const sent: boolean = rt.send({ type: "cancel", payload: { jobId: "7" } });
const closed: Promise<void> = rt.close();
console.log(undo, sent, closed, rt.cursor?.length, rt.transport === "sse");

// @ts-expect-error: there is no such state
console.log(rt.state === "open");
// @ts-expect-error: a token is needed
connect("https://app.example.com", {});
// @ts-expect-error: a message has a type
rt.send({ payload: 1 });
// @ts-expect-error: a gap has no percent
rt.on("rt.gap", (gap) => console.log(gap.percent));
