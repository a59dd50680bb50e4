# Sourced by the run_*.sh scripts after they have exported their recipe: quantizes CKPT and evaluates the pack.
#
#   CKPT            checkpoint folder; unset: tiny-libero, the policy that comes with the package
#   POLICY_CONFIG   what an openpi folder holds (default pi05_libero); tiny-libero says it itself
#   PYTHON          interpreter; default: the repository's .venv if `make setup` made one, else python3
#
# Arguments go on to main.py, after the script's own, so that they win.

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
  --args.policy-config "${POLICY_CONFIG:-pi05_libero}" \
  --args.policy-dir "$CKPT" \
  --args.task-suite-name libero_spatial \
  --args.num-trials-per-task 10 \
  "$@"
