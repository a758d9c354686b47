# Two commands do everything on a fresh machine with Python 3.10+, make and a package registry:
#   make run     train the blog post's VAE on the full MNIST; results and pictures land in runs/mnist
#   make test    everything that .ci/run checks (about forty minutes on two cores)
# While you work, make check does the quick part in under two minutes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check lint lab docs docs-serve bench results clean
run: .venv/run
	$(BIN)/vae-tutorial train --out runs/mnist --resume

test: .venv/dev
	@echo "Everything is tested: about forty minutes on two cores. For the quick part: make check"
	tools/browser.sh $(BIN)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal -p no:cacheprovider tests

# One page of each folder is run; their names choose tests.
PAGES := 00_first_vae or 02_distributions or 11_networks or 29_writers or 30_reductions or 65_gradients or 81_files
check: lint
	@echo "The quick part: form, package, theory, a page of each folder; under two minutes on two cores."
	$(BIN)/python -c "import importlib, pkgutil, vae_tutorial as v; \
	[importlib.import_module(m.name) for m in pkgutil.walk_packages(v.__path__, 'vae_tutorial.')]"
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses 2 --dist worksteal -p no:cacheprovider \
	  tests/test_form.py tests/test_notebooks.py tests/test_theory.py \
	  -k "not imports_alone and (not fresh_kernel or $(PAGES))"

lint: .venv/dev
	$(BIN)/ruff check --no-cache --isolated --select F,E701,E702 --ignore F722 vae_tutorial tests tools bench
	$(BIN)/ruff format --no-cache --isolated --check --line-length 88 tests tools bench

lab: .venv/dev
	cd nbs && ../$(BIN)/jupyter lab --config=../tools/jupyter_lab.py --ip=127.0.0.1 --allow-root --LabApp.default_url=/lab/tree/index.ipynb

docs: .venv/dev
	$(BIN)/python tools/docs.py

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _docs 8000

bench: .venv-bench/peers
	.venv-bench/bin/python bench/training.py
	tools/browser.sh .venv-bench/bin
	.venv-bench/bin/python tools/docs.py
	.venv-bench/bin/python bench/site.py

results: .venv/dev
	VAE_TUTORIAL_SLOW=1 $(BIN)/nbdev_test --path nbs --file_re '^(2[0-8]|3[148]|4[02468]|5[06]|62|63|74)_' --flags slow --n_workers 1 --do_print
	$(BIN)/python tools/notebooks.py refresh nbs/limits/2[0-8]*.ipynb nbs/beyond/3[148]*.ipynb nbs/beyond/4*.ipynb nbs/beyond/5*.ipynb nbs/practice/6[23]*.ipynb nbs/inside/74*.ipynb nbs/inside/86*.ipynb nbs/index.ipynb

clean:
	rm -rf .venv .venv-bench build dist *.egg-info _proc _docs

.venv/run: settings.ini setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/dev: .venv/run
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

.venv-bench/peers: settings.ini setup.py
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -e '.[dev]' pythae==0.1.2 jax optax
	touch $@
