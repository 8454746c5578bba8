"""What a task must be like to be run: one table of documents, each with the one mistake in it."""

from typing import Any

import pytest

from tests.task.documents import EXECUTOR, load, mistakes

INPUT = {"url": "s3://b/k", "path": "/in"}
OUTPUT = {"url": "s3://b/k", "path": "/out/x"}


def _input(**fields: object) -> dict[str, Any]:
    return {"inputs": [INPUT | fields]}


def _output(**fields: object) -> dict[str, Any]:
    return {"outputs": [OUTPUT | fields]}


def _executor(**fields: object) -> dict[str, Any]:
    return {"executors": [EXECUTOR | fields]}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"executors": []}, "executors: expected at least one executor, got none"),
        (_executor(image=""), "executors[0].image: expected the name of an image, got nothing"),
        (
            _executor(image="a b"),
            (
                "executors[0].image: expected an image as [HOST[:PORT]/]NAME[:TAG][@DIGEST], NAME in lower case,"
                ' got "a b"'
            ),
        ),
        (
            _executor(image="Ubuntu:Latest"),
            (
                "executors[0].image: expected an image as [HOST[:PORT]/]NAME[:TAG][@DIGEST], NAME in lower case,"
                ' got "Ubuntu:Latest"'
            ),
        ),
        (_executor(command=[]), "executors[0].command: expected a program and its arguments, got nothing"),
        (_executor(command=["a", "b\0"]), "executors[0].command[1]: expected text without NUL characters"),
        (_executor(workdir="w"), 'executors[0].workdir: expected an absolute path, got "w"'),
        (_executor(stdin="/a/../b"), 'executors[0].stdin: expected a path without `..`, got "/a/../b"'),
        (
            _executor(stdout="/"),
            'executors[0].stdout: expected a path below /, which itself can\'t be mounted, got "/"',
        ),
        (
            _executor(stderr="/a\0"),
            'executors[0].stderr: expected a path without NUL characters, got "/a\\u0000"',
        ),
        (
            _executor(env={"A=B": "x"}),
            'executors[0].env["A=B"]: expected a variable\'s name, neither empty nor with `=` or NUL in it',
        ),
        (
            _executor(env={"": "x"}),
            'executors[0].env[""]: expected a variable\'s name, neither empty nor with `=` or NUL in it',
        ),
        (_executor(env={"A": "x\0"}), "executors[0].env.A: expected a value without NUL characters"),
        ({"tags": {"": "x"}}, 'tags[""]: expected a tag\'s name, got an empty one'),
        ({"volumes": ["vol"]}, 'volumes[0]: expected an absolute path, got "vol"'),
        ({"volumes": [""]}, "volumes[0]: expected an absolute path, got nothing"),
        (
            {"volumes": ["/./"]},
            'volumes[0]: expected a path below /, which itself can\'t be mounted, got "/./"',
        ),
        (
            {"volumes": [f"/a/{'é' * 128}/b"]},
            "volumes[0]: expected a path whose names have at most 255 bytes, got",
        ),
        (
            _input(path=f"/{'x' * 256}"),
            "inputs[0].path: expected a path whose names have at most 255 bytes, got",
        ),
        (
            _output(path=f"/{'x' * 256}/out"),
            "outputs[0].path: expected a path whose names have at most 255 bytes, got",
        ),
        (
            _executor(stdout=f"/{'x' * 256}"),
            "executors[0].stdout: expected a path whose names have at most 255 bytes, got",
        ),
        (
            {"resources": {"backend_parameters": {"VmSize": "x"}, "backend_parameters_strict": True}},
            (
                "resources.backend_parameters.VmSize: expected only parameters that this runner knows, since "
                "backend_parameters_strict is true: it knows executor_timeout, init, network, pids_limit, "
                "shm_size, ulimits, user"
            ),
        ),
        ({"resources": {"cpu_cores": -1}}, "resources.cpu_cores: expected 0 or more, got -1"),
        ({"resources": {"diskGb": "-0.5"}}, "resources.diskGb: expected 0 or more, got -0.5"),
        (_input(path="in"), 'inputs[0].path: expected an absolute path, got "in"'),
        (_input(path="/a/.."), 'inputs[0].path: expected a path without `..`, got "/a/.."'),
        (_input(url=""), "inputs[0].url: expected a URL, or `content` in its place, got neither"),
        (
            _input(type="DIRECTORY", content="x"),
            "inputs[0].content: expected no content, since the input is a DIRECTORY",
        ),
        (
            {"inputs": [{"path": "/in", "content": "", "type": "DIRECTORY"}]},
            "inputs[0].content: expected no content, since the input is a DIRECTORY",
        ),
        (
            _input(url="gs://b/k"),
            (
                "inputs[0].url: expected an s3://, http://, https:// or file:// URL or an absolute path,"
                ' got "gs://b/k"'
            ),
        ),
        (
            _input(url="memory://b/k"),
            (
                "inputs[0].url: expected an s3://, http://, https:// or file:// URL or an absolute path,"
                ' got "memory://b/k"'
            ),
        ),
        (
            _input(url="relative"),
            (
                "inputs[0].url: expected an s3://, http://, https:// or file:// URL or an absolute path,"
                ' got "relative"'
            ),
        ),
        (_input(url="s3:///k"), 'inputs[0].url: expected s3://BUCKET/KEY, got "s3:///k"'),
        (
            _input(url="s3://b/"),
            'inputs[0].url: expected s3://BUCKET/KEY, since the input is a FILE, got "s3://b/"',
        ),
        (
            _input(url="s3://b/?versionId=1"),
            'inputs[0].url: expected s3://BUCKET/KEY, since the input is a FILE, got "s3://b/?versionId=1"',
        ),
        (
            _input(url="file://host/x"),
            'inputs[0].url: expected file:///ABSOLUTE/PATH, got "file://host/x"',
        ),
        (
            _input(url="http:///x"),
            'inputs[0].url: expected a web address with a host, a port above 0 and no spaces, got "http:///x"',
        ),
        (
            _input(url="http://[x/"),
            'inputs[0].url: expected a web address with a host, a port above 0 and no spaces, got "http://[x/"',
        ),
        (
            _input(url="http://h:99999/"),
            'inputs[0].url: expected a web address with a host, a port above 0 and no spaces, got "http://h:99999/"',
        ),
        (
            _input(url="http://a..b/x"),
            'inputs[0].url: expected a host name, its labels of 1 to 63 characters, got "a..b"',
        ),
        (
            _input(url=f"https://{'a' * 64}.org/x"),
            f'inputs[0].url: expected a host name, its labels of 1 to 63 characters, got "{"a" * 64}.org"',
        ),
        (
            _input(url=f"https://{'ü' * 60}.org/x"),
            'inputs[0].url: expected a host name, its labels of 1 to 63 characters, got "ü',
        ),
        (
            _input(url=f"https://{'a.' * 127}b/x"),
            "inputs[0].url: expected a host name of at most 253 characters, got",
        ),
        (
            _input(url="http://h/d/", type="DIRECTORY"),
            (
                "inputs[0].url: expected an s3:// or file:// URL, since a web address can't be listed,"
                ' got "http://h/d/"'
            ),
        ),
        (_output(url=""), "outputs[0].url: expected the URL to upload to, got nothing"),
        (_output(path=""), "outputs[0].path: expected an absolute path, got nothing"),
        (
            _output(url="https://h/x"),
            'outputs[0].url: expected an s3:// or file:// URL, since http can only be read, got "https://h/x"',
        ),
        (
            _output(url="ftp://h/x"),
            'outputs[0].url: expected an s3:// or file:// URL or an absolute path, got "ftp://h/x"',
        ),
        (
            _output(url="s3://b/dir/"),
            (
                "outputs[0].url: expected s3://BUCKET/KEY not ending in /, since the output is a FILE,"
                ' got "s3://b/dir/"'
            ),
        ),
        (
            _output(url="s3://b"),
            'outputs[0].url: expected s3://BUCKET/KEY not ending in /, since the output is a FILE, got "s3://b"',
        ),
        (
            _output(path="/", type="DIRECTORY"),
            "outputs[0].path: expected a path below /, which itself can't be",
        ),
        (_output(path="/o/*.txt"), "outputs[0].path_prefix: expected a directory, since"),
        (_output(path="/o/a[1]"), "outputs[0].path_prefix: expected a directory, since"),
        (
            _output(path="/o/*", path_prefix="o"),
            'outputs[0].path_prefix: expected an absolute path, got "o"',
        ),
        (
            _output(path="/out/*", path_prefix="/ou"),
            'outputs[0].path_prefix: expected a directory without wildcards that "/out/*" is in, got "/ou"',
        ),
        (
            _output(path="/o/*/x", path_prefix="/o/*"),
            'outputs[0].path_prefix: expected a directory without wildcards that "/o/*/x" is in, got "/o/*"',
        ),
        (
            _output(path="/*.txt", path_prefix="/"),
            (
                "outputs[0].path: expected a pattern below a directory that can be mounted, since / can't be,"
                ' got "/*.txt"'
            ),
        ),
    ],
)
def test_a_broken_rule_is_one_mistake_at_its_place(document: dict[str, Any], expected: str) -> None:
    (told,) = mistakes(**document)
    assert told.startswith(expected)


