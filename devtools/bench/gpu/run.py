"""`bench gpu`: the worker's engine at full size, against itself without padding, diffusers, and the card's limit."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from devtools.bench.gpu import traffic
from devtools.bench.gpu.cards import card_of, floor_s
from devtools.bench.gpu.cases import KINDS, LORAS, PLAIN, Case, Kind, cases, prompts
from devtools.bench.gpu.diffusers_side import MAX_AUTOTUNE, UNCOMPILED, DiffusersSide, Source
from devtools.bench.gpu.engine_side import EngineSide, NotDrawn, Ticks
from devtools.bench.gpu.memory import Peak, allocated, process_peak_gb
from devtools.bench.gpu.pairs import Pairs, in_turns
from devtools.bench.gpu.work import Work
from devtools.rehearsal.pictures import write_lora
from worker.settings import Settings, load_settings

UNPADDED, WITHOUT_LORA = "unpadded", "without LoRA"
PLAIN_DIFFUSERS, FAST_DIFFUSERS = "diffusers", "diffusers fast"
AGAINST = (UNPADDED, WITHOUT_LORA, PLAIN_DIFFUSERS, FAST_DIFFUSERS)
_LIBRARIES = ("torch", "diffusers", "transformers", "peft")

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Args:
        rounds: pairs of pictures per comparison, beside one pair that is not counted.
        against: what the engine is compared with, of `AGAINST`.
        mode: `torch.compile`'s for diffusers' fast path.
        settings: the worker's, by name in capitals.
    """

    sides: Sequence[int] = (1024, 512)
    steps: Sequence[int] = (20, 30)
    kinds: Sequence[Kind] = KINDS
    rounds: int = 3
    against: Sequence[str] = AGAINST
    mode: str = MAX_AUTOTUNE
    settings: Mapping[str, str] = field(default_factory=dict)


# The same at a size that a CPU draws in moments; nothing is compiled.
# The size is the smallest of which a call on the CPU holds one row, so that rows preempt each other.
TOY = Plan(sides=(96,), steps=(3,), rounds=1, mode=UNCOMPILED)


