// What the page shows of the jobs: the queue, those in progress, pictures, failures, and one picture in large.

import { $, ago, el, safeUrl, setText, sync } from "./dom.js";

// Running jobs are all shown; of those that wait, the first ones, and all that this tab has sent.
const SHOWN_WAITING = 4;
const PICTURES_AT_ONCE = 24;
const SHOWN_FAILURES = 10;
const LANES = ["urgent", "high", "normal"];
const title = (word) => word.charAt(0).toUpperCase() + word.slice(1);
const key = (job) => job.job_id;

export class View {
  // `onCancel` and `onAgain` are called with a job's id, and with a request.
  constructor(store, { onCancel, onAgain }) {
    this.store = store;
    this.onCancel = onCancel;
    this.onAgain = onAgain;
    this.shownPictures = PICTURES_AT_ONCE;
    $("receipt-show").addEventListener("click", () => this.#show(this.store.lastSent()));
    $("more-pictures").addEventListener("click", () => {
      this.shownPictures += PICTURES_AT_ONCE;
      this.draw($("mine").checked);
    });
    $("viewer").addEventListener("click", (event) => event.target === $("viewer") && $("viewer").close());
  }

  draw(onlyMine) {
    const active = this.store.active(onlyMine);
    const completed = this.store.ended(onlyMine, "completed");
    const pictures = completed.slice(0, this.shownPictures);
    const failures = this.store.ended(onlyMine, "failed", "cancelled").slice(0, SHOWN_FAILURES);
    const shown = this.#worthShowing(active);
    sync($("active"), shown, key, (job) => this.#activeCard(job), (node, job) => this.#updateActive(node, job));
    sync($("pictures"), pictures, key, (job) => this.#picture(job), (node, job) => this.#updatePicture(node, job));
    sync($("failures"), failures, key, (job) => this.#failure(job), (node, job) => this.#updateFailure(node, job));
    setText($("active-more"), active.length > shown.length ? `and ${active.length - shown.length} more that wait` : "");
    setText($("active-count"), active.length ? String(active.length) : "");
    $("active-empty").hidden = active.length > 0;
    $("pictures-empty").hidden = pictures.length > 0;
    $("more-pictures").hidden = completed.length <= pictures.length;
    this.#drawReceipt();
    $("failures-section").hidden = failures.length === 0;
  }

  drawQueue(queue) {
    const lanes = LANES.map((lane) => queue.lanes.find((found) => found.lane === lane) ?? { lane, waiting: 0, running: 0 });
    const most = Math.max(8, ...lanes.map((lane) => lane.waiting + lane.running));
    sync($("queue"), lanes, (lane) => lane.lane, laneCard, (node, lane) => updateLane(node, lane, most));
  }

  // What became of the last request, beside the form: on a phone the rest of the page is out of sight.
  #drawReceipt() {
    const job = this.store.jobs.get(this.store.lastSent());
    $("receipt").hidden = !job;
    if (!job) return;
    $("receipt").className = `receipt ${job.status}`;
    setText($("receipt-title"), this.#name(job));
    setText($("receipt-state"), job.status === "completed" ? `Drawn in ${seconds(job)}` : job.error_message ?? stateOf(job));
    $("receipt-progress").value = share(job);
    const thumbnail = job.status === "completed" ? safeUrl(job.thumbnail_url ?? "") : null;
    if (thumbnail && $("receipt-image").src !== thumbnail) $("receipt-image").src = thumbnail;
  }

  #worthShowing(active) {
    let waiting = 0;
    return active.filter((job) => job.status === "running" || this.store.requestOf(job.job_id) || waiting++ < SHOWN_WAITING);
  }

  // The prompt, where it was sent from here; the gateway does not tell those of others.
  #name(job) {
    return this.store.requestOf(job.job_id)?.prompt ?? `${job.girl_id ?? "job"} · ${job.job_id.slice(0, 8)}`;
  }

  #activeCard(job) {
    return el("li", { class: "job" },
      el("div", { class: "job-text" },
        el("p", { class: "job-title", dir: "auto" }, this.#name(job)),
        el("p", { class: "job-facts" }, chip(job), el("span", { class: "job-state" })),
      ),
      el("button", { type: "button", class: "small cancel", onclick: () => this.onCancel(job.job_id) }, "Cancel"),
      el("progress", { max: "1", value: "0", "aria-label": "Steps" }),
    );
  }

  #updateActive(node, job) {
    const cancelling = this.store.cancelling.has(job.job_id);
    node.classList.toggle("running", job.status === "running");
    setText(node.querySelector(".job-state"), cancelling ? "Cancelling…" : stateOf(job));
    setText(node.querySelector(".job-title"), this.#name(job));
    node.querySelector("progress").value = share(job);
    node.querySelector(".cancel").ariaLabel = `Cancel ${this.#name(job)}`;
    node.querySelector(".cancel").disabled = cancelling;
  }

  #picture(job) {
    const name = this.#name(job);
    const source = safeUrl(job.thumbnail_url ?? job.image_url ?? "");
    const image = el("img", { alt: name, loading: "lazy", decoding: "async", onerror: () => node.classList.add("unseen"), onload: () => node.classList.add("loaded") });
    const node = el("li", { class: "picture" },
      el("button", { type: "button", "aria-label": `Show ${name}`, onclick: () => this.#show(job.job_id) },
        image,
        el("span", { class: "unseen-note" }, "The picture is stored, but its address does not show it to this browser."),
      ),
      el("div", { class: "caption" },
        el("p", { class: "job-title", dir: "auto" }, name),
        el("p", { class: "job-facts" }, chip(job), el("span", { class: "seconds" }, seconds(job)), el("time", { datetime: job.updated_at })),
      ),
    );
    if (source) image.src = source;
    else node.classList.add("unseen");
    return node;
  }

  #updatePicture(node, job) {
    const name = this.#name(job);
    setText(node.querySelector("time"), ago(Date.now() - Date.parse(job.updated_at)));
    if (node.querySelector("img").alt === name) return;
    setText(node.querySelector(".job-title"), name);
    node.querySelector("img").alt = name;
    node.querySelector("button").setAttribute("aria-label", `Show ${name}`);
  }

  #failure(job) {
    const cancelled = job.status === "cancelled";
    return el("li", { class: cancelled ? "failure cancelled" : "failure" },
      el("p", { class: "failure-sentence", dir: "auto" }, job.error_message ?? (cancelled ? "It was cancelled." : "It failed.")),
      el("p", { class: "job-facts" }, chip(job),
        el("code", {}, job.error_code ?? job.status),
        el("span", { class: "job-id", dir: "auto" }),
        el("time", { datetime: job.updated_at }),
      ),
    );
  }

