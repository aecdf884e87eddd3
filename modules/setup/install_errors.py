"""Map the output of pip, CMake and the compiler to a known cause and a remedy."""

from __future__ import annotations

import re

from modules.core.errors import Words

DISK_FULL: Words = {"en": "the disk is full. Free some space and try again.", "zh": "磁盘已满。请腾出空间后重试。"}
NO_NETWORK: Words = {
    "en": "the package index cannot be reached. Check the network, or set PIP_INDEX_URL to a PyPI mirror.",
    "zh": "无法访问软件包索引。请检查网络，或用环境变量 PIP_INDEX_URL 指定一个 PyPI 镜像。",
}
NO_VERSION: Words = {
    "en": "the package index has no version for this Python and machine.",
    "zh": "软件包索引中没有适合此 Python 和系统的版本。",
}
NO_COMPILER: Words = {
    "en": "no C++ compiler was found. On Debian/Ubuntu run: apt install g++",
    "zh": "没有找到 C++ 编译器。在 Debian/Ubuntu 上请运行：apt install g++",
}
OUT_OF_MEMORY: Words = {
    "en": "the compiler ran out of memory. Close other programs and try again; "
    "the files will then be compiled one at a time.",
    "zh": "编译时内存不足。请关闭其他程序后重试，届时将逐个文件编译。",
}
COMPILE_FAILED: Words = {
    "en": "the compiler reported an error. Check that a working C++17 compiler is installed. Its output follows.",
    "zh": "编译出错。请确认 C++17 编译器可用。编译器输出如下。",
}
DENIED: Words = {
    "en": "a file could not be written or run. Check that the program's folder belongs to you and is not read-only.",
    "zh": "有文件无法写入或运行。请确认程序所在文件夹属于当前用户，且不是只读的。",
}
UNKNOWN: Words = {"en": "pip failed; its output follows.", "zh": "pip 执行失败，其输出如下。"}

# The first match counts. Network errors come before a missing version: pip reports a missing version after both.
CAUSES: tuple[tuple[str, Words], ...] = (
    (r"No space left on device|Errno 28\b|Disk quota exceeded", DISK_FULL),
    (
        r"Killed signal|(?m:^\s*Killed\s*$)|signal: 9\b|Killed +\(program|virtual memory exhausted"
        r"|out of memory allocating",
        OUT_OF_MEMORY,
    ),
    (r"No CMAKE_C(XX)?_COMPILER could be found|CMAKE_C(XX)?_COMPILER not set", NO_COMPILER),
    (
        r"NewConnectionError|NameResolutionError|Failed to establish a new connection|ConnectTimeout|Read timed out"
        r"|ProxyError|SSLError|Network is unreachable|Connection refused|Connection aborted"
        r"|Temporary failure in name resolution|Name or service not known|nodename nor servname|Could not resolve",
        NO_NETWORK,
    ),
    (
        r"Failed building wheel for|Failed to build|CMake build failed|CMake configuration failed"
        r"|\.(cpp|h):\d+:\d+: (fatal )?error: |collect2: error: |linker command failed",
        COMPILE_FAILED,
    ),
    (r"No matching distribution found", NO_VERSION),
    (r"\[Errno (13|30)\]", DENIED),
)


def explain(output: str) -> Words | None:
    """Return the cause and its remedy; None if the output matches no known cause."""
    return next((cause for pattern, cause in CAUSES if re.search(pattern, output)), None)
