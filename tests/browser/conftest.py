"""A headless Chromium, and the reports that it opens. Nothing here is skipped: without the browser, the run fails."""

import os
import shutil
from importlib.util import find_spec

import pytest

PROGRAMS = {"chromium": "chromium", "chromedriver": "chromium-driver"}  # and Debian's packages of them
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = (1280, 900)
PHONE = (390, 844)


def pytest_sessionstart(session):
    """Refuse to run where something is missing."""
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        raise pytest.UsageError(f"the report is tested in Chromium: apt-get install {' '.join(missing)}")
    if find_spec("selenium") is None:
        raise pytest.UsageError("the report is tested through selenium: pip install 'fastload-ckpt[browser]'")


def started(profile, mobile=None):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    no_sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    for flag in (*FLAGS, *no_sandbox, f"--user-data-dir={profile}", "--window-size={},{}".format(*(mobile or DESKTOP))):
        options.add_argument(flag)
    if mobile:
        metrics = {"width": mobile[0], "height": mobile[1], "pixelRatio": 2, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # A driver that is named is not looked for, nor fetched.
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


@pytest.fixture(scope="session")
def desktop(tmp_path_factory):
    browser = started(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture(scope="session")
def phone(tmp_path_factory):
    browser = started(tmp_path_factory.mktemp("profile"), PHONE)
    yield browser
    browser.quit()
