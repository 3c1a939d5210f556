"""Each page of docs/recipes is run, with the tests that it shows and the walks over what it adds.

All pages live in one copy of the service; a page whose first line is `<!-- alone -->` has its own.
`pytest kernel/tests/test_recipes.py -m slow -k 'children or csv'` runs these two pages only.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

import pytest

from kernel.settings import ROOT
from kernel.tests.extensions.copies import Copy, copy_to, sources

FOLDER = ROOT / "docs/recipes"
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("[a-z]*.md"))}
INDEX = (FOLDER / "README.md").read_text()
ALONE = {name for name, text in PAGES.items() if text.startswith("<!-- alone -->\n")}
BLOCK = re.compile(r"^```(python|diff|text) (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
KEYS = re.compile(r"^KEYS = \{(.*?)\}$", re.DOTALL | re.MULTILINE)
TEST = re.compile(r"^(?:async )?def test_", re.MULTILINE)
MAX_LINES = 330
MAX_ALONE = 3
MAX_SHOWN = 3000  # characters of a failure
OPERATIONS = "new_operations.json"
# What the copy runs of the walks: those over operations that the pages have added, or may have
# disturbed, and the rules.
CHOOSE = """\
import json
from pathlib import Path

WALKED = json.loads(Path("new_operations.json").read_text())
WHOLE = (
    *(f"tests/test_{name}.py" for name in ("authorization", "openapi", "rules")),
    "tests/test_migrations.py::test_every_name_follows_the_convention",
)


def pytest_collection_modifyitems(config, items):
    def is_chosen(item):
        path, _, parameter = item.nodeid.partition("[")
        if parameter and path.startswith("tests/"):
            return any(operation in parameter for operation in WALKED)
        return not path.startswith("tests/") or path.startswith(WHOLE)

    config.hook.pytest_deselected(items=[item for item in items if not is_chosen(item)])
    items[:] = filter(is_chosen, items)
"""
# The house's own page of the manual, and the copy runs no other page's tests.
pytestmark = pytest.mark.house


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, file and text of each block of a page that names a file."""
    return BLOCK.findall(PAGES[page])


def slices(pages: Iterable[str]) -> dict[str, str]:
    """The pages' new slices, and whose they are."""
    return {
        path.split("/")[1]: page
        for page in pages
        for language, path, _ in blocks(page)
        if language == "python" and path.startswith("features/")
    }


# What a page is made of.


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_in_the_index(page):
    assert INDEX.count(f"]({page}.md)") == 1, "docs/recipes/README.md has one line for each page"
    assert len(PAGES[page].splitlines()) <= MAX_LINES, "this is more than one recipe"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_its_tests(page):
    tests = [text for _, path, text in blocks(page) if path.rpartition("/")[2].startswith("test_")]
    assert tests, "a page shows a file of tests"
    assert all(TEST.search(text) for text in tests), "a file of tests has none"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_looks_into_no_room_of_the_kernel(page):
    assert re.findall(r"\bkernel[./]\w+", PAGES[page]) == []


def test_few_pages_need_a_copy_of_their_own():
    assert len(ALONE) <= MAX_ALONE, "each takes as long as all others together"


# What it does.


def write(copy: Copy, pages: Iterable[str]) -> None:
    """Do what the pages say: their files, their changes, and the lines in service.py."""
    written: set[str] = set()
    for page in pages:
        for language, path, text in blocks(page):
            if language == "diff":
                assert (ROOT / path).exists(), f"{page} changes {path}, which is not there"
                patch(copy, path, text)
                continue
            assert path not in written, f"{page} and another page have a file {path}"
            assert not (ROOT / path).exists(), f"{page} shows {path} as new: use a diff"
            written.add(path)
            copy.write(path, text)
    for name in slices(pages):
        if not (copy.root / "features" / name / "__init__.py").exists():
            files = {"__init__.py": ""}
            is_router = (copy.root / "features" / name / "router.py").exists()
            copy.add_slice(name, files, is_mounted=is_router and name not in mounted(copy))


def mounted(copy: Copy) -> list[str]:
    return re.findall(r"^from features\.(\w+) import router", copy.read("service.py"), re.MULTILINE)


