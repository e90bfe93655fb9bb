"""Render the demo's page: one static HTML file next to the pictures, with relative paths. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import quote

from devtools.demo.files import PICTURES, file_name
from worker.client.connection import Record
from worker.events.headers import header_text
from worker.events.types import Event, GenerationCompleted, GenerationFailed, GenerationRequest

LANES = ("urgent", "high", "normal")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be decoded: its key, its place in the topic, and the reason."""

    key: str
    place: str
    error: str


def render(
    requests: Sequence[GenerationRequest],
    records: Iterable[tuple[Record, Event | None]],
    *,
    generation_s: float,
) -> str:
    """Render the whole page as HTML.

    Args:
        requests: the requests in the order in which they were sent.
        records: the records of the result topics; those without an event are dead letters.
        generation_s: seconds from the first request to the last result.
    """
    seen = list(records)
    order = {request.job_id: index for index, request in enumerate(requests)}
    done = [event for _, event in seen if isinstance(event, GenerationCompleted)]
    done.sort(key=lambda event: order.get(event.job_id, len(order)))
    failed = [event for _, event in seen if isinstance(event, GenerationFailed)]
    dead = [_dead_letter(record) for record, event in seen if event is None]
    prompts = {request.job_id: request.prompt for request in requests}
    template = Template(files("devtools.demo").joinpath("gallery.html").read_text("utf-8"))
    return template.substitute(
        completed=len(done),
        failed=len(failed),
        dead=len(dead),
        seconds=f"{generation_s:.1f}",
        lanes="\n".join(_lane_row(lane, done) for lane in LANES),
        timeline="\n".join(_timeline(done)),
        cards="\n".join(_card(event) for event in done),
        rejects="\n".join([*(_failure(event, prompts) for event in failed), *map(_dead_card, dead)]),
    )


def _dead_letter(record: Record) -> DeadLetter:
    topic, partition, offset, error = (
        header_text(record.headers, f"dlq-{name}") or "?" for name in ("topic", "partition", "offset", "error")
    )
    key = (record.key or b"").decode("utf-8", "replace")
    return DeadLetter(key, f"{topic}, partition {partition}, offset {offset}", error)


def _card(event: GenerationCompleted) -> str:
    image, thumbnail, manifest = (
        f"{PICTURES}/{quote(file_name(url))}" for url in (event.image_url, event.thumbnail_url, event.manifest_url)
    )
    facts = {
        "waited": f"{event.queue_time:.2f} s",
        "made in": f"{event.generation_time:.2f} s",
        "steps": str(event.num_inference_steps),
        "guidance": f"{event.guidance_scale:g}",
        "size": f"{event.width} × {event.height}",
        "file": f"{event.output_format.value}, {event.byte_count / 1000:.0f} kB",
    }
    long_facts = {
        "seed": str(event.seed),
        "scheduler": event.scheduler.removesuffix("Scheduler") + (" + refiner" if event.high_quality else ""),
    }
    if event.loras:
        long_facts["LoRAs"] = ", ".join(f"{lora.name} at {lora.weight:g}" for lora in event.loras)
    if event.negative_prompt:
        long_facts["negative prompt"] = event.negative_prompt
    return f"""<article class="card">
  <a class="picture" href="{escape(image)}"><img src="{escape(image)}" width="{event.width}" height="{event.height}"
    alt="{escape(event.prompt)}" loading="lazy"></a>
  <div class="body">
    <h3><img class="thumb" src="{escape(thumbnail)}" alt="thumbnail">{escape(event.prompt)}</h3>
    <p class="id">{_chip(event.priority.value)} {escape(event.job_id)}</p>
    {_facts(facts, long_facts)}
    <p class="links"><a href="{escape(image)}">picture</a> <a href="{escape(thumbnail)}">thumbnail</a>
      <a href="{escape(manifest)}">manifest</a></p>
  </div>
</article>"""


def _failure(event: GenerationFailed, prompts: Mapping[str, str]) -> str:
    facts = {
        "prompt": prompts.get(event.job_id, "?"),
        "topic": "generation.failed",
        "code": event.error_code.value,
        "worth retrying": "yes" if event.retryable else "no",
    }
    return _reject(event.job_id, _chip(event.priority.value), event.error_message, facts)


def _dead_card(letter: DeadLetter) -> str:
    facts = {"topic": "generation.dead-letter", "came from": letter.place}
    return _reject(letter.key, _chip("dead-letter"), letter.error, facts)


def _reject(job_id: str, chip: str, reason: str, facts: Mapping[str, str]) -> str:
    return f"""<article class="reject">
  <p class="id">{chip} {escape(job_id)}</p>
  <p class="reason">{escape(reason)}</p>
  {_facts({}, facts)}
</article>"""


def _facts(short: Mapping[str, str], long: Mapping[str, str]) -> str:
    """Format the short pairs side by side, and below them the long ones on a line each."""
    pairs = [("", name, value) for name, value in short.items()]
    pairs += [(' class="long"', name, value) for name, value in long.items()]
    rows = (f"<div{kind}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for kind, name, value in pairs)
    return f"<dl>{''.join(rows)}</dl>"


def _chip(lane: str) -> str:
    return f'<span class="chip {escape(lane)}">{escape(lane)}</span>'


def _lane_row(lane: str, done: Sequence[GenerationCompleted]) -> str:
    events = [event for event in done if event.priority.value == lane]
    if not events:
        return f"<tr><td>{_chip(lane)}</td><td>0</td><td></td><td></td><td></td></tr>"
    waits = [event.queue_time for event in events]
    numbers = (
        str(len(events)),
        f"{statistics.median(waits):.2f} s",
        f"{max(waits):.2f} s",
        f"{statistics.median(event.generation_time for event in events):.2f} s",
    )
    return f"<tr><td>{_chip(lane)}</td>{''.join(f'<td>{number}</td>' for number in numbers)}</tr>"


def _timeline(done: Sequence[GenerationCompleted]) -> Iterable[str]:
    """Yield a row per job that shows its wait and its generation, as percentages of the longest total."""
    span = max((event.queue_time + event.generation_time for event in done), default=1.0) or 1.0
    for event in sorted(done, key=lambda event: (event.queue_time, event.job_id)):
        lane = escape(event.priority.value)
        wait, making = (100 * part / span for part in (event.queue_time, event.generation_time))
        end = event.queue_time + event.generation_time
        yield (
            f'<div class="row"><span class="name">{escape(event.job_id)}</span><span class="track">'
            f'<i class="wait" style="width:{wait:.2f}%"></i>'
            f'<i class="make {lane}" style="width:{making:.2f}%"></i></span>'
            f'<span class="end">{end:.1f} s</span></div>'
        )
