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
export function connect(url: string | URL, options: Options): Realtime;
/** A user's stream of events; `connect` makes one. */
export class Realtime {
    /**
     * @param {string | URL} url
     * @param {Options} options
     */
    constructor(url: string | URL, options: Options);
    /** The state the connection is in. */
    get state(): State;
    /** How it is connected; null when it isn't. @returns {Transport | null} */
    get transport(): Transport | null;
    /** The cursor of the last event whose handlers are done; null before the first connect. */
    get cursor(): string | null;
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
    on<K extends keyof Told>(type: K, handler: (told: Told[K]) => unknown): () => void;
    /**
     * @template [T=any]
     * @overload
     * @param {string} type
     * @param {(event: RealtimeEvent<T>) => unknown} handler
     * @returns {() => void}
     */
    on<T = any>(type: string, handler: (event: RealtimeEvent<T>) => unknown): () => void;
    /**
     * Sends a message to the server's application. Returns whether it was handed to the socket, which
     * is no proof that it arrived: false when not connected, and over Server-Sent Events.
     *
     * Throws TypeError unless it is an object with a text as `type`, one not beginning `rt.`.
     *
     * @param {{ type: string, [name: string]: unknown }} message
     * @returns {boolean}
     */
    send(message: {
        type: string;
        [name: string]: unknown;
    }): boolean;
    /**
     * Tries at once instead of waiting, also after the server had ended it for good. While connected,
     * and after `close()`, it does nothing.
     */
    reconnect(): void;
    /**
     * Ends the connection for good; twice is fine. No further event is handled after that. The promise
     * waits for the one whose handlers are at work, and for the store.
     *
     * @returns {Promise<void>}
     */
    close(): Promise<void>;
    #private;
}
/**
 * A transport's connection. It calls its listener's `end` at most once, and nothing after `end()`.
 */
export type Link = {
    send: (text: string) => boolean;
    end: () => void;
};
export type Listener = {
    /**
     * Something came, if only a sign of life.
     */
    heard: () => void;
    text: (text: string) => void;
    end: (code: number, reason: string) => void;
    /**
     * Resolves when more may come.
     */
    room: () => Promise<void>;
};
/**
 * An event as it arrived.
 */
export type RealtimeEvent<T = any> = {
    type: string;
    payload: T;
    /**
     * RFC 3339, as the emitter or the server wrote it.
     */
    timestamp: string;
    /**
     * Its cursor; null for a transient event, which is never replayed.
     */
    id: string | null;
    /**
     * The message's text, for numbers that JavaScript's can't hold.
     */
    raw: string;
};
export type State = "connecting" | "connected" | "reconnecting" | "disconnected";
export type Transport = "websocket" | "sse";
/**
 * What changed, or which try failed.
 */
export type StateChange = {
    state: State;
    /**
     * The close code of the connection that ended; 1006 where there was none.
     */
    code?: number;
    reason?: string;
    /**
     * When the next try begins.
     */
    retryInMs?: number;
};
/**
 * Durable events are gone, or can't be told apart from those that were had.
 */
export type Gap = {
    requested: string;
    missingThrough: string | null;
    reason: "expired" | "epoch" | "ahead";
};
/**
 * A connection's backlog was handled; what follows is live.
 */
export type Live = {
    cursor: string;
    /**
     * How many events the backlog had.
     */
    replayed: number;
    /**
     * Whether there was a connection before this one.
     */
    reconnected: boolean;
};
/**
 * The server refused the token; a function is asked for another one.
 */
export type Unauthorized = {
    /**
     * 1008 refused, 4001 expired, 4002 kicked or revoked.
     */
    code: number;
    reason: string;
};
/**
 * Something failed that the stream outlives.
 */
export type Failure = {
    error: unknown;
    during: "handler" | "token" | "store" | "protocol";
};
/**
 * What `on` tells of the client itself. The server reserves the names beginning `rt.`, so they are
 * never an event's type.
 */
export type Told = {
    "rt.state": StateChange;
    "rt.gap": Gap;
    "rt.live": Live;
    "rt.unauthorized": Unauthorized;
    "rt.error": Failure;
};
/**
 * Where the cursor of the last event that was handled is kept. Both may be asynchronous.
 */
export type CursorStore = {
    get: (key: string) => string | null | undefined | Promise<string | null | undefined>;
    set: (key: string, cursor: string) => unknown;
};
/**
 * Durations are in milliseconds.
 */
export type Options = {
    /**
     * A JSON Web Token, or what gives a
     * fresh one: it is called at each connect, and before the one in use expires.
     */
    token: string | (() => string | Promise<string>);
    /**
     * By default `sessionStorage`, or memory where there is none;
     * null: none.
     */
    store?: CursorStore | null;
    /**
     * Where to begin if the store holds no cursor: a cursor, or `earliest` for
     * all that is retained. By default with what comes from now on.
     */
    from?: string;
    /**
     * `auto`: WebSocket, or Server-Sent Events where
     * WebSockets don't get through.
     */
    transport?: "auto" | Transport;
    /**
     * By default the global
     * one, which Node has from version 22 on.
     */
    WebSocket?: new (url: string, protocols: string[]) => any;
    /**
     * By default the global one.
     */
    fetch?: typeof fetch;
    /**
     * 1000: the first wait is a random time of at most this,
     */
    backoffMin?: number;
    /**
     * 30000: doubled with every failure up to this.
     */
    backoffMax?: number;
    /**
     * 10000: how long connecting may take.
     */
    connectTimeout?: number;
    /**
     * 25000: after a silence of this to twice this it asks the server.
     */
    pingAfter?: number;
    /**
     * 10000: an unanswered question ends the connection after this.
     */
    pongWithin?: number;
    /**
     * 600000: how long it stays with Server-Sent Events before
     * a connect tries a WebSocket again.
     */
    websocketAgainAfter?: number;
    /**
     * 16777216: how many characters of messages wait for handlers before
     * it stops to receive.
     */
    maxQueued?: number;
};
export type Closed = {
    code: number;
    reason: string;
};
/**
 * Why a connection ended, and what it had come to.
 */
export type Outcome = {
    /**
     * How the server broke the protocol.
     */
    error?: unknown;
    /**
     * Whether the client ended it to begin another one.
     */
    again?: boolean;
    welcomed?: boolean;
    /**
     * Whether it went live and stayed for a while.
     */
    lasted?: boolean;
    /**
     * Whether a durable event came.
     */
    progressed?: boolean;
    /**
     * When to return, as the server asked for.
     */
    afterMs?: number | undefined;
};
export type End = Closed & Outcome;
