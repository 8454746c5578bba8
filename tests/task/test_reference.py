"""Image names, read as the docker command reads them."""

from __future__ import annotations

import pytest

from taskrunner.reference import parse_reference

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("ubuntu:Latest", "docker.io/library/ubuntu:Latest"),
        ("biocontainers/samtools:1", "docker.io/biocontainers/samtools:1"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("quay.io/a/b/c", "quay.io/a/b/c:latest"),
        ("a__b/c--d/e.f", "docker.io/a__b/c--d/e.f:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        ("MyHost/x", "MyHost/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        (f"x@{DIGEST}", f"docker.io/library/x@{DIGEST}"),
        (f"x:1@{DIGEST}", f"docker.io/library/x@{DIGEST}"),
        (f"{ECR}/team/tool:v1", f"{ECR}/team/tool:v1"),
        ("a" * 255, f"docker.io/library/{'a' * 255}:latest"),
    ],
)
def test_image_names_are_read_as_the_docker_command_reads_them(image: str, full: str) -> None:
    assert str(parse_reference(image)) == full


@pytest.mark.parametrize(
    "image",
    [
        "",
        "UPPER",
        "Ubuntu:Latest",
        "quay.io/Team/tool",
        "a b",
        "a\n",
        "../containers/x",
        "x?y",
        "/x",
        "x/",
        "a//b",
        "a___b",
        "host:port/x",
        "a..b/x",
        "x:",
        "x:.tag",
        f"x:{'t' * 129}",
        "x@sha256:abc",
        f"x@md5:{'a' * 32}",
        f"x@sha256:{'A' * 64}",
        "f" * 64,
        "a" * 256,
        "docker://ubuntu",
    ],
)
def test_what_the_engine_would_refuse_is_no_image_name(image: str) -> None:
    with pytest.raises(ValueError, match="expected an image"):
        parse_reference(image)
