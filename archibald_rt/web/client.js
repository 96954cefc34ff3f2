/**
 * The client of archibald_rt for browsers and Node: one user's events, each durable one once and in
 * order, over lost connections, reloads and restarts. One module, no dependencies, no build step.
 *
 *     import { connect } from "https://app.example.com/client.js";
 *
 *     const rt = connect("https://app.example.com", { token: () => fetchToken() });
 *     rt.on("JOB_COMPLETED", (event) => show(event.payload));
 *
 * Its manual is docs/javascript.md.
 */

/**
 * An event as it arrived.
 *
 * @template [T=any]
 * @typedef {object} RealtimeEvent
 * @property {string} type
 * @property {T} payload
 * @property {string} timestamp RFC 3339, as the emitter or the server wrote it.
 * @property {string | null} id Its cursor; null for a transient event, which is never replayed.
 * @property {string} raw The message's text, for numbers that JavaScript's can't hold.
 */

/** @typedef {"connecting" | "connected" | "reconnecting" | "disconnected"} State */

/** @typedef {"websocket" | "sse"} Transport */

/**
 * What changed, or which try failed.
 *
 * @typedef {object} StateChange
 * @property {State} state
 * @property {number} [code] The close code of the connection that ended; 1006 where there was none.
 * @property {string} [reason]
 * @property {number} [retryInMs] When the next try begins.
 */

/**
 * Durable events are gone, or can't be told apart from those that were had.
 *
 * @typedef {object} Gap
 * @property {string} requested
 * @property {string | null} missingThrough
 * @property {"expired" | "epoch" | "ahead"} reason
 */

/**
 * A connection's backlog was handled; what follows is live.
 *
 * @typedef {object} Live
 * @property {string} cursor
 * @property {number} replayed How many events the backlog had.
 * @property {boolean} reconnected Whether there was a connection before this one.
 */

/**
 * The server refused the token; a function is asked for another one.
 *
 * @typedef {object} Unauthorized
 * @property {number} code 1008 refused, 4001 expired, 4002 kicked or revoked.
 * @property {string} reason
 */

/**
 * Something failed that the stream outlives.
 *
 * @typedef {object} Failure
 * @property {unknown} error
 * @property {"handler" | "token" | "store" | "protocol"} during
 */

/**
 * What `on` tells of the client itself. The server reserves the names beginning `rt.`, so they are
 * never an event's type.
 *
 * @typedef {{
 *   "rt.state": StateChange,
 *   "rt.gap": Gap,
 *   "rt.live": Live,
 *   "rt.unauthorized": Unauthorized,
 *   "rt.error": Failure,
 * }} Told
 */

/**
 * Where the cursor of the last event that was handled is kept. Both may be asynchronous.
 *
 * @typedef {object} CursorStore
 * @property {(key: string) => string | null | undefined | Promise<string | null | undefined>} get
 * @property {(key: string, cursor: string) => unknown} set
 */

/**
 * @typedef {object} Options Durations are in milliseconds.
 * @property {string | (() => string | Promise<string>)} token A JSON Web Token, or what gives a
 *   fresh one: it is called at each connect, and before the one in use expires.
 * @property {CursorStore | null} [store] By default `sessionStorage`, or memory where there is none;
 *   null: none.
 * @property {string} [from] Where to begin if the store holds no cursor: a cursor, or `earliest` for
 *   all that is retained. By default with what comes from now on.
 * @property {"auto" | Transport} [transport] `auto`: WebSocket, or Server-Sent Events where
 *   WebSockets don't get through.
 * @property {new (url: string, protocols: string[]) => any} [WebSocket] By default the global
 *   one, which Node has from version 22 on.
 * @property {typeof fetch} [fetch] By default the global one.
 * @property {number} [backoffMin] 1000: the first wait is a random time of at most this,
 * @property {number} [backoffMax] 30000: doubled with every failure up to this.
 * @property {number} [connectTimeout] 10000: how long connecting may take.
 * @property {number} [pingAfter] 25000: after a silence of this to twice this it asks the server.
 * @property {number} [pongWithin] 10000: an unanswered question ends the connection after this.
 * @property {number} [websocketAgainAfter] 600000: how long it stays with Server-Sent Events before
 *   a connect tries a WebSocket again.
 * @property {number} [maxQueued] 16777216: how many characters of messages wait for handlers before
 *   it stops to receive.
 */

/** @typedef {{ code: number, reason: string }} Closed */

const SUBPROTOCOL = "archibald.v2";
const ABNORMAL = 1006;
const RESERVED = "rt.";
const NO_TOKEN = "the token has to be a JSON Web Token";
const NO_CURSOR = "a store has to give a cursor, which is a text, or null";
const TOKEN = /^[\w.-]+$/;
const TOLD = new Set(["rt.state", "rt.gap", "rt.live", "rt.unauthorized", "rt.error"]);

// The close codes of docs/protocol.md after which only a new token helps, and after which a client
// doesn't return by itself. After any other it resumes.
const NEEDS_TOKEN = new Set([1008, 4001, 4002]);
const FINAL = new Set([1009, 4003, 4005]);

