"""The documents say what is there: links lead somewhere, and code names what exists."""

import ast
import doctest
import pathlib
import re

import pytest

import skewless

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def headings(text):
    """Return the anchors that a Markdown text offers."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+?) *#*$", plain, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def code_blocks(text, language):
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in headings(target.read_text())):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_python_code_names_what_exists(document):
    for code in code_blocks(document.read_text(), "python"):
        if ">>>" in code:
            test = doctest.DocTestParser().get_doctest(code, {}, document.name, None, None)
            assert doctest.DocTestRunner().run(test).failed == 0
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "sk":
                    assert hasattr(skewless, node.attr), f"sk.{node.attr}"
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skewless"):
                module = __import__(node.module, fromlist=[a.name for a in node.names])
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_make_targets_exist(document):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(code_blocks(document.read_text(), "(?:sh|bash|console)"))
    assert set(re.findall(r"^\$? *make ([a-z]+)", code, re.MULTILINE)) <= targets
