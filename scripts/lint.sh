#!/usr/bin/env bash
# Every check that runs no code of ours, with the tools that come first on PATH. Run by `make lint` and by CI.
set -euo pipefail
cd "$(dirname "$0")/.."

checked=(src tests scripts examples benchmarks plugins)
ruff check --no-cache "${checked[@]}"
ruff format --check "${checked[@]}"
mypy

# Schemas that come with check-jsonschema: nothing is downloaded.
schema() { check-jsonschema --quiet --builtin-schema "vendor.$1" "${@:2}"; }
schema github-workflows .github/workflows/*.yml
schema github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
schema github-issue-config .github/ISSUE_TEMPLATE/config.yml
schema citation-file-format CITATION.cff
