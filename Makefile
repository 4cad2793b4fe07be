PYTHON ?= python3
SOURCES := pyproject.toml setup.py $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

.PHONY: demo test test-browser test-frozen test-instructions lint docs bench bench-report fuzz sanitize coverage clean

demo: .venv/built
	.venv/bin/python benchmarks/demo.py

test: .venv/with-test
	.venv/bin/python -X dev -m pytest -q

# The report page in a headless browser; needs, of the system, Debian's chromium and chromium-driver.
test-browser: .venv/with-test .venv/with-browser
	.venv/bin/python -m pytest -q -s tests/browser

test-instructions: .venv/with-test
	.venv/bin/python benchmarks/instructions.py

# Programs with a model inside, made by the tools that freeze and started. Takes minutes and some 10 GB of disk; needs,
# of the system, gcc, binutils and unzip. fastload is installed there as users have it, since those tools look at installed files.
test-frozen: .venv-frozen/built
	.venv-frozen/bin/python -m pytest -q -p no:cacheprovider tests/frozen

lint: .venv/with-lint
	.venv/bin/ruff check && .venv/bin/ruff format --check
	.venv/bin/mypy && PATH="$(CURDIR)/.venv/bin:$$PATH" cython-lint src
	.venv/bin/stubtest fastload._native --allowlist tests/stubtest_allowlist.txt

# The pages as a site, in build/docs. Material tells of its successor at each run, which is no warning of ours.
docs: .venv/with-docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

# A quick run is for trying: it leaves what is stored alone.
bench: .venv/with-test .venv/with-bench
	mkdir -p build docs/benchmarks
	.venv/bin/python -m pytest -q benchmarks --benchmark-json build/benchmarks.json
	test -n "$$FASTLOAD_BENCH_QUICK" || cp build/benchmarks.json docs/benchmarks/results.json

bench-report: .venv/with-test
	.venv/bin/python benchmarks/report.py docs/benchmarks/results.json docs

fuzz: .venv/with-test
	.venv/bin/python -X dev -m pytest -q tests/hostile
	.venv/bin/python tests/fuzz.py $${FASTLOAD_FUZZ_ROUNDS:-1000000}

# Not the tests of bombs and leaks: they measure time and memory, and the sanitizers take much of both.
SANITIZED := tests/native $(filter-out %bombs.py %bombs_of_parts.py %leaks.py,$(wildcard tests/hostile/test_*.py))

# The sanitizers' runtimes have to be first in the process, and Python's own allocator would hide overruns from them.
sanitize: build/sanitize/built
	cd build/sanitize && PYTHONPATH=src PYTHONMALLOC=malloc \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	sh -c '../../.venv/bin/python -m pytest -q --capture=sys $(SANITIZED) && \
	../../.venv/bin/python tests/fuzz.py $${FASTLOAD_FUZZ_ROUNDS:-5000}'

coverage: build/coverage/built
	cd build/coverage && PYTHONPATH=src ../../.venv/bin/python -m coverage run -m pytest -q -m 'not slow'
	cd build/coverage && ../../.venv/bin/python -m coverage report

clean:
	rm -rf .venv .venv-frozen build dist demo src/*.egg-info .benchmarks .hypothesis .*_cache .coverage
	find src/fastload/_native \( -name '*.so' -o -name '*.c' -o -name '*.html' \) -delete

.venv/built: $(SOURCES)
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable .
	touch $@

.venv-frozen/built: $(SOURCES) $(shell find src -name '*.py')
	test -x .venv-frozen/bin/pip || $(PYTHON) -m venv .venv-frozen
	.venv-frozen/bin/pip install --quiet --force-reinstall --no-deps . && .venv-frozen/bin/pip install --quiet 'fastload-ckpt[frozen]'
	touch $@

.venv/with-%: .venv/built
	.venv/bin/pip install --quiet 'fastload-ckpt[$*]'
	touch $@

# The core with other flags is built in a copy of the sources, so that it never mixes with the everyday build.
build/sanitize/built build/coverage/built: build/%/built: .venv/with-test .venv/with-native $(shell find src -name '*.py')
	rm -rf build/$* && mkdir -p build/$* && ln -s ../../tests ../../benchmarks build/$*
	cp -R src setup.py pyproject.toml README.md LICENSE-* build/$* && find build/$* -name '*.so' -delete
	cd build/$* && FASTLOAD_$(shell echo $* | tr a-z A-Z)=1 ../../.venv/bin/python setup.py --quiet build_ext --inplace
	touch $@
