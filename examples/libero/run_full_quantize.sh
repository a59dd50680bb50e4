#!/usr/bin/env bash
# W4A8 for everything: vision tower, projector, language model and action expert. It asks before it begins, except for a
# dry run.
#
#   bash examples/libero/run_full_quantize.sh [--yes] [--args.num-trials-per-task 20 …]
#
# What you export wins over the values below: OPENPI_DUQUANT_WBITS_DEFAULT=8 before the command, or
# OPENPI_DUQUANT_DRYRUN=1, which lists the layers and stops. See _evaluate.sh for CKPT and the rest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_caller.sh"

confirmed=no
arguments=()
for argument in "$@"; do
  if [ "$argument" = --yes ]; then confirmed=yes; else arguments+=("$argument"); fi
done
if [ "$confirmed" = no ] && [ "$caller_dryrun" != 1 ]; then
  echo "This quantizes every linear layer of the transformers and the projector (415 in pi0.5), the recipe with the" >&2
  echo "largest saving and the largest risk. If accuracy suffers, take run_llm_w4a8.sh instead." >&2
  printf 'Go on? [y/N] ' >&2
  # One line from standard input, terminal or not; the last line of a file may lack its newline.
  read -r answer || [ -n "${answer:-}" ] || { echo "no answer: nothing was done (--yes skips the question)" >&2; exit 2; }
  case "$answer" in
    y | Y | yes | YES | Yes) ;;
    *) echo "'$answer' is not y or yes: nothing was done" >&2; exit 2 ;;
  esac
fi
set -- ${arguments[@]+"${arguments[@]}"}

export OPENPI_DUQUANT_SCOPE="paligemma_with_expert."
export OPENPI_DUQUANT_WBITS_DEFAULT=4
export OPENPI_DUQUANT_ABITS=8
export OPENPI_DUQUANT_BLOCK=16
export OPENPI_DUQUANT_PERMUTE=1
export OPENPI_DUQUANT_ROW_ROT=restore
export OPENPI_DUQUANT_ACT_PCT=99.9
export OPENPI_DUQUANT_CALIB_STEPS=32
export OPENPI_DUQUANT_LS=0.15
export OPENPI_DUQUANT_PACKDIR="duquant_packed_full_w4a8"

# torch.compile: off, because compiling takes longer than a first look. To switch it on, write unset NAME in these three
# lines, or export all three as 0.
export OPENPI_DISABLE_TORCH_COMPILE=1
export TORCH_COMPILE_DISABLE=1
export TORCHDYNAMO_DISABLE=1

source "$(dirname "${BASH_SOURCE[0]}")/_evaluate.sh"
