"""`stage-in` and `stage-out`, with a script's work between them."""

import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.program import command, environment, typed
from tests.servers import S3Server

EXECUTORS = [{"image": "busybox", "command": ["true"]}]


class Scene:
    """A task with inputs from S3 and from here, and outputs to S3."""

    def __init__(self, server: S3Server, tmp_path: Path) -> None:
        self.server = server
        self.client = server.client()
        self.bucket = server.make_bucket()
        self.work = tmp_path / "work"
        self.local = tmp_path / "local.txt"
        self.local.write_text("local")
        self.document = tmp_path / "task.json"
        self.client.put_object(Bucket=self.bucket, Key="in/a", Body=b"from s3")
        self.client.put_object(Bucket=self.bucket, Key="in/sub/b", Body=b"b")
        self.write(id="T-1")

    def write(self, **more: Any) -> None:
        task = {
            "inputs": [
                {"url": f"s3://{self.bucket}/in/a", "path": "/data/a"},
                {"url": f"s3://{self.bucket}/in/", "path": "/data/tree", "type": "DIRECTORY"},
                {"url": str(self.local), "path": "/data/local"},
                {"content": "hello", "path": "/data/script"},
            ],
            "outputs": [
                {"url": f"s3://{self.bucket}/out/result", "path": "/res/result"},
                {"url": f"s3://{self.bucket}/out/logs", "path": "/res/logs", "type": "DIRECTORY"},
            ],
            "executors": EXECUTORS,
        }
        self.document.write_text(json.dumps({**task, **more}))

    @property
    def options(self) -> tuple[object, ...]:
        return self.document, "--work-dir", self.work, "--allow-dir", self.local.parent

    def stage_in(self, *more: object) -> tuple[int, str, str]:
        return typed("stage-in", *self.options, *more)  # type: ignore[arg-type]

    def stage_out(self, *more: object) -> tuple[int, str, str]:
        return typed("stage-out", *self.options, *more)  # type: ignore[arg-type]

    def outputs(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix="out/").get("Contents", ())
        return {
            entry["Key"]: self.client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read()
            for entry in listed
        }


@pytest.fixture
def scene(s3: S3Server, tmp_path: Path) -> Scene:
    return Scene(s3, tmp_path)


def events(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines()]


def work(root: Path) -> None:
    (root / "res/result").write_bytes((root / "data/a").read_bytes().upper())
    (root / "res/logs").mkdir(exist_ok=True)
    (root / "res/logs/log").write_text("done")


def test_a_script_finds_its_inputs_and_its_outputs_are_uploaded(scene: Scene) -> None:
    code, stdout, stderr = scene.stage_in()
    root = scene.work / "T-1"
    assert (code, stdout) == (0, f"{root}\n")
    assert {event["msg"] for event in events(stderr)} == {
        "download started",
        "download finished",
        "download totals",
    }
    contents = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert contents == {
        "data/a": "from s3",
        "data/tree/a": "from s3",
        "data/tree/sub/b": "b",
        "data/local": "local",
        "data/script": "hello",
    }
    work(root)

    code, stdout, stderr = scene.stage_out()

    assert (code, stdout) == (0, "")
    assert [event["msg"] for event in events(stderr)][-2:] == ["upload totals", "TASK_OUTPUTS"]
    assert scene.outputs() == {"out/result": b"FROM S3", "out/logs/log": b"done"}
    assert (root / "res/result").exists()


def test_json_tells_the_files(scene: Scene) -> None:
    code, stdout, _ = scene.stage_in("--json")
    root = scene.work / "T-1"
    told = json.loads(stdout)
    assert (code, told["id"], told["root"]) == (0, "T-1", str(root))
    assert told["files"] == [
        {"path": path, "file": f"{root}{path}", "size_bytes": size}
        for path, size in (
            ("/data/a", 7),
            ("/data/local", 5),
            ("/data/script", 5),
            ("/data/tree/a", 7),
            ("/data/tree/sub/b", 1),
        )
    ]
    work(root)

    code, stdout, _ = scene.stage_out("--json")
    assert (code, json.loads(stdout)["files"]) == (
        0,
        [
            {"url": f"s3://{scene.bucket}/out/result", "path": "/res/result", "size_bytes": 7},
            {"url": f"s3://{scene.bucket}/out/logs/log", "path": "/res/logs/log", "size_bytes": 4},
        ],
    )


def test_what_a_task_wants_of_its_containers_is_nobodys_business_here(scene: Scene) -> None:
    parameters = {"shm_size": "much", "network": "lan", "pids_limit": "0", "of_ours": "x"}
    scene.write(
        id="T-1", resources={"backend_parameters": parameters, "backend_parameters_strict": True}, outputs=[]
    )

    assert (scene.stage_in()[0], scene.stage_out()[0]) == (0, 0)


def test_a_task_without_an_id_gets_one_that_stage_out_asks_for(scene: Scene) -> None:
    scene.write()
    _, stdout, _ = scene.stage_in()
    root = Path(stdout.rstrip("\n"))
    assert (root.parent, len(root.name)) == (scene.work, 20)
    work(root)

    code, _, stderr = scene.stage_out()
    assert (code, "--task-id" in stderr) == (64, True)
    assert scene.stage_out("--task-id", root.name)[0] == 0
    assert sorted(scene.outputs()) == ["out/logs/log", "out/result"]


