"""The page as a person and a browser get it: whole runs, partial runs, and text that would like to be markup."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from invented_run import RECIPE, make_rows, write_run
from ropewalk.commands.run import do_part
from ropewalk.core.artifact import MANIFEST, FolderInUseError, hold
from ropewalk.core.error import UserError
from ropewalk.core.record import Metric, append_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.load import load_recipe
from ropewalk.report import drawn_pictures
from ropewalk.report.page import summarise, write_report

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "'><iframe src=javascript:alert(1)>",
    "</title><script>alert(1)</script>",
    "</style><style>*{background:url(http://x)}</style>",
    "</text></svg><script>alert(1)</script>",
    "--><script>alert(1)</script><!--",
    "]]><script>alert(1)</script>",
    "<![CDATA[<b>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;",
    "{{ 7 * 7 }}{% raw %}",
    "${7*7} $\\frac{1}{0}$ $",
    "javascript:alert(1)",
    'x" onmouseover="alert(1)',
    "x' style='color:red",
    "<a href=//evil.example>x</a>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content=0>",
    "<!-- x",
    "<?php x ?>",
    "\x1b[31mred\x1b[0m\x07",
    "\u202etxt.exe\u2066",
    "a\nb\r\nc\td\x00e",
    "<details open ontoggle=alert(1)>",
    "</td></tr></table><h1>x</h1>",
    "<form action=//evil.example><input>",
    "<math><mtext></mtext></math>",
    "律师<b onclick=x>法</b>",
]


class Elements(HTMLParser):
    """Every tag with its attributes' names, in order, and everything that a browser would follow or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.comments = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "action", "xlink:href"}]

    def handle_comment(self, data: str) -> None:
        self.comments += 1


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run, made once, in 5 seconds of a free core: twice as many where others share it."""
    run = write_run(tmp_path_factory.mktemp("page") / "quickstart")
    drawn_pictures._drawn.clear()
    begun = time.process_time()
    written = write_report(run)
    assert time.process_time() - begun < 10 and written == run / "report.html"
    return written.read_text()


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Elements:
    """The elements of a page whose names are harmless."""
    run = rename_everything(tmp_path_factory.mktemp("harmless") / "run", [f"name{i}" for i in range(11)])
    return Elements(write_report(run).read_text())


def test_a_whole_run_gives_a_small_page_with_every_section(page: str) -> None:
    assert len(page) < 500_000
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections[0] == "summary" and sections[-1] == "recipe" and len(sections) == 13
    assert 'class="note"' not in page and "All 10 targets are met." in page
    assert "2.13.0" in page and "c" * 32 in page


def test_the_same_run_gives_the_same_page(page: str, run: Path) -> None:
    drawn_pictures._drawn.clear()
    assert write_report(run).read_text() == page


def test_the_page_loads_and_runs_nothing(page: str) -> None:
    elements = Elements(page)
    assert {tag for tag, _ in elements.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "image", "base"})
    assert all(link.startswith("#") for link in elements.links)
    assert not [name for _, names in elements.tags for name in names if name.startswith("on") or name == "style"]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'; ") and "unsafe" not in policy[1]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None and "url(" not in style[1]
    assert base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode() in policy[1]


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS_PX = (400, 800, 1280)
MEASURE = """
addEventListener("load", () => {
  const cut = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    for (const each of [page.documentElement, ...page.querySelectorAll(".scroll, td, th, .tiles li, .verdict")])
      if (each.scrollWidth > each.clientWidth + 1 && each.clientWidth)
        cut.push(frame.width + " " + each.tagName + " " + each.textContent.trim().slice(0, 60));
  }
  document.body.textContent = "measured " + JSON.stringify(cut);
});
"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_nothing_is_cut_on_a_phone_a_tablet_and_a_screen(page: str, tmp_path: Path) -> None:
    """A cell that is wider than its table's window can only be read by scrolling sideways."""
    frames = "".join(f'<iframe width="{px}" height="900" srcdoc="{html.escape(page)}"></iframe>' for px in WIDTHS_PX)
    (tmp_path / "frames.html").write_text(f"<!doctype html><body>{frames}<script>{MEASURE}</script></body>")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "frames.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    measured = re.search(r"measured (\[.*\])", done.stdout)
    assert measured is not None, done.stderr
    assert json.loads(html.unescape(measured[1])) == []


def test_pictures_are_svg_with_words_for_those_who_do_not_see_them(page: str) -> None:
    drawings = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(drawings) == 14
    for drawing in drawings:
        root = ET.fromstring(drawing)
        assert root.get("role") == "img" and len(root.get("aria-label", "")) > 40
        assert root.get("viewBox") and root.get("width") is None


