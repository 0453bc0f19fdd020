"""``refsam3d`` with the engine of the batch tests: ``python fake_batch.py batch ...``. FAKE_BATCH_SECONDS slows each case."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "Engine" / "batch_doubles"), str(HERE.parents[1])]

from RefSAM3DLib.batch import options  # noqa: E402
from RefSAM3DLib.cli.main import main  # noqa: E402

_BatchOptions = options.BatchOptions


def _withFakeEngine(**values):
    seconds = float(os.environ.get("FAKE_BATCH_SECONDS", "0"))
    return _BatchOptions(**{**values, "engine": "batch_fake_engine:make", "engine_arguments": {"seconds": seconds}})


if __name__ == "__main__":
    options.BatchOptions = _withFakeEngine
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    sys.exit(main())
