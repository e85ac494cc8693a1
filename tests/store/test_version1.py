"""What version 0.1.0 wrote is taken over once: tests/data/version1 is real, made by that version."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from mlx_chandra.documents.page import ReadSettings
from mlx_chandra.store.schema import VERSION, store_path
from mlx_chandra.store.store import Start, Store
from mlx_chandra.store.version1 import import_ledger
from tests.store.stores import is_whole, killed, names, opened, page, read, rows, texts

DATA = Path(__file__).parent.parent / "data" / "version1"
SETTINGS = ReadSettings(
    "mlx-chandra 0.2",
    "mlx-community/chandra-bf16",
    {
        "prompt_type": "ocr_layout", "prompt": None, "max_tokens": 8192, "max_size": 1024, "dtype": None,
        "retries": 3, "on_truncation": "keep",
    },
)  # fmt: skip
ANSWER = '<div data-bbox="0 0 500 500" data-label="Text"><p>page, "quoted"</p>\n<p>second line</p></div>'


@pytest.fixture(params=["finished", "killed"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return copied(tmp_path, request.param)


def copied(tmp_path: Path, name: str) -> Path:
    """A copy of what version 0.1.0 left, with its own paths; `killed` has a redo file pending."""
    root = tmp_path / name
    shutil.copytree(DATA / name, root)
    for path in [
        root / "r.csv",
        root / ".r.csv.retry",
        root / "out" / ".mlx-chandra.jsonl",
        *root.rglob("*.json"),
    ]:
        if path.exists():
            path.write_text(path.read_text().replace("/ROOT", str(root)), newline="")
    database = sqlite3.connect(store_path(str(root / "r.csv")))
    for table, column in (("pages", "path"), ("pages", "copy_of"), ("files", "path")):
        database.execute(f"update {table} set {column} = replace({column}, '/ROOT', ?)", (str(root),))
    database.commit()
    database.close()
    return root


def newest(root: Path) -> dict[str, tuple[str, str]]:
    """Status and text of each page, by the redo file where it has one."""
    found = {name: (status, text) for name, status, text in rows(root / "r.csv")}
    if (root / ".r.csv.retry").exists():
        found |= {name: (status, text) for name, status, text in rows(root / ".r.csv.retry")}
    return found


def test_a_version_1_journal_with_its_csv_is_taken_over_and_nothing_is_to_be_read_again(root: Path) -> None:
    before, order = newest(root), names(root / "r.csv")
    with sqlite3.connect(store_path(str(root / "r.csv"))) as database:
        facts = dict(database.execute("select path, content from pages").fetchall())
    with opened(root / "r.csv", settings=SETTINGS) as store:
        assert "version 0.1" in store.warnings[0]
        assert store.count == len(before) == 8
        for name, (status, text) in before.items():
            found, known = store.result(name), store.known(page(name))
            assert found is not None
            assert known is not None
            assert (found.status, found.text, found.content) == (status, text, facts[name])
            assert known.same_settings
            assert known.file is not None or status.startswith("error:unreadable")
        copy = store.result(f"{root}/in/x/copy.png")
        assert copy is not None
        assert (copy.copy_of, copy.text, copy.size) == (f"{root}/in/x/a.png", ANSWER, (12, 8))
        assert [result.page.number for result in store.document(f"{root}/in/doc.pdf")] == [1, 2, 3]
        assert store.other_settings() == []
    assert names(root / "r.csv") == order
    assert {name: (status, text) for name, status, text in rows(root / "r.csv")} == before
    assert sorted(os.listdir(root)) == ["out", "r.csv", "r.csv.journal.sqlite"]
    with opened(root / "r.csv") as store:
        assert store.warnings == []


def test_who_only_looks_sees_a_version_1_journal_as_a_run_would(root: Path) -> None:
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    with Store.preview(root / "r.csv", SETTINGS) as store:
        for name, (status, text) in newest(root).items():
            found = store.result(name)
            assert found is not None
            assert (found.status, found.text) == (status, text)
            assert found.content or status.startswith("error:unreadable")
        assert store.other_settings() == []
    with Store.preview(root / "r.csv", SETTINGS, Start.OVERWRITE) as store:
        assert (store.count, store.known(page(f"{root}/in/x/a.png"))) == (0, None)
    assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == before


def test_a_killed_migration_is_done_by_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(tmp_path, "killed")
    before = newest(root)
    real = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            opened(root / "r.csv")
    assert os.replace is real
    assert (root / ".r.csv.retry").exists()
    opened(root / "r.csv").close()
    assert {name: (status, text) for name, status, text in rows(root / "r.csv")} == before
    assert not (root / ".r.csv.retry").exists()


def test_journal_lines_without_a_row_count_for_nothing_and_rows_without_a_line_by_their_path(
    tmp_path: Path,
) -> None:
    root = copied(tmp_path, "finished")
    with sqlite3.connect(store_path(str(root / "r.csv"))) as database:
        database.execute("delete from pages where path like '%/y/a.png'")
    content = (root / "r.csv").read_bytes()
    begin = content.index(f"{root}/in/x/b.png".encode())
    (root / "r.csv").write_bytes(content[:begin] + content[content.index(f"{root}/in/x/a.png".encode()) :])
    with opened(root / "r.csv", settings=ReadSettings("p", "other")) as store:
        assert store.known(page(f"{root}/in/x/b.png")) is None
        known = store.known(page(f"{root}/in/y/a.png"))
        assert known is not None
        assert (known.content, known.same_settings) == (None, True)
        assert store.count == 7


def test_a_redo_file_without_a_journal_is_merged_and_a_row_that_is_gone_goes(tmp_path: Path) -> None:
    root = copied(tmp_path, "killed")
    before = newest(root)
    os.unlink(store_path(str(root / "r.csv")))
    with open(root / ".r.csv.retry", "ab") as file:
        file.write(f"{root}/in/x/b.png,gone,\r\n".encode() + b'/4.png,ok,"half a ro')
    opened(root / "r.csv").close()
    del before[f"{root}/in/x/b.png"]
    assert {name: (status, text) for name, status, text in rows(root / "r.csv")} == before
    assert not (root / ".r.csv.retry").exists()


def test_overwriting_forgets_the_redo_file(tmp_path: Path) -> None:
    root = copied(tmp_path, "killed")
    with opened(root / "r.csv", Start.OVERWRITE) as store:
        store.add([read("/1.png", "anew")])
    assert texts(root / "r.csv") == {"/1.png": "anew"}
    opened(root / "r.csv").close()
    assert texts(root / "r.csv") == {"/1.png": "anew"}


def test_overwriting_that_is_killed_forgets_the_redo_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(tmp_path, "killed")
    store = opened(root / "r.csv", Start.OVERWRITE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.add([read("/1.png", "anew")])
    killed(store)
    opened(root / "r.csv").close()
    assert texts(root / "r.csv") == {"/1.png": "anew"}


def test_overwriting_that_stores_nothing_leaves_version_1_results_to_the_next_run(tmp_path: Path) -> None:
    root = copied(tmp_path, "killed")
    before = newest(root)
    killed(opened(root / "r.csv", Start.OVERWRITE))
    opened(root / "r.csv").close()
    assert {name: (status, text) for name, status, text in rows(root / "r.csv")} == before


def test_a_ledger_gives_the_store_what_it_lacks_and_names_stay_their_documents(root: Path) -> None:
    out = root / "out"
    said = [json.loads(line) for line in (out / ".mlx-chandra.jsonl").read_text().splitlines()]
    folders = {line["folder"]: line["document"] for line in said if "folder" in line}
    lost = out / "doc" / "doc_metadata.json"
    lost.unlink()
    kept = {path: path.read_bytes() for path in out.glob("*/*")}
    os.unlink(store_path(str(root / "r.csv")))  # all pages are imported by their paths
    with opened(root / "r.csv", settings=SETTINGS) as store:
        assert import_ledger(str(out), store)
        found = store.result(f"{root}/in/x/a.png")
        assert found is not None
        assert (found.size, found.box_scale, found.finish_reason) == ((12, 8), 1000, "stop")
        assert (found.prompt_tokens, found.output_tokens) == (100, len(ANSWER) + 1)
        assert found.settings is not None
        assert found.settings.settings == SETTINGS.settings
        assert store.known(page(f"{root}/in/x/a.png")).same_settings  # type: ignore[union-attr]
        assert not import_ledger(str(out), store)
    assert json.loads(lost.read_text())["source"] == f"{root}/in/doc.pdf"
    for name, document in folders.items():
        assert json.loads((out / name / f"{name}_metadata.json").read_text())["source"] == document
    assert {path: path.read_bytes() for path in out.glob("*/*") if path != lost} == kept
    assert not list(out.glob(".mlx*"))


def test_what_the_store_knows_is_not_changed_by_a_ledger_and_a_hostile_one_writes_nowhere_else(
    tmp_path: Path,
) -> None:
    root = copied(tmp_path, "finished")
    ledger = root / "out" / ".mlx-chandra.jsonl"
    hostile = [
        {"document": "/a", "folder": "../x"}, {"document": "/b", "folder": ".."}, ["no"], {"folder": "y"},
        {"document": "/a", "page": f"{root}/in/x/a.png", "making": 5},
    ]  # fmt: skip
    lines = "".join(json.dumps(line) + "\n" for line in hostile)
    ledger.write_text(ledger.read_text() + lines + "[" * 100_000 + '\n{"torn')
    with opened(root / "r.csv", settings=SETTINGS) as store:
        before = store.result(f"{root}/in/x/a.png")
        import_ledger(str(root / "out"), store)
        assert store.result(f"{root}/in/x/a.png") == before
    assert not (root / "x").exists()
    assert sorted(os.listdir(root)) == ["out", "r.csv", "r.csv.journal.sqlite"]


def test_a_version_1_journal_without_its_csv_is_forgotten(tmp_path: Path) -> None:
    root = copied(tmp_path, "finished")
    (root / "r.csv").unlink()
    with Store.preview(root / "r.csv", SETTINGS, Start.FRESH) as store:
        assert store.count == 0
    with opened(root / "r.csv", Start.FRESH) as store:
        store.add([read("/1.png", "anew")])
    assert texts(root / "r.csv") == {"/1.png": "anew"}


def test_a_migrated_store_is_a_store_as_any_other(tmp_path: Path) -> None:
    root = copied(tmp_path, "finished")
    shutil.rmtree(root / "out")
    opened(root / "r.csv").close()
    is_whole(root / "r.csv")
    with sqlite3.connect(store_path(str(root / "r.csv"))) as database:
        assert database.execute("pragma user_version").fetchone() == (VERSION,)
        new = set(database.execute("select name, sql from sqlite_master").fetchall())
    opened(tmp_path / "new.csv").close()
    with sqlite3.connect(store_path(str(tmp_path / "new.csv"))) as database:
        assert set(database.execute("select name, sql from sqlite_master").fetchall()) == new
