"""What a task's outputs are is found by rules, whatever an executor left on disk."""

import os
import threading
from pathlib import Path

import pytest

from taskrunner.plan import Upload
from taskrunner.staging.outputs import FoundOutputs, WalkStoppedError, find_outputs
from taskrunner.task import FileType
from taskrunner.workdir import WorkDir


@pytest.fixture
def workdir(tmp_path: Path) -> WorkDir:
    (tmp_path / "T/res").mkdir(parents=True)
    (tmp_path / ".T").mkdir()
    return WorkDir(tmp_path / "T", tmp_path / ".T")


def rule(
    workdir: WorkDir,
    path: str,
    *,
    url: str = "s3://b/out",
    kind: FileType = FileType.FILE,
    prefix: str | None = None,
    placeholder: bool = False,
) -> Upload:
    return Upload(url, path, workdir.place(path), kind, prefix, placeholder)


def make(workdir: WorkDir, *paths: str) -> None:
    for path in paths:
        place = workdir.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path)


def urls(found: FoundOutputs) -> list[str]:
    return [file.url for file in found.files]


def test_a_file_is_found_with_its_size(workdir: WorkDir) -> None:
    make(workdir, "/res/a")
    [file] = find_outputs((rule(workdir, "/res/a"),), workdir).files
    assert (file.url, file.path, file.size_bytes) == ("s3://b/out", "/res/a", 6)


def test_a_directory_is_told_file_by_file_in_byte_order(workdir: WorkDir) -> None:
    make(workdir, "/res/b", "/res/a/z", "/res/a/é", "/res/B")
    found = find_outputs((rule(workdir, "/res", kind=FileType.DIRECTORY, url="s3://b/d/"),), workdir)
    assert urls(found) == ["s3://b/d/B", "s3://b/d/a/z", "s3://b/d/a/é", "s3://b/d/b"]


def test_a_file_output_that_turns_out_to_be_a_directory_is_uploaded_whole(workdir: WorkDir) -> None:
    make(workdir, "/res/d/x", "/res/d/y/z")
    found = find_outputs((rule(workdir, "/res/d"),), workdir)
    assert urls(found) == ["s3://b/out/x", "s3://b/out/y/z"]


def test_a_directory_output_that_turns_out_to_be_a_file_is_not_lost(workdir: WorkDir) -> None:
    make(workdir, "/res/f")
    found = find_outputs((rule(workdir, "/res/f", kind=FileType.DIRECTORY, url="s3://b/f/"),), workdir)
    assert urls(found) == ["s3://b/f"]


def test_what_is_not_there_is_missing(workdir: WorkDir) -> None:
    missing = rule(workdir, "/res/none")
    assert find_outputs((missing,), workdir).missing == [missing]


def test_an_empty_directory_is_told_as_empty(workdir: WorkDir) -> None:
    empty = rule(workdir, "/res", kind=FileType.DIRECTORY)
    found = find_outputs((empty,), workdir)
    assert (found.empty, found.files, found.missing) == ([empty], [], [])


def test_matches_of_a_pattern_keep_their_path_below_the_prefix(workdir: WorkDir) -> None:
    make(workdir, "/res/a.txt", "/res/b.txt", "/res/c.bam", "/res/.hidden.txt", "/res/sub/d.txt")
    found = find_outputs((rule(workdir, "/res/*.txt", prefix="/res", url="s3://b/p/"),), workdir)
    assert urls(found) == ["s3://b/p/a.txt", "s3://b/p/b.txt"]


def test_a_pattern_may_have_wildcards_in_several_components(workdir: WorkDir) -> None:
    make(workdir, "/res/s1/out/x.txt", "/res/s2/out/y.txt", "/res/s3/other/z.txt", "/res/t1/out/w.txt")
    found = find_outputs((rule(workdir, "/res/s?/out/*", prefix="/res/", url="s3://b"),), workdir)
    assert urls(found) == ["s3://b/s1/out/x.txt", "s3://b/s2/out/y.txt"]


def test_a_match_that_is_a_directory_is_uploaded_whole(workdir: WorkDir) -> None:
    make(workdir, "/res/run_1/x", "/res/run_1/y/z")
    found = find_outputs((rule(workdir, "/res/run_*", prefix="/res"),), workdir)
    assert urls(found) == ["s3://b/out/run_1/x", "s3://b/out/run_1/y/z"]


def test_a_pattern_without_a_match_is_no_missing_output(workdir: WorkDir) -> None:
    pattern = rule(workdir, "/res/*.txt", prefix="/res")
    found = find_outputs((pattern,), workdir)
    assert (found.unmatched, found.missing) == ([pattern], [])


def test_links_inside_the_task_are_followed_by_the_containers_meaning(workdir: WorkDir) -> None:
    make(workdir, "/data/big", "/res/real/x")
    (workdir.root / "res/link").symlink_to("/data/big")
    (workdir.root / "res/dir").symlink_to("real")
    found = find_outputs((rule(workdir, "/res", kind=FileType.DIRECTORY),), workdir)
    assert urls(found) == ["s3://b/out/dir/x", "s3://b/out/link", "s3://b/out/real/x"]
    assert all(not file.source.is_symlink() for file in found.files)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "/absent"])
def test_a_link_out_of_the_task_is_refused_and_the_rest_is_found(workdir: WorkDir, target: str) -> None:
    make(workdir, "/res/good")
    (workdir.root / "res/bad").symlink_to(target)
    found = find_outputs((rule(workdir, "/res", kind=FileType.DIRECTORY),), workdir)
    assert urls(found) == ["s3://b/out/good"]
    [(url, error)] = found.refused
    assert (url, "link" in str(error), "/res/bad" in str(error)) == ("s3://b/out/bad", True, True)


