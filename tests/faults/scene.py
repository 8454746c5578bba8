"""One task, one bucket, and a link between them that goes wrong: what tests of this room have in common."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from awscrt import checksums
from botocore.exceptions import ClientError

from taskrunner.errors import TaskrunnerError
from taskrunner.retrying import Patience
from taskrunner.settings import Settings, TransferSettings
from taskrunner.staging.stage_in import stage_in
from taskrunner.staging.stage_out import StagedOut, stage_out
from taskrunner.storage.opening import Stores
from taskrunner.task import FileType
from taskrunner.workdir import WorkDir, leased
from tests.faulty_link import FaultyLink
from tests.servers import S3Server
from tests.staging.plans import Recorder, a_plan, download, upload

PART_BYTES = 64 * 1024
ATTEMPTS = 4
LANES = 4
TRANSFER = TransferSettings(
    max_connections=LANES,
    part_bytes=PART_BYTES,
    patience=Patience(attempts=ATTEMPTS, first_wait_seconds=0.005, longest_wait_seconds=0.02),
    read_timeout_seconds=10,
)
MEBIBYTE = 1024 * 1024
UPLOAD_PART_BYTES = 5 * MEBIBYTE
NOISE = random.Random(13).randbytes(17 * MEBIBYTE)
"""As an output, an upload of four parts."""
LARGE = NOISE[: 20 * PART_BYTES + 17]
"""As an input, 21 ranges."""
LARGE_PARTS = 21
SMALL = NOISE[:1000]


def crc64nvme(content: bytes) -> str:
    """As S3 tells it."""
    import base64

    return base64.b64encode(checksums.crc64nvme(content).to_bytes(8, "big")).decode()


@dataclass
class Scene:
    """A task whose files are in one bucket."""

    server: S3Server
    link: FaultyLink
    tmp_path: Path
    transfer: TransferSettings = TRANSFER
    recorder: Recorder = field(default_factory=Recorder)

    @cached_property
    def bucket(self) -> str:
        return self.server.make_bucket()

    @property
    def client(self) -> Any:
        """Leads to the server itself."""
        return self.server.client()

    @property
    def root(self) -> Path:
        return self.tmp_path / "work" / "t"

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, content: bytes) -> None:
        """An object whose checksum the server tells."""
        self.client.put_object(
            Bucket=self.bucket, Key=key, Body=content, ChecksumCRC64NVME=crc64nvme(content)
        )

    def get(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def keys(self) -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())]

    def open_uploads(self) -> list[str]:
        """The ids of the multipart uploads that somebody has to pay for."""
        try:
            listed = self.client.list_multipart_uploads(Bucket=self.bucket)
        except ClientError as error:
            # So says rclone's server of a bucket that never had one.
            if error.response["Error"]["Code"] != "NoSuchUpload":
                raise
            return []
        return [one["UploadId"] for one in listed.get("Uploads") or ()]

    async def bring(self, *keys: str, kind: FileType = FileType.FILE, url: str | None = None) -> WorkDir:
        """Stage objects in as /in/KEY, or one file from `url`; what is left is what is promised to be."""
        self.recorder = Recorder()
        with leased(self.root) as lease:
            workdir = lease.workdir
            wishes = [download(workdir, url or self.url(key), f"/in/{key}", kind) for key in keys]
            try:
                async with Stores(Settings(transfer=self.transfer)) as stores:
                    await stage_in(
                        a_plan(workdir, downloads=tuple(wishes)),
                        workdir,
                        stores,
                        self.transfer,
                        self.recorder,
                    )
            except TaskrunnerError as error:
                lease.keep_for_retry = error.exit_code == 75
                if url is None:
                    self._nothing_is_partial(workdir)
                else:
                    assert not any(path.is_file() for path in workdir.place("/in").rglob("*"))
                raise
            assert list(workdir.staging.iterdir()) == [workdir.staging / "taskrunner-lease"]
        assert not workdir.staging.exists()
        return workdir

    def _nothing_is_partial(self, workdir: WorkDir) -> None:
        """What has its final name is whole; else there is only what a later attempt goes on with."""
        for path in workdir.place("/in").rglob("*"):
            if path.is_file():
                assert path.read_bytes() == self.get(str(path.relative_to(workdir.place("/in"))))
        assert [path.name for path in workdir.staging.iterdir() if path.name.endswith(".partial")] == []

    def left_for_another_attempt(self) -> list[str]:
        """Kinds of files that an attempt has left for the next one, after its end."""
        staging = self.root.with_name(f".{self.root.name}")
        if not staging.exists():
            return []
        found = sorted(path for path in staging.rglob("*") if path.is_file())
        return [path.suffix or path.name for path in found if path.parent != staging]

    async def send(self, *files: tuple[str, bytes]) -> StagedOut:
        """Stage out files of these names and contents; nothing half-made is left, whatever comes of it."""
        self.recorder = Recorder()
        with leased(self.root) as lease:
            workdir = lease.workdir
            workdir.place("/out").mkdir()
            for name, content in files:
                workdir.place(f"/out/{name}").write_bytes(content)
            rules = [upload(workdir, f"/out/{name}", self.url(name)) for name, _ in files]
            async with Stores(Settings(transfer=self.transfer)) as stores:
                return await stage_out(
                    a_plan(workdir, uploads=tuple(rules)),
                    workdir,
                    stores,
                    self.transfer,
                    self.recorder,
                    succeeded=True,
                )

    def patient(self, **changes: Any) -> None:
        """Other settings than the usual ones."""
        self.transfer = replace(self.transfer, **changes)

    def soon_tired_of_silence(self) -> None:
        """For servers that stall. A healthy one on a busy machine may take a while, too: it is asked again."""
        self.patient(read_timeout_seconds=0.4)
