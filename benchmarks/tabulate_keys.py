"""Write the tables of keys in docs/recipe.md and docs/study.md anew, out of the specs' own words.

python benchmarks/tabulate_keys.py
"""

from pathlib import Path

from ropewalk.recipe.key_table import place_table

DOCS = Path(__file__).parents[1] / "docs"

if __name__ == "__main__":
    for kind in ("recipe", "study"):
        page = DOCS / f"{kind}.md"
        page.write_text(place_table(page.read_text(encoding="utf-8"), kind), encoding="utf-8")
