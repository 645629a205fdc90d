"""The README is short, its commands and files exist, and every verb that it names is one."""

import re
from pathlib import Path

import pytest

from ropewalk.recipe.load import load_recipe

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]


@pytest.mark.parametrize("name", READMES)
def test_a_readme_is_short_and_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for program in re.findall(r"`(benchmarks/\w+\.py)", text):
        assert (ROOT / program).is_file(), program
    for recipe in set(re.findall(r"recipes/[\w-]+\.yaml", text)):
        assert load_recipe(ROOT / recipe)


@pytest.mark.parametrize("name", READMES)
def test_the_make_targets_and_verbs_are_there(name: str) -> None:
    text, makefile = (ROOT / name).read_text(encoding="utf-8"), (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    commands = (ROOT / "src" / "ropewalk" / "cli/main.py").read_text()
    for verb in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE):
        assert f'app.command("{verb}")' in commands, verb


def test_both_readmes_show_the_same_output() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in READMES)
    shown = english[english.index("tiny-base, 512") : english.index("runs/quickstart/report.html")]
    assert "targets are met" in shown and shown in chinese