def test_a_circle_of_links_ends(workdir: WorkDir) -> None:
    make(workdir, "/res/a/x")
    (workdir.root / "res/a/again").symlink_to("/res/a")
    found = find_outputs((rule(workdir, "/res", kind=FileType.DIRECTORY),), workdir)
    assert urls(found) == ["s3://b/out/a/x"]
    assert [path for path, _ in found.skipped] == ["/res/a/again"]


def test_pipes_and_sockets_are_left_out_and_never_opened(workdir: WorkDir) -> None:
    os.mkfifo(workdir.root / "res/pipe")
    found = find_outputs((rule(workdir, "/res", kind=FileType.DIRECTORY),), workdir)
    assert found.skipped == [("/res/pipe", "a named pipe")]


def test_a_name_that_is_not_utf8_is_refused_with_a_readable_name(workdir: WorkDir) -> None:
    (Path(os.fsdecode(os.fsencode(workdir.root / "res") + b"/x\xff"))).touch()
    [(url, error)] = find_outputs((rule(workdir, "/res", kind=FileType.DIRECTORY),), workdir).refused
    assert (url, "UTF-8" in str(error)) == ("s3://b/out/x?", True)


def test_a_very_deep_directory_is_refused_rather_than_followed_for_ever(workdir: WorkDir) -> None:
    here = workdir.root / "res"
    for _ in range(260):
        here = here / "d"
        here.mkdir()
    found = find_outputs((rule(workdir, "/res", kind=FileType.DIRECTORY),), workdir)
    assert ["deep" in str(error) for _, error in found.refused] == [True]


def test_an_untouched_placeholder_is_missing_and_a_written_one_is_found(workdir: WorkDir) -> None:
    untouched, touched = rule(workdir, "/a", placeholder=True), rule(workdir, "/b", placeholder=True)
    for upload in (untouched, touched):
        upload.source.touch()
        os.utime(upload.source, ns=(0, 0))
    touched.source.touch()
    found = find_outputs((untouched, touched), workdir)
    assert (found.missing, [file.path for file in found.files]) == ([untouched], ["/b"])


def test_a_file_output_that_is_a_pipe_is_refused_rather_than_left_out(workdir: WorkDir) -> None:
    os.mkfifo(workdir.root / "res/pipe")
    [(_, error)] = find_outputs((rule(workdir, "/res/pipe"),), workdir).refused
    assert "a named pipe" in str(error)


def test_two_files_with_one_url_are_told_instead_of_one_replacing_the_other(workdir: WorkDir) -> None:
    make(workdir, "/res/a/x", "/res/b/x")
    rules = tuple(rule(workdir, path, kind=FileType.DIRECTORY) for path in ("/res/a", "/res/b"))
    found = find_outputs(rules, workdir)
    assert [file.path for file in found.files] == ["/res/a/x"]
    assert ["/res/b/x" in str(error) and "/res/a/x" in str(error) for _, error in found.refused] == [True]


def test_one_file_named_twice_for_one_url_is_uploaded_once(workdir: WorkDir) -> None:
    make(workdir, "/res/a")
    found = find_outputs((rule(workdir, "/res/a"), rule(workdir, "/res/a")), workdir)
    assert (urls(found), found.refused) == (["s3://b/out"], [])


def test_a_path_through_a_link_is_found_where_the_container_had_it(workdir: WorkDir) -> None:
    make(workdir, "/real/file")
    (workdir.root / "res/dir").symlink_to("/real")
    assert urls(find_outputs((rule(workdir, "/res/dir/file"),), workdir)) == ["s3://b/out"]


@pytest.mark.parametrize("name", ["passwd", "no-such-file"])
def test_nothing_is_told_about_files_of_the_host(workdir: WorkDir, name: str) -> None:
    (workdir.root / "res/etc").symlink_to("/etc")
    found = find_outputs((rule(workdir, f"/res/etc/{name}"),), workdir)
    assert (len(found.refused), found.missing) == (1, [])
    assert "is a link to /etc" in str(found.refused[0][1])


def test_links_that_multiply_are_refused_rather_than_followed_for_ever(
    workdir: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskrunner.staging.outputs._MOST_INDIRECT", 1000)
    for number in range(30):
        directory = workdir.root / f"res/d{number}"
        directory.mkdir()
        (directory / "a").symlink_to(f"../d{number + 1}")
        (directory / "b").symlink_to(f"../d{number + 1}")
    directory_rule = rule(workdir, "/res", kind=FileType.DIRECTORY)
    pattern_rule = rule(workdir, "/res/d0/" + "*/" * 20 + "x", prefix="/res")
    assert any(
        "more than 1000" in str(error) for _, error in find_outputs((directory_rule,), workdir).refused
    )
    assert any("more than 1000" in str(error) for _, error in find_outputs((pattern_rule,), workdir).refused)


def test_a_walk_ends_when_nobody_wants_it_any_more(workdir: WorkDir) -> None:
    make(workdir, "/res/a")
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(WalkStoppedError):
        find_outputs((rule(workdir, "/res/a"),), workdir, stopped)


def test_a_pattern_with_a_name_that_cannot_be_matches_nothing(workdir: WorkDir) -> None:
    make(workdir, "/res/x/y")
    for pattern in (f"/res/*/{'a' * 300}/y", "/res/*" + "/a" * 1500):
        found = find_outputs((rule(workdir, pattern, prefix="/res"),), workdir)
        assert len(found.unmatched) == 1