  #updateFailure(node, job) {
    setText(node.querySelector(".job-id"), this.#name(job));
    setText(node.querySelector("time"), ago(Date.now() - Date.parse(job.updated_at)));
  }

  #show(id) {
    const job = this.store.jobs.get(id);
    const request = this.store.requestOf(id);
    const address = safeUrl(job?.image_url ?? "");
    if (!job || !address) return;
    $("viewer-image").src = address;
    $("viewer-image").alt = this.#name(job);
    $("viewer-link").href = address;
    $("viewer-title").textContent = this.#name(job);
    const facts = {
      Job: id, Profile: job.girl_id, Lane: job.lane && title(job.lane), Drawn: `${seconds(job)}, ${new Date(job.updated_at).toLocaleString()}`,
      Size: request && `${request.width} × ${request.height}`, Steps: job.num_inference_steps ?? request?.num_inference_steps, Seed: request?.seed,
      LoRAs: request?.loras?.map((lora) => `${lora.name} ${lora.weight}`).join(", "), Negative: request?.negative_prompt,
    };
    $("viewer-facts").replaceChildren(
      ...Object.entries(facts).filter(([, value]) => value !== undefined && value !== null && value !== "")
        .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, String(value)))),
    );
    $("again").hidden = !request;
    $("again").onclick = () => {
      $("viewer").close();
      this.onAgain(request);
    };
    $("viewer").showModal();
  }
}

function stateOf(job) {
  if (job.status === "running") return job.num_inference_steps ? `Step ${job.step ?? 0} of ${job.num_inference_steps}` : "Drawing";
  return job.status === "queued" ? "Waiting" : title(job.status);
}

function share(job) {
  return job.status === "running" && job.num_inference_steps ? (job.step ?? 0) / job.num_inference_steps : 0;
}

function chip(job) {
  const lane = job.lane ?? "normal";
  return el("span", { class: "chip", "data-lane": lane }, title(lane));
}

function seconds(job) {
  return job.generation_time === undefined ? "" : `${job.generation_time.toFixed(1)} s`;
}

function laneCard(lane) {
  return el("li", { class: "lane", "data-lane": lane.lane },
    el("h3", {}, title(lane.lane)),
    el("p", { class: "lane-numbers" }, el("strong", {}), " waiting ", el("span", {})),
    el("meter", { min: "0", max: "1", value: "0", "aria-hidden": "true" }),
  );
}

function updateLane(node, lane, most) {
  setText(node.querySelector("strong"), String(lane.waiting));
  setText(node.querySelector("span"), `${lane.running} drawing`);
  node.querySelector("meter").value = (lane.waiting + lane.running) / most;
}
