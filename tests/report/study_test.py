# SPDX-License-Identifier: Apache-2.0
"""From what runs left to verdicts: made-up numbers whose answer is known."""

import json
import pathlib

import numpy as np
import pytest

from diffmem.report import study, study_page, study_rows, study_tables

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def run_of(unique: int, held_out: int = 0, auc: float = 0.5) -> dict:
  """What is kept of an audit that found `unique` images."""
  planted = {"50": [min(unique, 4), 4], "2": [0, 4], "1": [0, 577]}
  return {
    "command": {
      "arguments": ["--config=a.py"],
      "cpu_seconds": 30.0,
      "version": "0",
      "hardware": {"cpus": 2},
    },
    "extraction": {
      "unique": unique,
      "held_out": held_out,
      "searched": 599,
      "generated": 4096,
      "planted": planted,
      "copies": {str(i): 50 for i in range(min(unique, 4))},
      "rules": [{"unique": unique, "held_out": held_out}] * 9,
      "flagged": {"distance": 30, "ratio": 28},
    },
    "membership": {
      "attacks": {
        "loss": {
          "auc": [auc, auc, auc],
          "tpr@0.01": [0.1, 0.0, 0.2],
          "tpr@0.001": None,
          "sweep": {},
          "by_draws": {},
        }
      }
    },
    "quality": {
      "frechet": [0.01, 0.0, 0.02],
      "frechet_to_training": [0.008, 0.0, 0.02],
      "floor": [0.002, 0.0, 0.01],
    },
  }


def seeds(counts, **more) -> dict:
  return {str(i): run_of(n, **more) for i, n in enumerate(counts)}


def rows_of(observed) -> dict[str, dict]:
  return {row["id"]: row for row in study_rows.measure(observed)}


def test_a_claim_holds_where_every_seed_says_so():
  rows = rows_of(
    {"ddpm": seeds([14, 15, 13, 16, 14]), "dedup": seeds([2, 1, 0, 2, 1])}
  )
  assert rows["C1"]["values"] == [14, 15, 13, 16, 14]
  assert rows["C1"]["verdict"] == rows["C5a"]["verdict"] == "holds"
  assert rows["C5a"]["values"] == [12, 14, 13, 14, 13]
  assert rows["C3"]["verdict"] == "holds"
  assert rows["C6"]["verdict"] == "not yet run"
  assert rows["C6"]["p"] is None


@pytest.mark.parametrize(
  ("counts", "verdict"),
  [
    ([9, 9, 9, 9], "not resolvable at this size"),  # four seeds
    ([9, 8, 9, 9, 0], "not resolvable at this size"),  # one says nothing
    ([1, 30, 2, 1, 50], "not resolvable at this size"),  # one sign, but loose
    ([9, 8, 9, 10, 9], "holds"),
  ],
)
def test_verdicts(counts, verdict):
  assert rows_of({"ddpm": seeds(counts)})["C1"]["verdict"] == verdict


def test_more_false_matches_than_true_ones_speak_against():
  rows = rows_of({"ddpm": seeds([1, 2, 1, 2, 1], held_out=9)})
  assert rows["C1"]["verdict"] == "does not hold"


def test_controls_alone_make_no_claim():
  """Where nothing differs, hardly a claim holds: the rate is as promised."""
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(400):
    arms = {
      name: {str(i): run_of(10, auc=rng.normal(0.5, 0.1)) for i in range(5)}
      for name in ("ddpm", "short", "classes")
    }
    rows = rows_of(arms)
    held += any(rows[k]["verdict"] == "holds" for k in ("C9a", "C17"))
  assert held / 400 < 0.08


def test_only_seeds_that_all_arms_have_are_compared():
  found = rows_of({"ddpm": seeds([5, 6, 7]), "dedup": seeds([1, 1])})
  assert found["C5a"]["values"] == [4, 5]


def test_adjusted_probabilities_are_no_smaller():
  rows = rows_of({"ddpm": seeds([14, 15, 13, 16, 14]), "dedup": seeds([2] * 5)})
  tested = [row for row in rows.values() if row["p"] is not None]
  assert len(tested) > 3
  assert all(row["adjusted"] >= row["p"] for row in tested)


def test_a_doubt_keeps_a_claim_undecided():
  """GANs that are clearly worse models tell nothing of GANs."""
  gan = seeds([1] * 5)
  for i, run in enumerate(gan.values()):
    run["quality"]["frechet_to_training"] = [0.05 + 0.001 * i] * 3
  arms = {"equal": seeds([9, 8, 9, 10, 9]), "gan": gan}
  row = rows_of(arms)["C12a"]
  assert row["verdict"] == "not resolvable at this size"
  assert row["doubt"] == "the GANs are the worse models"
  for run in gan.values():
    run["quality"]["frechet_to_training"] = [0.008] * 3
  assert rows_of(arms)["C12a"]["verdict"] == "holds"


def test_files_and_the_headline(tmp_path):
  observed = {"ddpm": seeds([14, 15, 13, 16, 14])}
  study.write(tmp_path, observed)
  folder = tmp_path / "claims"
  assert study.read(folder / "observed.json") == observed
  found = json.loads((folder / "claims.json").read_text())
  assert study_page.markdown(found) == (folder / "claims.md").read_text()
  assert "not yet run" in study.headline(tmp_path)
  before = (folder / "claims.svg").read_bytes()
  study.write(tmp_path, observed)
  assert (folder / "claims.svg").read_bytes() == before


def test_files_that_are_none(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such file"):
    study.read(tmp_path / "a.json")
  (tmp_path / "a.json").write_text("[1]")
  with pytest.raises(ValueError, match=r"expected an observed\.json"):
    study.read(tmp_path / "a.json")


def test_tables_without_runs_say_so():
  found = study_tables.beside({})
  assert [table["ours"] for table in found] == [None] * len(study_tables.TABLES)


def test_a_bar_in_a_cell_breaks_no_table():
  row = rows_of({"ddpm": seeds([3])})["C1"] | {"says": "a | b"}
  line = study_page._table(("x",), [study_page._rests(row)]).splitlines()[2]
  assert "a \\| b" in line


def test_the_documented_table_is_that_of_the_stored_results():
  observed = study.read("published")
  text = study_page.markdown(study.summarize(observed))
  assert text in (ROOT / "docs" / "claims.md").read_text(), (
    "docs/claims.md holds another table than the published results give: run "
    "diffmem-claims --config=claims.py:stored=published"
  )
