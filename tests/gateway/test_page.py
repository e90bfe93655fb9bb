"""The page in headless Chromium: what a person sees, does by keyboard, and is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from tests.gateway.browser import ARGUMENTS, CHROMIUM, NO_CHROMIUM, Site, serving
from tests.gateway.world import TOKEN, Log, make_world
from worker.errors import ErrorCode
from worker.events.types import GenerationCancellation, Priority

pytestmark = [pytest.mark.server, pytest.mark.skipif(not CHROMIUM, reason=NO_CHROMIUM)]

PROMPT = "a lighthouse at dusk"
XSS = "<img src=x onerror='window.pwned=1'><b>bold</b>"

Open = Callable[..., tuple[Page, Site]]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Open]:
    """Opens the page on a gateway; whatever the console complains about fails the test."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def visit(
            width: int = 1280, scheme: Any = "light", wait: str = "live", expected: str = "$^", **world: Any
        ) -> tuple[Page, Site]:
            site = stack.enter_context(serving(make_world(**world)))
            context = chromium.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "console",
                lambda line: (
                    complaints.append(line.text)
                    if line.type in ("error", "warning") and not re.search(expected, line.text)
                    else None
                ),
            )
            page.goto(site.url)
            expect(page.locator("#connection")).to_have_attribute("data-state", wait, timeout=20_000)
            return page, site

        yield visit
    assert complaints == []


def sent(site: Site) -> Any:
    """The only request that was sent."""
    [request] = site.world.log.requests
    return request


def test_a_picture_is_asked_for_by_keyboard_and_followed_to_its_end(visit: Open) -> None:
    page, site = visit()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.locator("#prompt").focus()
    page.keyboard.type(PROMPT)
    page.get_by_label("Negative prompt").fill("fog")
    page.get_by_label("Urgent").focus()
    page.keyboard.press("Space")
    page.get_by_label("Steps", exact=True).fill("12")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Size").select_option("832x1216")
    page.get_by_role("button", name="Add a LoRA").press("Enter")
    page.keyboard.type("ink")
    page.keyboard.press("Tab")
    page.keyboard.type("0.6")
    page.keyboard.press("Control+Enter")
    active = page.locator("#active .job")
    expect(active).to_have_count(1)
    request = sent(site)
    assert (request.prompt, request.negative_prompt, request.priority) == (PROMPT, "fog", Priority.URGENT)
    assert (request.width, request.height, request.num_inference_steps, request.seed) == (832, 1216, 12, 7)
    assert [(lora.name, lora.weight) for lora in request.loras] == [("ink", 0.6)]

    expect(active).to_contain_text(PROMPT)
    expect(active).to_contain_text("Waiting")
    expect(page.locator('#queue [data-lane="urgent"]')).to_contain_text("1 waiting")
    told = {"priority": Priority.URGENT, "num_inference_steps": 12}
    site.status(request.job_id, "running", 1, step=6, **told)
    expect(active).to_contain_text("Step 6 of 12")
    assert active.locator("progress").evaluate("bar => bar.value") == 0.5
    expect(page.locator("#receipt")).to_contain_text("Step 6 of 12")
    picture = f"{site.url}icon.svg"
    site.status(request.job_id, "completed", 2, image_url=picture, thumbnail_url=picture, generation_time=2.34, **told)
    expect(page.locator(".picture.loaded")).to_contain_text("2.3 s")
    expect(active).to_have_count(0)
    expect(page.locator("#announcer")).to_contain_text(f"{PROMPT}: the picture is there")

    page.get_by_role("button", name=f"Show {PROMPT}").press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("832 × 1216")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name=f"Show {PROMPT}")).to_be_focused()


