"""Secrets that must not reach a log, and look-alikes that may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner.redaction import is_secret_name, redact


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "DB_PASSWORD",
        "PGPASSWORD",
        "MYSQL_PWD",
        "SSH_PASSPHRASE",
        "GITHUB_TOKEN",
        "githubToken",
        "X_AUTH",
        "AUTHORIZATION",
        "HTTP_BEARER",
        "OAUTH2_CLIENT",
        "apikey",
        "API-KEY",
        "PRIVATE_KEY",
        "SESSION_COOKIE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AZURE_SAS",
        "SENTRY_DSN",
        "KEY",
        "DB_PASS",
    ],
)
def test_names_that_sound_secret_are(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "AUTHOR",
        "GIT_AUTHOR_NAME",
        "CERTIFICATE_AUTHORITY",
        "KEYBOARD",
        "MONKEY",
        "PATH",
        "HOME",
        "LANG",
        "BYPASS",
        "SASS",
        "PATTERN",
    ],
)
def test_names_that_only_look_alike_are_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pw@host/x", "https://***@host/x"),
        ("https://me@host/x", "https://***@host/x"),
        ("https://me:p@ss@host/x", "https://***@host/x"),
        ("get 'ftp://a:b@c/d' and http://e:f@g", "get 'ftp://***@c/d' and http://***@g"),
        ("https://h/k?X-Amz-Signature=0f&X-Amz-Date=1", "https://h/k?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://h/k?a=1&x-amz-credential=AK%2F1#end", "https://h/k?a=1&x-amz-credential=***#end"),
        ("https://h/k?X-Amz-Security-Token=abc", "https://h/k?X-Amz-Security-Token=***"),
        ("https://h/k?x=1&amp;X-Amz-Signature=abc", "https://h/k?x=1&amp;X-Amz-Signature=***"),
        ("https://h.blob.core.windows.net/c?sv=1&sig=a%3D", "https://h.blob.core.windows.net/c?sv=1&sig=***"),
        ("https://h/k?access_token=abc", "https://h/k?access_token=***"),
        ("key AKIAIOSFODNN7EXAMPLE is not allowed", "key *** is not allowed"),
        ("ASIAIOSFODNN7EXAMPLE", "***"),
    ],
)
def test_secrets_are_masked(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/key",
        "s3://bucket/me@home?versionId=abc",
        "https://host/a:b@c",
        "https://host/?monkey=1&design=2",
        "someone@example.org wrote a=b",
        "sh -c 'echo $KEY'",
        "AKIASHORT",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text())
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://us:hunter'2@h/x",
        "http://h/?X%2DAmz%2DSignature=hunter2&a=1",
        "http://h/?x-oss-signature=hunter2",
        "http://h/?private_token=hunter2",
        "http://h/#access_token=hunter2",
        "http://h/?a=1&amp;sig=hunter2",
        "AccountName=x;AccountKey=hunter2==;EndpointSuffix=y",
        '{"password": "hunter2", "user": "x"}',
        "{'api_key': 'hunter2'}",
        "http://us:my hunter2@h/x",
        "http://us:hunter2 is mine@h/x",
        'http://us:my"hunter2@h/x',
        'http://us:hunter2"2 3@[::1]/x',
    ],
)
def test_other_spellings_of_secrets_are_masked_as_well(text: str) -> None:
    assert "hunter" not in redact(text)


def test_ordinary_parameters_and_members_stay() -> None:
    for text in ("s3://b/k?versionId=3", 'cmd "a": "b"', "http://h/?page=2&sort=name"):
        assert redact(text) == text


def test_sentences_that_go_on_after_a_url_stay() -> None:
    for text in (
        "can't reach http://host:8080 as me@example.org",
        "http://host:8080, says me@example.org",
        "see http://host: ask me@example.org",
        '{"url": "http://host:x", "mail": "me@example.org"}',
        "http://host/a:b c@d",
    ):
        assert redact(text) == text
