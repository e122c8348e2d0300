"""Artefacts are whole or absent, on a disk and in an object store."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs
from safetensors.torch import save_file

from recsys import storage
from recsys.errors import UnwritableError, UserError
from recsys.ports import free_port


def write(uri: str, content: str, key: str = "k") -> None:
    with storage.new_artifact(uri, key=key, attributes={"made": content}) as directory:
        (directory / "part").mkdir()
        (directory / "part" / "data.txt").write_text(content)


def read(uri: str) -> str:
    return (storage.local_copy(uri) / "part" / "data.txt").read_text()


@pytest.fixture(params=["path", "file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage root of each kind."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return str(tmp_path) if request.param == "path" else tmp_path.as_uri()


def listing(root: str) -> set[str]:
    """Names of all files below a root."""
    system, path = storage.filesystem(root)
    infos = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(path).lstrip("/") for info in infos if info.type == fs.FileType.File}


def test_round_trip(root: str) -> None:
    uri = storage.join(root, "deep", "artefact")
    assert storage.read_manifest(uri) is None
    write(uri, "one")
    manifest = storage.read_manifest(uri)
    assert manifest is not None
    assert (manifest.key, manifest.attributes) == ("k", {"made": "one"})
    assert set(manifest.files) == {"part/data.txt"}
    assert read(uri) == "one"
    write(uri, "two")
    assert read(uri) == "two"
    assert listing(root) == {"deep/artefact/_SUCCESS", "deep/artefact/part/data.txt"}, "nothing else is left"


def test_content_hash_is_of_names_and_content(tmp_path: Path) -> None:
    hashes = []
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        write(str(tmp_path / name), content, key=name)
        manifest = storage.read_manifest(str(tmp_path / name))
        assert manifest is not None
        hashes.append(manifest.content_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_exception_leaves_the_old_one(tmp_path: Path) -> None:
    uri = str(tmp_path / "artefact")
    write(uri, "old")
    with pytest.raises(RuntimeError), storage.new_artifact(uri) as directory:
        (directory / "data.txt").write_text("half")
        raise RuntimeError
    assert read(uri) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_killed_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    uri = str(tmp_path / "artefact")
    write(uri, "old")
    code = """
        import os, signal, sys
        from recsys import storage
        with storage.new_artifact(sys.argv[1]) as directory:
            (directory / "data.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), uri], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert read(uri) == "old"
    write(uri, "new")
    assert read(uri) == "new"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda file: file.write_text("on"), "part/data.txt has 2 bytes instead of 3"),
        (lambda file: file.write_text("eno"), "part/data.txt does not match its checksum"),
        (lambda file: file.unlink(), "part/data.txt is missing"),
        (lambda file: (file.parents[1] / storage.MANIFEST).unlink(), r"is incomplete \(no _SUCCESS\)"),
    ],
    ids=["cut short", "changed", "deleted", "no manifest"],
)
def test_damage_is_one_line(tmp_path: Path, damage, sentence: str) -> None:
    uri = str(tmp_path / "artefact")
    write(uri, "one")
    damage(tmp_path / "artefact" / "part" / "data.txt")
    with pytest.raises(UserError, match=sentence) as caught:
        storage.local_copy(uri, "checkpoint")
    assert str(caught.value).startswith(f"checkpoint {uri} ")
    assert str(caught.value).endswith("; make it again")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint .*/none does not exist"):
        storage.local_copy(str(tmp_path / "none"), "checkpoint")


def test_seal_makes_files_written_in_place_an_artefact(root: str) -> None:
    uri = storage.join(root, "signals")
    for name in ("a", "b"):
        storage.write_bytes(storage.join(uri, f"part-{name}"), name.encode())
    assert storage.read_manifest(uri) is None
    storage.seal(uri, key="k", attributes={"rows": 2})
    manifest = storage.read_manifest(uri)
    assert manifest is not None
    assert set(manifest.files) == {"part-a", "part-b"}
    assert (storage.local_copy(uri) / "part-a").read_text() == "a"


def test_delete_leaves_nothing(root: str) -> None:
    uri = storage.join(root, "artefact")
    write(uri, "one")
    storage.delete(uri)
    assert listing(root) == set()
    storage.delete(uri)


