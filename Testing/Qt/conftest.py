"""Path of the harness; files that need Slicer's libraries skip themselves, with the reason, where these are not installed."""

import shutil
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
for _folder in (_ROOT, _ROOT / "RefSAM3D", _ROOT / "Testing" / "harness"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))


@pytest.fixture
def bench():
    """Makes Segment Editors with the effect, and closes them."""
    from effect_cases import Bench, closeAll

    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    closeAll(made)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A batch that was run once for all tests of a file."""
    from review_cases import makeBatch

    return makeBatch(tmp_path_factory.mktemp("batch"), probability=True)


@pytest.fixture
def folder(finished, tmp_path):
    """A batch folder of the test's own."""
    return shutil.copytree(finished, tmp_path / "results")


@pytest.fixture
def widget():
    """The module's widget with the Review section open."""
    from review_panel import closePanel, openPanel

    made = openPanel()
    yield made
    closePanel(made)


@pytest.fixture
def review(widget, folder):
    """The Review section with the batch folder opened."""
    from review_panel import openReview

    return openReview(widget, folder)


@pytest.fixture
def panel():
    """The module's panel, shown, without recent prompts."""
    import gui_cases
    import slicer
    from RefSAM3DSlicer import prompt_box

    slicer.app.userSettings().remove(prompt_box.RECENT_KEY)
    with gui_cases.shownPanel(430, 900) as shown:
        yield shown
