"""What only S3 has: versions, archives, encryption, listings of any key, buckets and regions of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskrunner.aws import AwsSession
from taskrunner.errors import (
    AccessDeniedError,
    InputMissingError,
    OutputFailedError,
    TransferIOError,
    UsageError,
)
from taskrunner.settings import S3Settings, ServerSideEncryption
from taskrunner.storage.s3 import S3Store
from taskrunner.storage.store import StoredObject
from tests.servers import S3Server, rclone_s3
from tests.storage.moving import begin, check, cut, listed, put, read_whole, received, stat

PART_BYTES = 5 * 1024 * 1024


@pytest.fixture
def aws() -> AwsSession:
    return AwsSession()


@pytest.fixture
def store(aws: AwsSession) -> S3Store:
    return S3Store(aws, S3Settings())


@pytest.fixture
def bucket(moto: S3Server) -> str:
    return moto.make_bucket()


def names(store: S3Store, url: str) -> list[str]:
    return [found.name for found in listed(store, url)]


# --- versions


def test_an_older_version_is_read_by_its_id(
    moto: S3Server, bucket: str, store: S3Store, tmp_path: Path
) -> None:
    client = moto.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old = client.put_object(Bucket=bucket, Key="file", Body=b"old")["VersionId"]
    client.put_object(Bucket=bucket, Key="file", Body=b"newer")

    found = stat(store, f"s3://{bucket}/file?versionId={old}")

    assert (found.size_bytes, found.version) == (3, old)
    assert read_whole(store, found, tmp_path) == b"old"
    assert read_whole(store, stat(store, f"s3://{bucket}/file"), tmp_path) == b"newer"


def test_a_deleted_object_is_missing_though_its_versions_are_there(
    moto: S3Server, bucket: str, store: S3Store
) -> None:
    client = moto.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=bucket, Key="file", Body=b"old")
    marker = client.delete_object(Bucket=bucket, Key="file")["VersionId"]

    for url in (f"s3://{bucket}/file", f"s3://{bucket}/file?versionId={marker}"):
        with pytest.raises(InputMissingError, match="does not exist"):
            stat(store, url)


# --- archives


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_to_be_restored_first(
    moto: S3Server, bucket: str, store: S3Store, tmp_path: Path, storage_class: str
) -> None:
    moto.client().put_object(Bucket=bucket, Key="dir/file", Body=b"cold", StorageClass=storage_class)

    with pytest.raises(TransferIOError, match=r"archived.*aws s3api restore-object.*--key 'dir/file'"):
        stat(store, f"s3://{bucket}/dir/file")

    (found,) = listed(store, f"s3://{bucket}/dir")
    with pytest.raises(TransferIOError, match="archived"):
        read_whole(store, found, tmp_path)


def test_a_restored_object_is_read(moto: S3Server, bucket: str, store: S3Store, tmp_path: Path) -> None:
    client = moto.client()
    client.put_object(Bucket=bucket, Key="file", Body=b"warm", StorageClass="GLACIER")
    client.restore_object(Bucket=bucket, Key="file", RestoreRequest={"Days": 1})

    found = stat(store, f"s3://{bucket}/file")

    assert read_whole(store, found, tmp_path) == b"warm"


# --- how objects are stored


@pytest.mark.parametrize("size_bytes", [10, PART_BYTES + 1])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (S3Settings(), {}),
        (S3Settings(server_side_encryption=ServerSideEncryption.AES256), {"ServerSideEncryption": "AES256"}),
        (
            S3Settings(server_side_encryption=ServerSideEncryption.KMS, kms_key_id="key-1"),
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"},
        ),
    ],
)
def test_objects_are_encrypted_as_told(
    *,
    moto: S3Server,
    bucket: str,
    aws: AwsSession,
    tmp_path: Path,
    settings: S3Settings,
    expected: dict[str, str],
    size_bytes: int,
) -> None:
    store = S3Store(aws, settings)

    put(store, f"s3://{bucket}/file", os.urandom(size_bytes), tmp_path, PART_BYTES)

    head = moto.client().head_object(Bucket=bucket, Key="file")
    told = {name: head[name] for name in ("ServerSideEncryption", "SSEKMSKeyId") if name in head}
    assert head["ContentLength"] == size_bytes
    assert told == expected or not expected  # moto may encrypt by default


@pytest.mark.parametrize("size_bytes", [10, PART_BYTES + 1])
def test_an_acl_is_put_on_new_objects(
    moto: S3Server, bucket: str, aws: AwsSession, tmp_path: Path, size_bytes: int
) -> None:
    store = S3Store(aws, S3Settings(acl="public-read"))

    put(store, f"s3://{bucket}/file", os.urandom(size_bytes), tmp_path, PART_BYTES)

    grants = moto.client().get_object_acl(Bucket=bucket, Key="file")["Grants"]
    assert {grant["Permission"] for grant in grants if "URI" in grant["Grantee"]} == {"READ"}


@pytest.mark.parametrize("key", ["a//b", "../up", "a/./b", "a/../../b", "/lead", "trail/", "%2e%2e/x"])
def test_keys_that_no_path_can_be_are_found_one_by_one(
    moto: S3Server, bucket: str, store: S3Store, tmp_path: Path, key: str
) -> None:
    put(store, f"s3://{bucket}/{key}", b"content", tmp_path)

    found = stat(store, f"s3://{bucket}/{key}")

    assert moto.client().get_object(Bucket=bucket, Key=key)["Body"].read() == b"content"
    assert read_whole(store, found, tmp_path) == b"content"


# --- listings


def test_a_listing_goes_on_over_pages(s3: S3Server, store: S3Store) -> None:
    bucket = s3.make_bucket()
    assert s3.root is not None
    directory = s3.root / bucket / "many"
    directory.mkdir()
    for number in range(1005):
        (directory / f"{number:04}").touch()

    assert names(store, f"s3://{bucket}/many") == [f"{number:04}" for number in range(1005)]


def test_a_whole_bucket_is_a_directory(moto: S3Server, bucket: str, store: S3Store) -> None:
    for key in ("a", "b/c"):
        moto.client().put_object(Bucket=bucket, Key=key, Body=b"")

    assert names(store, f"s3://{bucket}") == ["a", "b/c"]
    assert names(store, f"s3://{bucket}/") == ["a", "b/c"]


def test_marks_of_empty_directories_are_no_files(moto: S3Server, bucket: str, store: S3Store) -> None:
    for key in ("dir/", "dir/sub/", "dir/file"):
        moto.client().put_object(Bucket=bucket, Key=key, Body=b"")

    assert names(store, f"s3://{bucket}/dir") == ["file"]


def test_an_empty_listing_is_no_error(bucket: str, store: S3Store) -> None:
    assert names(store, f"s3://{bucket}/nothing") == []


def require_all_fit(store: S3Store, url: str) -> None:
    for found in listed(store, url):
        found.require_fit()


@pytest.mark.parametrize("key", ["../up", "a/../../up", "./a", "a//b", "/lead", "x" * 256, "é" * 128])
def test_keys_that_would_leave_the_directory_are_listed_as_unfit_for_files(
    moto: S3Server, bucket: str, store: S3Store, key: str
) -> None:
    moto.client().put_object(Bucket=bucket, Key=f"dir/{key}", Body=b"")

    with pytest.raises(TransferIOError, match="can't be a file below a directory"):
        require_all_fit(store, f"s3://{bucket}/dir")


def test_a_name_is_never_a_file_and_a_directory(moto: S3Server, bucket: str, store: S3Store) -> None:
    for key in ("dir/a", "dir/a.txt", "dir/a/b"):
        moto.client().put_object(Bucket=bucket, Key=key, Body=b"")

    with pytest.raises(TransferIOError, match=r"dir/a/b and a can't both be there"):
        require_all_fit(store, f"s3://{bucket}/dir")


def test_a_key_that_ends_like_a_version_is_listed_as_unfit(
    moto: S3Server, bucket: str, store: S3Store
) -> None:
    """Its URL would be looked up as a version of another object."""
    for key in ("dir/a?versionId=x", "dir/b?versionId=", "dir/c?versionId=x/d"):
        moto.client().put_object(Bucket=bucket, Key=key, Body=b"")

    unfit, *fit = listed(store, f"s3://{bucket}/dir")

    assert unfit.name == "a?versionId=x"
    with pytest.raises(TransferIOError, match=r"dir/a\?versionId=x can't be told from a version"):
        unfit.require_fit()
    assert [(found.name, found.unfit) for found in fit] == [("b?versionId=", ""), ("c?versionId=x/d", "")]


# --- buckets, keys, endpoints


@pytest.mark.parametrize("server", ["s3", "moto"])
def test_a_missing_bucket_is_told_from_a_missing_key(
    request: pytest.FixtureRequest, store: S3Store, server: str
) -> None:
    request.getfixturevalue(server)

    for asking in (check, stat, listed):
        with pytest.raises(InputMissingError, match="there is no bucket nowhere-to-be-found"):
            asking(store, "s3://nowhere-to-be-found/key")
    with pytest.raises(OutputFailedError, match="there is no bucket nowhere-to-be-found"):
        begin(store, "s3://nowhere-to-be-found/key", cut(1, 1))


def test_a_bucket_made_meanwhile_is_found(s3: S3Server, store: S3Store, tmp_path: Path) -> None:
    bucket = f"late-{tmp_path.name.replace('_', '-')[-20:]}"
    with pytest.raises(InputMissingError):
        check(store, f"s3://{bucket}/x")

    s3.client().create_bucket(Bucket=bucket)

    check(store, f"s3://{bucket}/x")


@pytest.mark.parametrize("url", ["s3://", "s3:///key"])
def test_a_url_without_a_bucket_is_none(store: S3Store, url: str) -> None:
    with pytest.raises(UsageError, match="expected s3://BUCKET/KEY"):
        stat(store, url)


@pytest.mark.parametrize("url", ["s3://bucket/\udcff", "s3://bucket\udcff/key"])
def test_a_url_of_bytes_that_are_no_text_is_none(store: S3Store, url: str) -> None:
    for asking in (check, stat, listed):
        with pytest.raises(UsageError, match=r"udcff.*UTF-8"):
            asking(store, url)
    with pytest.raises(UsageError, match=r"udcff.*UTF-8"):
        begin(store, url, cut(1, 1))


@pytest.mark.parametrize("name", ["..", ".", "a b", "a%2f", "a?b", "a#b", "ü", "x" * 256, "arn:a?b"])
def test_no_bucket_has_a_name_that_leads_elsewhere(store: S3Store, name: str) -> None:
    for asking in (check, stat, listed):
        with pytest.raises(UsageError, match="no bucket can have that name"):
            asking(store, f"s3://{name}/key")


def test_a_bucket_itself_is_no_file(bucket: str, store: S3Store) -> None:
    for url in (f"s3://{bucket}", f"s3://{bucket}/"):
        with pytest.raises(UsageError, match="is a bucket, not a file"):
            stat(store, url)


def test_a_bucket_itself_can_not_be_written(bucket: str, store: S3Store) -> None:
    with pytest.raises(OutputFailedError, match="expected s3://BUCKET/KEY"):
        begin(store, f"s3://{bucket}/", cut(1, 1))


def test_a_wrong_secret_is_said_to_be_wrong(
    s3: S3Server, store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3.make_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")

    with pytest.raises(AccessDeniedError, match="secret key does not fit"):
        stat(store, f"s3://{bucket}/file")
    with pytest.raises(AccessDeniedError, match="secret key does not fit"):
        put(store, f"s3://{bucket}/file", b"", tmp_path)


def test_no_credentials_are_said_to_be_none(
    s3: S3Server, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(AccessDeniedError, match=r"no AWS credentials.*AWS_PROFILE"):
        stat(store, "s3://bucket/file")


def test_region_endpoint_and_keys_come_from_a_profile(
    s3: S3Server, store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3.make_bucket()
    config = tmp_path / "config"
    config.write_text(
        f"[profile other]\nregion = eu-west-1\nendpoint_url = {s3.url}\n"
        f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    for name in s3.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "other")

    put(store, f"s3://{bucket}/file", b"content", tmp_path)

    found = stat(store, f"s3://{bucket}/file")
    assert read_whole(store, found, tmp_path) == b"content"


def test_a_profile_nobody_wrote_is_named(
    s3: S3Server, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "unwritten")

    with pytest.raises(UsageError, match="unwritten"):
        stat(store, "s3://bucket/file")


@pytest.mark.parametrize("through", ["environment", "profile"])
def test_an_endpoint_with_a_certificate_of_its_own_is_trusted_by_ca_bundle(
    certificate: tuple[Path, Path],
    tmp_path: Path,
    aws: AwsSession,
    monkeypatch: pytest.MonkeyPatch,
    through: str,
) -> None:
    (tmp_path / "bucket").mkdir()
    with rclone_s3(tmp_path, certificate) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        if through == "profile":
            (tmp_path / "config").write_text(f"[default]\nca_bundle = {certificate[0]}\n")
            monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        else:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
        store = S3Store(aws, S3Settings())
        stored = put(store, "s3://bucket/file", b"content" * 1000, tmp_path)
        found = StoredObject(stored.url, 7000, stored.etag, ranged=True)

        assert received(store, found, tmp_path / "part", 7, 7) == b"content"


def test_a_ca_bundle_that_can_not_be_read_is_named(
    certificate: tuple[Path, Path], tmp_path: Path, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rclone_s3(tmp_path, certificate) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent/ca.pem")
        with pytest.raises(UsageError, match=r"CA bundle /nonexistent/ca.pem .*AWS_CA_BUNDLE names it"):
            check(store, "s3://bucket/file")


def test_an_endpoint_nobody_trusts_is_refused(
    certificate: tuple[Path, Path], tmp_path: Path, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rclone_s3(tmp_path, certificate) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TransferIOError, match="AWS_CA_BUNDLE"):
            check(store, "s3://bucket/file")