// So many WebSockets in a row that came to nothing make it try Server-Sent Events.
const BLOCKED_AFTER = 2;

// A token is replaced when this share of what it had left is over.
const REFRESH_AT = 0.8;

// A queue that is never empty loses the places of what was handled in pieces; one by one is slow.
const FORGOTTEN = 1024;

// Timers overflow beyond this and fire at once.
const LONGEST_TIMER = 2 ** 31 - 1;

const DEFAULTS = {
  backoffMin: 1000,
  backoffMax: 30_000,
  connectTimeout: 10_000,
  pingAfter: 25_000,
  pongWithin: 10_000,
  websocketAgainAfter: 600_000,
  maxQueued: 16 * 1024 * 1024,
};

// Those that no timer waits for.
const UNTIMED = new Set(["websocketAgainAfter", "maxQueued"]);

/**
 * Connects to the server at `url` (its public address, also relative to the page's) and stays
 * connected until `close()`. Handlers that are given with `on` before anything is awaited miss
 * nothing.
 *
 * Throws TypeError for an address, a token or a transport that can't be one.
 *
 * @param {string | URL} url
 * @param {Options} options
 * @returns {Realtime}
 */
export function connect(url, options) {
  return new Realtime(url, options);
}

/** A user's stream of events; `connect` makes one. */
export class Realtime {
  #endpoints;
  #options;
  /** @type {CursorStore} */
  #store;
  #handlers = new Handlers();
  #inbox;
  /** @type {State} */
  #state = "connecting";
  #closed = false;
  #place = new Place(null);
  /** @type {string | null} */
  #key = null;

  /** @type {Connection | null} */
  #connection = null;
  #everConnected = false;
  #attempts = 0;
  #blocked = 0;
  #stayWithStreamUntil = 0;
  /** @type {string | null} */
  #spareToken = null;
  /** @type {{ end: () => void, patient: boolean } | null} */
  #waiting = null;
  #stopListening;

  /**
   * @param {string | URL} url
   * @param {Options} options
   */
  constructor(url, options) {
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    /** @type {Options & typeof DEFAULTS} */
    this.#options = { ...DEFAULTS, ...options, ...Object.fromEntries(given) };
    this.#endpoints = endpoints(url);
    checkOptions(this.#options);
    this.#store = options.store === undefined ? tabStore() : (options.store ?? NO_STORE);
    this.#inbox = new Inbox(this.#handlers, (cursor) => this.#store.set(this.#key ?? "", cursor));
    this.#stopListening = whenAwake(() => this.#wake());
    void this.#run();
  }

  /** The state the connection is in. */
  get state() {
    return this.#state;
  }

  /** How it is connected; null when it isn't. @returns {Transport | null} */
  get transport() {
    return this.#connection?.welcomed ? this.#connection.transport : null;
  }

  /** The cursor of the last event whose handlers are done; null before the first connect. */
  get cursor() {
    return this.#inbox.cursor;
  }

  /**
   * Calls `handler` for each event of a type, of every type (`*`), or for what the client tells of
   * itself (`rt.state` and the others of `Told`). Returns what undoes it.
   *
   * Events come one after the other: the next one waits until all handlers have returned and the
   * promises they gave are settled. Then the event is handled, its cursor is stored, and it doesn't
   * come again. A handler that throws, or whose promise is rejected, is told as `rt.error` (or
   * reported as an uncaught error where nobody listens to that), and its event is handled, too.
   *
   * Throws TypeError for a name beginning `rt.` that isn't told.
   *
   * @template {keyof Told} K
   * @overload
   * @param {K} type
   * @param {(told: Told[K]) => unknown} handler
   * @returns {() => void}
   */
  /**
   * @template [T=any]
   * @overload
   * @param {string} type
   * @param {(event: RealtimeEvent<T>) => unknown} handler
   * @returns {() => void}
   */
  /**
   * @param {string} type
   * @param {(given: any) => unknown} handler
   * @returns {() => void}
   */
  on(type, handler) {
    if (type.startsWith(RESERVED) && !TOLD.has(type)) {
      throw new TypeError(`nothing is told as ${type}, only ${[...TOLD].join(", ")}`);
    }
    return this.#handlers.add(type, handler);
  }

  /**
   * Sends a message to the server's application. Returns whether it was handed to the socket, which
   * is no proof that it arrived: false when not connected, and over Server-Sent Events.
   *
   * Throws TypeError unless it is an object with a text as `type`, one not beginning `rt.`.
   *
   * @param {{ type: string, [name: string]: unknown }} message
   * @returns {boolean}
   */
  send(message) {
    if (typeof message?.type !== "string" || message.type.startsWith(RESERVED)) {
      throw new TypeError("a message is an object with a type, one not beginning rt.");
    }
    return this.#connection?.welcomed ? this.#connection.send(JSON.stringify(message)) : false;
  }

  /**
   * Tries at once instead of waiting, also after the server had ended it for good. While connected,
   * and after `close()`, it does nothing.
   */
  reconnect() {
    this.#waiting?.end();
  }

  /**
   * Ends the connection for good; twice is fine. No further event is handled after that. The promise
   * waits for the one whose handlers are at work, and for the store.
   *
   * @returns {Promise<void>}
   */
  close() {
    if (!this.#closed) {
      this.#closed = true;
      this.#stopListening();
      this.#connection?.end({ code: 1000, reason: "closed" });
      this.#waiting?.end();
      this.#setState({ state: "disconnected", code: 1000, reason: "closed" });
    }
    return this.#inbox.close();
  }

  async #run() {
    while (!this.#closed) {
      const end = await this.#connectOnce();
      if (this.#closed) return;
      await this.#waitAfter(end);
    }
  }

  /** @returns {Promise<End>} */
  async #connectOnce() {
    /** @type {Failure["during"]} */
    let during = "token";
    try {
      const token = this.#spareToken ?? (await this.#askForToken());
      this.#spareToken = null;
      during = "store";
      await this.#findPlace(token);
      return await this.#attempt(token);
    } catch (error) {
      if (!this.#closed) this.#handlers.fail(error, during);
      return { code: ABNORMAL, reason: `${during}: ${error}` };
    }
  }

  async #askForToken() {
    const { token } = this.#options;
    const given = typeof token === "function" ? await token() : token;
    // Said without its text: an error ends in logs.
    if (typeof given !== "string" || !TOKEN.test(given)) throw new TypeError(NO_TOKEN);
    return given;
  }