def test_single_files(root: str) -> None:
    uri = storage.join(root, "results", "a.json")
    assert not storage.exists(uri)
    storage.write_json(uri, {"x": [1, 2]})
    assert storage.exists(uri)
    assert storage.read_json(uri) == {"x": [1, 2]}
    assert listing(root) == {"results/a.json"}


def test_an_exception_leaves_the_old_one_in_an_object_store(bucket: str) -> None:
    uri = storage.join(bucket, "artefact")
    write(uri, "old")
    with pytest.raises(RuntimeError), storage.new_artifact(uri) as directory:
        (directory / "data.txt").write_text("half")
        raise RuntimeError
    assert read(uri) == "old"


def test_no_disk_space_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    uri = str(tmp_path / "artefact")
    write(uri, "old")
    with pytest.raises(UserError, match="no space left on the disk of"), storage.new_artifact(uri) as directory:
        # A device that is always full.
        (directory / "data").symlink_to("/dev/full")
        (directory / "data").write_bytes(b"x")
    assert read(uri) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_a_file_beyond_the_limit_of_the_process_leaves_the_old_one(tmp_path: Path) -> None:
    uri = str(tmp_path / "artefact")
    write(uri, "old")
    code = """
        import resource, signal, sys
        from recsys import storage
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with storage.new_artifact(sys.argv[1]) as directory:
            (directory / "data").write_bytes(bytes(5000))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), uri], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"UnwritableError" in done.stderr and b"File too large" in done.stderr
    assert read(uri) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(UserError, match="storage 'ftp://host/x' cannot be opened"):
        storage.filesystem("ftp://host/x")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs") == str(tmp_path / "runs")
    assert storage.absolute("s3://bucket/runs") == "s3://bucket/runs"


UPLOAD = """
import sys
from recsys import storage
with storage.new_artifact(sys.argv[1]) as directory:
    for name in ("config.json", "model.safetensors", "items.parquet"):
        (directory / name).write_bytes(b"new")
