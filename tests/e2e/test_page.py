"""The page in a real, headless Chromium: it loads, updates, is switched, is used by keyboard, and asks no other host."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from normserve import Client, NormserveError
from normserve.testing import RunningServer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH; it is a package of the distribution")

CHARTS = ["requests", "errors", "request", "decode", "queue", "compute", "encode", "batches", "in-flight"]
DESKTOP = {"viewport": {"width": 1400, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
CUT = """() => [...document.querySelectorAll(".scroll")].filter((each) => each.scrollWidth > each.clientWidth)
  .map((each) => each.getAttribute("aria-label") ?? each.getAttribute("aria-labelledby"))"""
GREY = {"light": 0xF5F6F8, "dark": 0x10151B}


def traffic(address: str, stop: threading.Event) -> None:
    with Client(address) as client:
        while not stop.is_set():
            client.infer("digits", {"image": np.zeros((3, 1, 8, 8), np.float32)})
            with pytest.raises(NormserveError):
                client.infer("digits", {"image": np.zeros((1, 1, 9, 9), np.float32)})
            time.sleep(0.02)


@pytest.fixture(scope="module")
def url(digits_server: RunningServer) -> Iterator[str]:
    """The page of a server that is called."""
    stop = threading.Event()
    thread = threading.Thread(target=traffic, args=(digits_server.grpc_address, stop))
    thread.start()
    try:
        yield f"http://{digits_server.http_address}"
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own does not run as root
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


class Seen:
    """A page, and what the browser said and asked for while it was there."""

    def __init__(
        self, browser: Any, url: str, options: dict[str, Any], before: Callable[[Any], None] = lambda page: None
    ) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        before(self.page)
        self.page.goto(url)
        self.page.wait_for_selector("#tiles dd")

    def until(self, condition: str) -> None:
        """Waits until an expression is true; Playwright's own way evaluates texts within the page, which its policy forbids."""
        deadline = time.monotonic() + 30
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(50)

    def value(self, tile: str) -> str:
        return self.page.locator(f"#tiles div:has(dt:text-is('{tile}')) dd").inner_text()

    def next_answer(self, containing: str = "") -> dict[str, Any]:
        with self.page.expect_response(lambda response: f"/api/overview?{containing}" in response.url) as caught:
            pass
        return caught.value.json()

    def drawn(self) -> list[str]:
        """The charts in which there is a line or a bar."""
        shapes = ".plot .js-line, .plot .point path"
        return self.page.eval_on_selector_all("figure", f"all => all.filter(f => f.querySelector('{shapes}')).map(f => f.id)")


@pytest.fixture
def look(browser: Any, url: str) -> Iterator[Callable[..., Seen]]:
    """Opens the page; in the end, whatever was opened must have kept quiet and to itself."""
    opened: list[Seen] = []

    def open_page(path: str = "/?minutes=1", *, quiet: bool = True, before: Any = lambda page: None, **options: Any) -> Seen:
        seen = Seen(browser, url + path, DESKTOP | options, before)
        if quiet:
            opened.append(seen)
        return seen

    yield open_page
    for seen in opened:
        seen.context.close()
        assert seen.said == []
        assert {
            address.partition("/static")[0].partition("/api")[0].partition("?")[0].rstrip("/") for address in seen.asked
        } <= {
            url,
            "data:,",
        }


@pytest.mark.parametrize(
    ("theme", "options"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)], ids=["light", "dark", "phone"]
)
def test_it_shows_the_numbers(look: Any, tmp_path: Path, theme: str, options: dict[str, Any]) -> None:
    seen = look(color_scheme=theme, **options)
    page = seen.page
    seen.until("document.querySelectorAll('figure .main-svg').length >= 9")
    assert page.locator("#state").inner_text() == "ready"
    seen.until(f"document.querySelectorAll('.plot .js-line').length >= {len(CHARTS) - 1}")
    seen.until("document.querySelector('#chart-batches .point path')")
    assert seen.drawn() == [f"chart-{name}" for name in CHARTS]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb({}, {}, {})".format(*GREY[theme].to_bytes(3))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing has to be pushed sideways
    seen.until("Number(document.querySelector('#tiles dd').innerText) > 0")
    assert "%" in seen.value("Callers’ errors")  # noqa: RUF001 - as the page has it
    assert page.locator("#models tbody tr", has_text="digits/1").inner_text().count("8 folded, 0 left") == 1
    page.screenshot(path=tmp_path / f"{theme}-{options['viewport']['width']}.png", full_page=True)
    assert (tmp_path / f"{theme}-{options['viewport']['width']}.png").stat().st_size > 20_000


