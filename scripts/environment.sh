# From a fresh machine to a working .venv: the functions start.sh and test.sh share.
#
# Sourced by bash, with the project's folder as current directory. Every failure ends in `fail`: one sentence in each
# language, and the place of the log, where the words of pip and its compilers go.

LOG=logs/setup.log
STEP_BEGAN=1 # the line of $LOG at which the output of the latest step begins
DEMO_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf
trap 'exit 130' INT # once the running step has ended itself: an interruption is no failure to explain

# --- words --------------------------------------------------------------------------------------------------------

# The same sentence in Chinese ($1) and English ($2), the user's language first.
say() {
    local locale=${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}
    if [[ $locale == zh* ]]; then printf '%s\n%s\n' "$1" "$2"; else printf '%s\n%s\n' "$2" "$1"; fi
}

fail() {
    say "$1" "$2" >&2
    exit 1
}

# --- steps that take long -----------------------------------------------------------------------------------------

# Shows that time passes while a step runs: each second on a terminal, each minute elsewhere.
tick() {
    local since=$SECONDS seconds last
    while sleep 1 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        seconds=$((SECONDS - since))
        last=$(tail -n 1 "$LOG" 2>/dev/null | tr -d '\r\033') || last=
        if [[ -t 1 ]]; then
            printf '\r\033[K  %d:%02d  %s' $((seconds / 60)) $((seconds % 60)) "${last:0:60}"
        elif ((seconds > 0 && seconds % 60 == 0)); then
            printf '  %d min  %s\n' $((seconds / 60)) "${last:0:60}"
        fi
    done
}

# Says what happens ($1, $2), then runs the command that follows with its output in the log; its status is ours.
step() {
    local status=0 ticking
    say "$1" "$2"
    mkdir -p "${LOG%/*}"
    printf '\n== %s\n' "$2" >>"$LOG"
    STEP_BEGAN=$(wc -l <"$LOG")
    tick 9>&- & # without the lock of ensure_requirements, which its sleep would outlive
    ticking=$!
    # In the foreground, so that Ctrl-C reaches it: bash makes what runs in the background deaf to it.
    "${@:3}" >>"$LOG" 2>&1 || status=$?
    kill "$ticking" 2>/dev/null && wait "$ticking" 2>/dev/null
    [[ ! -t 1 ]] || printf '\r\033[K'
    return "$status"
}

# Whether the output of the latest step matches the extended regular expression $1.
step_said() {
    # No pipe: under pipefail, grep leaving at the first match would make it fail.
    grep -Eq -- "$1" < <(tail -n +"$STEP_BEGAN" "$LOG")
}

NO_NETWORK='Temporary failure in name resolution|Name or service not known|nodename nor servname|NameResolutionError'
NO_NETWORK+='|Failed to establish a new connection|NewConnectionError|Network is unreachable|Connection refused'
NO_NETWORK+='|ConnectTimeout|Read timed out|ProxyError|SSLError|Temporary failure resolving|Could not resolve'

# Ends with the reason the latest step failed, read from its output. $1 and $2 name what could not be done.
explain_failure() {
    local log=$PWD/$LOG last
    if step_said 'No space left on device|Errno 28'; then
        fail "$1：磁盘已满。请腾出空间后重试；详情见 $log" "$2: the disk is full. Free some space and try again; details are in $log"
    elif step_said 'Killed signal|signal: 9|Killed +\(program'; then
        fail "$1：编译 llama.cpp 时内存不足。请设置 CMAKE_BUILD_PARALLEL_LEVEL=1 后重试；详情见 $log" \
            "$2: there was too little memory to compile llama.cpp. Set CMAKE_BUILD_PARALLEL_LEVEL=1 and try again; details are in $log"
    elif step_said 'CMAKE_C(XX)?_COMPILER|(building wheel for|build wheels? for|to build).*llama.cpp'; then
        fail "$1：编译 llama.cpp 失败。请确认 C++ 编译器可用（Debian/Ubuntu：apt install g++）；编译器的输出见 $log" \
            "$2: llama.cpp did not compile. Make sure a C++ compiler works (Debian/Ubuntu: apt install g++); what it said is in $log"
    elif step_said "$NO_NETWORK|from versions: none"; then
        fail "$1：无法访问软件包索引。请检查网络，或用环境变量 PIP_INDEX_URL 指定一个 PyPI 镜像；详情见 $log" \
            "$2: the package index cannot be reached. Check the network, or name a PyPI mirror in PIP_INDEX_URL; details are in $log"
    fi
    last=$(tail -n +"$STEP_BEGAN" "$LOG" | grep -Ei '^(error|E:)' | tail -n 1) || last=$(tail -n 1 "$LOG")
    fail "$1（${last:0:200}）。详情见 $log" "$2 (${last:0:200}). Details are in $log"
}

