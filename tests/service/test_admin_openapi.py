"""``/openapi.json`` is true: schemathesis sends what it allows and what it forbids, and compares. So is the manual."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from gevent import subprocess

from spawn.admin.listing import pages
from tests.support.adminbackend import seeded, serving

# A record that is no longer retained is an answer to a valid request, too. And a schema can forbid two equal records,
# but not two records of the same node, which a random array of a thousand has.
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "410"]

[[operations]]
include-name = "PUT /nodes"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400"]
"""


def test_schemathesis_finds_no_difference(tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG, "utf-8")
    with serving(seeded()) as api:
        command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run", "--no-color"]
        command += ["--seed=1", "--max-examples=25", "--checks=all", f"http://127.0.0.1:{api.port}/openapi.json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=150)
    report = done.stdout.decode()
    assert done.returncode == 0, report[-5000:] + done.stderr.decode()[-5000:]
    assert re.search(r"Tested: *26\b", report), report


def test_every_listed_route_is_described() -> None:
    with serving(seeded()) as api:
        paths = api("GET", "/openapi.json").json["paths"]
    listed = re.findall(r"^([A-Z]+) +(/\S+)", pages()["/list"], re.M)
    described = {(method, path) for path, item in paths.items() for method in item if method != "parameters"}
    for method, path in listed:
        assert (method.lower(), re.sub(r":(\w+)", r"{\1}", path)) in described


def test_a_verb_that_needs_no_body_says_what_it_does_with_one() -> None:
    with serving(seeded()) as api:
        paths = api("GET", "/openapi.json").json["paths"]
        posts = {path: item["post"] for path, item in paths.items() if "post" in item}
        assert len(posts) == 4
        for path, post in posts.items():
            assert not post["requestBody"]["required"]
            assert {"400", "413", "415"} <= post["responses"].keys()
            target = path.format(host="node1.myapp.com", port=7017, sequence=1)
            assert api("POST", target, b"", Content_Type="text/plain").status not in (400, 413, 415)
            assert api("POST", target, {}).status not in (400, 413, 415)
            assert api("POST", target, [1]).status == 400
            assert api("POST", target, b"x", Content_Type="text/plain").status == 415
            assert api("POST", target, b" " * 2_000_000).status == 413


def test_every_listed_route_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    for method, path in re.findall(r"^([A-Z]+) +(/\S+)", pages()["/list"], re.M):
        headings = [line for line in text.splitlines() if line.startswith("### ")]
        assert any(re.search(rf"`{method} {path}`", line) for line in headings), (method, path)
