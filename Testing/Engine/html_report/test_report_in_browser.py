"""The page in a real browser, opened from disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_volumes import small_volume, write_volume
from test_report_page import HOSTILE

from RefSAM3DLib.batch import BatchOptions, refresh_tables, run_batch
from RefSAM3DLib.review import ReviewSession

pytestmark = [
    pytest.mark.apt,
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromium-driver (apt)"),
]
#: Where screenshots go if somebody wants to look at them.
SHOTS = os.environ.get("REFSAM3D_SCREENSHOTS", "")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    (root / "in").mkdir()
    for n in range(9):
        array = small_volume(n, leave_out=("mandible",) if n == 3 else ())
        if n == 5:
            array[2:14, 2:14, 2:14] = 100  # one brainstem is far too large
        write_volume(root / "in" / f"case_{n}.nii.gz", array, seed=n)
    write_volume(root / "in" / "plain.nii.gz", seed=20)
    (root / "in" / "plain.nii.gz").rename(root / "in" / f"{HOSTILE[1]}.nii.gz")
    (root / "in" / "broken.nii.gz").write_bytes(b"no image")
    prompts = ("brainstem", "mandible", "left parotid gland", HOSTILE[0], HOSTILE[4])
    run_batch(root / "in", root / "out", BatchOptions(prompts=prompts, engine="batch_fake_engine:make", workers=0))
    session = ReviewSession(root / "out", HOSTILE[0])
    session.decide(session.find("case_0/1"), "accept", comment=HOSTILE[1])
    session.decide(session.find("case_1/1"), "reject", reason="wrong side")
    refresh_tables(root / "out")
    return root / "out" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page: Path):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    return browser


def shown(driver) -> list[str]:
    script = "return Array.from(document.querySelectorAll('tbody tr:not([hidden])')).map(r => r.dataset.case + '|' + r.dataset.structure)"
    return driver.execute_script(script)


def keys(driver, *sent: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(*sent).perform()


def shot(driver, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


def test_no_hostile_script_runs_and_nothing_is_asked_from_outside(opened) -> None:
    import json

    assert opened.execute_script("return window.hacked") is None
    assert [e for e in opened.get_log("browser") if e["level"] == "SEVERE"] == []
    events = [json.loads(e["message"])["message"] for e in opened.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url.split(":", 1)[0] for url in urls} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in urls) == 1
    assert opened.execute_script("const s = document.querySelector('.scroll'); return s.scrollWidth <= s.clientWidth"), "columns are cut"
    shot(opened, "table")


def test_columns_sort_both_ways_and_say_so(opened) -> None:
    head = opened.find_element("css selector", "th[data-key=volume]")
    volumes = "return Array.from(document.querySelectorAll('tbody tr')).map(r => r.dataset.volume).filter(v => v !== '').map(Number)"
    head.find_element("tag name", "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert opened.execute_script(volumes) == sorted(opened.execute_script(volumes), reverse=True)
    head.find_element("tag name", "button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert opened.execute_script(volumes) == sorted(opened.execute_script(volumes))
    last = opened.execute_script("return document.querySelector('tbody tr:last-child').dataset.volume")
    assert last == ""  # what has no number stands at the end in both directions


def test_filters_narrow_and_reset(opened) -> None:
    from selenium.webdriver.support.ui import Select, WebDriverWait

    total = len(shown(opened))
    Select(opened.find_element("id", "filter-structure")).select_by_visible_text("mandible")
    assert {row.split("|")[1] for row in shown(opened)} == {"mandible"}
    opened.find_element("id", "filter-text").send_keys("CASE_4")
    assert shown(opened) == ["case_4|mandible"]
    assert "1 of" in opened.find_element("id", "shown").text
    opened.find_element("id", "filter-text").send_keys("zzz")
    assert opened.find_element("id", "nothing").is_displayed()
    opened.find_element("id", "clear-again").click()
    WebDriverWait(opened, 10).until(lambda driver: len(shown(driver)) == total)  # a form is reset after its event
    opened.find_element("id", "filter-eyes").click()
    eyes = shown(opened)
    assert 0 < len(eyes) < total
    assert "case_5|brainstem" in eyes  # the outlier


def test_review_state_is_shown_and_filters(opened) -> None:
    from selenium.webdriver.support.ui import Select

    Select(opened.find_element("id", "filter-review")).select_by_visible_text("accepted")
    assert shown(opened) == ["case_0|brainstem"]


def test_keys_walk_open_toggle_and_close(opened) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    Select(opened.find_element("id", "filter-structure")).select_by_visible_text("brainstem")
    opened.execute_script("document.activeElement.blur()")
    keys(opened, "j", "j", "k")
    focused = opened.execute_script("return document.activeElement.dataset.case")
    assert focused == shown(opened)[0].split("|")[0]
    keys(opened, Keys.ENTER)
    viewer = opened.find_element("id", "viewer")
    assert viewer.get_attribute("open")
    image = opened.find_element("id", "viewer-image")
    assert opened.execute_script("return arguments[0].naturalWidth", image) == 704
    words = opened.find_element("id", "viewer-text").text
    assert "Review: ✓ accepted, by <script>" in words or "Review: · open" in words, words
    mask = opened.find_element("id", "viewer-mask")
    assert mask.is_displayed()
    shot(opened, "case_mask_on")
    keys(opened, "m")
    assert not mask.is_displayed()
    assert opened.find_element("id", "viewer-toggle").get_attribute("aria-pressed") == "false"
    shot(opened, "case_mask_off")
    before = opened.find_element("id", "viewer-title").text
    keys(opened, "m", Keys.ARROW_RIGHT)
    assert opened.find_element("id", "viewer-title").text != before
    keys(opened, Keys.ESCAPE)
    assert not viewer.get_attribute("open")
    assert opened.execute_script("return document.activeElement.tagName") == "TR"
    keys(opened, "/")
    assert opened.execute_script("return document.activeElement.id") == "filter-text"
    keys(opened, Keys.ESCAPE, "?")
    assert opened.find_element("id", "help").get_attribute("open")


def test_phone_width_needs_no_sideways_scrolling(opened) -> None:
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 375, "height": 800, "deviceScaleFactor": 2, "mobile": True})
    opened.get(opened.current_url)
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.execute_script("return getComputedStyle(document.querySelector('tbody tr')).display") == "block"
    assert not opened.execute_script("return document.getElementById('volumes-shown').open")  # the results come first
    shot(opened, "phone_top")
    opened.execute_script("document.querySelector('tbody tr').scrollIntoView({behavior: 'instant'})")
    shot(opened, "phone_rows")
    opened.execute_script("document.querySelector('button.picture').click()")
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    shot(opened, "phone_viewer")


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgb(c) { canvas.fillStyle = '#000'; canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; }
function lum(c) { const v = Array.from(rgb(c)).slice(0, 3).map(x => x / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; }
function back(e) { while (e) { const b = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(b) && b !== 'transparent') { return b; } e = e.parentElement; } return '#fff'; }
const bad = [];
for (const e of document.querySelectorAll('body *')) {
  if (!Array.from(e.childNodes).some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length || ['SCRIPT', 'OPTION'].includes(e.tagName) || e.closest('svg')) { continue; }
  const a = lum(getComputedStyle(e).color), b = lum(back(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) { bad.push(e.tagName + '.' + e.className + ' ' + ratio.toFixed(2)); }
}
return Array.from(new Set(bad));
"""  # noqa: E501 - a script, not prose


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(opened, scheme: str) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    assert opened.execute_script(CONTRAST) == []
    shot(opened, f"table_{scheme}")


def test_print_leaves_out_the_controls(opened) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not opened.find_element("id", "filters").is_displayed()
    assert opened.find_element("id", "table").is_displayed()
    shot(opened, "print")


def test_page_is_readable_without_scripts(opened, page: Path) -> None:
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.get(page.as_uri())
        rows = opened.find_elements("css selector", "tbody tr")
        assert len(rows) > 40
        assert all(row.is_displayed() for row in rows[:3])
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
