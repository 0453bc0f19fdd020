"""The page itself: escaping, no network, no identifiers; read as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from batch_volumes import write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.errors import PromptError
from RefSAM3DLib.html_report.histograms import histogram, histograms

HOSTILE = (
    "<script>window.hacked=1</script>",
    "\"><img src=x onerror=window.hacked=1>",
    "'; window.hacked=1; //",
    "{{ 7 * 7 }}{% raw %}",
    "</title></style></script><script>window.hacked=1</script>",
    "javascript:window.hacked=1",
    "\u202egnp.exe",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    (root / "in").mkdir()
    for n in range(6):
        write_volume(root / "in" / f"ok_{n}.nii.gz", seed=n)
    names = [HOSTILE[0].replace("/", "_"), HOSTILE[1], HOSTILE[3], HOSTILE[6]]
    for n, name in enumerate(names):
        write_volume(root / "in" / "plain.nii.gz", seed=n)
        (root / "in" / "plain.nii.gz").rename(root / "in" / f"{name}.nii.gz")
    (root / "in" / f"{HOSTILE[4].replace('/', '_')}.nii.gz").write_bytes(b"broken")
    prompts = ("brainstem", "mandible", *HOSTILE[:6])
    with pytest.raises(PromptError, match=r"invisible character U\+202E"):
        run_batch(root / "in", root / "out", BatchOptions(prompts=(*prompts, HOSTILE[6]), engine="batch_fake_engine:make", workers=0))
    run_batch(root / "in", root / "out", BatchOptions(prompts=prompts, engine="batch_fake_engine:make", workers=0))
    return root / "out"


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_hostile_names_and_prompts_become_text(hostile_folder: Path) -> None:
    page = (hostile_folder / "report.html").read_text(encoding="utf-8")
    collector = Collector()
    collector.feed(page)
    assert [tag for tag, _ in collector.tags].count("script") == 1
    assert not [a for _, attrs in collector.tags for a in attrs if a.startswith("on")]
    assert "49" not in re.findall(r"asked: <bdi>([^<]*)</bdi>", page)
    assert "&lt;script&gt;window.hacked=1" in page
    assert "{{ 7 * 7 }}" in page


def test_page_asks_for_nothing_from_outside(hostile_folder: Path) -> None:
    collector = Collector()
    collector.feed((hostile_folder / "report.html").read_text(encoding="utf-8"))
    for tag, attrs in collector.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attrs.get(name) or "data:image/").startswith(("data:image/", "#")), (tag, attrs.get(name))
        assert tag not in ("link", "iframe", "object", "embed", "base")
    policy = next(attrs["content"] for tag, attrs in collector.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_every_control_has_a_name_and_every_column_a_heading(hostile_folder: Path) -> None:
    page = (hostile_folder / "report.html").read_text(encoding="utf-8")
    collector = Collector()
    collector.feed(page)
    assert ("html", {"lang": "en"}) in collector.tags
    headings = len(re.findall(r'<th scope="col"', page))
    first_row = re.search(r"<tbody>.*?</tr>", page, re.S)
    assert first_row is not None
    assert len(re.findall(r"<t[dh] ", first_row.group())) == headings
    assert all(attrs.get("aria-label") for tag, attrs in collector.tags if tag == "svg")
    assert all("alt" in attrs for tag, attrs in collector.tags if tag == "img")


def test_histogram_counts_every_volume_once() -> None:
    shown = histogram("brainstem", [20.0, 21.0, 30.0, 40.0])
    assert sum(int(bar.words.split()[0]) for bar in shown.bars) == 4
    assert (shown.low_ml, shown.high_ml) == (20.0, 40.0)
    assert shown.range_ml is not None
    assert len(histogram("x", [5.0, 5.0]).bars) == 1
    assert histograms([{"structure": "a", "voxels": 3, "volume_ml": 1.0}]) == []


def test_damaged_manifest_does_not_hide_the_page(tmp_path: Path) -> None:
    from RefSAM3DLib.html_report import write_report

    path = write_report(tmp_path, [])
    assert "0 cases" in path.read_text()


def test_median_of_an_even_number_of_volumes_lies_between_the_middle_ones() -> None:
    assert histogram("x", [50.0, 10.0]).median_ml == 30.0
    assert histogram("x", [80.0, 10.0, 20.0, 40.0]).median_ml == 30.0
    assert histogram("x", [80.0, 10.0, 20.0]).median_ml == 20.0
