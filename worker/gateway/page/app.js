// The page: one stream of job states in, requests and cancellations out.

import * as api from "./api.js";
import { $, setText } from "./dom.js";
import { clearProblems, fillForm, prepareForm, readForm, setLimits, setProfiles, setSize, showProblem } from "./form.js";
import { hasEnded, Store } from "./store.js";
import { View } from "./view.js";

const LISTED = 150;
const DRAW_MS = 150;
const QUEUE_MS = 1_000;
const CLOCK_MS = 10_000;

const store = new Store();
const view = new View(store, { onCancel: cancel, onAgain: again });
let drawing = 0;
let counting = 0;
// A request that was not answered keeps its key, so that sending it again does not draw it twice.
let pending = { text: "", key: "" };

const isNew = !prepareForm();
view.drawQueue({ lanes: [] });
$("mine").addEventListener("change", draw);
$("form").addEventListener("submit", submit);
$("token-save").addEventListener("click", saveToken);
$("token").addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), saveToken()));
if (api.token.get()) $("token-field").hidden = false;
setInterval(draw, CLOCK_MS);
describe();
api.follow({ onJob: take, onOpen: refresh, onState: showConnection });

function draw() {
  // Many events come at once; a person sees only some frames a second.
  drawing ||= setTimeout(() => {
    drawing = 0;
    view.draw($("mine").checked);
  }, DRAW_MS);
}

function take(job) {
  if (!store.put(job)) return;
  if (hasEnded(job) && store.requestOf(job.job_id)) announce(job);
  draw();
  count();
}

function count() {
  counting ||= setTimeout(async () => {
    await api.queue().then((queue) => view.drawQueue(queue)).catch(() => {});
    counting = 0;
  }, QUEUE_MS);
}

// What happened while nobody listened. The stream is open already, so nothing falls between the two.
async function refresh() {
  try {
    for (const job of await api.jobs(LISTED)) store.put(job);
    draw();
    view.drawQueue(await api.queue());
  } catch (error) {
    showConnection(error);
  }
}

async function describe() {
  const { properties, example } = await api.requestSchema();
  setLimits(properties ?? {});
  if (isNew && example) setSize(example.width, example.height);
  setProfiles(await api.profiles().catch(() => []));
}

async function submit(event) {
  event.preventDefault();
  clearProblems();
  let request;
  try {
    request = readForm();
  } catch (wrong) {
    return showProblem(wrong.field, wrong.message);
  }
  const text = JSON.stringify(request);
  if (pending.text !== text) pending = { text, key: newKey() };
  $("submit").disabled = true;
  try {
    const { job_id: id, status } = await api.generate(request, pending.key);
    pending = { text: "", key: "" };
    store.remember(id, request);
    if (!store.jobs.has(id)) {
      // Older than anything that the gateway tells, whatever this machine's clock says.
      store.put({
        job_id: id, status, girl_id: request.girl_id, lane: request.priority, since: Date.now(),
        num_inference_steps: request.num_inference_steps, updated_at: new Date(0).toISOString(),
      });
    }
    setText($("announcer"), "The request was sent.");
    draw();
    count();
  } catch (problem) {
    if (problem.status === 401) askForToken();
    // Only where nobody knows whether the request was taken is its key used again.
    if (problem.status !== 0 && problem.status !== 503) pending = { text: "", key: "" };
    showProblem(problem.status === 401 ? "token" : problem.field, problem.message);
  } finally {
    $("submit").disabled = false;
  }
}

async function cancel(id) {
  if (!store.requestOf(id) && !confirm("This job was not sent from this tab. Cancel it?")) return;
  store.cancelling.add(id);
  draw();
  try {
    await api.cancel(id);
  } catch (problem) {
    store.cancelling.delete(id);
    setText($("announcer"), problem.message);
    showProblem(null, problem.message);
    draw();
  }
}

function again(request) {
  fillForm(request);
  $("form").scrollIntoView({ block: "start" });
  $("prompt").focus();
}

function announce(job) {
  const prompt = store.requestOf(job.job_id).prompt.slice(0, 80);
  setText($("announcer"), `${prompt}: ${job.status === "completed" ? "the picture is there." : job.error_message ?? job.status}`);
}

function showConnection(state) {
  const told = $("connection");
  if (state instanceof Error && state.status === 401) askForToken();
  told.dataset.state = state instanceof Error ? "lost" : state;
  const words = { live: "Live", connecting: told.dataset.was === "live" ? "Reconnecting…" : "Connecting…" };
  setText(told, state instanceof Error ? (state.status === 401 ? "Token needed" : state.message) : words[state]);
  if (state === "live") told.dataset.was = "live";
}

function askForToken() {
  $("token-field").hidden = false;
}

function saveToken() {
  api.token.set($("token").value.trim());
  $("token").value = "";
  location.reload();
}

// crypto.randomUUID is only there on https and localhost.
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