  /** Begins where the store says; anew for another user, whose place is another. @param {string} token */
  async #findPlace(token) {
    const claims = claimsOf(token);
    const key = `archibald_rt ${this.#endpoints.base} ${claims.userId ?? claims.sub ?? ""}`;
    if (key === this.#key) return;
    // An empty text is no place: by it the server would begin anew at each connect.
    const stored = (await this.#store.get(key)) || null;
    if (stored !== null && typeof stored !== "string") throw new TypeError(NO_CURSOR);
    await this.#inbox.settled();
    this.#key = key;
    this.#place = new Place(stored ?? (this.#options.from || null));
    this.#inbox.begin(stored);
  }

  /** @param {string} token @returns {Promise<End>} */
  async #attempt(token) {
    /** @type {End} */
    let end = { code: ABNORMAL, reason: "" };
    for (const transport of this.#transports()) {
      if (this.#closed) break;
      end = await this.#stayConnected(transport, token);
      const answered = end.welcomed || end.code !== ABNORMAL;
      if (transport === "websocket") this.#blocked = answered ? 0 : this.#blocked + 1;
      else if (!answered) this.#stayWithStreamUntil = 0;
      if (answered) break;
    }
    return end;
  }

  /** @returns {Transport[]} */
  #transports() {
    const { transport, WebSocket: own } = this.#options;
    if (transport === "websocket" || transport === "sse") return [transport];
    if (!(own ?? globalThis.WebSocket) || now() < this.#stayWithStreamUntil) return ["sse"];
    // Both, one right after the other: what only the second one gets through is no outage.
    return this.#blocked < BLOCKED_AFTER ? ["websocket"] : ["websocket", "sse"];
  }

  /** @param {Transport} transport @param {string} token */
  async #stayConnected(transport, token) {
    const place = this.#place;
    const connection = new Connection(transport, this.#options, (message, text) =>
      this.#take(connection, place, message, text),
    );
    this.#connection = connection;
    connection.open(this.#endpoints, token, place.position, () => this.#room());
    const end = await connection.ended;
    this.#connection = null;
    return end;
  }

  /** Resolves when there is room for more. */
  #room() {
    const full = this.#inbox.queued > this.#options.maxQueued;
    return full ? this.#inbox.drained() : Promise.resolve();
  }

