"""One event of every kind, for tests that look at all of them."""

from __future__ import annotations

from taskrunner import events
from taskrunner.events import Event

NOON_NS = 1_577_880_000_120_000_000
"""2020-01-01T12:00:00.12Z"""

ETAG = '"900150983cd24fb0d6963f7d28e17f72"'
CONTAINER = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"

SAMPLES: tuple[Event, ...] = (
    events.Version(version="0.1.0"),
    events.TaskState(state="RUNNING"),
    events.TaskStartTime(start_time="2020-01-01T12:00:00.12Z"),
    events.TaskEndTime(end_time="2020-01-01T12:00:00.12Z"),
    events.TaskMetadata(metadata={"hostname": "ip-10-0-0-7"}),
    events.TaskOutputs(
        outputs=(events.OutputLog(url="s3://results/sum.txt", path="/res/sum.txt", size_bytes=33),)
    ),
    events.DownloadStarted(url="s3://data/a.txt"),
    events.DownloadFinished(url="s3://data/a.txt", size=3, etag=ETAG),
    events.DownloadFailed(url="s3://data/a.txt", error="there is no s3://data/a.txt"),
    events.DownloadDirectoryEmpty(url="s3://data/tree/"),
    events.UploadStarted(url="s3://results/sum.txt"),
    events.UploadFinished(url="s3://results/sum.txt", size=33, etag=ETAG),
    events.UploadFailed(url="s3://results/sum.txt", error="the executors made no /res/sum.txt"),
    events.UploadDirectoryEmpty(url="s3://results/tree/"),
    events.ExecutorStartTime(start_time="2020-01-01T12:00:00.12Z"),
    events.ExecutorEndTime(end_time="2020-01-01T12:00:00.12Z"),
    events.ExecutorExitCode(exit_code=0),
    events.ExecutorStdout(stdout="900150983cd24fb0d6963f7d28e17f72  /data/a\n"),
    events.ExecutorStderr(stderr="md5sum: /data/b: No such file or directory\n"),
    events.RunningCommand(
        cmd="docker run -i --read-only --rm --name d2q0f2t5v1mg00a1b2c3-0 "
        "-v /scratch/d2q0f2t5v1mg00a1b2c3/tmp:/tmp:rw "
        "-v /scratch/d2q0f2t5v1mg00a1b2c3/data/a:/data/a:ro busybox md5sum /data/a"
    ),
    events.ContainerMetadata(
        container_id=CONTAINER,
        container_name="/d2q0f2t5v1mg00a1b2c3-0",
        container_image_hash=f"sha256:{CONTAINER}",
    ),
    events.StoppingContainer(container="d2q0f2t5v1mg00a1b2c3-0"),
    events.PullFailed(error="there is no image busybox:absent in docker.io"),
    events.LogFilesFailed(error="the executor's stdin /data/in is not there"),
    events.ExecError(error="exit status 2"),
    events.SystemErrorEvent(error="there is no s3://data/a.txt"),
    events.UnknownField(field_path="executors[0].surprise"),
    events.UnsupportedParameter(parameter="VmSize"),
    events.ImagePullStarted(image="busybox"),
    events.ImagePullFinished(image="busybox", seconds=1.25),
    events.OutputMissing(url="s3://results/sum.txt", path="/res/sum.txt"),
    events.OutputSkipped(path="/res/socket", reason="it is a socket"),
    events.WorkDirNotRemoved(path="/scratch/d2q0f2t5v1mg00a1b2c3/res", error="Permission denied"),
    events.ContainerNotRemoved(container="d2q0f2t5v1mg00a1b2c3-0", error="the engine does not answer"),
    events.ContainerOrphanRemoved(
        container="d2q0f2t5v1mg00a1b2c3-0", runner="ip-10-0-0-1/4026531836/4321/987654"
    ),
    events.SweepFailed(error="the engine does not tell its containers"),
    events.OwnershipNotChanged(path="/scratch/d2q0f2t5v1mg00a1b2c3/res", error="the engine does not answer"),
    events.LogStreamLost(stream="standard error", error="[Errno 32] Broken pipe"),
    events.HostPathFound(
        path="/scratch/d2q0f2t5v1mg00a1b2c3", host_path="/mnt/nvme/jobs/d2q0f2t5v1mg00a1b2c3"
    ),
    events.JobMetadataFailed(error="http://169.254.170.2/v4/0f1e did not answer within 5 s"),
    events.ResourceLimited(resource="memory_bytes", asked=17_179_869_184, given=8_589_934_592),
    events.WatchdogFailed(error="the engine does not answer"),
    events.TaskStopping(reason="SIGTERM", seconds_left=25.0),
    events.OutputsNotSaved(error="there was no time left"),
    events.InstanceReclaimed(action="terminate", time="2020-01-01T12:02:00Z"),
    events.ReclaimWatchFailed(error="no answer from http://169.254.169.254"),
    events.EngineLost(container="d2q0f2t5v1mg00a1b2c3-0", error="Connection reset by peer"),
    events.EngineBack(container="d2q0f2t5v1mg00a1b2c3-0", seconds=4.2),
    events.WorkDirSwept(path="/scratch/d2q0f2t5v1mg00a1b2c3"),
    events.DownloadProgress(
        bytes_done=512_000_000,
        bytes_total=2_048_000_000,
        files_done=1,
        files_total=3,
        bytes_per_second=256_000_000,
    ),
    events.UploadProgress(
        bytes_done=1_000, bytes_total=4_000, files_done=1, files_total=4, bytes_per_second=1_000
    ),
    events.DownloadTotals(
        bytes_done=2_048_000_000,
        bytes_resumed=512_000_000,
        files_done=3,
        seconds=6.144,
        bytes_per_second=250_000_000,
    ),
    events.UploadTotals(
        bytes_done=4_000, bytes_resumed=0, files_done=4, seconds=0.25, bytes_per_second=16_000
    ),
)
"""In the order of the vocabulary; times are when the tests began, so pass `timestamp_ns` where they matter."""
