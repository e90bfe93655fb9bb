// The gateway's HTTP interface (docs/gateway.md): JSON requests, and the event stream with a bearer token, which
// EventSource cannot send.

const TOKEN = "sdxl-token";
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 15_000;
// The gateway sends a comment every 15 seconds; a stream that is silent for longer is dead.
const SILENCE_MS = 40_000;

export class Problem extends Error {
  constructor(status, sentence, field) {
    super(sentence);
    this.status = status;
    this.field = field;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

function headers(more = {}) {
  return token.get() ? { ...more, authorization: `Bearer ${token.get()}` } : more;
}

async function problem(response) {
  const told = await response.json().catch(() => ({}));
  return new Problem(response.status, told.error ?? `The gateway answered ${response.status}.`, told.field);
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch {
    throw new Problem(0, "The gateway does not answer. Is it running?");
  }
  if (!response.ok) throw await problem(response);
  return response.json();
}

export const jobs = (limit) => call(`jobs?limit=${limit}`).then((answer) => answer.jobs);
export const queue = () => call("queue");
export const profiles = () => call("profiles").then((answer) => answer.profiles);
export const cancel = (id) => call(`jobs/${encodeURIComponent(id)}`, { method: "DELETE" });

// What a request may be at this installation: `properties` by field, and an `example`. Nothing where it cannot be had.
export async function requestSchema() {
  try {
    const described = await call("openapi.json");
    return described.paths["/generate"].post.requestBody.content["application/json"].schema;
  } catch {
    return {};
  }
}

// The key makes a repeated request the same job, so that a lost answer does not draw the picture twice.
export function generate(request, key) {
  const sent = { "content-type": "application/json", "idempotency-key": key };
  return call("generate", { method: "POST", headers: sent, body: JSON.stringify(request) });
}

// Calls `onJob` with every state of every job, for ever; `onState` with "live", "connecting", or the Problem.
// `onOpen` is called each time that the stream begins, before its first event.
export async function follow({ onJob, onOpen, onState }) {
  let pause = FIRST_PAUSE_MS;
  let last = null;
  for (;;) {
    onState("connecting");
    try {
      last = await stream(last, onJob, () => {
        pause = FIRST_PAUSE_MS;
        onState("live");
        onOpen();
      });
    } catch (error) {
      onState(error instanceof Problem ? error : new Problem(0, "The connection was lost."));
    }
    await new Promise((done) => setTimeout(done, pause * (0.5 + Math.random() / 2)));
    pause = Math.min(pause * 2, MAX_PAUSE_MS);
  }
}

async function stream(last, onJob, onOpen) {
  const stop = new AbortController();
  let watch = setTimeout(() => stop.abort(), SILENCE_MS);
  const more = last === null ? {} : { "last-event-id": last };
  try {
    const response = await fetch("events", { headers: headers(more), signal: stop.signal, cache: "no-store" });
    if (!response.ok) throw await problem(response);
    onOpen();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return last;
      clearTimeout(watch);
      watch = setTimeout(() => stop.abort(), SILENCE_MS);
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event.data) onJob(JSON.parse(event.data));
        if (event.id) last = event.id;
      }
    }
  } finally {
    clearTimeout(watch);
    stop.abort();
  }
}

function parse(block) {
  const event = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
  }
  return event;
}