@pytest.mark.parametrize(
    "document",
    [
        _executor(workdir="/"),
        _executor(stdin="", stdout="", workdir=""),
        _executor(command=["x" * 100_000]),
        _input(content="text", url=""),
        _input(content="text", url="carrier-pigeon://ignored"),
        {"inputs": [{"path": "/empty", "content": ""}]},
        _input(content="", url="s3://b/k"),
        _input(url="/a/bare/path"),
        _input(url="file:///x"),
        _input(url="HTTPS://h/x?y=1"),
        _input(url="http://bücher.example:8080/x"),
        _input(url="http://[::1]:8080/x"),
        _input(url="http://under_score.example./x"),
        _input(path=f"/{'x' * 255}/{'é' * 127}"),
        {"resources": {"backend_parameters": {}, "backend_parameters_strict": True}},
        _input(url="s3://b/a key with ?, # and %"),
        _input(url="s3://b", type="DIRECTORY"),
        _input(path="/with:colon"),
        _output(path="/x"),
        _output(path="/out/{a,b}"),
        _output(path="/out", type="DIRECTORY", url="s3://b/dir/"),
        _output(path="/out/dir/", type="DIRECTORY", url="s3://b"),
        _output(path="/o/*.txt", path_prefix="/o/", url="s3://b/"),
        _output(path="/o/*.txt", path_prefix="/", url="s3://b"),
        _output(path="/o/*/x[0-9]", path_prefix="/o", type="DIRECTORY"),
        _output(path="/o/plain", path_prefix="anything: it is ignored"),
        {"outputs": [OUTPUT, OUTPUT | {"url": "s3://b/other"}]},
        {"outputs": [OUTPUT, OUTPUT]},
        {"inputs": [INPUT | {"path": "/w/x"}], "outputs": [OUTPUT | {"path": "/w/x"}]},
        {"inputs": [INPUT], "outputs": [OUTPUT | {"path": "/in"}]},
        {"inputs": [INPUT | {"path": "/a"}, INPUT | {"path": "/ab/c"}]},
        {"inputs": [INPUT | {"path": "/d", "type": "DIRECTORY"}, INPUT | {"path": "/d/x"}]},
        {"id": "a"},
        {"id": "x" * 128},
        {"id": "Task_1.a-b"},
    ],
)
def test_what_tes_allows_is_allowed(document: dict[str, Any]) -> None:
    assert load(**document).task.executors


