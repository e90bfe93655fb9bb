// What the page knows of jobs: their latest states, and the requests that were sent from this tab.

const MINE = "sdxl-mine";
const MAX_JOBS = 300;
const MAX_MINE = 100;
const ENDED = new Set(["completed", "failed", "cancelled"]);

export const hasEnded = (job) => ENDED.has(job.status);

const moment = (job) => Date.parse(job.updated_at) || 0;

export class Store {
  constructor() {
    this.jobs = new Map();
    this.mine = new Map(load());
    this.cancelling = new Set();
  }

  // Takes a state in, unless a later one is known; true where it was news.
  put(job) {
    const known = this.jobs.get(job.job_id);
    if (known && moment(known) > moment(job)) return false;
    // A state of the same millisecond does not take a job back to where it was.
    if (known && moment(known) === moment(job) && hasEnded(known)) return false;
    this.jobs.set(job.job_id, { ...job, since: sinceOf(job, known) });
    if (hasEnded(job)) this.cancelling.delete(job.job_id);
    if (this.jobs.size > MAX_JOBS) this.#prune();
    return true;
  }

  remember(id, request) {
    this.mine.set(id, request);
    while (this.mine.size > MAX_MINE) this.mine.delete(this.mine.keys().next().value);
    try {
      sessionStorage.setItem(MINE, JSON.stringify([...this.mine]));
    } catch {
      // A full or forbidden storage costs the prompts of this tab's pictures after a reload.
    }
  }

  lastSent() {
    return [...this.mine.keys()].at(-1);
  }

  requestOf(id) {
    return this.mine.get(id);
  }

  // Unfinished jobs as they will be served: running ones first, then by lane and age.
  active(onlyMine) {
    const lanes = ["urgent", "high", "normal"];
    const rank = (job) => (job.status === "running" ? 0 : 1 + lanes.indexOf(job.lane ?? "normal"));
    return this.#select(onlyMine, (job) => !hasEnded(job)).sort((a, b) => rank(a) - rank(b) || a.since - b.since);
  }

  ended(onlyMine, ...statuses) {
    return this.#select(onlyMine, (job) => statuses.includes(job.status)).sort((a, b) => moment(b) - moment(a));
  }

  #select(onlyMine, wanted) {
    return [...this.jobs.values()].filter((job) => wanted(job) && (!onlyMine || this.mine.has(job.job_id)));
  }

  #prune() {
    const oldest = [...this.jobs.values()].filter(hasEnded).sort((a, b) => moment(a) - moment(b));
    for (const job of oldest.slice(0, this.jobs.size - MAX_JOBS)) this.jobs.delete(job.job_id);
  }
}

// When the job was first seen, so that a running job keeps its place while its state changes.
function sinceOf(job, known) {
  return known && !hasEnded(known) ? known.since : job.since ?? moment(job);
}

function load() {
  try {
    return JSON.parse(sessionStorage.getItem(MINE) ?? "[]");
  } catch {
    return [];
  }
}
