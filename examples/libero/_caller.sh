# Sourced first by the run_*.sh scripts: takes the variables that the caller has exported out of their way. They win over
# the scripts' own values: _evaluate.sh puts them back and says so.

caller_dryrun="${OPENPI_DUQUANT_DRYRUN:-0}"
caller_names=()
caller_values=()
for name in $(compgen -e); do
  case "$name" in
    OPENPI_DUQUANT_* | OPENPI_DISABLE_TORCH_COMPILE | TORCH_COMPILE_DISABLE | TORCHDYNAMO_DISABLE)
      caller_names+=("$name")
      caller_values+=("${!name}")
      unset "$name"
      ;;
  esac
done