# --- the interpreter ----------------------------------------------------------------------------------------------

# "3.11" for an interpreter that runs; fails for one that does not, such as a pyenv shim without its Python.
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints the interpreter to build .venv with: $PYTHON if set, else the first that suits.
choose_python() {
    local candidate version unsuitable='' without_venv=''
    local -a candidates=(python3.11 python3.12 python3.13 python3.10 python3)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        version=$(version_of "$candidate") || continue
        if [[ ! $version =~ ^3\.1[0-3]$ ]]; then
            unsuitable+=" $candidate=$version"
        elif ! "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            without_venv=${without_venv:-$version}
        else
            printf '%s\n' "$candidate"
            return
        fi
    done
    [[ -z $without_venv ]] || fail \
        "Python $without_venv 缺少 venv 模块。在 Debian/Ubuntu 上请运行：apt install python$without_venv-venv" \
        "Python $without_venv lacks its venv module. On Debian/Ubuntu run: apt install python$without_venv-venv"
    fail "需要 Python 3.10 至 3.13，但没有找到（找到的有：${unsuitable:- 无}）。请安装 Python 3.11，或用环境变量 PYTHON 指定解释器。" \
        "Python 3.10 to 3.13 is needed, but there is none (found:${unsuitable:- nothing}). Install Python 3.11, or name an interpreter in PYTHON."
}

# --- .venv --------------------------------------------------------------------------------------------------------

# Whether .venv has an interpreter that runs (the Python it was made with may be gone) and pip.
venv_works() {
    [[ $(version_of .venv/bin/python) =~ ^3\.1[0-3]$ ]] && .venv/bin/python -c 'import pip' 2>/dev/null
}

# An installation that was killed half-way leaves .venv/unfinished behind; what it left cannot be trusted.
ensure_venv() {
    if venv_works && [[ ! -e .venv/unfinished ]]; then return; fi
    local python
    python=$(choose_python)
    step "正在创建 Python 环境 .venv……" "Making the Python environment .venv ..." "$python" -m venv --clear .venv ||
        explain_failure "无法创建 .venv" "Could not make .venv"
}

