"""`taskrunner storage`, typed as a user types it, against real servers."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.program import command, environment, typed
from tests.servers import S3Server, web_server

ODD_NAMES = [
    "a b.txt",
    "#1",
    "50%.txt",
    "50%25.txt",
    "c++",
    "who?",
    "ä/ö/日本",
    "q'uote\"s",
    "[1]*",
    "x;y&z=1",
    "deep/er/x",
]


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def make_tree(directory: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def put_objects(server: S3Server, bucket: str, *keys: str, body: bytes = b"x") -> None:
    for key in keys:
        server.client().put_object(Bucket=bucket, Key=key, Body=body)


def keys_in(server: S3Server, bucket: str) -> list[str]:
    return [entry["Key"] for entry in server.client().list_objects_v2(Bucket=bucket).get("Contents", ())]


def lines(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


# --- a tree goes and comes back


def test_a_tree_of_odd_names_comes_back_as_it_was(s3: S3Server, tmp_path: Path) -> None:
    files = {name: name.encode() for name in ODD_NAMES} | {"empty": b"", "large": os.urandom(20_000_000)}
    source = make_tree(tmp_path / "source", files)
    bucket = s3.make_bucket()

    assert typed("storage", "put", source, f"s3://{bucket}/to here/")[:2] == (0, "")
    assert typed("storage", "get", f"s3://{bucket}/to here/", tmp_path / "back")[:2] == (0, "")

    assert tree(tmp_path / "back") == files


def test_what_it_came_to_is_told_on_standard_error(s3: S3Server, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"a": b"1234", "b": b""})
    bucket = s3.make_bucket()

    _, _, put_told = typed("storage", "put", source, f"s3://{bucket}")
    _, _, get_told = typed("storage", "get", f"s3://{bucket}", tmp_path / "back")

    assert put_told.startswith("uploaded 2 files, 4 bytes, in ")
    assert get_told.startswith("downloaded 2 files, 4 bytes, in ")


def test_json_tells_each_file_and_the_totals_last(s3: S3Server, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"ä": b"1234"})
    bucket = s3.make_bucket()
    url = f"s3://{bucket}/dir/ä"

    code, put_out, put_err = typed("storage", "put", "--json", source / "ä", url)
    put_file, put_totals = lines(put_out)
    assert (code, put_err) == (0, "")
    etag = put_file.pop("etag")
    assert etag.startswith('"')
    assert put_file == {"url": url, "path": str(source / "ä"), "size_bytes": 4}
    assert put_totals["totals"].keys() == {"files", "failed", "size_bytes", "seconds", "bytes_per_second"}

    code, get_out, _ = typed("storage", "get", "--json", url, tmp_path / "back")
    get_file, get_totals = lines(get_out)
    assert get_file == {"url": url, "path": str(tmp_path / "back"), "size_bytes": 4, "etag": etag}
    counts = {key: get_totals["totals"][key] for key in ("files", "failed", "size_bytes")}
    assert (code, counts) == (0, {"files": 1, "failed": 0, "size_bytes": 4})


# --- where files go


def test_one_file_gets_the_name_it_is_given(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/a.txt")
    assert typed("storage", "get", f"s3://{bucket}/dir/a.txt", tmp_path / "new/deep/b.txt")[0] == 0
    assert tree(tmp_path) == {"new/deep/b.txt": b"x"}


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_directory_gets_files_under_their_own_names(s3: S3Server, tmp_path: Path, slash: str) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/a.txt")
    if not slash:
        (tmp_path / "there").mkdir()
    assert typed("storage", "get", f"s3://{bucket}/dir/a.txt", f"{tmp_path}/there{slash}")[0] == 0
    assert tree(tmp_path) == {"there/a.txt": b"x"}


async def test_several_sources_of_every_kind_go_to_one_directory(s3: S3Server, tmp_path: Path) -> None:
    async def serve(_request: web.Request) -> web.Response:
        return web.Response(body=b"web")

    bucket = s3.make_bucket()
    put_objects(s3, bucket, "key", "dir/below/x", "dir/y")
    local = make_tree(tmp_path / "local", {"path": b"p", "url": b"u"})
    async with web_server({"/files/from web": serve}) as base:
        urls = [
            f"s3://{bucket}/key",
            f"s3://{bucket}/dir/",
            f"{base}/files/from%20web?download=1",
            str(local / "path"),
            f"file://{local}/url",
        ]
        code, _, stderr = await asyncio.to_thread(typed, "storage", "get", *urls, tmp_path / "out")
    assert (code, stderr.split(",")[0]) == (0, "downloaded 6 files")
    assert tree(tmp_path / "out") == {
        "key": b"x",
        "below/x": b"x",
        "y": b"x",
        "from web": b"web",
        "path": b"p",
        "url": b"u",
    }


def test_a_new_file_has_the_mode_that_the_shell_gives_new_files(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "a")
    before = os.umask(0o027)
    try:
        assert typed("storage", "get", f"s3://{bucket}/a", tmp_path / "a")[0] == 0
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_an_old_file_is_replaced_even_if_nobody_may_write_to_it(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "a", body=b"new")
    (tmp_path / "a").write_bytes(b"old and longer")
    (tmp_path / "a").chmod(0o444)
    with (tmp_path / "a").open("rb") as old:
        assert typed("storage", "get", f"s3://{bucket}/a", tmp_path)[0] == 0
        assert old.read() == b"old and longer"
    assert tree(tmp_path) == {"a": b"new"}


def test_an_old_file_stays_when_the_new_one_can_not_be_had(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    (tmp_path / "a").write_bytes(b"old")
    code, _, stderr = typed("storage", "get", f"s3://{bucket}/a", tmp_path / "a")
    assert (code, f"s3://{bucket}/a does not exist" in stderr) == (66, True)
    assert tree(tmp_path) == {"a": b"old"}


def test_a_directory_or_device_is_never_replaced(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "a", "dir/a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out/a").mkdir(parents=True)

    code, _, stderr = typed("storage", "get", f"s3://{bucket}/a", tmp_path / "pipe")
    assert (code, "is left alone" in stderr) == (73, True)
    code, _, stderr = typed("storage", "get", f"s3://{bucket}/dir/", tmp_path / "out")
    assert (code, "is a directory" in stderr) == (73, True)
    code, _, stderr = typed("storage", "put", tmp_path / "pipe", f"s3://{bucket}/p")
    assert (code, "is a pipe" in stderr) == (74, True)
    make_tree(tmp_path / "src", {"f": b""})
    code, _, stderr = typed("storage", "put", tmp_path / "src/f", tmp_path / "pipe")
    assert (code, "is left alone" in stderr, (tmp_path / "pipe").is_fifo()) == (73, True, True)


def test_a_place_that_can_not_be_made_is_told_before_anything_moves(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/a")
    (tmp_path / "file").write_bytes(b"")
    code, _, stderr = typed("storage", "get", f"s3://{bucket}/dir/a", tmp_path / "file/below/a")
    assert (code, f"{tmp_path}/file/below" in stderr) == (73, True)


# --- listings never lead anywhere else


def test_a_key_with_steps_up_is_refused(moto: S3Server, tmp_path: Path) -> None:
    bucket = moto.make_bucket()
    put_objects(moto, bucket, "dir/ok", "dir/../../evil")
    code, _, stderr = typed("storage", "get", f"s3://{bucket}/dir/", tmp_path / "out/deep")
    assert (code, "`..`" in stderr, tree(tmp_path)) == (74, True, {})
    code, _, stderr = typed("storage", "get", f"s3://{bucket}/dir/..", f"{tmp_path}/out/")
    assert (code, "no name for a file" in stderr, tree(tmp_path)) == (64, True, {})


def test_a_link_in_the_target_leads_no_listed_file_out_of_it(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/link/a", "dir/b")
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to("../outside")
    code, _, stderr = typed("storage", "get", f"s3://{bucket}/dir/", tmp_path / "out")
    assert (code, "leads out of" in stderr, tree(tmp_path)) == (77, True, {})


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/a")
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to("../precious")
    assert typed("storage", "get", f"s3://{bucket}/dir/", tmp_path / "out")[0] == 0
    assert tree(tmp_path) == {"precious": b"precious", "out/a": b"x"}


# --- which files


@pytest.mark.parametrize(
    ("source", "options", "names"),
    [
        ("dir/*.bam", (), ["a.bam", "sub/b.bam", "x[1].bam"]),
        ("dir/?.bam", (), ["a.bam"]),
        ("dir/s*/b*", (), ["sub/b.bam", "sub/b.txt"]),
        ("dir/x[1].*", (), ["x[1].bam"]),
        ("*/b.txt", (), ["dir/sub/b.txt"]),
        ("dir/", ("--include", "*.txt"), ["sub/b.txt"]),
        ("dir/", ("--include", "*.bam", "--include", "*.txt", "--exclude", "sub/*"), ["a.bam", "x[1].bam"]),
        ("dir", ("--recursive", "--exclude", "*.bam"), ["sub/b.txt"]),
        ("dir/[ax]*", ("--no-wildcards", "-r", "--exclude", "*"), None),
    ],
)
def test_patterns_choose_files(
    s3: S3Server, tmp_path: Path, source: str, options: tuple[str, ...], names: list[str] | None
) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/a.bam", "dir/sub/b.bam", "dir/sub/b.txt", "dir/x[1].bam", "dira.bam")
    code, _, _ = typed("storage", "get", *options, f"s3://{bucket}/{source}", tmp_path / "out")
    found = sorted(tree(tmp_path / "out"))
    assert (code, found) == ((0, names) if names is not None else (66, []))


def test_a_key_with_a_star_can_be_had_by_its_very_name(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "a*", "ab")
    assert typed("storage", "get", "--no-wildcards", f"s3://{bucket}/a*", f"{tmp_path}/")[0] == 0
    assert tree(tmp_path) == {"a*": b"x"}


def test_nothing_below_or_nothing_that_matches_is_missing(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/a")
    for url, words in (("none/", "nothing below"), ("dir/*.bam", "nothing matches"), ("dir", "with a slash")):
        code, _, stderr = typed("storage", "get", f"s3://{bucket}/{url}", tmp_path / "out")
        assert (url, code, words in stderr) == (url, 66, True)


def test_two_sources_with_one_target_are_refused_before_anything_moves(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "one/a", "two/a", "three")
    urls = [f"s3://{bucket}/{key}" for key in ("three", "one/a", "two/a")]
    code, _, stderr = typed("storage", "get", *urls, tmp_path / "out")
    assert (code, urls[1] in stderr, urls[2] in stderr, (tmp_path / "out").exists()) == (
        64,
        True,
        True,
        False,
    )

    local = make_tree(tmp_path / "local", {"one/a": b"", "two/a": b""})
    code, _, stderr = typed("storage", "put", local / "one", local / "two", f"s3://{bucket}/to/")
    assert (code, f"{local}/one/a" in stderr, len(keys_in(s3, bucket))) == (64, True, 3)


def test_a_file_where_another_needs_a_directory_is_refused(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "one/a", "two/a/b")
    urls = [f"s3://{bucket}/one/", f"s3://{bucket}/two/"]
    code, _, stderr = typed("storage", "get", *urls, tmp_path / "out")
    assert (code, "below" in stderr, (tmp_path / "out").exists()) == (64, True, False)


def test_all_that_is_missing_is_told_at_once_and_nothing_is_moved(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "a")
    urls = [f"s3://{bucket}/{key}" for key in ("a", "no1", "no2")]
    code, stdout, stderr = typed("storage", "get", "--json", *urls, tmp_path / "out")
    assert (code, stdout, "no1" in stderr, "no2" in stderr, tree(tmp_path)) == (66, "", True, True, {})


# --- put


def test_links_are_followed_and_what_is_no_file_is_left_out_with_a_warning(
    s3: S3Server, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source", {"dir/a": b"a"})
    (source / "link").symlink_to("dir/a")
    (source / "dir/circle").symlink_to("..")
    os.mkfifo(source / "pipe")
    bucket = s3.make_bucket()

    code, _, stderr = typed("storage", "put", source, f"s3://{bucket}/")

    assert (code, keys_in(s3, bucket)) == (0, ["dir/a", "link"])
    assert f"warning: {source}/pipe is a pipe" in stderr
    assert f"warning: {source}/dir/circle is a link to a directory that it is in" in stderr


def test_a_file_that_can_not_be_put_does_not_stop_the_others(s3: S3Server, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"a": b"a", "z": b"z"})
    (source / "dangling").symlink_to("nowhere")
    os.close(os.open(os.fsencode(source) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    bucket = s3.make_bucket()

    code, stdout, stderr = typed("storage", "put", "--json", source, f"s3://{bucket}/")

    assert (code, keys_in(s3, bucket)) == (66, ["a", "z"])
    assert f"Error: {source}/dangling is a link to nothing\n" in stderr
    assert "its name is not UTF-8" in stderr
    assert lines(stdout)[-1]["totals"]["failed"] == 2


def test_include_and_exclude_choose_what_is_put(s3: S3Server, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"a.bam": b"", "a.bai": b"", "tmp/b.bam": b""})
    bucket = s3.make_bucket()
    options = ("--include", "*.bam", "--exclude", "tmp/*")
    assert typed("storage", "put", *options, source, f"s3://{bucket}/x/")[0] == 0
    assert keys_in(s3, bucket) == ["x/a.bam"]


def test_one_file_is_put_under_its_own_name_or_the_one_it_is_given(s3: S3Server, tmp_path: Path) -> None:
    source = make_tree(tmp_path, {"a": b"a"}) / "a"
    bucket = s3.make_bucket()
    for url in (f"s3://{bucket}", f"s3://{bucket}/dir/", f"s3://{bucket}/named"):
        assert typed("storage", "put", source, url)[0] == 0
    assert keys_in(s3, bucket) == ["a", "dir/a", "named"]


def test_files_are_put_to_local_places_too(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", {"a": b"a", "b/c": b"c"})
    assert typed("storage", "put", source, f"file://{tmp_path}/one")[0] == 0
    assert typed("storage", "get", source, tmp_path / "two")[0] == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(source)


# --- list and stat


def test_list_tells_size_time_and_url_of_each_file(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/a b", "dir/c\td", "dir/ä", "other", body=b"12345")
    listed = s3.client().list_objects_v2(Bucket=bucket, Prefix="dir/")["Contents"]
    code, stdout, stderr = typed("storage", "list", f"s3://{bucket}/dir")
    assert (code, stderr) == (0, "")
    assert stdout.splitlines() == [
        f"5\t{entry['LastModified']:%Y-%m-%dT%H:%M:%SZ}\ts3://{bucket}/{entry['Key']}".replace(
            "c\td", "c\\td"
        )
        for entry in listed
    ]


def test_list_tells_json_too_and_takes_patterns(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "dir/a\tb", "dir/c")
    code, stdout, _ = typed("storage", "list", "--json", f"s3://{bucket}/dir/a*")
    (found,) = lines(stdout)
    assert (code, list(found)) == (0, ["url", "size_bytes", "modified", "etag"])
    assert (found["url"], found["size_bytes"]) == (f"s3://{bucket}/dir/a\tb", 1)


def test_list_of_nothing_prints_nothing(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    assert typed("storage", "list", f"s3://{bucket}") == (0, "", "")


def test_list_goes_on_over_many_pages(moto: S3Server) -> None:
    bucket = moto.make_bucket()
    put_objects(moto, bucket, *(f"k{number:04}" for number in range(1100)))
    code, stdout, _ = typed("storage", "list", f"s3://{bucket}/")
    assert (code, len(set(stdout.splitlines()))) == (0, 1100)


def test_list_tells_a_local_directory(tmp_path: Path) -> None:
    make_tree(tmp_path, {"a": b"12", "b/c": b""})
    code, stdout, _ = typed("storage", "list", tmp_path)
    told = [(line.split("\t")[0], line.split("\t")[2]) for line in stdout.splitlines()]
    assert (code, told) == (0, [("2", f"{tmp_path}/a"), ("0", f"{tmp_path}/b/c")])


def test_a_reader_who_has_seen_enough_ends_a_list_quietly(tmp_path: Path) -> None:
    make_tree(tmp_path, {f"{number:04}": b"" for number in range(3000)})
    with subprocess.Popen(
        command("storage", "list", tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 74)


def test_stat_tells_what_s3_knows(moto: S3Server) -> None:
    bucket = moto.make_bucket()
    moto.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = moto.client().put_object(Bucket=bucket, Key="a?", Body=b"x", ChecksumAlgorithm="SHA256")[
        "VersionId"
    ]
    url = f"s3://{bucket}/a??versionId={version}"
    code, stdout, _ = typed("storage", "stat", url)
    (told,) = lines(stdout)
    assert told.pop("modified").endswith("Z")
    assert (code, told) == (
        0,
        {
            "url": url,
            "size_bytes": 1,
            "etag": '"9dd4e461268c8034f5c8564e155c67a6"',
            "version": version,
            "ranged": True,
            "checksum": {"algorithm": "SHA256", "value": "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE="},
        },
    )


async def test_stat_tells_what_the_web_tells_and_no_secret() -> None:
    async def serve(_request: web.Request) -> web.Response:
        return web.Response(body=b"web", headers={"ETag": '"e"'})

    async with web_server({"/a": serve}) as base:
        code, stdout, _ = await asyncio.to_thread(typed, "storage", "stat", f"{base}/a?token=hidden")
    (told,) = lines(stdout)
    assert (code, told) == (
        0,
        {
            "url": f"{base}/a?token=***",
            "size_bytes": 3,
            "modified": None,
            "etag": '"e"',
            "version": None,
            "ranged": False,
            "checksum": None,
        },
    )


# --- what can't be done


def test_a_missing_bucket_is_a_missing_input_and_a_failed_output(s3: S3Server, tmp_path: Path) -> None:
    url = "s3://no-such-bucket-here/x"
    source = make_tree(tmp_path, {"a": b""}) / "a"
    assert typed("storage", "get", url, tmp_path / "x")[0] == 66
    assert typed("storage", "list", url)[0] == 66
    assert typed("storage", "stat", url)[0] == 66
    assert typed("storage", "put", source, url)[0] == 73


def test_wrong_keys_are_denied(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "a")
    source = make_tree(tmp_path, {"a": b""}) / "a"
    wrong = {"AWS_SECRET_ACCESS_KEY": "wrong"}
    for arguments in (
        ("get", f"s3://{bucket}/a", tmp_path / "x"),
        ("list", f"s3://{bucket}"),
        ("stat", f"s3://{bucket}/a"),
        ("put", source, f"s3://{bucket}/b"),
    ):
        code, _, stderr = typed("storage", *arguments, env=wrong)
        assert (arguments[0], code, f"s3://{bucket}" in stderr) == (arguments[0], 77, True)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["get", "s3://b/a"], 64, "DEST"),
        (["get", "s3://b/a", "s3://c/"], 64, "storage put"),
        (["get", "s3://b/a", "-"], 64, "./-"),
        (["get", "gs://b/a", "x"], 64, "gs://b/a"),
        (["get", "s3:///a", "x"], 64, "s3://BUCKET/KEY"),
        (["get", "/no/such/file", "x"], 66, "/no/such/file does not exist"),
        (["get", "/no/such/dir/", "x"], 66, "/no/such/dir/"),
        (["put", "/no/such/file", "s3://b/a"], 66, "/no/such/file does not exist"),
        (["put", "s3://b/a", "s3://c/a"], 64, "of this machine"),
        (["put", "/etc/hostname", "https://example.org/a"], 64, "s3://BUCKET/KEY"),
        (["get", "--bandwidth", "fast", "s3://b/a", "x"], 64, "10MB/s"),
        (["get", "--bandwidth", "0", "s3://b/a", "x"], 64, "10MB/s"),
        (["get", "--bandwidth", "-1MB", "s3://b/a", "x"], 64, "10MB/s"),
        (["get", "--bandwidth", "10M", "s3://b/a", "x"], 64, "MiB"),
        (["get", "--memory", "1GB/s", "s3://b/a", "x"], 64, "1.5GiB"),
        (["get", "--memory", "0.1B", "s3://b/a", "x"], 64, "1.5GiB"),
        (["get", "--max-connections", "0", "s3://b/a", "x"], 64, "max-connections"),
        (["stat", "https://"], 74, "https://"),
        (["list", "https://example.org/dir/"], 74, "s3://"),
    ],
)
def test_what_is_typed_wrong_ends_with_a_sentence_and_its_code(
    arguments: list[str], exit_code: int, words: str, tmp_path: Path, s3: S3Server
) -> None:
    ended, stdout, stderr = typed("storage", *arguments)
    assert (ended, stdout, words in stderr, "Traceback" in stderr) == (exit_code, "", True, False)


def test_more_than_the_disk_holds_is_found_out_before_the_first_byte(tmp_path: Path) -> None:
    with (tmp_path / "vast").open("wb") as file:
        file.truncate(2**42)
    for verb in ("get", "put"):
        code, _, stderr = typed("storage", verb, tmp_path / "vast", tmp_path / "out/copy")
        assert (verb, code, "4,398,046,511,104 bytes" in stderr) == (verb, 74, True)
    assert [path.name for path in tmp_path.iterdir()] == ["vast"]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1000", 1000), ("10MB", 10_000_000), ("1.5GiB", 1_610_612_736), ("2kb/s", 2000), ("1 TiB/s", 2**40)],
)
def test_sizes_are_read_in_both_kinds_of_units(text: str, size_bytes: int) -> None:
    from taskrunner.cli.options import TRANSFER, settings_from

    (bandwidth,) = [option for option in TRANSFER if option.name == "bandwidth"]
    values = {option.name: option.default for option in TRANSFER}
    settings = settings_from([bandwidth], {**values, "bandwidth": bandwidth.type.convert(text, None, None)})
    assert settings.transfer.bandwidth_bytes_per_second == size_bytes


# --- stopped midway


def stopped(
    arguments: tuple[object, ...], under_way: Callable[[], bool], number: signal.Signals
) -> tuple[int, str]:
    """Start a command, send it a signal once it is under way; exit code and standard error."""
    with subprocess.Popen(
        command("storage", *map(str, arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        while not under_way():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_get_that_is_stopped_leaves_no_partial_file(
    s3: S3Server, tmp_path: Path, number: signal.Signals
) -> None:
    bucket = s3.make_bucket()
    put_objects(s3, bucket, "big", body=bytes(20_000_000))
    (tmp_path / "out").mkdir()

    def under_way() -> bool:
        return any(path.name.startswith(".big.") for path in (tmp_path / "out").iterdir())

    arguments = ("get", "--bandwidth", "1MB/s", f"s3://{bucket}/big", tmp_path / "out")
    code, stderr = stopped(arguments, under_way, number)
    assert (code, number.name in stderr, list((tmp_path / "out").iterdir())) == (75, True, [])


def test_a_slow_reader_gets_every_line_of_json(tmp_path: Path) -> None:
    make_tree(tmp_path / "source", {f"{number:04}{'x' * 100}": b"" for number in range(1000)})
    with subprocess.Popen(
        command("storage", "put", "--json", tmp_path / "source", tmp_path / "out"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        while len(list((tmp_path / "out").glob("[0-9]*"))) < 1000:
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(subprocess.TimeoutExpired):  # as long as nobody reads
            process.wait(7)
        told = lines(process.stdout.read())
        assert (process.wait(60), len(told), told[-1]["totals"]["files"]) == (0, 1001, 1000)


def test_a_put_that_is_stopped_leaves_no_open_upload(moto: S3Server, tmp_path: Path) -> None:
    bucket = moto.make_bucket()
    (tmp_path / "big").write_bytes(bytes(20_000_000))

    def open_uploads() -> bool:
        return bool(moto.client().list_multipart_uploads(Bucket=bucket).get("Uploads"))

    arguments = ("put", "--bandwidth", "1MB/s", tmp_path / "big", f"s3://{bucket}/big")
    code, stderr = stopped(arguments, open_uploads, signal.SIGTERM)
    assert (code, "SIGTERM" in stderr, open_uploads(), keys_in(moto, bucket)) == (75, True, False, [])