def test_it_goes_on(look: Any) -> None:
    seen = look()
    first = seen.next_answer()
    while seen.next_answer()["total"]["requests"] == first["total"]["requests"]:
        pass  # a reading may be late; that none comes ends in the test's timeout
    shown = seen.page.locator("#latency tbody tr:first-child td:last-child")
    before = shown.inner_text()
    seen.until(f"document.querySelector('#latency tbody tr td:last-child').innerText !== '{before}'")


def test_another_window_and_one_version(look: Any) -> None:
    seen = look()
    page = seen.page
    page.wait_for_selector("#chart-requests .main-svg")
    axis = "document.querySelector('#chart-requests .plot').layout.xaxis.range"
    width = f"(([begin, end]) => Math.round((new Date(end) - new Date(begin)) / 60000))({axis})"
    assert page.evaluate(width) == 1
    page.get_by_role("radio", name="15 min").check()
    seen.until(f"{width} === 15")
    page.get_by_label("Calls").select_option("digits/1")
    assert seen.next_answer("minutes=15&model=digits")["window"]["of"] == "digits/1"
    assert page.url.endswith("?minutes=15&model=digits%2F1")
    page.reload()
    page.wait_for_selector("#tiles dd")
    assert page.get_by_label("Calls").input_value() == "digits/1"
    assert page.get_by_role("radio", name="15 min").is_checked()


def test_the_theme_is_the_systems_until_another_is_chosen(look: Any) -> None:
    seen = look("/?minutes=60", color_scheme="dark")  # it does not ask again so soon, which would draw the charts anew
    page = seen.page
    theme = "document.documentElement.dataset.theme"
    tick = "getComputedStyle(document.querySelector('#chart-requests .xtick text')).fill"
    page.wait_for_selector("#chart-requests .xtick text", state="attached")
    dark = page.evaluate(tick)
    assert page.evaluate(theme) == "dark"
    page.emulate_media(color_scheme="light")
    seen.until(f"{theme} === 'light' && {tick} !== '{dark}'")  # the charts, too
    page.get_by_label("Theme").select_option("dark")
    assert (page.evaluate(theme), page.evaluate(tick)) == ("dark", dark)
    page.reload()
    assert page.evaluate(theme) == "dark"


FOCUSED = """() => {
  const at = document.activeElement, shown = at.matches("[type=radio]") ? at.nextElementSibling : at;
  const name = at.getAttribute("aria-label") ?? document.getElementById(at.getAttribute("aria-labelledby"))?.innerText
    ?? at.closest("label")?.innerText ?? at.innerText;
  return [at.tagName, name.split("\\n")[0].trim(), getComputedStyle(shown).outlineStyle !== "none"];
}"""


def test_by_keyboard(look: Any) -> None:
    seen = look()
    page = seen.page
    page.wait_for_selector("#chart-in-flight .main-svg")
    reached = []
    while not reached or reached[-1][0] != "BODY":
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
        assert len(reached) < 50
    stops = reached[:-1]
    assert [name for tag, name, _ in stops[:4]] == ["Skip to the numbers", "1 min", "Calls", "Theme"]
    assert [tag for tag, _, _ in stops].count("SUMMARY") == len(CHARTS)
    assert {"Latency by phase", "Models"} <= {name for _, name, _ in stops}
    assert all(name and visible for _, name, visible in stops), stops
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="5 min", exact=True).is_checked()
    assert seen.next_answer("minutes=5")["window"]["minutes"] == 5
    page.locator("#chart-compute summary").focus()
    page.keyboard.press("Enter")
    page.locator("#chart-compute tbody tr").first.wait_for()
    assert page.locator("#chart-compute thead th").all_inner_texts() == ["Time", "p50", "p95", "p99"]


def altered(change: Callable[[dict[str, Any]], None]) -> Callable[[Any], None]:
    def before(page: Any) -> None:
        def handle(route: Any) -> None:
            answer = route.fetch()
            data = answer.json()
            change(data)
            route.fulfill(response=answer, json=data)

        page.route("**/api/overview?*", handle)

    return before


