"""A fake of the docker commands used by tpu_scripts; an image is a copy of the tracked files."""

import shutil
import subprocess
import sys
from pathlib import Path

from world import World, fail, flag


def main() -> None:
    """Handles one call."""
    words = sys.argv[1:]
    world = World()
    world.call("docker", words)
    if words[0] == "build":
        context, image = (
            Path(words[-1]),
            world.path / "images" / flag(words, "tag").replace("/", "-"),
        )
        if not Path(flag(words, "file")).is_file():
            fail(f"ERROR: failed to read dockerfile: {flag(words, 'file')}: no such file")
        shutil.rmtree(image, ignore_errors=True)
        image.mkdir(parents=True)
        listed = [
            "git",
            "-C",
            context,
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        names = subprocess.run(listed, capture_output=True, check=True).stdout
        packed = subprocess.run(
            ["tar", "-C", context, "-cf", "-", "--null", "--ignore-failed-read", "-T", "-"],
            input=names,
            capture_output=True,
            check=True,
        ).stdout
        subprocess.run(["tar", "-C", image, "-xf", "-"], input=packed, check=True)
    elif not (world.path / "images" / words[1].replace("/", "-")).is_dir():
        fail(f"An image does not exist locally with the tag: {words[1]}")


if __name__ == "__main__":
    main()