def patch(copy: Copy, path: str, text: str) -> None:
    """Change a file; the lines of a diff need no numbers."""
    for hunk in filter(None, re.split(r"^@@.*\n", text, flags=re.MULTILINE)):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] or "\n" for line in lines if not line.startswith("+"))
        new = "".join(line[1:] or "\n" for line in lines if not line.startswith("-"))
        assert copy.read(path).count(old) == 1, f"{path} has this not once:\n{old}"
        copy.edit(path, old, new)


def run(copy: Copy, pages: list[str]) -> dict[str, str]:
    """Run the pages in the copy; what failed, by page."""
    write(copy, pages)
    before = operations(copy)
    copy.works("alembic", "upgrade", "head")
    copy.works("alembic", "revision", "--autogenerate", "-m", "recipes")
    copy.works("features", "contract")
    walked = operations(copy) - before | sharing_keys(pages, before)
    copy.write(OPERATIONS, json.dumps(sorted(walked)))
    copy.write("chosen.py", CHOOSE)
    tests = [f"features/{name}" for name in slices(pages)]
    report = copy.root / "report.xml"
    own = ["-p", "chosen", "-n0", "-p", "no:randomly", f"--junitxml={report}"]
    own += ["-o", "junit_family=xunit1"]  # the other one refuses what the walks note
    done = copy.run("pytest", "-q", "-m", "not slow", *own, *tests, "tests")
    assert report.exists(), done.output[-9000:] + done.errors[-3000:]
    assert sources(copy.root) == sources(ROOT), "kernel/ is not as it was"
    failed: dict[str, str] = {}
    passed: set[str] = set()
    for name, failure in results(report):
        page = page_of(name, pages)
        passed |= {page}
        if failure:
            failed[page] = f"{failed.get(page, '')}\n{name}\n{failure[-MAX_SHOWN:]}"
    failed |= {page: "no test ran" for page in pages if page not in passed}
    if not failed and done.status:
        failed["all pages"] = done.output[-9000:]
    return failed


def operations(copy: Copy) -> set[str]:
    """Method and path of each operation in the contract, as the walks name them."""
    paths = json.loads(copy.read("openapi.json"))["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def sharing_keys(pages: Iterable[str], operations: set[str]) -> set[str]:
    """Those with a parameter of a path that has the name of one in a page's KEYS."""
    hooks = [keys for page in pages for keys in KEYS.findall(PAGES[page])]
    names = re.findall(r'"(\w+)":', "".join(hooks))
    return {each for each in operations if any(f"{{{name}}}" in each for name in names)}


def results(report: os.PathLike[str]) -> Iterator[tuple[str, str | None]]:
    """Each test of a report in JUnit's form, and how it failed."""
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  # pytest has written it
        name = f"{case.get('classname')}::{case.get('name')}"
        failures = [each.text or "" for each in case if each.tag in {"failure", "error"}]
        yield name, "\n".join(failures) if failures else None


def page_of(test: str, pages: list[str]) -> str:
    """The page that a test is about: by its slice, or by the operation that a walk names."""
    owners = slices(pages)
    if found := re.match(r"features\.(\w+)\.", test):
        return owners.get(found[1], "all pages")
    if found := re.search(r"\[.*[A-Z]+ (/[\w-]+)", test):
        return next((page for page in pages if f'"{found[1]}' in PAGES[page]), "all pages")
    return "all pages"


def check_style(copy: Copy) -> None:
    """See that the pages' code is formatted, linted and typed as all other is."""
    (copy.root / "chosen.py").unlink()
    copy.works("ruff", "check")
    copy.works("ruff", "format", "--check")
    copy.works("mypy", "features", "service.py")


@pytest.mark.slow(seconds=90)
def test_the_recipes_work_together(tmp_path, request, subtests):
    together = [page for page in PAGES if page not in ALONE]
    named = request.config.getoption("keyword")
    pages = [page for page in together if page in named] or together
    copy = copy_to(tmp_path / "copy")
    failed = run(copy, pages)
    for page in [*pages, "all pages"]:
        with subtests.test(page=page):
            if page in failed:
                pytest.fail(failed[page], pytrace=False)
    check_style(copy)


# So that `-k` finds the test by the names of its pages.
vars(test_the_recipes_work_together).update(dict.fromkeys(PAGES.keys() - ALONE))


@pytest.mark.slow(seconds=30)
@pytest.mark.parametrize("page", sorted(ALONE))
def test_a_recipe_works_alone(tmp_path, page):
    copy = copy_to(tmp_path / "copy")
    assert run(copy, [page]) == {}
    check_style(copy)