def test_without_the_charts_there_are_tables_and_how_to_get_charts(look: Any) -> None:
    seen = look(before=altered(lambda data: data["server"].update(charts=False)))
    notice = seen.page.get_by_role("alert").inner_text()
    assert "pip install 'normserve[dashboards]'" in notice
    assert seen.page.locator("figure details[open]").count() == len(CHARTS)
    assert seen.page.locator("#chart-compute tbody tr").count() > 0
    assert not any("plotly.min" in address for address in seen.asked)


def a_lot(data: dict[str, Any]) -> None:
    """A GPU, several kinds of errors, large numbers and long names."""
    times = data["series"]["age_seconds"]
    names = ("utilization", "memory_used_bytes", "memory_total_bytes", "power_usage")
    gpu = dict(zip(names, (0.25, 2e9, 8e10, 320.0), strict=True))
    data["gpus"] = [{"uuid": "GPU-a", **gpu, "series": {name: [value] * len(times) for name, value in gpu.items()}}]
    data["series"]["codes_per_second"] |= {code: [1.25] * len(times) for code in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")}
    for values in data["total"]["latency_seconds"].values():
        values.update(p50=0.0123, p95=0.0456, p99=0.123, mean=0.0234, count=12_345_678)
    norm = {"name": "features.12.branch.norm", "scale": "features.12.branch.weight", "reason": "blocked", "detail": "Relu " * 9}
    data["models"][0].update(left=[norm], left_because={"blocked": 1}, batch_norms={"folded": 0, "left": 1})


@pytest.mark.parametrize("width", [390, 320])
def test_on_a_phone_nothing_of_a_table_is_cut(look: Any, width: int) -> None:
    seen = look(before=altered(a_lot), **PHONE | {"viewport": {"width": width, "height": 700}})
    seen.page.wait_for_selector("#chart-gpu-0 .main-svg")
    seen.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    seen.until("document.querySelector('#chart-errors tbody tr')")
    assert seen.page.evaluate(CUT) == []
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_chart_has_the_title_of_its_lines_although_nothing_waited_at_first(look: Any) -> None:
    seen = look(before=altered(lambda data: data["series"].update(queue_depth=[None] * len(data["series"]["age_seconds"]))))
    assert seen.page.locator("#chart-in-flight figcaption").inner_text() == "In flight and queued requests"


def test_a_gpu_has_its_power_too(look: Any) -> None:
    seen = look(before=altered(a_lot))
    for name in ("gpu-0", "gpu-0-memory", "gpu-0-power"):
        seen.page.wait_for_selector(f"#chart-{name} .js-line", state="attached")
    seen.page.locator("#chart-gpu-0-power summary").click()
    assert seen.page.locator("#chart-gpu-0-power tbody tr").first.inner_text().endswith("\t320")


def test_without_metrics_it_says_so(look: Any) -> None:
    seen = look(before=altered(lambda data: data["server"].update(recording=False)))
    assert "records no metrics" in seen.page.get_by_role("alert").inner_text()
    assert seen.page.locator("#models tbody tr", has_text="digits/1").count() == 1


def test_what_stayed_is_told_and_texts_are_texts(look: Any) -> None:
    """Names and reasons come from files of others."""
    text = "<img src=x onerror=alert(1)>"

    def change(data: dict[str, Any]) -> None:
        norm = {"name": text, "scale": "s", "reason": "blocked", "detail": "Relu before it"}
        data["models"][0].update(reason=text, left=[norm], left_because={"blocked": 1}, batch_norms={"folded": 0, "left": 1})

    seen = look(before=altered(change))
    page = seen.page
    page.get_by_text("Batch norms left in digits/1: 1 × blocked").click()  # noqa: RUF001 - times
    assert page.locator("#folds tbody tr").all_inner_texts() == [f"{text}\ts\tblocked\tRelu before it"]
    assert text in page.locator("#models").inner_text()
    assert page.locator("img").count() == 0
    seen.next_answer()
    assert page.locator("#folds details[open]").count() == 1  # it stays open


def test_a_server_that_goes_is_noticed_and_one_that_comes_back_too(look: Any) -> None:
    seen = look(quiet=False)
    page = seen.page
    page.route("**/api/overview?*", lambda route: route.abort())
    seen.until("document.getElementById('state').innerText === 'no answer'")
    assert page.locator("#models tbody tr").count() > 0  # what was last known is still there
    page.unroute("**/api/overview?*")
    seen.until("document.getElementById('state').innerText === 'ready'")
    seen.context.close()
