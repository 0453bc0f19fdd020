"""Pictures of the batch report for the documentation: generated head-and-neck CTs, the shipped weights, headless Chromium.

``python Docs/report_pictures.py [--work FOLDER]`` writes ``Docs/images/report_*.png``. Needs chromium and chromium-driver (apt) and selenium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from RefSAM3DLib.batch import BatchOptions, refresh_tables, run_batch  # noqa: E402
from RefSAM3DLib.compare import to_image  # noqa: E402
from RefSAM3DLib.phantoms import STRUCTURES, head_and_neck_ct  # noqa: E402
from RefSAM3DLib.review import ReviewSession  # noqa: E402

IMAGES = ROOT / "Docs" / "images"
PROMPTS = ("brainstem", "spinal cord", "left parotid gland", "right parotid gland", "mandible", "uvula")
CASES = 6
SEED = 4_000_000


def make_folder(work: Path) -> Path:
    """Six phantoms, one without a mandible, and a file that is no image; segmented, and partly reviewed."""
    import SimpleITK as sitk

    source = work / "studies"
    source.mkdir(parents=True, exist_ok=True)
    for n in range(CASES):
        volume, _ = head_and_neck_ct(SEED + n, structures=[s for s in STRUCTURES if n != 2 or s != "mandible"])
        sitk.WriteImage(to_image(volume.array, volume.geometry), str(source / f"study_{n + 1:02d}.nrrd"))
    (source / "study_07.nrrd").write_bytes(b"cut off by a full disk")
    folder = work / "results"
    run_batch(source, folder, BatchOptions(prompts=PROMPTS, modality="ct", workers=0))
    session = ReviewSession(folder, "A. Muster")
    if session.progress()[0] == 0:
        good = [item for item in session.queue() if item.verdict == "present" and item.case in ("study_01", "study_03")]
        for item in good[1:]:
            session.decide(item, "accept")
        session.decide(good[0], "reject", reason="leaks into neighbours", comment="below the skull base")
    refresh_tables(folder)
    return folder / "report.html"


#: Picture, colour scheme, width, height, pixels per point, and whether a case is open.
SHOTS = (
    ("report_table", "light", 1440, 1000, 1, False),
    ("report_case", "dark", 1440, 800, 1, True),
    ("report_phone", "light", 390, 844, 2, False),
    ("report_phone_case", "dark", 390, 844, 2, True),
)


def take(driver: Any, page: Path) -> None:
    """Table and case on a desktop and at phone width."""
    for name, scheme, width, height, scale, is_open in SHOTS:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get(page.as_uri())
        if is_open:
            driver.execute_script("document.querySelector('button.picture:has(img.mask)').click()")
        driver.save_screenshot(str(IMAGES / f"{name}.png"))


def main(work: Path) -> None:
    """Make the folder, open the page, save the pictures."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    page = make_folder(work)
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        take(driver, page)
    finally:
        driver.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the batch, continued if it exists (default: a temporary one)")
    arguments = parser.parse_args()
    if arguments.work:
        main(arguments.work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
