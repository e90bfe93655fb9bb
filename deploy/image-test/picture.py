"""One toy picture with the image's own worker: from a request to the bytes that S3 would get."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from worker.app import engine_maker, load_model
from worker.delivery.encode import encode_picture
from worker.engine_interface import EngineHooks
from worker.events.types import GenerationRequest
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import Lane, Origin
from worker.picture import Picture
from worker.settings import load_settings


def main() -> None:
    """Write the picture to the file that the command line names."""
    if os.getuid() == 0:
        raise SystemExit("this test is about the image's user, and runs as root")
    settings = load_settings()
    model, _info, facts = load_model(settings)
    ended: list[object] = []
    engine = engine_maker(settings, model)(EngineHooks(on_pixels=ended.append, on_failed=ended.append))
    request = GenerationRequest(
        job_id="image-test", girl_id="test", user_id=1, prompt="a lighthouse at dusk",
        width=256, height=256, num_inference_steps=8, high_quality=True,
    )  # fmt: skip
    now = time.time()
    engine.submit(admit(request, Arrival(Origin("test", 0, 0, 0), Lane.URGENT, now, {}), AdmissionRules(settings), now))
    while not ended:
        engine.tick()
    [picture] = ended
    if not isinstance(picture, Picture):
        raise SystemExit(f"no picture: {picture}")
    encoded = encode_picture(
        picture.pixels, output_format="jpeg", jpeg_quality=90, thumbnail_px=256, job_id="image-test"
    )
    Path(sys.argv[1]).write_bytes(encoded.data)
    print(f"uid {os.getuid()}, {facts['device']}, {encoded.content_type}, {len(encoded.data)} bytes, {encoded.sha256}")


if __name__ == "__main__":
    main()
