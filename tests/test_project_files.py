"""Files about the project agree with it: hooks, citation, changelog, links between pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import metarl

ROOT = Path(metarl.__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_hooks_run_what_make_check_runs() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert repo["repo"] == "local"
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()[1:]]
    assert [hook["entry"] for hook in repo["hooks"]] == commands
    assert not any(hook["pass_filenames"] for hook in repo["hooks"])


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == "metarl" and citation["license"] == "MIT"
    assert citation["message"] and citation["abstract"]
    assert citation["authors"] == [{"name": "The metarl authors"}]
    assert citation["version"] == metarl.__version__
    assert "The metarl authors" in (ROOT / "LICENSE").read_text("utf-8")


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest, *_ = re.findall(r"^## (\S+?),? ", text, re.M)
    assert newest == metarl.__version__
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= kinds


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, heading = link.partition("#")
        if "://" in target:
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert heading in slugs, link


def test_cluster_examples_pass_their_linters() -> None:
    scripts = [*(ROOT / "docs/examples").glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh")]
    bin = Path(sys.executable).parent
    linters = [
        [bin / "shellcheck", *scripts],
        [bin / "kubernetes-validate", "--strict", ROOT / "docs/examples/kubernetes_train.yaml"],
    ]
    for command in linters:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
