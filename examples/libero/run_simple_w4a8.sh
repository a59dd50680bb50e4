#!/usr/bin/env bash
# W4A8 for the action expert (DiT) alone, without permutation or rotation: the quick test. It plays the float policy on
# the same episodes, as the baseline for this script and the others; --args.no-baseline leaves that out.
#
#   bash examples/libero/run_simple_w4a8.sh [--args.num-trials-per-task 20 …]
#
# What you export wins over the values below: OPENPI_DUQUANT_WBITS_DEFAULT=8 before the command, or
# OPENPI_DUQUANT_DRYRUN=1, which lists the layers and stops. See _evaluate.sh for CKPT and the rest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_caller.sh"

export OPENPI_DUQUANT_SCOPE="paligemma_with_expert.gemma_expert.model."
export OPENPI_DUQUANT_WBITS_DEFAULT=4
export OPENPI_DUQUANT_ABITS=8
export OPENPI_DUQUANT_BLOCK=16
export OPENPI_DUQUANT_PERMUTE=0
export OPENPI_DUQUANT_ROW_ROT=0
export OPENPI_DUQUANT_ACT_PCT=99.9
export OPENPI_DUQUANT_CALIB_STEPS=32
export OPENPI_DUQUANT_LS=0.15
export OPENPI_DUQUANT_PACKDIR="duquant_packed_w4a8_simple"

# torch.compile: off, because compiling takes longer than a first look. To switch it on, write unset NAME in these three
# lines, or export all three as 0.
export OPENPI_DISABLE_TORCH_COMPILE=1
export TORCH_COMPILE_DISABLE=1
export TORCHDYNAMO_DISABLE=1

set -- --args.baseline "$@"
source "$(dirname "${BASH_SOURCE[0]}")/_evaluate.sh"
