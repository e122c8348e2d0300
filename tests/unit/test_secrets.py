"""What URIs say of users, passwords and keys is masked, and nothing else."""

import io

import pytest

from recsys.secrets import MaskedStream, mask, mask_values, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:5000/x", "http://***@host:5000/x"),
        ("error: 's3://KEY:SECRET@bucket/runs' is away", "error: 's3://***@bucket/runs' is away"),
        ("s3://KEY:ab/cd+ef=@bucket/a", "s3://***@bucket/a"),
        ("http://u:p@ss@host/a", "http://***@host/a"),
        ("https://token@host/a", "https://***@host/a"),
        ("postgresql+psycopg2://u:p@host/db", "postgresql+psycopg2://***@host/db"),
        ("postgresql://host/db?user=u&password=secret&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("abfs://c/a?account_key=SECRET", "abfs://c/a?account_key=***"),
        ("gs://b/x?access_token=SECRET and more", "gs://b/x?access_token=*** and more"),
        ('{"uri": "http://u:p@h/a", "mail": "x@y"}', '{"uri": "http://***@h/a", "mail": "x@y"}'),
        ("http://a:b@c and s3://d:e@f", "http://***@c and s3://***@f"),
    ],
)
def test_a_secret_is_masked(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user@host",
        "http://host:5000/x",
        "s3://bucket/runs/a@b",
        "at http://127.0.0.1:8000 (page: http://127.0.0.1:8000/docs); ask me@x",
        "sqlite:////data/mlflow.db",
        "s3://bucket?region=eu&endpoint_override=localhost:9000",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert mask(text) == text


def test_values_at_any_depth() -> None:
    values = {"a": {"uri": "http://u:p@h"}, "b": ["s3://k:s@b/x", 1], "c": None, "d": "x"}
    assert mask_values(values) == {"a": {"uri": "http://***@h"}, "b": ["s3://***@b/x", 1], "c": None, "d": "x"}
    assert without_secrets(values) == ({"a": {}, "c": None, "d": "x"}, ["a.uri", "b"])


def test_a_stream_lets_none_through() -> None:
    under = io.StringIO()
    stream = MaskedStream(under)
    print("see", "http://u:p@h", file=stream, flush=True)
    stream.writelines(["s3://k:s@b\n", "x\n"])
    assert under.getvalue() == "see http://***@h\ns3://***@b\nx\n"
    assert stream.seekable()
