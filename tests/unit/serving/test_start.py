"""The start page: one file that asks its own server alone."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fastapi.testclient import TestClient

from recsys.serving.service import Service
from recsys.serving.start import make_policy, read_start_page
from recsys.serving.web import create_app
from tests.unit.serving.conftest import listening


@pytest.fixture
def api(service: Service) -> TestClient:
    return TestClient(create_app(service, {}, checkpoints={}))


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_may_do_what_they_need_and_no_more(api: TestClient, path: str) -> None:
    said = api.get(path)
    assert said.status_code == 200 and said.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in said.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert (policy["base-uri"], policy["form-action"], policy["frame-ancestors"]) == ("'none'",) * 3
    for name in ("script", "style"):
        (inside,) = re.findall(rf"<{name}[^>]*>(.*?)</{name}>", said.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{name}-src"] == f"'sha256-{digest}'", "none but its own, and nothing unsafe"
    assert not re.search(r"""\s(?:on\w+|style)=["']""", said.text), "what the policy would not let run or show"


def test_the_start_page_names_no_other_host_and_makes_no_html_of_titles() -> None:
    text = read_start_page()
    assert set(re.findall(r"""https?://[^"'\s]+""", text)) == {"http://www.w3.org/2000/svg"}, "a name, never fetched"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    ids = set(re.findall(r'\bid="([\w-]+)"', text))
    assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= ids
    assert set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([\w-]+)"', text)) <= ids
    assert {"docs", "metrics"} == set(re.findall(r'href="([^"]+)"', text)), "relative, for servers below a path"


def test_a_page_without_a_script_may_run_none() -> None:
    assert "script-src 'none'" in make_policy("<style>p {}</style>")


def test_its_script_can_be_read(tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("there is no node here to read it")
    (script,) = re.findall(r'<script type="module">(.*?)</script>', read_start_page(), re.DOTALL)
    (tmp_path / "start.mjs").write_text(script)
    done = subprocess.run([node, "--check", tmp_path / "start.mjs"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_browser_draws_what_the_server_says(service: Service) -> None:
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium here to show it")
    # Its socket needs a short path.
    with TemporaryDirectory() as folder, listening(create_app(service, {}, checkpoints={})) as url:
        done = subprocess.run(
            [
                browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
                "--virtual-time-budget=5000", "--dump-dom", url,
            ],
            env={**os.environ, "TMPDIR": folder}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (arms,) = re.findall(r'<tbody id="health">(.*?)</tbody>', done.stdout, re.DOTALL)
    assert [re.sub("<.*?>", " ", row).split()[:2] for row in arms.split("</tr>")[:-1]] == [
        [arm, "ready"] for arm in service.arms
    ]
    (state,) = re.findall(r'<p class="soft" id="experiment">(.*?)</p>', done.stdout)
    assert re.fullmatch(r"Experiment: version 1 since \d{4}-\d\d-\d\d \d\d:\d\d UTC, salt s; no shadow answers", state)
    (found,) = re.findall(r'<ul class="plain" id="found".*?>(.*?)</ul>', done.stdout, re.DOTALL)
    assert found.count("<button") > 3, "popular items, as long as nothing is searched for"
