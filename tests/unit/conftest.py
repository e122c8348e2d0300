"""What unit tests share: one thread (tiny tensors gain nothing from more, and busy machines lose much), tiny data."""

import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.prepared import Catalogue, PreparedDataset


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put files into a wheel of a folder that pip alone looks into, as of a package index; gives the wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")

    def carry(wheel: str, requirement: str, members: dict[str, bytes]) -> Path:
        name, _, version = requirement.partition("==")
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        with zipfile.ZipFile(folder / wheel, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return folder / wheel

    return carry


@pytest.fixture
def random_dataset() -> Callable[..., PreparedDataset]:
    """Build a leave-one-out dataset of `users` sequences of 3 to `longest` items out of `items`."""

    def build(
        *, users: int = 12, items: int = 60, longest: int = 40, max_history: int = 8, seed: int = 0
    ) -> PreparedDataset:
        generator = np.random.default_rng(seed)
        lengths = generator.integers(3, longest + 1, users)
        lengths[0] = longest
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        sequences = generator.integers(1, items + 1, offsets[-1]).astype(np.int32)
        inner = np.ones(offsets[-1], dtype=bool)
        inner[np.concatenate([offsets[:-1], offsets[1:] - 1, offsets[1:] - 2])] = False
        counts = np.bincount(sequences[inner], minlength=items + 1).astype(np.int64)
        return PreparedDataset(
            name="random",
            source={},
            protocol="leave_one_out",
            max_history=max_history,
            catalogue=Catalogue(
                item_ids=["", *[f"i{n}" for n in range(1, items + 1)]],
                titles=["", *[f"Film number {n}" for n in range(1, items + 1)]],
                train_counts=counts,
            ),
            user_ids=[f"u{n}" for n in range(users)],
            offsets=offsets,
            items=sequences,
            timestamps=np.arange(offsets[-1], dtype=np.int64),
            split_rows={"train": np.flatnonzero(inner), "valid": offsets[1:] - 2, "test": offsets[1:] - 1},
        )

    return build


@dataclass
class ObjectStore:
    """An S3 server on loopback that notes what is written to it.

    Attributes:
        written: keys, in the order in which their content had arrived.
        held: a part of the keys whose content it does not take before `let_go`.
    """

    address: str = ""
    written: list[str] = field(default_factory=list)
    held: str = ""
    asked: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def wrap(self, app: Callable[..., Any]) -> Callable[..., Any]:
        def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
            key, writes = environ["PATH_INFO"], environ["REQUEST_METHOD"] == "PUT"
            if writes and self.held and self.held in key:
                self.asked.set()
                self.let_go.wait(60)
            result = app(environ, start)
            if writes:
                self.written.append(key)
            return result

        return answer


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    store = ObjectStore()
    app = store.wrap(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.address = f"http://127.0.0.1:{server.server_port}"
    yield store
    store.let_go.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def bucket(object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI in an empty bucket; local copies are kept in the test's folder."""
    from pyarrow.fs import S3FileSystem

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, value in {
        "ENDPOINT_URL": object_store.address,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "REGION": "us-east-1",
        "EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    system = S3FileSystem(allow_bucket_creation=True, endpoint_override=object_store.address)
    system.create_dir("bucket")
    system.delete_dir_contents("bucket")
    object_store.written.clear()
    yield "s3://bucket/runs"
    object_store.held = ""
    object_store.let_go.set()
    object_store.let_go = threading.Event()
    object_store.asked.clear()
