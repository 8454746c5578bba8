"""The watchdog: whatever ends a runner, its containers end with it, and nobody else's do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from scripts.runner_image import PYTHON
from taskrunner.containers import watchdog
from taskrunner.containers.guard import watchdog_config
from taskrunner.containers.labels import RUNNER_ID_LABEL, WATCHDOG_LABEL, WORK_DIR_LABEL
from tests.engine import ask, remove_image
from tests.job import JobContainer, inspect, started
from tests.program import environment, run
from tests.servers import web_server

SOCKET = "unix:///var/run/docker.sock"
WHO = {RUNNER_ID_LABEL: "r"}
JSON = {"Content-Type": "application/json"}
SECONDS = 60
FOREVER = ["sleep", "1000"]
OFFLINE = ("--network", "none")
WORK = "/work/of=it"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def runs_any(containers: list[str]) -> bool:
    known = [
        json.loads(body)
        for status, body in (ask("GET", f"/containers/{one}/json") for one in containers)
        if status == 200
    ]
    return any(one["State"]["Running"] and not is_watchdog(one) for one in known)


def is_watchdog(container: Mapping[str, Any]) -> bool:
    labels = container["Config"]["Labels"]
    return bool(labels.get(WATCHDOG_LABEL) == labels[RUNNER_ID_LABEL])


def up(job: JobContainer) -> None:
    """Wait until the job's executor runs."""
    job.until("Running command")
    until(lambda: runs_any(job.children()))


# --- containers


class Host:
    """Containers that a test makes, and a runner's id that no sweep understands: only a watchdog takes those away."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.runner = f"test-{uuid4().hex[:12]}"
        self._made: list[str] = []

    def ours(self, *, runner: str | None = None, **labels: str) -> str:
        """A running container of the runner's."""
        return self.container(runner_id=runner or self.runner, work_dir=WORK, **labels)

    def container(self, *, image: str | None = None, **labels: str) -> str:
        """A running container."""
        body = {
            "Image": image or self.image,
            "Cmd": FOREVER,
            "HostConfig": {"NetworkMode": "none"},
            "Labels": {f"taskrunner.{n.replace('_', '-')}": v for n, v in labels.items()},
        }
        status, answer = ask("POST", "/containers/create", json.dumps(body).encode(), JSON)
        assert status == 201, answer
        container = str(json.loads(answer)["Id"])
        self._made.append(container)
        assert ask("POST", f"/containers/{container}/start")[0] == 204
        return container

    def has(self, container: str) -> bool:
        return ask("GET", f"/containers/{container}/json")[0] == 200

    def runs(self, container: str) -> bool:
        return bool(inspect(container)["State"]["Running"])

    def clean(self) -> None:
        for container in self._made:
            ask("DELETE", f"/containers/{container}?force=1&v=1")


@pytest.fixture
def host(busybox_image: str) -> Iterator[Host]:
    host = Host(busybox_image)
    try:
        yield host
    finally:
        host.clean()


@contextmanager
def watching(
    runner: str, runners_container: str = "", *, docker_host: str = SOCKET
) -> Iterator[subprocess.Popen[bytes]]:
    """The script, as it is started; its standard input ends with `stdin.close()`."""
    script = Path(watchdog.__file__)
    whose = (f"{RUNNER_ID_LABEL}={runner}", f"{WORK_DIR_LABEL}={WORK}")
    words = [docker_host, runners_container, f"{WATCHDOG_LABEL}={runner}", *whose]
    with subprocess.Popen([sys.executable, "-I", "-S", script, *words], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def outlive(process: subprocess.Popen[bytes]) -> None:
    """The runner's end, and then the watchdog's."""
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=SECONDS) == 0


def test_the_end_of_its_input_is_the_end_of_every_container_of_the_runner(host: Host) -> None:
    running, ended = (host.ours() for _ in range(2))
    ask("POST", f"/containers/{ended}/kill")
    with watching(host.runner) as process:
        assert host.runs(running)
        outlive(process)
    assert not host.has(running)
    assert not host.has(ended)


def test_containers_of_others_are_left_alone(host: Host) -> None:
    others = [
        host.ours(runner=f"{host.runner}0"),
        host.container(runner_id=host.runner, work_dir="/of/another/in/its/container"),
        host.container(runner_id=host.runner),
        host.container(task_id=host.runner),
        host.container(),
    ]
    with watching(host.runner) as process:
        outlive(process)
    assert all(host.runs(other) for other in others)


