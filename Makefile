# Each target does its own set-up: a virtual environment in .venv, the pinned packages, then the job.
.DELETE_ON_ERROR:
.PHONY: demo app test fuzz sanitize lint report gpu data-given clean

BIN := .venv/bin
# Python compiles a module when it is imported first: of the packages here most never are, and pip would take 40 s.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
export IMG DATA # the shell reads them from its environment, so that quotes and spaces in them do no harm
# the first Python on the PATH that is 3.11 to 3.14
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; done)

# make demo            simulates x4 on an image that ships with scikit-image
# make demo IMG=a.jpg  upscales your image, four times as wide and high
demo: .venv/installed
	$(BIN)/python demo.py $(if $(IMG),--upscale --img_path "$$IMG")

# make app             starts the web page, on this machine alone
app: .venv/app
	$(BIN)/python app.py

# make report DATA=dir makes most tables and images of the texts again, from the weights in save/
report: data-given .venv/bench .venv/app
	$(BIN)/python benchmarks/report.py --data "$$DATA"

# make gpu             tests and measures everything on a GPU in nine minutes; make gpu GPU_ARGS="--minutes 5"
#                      without a GPU it stops; make gpu GPU_ARGS="--device cpu --minutes 2" rehearses it
gpu: .venv/installed
	$(BIN)/python benchmarks/gpu.py $(GPU_ARGS)

data-given:
	@test -n "$$DATA" || { echo "error: make report DATA=DIR, the folder of Set5, Set14, BSD100 and 2K" >&2; exit 2; }

# make test            runs lint and every test; make test PYTEST_ARGS="-m 'not slow'" leaves out the slow tests
# As many processes as there are cores, at most 8, run tests at the same time, each with one thread; the kernels' own
# tests take more. Threads sleep while they wait, as there may be more than cores.
test: lint
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

# make fuzz N=10000    tries bad input: N images, and a tenth as many of each other kind; N=10000 takes minutes
N ?= 10000
fuzz: .venv/app .venv/bench
	PCSR_FUZZ="$(N)" $(BIN)/python -m pytest -q tests/fuzz

# make sanitize        runs the tests of the C++ kernels with AddressSanitizer, which finds faults in the use of memory;
#                      needs GCC and takes minutes
sanitize: .venv/installed
	XDG_CACHE_HOME="$(CURDIR)/.venv/sanitized" CXX=g++ CXXFLAGS="-fsanitize=address -g" ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
	$(BIN)/python -m pytest -q tests/models/fast tests/training tests/inference/test_tiles.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: requirements.txt
	@test -n "$(PYTHON)" || { echo "error: needs Python 3.11 to 3.14 on the PATH (or make PYTHON=...)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(INSTALL) -r requirements.txt
	@touch $@

.venv/app .venv/bench: .venv/%: requirements-%.txt .venv/installed
	$(INSTALL) -r $<
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
