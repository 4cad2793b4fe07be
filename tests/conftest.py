"""Settings of the whole test run. Builders of files are in `builders.py`."""

import os

import hypothesis
import pytest

hypothesis.settings.register_profile("fastload", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fastload")

MISSING = ("could not import", "No module named", "not installed")  # how a skip for want of a dependency is worded


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session, exitstatus):
    """Where FASTLOAD_REQUIRE_ALL is set, as in .ci/run, a test skipped for want of a dependency fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [str(report.longrepr[2]) for report in reporter.stats.get("skipped", [])]
    missing = [reason for reason in skipped if any(words in reason for words in MISSING)]
    if missing and os.environ.get("FASTLOAD_REQUIRE_ALL"):
        reporter.ensure_newline()
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"FASTLOAD_REQUIRE_ALL: {len(missing)} skipped for want of a dependency", red=True)
    return (yield)