@pytest.mark.parametrize("value", ["", "true", "somebody"])
def test_a_label_that_an_image_may_bring_spares_no_container(host: Host, value: str) -> None:
    forged = host.ours(watchdog=value)
    with watching(host.runner) as process:
        outlive(process)
    assert not host.has(forged)


def test_the_watchdogs_container_is_removed_last(host: Host) -> None:
    """Else what is left would have no watchdog, should the process be killed with its container."""
    beside, ours = host.ours(watchdog=host.runner), host.ours()
    with watching(host.runner) as process:
        assert process.stdin is not None
        process.stdin.close()
        until(lambda: not host.has(ours) or not host.has(beside))
        assert not host.has(ours)
        assert process.wait(timeout=SECONDS) == 0
    assert not host.has(beside)


def test_a_watchdogs_container_does_not_remove_itself(host: Host) -> None:
    runner = host.container()
    itself, ours = host.ours(runner=runner, watchdog=runner), host.ours(runner=runner)
    ask("POST", f"/containers/{runner}/kill")
    with watching(runner, runner) as process:
        assert process.wait(timeout=SECONDS) == 0
    assert (host.runs(itself), host.has(ours)) == (True, False)


def test_what_runs_from_an_image_of_the_runners_container_is_left_alone(host: Host) -> None:
    ours = host.ours()
    status, body = ask("POST", f"/commit?container={ours}&repo={host.runner}&tag=latest", b"{}", JSON)
    assert status == 201, body
    try:
        theirs = host.container(image=f"{host.runner}:latest")
        assert inspect(theirs)["Config"]["Labels"]["taskrunner.runner-id"] == host.runner
        with watching(host.runner) as process:
            outlive(process)
        assert (host.has(ours), host.runs(theirs)) == (False, True)
    finally:
        host.clean()
        remove_image(f"{host.runner}:latest")


def test_a_container_that_the_engine_was_still_making_is_removed_as_well(host: Host) -> None:
    with watching(host.runner) as process:
        first = host.ours()
        assert process.stdin is not None
        process.stdin.close()
        until(lambda: not host.has(first))
        late = host.ours()
        assert process.wait(timeout=SECONDS) == 0
    assert not host.has(late)


def test_a_runner_in_a_container_is_waited_for(host: Host) -> None:
    runner = host.container()
    ours = host.ours(runner=runner)
    with watching(runner, runner) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        assert host.runs(ours)
        ask("POST", f"/containers/{runner}/kill")
        assert process.wait(timeout=SECONDS) == 0
    assert not host.has(ours)


# --- an engine that fails


class FailingEngine:
    """Answers for a container that runs, as long as it is not told to do something else, and notes removals."""

    def __init__(self) -> None:
        self.answers: list[int | str] = []
        """One for each question about the runner's container: a status, a state, or `hang up`; then it is gone."""
        self.removed: list[str] = []
        self.lists_before_good = 2

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            assert self.answers == [], "removed before the runner was gone"
            self.removed.append(request.path)
            return web.Response(status=204)
        if request.path == "/containers/json":
            return self._list()
        if request.path.startswith("/images/"):
            return web.json_response({"Config": {"Labels": None}})
        return self._about_the_runner(request)

    def _list(self) -> web.StreamResponse:
        self.lists_before_good -= 1
        if self.lists_before_good >= 0:
            return web.json_response({"message": "busy"}, status=500)
        listed = [] if self.removed else [{"Id": "ours", "ImageID": "i", "Labels": {}}]
        return web.json_response(listed)

    def _about_the_runner(self, request: web.Request) -> web.StreamResponse:
        answer = self.answers.pop(0) if self.answers else 404
        if answer == "hang up":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(answer, str):
            return web.json_response({"State": {"Status": answer}})
        return web.json_response({"message": "no"}, status=answer)


@asynccontextmanager
async def failing_engine(*answers: int | str) -> AsyncIterator[tuple[FailingEngine, str]]:
    engine = FailingEngine()
    engine.answers = list(answers)
    async with web_server({"/{any:.*}": engine.answer}) as url:
        yield engine, url.replace("http://", "tcp://")


