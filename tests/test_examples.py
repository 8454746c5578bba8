"""The documents under `examples/` do what they say, each run by the real program in a copy of its own.

People's places in them are exchanged for the test's: `/tmp/taskrunner-examples` for a temporary directory,
`my-bucket` for a bucket of its own, `example.com` for a server here, and each public image for one made here.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.program import run, typed
from tests.servers import S3Server, raw_server, read_head

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
PEOPLES_DIRECTORY = "/tmp/taskrunner-examples"
PAGE = b"<p>A page</p>\n"


@dataclass(frozen=True, slots=True)
class Places:
    """What stands in a test where people have their own."""

    directory: Path
    bucket: str
    web: str
    image: str

    def moved_to(self, value: Any, key: str = "") -> Any:
        """The document with every URL and image exchanged."""
        if isinstance(value, dict):
            return {k: self.moved_to(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.moved_to(item, key) for item in value]
        if key == "image":
            return self.image
        if key == "url":
            moved = value.replace(PEOPLES_DIRECTORY, str(self.directory))
            return moved.replace("//my-bucket/", f"//{self.bucket}/").replace("http://example.com", self.web)
        return value


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run left behind."""

    exit_code: int
    result: dict[str, Any]

    def stdout(self, index: int = 0) -> str:
        """What the result document keeps of an executor's standard output."""
        text = self.result["logs"][0]["logs"][index]["stdout"]
        assert isinstance(text, str)
        return text

    def exit_codes(self) -> list[int]:
        return [log["exit_code"] for log in self.result["logs"][0]["logs"]]


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs examples in their new places."""

    places: Places
    tmp_path: Path

    def run(self, name: str, *, stop_after: str | None = None) -> Outcome:
        """Run one example to its end, which SIGTERM brings about after the first event named `stop_after`."""
        task = self.places.moved_to(json.loads((EXAMPLES / f"{name}.json").read_text()))
        result = self.tmp_path / "result.json"
        options: list[str | Path] = [
            "--allow-dir",
            self.places.directory,
            "--result",
            result,
            "--stop-grace-seconds",
            "1",
        ]
        ended = run(task, self.tmp_path, *options, stop_after=stop_after)
        assert result.exists(), ended.text
        return Outcome(ended.exit_code, json.loads(result.read_text()))


class Bucket:
    """The bucket that stands for `my-bucket`."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self.name = name

    def put(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        content = self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
        assert isinstance(content, bytes)
        return content

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix, without it."""
        listing = self._client.list_objects_v2(Bucket=self.name, Prefix=prefix)
        return [found["Key"].removeprefix(prefix) for found in listing.get("Contents", [])]


@pytest.fixture
def bucket(s3: S3Server) -> Iterator[Bucket]:
    client = s3.client()
    yield Bucket(client, s3.make_bucket())
    client.close()


@pytest.fixture
def web() -> Iterator[str]:
    """A web server that has one page, whatever is asked."""

    def serve(connection: socket.socket) -> None:
        body = b"" if read_head(connection).startswith(b"HEAD") else PAGE
        answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(PAGE)}\r\nConnection: close\r\n\r\n"
        connection.sendall(answer.encode() + body)

    with raw_server(serve) as url:
        yield url


@pytest.fixture
def runner(tmp_path: Path, bucket: Bucket, web: str, busybox_image: str) -> Runner:
    directory = tmp_path / "files"
    directory.mkdir()
    return Runner(Places(directory, bucket.name, web, busybox_image), tmp_path)


def md5_line(content: bytes, path: str) -> str:
    """What `md5sum` prints of a file."""
    return f"{hashlib.md5(content).hexdigest()}  {path}\n"


@pytest.mark.parametrize("name", NAMES)
def test_each_example_has_a_test_here_and_a_line_in_the_readme(name: str) -> None:
    beginning = f"test_{name.replace('-', '_')}_"
    assert any(test.startswith(beginning) for test in globals())
    assert f"| [{name}]({name}.json) |" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_valid_as_it_stands(name: str) -> None:
    example = EXAMPLES / f"{name}.json"
    exit_code, stdout, stderr = typed("validate", example, "--allow-dir", PEOPLES_DIRECTORY)
    assert (exit_code, stdout) == (0, "")
    assert "warning" not in stderr


def test_hello_world_prints_its_line(runner: Runner) -> None:
    outcome = runner.run("hello-world")
    assert (outcome.exit_code, outcome.result["state"]) == (0, "COMPLETE")
    assert outcome.stdout() == "hello world\n"


def test_http_to_s3_puts_the_sum_of_the_page_into_the_bucket(runner: Runner, bucket: Bucket) -> None:
    outcome = runner.run("http-to-s3")
    assert outcome.exit_code == 0
    assert md5_line(PAGE, "/tmp/page.html").encode() == bucket.get("results/md5sum.txt")


def test_md5sum_keeps_what_the_command_prints(runner: Runner) -> None:
    (runner.places.directory / "input.txt").write_bytes(b"some words\n")
    assert runner.run("md5sum").exit_code == 0
    expected = md5_line(b"some words\n", "/inputs/input.txt")
    assert expected == (runner.places.directory / "md5sum.txt").read_text()


def test_capture_stdout_stderr_keeps_each_stream_in_its_file(runner: Runner) -> None:
    assert runner.run("capture-stdout-stderr").exit_code == 0
    assert (runner.places.directory / "stdout.txt").read_text() == "a result\n"
    assert (runner.places.directory / "stderr.txt").read_text() == "a remark\n"


def test_input_content_is_a_script_that_runs(runner: Runner) -> None:
    assert runner.run("input-content").exit_code == 0
    assert (runner.places.directory / "lines.txt").read_text() == "line 1\nline 2\nline 3\n"


def test_full_hello_fills_the_output_directory(runner: Runner) -> None:
    outcome = runner.run("full-hello")
    greetings = runner.places.directory / "greetings"
    assert outcome.exit_code == 0
    assert outcome.result["tags"] == {"project": "examples", "stage": "demonstration"}
    assert (greetings / "quiet.txt").read_text() == "hello, world\n"
    assert (greetings / "loud" / "loud.txt").read_text() == "HELLO, WORLD\n"


def test_log_streaming_is_followed_until_it_is_stopped(runner: Runner) -> None:
    outcome = runner.run("log-streaming", stop_after="EXECUTOR_STDOUT")
    assert outcome.exit_code == 75
    assert outcome.result["state"] != "COMPLETE"


def test_resource_request_is_understood_in_mixed_spelling(runner: Runner) -> None:
    outcome = runner.run("resource-request")
    resources = outcome.result["resources"]
    assert outcome.exit_code == 0
    assert (resources["cpu_cores"], resources["ram_gb"], resources["disk_gb"]) == (1, 0.25, 0.5)


def test_s3_get_reads_the_object(runner: Runner, bucket: Bucket) -> None:
    bucket.put("data/input.txt", b"an object\n")
    outcome = runner.run("s3-get")
    assert outcome.exit_code == 0
    assert md5_line(b"an object\n", "/inputs/input.txt") == outcome.stdout()


def test_s3_get_put_reads_a_prefix_and_writes_an_object(runner: Runner, bucket: Bucket) -> None:
    bucket.put("data/a.txt", b"a\n")
    bucket.put("data/b/c.txt", b"c\n")
    bucket.put("database.txt", b"not below the prefix\n")
    assert runner.run("s3-get-put").exit_code == 0
    expected = md5_line(b"a\n", "./a.txt") + md5_line(b"c\n", "./b/c.txt")
    assert expected.encode() == bucket.get("results/md5sums.txt")


def test_error_ends_with_the_executors_code_and_uploads_what_there_is(runner: Runner) -> None:
    outcome = runner.run("error")
    assert (outcome.exit_code, outcome.result["state"]) == (3, "EXECUTOR_ERROR")
    assert outcome.exit_codes() == [0, 3]
    assert (runner.places.directory / "half.txt").read_text() == "half\n"
    assert not (runner.places.directory / "whole.txt").exists()


def test_ignore_error_records_the_code_and_completes(runner: Runner) -> None:
    outcome = runner.run("ignore-error")
    assert (outcome.exit_code, outcome.result["state"]) == (0, "COMPLETE")
    assert outcome.exit_codes() == [4, 0]
    assert outcome.stdout(1) == "still here\n"


def test_multiple_executors_hand_their_files_on(runner: Runner) -> None:
    outcome = runner.run("multiple-executors")
    assert outcome.exit_codes() == [0, 0, 0]
    assert (runner.places.directory / "count.txt").read_text().strip() == "3"


def test_multiple_inputs_outputs_go_where_their_pattern_says(runner: Runner) -> None:
    directory = runner.places.directory
    (directory / "input.txt").write_bytes(b"one\n")
    (directory / "parts").mkdir()
    (directory / "parts" / "two.txt").write_bytes(b"two\n")
    assert runner.run("multiple-inputs-outputs").exit_code == 0
    contents = {"input.txt": b"one\n", "two.txt": b"two\n", "note.txt": b"from the document\n"}
    expected = {f"{name}.md5": md5_line(content, "-") for name, content in contents.items()}
    assert expected == {path.name: path.read_text() for path in (directory / "sums").iterdir()}


def test_nextflow_finds_everything_it_asked_for(runner: Runner, bucket: Bucket) -> None:
    outcome = runner.run("nextflow")
    assert outcome.exit_code == 0
    expected = {
        ".command.out": b"done\n",
        ".command.err": b"careful\n",
        ".command.log": b"done\ncareful\n",
        ".exitcode": b"0",
        "part-a.txt": b"a\n",
        "part-b.txt": b"b\n",
        "plots/small/one.txt": b"a picture\n",
        "tables/all.txt": b"a table\n",
    }
    assert expected == {key: bucket.get(f"work/3f/a1/{key}") for key in bucket.keys("work/3f/a1/")}
