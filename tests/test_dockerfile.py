"""The Dockerfile against the rules that a linter of such files has, without a container engine; and the extras."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
KNOWN = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "CMD"}


def read() -> list[tuple[str, str]]:
    """The instructions of the file, each as (name, rest), without comments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(words[0], words[1]) for line in joined.splitlines() if (words := line.split(maxsplit=1))]


def stages() -> dict[str, list[tuple[str, str]]]:
    found, name = dict[str, list[tuple[str, str]]](), ""
    for instruction, rest in read():
        if instruction == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        if name:
            found[name].append((instruction, rest))
    return found


def test_the_stages_for_cpu_and_cuda_end_without_root() -> None:
    found = stages()
    assert list(found) == ["base", "cpu", "cuda"] and {name for name, _ in read()} <= KNOWN
    for name in ("cpu", "cuda"):
        assert ("USER", "ropewalk") in found[name] and ("WORKDIR", "/work") in found[name]
        assert found[name][-1] == ("CMD", '["ropewalk", "--help"]')


def test_images_are_named_and_layers_are_small() -> None:
    for instruction, rest in read():
        if instruction == "FROM":
            image = rest.split()[0]
            assert image in stages() or (":" in image and not image.endswith(":latest")), image
        if "apt-get install" in rest:
            assert (
                "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists" in rest and "apt-get update" in rest
            )
        assert "sudo" not in rest and "curl" not in rest
    assert any("PIP_NO_CACHE_DIR=1" in rest for _, rest in read())


def test_what_is_copied_is_there_and_enters_the_build() -> None:
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    copied = {name for instruction, rest in read() if instruction == "COPY" for name in rest.split()[:-1]}
    assert copied == shown and all((ROOT / name).exists() for name in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {each for _, rest in read() for each in ",".join(re.findall(r"\.\[([a-z,]+)\]", rest)).split(",") if each}
    assert asked and asked <= set(extras)


def test_the_page_about_installing_names_every_extra_of_users() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = (ROOT / "docs" / "install.md").read_text().partition("| extra |")[2].partition("\n\n")[0]
    named = {each for row in table.splitlines() for each in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert named == set(extras) - {"test", "check", "docs"}
