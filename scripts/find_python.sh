# Sourced by start.sh and test.sh in the project's folder. Sets $python to the interpreter for the setup: that of .venv if
# it works. The rest of the setup is written in Python.
#
# Exits with a message if there is no Python 3.10 to 3.13 with the module venv.

say() {
    local locale=${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}
    if [[ $locale == zh* ]]; then printf '%s\n%s\n' "$1" "$2"; else printf '%s\n%s\n' "$2" "$1"; fi
}

# Prints "3.11 venv" for an interpreter that runs; only "3.11" if it cannot create environments.
describe_python() {
    "$1" -c '
import sys
try:
    import ensurepip, venv
    suffix = " venv"
except ImportError:
    suffix = ""
print("%d.%d%s" % (*sys.version_info[:2], suffix))' 2>/dev/null
}

find_python() {
    local candidate description unsuitable='' without_venv=''
    local -a candidates=(python3.11 python3.12 python3.13 python3.10 python3)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        description=$(describe_python "$candidate") || continue # for example a pyenv shim without its Python
        case $description in
            "3.1"[0-3]" venv") python=$candidate && return ;;
            "3.1"[0-3]) without_venv=${without_venv:-$description} ;;
            *) unsuitable+=" $candidate=${description% venv}" ;;
        esac
    done
    if [[ -n $without_venv ]]; then
        say "Python $without_venv 缺少 venv 模块。在 Debian/Ubuntu 上请运行：apt install python$without_venv-venv" \
            "Python $without_venv lacks its venv module. On Debian/Ubuntu run: apt install python$without_venv-venv" >&2
    else
        say "需要 Python 3.10 至 3.13，但未找到（现有：${unsuitable:- 无}）。请安装 Python 3.11，或用环境变量 PYTHON 指定解释器。" \
            "Python 3.10 to 3.13 is required but was not found (found:${unsuitable:- none}). Install Python 3.11, or set PYTHON to an interpreter." >&2
    fi
    exit 1
}

python=.venv/bin/python
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || find_python
