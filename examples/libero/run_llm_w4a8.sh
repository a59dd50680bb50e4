#!/usr/bin/env bash
# W4A8 for the language model alone, the largest part: the one to begin with.
#
#   bash examples/libero/run_llm_w4a8.sh [--args.num-trials-per-task 20 …]
#
# What you export wins over the values below: OPENPI_DUQUANT_WBITS_DEFAULT=8 before the command, or
# OPENPI_DUQUANT_DRYRUN=1, which lists the layers and stops. See _evaluate.sh for CKPT and the rest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_caller.sh"

export OPENPI_DUQUANT_SCOPE="paligemma_with_expert.paligemma.language_model."
export OPENPI_DUQUANT_WBITS_DEFAULT=4
export OPENPI_DUQUANT_ABITS=8
export OPENPI_DUQUANT_BLOCK=16
export OPENPI_DUQUANT_PERMUTE=1
export OPENPI_DUQUANT_ROW_ROT=restore
export OPENPI_DUQUANT_ACT_PCT=99.9
export OPENPI_DUQUANT_CALIB_STEPS=32
export OPENPI_DUQUANT_LS=0.15
export OPENPI_DUQUANT_PACKDIR="duquant_packed_llm_w4a8"

# torch.compile: off, because compiling takes longer than a first look. To switch it on, write unset NAME in these three
# lines, or export all three as 0.
export OPENPI_DISABLE_TORCH_COMPILE=1
export TORCH_COMPILE_DISABLE=1
export TORCHDYNAMO_DISABLE=1

source "$(dirname "${BASH_SOURCE[0]}")/_evaluate.sh"
