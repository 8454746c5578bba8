"""What executors may use and who they are, by the real program: the operator's options, the task's wishes, the job."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine import ask
from tests.job import started
from tests.metadata_server import metadata_server
from tests.program import Ended, run, typed

GIB = 2**30

_MEMORY = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"


def shell(image: str, script: str, **resources: Any) -> dict[str, Any]:
    """A task of one executor."""
    return {"executors": [{"image": image, "command": ["sh", "-c", script]}], "resources": resources}


def printed(ended: Ended) -> str:
    assert (ended.exit_code, ended.text) == (0, "")
    return str(ended.fields("EXECUTOR_STDOUT", "stdout")[-1])


def limited(ended: Ended) -> list[tuple[Any, ...]]:
    """What was told of too little: resource, asked, given."""
    return [
        (event["resource"], float(event["asked"]), float(event["given"]))
        for event in ended.events
        if event["msg"] == "resource limited"
    ]


def test_a_job_that_has_less_than_its_task_asks_for_gives_what_it_has_and_says_so_once(
    tmp_path: Path, busybox_image: str
) -> None:
    task = shell(busybox_image, _MEMORY, ram_gb=16, cpu_cores=8)
    task["executors"] *= 2
    with metadata_server() as metadata:
        metadata.container["Limits"] = {"CPU": 512, "Memory": 256}
        ended = run(task, tmp_path, env=metadata.environment())

    assert printed(ended) == f"{GIB // 4}\n"
    assert limited(ended) == [("memory_bytes", 16 * GIB, GIB / 4), ("cpus", 8, 0.5)]


def test_a_job_in_a_container_gives_its_own_limit_to_a_task_that_asks_for_nothing(
    tmp_path: Path, busybox_image: str, runner_image: str
) -> None:
    task = shell(busybox_image, _MEMORY)
    with started(runner_image, task, tmp_path, host_config={"Memory": GIB, "MemorySwap": GIB}) as job:
        ended = job.ended()

    assert (printed(ended), limited(ended)) == (f"{GIB}\n", [])


def test_a_task_may_ask_for_more_cpus_than_the_machine_has(tmp_path: Path, busybox_image: str) -> None:
    host_cpus = json.loads(ask("GET", "/info")[1])["NCPU"]
    ended = run(shell(busybox_image, "echo well", cpu_cores=10_000), tmp_path)

    assert (printed(ended), limited(ended)) == ("well\n", [("cpus", 10_000, host_cpus)])


def test_a_parameter_counts_where_the_operator_allows_it_and_another_is_told_and_ignored(
    tmp_path: Path, busybox_image: str
) -> None:
    parameters = {"Network": "none", "user": "1234", "VmSize": "large"}
    task = shell(busybox_image, "ls /sys/class/net; id -u", backend_parameters=parameters)
    allowed = run(task, tmp_path, "--allow-parameter", "NETWORK", env={"TASKRUNNER_ALLOW_PARAMETER": "user"})
    both = run(task, tmp_path, env={"TASKRUNNER_ALLOW_PARAMETER": "user,network"})

    assert "eth0" not in printed(allowed)
    assert printed(allowed).endswith("\n0\n")
    assert allowed.fields("unsupported backend parameter", "parameter") == ["user", "VmSize"]
    assert printed(both).endswith("\n1234\n")
    assert both.fields("unsupported backend parameter", "parameter") == ["VmSize"]


def test_a_strict_parameter_that_cannot_be_met_is_a_mistake_of_the_document(
    tmp_path: Path, busybox_image: str
) -> None:
    task = shell(
        busybox_image, "true", backend_parameters={"network": "none"}, backend_parameters_strict=True
    )
    refused = run(task, tmp_path)

    assert (refused.exit_code, refused.events) == (65, ())
    assert "resources.backend_parameters.network" in refused.text
    assert "--allow-parameter network" in refused.text
    assert run(task, tmp_path, "--allow-parameter", "network").exit_code == 0


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_look_at_a_task_judges_its_parameters_as_a_run_does(command: str) -> None:
    task = json.dumps(
        shell("busybox", "true", backend_parameters={"shm_size": "much"}, backend_parameters_strict=True)
    )
    exit_code, _, stderr = typed(command, "-", "--allow-parameter", "shm_size", stdin=task)

    assert (exit_code, "expected a number of bytes, as 500MB, 1.5GiB or 8000000" in stderr) == (65, True)
    assert typed(command, "-", stdin=task.replace("much", "1MB"))[0] == 65
    assert typed(command, "-", "--allow-parameter", "shm_size", stdin=task.replace("much", "1MB"))[0] == 0


def test_credentials_are_passed_on_only_where_the_operator_wants_it_and_are_never_told(
    tmp_path: Path, busybox_image: str
) -> None:
    uri = "/v2/credentials/5f0c-secret"
    variables = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": uri, "AWS_SECRET_ACCESS_KEY": "secret"}
    task = shell(busybox_image, "env | grep ^AWS_ | sort > /out/env")
    task["outputs"] = [{"url": f"{tmp_path}/env", "path": "/out/env"}]

    def passed_on(*options: str) -> str:
        ended = run(task, tmp_path, "--allow-dir", tmp_path, *options, env=variables)
        assert (ended.exit_code, uri in str(ended.events) + ended.text + ended.stdout) == (0, False)
        return (tmp_path / "env").read_text()

    assert passed_on() == ""
    assert passed_on("--pass-credentials") == f"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI={uri}\n"


def test_gpus_of_the_job_that_the_engine_cannot_give_end_the_task_with_69(
    tmp_path: Path, busybox_image: str
) -> None:
    task = shell(busybox_image, "true")
    ended = run(task, tmp_path, env={"NVIDIA_VISIBLE_DEVICES": "GPU-5f0c"})

    assert (ended.exit_code, ended.states[-1]) == (69, "SYSTEM_ERROR")
    (error,) = ended.fields("System error", "error")
    assert "GPU-5f0c" in error
    assert "NVIDIA container toolkit" in error
