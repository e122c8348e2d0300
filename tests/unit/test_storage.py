"""Artefacts are whole or absent, on a disk and in an object store."""

import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from recsys import storage
from recsys.errors import UserError


def write(uri: str, content: str, key: str = "k") -> None:
    with storage.new_artifact(uri, key=key, attributes={"made": content}) as directory:
        (directory / "part").mkdir()
        (directory / "part" / "data.txt").write_text(content)


def read(uri: str) -> str:
    return (storage.local_copy(uri) / "part" / "data.txt").read_text()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of an object store on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI in an empty bucket."""
    from pyarrow.fs import S3FileSystem

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # local copies are kept there
    for name, value in {
        "ENDPOINT_URL": s3,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    system = S3FileSystem(allow_bucket_creation=True, endpoint_override=s3)
    system.create_dir("bucket")
    system.delete_dir_contents("bucket")
    return "s3://bucket/runs"


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
    assert b"File too large" in done.stderr
    assert read(uri) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(UserError, match="storage 'ftp://host/x' cannot be opened"):
        storage.filesystem("ftp://host/x")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs") == str(tmp_path / "runs")
    assert storage.absolute("s3://bucket/runs") == "s3://bucket/runs"