@pytest.mark.parametrize(
    "failure", [400, 409, 500, 503, "hang up", "running", "paused", "restarting", "removing"]
)
async def test_only_an_engine_that_says_so_means_gone(failure: int | str) -> None:
    async with failing_engine(failure, failure, failure, failure) as (engine, docker_host):
        with watching("r", "c" * 64, docker_host=docker_host) as process:
            assert await asyncio.to_thread(process.wait, SECONDS) == 0
    assert engine.removed == ["/containers/ours"]


@pytest.mark.parametrize("state", ["exited", "dead", 404])
async def test_an_ended_or_a_removed_container_is_gone(state: int | str) -> None:
    async with failing_engine("running", state) as (engine, docker_host):
        with watching("r", "c" * 64, docker_host=docker_host) as process:
            assert await asyncio.to_thread(process.wait, SECONDS) == 0
    assert engine.removed == ["/containers/ours"]


# --- beside the real program


def hidden(name: str, code: str) -> list[str]:
    """The program on a host of another name, where no other runner's sweep knows whether it lives."""
    code = f"{code}\nimport socket\nsocket.gethostname = lambda: {name!r}\nfrom taskrunner.cli import main\nmain()"
    return [sys.executable, "-c", code]


def watchdogs(pid: int) -> list[int]:
    """The watchdog processes of a runner's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"/watchdog.py") for word in words) and any(
            word.split(b"/")[2:3] == [str(pid).encode()] for word in words if not word.startswith(b"/")
        ):
            found.append(int(path.parent.name))
    return found


class Runner:
    """The program outside a container, with an executor that would run for long."""

    def __init__(self, image: str, tmp_path: Path, *options: str, code: str = "") -> None:
        self.name = f"test-{uuid4().hex[:12]}"
        document = tmp_path / "task.json"
        script = "echo up; sleep 1000"
        document.write_text(
            json.dumps({"id": self.name, "executors": [{"image": image, "command": ["sh", "-c", script]}]})
        )
        words = ["run", document, "--work-dir", tmp_path / "work", *OFFLINE, *options]
        self.process = subprocess.Popen(
            [*hidden(self.name, code), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def until(self, msg: str) -> str:
        """Wait for an event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if f'"msg":"{msg}"' in line:
                return line
        pytest.fail(f"it ended without {msg}")

    def up(self) -> None:
        """Wait until the executor runs."""
        self.until("Running command")
        until(lambda: runs_any(self.containers()))

    def containers(self) -> list[str]:
        _, body = ask("GET", "/containers/json?all=1")
        return [
            one["Id"]
            for one in json.loads(body)
            if (one["Labels"] or {}).get("taskrunner.task-id") == self.name
        ]


@pytest.fixture
def runner(busybox_image: str, tmp_path: Path) -> Iterator[Runner]:
    runner = Runner(busybox_image, tmp_path, "--stop-grace-seconds", "1")
    with runner.process:
        try:
            yield runner
        finally:
            # Killed, it could not remove what the engine is making just now.
            runner.process.terminate()
            runner.process.communicate(timeout=SECONDS)
            for container in runner.containers():
                ask("DELETE", f"/containers/{container}?force=1&v=1")