"""


def three_files(uri: str, content: bytes) -> None:
    with storage.new_artifact(uri) as directory:
        for name in ("config.json", "model.safetensors", "items.parquet"):
            (directory / name).write_bytes(content)


def test_in_an_object_store_the_manifest_comes_last(bucket: str, object_store) -> None:
    uri = storage.join(bucket, "artefact")
    for content in (b"one", b"two"):
        three_files(uri, content)
        arrived = [key for key in object_store.written if "/artefact/" in key and not key.endswith("/")]
        assert len(arrived) == 4 and arrived[-1].endswith(storage.MANIFEST)
        object_store.written.clear()


def test_a_killed_upload_never_counts(
    bucket: str, object_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = storage.join(bucket, "artefact")
    three_files(uri, b"old")
    object_store.held = "model.safetensors"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    upload = subprocess.Popen([sys.executable, "-c", UPLOAD, uri], cwd=Path(__file__).parents[2])
    try:
        assert object_store.asked.wait(60), "the upload reached the model"
        # Whatever is sent beside it has the time to arrive.
        upload.wait(0.5)
    except subprocess.TimeoutExpired:
        pass
    finally:
        upload.kill()
        upload.wait()
    assert storage.read_manifest(uri) is None, "neither the old one nor the new one: files of both are there"
    object_store.held = ""
    object_store.let_go.set()
    three_files(uri, b"new")
    assert (storage.local_copy(uri) / "model.safetensors").read_bytes() == b"new"


def test_on_a_disk_files_are_kept_before_the_manifest_vouches_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        manifest = path.parent / storage.MANIFEST
        kept.append(path.name)
        assert path.name in (storage.MANIFEST, tmp_path.name) or path.is_dir() or not manifest.exists()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    three_files(str(tmp_path / "artefact"), b"x")
    files = {"config.json", "model.safetensors", "items.parquet"}
    assert files <= set(kept[: kept.index(storage.MANIFEST)])
    assert kept[-1] == tmp_path.name, "the name of the artefact as well"


@pytest.mark.parametrize(
    "torn", [b"", b"{", b"[]", b"null", b'{"files": {"a": 1}, "key": "", "attributes": {}}', b"\xff"]
)
def test_a_torn_manifest_counts_as_none(tmp_path: Path, torn: bytes) -> None:
    uri = str(tmp_path / "artefact")
    write(uri, "one")
    (tmp_path / "artefact" / storage.MANIFEST).write_bytes(torn)
    assert storage.read_manifest(uri) is None
    assert not storage.is_current(uri, "k")
    with pytest.raises(UserError, match="is incomplete"):
        storage.local_copy(uri)
    write(uri, "two")
    assert read(uri) == "two"


def test_current_is_what_has_its_files_in_their_sizes(root: str) -> None:
    uri = storage.join(root, "artefact")
    write(uri, "one")
    file = storage.join(uri, "part", "data.txt")
    assert storage.is_current(uri, "k") and not storage.is_current(uri, "another")
    storage.write_bytes(file, b"eno")
    assert storage.is_current(uri, "k") and not storage.is_current(uri, "k", hashes=True)
    storage.write_bytes(file, b"on")
    assert storage.state(uri, "k") == "part/data.txt has 2 bytes instead of 3"
    system, path = storage.filesystem(file)
    system.delete_file(path)
    assert storage.state(uri, "k") == "part/data.txt is missing"


def test_two_writers_of_one_artefact_leave_one_of_them(tmp_path: Path) -> None:
    uri = str(tmp_path / "artefact")
    writers = [threading.Thread(target=write, args=(uri, str(n))) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert read(uri) in {str(n) for n in range(8)}
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def save_by_torch(file: Path) -> None:
    with file.open("wb") as stream:
        torch.save({"a": torch.zeros(100_000)}, stream)


@pytest.mark.parametrize(
    "save",
    [
        save_by_torch,
        lambda file: pq.write_table(pa.table({"a": np.random.default_rng(0).random(100_000)}), file),
    ],
    ids=["torch", "parquet"],
)
def test_a_full_disk_is_one_line_whoever_tells_it(tmp_path: Path, save: Callable[[Path], None]) -> None:
    uri = str(tmp_path / "artefact")
    write(uri, "old")
    with pytest.raises(UnwritableError, match="no space left on the disk of"), storage.new_artifact(uri) as directory:
        (directory / "data").symlink_to("/dev/full")
        save(directory / "data")
    assert read(uri) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_what_safetensors_tells_in_words_is_one_line_too(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with (
            pytest.raises(UnwritableError, match="cannot be written: File too large"),
            storage.new_artifact(str(tmp_path / "artefact")) as directory,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
            save_file({"a": torch.zeros(100_000)}, directory / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_json_that_is_damaged_or_gone_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json does not exist"):
        storage.read_json(str(file))
    for torn in (b"", b'{"a":', b"\xff\xfe"):
        file.write_bytes(torn)
        with pytest.raises(UserError, match=r"a\.json is damaged: it is not JSON"):
            storage.read_json(str(file))
        assert storage.read_json_if_whole(str(file)) is None


def test_storage_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for write_to in (lambda uri: write(uri, "x"), lambda uri: storage.write_json(uri, 1)):
        with pytest.raises(UnwritableError, match="cannot be written"):
            write_to(str(tmp_path / "file" / "artefact"))


def test_an_object_store_that_refuses_is_one_line(bucket: str) -> None:
    storage.check_reachable(bucket)
    with pytest.raises(UserError, match=r"s3://gone/runs cannot be used: there is no bucket gone"):
        storage.check_reachable("s3://gone/runs")
    with pytest.raises(UnwritableError, match=r"s3://gone/runs/a\.json cannot be written"):
        storage.write_json("s3://gone/runs/a.json", 1)


@pytest.mark.full
def test_an_object_store_that_is_away_is_one_line(tmp_path: Path) -> None:
    """A job ends before it does anything; in a process of its own, for the address is read once."""
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "reader",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-seen",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs.prepare_data", "--storage", "s3://bucket/runs", "tracking.uri=none"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: s3://bucket/runs cannot be reached: ") and "Could not connect to server" in line
    assert "not-to-be-seen" not in done.stdout + done.stderr