@pytest.mark.parametrize("verb", ["stage-in", "stage-out"])
@pytest.mark.parametrize("task_id", ["../up", "..", "", "-x", "a/b"])
def test_an_id_that_no_document_may_have_is_refused(scene: Scene, verb: str, task_id: str) -> None:
    scene.write()
    code, _, stderr = typed(verb, *scene.options, "--task-id", task_id)  # type: ignore[arg-type]
    assert (code, "--task-id" in stderr, scene.work.exists()) == (64, True, False)


@pytest.mark.parametrize("verb", ["stage-in", "stage-out"])
@pytest.mark.parametrize("task_id", ["", "T-2"])
def test_another_id_than_the_documents_own_is_refused(scene: Scene, verb: str, task_id: str) -> None:
    code, _, stderr = typed(verb, *scene.options, "--task-id", task_id)  # type: ignore[arg-type]
    assert (code, "--task-id" in stderr, scene.work.exists()) == (64, True, False)


def test_stage_out_of_what_was_never_staged_in_is_missing(scene: Scene) -> None:
    code, _, stderr = scene.stage_out()
    assert (code, f"{scene.work}/T-1" in stderr, scene.work.exists()) == (66, True, False)


def test_stage_in_begins_anew_in_the_same_place(scene: Scene) -> None:
    scene.stage_in()
    (scene.work / "T-1/data/a").write_text("spoilt")
    (scene.work / "T-1/res/result").write_text("of an earlier attempt")

    code, stdout, _ = scene.stage_in()

    assert (code, stdout) == (0, f"{scene.work}/T-1\n")
    assert (scene.work / "T-1/data/a").read_text() == "from s3"
    assert not (scene.work / "T-1/res/result").exists()


def test_a_script_may_write_to_its_inputs_and_changes_no_original(scene: Scene) -> None:
    scene.stage_in()
    with (scene.work / "T-1/data/local").open("a") as file:
        file.write(" and more")
    assert scene.local.read_text() == "local"


def test_a_directory_that_no_runner_made_is_never_touched(scene: Scene) -> None:
    (scene.work / "T-1").mkdir(parents=True)
    (scene.work / "T-1/precious").write_text("precious")
    code, _, stderr = scene.stage_in()
    assert (code, f"{scene.work}/T-1 is there already" in stderr) == (74, True)
    assert (scene.work / "T-1/precious").read_text() == "precious"


@pytest.mark.parametrize("verb", ["stage-in", "stage-out"])
def test_a_directory_in_which_another_runner_works_is_left_alone(scene: Scene, verb: str) -> None:
    scene.stage_in()
    with (scene.work / ".T-1/taskrunner-lease").open("r+") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        code, _, stderr = typed(verb, *scene.options)  # type: ignore[arg-type]
    assert (code, "another runner is at work" in stderr) == (75, True)
    assert (scene.work / "T-1/data/a").exists()


def test_what_run_left_can_be_staged_out(scene: Scene) -> None:
    """`run --leave-work-dir` leaves no lease."""
    (scene.work / "T-1/res").mkdir(parents=True)
    (scene.work / "T-1/data").mkdir()
    (scene.work / "T-1/data/a").write_text("a")
    work(scene.work / "T-1")
    assert scene.stage_out()[0] == 0
    assert sorted(scene.outputs()) == ["out/logs/log", "out/result"]


def test_a_missing_input_ends_stage_in_and_leaves_nothing(scene: Scene) -> None:
    scene.client.delete_object(Bucket=scene.bucket, Key="in/a")
    code, stdout, stderr = scene.stage_in()
    assert (code, stdout, list(scene.work.iterdir())) == (66, "", [])
    assert events(stderr)[-1]["msg"] == "System error"


def test_a_missing_output_ends_stage_out_but_not_the_other_uploads(scene: Scene) -> None:
    scene.stage_in()
    work(scene.work / "T-1")
    (scene.work / "T-1/res/result").unlink()
    code, _, stderr = scene.stage_out()
    assert (code, sorted(scene.outputs())) == (73, ["out/logs/log"])
    assert "/res/result is missing" in events(stderr)[-1]["error"]
    assert (scene.work / "T-1/res/logs/log").exists()


def test_a_directory_that_is_not_wanted_any_more_goes_when_all_is_uploaded(scene: Scene) -> None:
    scene.stage_in()
    assert scene.stage_out("--no-leave-work-dir")[0] == 73
    work(scene.work / "T-1")
    assert scene.stage_out("--no-leave-work-dir")[0] == 0
    assert list(scene.work.iterdir()) == []


def test_a_stopped_stage_in_leaves_only_what_the_next_one_goes_on_with(scene: Scene) -> None:
    scene.client.put_object(Bucket=scene.bucket, Key="big", Body=os.urandom(40_000_000))
    scene.write(id="T-1", inputs=[{"url": f"s3://{scene.bucket}/big", "path": "/data/big"}])
    arguments = command("stage-in", *scene.options, "--bandwidth", "16MB/s")  # type: ignore[arg-type]
    staging = scene.work / ".T-1/inputs"
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        while not any(path.read_bytes().count(b"\n") > 1 for path in staging.glob("*.journal")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, (scene.work / "T-1").exists()) == (75, "", False)
    assert "SIGTERM" in events(stderr)[-1]["error"]

    code, _, stderr = scene.stage_in()
    (totals,) = [event for event in events(stderr) if event["msg"] == "download totals"]
    assert (code, int(totals["bytes_resumed"]) > 0) == (0, True)
    assert sorted(path.name for path in scene.work.rglob("*") if path.is_file()) == [
        "big",
        "taskrunner-lease",
    ]