@pytest.mark.parametrize("runs", [True, False], ids=["it runs", "the engine is making it"])
def test_a_killed_runners_executor_ends(runner: Runner, host: Host, runs: bool) -> None:
    bystander = host.container(task_id=runner.name + "x", runner_id=f"{runner.name}/1/2/3")
    runner.up() if runs else runner.until("Running command")
    (dog,) = watchdogs(runner.process.pid)
    runner.process.send_signal(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{dog}").exists())
    assert runner.containers() == []
    assert host.runs(bystander)


def test_the_watchdog_is_on_duty_before_the_first_container(runner: Runner) -> None:
    runner.until("EXECUTOR_START_TIME")
    assert len(watchdogs(runner.process.pid)) == 1


def test_the_watchdog_holds_nothing_of_the_runners_open(runner: Runner) -> None:
    """Who reads the runner's output until its end does not wait for the watchdog."""
    runner.up()
    (dog,) = watchdogs(runner.process.pid)
    held = {int(path.name): str(path.readlink()) for path in Path(f"/proc/{dog}/fd").iterdir()}
    assert held.pop(0).partition(":")[0] in ("pipe", "socket")
    assert held == {1: "/dev/null", 2: "/dev/null"}
    assert Path(f"/proc/{dog}/cwd").readlink() == Path("/")
    assert os.getsid(dog) == dog


def test_the_watchdog_ends_with_a_runner_that_is_stopped(runner: Runner) -> None:
    runner.up()
    (dog,) = watchdogs(runner.process.pid)
    runner.process.send_signal(signal.SIGTERM)
    runner.process.communicate(timeout=SECONDS)
    assert not Path(f"/proc/{dog}").exists()
    assert runner.containers() == []


def test_what_a_stopped_runner_could_not_remove_its_watchdog_does(busybox_image: str, tmp_path: Path) -> None:
    code = (
        "from taskrunner.containers.engine import Engine\n"
        "from taskrunner.errors import EngineUnavailableError\n"
        "async def refuse(_engine, _container): raise EngineUnavailableError('too busy')\n"
        "Engine.remove = refuse\n"
    )
    runner = Runner(busybox_image, tmp_path, "--stop-grace-seconds", "1", code=code)
    with runner.process:
        runner.until("EXECUTOR_START_TIME")
        runner.process.send_signal(signal.SIGTERM)
        _, told = runner.process.communicate(timeout=SECONDS)
    assert "too busy" in told
    until(lambda: runner.containers() == [])


def hello(image: str) -> dict[str, object]:
    return {"executors": [{"image": image, "command": ["true"]}]}


def test_nothing_of_the_watchdog_is_left_or_told_after_a_task(busybox_image: str, tmp_path: Path) -> None:
    ended = run(hello(busybox_image), tmp_path, *OFFLINE)
    assert (ended.exit_code, ended.text) == (0, "")
    assert "watchdog failed" not in ended.messages


def test_without_a_watchdog_none_is_started(busybox_image: str, tmp_path: Path) -> None:
    runner = Runner(busybox_image, tmp_path, "--no-watchdog", "--stop-grace-seconds", "1")
    with runner.process:
        runner.until("EXECUTOR_START_TIME")
        assert watchdogs(runner.process.pid) == []
        runner.process.send_signal(signal.SIGTERM)
        runner.process.communicate(timeout=SECONDS)
    assert runner.containers() == []


def test_a_task_runs_without_a_watchdog_where_there_can_be_none(busybox_image: str, tmp_path: Path) -> None:
    document = tmp_path / "task.json"
    document.write_text(json.dumps(hello(busybox_image)))
    code = "import sys; sys.executable = '/nowhere/python'; from taskrunner.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "run", document, "--work-dir", tmp_path / "work", *OFFLINE],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=SECONDS,
        check=False,
    )
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    (failed,) = [event for event in told if event["msg"] == "watchdog failed"]
    assert "/nowhere/python" in failed["error"]
    assert ended.returncode == 0


def test_a_watchdog_that_is_killed_is_told(runner: Runner) -> None:
    runner.until("EXECUTOR_START_TIME")
    (dog,) = watchdogs(runner.process.pid)
    os.kill(dog, signal.SIGKILL)
    assert "it ended by itself, with -9; another one is started" in runner.until("watchdog failed")


def test_a_watchdog_that_is_killed_is_replaced_once(runner: Runner) -> None:
    runner.up()
    for what_now in ("another one", "no further one"):
        until(lambda: watchdogs(runner.process.pid) != [])
        (dog,) = watchdogs(runner.process.pid)
        os.kill(dog, signal.SIGKILL)
        assert what_now in runner.until("watchdog failed")
    assert watchdogs(runner.process.pid) == []


def forged(image: str, name: str) -> str:
    """An image that says of what runs from it that it is a watchdog."""
    like = json.dumps({"Image": image, "Cmd": FOREVER, "Labels": {WATCHDOG_LABEL: "true"}}).encode()
    status, body = ask("POST", f"/containers/create?name={name}-base", like, JSON)
    assert status == 201, body
    try:
        status, body = ask("POST", f"/commit?container={name}-base&repo={name}&tag=latest", b"{}", JSON)
        assert status == 201, body
    finally:
        ask("DELETE", f"/containers/{name}-base?force=1")
    return f"{name}:latest"