def test_what_is_wrong_is_told_at_its_field(visit: Open) -> None:
    page, site = visit(expected="422")
    page.get_by_role("button", name="Make the picture").click()
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    expect(page.locator('[data-field="prompt"]')).to_contain_text("Say what the picture should show")
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Size").select_option("other")
    page.get_by_label("Height").fill("513")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Height")).to_be_focused()
    expect(page.get_by_label("Height")).to_have_attribute("aria-invalid", "true")
    expect(page.locator('#custom-size [data-field="height"]')).to_contain_text("multiple of 8")
    assert page.locator("#form .error:visible").count() == 1
    page.get_by_label("Height").fill("512")
    page.get_by_label("Steps", exact=True).fill("0")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_label("Steps", exact=True)).to_be_focused()
    assert site.world.log.requests == []


def test_text_of_strangers_stays_text(visit: Open) -> None:
    page, site = visit()
    site.status("job-1", "failed", 1, girl_id=XSS, error_code=ErrorCode.INTERNAL, error_message=XSS)
    site.status("job-2", "running", 1, girl_id=XSS, step=1, num_inference_steps=4)
    site.status("job-3", "completed", 1, girl_id=XSS, image_url="javascript:window.pwned=1", thumbnail_url="data:x,1")
    expect(page.locator(".failure")).to_contain_text(XSS)
    expect(page.locator("#active .job")).to_contain_text(XSS)
    expect(page.locator(".picture.unseen")).to_contain_text("does not show it")
    page.locator(".picture button").click()
    assert page.evaluate("window.pwned") is None
    assert page.locator(".board b, .board img[src=x], [src^='data:'], [href^='javascript:']").count() == 0


def test_what_was_there_before_is_shown_at_once(visit: Open) -> None:
    log = Log()
    log.status("old", "completed", after_s=1, image_url="/icon.svg", thumbnail_url="/icon.svg", generation_time=1.0)
    log.status("waits", "queued", after_s=2)
    page, _ = visit(log=log)
    expect(page.locator(".picture.loaded")).to_have_count(1)
    expect(page.locator("#active .job")).to_have_count(1)
    expect(page.locator('#queue [data-lane="normal"]')).to_contain_text("1 waiting")


def test_the_form_begins_with_this_installations_size_and_then_with_what_was_sent_last(visit: Open) -> None:
    page, site = visit(gateway_page_size="128x128")
    expect(page.get_by_label("Size")).to_have_value("128x128")
    page.get_by_label("Size").select_option("512x512")
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#active .job")).to_have_count(1)
    assert (sent(site).width, sent(site).height) == (512, 512)
    page.reload()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    expect(page.get_by_label("Size")).to_have_value("512x512")
    expect(page.locator("#active .job")).to_contain_text(PROMPT)


def test_jobs_of_everyone_are_there_and_mine_can_be_told_apart(visit: Open) -> None:
    page, site = visit()
    for number in range(12):
        site.status(f"job-{number:02}", "queued", number)
    site.status("job-20", "cancelled", 1, error_message="somebody cancelled it")
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#active-count")).to_have_text("13")
    expect(page.locator("#active .job")).to_have_count(5)
    expect(page.locator("#active-more")).to_have_text("and 8 more that wait")
    expect(page.locator(".failure.cancelled")).to_contain_text("somebody cancelled it")
    page.get_by_label("Only mine").check()
    expect(page.locator("#active .job")).to_have_count(1)
    expect(page.locator("#active .job")).to_contain_text(PROMPT)


def test_a_job_is_cancelled_and_a_strangers_only_after_a_question(visit: Open) -> None:
    page, site = visit()
    site.status("strangers", "running", 1)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Cancel luna · stranger").click()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name=f"Cancel {PROMPT}").click()
    expect(page.locator("#active")).to_contain_text("Cancelling…")
    asked = [seen.event.job_id for seen in site.world.log.records if isinstance(seen.event, GenerationCancellation)]
    assert asked == [sent(site).job_id]


def test_a_refused_cancellation_is_told(visit: Open) -> None:
    page, site = visit(expected="503")
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#active .job")).to_have_count(1)
    site.world.log.away = "it is away"
    page.get_by_role("button", name=f"Cancel {PROMPT}").click()
    expect(page.locator("#form-error")).to_contain_text("Kafka has not acknowledged it")
    expect(page.get_by_role("button", name=f"Cancel {PROMPT}")).to_be_enabled()