def test_hostile_text_adds_no_element_and_no_attribute(tmp_path: Path, harmless: Elements) -> None:
    hostile_run = rename_everything(tmp_path / "run", [" ".join(PAYLOADS[first::11]) for first in range(11)])
    text = write_report(hostile_run).read_text()
    hostile = Elements(text)
    assert Counter(hostile.tags) == Counter(harmless.tags)
    assert hostile.links == harmless.links and hostile.comments == harmless.comments
    for hidden in "\x1b\x07\x00\u202e\u2066":
        assert hidden not in text and hidden not in summarise(hostile_run)["text"]


def rename_everything(folder: Path, names: list[str]) -> Path:
    """A run whose sources, model, layout, reasons and versions all have the names given."""
    write_run(folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    renamed = dict(zip([source["name"] for source in recipe["corpus"]["sources"]], names, strict=True))

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed.get(key, key): rename(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [rename(entry) for entry in value]
        if not isinstance(value, str):
            return value
        head, slash, last = value.rpartition("/")
        return head + slash + renamed[last] if last in renamed else value

    for name in ("corpus/corpus.json", "corpus/ledger.json", "scores.json"):
        path = folder / name
        path.write_text(json.dumps(rename(json.loads(path.read_text()))))
    ledger = json.loads((folder / "corpus" / "ledger.json").read_text())
    for entry in ledger.values():
        entry["dropped"][names[0]] = entry["dropped"].pop("too short")
    (folder / "corpus" / "ledger.json").write_text(json.dumps(ledger))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(rename(json.loads(line))) + "\n" for line in lines))
    recipe = rename(recipe)
    recipe |= {"model": names[1], "run": names[2]}
    recipe["parallel"] |= {"layout": names[3], "exchange": names[4]}
    recipe["stages"][0]["rope"]["kind"], recipe["stages"][0]["schedule"]["shape"] = names[5], names[6]
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["facts"] = {names[7]: names[8], "torch": names[9]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_what_a_stage_told_while_it_ran_is_drawn(run: Path) -> None:
    page = write_report(run).read_text()
    for kind in ("position in the document", "length of the document"):
        assert f"Training loss by {kind}" in page
    assert "full-truncated: their difference" in page and "MFU 20.9% (median)" in page


def test_the_load_of_experts_has_a_section(run: Path, page: str) -> None:
    assert 'id="experts"' not in page, "the model is dense"
    rows = [Metric(0, step, "experts/load", 4.0 / step, "1") for step in (1, 2)]
    rows += [Metric(0, step, "experts/balance_loss", 1.5 / step, "1") for step in (1, 2)]
    rows += [Metric(0, step, f"experts/load/layer-{layer}", layer / step, "1") for step in (1, 2) for layer in (10, 3)]
    append_metrics(run / "metrics.jsonl", rows)
    text = re.sub(r"<[^>]+>", " ", write_report(run).read_text().partition('id="experts"')[2].partition("<section")[0])
    assert "had 2.00 times the mean load" in text and "went from 1.500 to 0.750" in text
    words = " ".join(text.split())
    assert words.index("3 3.00 1.50 3.00") < words.index("10 10.00 5.00 10.00")


def test_the_first_panels_of_a_run_can_be_read(run: Path) -> None:
    """Steps are whole numbers, a single panel is a dot, and buckets stand by length, whichever came first."""
    rows = [Metric(0, step, "loss/train", 3.0 - step, "nats per token") for step in (1, 2, 3)]
    rows += [
        Metric(0, 3, f"loss/length/{bucket}", 2.0, "nats per token") for bucket in ("1024-2048", "512-1024", "0-512")
    ]
    (run / "metrics.jsonl").unlink()
    append_metrics(run / "metrics.jsonl", rows)
    page = write_report(run).read_text()
    training = page[page.index('<section id="training">') :]
    training = training[: training.index("</section>")]
    words = re.findall(r"<text[^>]*>([^<]*)</text>", training)
    assert [word for word in words if re.fullmatch(r"\d+-\d+", word)] == ["0-512", "512-1024", "1024-2048"]
    assert "2" in words and "1.50" not in words
    assert len(re.findall('<use [^>]*fill="#0b5fa5"', training)) == 3
    append_metrics(run / "metrics.jsonl", [Metric(0, 2, "skipped", 1.0, "steps")])
    assert "1 step skipped: loss or gradient norm not finite" in write_report(run).read_text()


def test_a_run_that_goes_on_is_reported_and_not_disturbed(run: Path) -> None:
    (run / "manifest.json").unlink()
    recipe = load_recipe(run / "recipe.yaml", [f"run={run}"])
    with hold(run):
        (run / "report.html").unlink(missing_ok=True)
        assert do_part("report", recipe)["made"] == [str(run / "report.html")]
        with pytest.raises(FolderInUseError):
            do_part("train", recipe)


def test_other_means_of_a_later_session_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    means = {"ranks": 2, "context_parallel": 2, "precision": "float32"}
    sessions = [
        {"stage": 0, "from_step": 0, "parallel": means},
        {"stage": 0, "from_step": 40, "parallel": means},
        {"stage": 0, "from_step": 60, "parallel": {**means, "ranks": 1, "precision": "bfloat16"}},
    ]
    (run / "sessions.json").write_text(json.dumps(sessions))
    found = write_report(run).read_text()
    assert "stage 0, from step 1 on: ranks 2, precision float32" in found
    assert "stage 0, from step 61 on: ranks 1, precision bfloat16" in found and "from step 41" not in found


def test_a_run_that_broke_off_is_reported_as_far_as_it_came(run: Path) -> None:
    states = [
        (
            ["manifest.json", "parity.json", "scores.json"],
            ["been exported yet", "Retrieval has not"],
        ),
        (["stages/0/trained"], ["not finished"]),
        (["metrics.jsonl", "stages"], ["No step has been taken yet.", "The model has not been extended yet."]),
        (["corpus"], ["The corpus has not been prepared yet."]),
    ]
    for gone, said in states:
        for path in map(run.joinpath, gone):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        text = write_report(run).read_text()
        assert all(note in text for note in said), gone
        assert summarise(run)["text"]
    assert summarise(run) == {
        "text": "tiny-base, 2Ki tokens\n\nNothing has been measured yet.",
        "verdicts": [],
        "targets_met": 0,
        "targets_missed": 0,
        "targets_undecided": 0,
        "targets_set": 0,
    }


def test_a_model_from_nothing_in_seven_stages(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE.with_name("tiny-base.yaml")).to_json()
    run = write_run(tmp_path / "tiny", recipe=recipe)
    text = write_report(run).read_text()
    assert "stage 6" in text and "theta is not noted" not in text
    assert len(text) < 1_000_000
    summary = summarise(run)
    assert summary["targets_set"] == 2 and "base" not in summary["text"].splitlines()[2].split()


@pytest.mark.parametrize(
    ("finished", "steps", "tokens_at", "told"),
    [
        (False, 1, (), "now at step 1 of stage 0"),
        (False, 1, (1,), "trained on 8.19K tokens in 1 step"),
        (False, 3, (1, 2, 3), "trained on 24.6K tokens in 3 steps"),
        (False, 1234, (10,), "trained on 8.19K tokens in 10 steps, now at step 1,234 of stage 0"),
        (True, 12, (10,), "trained on 8.19K tokens in 10 steps"),
    ],
)
def test_the_first_steps_of_a_run_are_told(
    run: Path, finished: bool, steps: int, tokens_at: tuple[int, ...], told: str
) -> None:
    """Tokens are counted every log_steps steps, so at first there are steps and no tokens."""
    rows = [Metric(0, step, "loss/train", 3.0, "nats per token") for step in (1, steps)]
    rows += [Metric(0, step, "tokens/source/topics", 8192, "tokens") for step in tokens_at]
    (run / "metrics.jsonl").unlink()
    if not finished:
        (RunFolder(run).trained(0) / MANIFEST).unlink()
    append_metrics(run / "metrics.jsonl", rows)
    assert summarise(run)["text"].splitlines()[0].endswith(f"(4x), {told}")


def test_a_trial_is_named_as_one(tmp_path: Path) -> None:
    data = load_recipe(RECIPE).to_json()
    for trial in (False, True):
        run = write_run(tmp_path / f"trial-{trial}", recipe=data | {"trial": trial})
        assert ("a trial of few steps" in summarise(run)["text"].splitlines()[0]) is trial
        page = write_report(run).read_text()
        assert (f"{run.name} (trial)" in page) is trial and ("a trial of few steps" in page) is trial


def test_long_runs_stay_small(run: Path) -> None:
    for name in ("metrics.jsonl", "scores.json"):
        (run / name).unlink()
    append_metrics(run / "metrics.jsonl", make_rows({"topics": 0.7, "code": 0.3}, steps=5000))
    assert len(write_report(run).read_text()) < 500_000


def test_what_is_no_run_or_is_damaged_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
    (run / "scores.json").write_text('[{"model": "base"}]')
    with pytest.raises(UserError, match=r"scores\.json"):
        summarise(run)
    (run / "recipe.yaml").write_text("stages: [")
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        summarise(run)
    (run / "recipe.yaml").write_text("stages: []")
    with pytest.raises(UserError, match="not a recipe"):
        summarise(run)