def test_an_image_does_not_switch_off_the_watchdog(busybox_image: str, tmp_path: Path) -> None:
    name = f"test-{uuid4().hex[:12]}"
    runner = Runner(forged(busybox_image, name), tmp_path)
    with runner.process:
        try:
            runner.up()
            (executor,) = runner.containers()
            assert inspect(executor)["Config"]["Labels"][WATCHDOG_LABEL] == "true"
            runner.process.kill()
            until(lambda: runner.containers() == [])
        finally:
            runner.process.kill()
            remove_image(f"{name}:latest")


# --- beside the runner in a container


def job_with(
    runner_image: str,
    image: str,
    tmp_path: Path,
    *options: str,
    more: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    host_config: Mapping[str, object] | None = None,
) -> AbstractContextManager[JobContainer]:
    """A job container whose executor would run for long."""
    task = {"executors": [{"image": image, "command": FOREVER}]}
    host_config = {"NetworkMode": "none", **(host_config or {})}
    return started(
        runner_image, task, tmp_path, *OFFLINE, *options, env=env, more=more, host_config=host_config
    )


def watchdog_of(job: JobContainer) -> dict[str, Any]:
    (found,) = [one for one in map(inspect, job.children()) if is_watchdog(one)]
    return found


@pytest.mark.alone
def test_a_killed_job_containers_executor_ends(
    runner_image: str, busybox_image: str, tmp_path: Path, host: Host
) -> None:
    with job_with(runner_image, busybox_image, tmp_path) as job:
        up(job)
        bystanders = [host.container(task_id=job.task_id, runner_id="0" * 63), host.container()]
        assert len(job.children()) == 3
        job.kill()
        until(lambda: job.children() == bystanders[:1])
        assert all(host.runs(bystander) for bystander in bystanders)


@pytest.mark.alone
def test_a_removed_job_containers_executor_ends(
    runner_image: str, busybox_image: str, tmp_path: Path
) -> None:
    with job_with(runner_image, busybox_image, tmp_path) as job:
        up(job)
        ask("DELETE", f"/containers/{job.container}?force=1&v=1")
        until(lambda: job.children() == [])


def test_a_runner_that_is_killed_in_a_job_container_that_goes_on_takes_its_executor_along(
    runner_image: str, busybox_image: str, tmp_path: Path
) -> None:
    wrapper = (
        f'{PYTHON} -m taskrunner "$@" & runner=$!; while [ ! -e /scratch/kill ]; do sleep 0.1; done; '
        "kill -9 $runner; exec sleep 1000"
    )
    more = {"Entrypoint": ["sh", "-c", wrapper, "sh"]}
    with job_with(runner_image, busybox_image, tmp_path, more=more) as job:
        up(job)
        (job.scratch / "kill").touch()
        until(lambda: job.children() == [])
        assert inspect(job.container)["State"]["Running"]


def test_what_a_job_could_not_remove_its_watchdog_does(
    runner_image: str, busybox_image: str, tmp_path: Path
) -> None:
    """The runner's end comes while the engine does not remove the executor."""
    code = (
        "from taskrunner.containers.engine import Engine\n"
        "from taskrunner.errors import EngineUnavailableError\n"
        "async def refuse(_engine, _container): raise EngineUnavailableError('too busy')\n"
        "Engine.remove = refuse\n"
        "from taskrunner.cli import main; main()"
    )
    more = {"Entrypoint": [PYTHON, "-c", code]}
    options = ("--stop-grace-seconds", "1")
    with job_with(runner_image, busybox_image, tmp_path, *options, more=more) as job:
        up(job)
        job.stop()
        assert any("too busy" in error for error in job.ended().fields("container not removed", "error"))
        until(lambda: job.children() == [])


@pytest.mark.alone
def test_a_job_container_that_is_started_again_removes_what_its_former_life_left(
    runner_image: str, busybox_image: str, tmp_path: Path
) -> None:
    with job_with(runner_image, busybox_image, tmp_path) as job:
        up(job)
        former = job.children()
        assert ask("POST", f"/containers/{job.container}/restart?t=0")[0] == 204
        until(lambda: not set(former) & set(job.children()) and runs_any(job.children()))
        assert len(job.children()) == 2


