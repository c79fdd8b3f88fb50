# What can be done here: `make help`. Each target makes what it needs and does nothing twice.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# VENV=none uses the interpreter that is there; TORCH_INDEX=URL chooses torch's build.
VENV ?= .venv
TORCH_INDEX ?=
ifeq ($(VENV),none)
PYTHON := python3
INSTALLED := build/installed
else
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
endif
WORLDMODEL := $(PYTHON) -m worldmodel

HAS_GPU := $(shell nvidia-smi -L 2>/dev/null | head -1)
CONFIG ?= $(if $(HAS_GPU),configs/base.yaml,configs/tiny.yaml)
NAME = $(basename $(notdir $(CONFIG)))

# The physics world each configuration learns from; another configuration brings its own shards.
PHYSICS = data/physics
PHYSICS_ARGS = --num_clips 2000 --num_blocks 20 --size 64 --seed 0
PHYSICS_SAYS = 2000 training clips and 360 blocks, about 1 1/2 minutes on two cores and 0.3 GB of disk
ifeq ($(NAME),small)
# More scenes to learn from; measured on the same ones as tiny.
MORE = data/physics-more
MORE_ARGS = --num_clips 4000 --num_blocks 2 --size 64 --seed 3
PHYSICS_SAYS = 2000 training clips and 360 blocks, and 4000 clips more in $(MORE), about 5 minutes on two cores and 0.8 GB of disk
endif
# Real videos are packed a little larger than what is trained on; decoding costs by the pixel.
PACK_SIZE = 96
ifeq ($(NAME),base)
PACK_SIZE = 160
PHYSICS = data/physics-128
PHYSICS_ARGS = --num_clips 4000 --num_blocks 50 --size 128 --seed 0
PHYSICS_SAYS = 4000 training clips and 900 blocks, about 10 core-minutes and 2 GB of disk
endif

ifeq ($(NAME),large)
PACK_SIZE = 288
PHYSICS = data/physics-256
PHYSICS_ARGS = --num_clips 2000 --num_blocks 50 --size 256 --seed 0
PHYSICS_SAYS = 2000 training clips and 900 blocks of 256 x 256 pixels, some tens of core-minutes and several GB of disk
endif

