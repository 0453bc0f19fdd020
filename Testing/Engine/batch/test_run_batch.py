"""A batch from end to end with the fake engine."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from batch_volumes import small_volume, write_dicom_series, write_volume

from RefSAM3DLib.batch import BatchOptions, run_batch
from RefSAM3DLib.batch.folder_state import FolderState
from RefSAM3DLib.errors import InputError, OutputError, RefSAM3DError

PROMPTS = ("brainstem", "mandible")


def options(diary: Path | None = None, **values: object) -> BatchOptions:
    arguments = values.pop("engine_arguments", {})
    return BatchOptions(
        prompts=values.pop("prompts", PROMPTS), engine="batch_fake_engine:make", workers=values.pop("workers", 0),
        engine_arguments={**({"diary": str(diary)} if diary else {}), **arguments}, **values,
    )  # fmt: skip


def images(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for n in range(count):
        write_volume(folder / f"case_{n:03d}.nii.gz", seed=n)
    return folder


def work_done(diary: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in diary.read_text().splitlines()) if diary.exists() else Counter()


def test_each_case_gets_segmentation_json_pictures_and_a_line_in_every_table(tmp_path: Path) -> None:
    outcome = run_batch(images(tmp_path / "in", 3), tmp_path / "out", options())
    assert outcome.exit_code == 0
    for n in range(3):
        place = tmp_path / "out" / "cases" / f"case_{n:03d}"
        report = json.loads((place / f"case_{n:03d}.json").read_text())
        assert [p["verdict"] for p in report["prompts"]] == ["present", "present"]
        assert {"input", "modality", "model", "device", "warnings", "elapsed_s", "peak_memory_mb", "version"} <= set(report)
        assert all((place / name).is_file() for name in report["outputs"])
        assert (place / f"case_{n:03d}.png").is_file()
        assert (place / f"case_{n:03d}.seg.nrrd").is_file()
    with open(tmp_path / "out" / "summary.csv", encoding="utf-8-sig") as handle:
        assert len(list(csv.DictReader(handle))) == 6
    assert (tmp_path / "out" / "report.html").is_file()
    manifest = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert manifest["engine"]["sha256"] == "ab" * 32
    assert manifest["runs"][0]["how"] == "finished"
    assert not (tmp_path / "out" / "batch.lock").exists()
    assert not list((tmp_path / "out").rglob("*.part.*"))


def test_second_run_computes_nothing(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    source = images(tmp_path / "in", 3)
    run_batch(source, tmp_path / "out", options(diary))
    outcome = run_batch(source, tmp_path / "out", options(diary))
    assert outcome.counts == {"unchanged": 3}
    assert set(work_done(diary).values()) == {1}


def test_changed_image_is_done_again_and_the_older_result_set_aside(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 2)
    run_batch(source, tmp_path / "out", options())
    write_volume(source / "case_001.nii.gz", small_volume(7, leave_out=("mandible",)))
    outcome = run_batch(source, tmp_path / "out", options())
    assert outcome.counts == {"unchanged": 1, "done": 1}
    assert [p.name[:8] for p in (tmp_path / "out" / "superseded").iterdir()] == ["case_001"]
    assert [r["verdict"] for r in outcome.rows if r["case"] == "case_001"] == ["present", "absent"]


def test_file_touched_but_equal_is_skipped(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 1)
    run_batch(source, tmp_path / "out", options())
    data = (source / "case_000.nii.gz").read_bytes()
    (source / "case_000.nii.gz").unlink()
    (source / "case_000.nii.gz").write_bytes(data)
    assert run_batch(source, tmp_path / "out", options()).counts == {"unchanged": 1}


def test_finished_files_without_a_journal_line_are_adopted(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    source = images(tmp_path / "in", 2)
    run_batch(source, tmp_path / "out", options(diary))
    journal = tmp_path / "out" / "journal.jsonl"
    lines = [line for line in journal.read_text().splitlines() if '"event":"done"' not in line or "case_000" in line]
    journal.write_text("\n".join(lines) + "\n")  # as if killed between the rename and the line
    outcome = run_batch(source, tmp_path / "out", options(diary))
    assert outcome.counts == {"unchanged": 1, "recovered": 1}
    assert set(work_done(diary).values()) == {1}


@pytest.mark.parametrize("workers", [0, 2])
def test_one_bad_case_stops_no_other(tmp_path: Path, workers: int) -> None:
    source = images(tmp_path / "in", 3)
    (source / "broken.nii.gz").write_bytes(b"this is no image")
    outcome = run_batch(source, tmp_path / "out", options(workers=workers))
    assert outcome.exit_code == 1
    assert outcome.counts == {"done": 3, "failed": 1}
    assert "broken" in outcome.failures
    assert Counter(r["verdict"] for r in outcome.rows)["failed"] == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither pipes in folders nor names in bytes")
def test_names_that_are_no_text_and_pipes_are_failed_cases(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 2)
    os.rename(source / "case_000.nii.gz", os.fsencode(source) + b"/latin\xfc.nii.gz")  # SimpleITK would end the process
    os.mkfifo(source / "pipe.nii.gz")  # reading it would never end
    outcome = run_batch(source, tmp_path / "out", options())
    assert outcome.counts == {"done": 1, "failed": 2}
    assert any("not written in UTF-8; rename" in error for error in outcome.failures.values())
    assert any("no file but a pipe" in error for error in outcome.failures.values())
    with open(tmp_path / "out" / "summary.csv", encoding="utf-8-sig") as handle:
        assert len(list(csv.DictReader(handle))) == 4


def test_failed_cases_wait_for_the_flag_or_for_another_file(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 1)
    (source / "broken.nii.gz").write_bytes(b"this is no image")
    run_batch(source, tmp_path / "out", options())
    again = run_batch(source, tmp_path / "out", options())
    assert again.counts == {"unchanged": 1, "failed_before": 1}
    assert again.exit_code == 1
    assert run_batch(source, tmp_path / "out", options(retry_failed=True)).counts == {"unchanged": 1, "failed": 1}
    write_volume(source / "broken.nii.gz", seed=5)
    assert run_batch(source, tmp_path / "out", options()).counts == {"unchanged": 1, "done": 1}


def test_image_removed_meanwhile_is_one_failed_case(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 3)
    table = tmp_path / "list.csv"
    table.write_text("case,image\n" + "".join(f"c{n},in/case_{n:03d}.nii.gz\n" for n in range(3)))
    (source / "case_001.nii.gz").unlink()
    outcome = run_batch(table, tmp_path / "out", options())
    assert outcome.counts == {"done": 2, "failed": 1}
    assert "not there any more" in outcome.failures["c1"]


def test_worker_that_dies_costs_one_attempt_and_then_its_case_alone(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    source = images(tmp_path / "in", 4)
    outcome = run_batch(source, tmp_path / "out", options(diary, workers=2, engine_arguments={"die_on": "case_002"}))
    assert outcome.counts == {"done": 3, "failed": 1}
    assert "SIGKILL" in outcome.failures["case_002"]
    assert work_done(diary)["case_002.nii.gz"] == 2


def test_worker_that_dies_once_loses_nothing(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    outcome = run_batch(images(tmp_path / "in", 4), tmp_path / "out", options(diary, workers=2, engine_arguments={"die_once": "case_001"}))
    assert outcome.counts == {"done": 4}


def test_other_model_asks_for_force_and_keeps_the_older_results(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 2)
    run_batch(source, tmp_path / "out", options())
    other = {"engine_arguments": {"sha256": "cd" * 32}}
    with pytest.raises(OutputError, match=r"another model or version.*new folder, or --force"):
        run_batch(source, tmp_path / "out", options(**other))
    assert run_batch(source, tmp_path / "out", options(force=True, **other)).counts == {"done": 2}
    assert len(list((tmp_path / "out" / "superseded").iterdir())) == 2


def test_other_version_asks_for_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = images(tmp_path / "in", 1)
    run_batch(source, tmp_path / "out", options())
    monkeypatch.setattr("RefSAM3DLib.provenance.__version__", "99.1")
    with pytest.raises(OutputError, match=r"version .* there, 99\.1 now.*--force"):
        run_batch(source, tmp_path / "out", options())
    assert run_batch(source, tmp_path / "out", options(force=True)).counts == {"done": 1}


def test_folder_of_a_later_format_is_refused(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 1)
    run_batch(source, tmp_path / "out", options())
    manifest = tmp_path / "out" / "batch.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 7}))
    with pytest.raises(OutputError, match=r"format 7.*install a later version, or use a new folder"):
        run_batch(source, tmp_path / "out", options())


@pytest.mark.parametrize(
    ("name", "text"),
    [("batch.json", "{}"), ("batch.json", '{"for'), ("batch.json", '{"format":1,"runs":3}'), ("identifiers.json", '{"key":"zz"}'),
     ("identifiers.json", '{"key":"00","cases":[]}')],
)  # fmt: skip
def test_damaged_files_of_the_folder_are_named(tmp_path: Path, name: str, text: str) -> None:
    source = images(tmp_path / "in", 1)
    run_batch(source, tmp_path / "out", options())
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(RefSAM3DError, match=rf"{name}' is damaged.*new folder"):
        run_batch(source, tmp_path / "out", options())


def test_clock_that_jumps_back_repeats_nothing_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RefSAM3DLib.batch import run_manifest, runner

    diary = tmp_path / "diary"
    source = images(tmp_path / "in", 3)
    run_batch(source, tmp_path / "out", options(diary))
    write_volume(source / "case_000.nii.gz", seed=9)  # its later result must count, though its entry is "older"
    for module in (runner, run_manifest):
        monkeypatch.setattr(module, "utc_now", lambda: "1999-01-01T00:00:00.000+00:00")
    write_volume(source / "case_003.nii.gz", seed=3)
    outcome = run_batch(source, tmp_path / "out", options(diary))
    assert outcome.counts == {"done": 2, "unchanged": 2}
    state = FolderState.read(tmp_path / "out")
    assert state.cases["case_000"].entry["time"].startswith("1999")
    assert run_batch(source, tmp_path / "out", options(diary)).counts == {"unchanged": 4}


def test_script_without_the_main_guard_is_told_so(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom RefSAM3DLib.batch import BatchOptions, run_batch\n"
        "run_batch(sys.argv[1], sys.argv[2], BatchOptions(prompts=('brainstem',), engine='batch_fake_engine:make', workers=1))\n"
    )
    source = images(tmp_path / "in", 1)
    done = subprocess.run([sys.executable, str(script), str(source), str(tmp_path / "out")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "must call it under \"if __name__ == '__main__':\"" in done.stderr


def test_modality_of_a_list_is_used_and_kept_for_review_and_export(tmp_path: Path) -> None:
    from RefSAM3DLib.review import ReviewSession, export_manifest

    write_volume(tmp_path / "a.nii.gz", seed=1)
    content = {"labels": {"1": "brainstem"}, "modality": "CT", "test": [{"image": "a.nii.gz", "modality": "PT"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    run_batch(tmp_path / "datalist.json", tmp_path / "out", options())
    session = ReviewSession(tmp_path / "out", "A")
    assert session.volume(session.items[0]).modality == "pet"
    session.decide(session.items[0], "accept")
    exported = json.loads(export_manifest(session, tmp_path / "export").manifest.read_text())
    assert exported["training"][0]["modality"] == "PET"
    content["test"][0]["modality"] = "MR"
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    assert run_batch(tmp_path / "datalist.json", tmp_path / "out", options()).counts == {"done": 1}  # another reading, another result


@pytest.mark.parametrize(("prompts", "words"), [((), "Nothing is asked of the 2 case"), (("brainstem", " "), "prompt is empty")])
def test_batch_without_a_question_is_refused_at_once(tmp_path: Path, prompts: tuple[str, ...], words: str) -> None:
    with pytest.raises(RefSAM3DError, match=words):
        run_batch(images(tmp_path / "in", 2), tmp_path / "out", options(prompts=prompts))
    assert not (tmp_path / "out").exists()


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    source = images(tmp_path / "in", 1)
    with pytest.raises(OutputError, match="holds other files"):
        run_batch(source, source, options())
    assert [p.name for p in source.iterdir()] == ["case_000.nii.gz"]


def test_dicom_case_has_a_pseudonym_everywhere_but_in_the_private_file(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "in" / "Mustermann_Erika", "SECRET-4711", "Mustermann^Erika")
    outcome = run_batch(tmp_path / "in", tmp_path / "out", options())
    assert outcome.counts == {"done": 1}
    private = tmp_path / "out" / "identifiers.json"
    assert "SECRET-4711" in private.read_text()
    assert private.stat().st_mode & 0o077 == 0
    for path in (tmp_path / "out").rglob("*"):
        assert "ustermann" not in path.name
        if path.is_file() and path.suffix in (".html", ".csv", ".json", ".jsonl", ".nrrd") and path != private and path.name != "batch.json":
            assert b"SECRET-4711" not in path.read_bytes(), path
            assert b"ustermann" not in path.read_bytes(), path
    key = next(iter(FolderState.read(tmp_path / "out").cases))
    assert (tmp_path / "out" / "cases" / key / f"{key}.dcm").is_file()
    shown = run_batch(tmp_path / "in", tmp_path / "out", options(show_identifiers=True))
    assert shown.counts == {"unchanged": 1}
    assert "SECRET-4711" in (tmp_path / "out" / "report.html").read_text()


def test_two_rows_of_one_image_do_not_share_a_pseudonym_unseen(tmp_path: Path) -> None:
    write_volume(tmp_path / "scan.nii.gz")
    (tmp_path / "list.csv").write_text("image,case,prompts\nscan.nii.gz,a,brainstem\nscan.nii.gz,b,mandible\n")
    with pytest.raises(InputError, match="'a' and 'b' of the list are the same image"):
        run_batch(tmp_path / "list.csv", tmp_path / "out", options(pseudonyms=True))
    assert run_batch(tmp_path / "list.csv", tmp_path / "plain", options()).counts == {"done": 2}


def test_texts_where_a_console_user_would_give_them(tmp_path: Path) -> None:
    images(tmp_path / "in", 1)
    manifest = {"labels": {"1": "mandible"}, "test": [{"image": "case_000.nii.gz"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(manifest))
    arguments = {"diary": tmp_path / "diary.txt"}
    given = options(prompts=(), engine_arguments=arguments)
    outcome = run_batch(str(tmp_path / "datalist.json"), str(tmp_path / "out"), given, root=str(tmp_path / "in"), split="test")
    assert outcome.counts == {"done": 1}
    assert json.loads((tmp_path / "out" / "batch.json").read_text())["runs"][0]["options"]["engine_arguments"] == {"diary": str(tmp_path / "diary.txt")}


def test_reference_in_a_manifest_gives_prompts_and_dice(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", seed=1)
    truth = np.zeros_like(small_volume(1))
    truth[np.abs(small_volume(1) - 200) < 20] = 7
    write_volume(tmp_path / "a_label.nii.gz", truth, seed=1)
    manifest = {"labels": {"7": "mandible", "8": "larynx"}, "training": [{"image": "a.nii.gz", "label": "a_label.nii.gz", "labelled": [7]}]}
    (tmp_path / "datalist.json").write_text(json.dumps(manifest))
    outcome = run_batch(tmp_path / "datalist.json", tmp_path / "out", options(prompts=()))
    assert [(r["structure"], r["reference_dice"]) for r in outcome.rows] == [("mandible", 1.0)]


def test_full_disk_stops_the_batch_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    diary = tmp_path / "diary"
    source = images(tmp_path / "in", 3)
    free = iter([10**12, 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free)))
    with pytest.raises(OutputError, match="finished cases are kept"):
        run_batch(source, tmp_path / "out", options(diary))
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run_batch(source, tmp_path / "out", options(diary)).counts == {"unchanged": 1, "done": 2}


def test_engine_that_cannot_start_is_one_sentence(tmp_path: Path) -> None:
    from RefSAM3DLib.errors import DeviceError

    with pytest.raises(DeviceError, match="no such device"):
        run_batch(images(tmp_path / "in", 1), tmp_path / "out", options(workers=1, engine_arguments={"fail_start": "no such device"}))
    assert not (tmp_path / "out" / "batch.lock").exists()


def test_pseudonyms_for_all_hide_names_and_paths(tmp_path: Path) -> None:
    source = tmp_path / "Mustermann_Erika"
    source.mkdir()
    write_volume(source / "Mustermann.nii.gz", seed=1)
    (source / "Mustermann_2.nii.gz").write_bytes(b"broken")
    outcome = run_batch(source, tmp_path / "out", options(pseudonyms=True))
    assert outcome.counts == {"done": 1, "failed": 1}
    for name in ("report.html", "summary.csv", "journal.jsonl"):
        assert "ustermann" not in (tmp_path / "out" / name).read_text()
    assert not list((tmp_path / "out").rglob("*ustermann*"))
    again = run_batch(source, tmp_path / "out", options(pseudonyms=True))
    assert again.counts == {"unchanged": 1, "failed_before": 1}
    from RefSAM3DLib.review import ReviewSession

    session = ReviewSession(tmp_path / "out", "A")
    assert session.volume(next(item for item in session.items if item.label == 1)).array.shape == (20, 28, 24)


def test_second_batch_on_one_folder_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    from RefSAM3DLib.batch.folder_lock import FolderLock

    source = images(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    with FolderLock(tmp_path / "out"), pytest.raises(OutputError, match="Another batch is running"):
        run_batch(source, tmp_path / "out", options())
    assert run_batch(source, tmp_path / "out", options()).counts == {"done": 1}


def test_journal_cut_in_the_middle_is_reported_and_nothing_is_done_twice(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    source = images(tmp_path / "in", 3)
    run_batch(source, tmp_path / "out", options(diary))
    journal = tmp_path / "out" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[: journal.read_bytes().rindex(b'"event":"done"') + 30])
    outcome = run_batch(source, tmp_path / "out", options(diary))
    assert outcome.counts == {"unchanged": 2, "recovered": 1}
    assert "cut or damaged" in outcome.notes[0]
    assert set(work_done(diary).values()) == {1}


def test_table_that_a_spreadsheet_holds_open_costs_not_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    rename = os.replace

    def refuse(source: str, target: str) -> None:
        if str(target).endswith("summary.csv"):
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=r"summary.csv': Permission denied; close it in other programs"):
        run_batch(images(tmp_path / "in", 1), tmp_path / "out", options())
    assert "case_000" in (tmp_path / "out" / "report.html").read_text()


def test_identifiers_of_another_account_stop_a_batch_and_no_review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RefSAM3DLib.review import ReviewSession

    write_dicom_series(tmp_path / "in" / "study")
    run_batch(tmp_path / "in", tmp_path / "out", options())
    read = Path.read_text

    def refuse(path: Path, *args: object, **keywords: object) -> str:
        if path.name == "identifiers.json":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **keywords)

    monkeypatch.setattr(Path, "read_text", refuse)
    session = ReviewSession(tmp_path / "out", "B")
    session.decide(session.items[0], "accept")
    with pytest.raises(InputError, match=r"belongs to another account.*run the batch from that account"):
        run_batch(tmp_path / "in", tmp_path / "out", options())


def test_workers_are_spread_over_the_cards_that_pass_their_check(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from RefSAM3DLib import device
    from RefSAM3DLib.batch import worker_pool

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device, "self_check", lambda name: device.SelfCheck(name, name == "cuda:0", 0.0, ""))
    chosen = [worker_pool._spread_over_gpus({"device": "auto"}, index)["device"] for index in range(3)]
    assert chosen == ["cuda:0", "auto", "cuda:0"], "an old card beside the first does not end the batch"
    assert worker_pool._spread_over_gpus({"device": "cuda"}, 1)["device"] == "cuda:1", "asked for: refused with a sentence there"
    assert worker_pool._spread_over_gpus({"device": "cpu"}, 1)["device"] == "cpu"