class Bench:
    """One run. Results are written as they come in, so a run that is cut off leaves what it has.

    Args:
        model: folder with `base` and `refiner`.
        note: called with a description of each part when it starts.
        write: called with the report whenever it has grown.
    """

    def __init__(
        self,
        model: Path,
        loras: Path,
        device: str,
        plan: Plan,
        note: Callable[[str], None],
        write: Callable[[Report], None],
    ) -> None:
        self._plan, self._note, self._write = plan, note, write
        for number, name in enumerate(LORAS):
            write_lora(model / "base", loras, name=name, seed=number)
        note("loading the model as the worker does")
        self._side = EngineSide(_settings(model, loras, device, plan.settings))
        self._unpadded = self._side.unpadded()
        self._work = Work(self._side.model)
        self._device = self._side.model.device
        self._source = Source(
            str(model / "base"), str(model / "refiner"), loras, self._side.model.base.dtype, self._device, plan.mode
        )
        self._prompts: Iterator[str] = prompts(1)
        self.report: Report = self._conditions() | {"cases": [], "traffic": []}

    def run(self) -> Report:
        """Measure everything."""
        wanted = cases(self._plan.kinds, self._plan.sides, self._plan.steps)
        self._first_pictures(wanted[0])
        found = [(case, entry) for case in wanted if "error" not in (entry := self._alone(case))]
        self._traffic()
        self._against_itself(found)
        for name, fast in ((PLAIN_DIFFUSERS, False), (FAST_DIFFUSERS, True)):
            if name in self._plan.against:
                for kind, some in groupby(found, key=lambda pair: pair[0].kind):
                    self._against_diffusers(name, kind, list(some), fast=fast)
        self.report["process_peak_gb"] = process_peak_gb()
        self._write(self.report)
        return self.report

    def _first_pictures(self, case: Case) -> None:
        self._note("the first picture")
        times = [self._draw(case) for _ in range(2)]
        self.report["start"] = {
            "case": case.name,
            "load_s": self._side.load_seconds,
            "first_picture_s": times[0],
            "second_picture_s": times[1],
        }

    def _alone(self, case: Case) -> Report:
        """Pictures of the worker alone: seconds, steps, memory, and the card's limit."""
        self._note(f"{case.name}: the worker alone")
        entry: Report = {"case": case.name, "side_px": case.side_px, "steps": case.steps, "kind": case.kind.name}
        self.report["cases"].append(entry)
        try:
            self._draw(case)
            ticks, peak = Ticks(), Peak(self._device)
            seconds = [self._side.draw(case, next(self._prompts), ticks) for _ in range(self._plan.rounds)]
        except NotDrawn as error:
            entry["error"] = _line(error)
            return entry
        card, job = card_of(self._side.info.device), self._side.job(case, next(self._prompts))
        tflop = self._work.tflop(job)
        entry |= {
            "call_samples": self._side.info.calls.of(job),
            "tflop": tflop,
            "floor_s": None if card is None else floor_s(tflop, card),
            "fp16_accumulate_floor_s": None if card is None else floor_s(tflop, card, fp16_accumulate=True),
            "seconds": seconds,
            "median_s": median(seconds),
            "step_times": traffic.step_times([ticks]),
            "peak_gb": peak.gb,
            "against": {},
        }
        entry["over_floor"] = None if card is None else entry["median_s"] / entry["floor_s"]
        self._write(self.report)
        return entry

    def _traffic(self) -> None:
        steps = self._plan.steps[0]
        for side_px in self._plan.sides:
            for loras in (False, True):
                what = "joins, preemptions and LoRA changes" if loras else "joins and preemptions"
                self._note(f"{side_px}², {steps} steps: {what}")
                entry: Report = {"side_px": side_px, "steps": steps, "what": what, "loras": loras}
                arrivals = traffic.mix(side_px, steps, loras=loras)
                try:
                    entry |= traffic.measure(self._side, arrivals, self._prompts, self._plan.rounds)
                except NotDrawn as error:
                    entry["error"] = _line(error)
                self.report["traffic"].append(entry)
                self._write(self.report)

    def _against_itself(self, found: Sequence[tuple[Case, Report]]) -> None:
        for case, entry in found:
            if UNPADDED in self._plan.against:
                self._note(f"{case.name}: in turns with {UNPADDED} calls")
                self._compare(entry, UNPADDED, case, lambda c=case: self._unpadded.draw(c, next(self._prompts)))  # type: ignore[misc]
            if WITHOUT_LORA in self._plan.against and case.kind.loras:
                self._note(f"{case.name}: in turns with the same {WITHOUT_LORA}")
                plain = Case(case.side_px, case.steps, PLAIN)
                self._compare(entry, WITHOUT_LORA, case, lambda c=plain: self._draw(c))  # type: ignore[misc]

    def _against_diffusers(self, name: str, kind: Kind, found: Sequence[tuple[Case, Report]], *, fast: bool) -> None:
        self._note(f"loading {name} for {kind.name}")
        before = allocated(self._device)
        try:
            other = DiffusersSide(self._source, kind, fast=fast)
        except RuntimeError as error:
            for _, entry in found:
                entry["against"][name] = {"error": _line(error)}
            return
        try:
            for case, entry in found:
                self._note(f"{case.name}: in turns with {name}")
                peak = Peak(self._device, beside=before)
                self._compare(entry, name, case, lambda c=case: other.draw(c, next(self._prompts)))  # type: ignore[misc]
                entry["against"][name] |= {"peak_gb": peak.gb} | self._same_picture(case, other)
        finally:
            other.close()

    def _same_picture(self, case: Case, other: DiffusersSide) -> Report:
        """The mean difference of the two sides' pixels for one prompt, which shows that both did the same work."""
        prompt = next(self._prompts)
        try:
            self._side.draw(case, prompt)
            other.draw(case, prompt)
        except RuntimeError:
            return {"mean_pixel_difference": None}
        assert self._side.last is not None
        assert other.last is not None
        return {"mean_pixel_difference": float(np.abs(self._side.last.pixels.astype(float) - other.last).mean())}

    def _compare(self, entry: Report, name: str, case: Case, other: Callable[[], float]) -> None:
        """Add a comparison to `entry`; one that does not fit or cannot be compiled says so instead."""
        try:
            pairs = in_turns(lambda: self._draw(case), other, self._plan.rounds)
        except RuntimeError as error:
            entry["against"][name] = {"error": _line(error)}
        else:
            entry["against"][name] = _told(pairs)
        self._write(self.report)

    def _draw(self, case: Case) -> float:
        return self._side.draw(case, next(self._prompts))

    def _conditions(self) -> Report:
        card = card_of(self._side.info.device)
        return {
            "device": self._side.info.device,
            "dtype": self._side.info.dtype,
            "card": None if card is None else asdict(card),
            "settings": dict(self._plan.settings),
            "rounds": self._plan.rounds,
            "diffusers_fast_mode": self._plan.mode,
            "versions": {name: version(name) for name in _LIBRARIES},
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,  # type: ignore[no-untyped-call]
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        }


def _settings(model: Path, loras: Path, device: str, changed: Mapping[str, str]) -> Settings:
    fixed = {
        "sdxl_model_id": str(model / "base"),
        "sdxl_refiner_id": str(model / "refiner"),
        "sdxl_lora_path": str(loras),
        "device": device,
    }
    return load_settings(**(fixed | {name.lower(): value for name, value in changed.items()}))


def _told(pairs: Pairs) -> Report:
    return {
        "worker_s": pairs.ours,
        "other_s": pairs.theirs,
        "other_median_s": median(pairs.theirs),
        "ratio": pairs.ratio,
    }


def _line(error: RuntimeError) -> str:
    """The kind of an error and the beginning of its first line."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}"
