"""What a batch says of its prompts before the first case, from the header of the weights alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_volumes import write_volume
from tiny_checkpoint import write_tiny_pair

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.batch.cases import Case
from RefSAM3DLib.batch.refusals import check_prompts
from RefSAM3DLib.errors import PromptError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    model, adapter = write_tiny_pair(tmp_path_factory.mktemp("model"), ("larynx",))
    return {"model": str(model), "adapter": str(adapter), "device": "cpu"}


def options(model: dict[str, str], *prompts: str, **values: bool) -> BatchOptions:
    return BatchOptions(prompts=prompts, engine_arguments=model, workers=0, **values)


def test_batch_of_which_nothing_is_known_is_refused_before_it_begins(tmp_path: Path, model: dict[str, str]) -> None:
    (tmp_path / "in").mkdir()
    write_volume(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(PromptError, match=r"knows none of the prompts.*'brain stm' of 1 case is close.*did you mean 'brainstem'\?"):
        run_batch(tmp_path / "in", tmp_path / "out", options(model, "brain stm", "nonsense organ"))
    assert not (tmp_path / "out").exists()


def test_single_unknown_prompts_are_notes(model: dict[str, str]) -> None:
    cases = [Case("a", "a", "a.nii", prompts=("brainstem", "nonsense organ")), Case("b", "b", "b.nii"), Case("c", "c", "c.nii", prompts=("x" * 501,))]
    unknown, too_long = check_prompts(cases, options(model, "larynx", "nonsense organ"))
    assert unknown == "Prompt 'nonsense organ' of 2 cases is unknown and is not drawn."
    assert "A prompt of 1 case cannot be read" in too_long
    (drawn,) = check_prompts(cases[1:2], options(model, "nonsense organ", allow_unknown=True))
    assert "is drawn because of --allow-unknown" in drawn
    assert check_prompts(cases[1:2], options({**model, "adapter": "", "model": "gone.safetensors"}, "nonsense organ")) == [], "the engine says it"
    with pytest.raises(PromptError, match="invisible"):
        check_prompts(cases, options(model, "larynx\u200f"))