  /**
   * @param {Connection} connection
   * @param {Place} place
   * @param {any} message
   * @param {string} text
   */
  #take(connection, place, message, text) {
    if (!connection.welcomed) {
      if (message.type === "rt.close") return connection.end(message.payload);
      if (message.type !== "rt.welcome") throw new Breach("the first message was no rt.welcome");
      this.#welcomed(connection, place, message);
      return;
    }
    const { type, payload } = message;
    if (!type.startsWith(RESERVED)) this.#takeEvent(connection, place, message, text);
    else if (type === "rt.gap") {
      place.gap(payload);
      this.#inbox.put("rt.gap", payload, place.position, 0);
    } else if (type === "rt.live") {
      const { cursor, replayed } = payload;
      const { reconnected } = connection;
      connection.live = true;
      place.live();
      this.#inbox.put("rt.live", { cursor, replayed, reconnected }, place.position, 0);
    } else if (type === "rt.auth") this.#replaceLater(connection, payload.expires, message);
    else if (type === "rt.reconnect") connection.afterMs = payload.afterMs;
    else if (type === "rt.close") connection.end(payload);
    // Any other is of a later server, and asks nothing of this client.
  }

  /** @param {Connection} connection @param {Place} place @param {any} message */
  #welcomed(connection, place, message) {
    place.welcome(message.payload.cursor);
    connection.welcome();
    connection.reconnected = this.#everConnected;
    this.#everConnected = true;
    if (connection.transport === "sse") {
      this.#stayWithStreamUntil = now() + this.#options.websocketAgainAfter;
    }
    if (this.#inbox.cursor === null) this.#inbox.handled(place.position);
    const { exp } = claimsOf(connection.token);
    this.#replaceLater(connection, typeof exp === "number" ? exp * 1000 : null, message);
    this.#setState({ state: "connected" });
  }

  /**
   * @param {Connection} connection
   * @param {Place} place
   * @param {any} message
   * @param {string} text
   */
  #takeEvent(connection, place, message, text) {
    const { type, payload, timestamp, id = null, prev } = message;
    if (id !== null && !place.durable(id, prev)) return;
    connection.progressed ||= id !== null;
    this.#inbox.put(type, { type, payload, timestamp, id, raw: text }, id, text.length);
    if (this.#inbox.queued > this.#options.maxQueued && connection.transport === "websocket") {
      // A WebSocket can't be told to wait. What comes later is in the log.
      connection.end({ code: ABNORMAL, reason: "handlers are behind", again: true });
    }
  }

  /**
   * Gets a new token before the one in use expires, by the server's clock: the message that it is
   * counted from has the time there, whatever the device's own clock says.
   *
   * @param {Connection} connection
   * @param {number | string | null} expires
   * @param {{ timestamp: string }} message
   */
  #replaceLater(connection, expires, message) {
    if (expires === null || typeof this.#options.token !== "function") return;
    const left = new Date(expires).getTime() - Date.parse(message.timestamp);
    const expiry = now() + left;
    const schedule = () => {
      const wait = Math.max((expiry - now()) * REFRESH_AT, this.#options.backoffMin);
      if (now() + wait < expiry) connection.later(wait, replace);
    };
    const replace = async () => {
      /** @type {string | null} */
      let token = null;
      try {
        token = await this.#askForToken();
      } catch (error) {
        if (!this.#closed) this.#handlers.fail(error, "token");
      }
      // One that is no better is of no use: it is asked for once more, and sooner each time.
      if (token !== null && outlives(token, connection.token)) this.#replaceToken(connection, token);
      else schedule();
    };
    schedule();
  }

  /** @param {Connection} connection @param {string} token */
  #replaceToken(connection, token) {
    if (this.#connection !== connection) return;
    if (connection.send(JSON.stringify({ type: "rt.auth", payload: { token } }))) {
      connection.token = token;
    } else {
      this.#spareToken = token;
      connection.end({ code: ABNORMAL, reason: "a new token", again: true });
    }
  }

  /** @param {End} end */
  async #waitAfter(end) {
    const { code, reason, error } = end;
    if (error !== undefined) this.#handlers.fail(error, "protocol");
    if (end.lasted && (error === undefined || end.progressed)) this.#attempts = 0;
    const refused = NEEDS_TOKEN.has(code);
    if (refused) this.#handlers.tell("rt.unauthorized", { code, reason });
    if (this.#closed) return;
    const state = this.#everConnected ? "reconnecting" : "connecting";
    if (FINAL.has(code) || (refused && typeof this.#options.token !== "function")) {
      await this.#waitTelling({ state: "disconnected", code, reason }, null, true);
      if (!this.#closed) this.#setState({ state });
      return;
    }
    // The server's own wait keeps a crowd apart, so nothing cuts it short.
    const asked = end.afterMs !== undefined;
    const retryInMs = Math.round(end.afterMs ?? this.#backoff(end, refused));
    await this.#waitTelling({ state, code, reason, retryInMs }, retryInMs, asked);
    if (end.again) await this.#inbox.drained();
  }

  /** @param {End} end @param {boolean} refused @returns {number} */
  #backoff(end, refused) {
    if (end.again) return 0;
    const { backoffMin, backoffMax } = this.#options;
    const ceiling = Math.min(backoffMax, backoffMin * 2 ** this.#attempts);
    this.#attempts += 1;
    // A first refusal is an old token, most times: a new one mends it at once.
    return refused && this.#attempts === 1 ? 0 : Math.random() * ceiling;
  }

  /**
   * Tells of a change, and waits; a handler of it may already end the wait.
   *
   * @param {StateChange} change
   * @param {number | null} ms
   * @param {boolean} patient
   */
  async #waitTelling(change, ms, patient) {
    const waited = this.#wait(ms, patient);
    this.#setState(change);
    await waited;
  }

  /** @param {number | null} ms @param {boolean} patient @returns {Promise<void>} */
  #wait(ms, patient) {
    return new Promise((resolve) => {
      const timer = ms === null ? undefined : setTimeout(() => end(), ms);
      const end = () => {
        clearTimeout(timer);
        this.#waiting = null;
        resolve();
      };
      this.#waiting = { end, patient };
    });
  }

  /** The page is seen again, or the network is back. */
  #wake() {
    if (this.#waiting && !this.#waiting.patient) this.#waiting.end();
    this.#connection?.probe();
  }

  /** @param {StateChange} change */
  #setState(change) {
    // A handler of something else may have closed it just now.
    if (this.#closed && change.state !== "disconnected") return;
    this.#state = change.state;
    this.#handlers.tell("rt.state", change);
  }
}

/**
 * Why a connection ended, and what it had come to.
 *
 * @typedef {object} Outcome
 * @property {unknown} [error] How the server broke the protocol.
 * @property {boolean} [again] Whether the client ended it to begin another one.
 * @property {boolean} [welcomed]
 * @property {boolean} [lasted] Whether it went live and stayed for a while.
 * @property {boolean} [progressed] Whether a durable event came.
 * @property {number | undefined} [afterMs] When to return, as the server asked for.
 */

/** @typedef {Closed & Outcome} End */

/** One connection, by whichever transport: its timeouts, and its end. */
class Connection {
  token = "";
  welcomed = false;
  live = false;
  reconnected = false;
  progressed = false;
  /** @type {number | undefined} */
  afterMs = undefined;
  /** @type {Promise<End>} */
  ended;
  #options;
  #take;
  /** @type {Link | null} */
  #link = null;
  /** @type {(end: End) => void} */
  #resolve = () => {};
  #over = false;
  #heard = false;
  #held = false;
  #asked = 0;
  #due = 0;
  #since = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {() => void} */
  #cancelLater = () => {};

  /**
   * @param {Transport} transport
   * @param {Options & typeof DEFAULTS} options
   * @param {(message: any, text: string) => void} take
   */
  constructor(transport, options, take) {
    this.transport = transport;
    this.#options = options;
    this.#take = take;
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /**
   * @param {ReturnType<typeof endpoints>} to
   * @param {string} token
   * @param {string | null} cursor
   * @param {() => Promise<void>} room
   */
  open(to, token, cursor, room) {
    this.token = token;
    const { connectTimeout, WebSocket: Socket = globalThis.WebSocket } = this.#options;
    const query = cursor === null ? "" : `?lastEventId=${encodeURIComponent(cursor)}`;
    const late = () => this.end({ code: ABNORMAL, reason: "connecting took too long" });
    this.#timer = setTimeout(late, connectTimeout);
    /** @type {Listener} */
    const listener = {
      heard: () => {
        this.#heard = true;
      },
      text: (text) => this.#receive(text),
      end: (code, reason) => this.end({ code, reason }),
      room: async () => {
        this.#held = true;
        await room();
        this.#held = false;
      },
    };
    try {
      this.#link =
        this.transport === "websocket"
          ? openSocket(Socket, to.socket + query, token, listener)
          : openStream(this.#options.fetch ?? fetch, to.stream + query, token, listener);
    } catch (error) {
      this.end({ code: ABNORMAL, reason: String(error) });
    }
  }

  welcome() {
    this.welcomed = true;
    this.#since = now();
    this.#arm(this.#options.pingAfter);
  }

  /** Returns whether it was handed on. @param {string} text */
  send(text) {
    return this.#link?.send(text) ?? false;
  }

  /** Calls once after a time, unless it has ended by then. @param {number} ms @param {() => void} act */
  later(ms, act) {
    this.#cancelLater();
    if (!this.#over) this.#cancelLater = after(ms, act);
  }

  /** Expects to hear from the server soon, where it can be asked. */
  probe() {
    if (!this.welcomed || !this.send("ping")) return;
    this.#heard = false;
    this.#asked = 1;
    this.#arm(this.#options.pongWithin);
  }

  /** Ends it; twice is fine. @param {End} end */
  end(end) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#cancelLater();
    this.#link?.end();
    const { welcomed, live, progressed, afterMs } = this;
    const lasted = live && now() - this.#since >= this.#options.backoffMin;
    this.#resolve({ ...end, welcomed, lasted, progressed, afterMs });
  }

  /** @param {string} text */
  #receive(text) {
    this.#heard = true;
    if (text === "pong") return;
    try {
      const message = JSON.parse(text);
      if (typeof message?.type !== "string") throw new Breach("a message without a type");
      this.#take(message, text);
    } catch (error) {
      this.end({ code: ABNORMAL, reason: String(error), error });
    }
  }

  /** @param {number} ms */
  #arm(ms) {
    clearTimeout(this.#timer);
    this.#due = Date.now() + ms;
    this.#timer = setTimeout(() => this.#look(), ms);
  }

  #look() {
    const { pingAfter, pongWithin } = this.#options;
    // After a sleep an answer has had no time to come: the question is asked once more.
    const patience = Date.now() - this.#due > pongWithin ? 2 : 1;
    if (this.#heard || this.#held) {
      this.#heard = false;
      this.#asked = 0;
      this.#arm(pingAfter);
    } else if (this.#asked < patience) {
      this.#asked += 1;
      this.send("ping");
      this.#arm(pongWithin);
    } else {
      this.end({ code: ABNORMAL, reason: "the server fell silent" });
    }
  }
}

/** The server broke the protocol on a connection; another one may go well. */
class Breach extends Error {}

/** Where a client stands in its stream, over all its connections. */
class Place {
  #before = "";
  /** @type {string | null} */
  #missing = null;

  /** @param {string | null} position The cursor that the next connection resumes by. */
  constructor(position) {
    this.position = position;
  }

  /** Begins a connection. @param {string} cursor */
  welcome(cursor) {
    if (this.position === null || this.position === "earliest") this.position = cursor;
    this.#before = cursor;
    this.#missing = null;
  }

  /**
   * Returns whether a durable event is new. Throws Breach if one is missing before it.
   *
   * @param {string} id
   * @param {string} prev
   */
  durable(id, prev) {
    if (repeats(id, this.position)) {
      this.#before = id;
      return false;
    }
    if (prev !== this.#before) {
      throw new Breach(`${id} comes after ${prev}, not after ${this.#before}`);
    }
    this.position = this.#before = id;
    return true;
  }

  /** @param {Gap} gap */
  gap(gap) {
    // The old cursor is void: repeated ids are told from here on.
    if (gap.reason !== "expired") this.position = this.#before;
    else this.#missing = gap.missingThrough;
  }

  /** The backlog is done: what is missing is passed by now, and need not be told at every connect. */
  live() {
    const passed = this.#missing;
    if (passed !== null && !repeats(passed, this.position)) this.position = passed;
  }
}

/**
 * Whether a cursor is at or before a position in the same log. What can't be compared, cursors of
 * two logs, repeats nothing.
 *
 * @param {string} id
 * @param {string | null} position
 */
function repeats(id, position) {
  const [epoch, seq] = id.split(":");
  const [knownEpoch, knownSeq] = (position ?? "").split(":");
  return epoch === knownEpoch && Number(seq) <= Number(knownSeq);
}

/** Who wants to hear what. */
class Handlers {
  /** @type {Map<string, Set<(given: any) => unknown>>} */
  #byType = new Map();

  /** @param {string} type @param {(given: any) => unknown} handler */
  add(type, handler) {
    // Wrapped, so that a function given twice is called twice and each undo undoes its own.
    const own = (/** @type {any} */ given) => handler(given);
    const same = this.#byType.get(type) ?? new Set();
    this.#byType.set(type, same.add(own));
    return () => {
      // A page may listen to types without end, one after the other.
      if (same.delete(own) && same.size === 0) this.#byType.delete(type);
    };
  }

  /**
   * Calls the handlers of a type. Returns the promises they gave, none of which rejects.
   *
   * @param {string} type
   * @param {unknown} given
   * @returns {Promise<unknown>[]}
   */
  tell(type, given) {
    const types = new Set(type.startsWith(RESERVED) ? [type] : [type, "*"]);
    const sets = [...types].map((name) => this.#byType.get(name) ?? new Set());
    // Those of this moment: one that is added meanwhile begins with the next.
    const called = sets.flatMap((set) => [...set].map((handler) => ({ set, handler })));
    /** @type {Promise<unknown>[]} */
    const pending = [];
    const fail = (/** @type {unknown} */ error) => {
      if (type === "rt.error") report(error);
      else this.fail(error, "handler");
    };
    for (const { set, handler } of called) {
      if (!set.has(handler)) continue;
      try {
        const result = handler(given);
        if (isThenable(result)) pending.push(Promise.resolve(result).catch(fail));
      } catch (error) {
        fail(error);
      }
    }
    return pending;
  }

  /** @param {unknown} error @param {Failure["during"]} during */
  fail(error, during) {
    if (this.#byType.get("rt.error")?.size) this.tell("rt.error", { error, during });
    else report(error);
  }
}

/** What has arrived and waits for its handlers: in order, one at a time; then its cursor is kept. */
class Inbox {
  /** @type {string | null} */
  cursor = null;
  queued = 0;
  #handlers;
  #keep;
  /** @type {({ type: string, given: unknown, cursor: string | null, size: number } | null)[]} */
  #queue = [];
  #working = false;
  #closed = false;
  /** @type {string | null} */
  #kept = null;
  #keeping = false;
  /** @type {(() => void)[]} */
  #idle = [];

  /**
   * @param {Handlers} handlers
   * @param {(cursor: string) => unknown} keep
   */
  constructor(handlers, keep) {
    this.#handlers = handlers;
    this.#keep = keep;
  }

  /**
   * @param {string} type
   * @param {unknown} given
   * @param {string | null} cursor What is handled after it; null leaves that as it is.
   * @param {number} size
   */
  put(type, given, cursor, size) {
    if (this.#closed) return;
    this.#queue.push({ type, given, cursor, size });
    this.queued += size;
    if (!this.#working) void this.#work();
  }

  /** Stands at what a store holds. @param {string | null} stored */
  begin(stored) {
    this.cursor = this.#kept = stored;
  }

  /** Has it that all up to a cursor was handled. @param {string | null} cursor */
  handled(cursor) {
    if (cursor === null) return;
    this.cursor = cursor;
    void this.#save();
  }

  /** Resolves when all that has arrived was handled. @returns {Promise<void>} */
  drained() {
    return this.#working ? new Promise((resolve) => this.#idle.push(resolve)) : Promise.resolve();
  }

  /** Resolves when all that has arrived was handled, and the cursor is kept. */
  async settled() {
    await this.drained();
    while (this.#keeping) await new Promise((resolve) => this.#idle.push(() => resolve(null)));
  }

  /** Drops what waits; resolves when handlers at work are done, and the cursor is kept. */
  close() {
    this.#closed = true;
    this.#queue = [];
    return this.settled();
  }

  // Without an await where no handler gives a promise: then no other code comes between an event
  // and its cursor.
  async #work() {
    this.#working = true;
    for (let next = 0; next < this.#queue.length; next += 1) {
      const { type, given, cursor, size } = /** @type {any} */ (this.#queue[next]);
      this.#queue[next] = null;
      if (next === FORGOTTEN) this.#queue.splice(0, next);
      next %= FORGOTTEN;
      const pending = this.#handlers.tell(type, given);
      if (pending.length > 0) await Promise.all(pending);
      this.queued -= size;
      this.handled(cursor);
    }
    this.#queue = [];
    this.queued = 0;
    this.#working = false;
    this.#tellIdle();
  }

  async #save() {
    if (this.#keeping) return;
    this.#keeping = true;
    while (this.cursor !== null && this.cursor !== this.#kept) {
      const cursor = this.cursor;
      this.#kept = cursor;
      try {
        const result = this.#keep(cursor);
        // An asynchronous store is given the newest cursor when it is done with the one before.
        if (isThenable(result)) await result;
      } catch (error) {
        this.#handlers.fail(error, "store");
      }
    }
    this.#keeping = false;
    this.#tellIdle();
  }

  #tellIdle() {
    for (const resolve of this.#idle.splice(0)) resolve();
  }
}

/**
 * A transport's connection. It calls its listener's `end` at most once, and nothing after `end()`.
 *
 * @typedef {object} Link
 * @property {(text: string) => boolean} send
 * @property {() => void} end
 */

/**
 * @typedef {object} Listener
 * @property {() => void} heard Something came, if only a sign of life.
 * @property {(text: string) => void} text
 * @property {(code: number, reason: string) => void} end
 * @property {() => Promise<void>} room Resolves when more may come.
 */

/**
 * @param {new (url: string, protocols: string[]) => WebSocket} Socket
 * @param {string} url
 * @param {string} token
 * @param {Listener} listener
 * @returns {Link}
 */
function openSocket(Socket, url, token, listener) {
  // The token in an entry stays out of the URL, and so out of the logs of proxies.
  const socket = new Socket(url, [SUBPROTOCOL, `bearer.${token}`]);
  socket.onmessage = (message) => listener.text(String(message.data));
  socket.onclose = (close) => listener.end(close.code, close.reason);
  // A close follows. Without a handler some implementations throw.
  socket.onerror = () => {};
  return {
    send(text) {
      if (socket.readyState !== 1) return false;
      socket.send(text);
      return true;
    },
    end() {
      // On a dead network the close event comes minutes later.
      socket.onmessage = socket.onclose = null;
      socket.close();
    },
  };
}

/**
 * By fetch rather than `EventSource`, which could send the token in the URL only.
 *
 * @param {typeof fetch} get
 * @param {string} url
 * @param {string} token
 * @param {Listener} listener
 * @returns {Link}
 */
function openStream(get, url, token, listener) {
  const stop = new AbortController();
  const { signal } = stop;
  const headers = { Authorization: `Bearer ${token}`, Accept: "text/event-stream" };
  const read = async () => {
    const answer = await get(url, { headers, signal, cache: "no-store" });
    if (answer.status === 401) return listener.end(1008, "Authentication failed");
    const kind = answer.headers.get("Content-Type") ?? "";
    if (!answer.ok || !answer.body || !kind.startsWith("text/event-stream")) {
      return listener.end(ABNORMAL, `HTTP ${answer.status}, ${kind || "no content"}`);
    }
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    const lines = new Lines();
    while (!signal.aborted) {
      const { done, value } = await reader.read();
      if (done) break;
      listener.heard();
      for (const data of lines.take(decoder.decode(value, { stream: true }))) {
        if (!signal.aborted) listener.text(data);
      }
      // Who doesn't read is felt by the server, which then waits.
      await listener.room();
    }
    listener.end(ABNORMAL, "the stream ended");
  };
  read().catch((error) => listener.end(ABNORMAL, String(error)));
  return { send: () => false, end: () => stop.abort() };
}

/** The data of the events of a `text/event-stream`. */
class Lines {
  #rest = "";
  /** @type {string[]} */
  #data = [];

  /** Returns the data of all events that a piece of the stream ends. @param {string} text */
  take(text) {
    // A line ends with CR, LF or both; a CR at the end of the piece may be half of both.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = /** @type {string} */ (lines.pop());
    /** @type {string[]} */
    const events = [];
    for (const line of lines) {
      if (line.startsWith("data:")) this.#data.push(line.slice(5).replace(/^ /, ""));
      else if (line === "" && this.#data.length > 0) {
        events.push(this.#data.join("\n"));
        this.#data = [];
      }
    }
    return events;
  }
}

/** Where devices connect, by the server's public address. @param {string | URL} url */
function endpoints(url) {
  const address = new URL(url, globalThis.location?.href);
  const scheme = { "http:": "http", "ws:": "http", "https:": "https", "wss:": "https" }[
    address.protocol
  ];
  if (scheme === undefined || address.search || address.hash || address.username + address.password) {
    throw new TypeError("a server's address begins http(s):// or ws(s)://, and holds no query");
  }
  const path = address.pathname.replace(/\/+$/, "").replace(/\/ws\/realtime$/, "");
  const base = `${scheme}://${address.host}${path}`;
  return { base, socket: `${base.replace("http", "ws")}/ws/realtime`, stream: `${base}/events` };
}

/** @param {Options & typeof DEFAULTS} options */
function checkOptions(options) {
  const { token, transport = "auto", WebSocket: own, store, from } = options;
  if (typeof token !== "function" && (typeof token !== "string" || !TOKEN.test(token))) {
    throw new TypeError(`${NO_TOKEN}, or a function that gives one`);
  }
  if (!["auto", "websocket", "sse"].includes(transport)) {
    throw new TypeError("transport is auto, websocket or sse");
  }
  if (transport === "websocket" && !(own ?? globalThis.WebSocket)) {
    throw new TypeError("there is no global WebSocket here: give one as an option");
  }
  if (store && (typeof store.get !== "function" || typeof store.set !== "function")) {
    throw new TypeError("a store is an object with get and set");
  }
  if (from !== undefined && from !== null && typeof from !== "string") {
    throw new TypeError("from is a cursor or earliest");
  }
  for (const name of /** @type {(keyof typeof DEFAULTS)[]} */ (Object.keys(DEFAULTS))) {
    const value = options[name];
    // A timer takes what is no number, or too large a one, for none at all: it would never rest.
    const fits = UNTIMED.has(name) ? value >= 0 : value > 0 && value <= LONGEST_TIMER;
    if (typeof value !== "number" || !fits) throw new TypeError(`${name} can't be ${String(value)}`);
  }
}

/**
 * What a token says of itself; nothing where it can't be read. It proves nothing.
 *
 * @param {string} token
 * @returns {{ exp?: unknown, userId?: unknown, sub?: unknown }}
 */
function claimsOf(token) {
  try {
    const text = atob((token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/"));
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {};
  }
}

/** Whether a token expires later than another, as far as they can be read. @param {string} token @param {string} other */
function outlives(token, other) {
  const [exp, before] = [claimsOf(token).exp, claimsOf(other).exp];
  return typeof exp === "number" && typeof before === "number" ? exp > before : token !== other;
}

/** @type {CursorStore} */
const NO_STORE = { get: () => null, set: () => {} };

/** The tab's own storage; where it is missing, disabled or full, the page's memory has to do. */
function tabStore() {
  /** @type {CursorStore} */
  const store = {
    get: (key) => attempt(() => globalThis.sessionStorage?.getItem(key)) ?? null,
    set: (key, cursor) => attempt(() => globalThis.sessionStorage?.setItem(key, cursor)),
  };
  return store;
}

/** Returns what a function does, undefined if it throws. @template T @param {() => T} act */
function attempt(act) {
  try {
    return act();
  } catch {
    return undefined;
  }
}

/** Calls when the page is seen again or the network is back. @param {() => void} wake */
function whenAwake(wake) {
  const stop = new AbortController();
  const { signal } = stop;
  const page = globalThis.document;
  const seen = () => page.visibilityState === "visible" && wake();
  page?.addEventListener("visibilitychange", seen, { signal });
  for (const name of ["online", "pageshow"]) {
    globalThis.addEventListener?.(name, wake, { signal });
  }
  return () => stop.abort();
}

/** Calls after a time of any length; returns what cancels it. @param {number} ms @param {() => void} act */
function after(ms, act) {
  /** @type {ReturnType<typeof setTimeout>} */
  let timer;
  const step = (/** @type {number} */ left) => {
    const part = Math.min(left, LONGEST_TIMER);
    timer = setTimeout(() => (left > part ? step(left - part) : act()), part);
  };
  step(ms);
  return () => clearTimeout(timer);
}

/** A clock that nobody sets. */
function now() {
  return performance.now();
}

/** @param {any} value @returns {value is PromiseLike<unknown>} */
function isThenable(value) {
  return typeof value?.then === "function";
}

/** Shows an error as an uncaught one, without ending anything. @param {unknown} error */
function report(error) {
  if (typeof globalThis.reportError === "function") globalThis.reportError(error);
  else console.error(error);
}
