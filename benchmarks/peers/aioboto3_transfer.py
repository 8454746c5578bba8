"""aioboto3's own transfers, with their defaults: get|put BUCKET KEY|PREFIX/ PATH, or `version`."""

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aioboto3
from botocore.config import Config

FILES_AT_ONCE = 16


async def keys_below(s3: Any, bucket: str, prefix: str) -> list[str]:
    """Every key with the prefix."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [each["Key"] async for page in pages for each in page.get("Contents", [])]


def names_below(folder: Path) -> list[str]:
    """Every file's path below the folder."""
    return [str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()]


async def move_all(direction: str, bucket: str, key: str, path: Path) -> None:
    """Move one file, or several at once."""
    turns = asyncio.Semaphore(FILES_AT_ONCE)
    config = Config(s3={"addressing_style": "path"}, max_pool_connections=50)
    session: Any = aioboto3.Session()
    async with session.client("s3", config=config) as s3:

        async def move(name: str, place: Path) -> None:
            async with turns:
                if direction == "get":
                    place.parent.mkdir(parents=True, exist_ok=True)
                    await s3.download_file(bucket, name, str(place))
                else:
                    await s3.upload_file(str(place), bucket, name)

        if not key.endswith("/"):
            moves = [(key, path)]
        elif direction == "get":
            moves = [(each, path / each.removeprefix(key)) for each in await keys_below(s3, bucket, key)]
        else:
            moves = [(key + name, path / name) for name in names_below(path)]
        await asyncio.gather(*(move(*each) for each in moves))


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1] == "version":
        print(f"aioboto3 {version('aioboto3')}")
        return
    asyncio.run(move_all(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))


if __name__ == "__main__":
    main()