# DATA=folder of videos: they are packed into a set of their own and trained on.
DATA ?=
ifneq ($(DATA),)
PACKED := data/$(notdir $(patsubst %/,%,$(DATA)))-$(PACK_SIZE)
NAME := $(NAME)-$(notdir $(patsubst %/,%,$(DATA)))
FIT_ARGS = --name $(NAME) --data.shards '$(PACKED)/train/*.tar'
endif
LAST = $(shell ls -t runs/$(NAME)/*/checkpoints/last.ckpt 2>/dev/null | head -1)

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
	  awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: install
install: $(INSTALLED) ## the environment, in .venv/ (VENV=none: the current interpreter)

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
ifneq ($(VENV),none)
	@test -x $(PYTHON) || python3 -m venv $(VENV)
endif
	@echo "installing: 2 to 3 minutes the first time"
	@# torch first and by its exact version: a range would fetch another build of several GB.
	@$(PYTHON) -c 'import torch' 2>/dev/null || $(PYTHON) -m pip install --quiet \
	  --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  "$$(grep -oE '^torch==[^ ]+' constraints.txt)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check \
	  $(if $(filter none,$(VENV)),,--constraint constraints.txt) --editable '.[decord,dev,notebooks]'
	@if nvidia-smi -L >/dev/null 2>&1 && ! $(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  echo "there is a GPU, but this torch cannot use it: rm -r $(VENV), then" \
	    "make install TORCH_INDEX=https://download.pytorch.org/whl/cu130 (or the one of your driver)"; fi
	@mkdir -p $(@D) && touch $@

.PHONY: data
data: $(INSTALLED) ## the physics world in data/: videos with their truth, and matched blocks
	@$(WORLDMODEL) generate --out $(PHYSICS) $(PHYSICS_ARGS)
	@$(if $(MORE),$(WORLDMODEL) generate --out $(MORE) $(MORE_ARGS))

.PHONY: train
train: $(INSTALLED) ## train, evaluate and show  [CONFIG=configs/x.yaml] [DATA=folder of videos]
ifeq ($(NAME),large)
	@ls data/videos-288/train/*.tar >/dev/null 2>&1 || { echo "configs/large.yaml learns from real videos, and" \
	  "data/videos-288 holds none: make train CONFIG=configs/large.yaml DATA=folder-of-videos"; exit 1; }
endif
	@echo "configuration: $(CONFIG)$(if $(HAS_GPU), ($(HAS_GPU)), (no GPU found))"
	@echo "data: $(PHYSICS), $(PHYSICS_SAYS), made once"
	@$(MAKE) --no-print-directory data
ifneq ($(DATA),)
	@$(WORLDMODEL) pack '$(DATA)' --out $(PACKED) --size $(PACK_SIZE)
endif
	@$(WORLDMODEL) fit --config $(CONFIG) $(FIT_ARGS) --ckpt_path unfinished
	@$(MAKE) --no-print-directory report

.PHONY: report
report: $(INSTALLED)
	@test -n "$(LAST)" || { echo "no run under runs/$(NAME): make train first"; exit 1; }
	@$(WORLDMODEL) evaluate --checkpoint $(LAST) --data $(PHYSICS) \
	  --out $(patsubst %/checkpoints/last.ckpt,%/report,$(LAST))

# What comes with the package, unless CKPT is a checkpoint, an export or another shipped name.
SHIPPED = small
.PHONY: eval
eval: CKPT ?= $(SHIPPED)
eval: $(INSTALLED) ## measure a checkpoint, or the shipped model  [CKPT=file] [OUT=folder]
	@$(MAKE) --no-print-directory data
	@$(WORLDMODEL) evaluate --checkpoint $(CKPT) --out $(or $(OUT),$(if \
	  $(findstring /checkpoints/,$(CKPT)),$(patsubst %/checkpoints/,%/report,$(dir $(CKPT))),runs/$(notdir $(CKPT:/=))-report))

# A process for each core; threads of their own would only wait for each other.
TEST = OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses auto --dist loadfile

.PHONY: test
test: $(INSTALLED) ## the tests, under 10 minutes
	@$(TEST) -m 'not slow'

.PHONY: test-all
test-all: $(INSTALLED) ## the long proofs too, on a Ray cluster of this machine as well; about 15 minutes
	@$(PYTHON) -c 'import ray' 2>/dev/null || $(PYTHON) -m pip install --quiet \
	  --disable-pip-version-check $(if $(filter none,$(VENV)),,--constraint constraints.txt) --editable '.[ray]'
	@$(TEST)

.PHONY: bench
bench: $(INSTALLED) ## speed against others in the same run  [BENCH=generate|loader|train|plan] [OUT=file.json]
	@$(WORLDMODEL) bench $(or $(BENCH),generate) $(if $(OUT),--out $(OUT))

.PHONY: ablation
ablation: $(INSTALLED) ## train and compare variants of the recipe, hours  [ONLY=question ...]
	@$(WORLDMODEL) ablate --study configs/ablation.yaml --out ablation --jobs 2 \
	  $(if $(ONLY),--only $(ONLY))

# Loaders that cannot live beside ours: `bench loader` finds them here, or by PEERS_PYTHON.
PEERS = .venv-peers
.PHONY: bench-peers
bench-peers: $(PEERS)/installed ## other loaders for BENCH=loader, in .venv-peers/ (1.3 GB)

$(PEERS)/installed: constraints.txt
	@test -x $(PEERS)/bin/python || python3 -m venv $(PEERS)
	@echo '*' >$(PEERS)/.gitignore
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep -oE '^torch==[^ ]+' constraints.txt)"
	@# torchcodec 0.13.0: later wheels are built for CUDA only; it wants the system's FFmpeg.
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt av decord numpy webdataset \
	  torchcodec==0.13.0 megatron-energon==7.4.1 litdata==0.2.76
	@# litdata brings a torchvision for CUDA, which torchcodec's transforms fail to import.
	@$(PEERS)/bin/python -m pip uninstall --quiet --yes --disable-pip-version-check torchvision
	@command -v ffmpeg >/dev/null || echo "torchcodec also needs FFmpeg: apt-get install ffmpeg"
	@touch $@

.PHONY: notebooks
notebooks: $(INSTALLED) ## run every notebook on the shipped model and store its outputs
	@$(MAKE) --no-print-directory data
	@# No times and no paths of this machine in what is stored; a cell that fails ends the loop,
	@# also one whose error a notebook would say in a sentence.
	@for notebook in notebooks/*.ipynb; do \
	  echo $$notebook; \
	  WORLDMODEL_STRICT_NOTEBOOKS=1 PYTHONWARNINGS='ignore:IProgress not found' \
	    $(PYTHON) -m nbconvert --log-level WARN \
	    --ExecutePreprocessor.record_timing=False --to notebook --execute --inplace $$notebook; done

# A page that was taken away must not stay, and one that was not touched must warn again.
SITE = $(PYTHON) -m sphinx --fail-on-warning --keep-going --fresh-env --quiet
.PHONY: docs
docs: $(INSTALLED) ## these pages as a site, in build/docs/  [LINKS=1 asks the sites it links to as well]
	@$(PYTHON) -c 'import furo, myst_parser, sphinx, sphinx_copybutton' 2>/dev/null || \
	  $(PYTHON) -m pip install --quiet --disable-pip-version-check \
	  $(if $(filter none,$(VENV)),,--constraint constraints.txt) --editable '.[docs]'
	@rm -rf build/docs
	@$(SITE) --builder html docs build/docs
	@$(if $(LINKS),$(SITE) --builder linkcheck docs build/links)
	@echo "site: build/docs/index.html"

.PHONY: figures
figures: $(INSTALLED) ## the pictures of README.md, from the model in the package
	@$(MAKE) --no-print-directory data
	@$(PYTHON) -m worldmodel.viewing.story
	@$(MAKE) --no-print-directory eval OUT=build/report
	@cp build/report/figures/{depth_strip,report_card}.png docs/figures/

.PHONY: lab
lab: $(INSTALLED) ## open the notebooks in JupyterLab, with this environment as their kernel
	@$(PYTHON) -m ipykernel install --sys-prefix --name worldmodel --display-name worldmodel >/dev/null
	@PYTHONWARNINGS='ignore:IProgress not found' $(PYTHON) -m jupyterlab --ServerApp.root_dir=notebooks $(LAB_ARGS)

.PHONY: lint
lint: $(INSTALLED) ## style and types
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

.PHONY: format
format: $(INSTALLED) ## put the code in shape
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .
