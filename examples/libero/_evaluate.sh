# Sourced by the run_*.sh scripts after they have exported their recipe: quantizes CKPT and evaluates the pack.
#
#   CKPT            checkpoint folder; unset: tiny-libero, the policy that comes with the package
#   POLICY_CONFIG   what an openpi folder holds (default pi05_libero); tiny-libero says it itself
#   PYTHON          interpreter; default: the repository's .venv if `make setup` made one, else python3
#
# Arguments go on to main.py, after the script's own, so that they win. --args.compile asks for torch.compile, which any
# of the three variables at the end of a script forbids.

# What the caller exported (_caller.sh) goes before the values of the script, and that is said.
another_recipe=no own_packdir=no
for ((i = 0; i < ${#caller_names[@]}; i++)); do
  name="${caller_names[i]}" value="${caller_values[i]}"
  if [ "${!name-unset}" != "$value" ]; then
    echo "$name=$value: as you exported it (this script: ${!name-unset})" >&2
    case "$name" in
      OPENPI_DUQUANT_PACKDIR) own_packdir=yes ;;
      OPENPI_DUQUANT_DEBUG | OPENPI_DUQUANT_DRYRUN) ;;
      OPENPI_DUQUANT_*) another_recipe=yes ;;
    esac
  fi
  export "$name=$value"
done
if [ "$another_recipe$own_packdir" = yesno ]; then
  echo "the pack still goes to ${OPENPI_DUQUANT_PACKDIR-}; export OPENPI_DUQUANT_PACKDIR for a folder of its own" >&2
fi

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

if [ -z "${PYTHON:-}" ]; then
  PYTHON="$here/../../.venv/bin/python"
  [ -x "$PYTHON" ] || PYTHON=python3
fi

CKPT="${CKPT:-tiny-libero}"
if [ "$CKPT" = tiny-libero ]; then
  POLICY_CONFIG=tiny_libero
fi

exec "$PYTHON" "$here/main.py" \
  --args.headless \
  --args.compile \
  --args.policy-config "${POLICY_CONFIG:-pi05_libero}" \
  --args.policy-dir "$CKPT" \
  --args.task-suite-name libero_spatial \
  --args.num-trials-per-task 10 \
  "$@"