# What must be equal for an installation of requirements file $1 to be up to date; fails without a working .venv.
fingerprint() {
    .venv/bin/python -c '
import hashlib, sys
print("%d.%d" % sys.version_info[:2], hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1" 2>/dev/null
}

installed() {
    local now
    [[ ! -e .venv/unfinished ]] && now=$(fingerprint "$1") && [[ $now == "$(cat ".venv/installed-$1" 2>/dev/null)" ]]
}

has_package() {
    compgen -G ".venv/lib/python3*/site-packages/$1-*" >/dev/null
}

has_compiler() {
    local candidate
    for candidate in "${CXX:-c++}" g++ clang++; do
        # CXX may hold arguments too, as in "ccache g++".
        if command -v "${candidate%% *}" >/dev/null; then return; fi
    done
    return 1
}

# Whether the disk takes what is to be installed: torch and its like need 3 GB, anything after that little.
check_disk() {
    local needed=3000 free
    if has_package torch; then needed=500; fi
    # Matched from the percent sign, since the name of the file system may hold spaces.
    [[ $(df -Pk . 2>/dev/null) =~ [[:space:]]([0-9]+)[[:space:]]+[0-9]+% ]] || return 0
    free=$((BASH_REMATCH[1] / 1000))
    ((free >= needed)) || fail "磁盘空间不足：安装需要约 $needed MB，$PWD 所在磁盘只剩 $free MB。" \
        "Too little disk space: the installation needs about $needed MB, and $free MB are free where $PWD is."
}

pip_install() {
    # A configuration that asks for --user would be refused inside .venv.
    PIP_USER=0 .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"
}

# Without a compiler, a ready-made llama-cpp-python will do, if the index in use has one for this machine.
ensure_llama_or_compiler() {
    local pin
    pin=$(grep -E '^llama-cpp-python' "$1") || return 0
    if has_package llama_cpp_python || has_compiler; then return; fi
    step "没有找到 C++ 编译器，正在查找预编译的 llama-cpp-python……" \
        "There is no C++ compiler; looking for a ready-made llama-cpp-python ..." \
        pip_install --retries 1 --no-deps --only-binary :all: "$pin" && return # pip names the network when it retries
    if step_said "$NO_NETWORK"; then explain_failure "无法安装所需的软件包" "Could not install the packages"; fi
    rm -f .venv/unfinished
    fail "没有找到 C++ 编译器，编译 llama.cpp 需要它。在 Debian/Ubuntu 上请运行：apt install g++" \
        "There is no C++ compiler, which llama.cpp needs. On Debian/Ubuntu run: apt install g++"
}

# Once pip begins to write, what it leaves is neither the old environment nor the new one; before that it is the old.
forget_if_untouched() {
    step_said '^Installing collected packages' || rm -f .venv/unfinished
}

# Installs requirements file $1 unless that has been done; further arguments go to pip.
install() {
    if installed "$1"; then return; fi
    check_disk
    ensure_venv
    touch .venv/unfinished
    trap 'forget_if_untouched; exit 130' INT
    ensure_llama_or_compiler "$1"
    local zh="正在安装 $1 中的软件包，首次需要几分钟……" en="Installing the packages of $1; the first time takes some minutes ..."
    if grep -q '^llama-cpp-python' "$1" && ! has_package llama_cpp_python; then
        zh="正在安装 $1 中的软件包；首次需要编译 llama.cpp，双核机器约 10 分钟……"
        en="Installing the packages of $1; compiling llama.cpp, the first time, takes about 10 minutes on two cores ..."
    fi
    if ! step "$zh" "$en" pip_install -r "$@"; then
        forget_if_untouched
        explain_failure "无法安装所需的软件包" "Could not install the packages"
    fi
    trap 'exit 130' INT
    fingerprint "$1" >".venv/installed-$1"
    rm -f .venv/unfinished
}

# One installation at a time: a second start waits for the first instead of writing into the same .venv.
ensure_requirements() {
    if installed "$1"; then return; fi
    mkdir -p "${LOG%/*}"
    if command -v flock >/dev/null; then
        exec 9>"${LOG%/*}/setup.lock"
        flock -n 9 || say "另一个安装正在进行，等待其完成……" "Another installation is under way; waiting for it ..."
        flock 9
    fi
    install "$@"
    exec 9>&-
}

# Installs what loader $1 needs beside the main environment, into its overlays; at once, if they are there.
ensure_overlay() {
    step "正在准备加载器 $1 的软件包……" "Getting the packages of the loader $1 ready ..." \
        .venv/bin/python server.py --install "$1" && return
    explain_failure "无法安装加载器 $1 的软件包" "Could not install the packages of the loader $1"
}

# --- the demo model -----------------------------------------------------------------------------------------------

has_model() {
    [[ -n $(find -L models -type f \( -iname '*.gguf' -o -iname '*.safetensors' -o -iname '*.bin' \) 2>/dev/null) ]]
}

# Puts the demo model into models/ if no model is there.
ensure_demo_model() {
    if has_model; then return; fi
    step "models/ 中还没有模型，正在下载演示模型 $DEMO_MODEL（98 MB）……" \
        "There is no model in models/ yet; fetching the demo model $DEMO_MODEL (98 MB) ..." \
        .venv/bin/python scripts/demo_model.py "models/$DEMO_MODEL" && return
    if step_said 'differs from the file that was published'; then
        fail "演示模型校验失败，已丢弃。请重试，或加 --no-demo 启动；详情见 $PWD/$LOG" \
            "The demo model failed its check and was thrown away. Try again, or start with --no-demo; details are in $PWD/$LOG"
    fi
    explain_failure "无法取得演示模型（加 --no-demo 可跳过）" "Could not fetch the demo model (--no-demo does without it)"
}