@pytest.mark.parametrize("task_id", [".", "..", ".hidden", "-x", "a/b", "a b", "x" * 129, "ü", "a\n"])
def test_an_id_must_do_as_a_directory_and_a_container_name(task_id: str) -> None:
    (told,) = mistakes(id=task_id)
    assert told.startswith("id: expected up to 128 letters, digits, ")


def test_two_inputs_can_not_be_at_one_path() -> None:
    assert mistakes(inputs=[INPUT, INPUT | {"path": "//in/./"}]) == [
        'inputs[1].path: expected a path of its own, got "//in/./", as inputs[0] has'
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"inputs": [INPUT, INPUT | {"path": "/in/below"}]},
        {"inputs": [INPUT], "volumes": ["/in/"]},
        {"inputs": [INPUT], "outputs": [OUTPUT | {"path": "/in/deep/out"}]},
        {"inputs": [INPUT], "executors": [EXECUTOR | {"stdout": "/in/log"}]},
        {"inputs": [INPUT | {"path": "/tmp"}]},
    ],
)
def test_a_file_can_not_be_where_a_directory_must_be(other: dict[str, Any]) -> None:
    (told,) = mistakes(**other)
    assert told.startswith("inputs[0].path: expected a path for a file, got ")


@pytest.mark.parametrize(
    ("executors", "place"),
    [
        ([EXECUTOR | {"stdin": "/tmp"}], "executors[0].stdin"),
        ([EXECUTOR | {"stdout": "/log/a"}, EXECUTOR | {"stderr": "/log/a/b"}], "executors[0].stdout"),
    ],
)
def test_a_stream_can_not_be_where_a_directory_must_be(executors: list[Any], place: str) -> None:
    (told,) = mistakes(executors=executors)
    assert told.startswith(f"{place}: expected a path for a file, got ")


def test_two_files_can_not_go_to_one_url() -> None:
    assert mistakes(outputs=[OUTPUT, OUTPUT | {"path": "/out/y"}]) == [
        'outputs[1].url: expected a URL of its own, got "s3://b/k": outputs[0] goes there already'
    ]


def test_a_rule_about_several_items_passes_over_those_that_are_wrong_themselves() -> None:
    assert mistakes(inputs=[{"url": "s3://b/k"}, {"url": "s3://b/k"}]) == [
        "inputs[0].path: expected an absolute path, got nothing",
        "inputs[1].path: expected an absolute path, got nothing",
    ]


def test_what_could_not_be_read_is_told_once() -> None:
    assert mistakes(inputs=[{"path": "/in", "content": {}}], executors=[{"image": 1, "command": [1]}]) == [
        "executors[0].image: expected a string, got 1",
        "executors[0].command[0]: expected a string, got 1",
        "inputs[0].content: expected a string, got an object",
    ]


def test_secrets_in_urls_are_not_told_and_long_values_are_shortened() -> None:
    url = "gs://user:hunter2@host/" + "x" * 1000
    (told,) = mistakes(inputs=[{"url": url, "path": "/in"}])
    assert "hunter2" not in told
    assert len(told) < 250


def test_backend_parameters_nobody_heeds_are_noted_and_not_kept() -> None:
    loaded = load(resources={"backendParameters": {"VmSize": "a", "vmsize": "b"}, "cpu_cores": 1})

    assert loaded.unsupported_parameters == ("VmSize", "vmsize")
    assert loaded.task.resources is not None
    assert (loaded.task.resources.backend_parameters, loaded.task.resources.cpu_cores) == ({}, 1)