def test_a_request_that_nobody_answered_is_sent_again_as_the_same_job(visit: Open) -> None:
    page, site = visit(expected="503")
    site.world.log.away = "it is away"
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    keys: list[str | None] = []

    def note_key(asked: Request) -> None:
        if asked.method == "POST":
            keys.append(asked.headers.get("idempotency-key"))

    page.on("request", note_key)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#form-error")).to_contain_text("send it again")
    site.world.log.away = None
    page.keyboard.press("Control+Enter")
    expect(page.locator("#active .job")).to_have_count(1)
    page.get_by_role("button", name="Make the picture").click()
    expect(page.locator("#active .job")).to_have_count(2)
    assert keys[0] == keys[1] != keys[2]


def test_what_happened_while_the_stream_was_cut_is_caught_up_on(visit: Open) -> None:
    page, site = visit(expected="ERR_INTERNET_DISCONNECTED")
    site.status("before", "running", 1, step=1, num_inference_steps=4)
    expect(page.locator("#active .job")).to_have_count(1)
    page.context.set_offline(True)
    site.tell(site.cut_streams)
    expect(page.locator("#connection")).to_have_attribute("data-state", "lost", timeout=20_000)
    site.status("before", "completed", 2, image_url=f"{site.url}icon.svg", thumbnail_url=f"{site.url}icon.svg")
    site.status("new", "failed", 3, error_message="It went wrong.", error_code=ErrorCode.INTERNAL)
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=20_000)
    expect(page.locator(".picture")).to_have_count(1)
    expect(page.locator(".failure")).to_contain_text("It went wrong.")
    expect(page.locator("#active .job")).to_have_count(0)


def test_a_token_is_asked_for_kept_for_the_tab_and_sent_as_a_header(visit: Open) -> None:
    page, site = visit(wait="lost", expected="401", tokens=f"web:{TOKEN}")
    expect(page.locator("#connection")).to_have_text("Token needed")
    page.get_by_label("Access token").fill("wrong-wrong-wrong-wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_attribute("data-state", "lost")
    page.get_by_label("Access token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=20_000)
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#active .job")).to_have_count(1)
    assert sent(site).prompt == PROMPT
    stored = page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href]")
    assert TOKEN not in "".join(stored)
    assert page.evaluate("sessionStorage.getItem('sdxl-token')") == TOKEN


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_it_fits_every_screen_and_can_be_read(visit: Open, width: int, scheme: str) -> None:
    page, site = visit(width=width, scheme=scheme)
    for number, status in enumerate(("queued", "running", "completed", "failed", "cancelled")):
        fields: dict[str, Any] = {"error_message": "one-long-word-" * 20} if status in ("failed", "cancelled") else {}
        site.status(f"{status}-{'x' * 100}", status, number, girl_id="a-very-long-profile-name" * 4, **fields)
    expect(page.locator(".failure")).to_have_count(2)
    page.get_by_role("button", name="Add a LoRA").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unnamed = "[...document.querySelectorAll('input, select, textarea, button')].filter(n => !n.labels?.length"
    assert page.evaluate(f"{unnamed} && !n.ariaLabel && !n.textContent.trim()).map(n => n.outerHTML)") == []
    assert [(text, ratio) for text, ratio in page.evaluate(_CONTRAST) if ratio < 4.5] == []


# WCAG 2's contrast of each element that has a text of its own, with the nearest ground behind it.
_CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = rgb(colour).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (n) => (!n ? "#fff" : rgb(getComputedStyle(n).backgroundColor)[3] === 255
    ? getComputedStyle(n).backgroundColor : ground(n.parentElement));
  return [...document.body.querySelectorAll("*")]
    .filter((n) => n.checkVisibility() && !n.disabled)
    .filter((n) => [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim()))
    .map((n) => {
      const [a, b] = [light(getComputedStyle(n).color), light(ground(n))];
      return [n.textContent.slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}"""