def test_a_jobs_watchdog_finds_the_engine_where_the_job_has_it(
    runner_image: str, busybox_image: str, tmp_path: Path
) -> None:
    there = "/engine/its.sock"
    with job_with(
        runner_image,
        busybox_image,
        tmp_path,
        env={"DOCKER_HOST": f"unix://{there}"},
        host_config={"Binds": [f"/var/run/docker.sock:{there}"]},
    ) as job:
        up(job)
        assert [mount["Source"] for mount in watchdog_of(job)["Mounts"]] == ["/var/run/docker.sock"]


def test_a_jobs_watchdog_goes_with_its_task(runner_image: str, busybox_image: str, tmp_path: Path) -> None:
    with job_with(runner_image, busybox_image, tmp_path, "--stop-grace-seconds", "1") as job:
        up(job)
        dog = watchdog_of(job)
        job.stop()
        assert job.ended().exit_code == 75
        assert job.children() == []
        assert ask("GET", f"/containers/{dog['Id']}/json")[0] == 404


def test_a_job_container_without_a_watchdog_has_none(
    runner_image: str, busybox_image: str, tmp_path: Path
) -> None:
    with job_with(runner_image, busybox_image, tmp_path, "--no-watchdog") as job:
        up(job)
        assert len(job.children()) == 1


@pytest.mark.alone
def test_a_runner_that_is_not_root_has_a_watchdog_as_well(
    runner_image: str, busybox_image: str, tmp_path: Path
) -> None:
    """It belongs to the socket's group, and so does the watchdog."""
    (tmp_path / "host").mkdir(mode=0o777)
    (tmp_path / "host").chmod(0o777)
    group = str(Path("/var/run/docker.sock").stat().st_gid)
    with job_with(
        runner_image,
        busybox_image,
        tmp_path,
        more={"User": "4321:4321"},
        host_config={"GroupAdd": [group]},
    ) as job:
        up(job)
        assert watchdog_of(job)["Config"]["User"] == "4321:4321"
        job.kill()
        until(lambda: job.children() == [])


def test_a_watchdogs_container_can_do_nothing_but_talk_to_the_engine() -> None:
    config = watchdog_config(
        "sha256:i", ["python"], socket="/run/d.sock", network="none", labels={"a": "b", **WHO}
    )
    limits = config["HostConfig"]
    assert isinstance(limits, dict)
    assert limits["NetworkMode"] == "none"
    assert limits["ReadonlyRootfs"]
    assert limits["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in limits["SecurityOpt"]
    assert [mount["Source"] for mount in limits["Mounts"]] == ["/run/d.sock"]
    assert config["Labels"] == {"a": "b", **WHO, "taskrunner.watchdog": "r"}


def test_a_watchdog_of_an_engine_on_the_network_has_no_mount() -> None:
    config = watchdog_config("i", ["python"], socket=None, network="bridge", labels=WHO)
    limits = config["HostConfig"]
    assert isinstance(limits, dict)
    assert (limits["Mounts"], limits["NetworkMode"]) == ([], "bridge")


# --- where there was no watchdog


@pytest.mark.alone
def test_the_next_runner_removes_what_a_killed_job_container_left(
    runner_image: str, busybox_image: str, tmp_path: Path
) -> None:
    with job_with(runner_image, busybox_image, tmp_path, "--no-watchdog") as job:
        up(job)
        (left,) = job.children()
        assert "orphan container removed" not in run(hello(busybox_image), tmp_path, *OFFLINE).messages
        assert job.children() == [left]
        job.kill()
        ended = run(hello(busybox_image), tmp_path, *OFFLINE)
        assert ended.fields("orphan container removed", "runner") == [job.container]
        assert job.children() == []


def test_the_next_runner_removes_what_a_killed_process_left(busybox_image: str, tmp_path: Path) -> None:
    runner = Runner(busybox_image, tmp_path, "--no-watchdog")
    with runner.process:
        runner.up()
        runner.process.kill()
    document = tmp_path / "next.json"
    document.write_text(json.dumps(hello(busybox_image)))
    words = ["run", document, "--work-dir", tmp_path / "work", *OFFLINE]
    ended = subprocess.run(
        [*hidden(runner.name, ""), *map(str, words)],
        env=environment(),
        timeout=SECONDS,
        check=True,
        capture_output=True,
        text=True,
    )
    assert f'"container":"{runner.name}-0"' in ended.stderr
    assert runner.containers() == []
