"""Map backend exceptions to a known cause and a remedy."""

from __future__ import annotations

import re

from modules.core.errors import Words
from modules.core.worker_errors import UNNAMED

CAUSES: tuple[tuple[str, Words], ...] = (
    (
        r"unknown model architecture: '([^']*)'|model type `([^`]*)` but Transformers does not recognize",
        {
            "en": "the installed version does not support its architecture ({0}). Newer models need newer packages.",
            "zh": "已安装的版本不支持其架构（{0}）。较新的模型需要更新软件包。",
        },
    ),
    (
        r"takes no KV cache|uses cache of its own|'(?:Dynamic|EncoderDecoder)Cache' object (?:has no|is not)",
        {
            "en": "its architecture cannot use the KV cache of this loader. Use another loader, or a GGUF version of "
            "the model.",
            "zh": "此架构无法使用该加载器的 KV 缓存。请改用其他加载器，或此模型的 GGUF 版本。",
        },
    ),
    (
        r"unknown pre-tokenizer type: '([^']*)'",
        {
            "en": "the installed version does not support its tokenizer ({0}). Newer models need newer packages.",
            "zh": "已安装的版本不支持其词符化器（{0}）。较新的模型需要更新软件包。",
        },
    ),
    (
        r"Failed to find C compiler|Python\.h: No such file",
        {
            "en": "kernels are compiled at their first use, but a C compiler or Python's headers are missing. On "
            "Debian and Ubuntu: apt install build-essential python3-dev",
            "zh": "首次使用时须编译内核，但缺少 C 编译器或 Python 的头文件。Debian 和 Ubuntu 上的安装命令：apt "
            "install build-essential python3-dev",
        },
    ),
    (
        r"Cannot find a working triton",
        {
            "en": "Triton is missing, with which PyTorch compiles kernels for a GPU. On Windows: pip install "
            "triton-windows",
            "zh": "缺少 Triton（PyTorch 用它为 GPU 编译内核）。Windows 上的安装命令：pip install triton-windows",
        },
    ),
    (
        r"\['where', 'cl'\]|MSVC is required|Cannot find compiler 'cl\.exe'",
        {
            "en": "its kernels must be compiled first, but Microsoft's C++ compiler (cl.exe) was not found. Install "
            "the Build Tools for Visual Studio, and start this program from their x64 Native Tools prompt.",
            "zh": "首次加载须编译内核，但找不到微软的 C++ 编译器（cl.exe）。请安装 Visual Studio 生成工具，并在其 x64 "
            "Native Tools 命令提示符中启动本程序。",
        },
    ),
    (
        r"CUDA_HOME environment variable|nvcc.*(?:not found|No such file)|Ninja is required",
        {
            "en": "its kernels must be compiled first, but the CUDA toolkit (nvcc) or ninja is missing. Install the "
            "toolkit of PyTorch's CUDA version, and a C++ compiler.",
            "zh": "首次加载须编译内核，但缺少 CUDA toolkit（nvcc）或 ninja。请安装与 PyTorch 的 CUDA 版本一致的 "
            "toolkit 以及 C++ 编译器。",
        },
    ),
    (
        r"torch\.version\.cuda is None|Torch not compiled with CUDA|Found no NVIDIA driver",
        {
            "en": "it needs a PyTorch that is built for CUDA, and the NVIDIA driver. The installed PyTorch is not, or "
            "finds no driver.",
            "zh": "它需要支持 CUDA 的 PyTorch 和 NVIDIA 驱动，而已安装的 PyTorch 不支持 CUDA，或未找到驱动。",
        },
    ),
    (
        r"No CUDA GPUs are available",
        {
            "en": "PyTorch finds no GPU. Check the output of nvidia-smi, and whether CUDA_VISIBLE_DEVICES hides the "
            "GPU.",
            "zh": "PyTorch 找不到 GPU。请查看 nvidia-smi 的输出，以及 GPU 是否被 CUDA_VISIBLE_DEVICES 隐藏。",
        },
    ),
    (
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient",
        {
            "en": "the NVIDIA driver is too old for the installed PyTorch. Update the driver.",
            "zh": "NVIDIA 驱动版本过旧，与已安装的 PyTorch 不兼容。请更新驱动。",
        },
    ),
    (
        r"no kernel image is available",
        {
            "en": "the installed PyTorch, or a compiled package, does not support this generation of GPUs. Install a "
            "version that does.",
            "zh": "已安装的 PyTorch 或某个已编译的软件包不支持这一代 GPU。请安装支持它的版本。",
        },
    ),
    (
        r"Error building extension '|error compiling objects for extension|kernels are not properly installed",
        {
            "en": "its kernels could not be compiled; the log has the compiler's message. Common reasons: nvcc and "
            "PyTorch have different CUDA versions, or the C++ compiler is too new for nvcc.",
            "zh": "内核编译失败，编译器的报错见日志。常见原因：nvcc 与 PyTorch 的 CUDA 版本不同，或 C++ 编译器过新，"
            "nvcc 不支持。",
        },
    ),
    (
        r"\.so: undefined symbol|lib(?:c10|torch)_cuda\S*: cannot open|libcudart\S*: cannot open"
        r"|DLL load failed while importing|exllamav2_ext' is not defined",
        {
            "en": "a compiled package, such as flash-attn, was built for another PyTorch. Uninstall it, or install "
            "the build for this PyTorch.",
            "zh": "某个已编译的软件包（例如 flash-attn）是为其他版本的 PyTorch 构建的。请卸载它，或安装与当前 PyTorch "
            "对应的版本。",
        },
    ),
    (
        r"FlashAttention only supports Ampere",
        {
            "en": "flash-attention needs an NVIDIA GPU of the Ampere generation or newer. Turn on no_flash_attn, or "
            "turn off use_flash_attention_2.",
            "zh": "flash-attention 需要 Ampere 或更新的 NVIDIA GPU。请勾选“不使用 FlashAttention”，"
            "或取消“使用 FlashAttention-2”。",
        },
    ),
    (
        r"different GPU compute capabilities",
        {
            "en": "gptqmodel cannot distribute it over GPUs of different generations. Select one of them with "
            "CUDA_VISIBLE_DEVICES, or use AutoGPTQ, AutoAWQ or ExLlamav2.",
            "zh": "gptqmodel 无法将它分配到不同代的 GPU 上。请用 CUDA_VISIBLE_DEVICES 只保留其中一个，或改用 "
            "AutoGPTQ、AutoAWQ 或 ExLlamav2。",
        },
    ),
    (
        r"requires CUDA tensors, got|packed layers are outside the GPUs",
        {
            "en": "it does not fit on the GPUs, or within gpu-memory, and gptqmodel cannot run quantized layers "
            "outside them. Raise the limit. AutoGPTQ can keep part of a GPTQ model in main memory, and llama.cpp part "
            "of a GGUF file.",
            "zh": "GPU 显存（或“GPU 内存”允许的部分）放不下它，而 gptqmodel 此时只能在 GPU 上计算量化层。请调高上限。"
            "AutoGPTQ 可以将 GPTQ 模型的一部分留在内存中，llama.cpp 对 GGUF 文件亦然。",
        },
    ),
    (
        r"Insufficient VRAM for model and cache|Insufficient space in device allocation",
        {
            "en": "it does not fit on the GPUs, or within gpu-split. Lower max_seq_len, or use an 8-bit or 4-bit "
            "cache.",
            "zh": "GPU 显存（或“GPU 分割”允许的部分）放不下。请调小“上下文长度”，或使用 8 位、4 位缓存。",
        },
    ),
    (
        r"Could not find (\S+) in model",
        {
            "en": "it lacks {0}: ExLlamaV2 0.3.2 does not support its architecture, or a file is missing.",
            "zh": "缺少 {0}：ExLlamaV2 0.3.2 不支持其架构，或模型文件不全。",
        },
    ),
    (
        r"have incompatible shapes|_proj is wrong shape",
        {
            "en": "ExLlamaV2 supports 4-bit GPTQ only, and this model seems to have other bits. Use AutoGPTQ or "
            "Transformers.",
            "zh": "ExLlamaV2 只支持 4 位的 GPTQ 模型，而此模型的位数似乎不同。请改用 AutoGPTQ 或 Transformers。",
        },
    ),
    (
        r"I/O error reading tensor",
        {
            "en": "a weight file cannot be read. On Windows, ExLlamaV2 supports only paths of ASCII characters: move "
            "the model.",
            "zh": "无法读取权重文件。在 Windows 上，ExLlamaV2 只支持由 ASCII 字符组成的路径：请移动模型。",
        },
    ),
    (
        r"No supported tokenizer found|does not include a tokenizer\.json",
        {
            "en": "it has no tokenizer.json. Without one only ExLlamav2_HF can load it.",
            "zh": "缺少 tokenizer.json；没有它时只能用 ExLlamav2_HF 加载。",
        },
    ),
    (
        r"(?:CUDA|HIP)(?: error:)? out of memory|cudaMalloc failed",
        {
            "en": "there is not enough GPU memory. Shorten the context (max_seq_len, n_ctx); use more GPUs or main "
            "memory if the loader can (gpu-memory, auto-devices, gpu-split, autosplit, fewer n-gpu-layers); or choose "
            "a smaller model.",
            "zh": "GPU 显存不足。请缩短上下文（“上下文长度”）；或在加载器支持时使用更多 GPU 或内存（“GPU 内存”、"
            "“自动分配设备”、“GPU 分割”、“自动分割”、减少“GPU 层数”）；或换用更小的模型。",
        },
    ),
    (
        r"failed to allocate|unable to allocate|out of memory|cannot allocate memory|MemoryError",
        {
            "en": "there is not enough memory. Shorten the context (n_ctx, max_seq_len), use an 8-bit or 4-bit cache "
            "if the loader has one, or choose a smaller model.",
            "zh": "内存不足。请缩短上下文（“上下文长度”），使用 8 位或 4 位缓存（若有），或换用更小的模型。",
        },
    ),
    (
        r"key not found in model: (tokenizer\.\S+)|cannot find tokenizer",
        {
            "en": "its tokenizer is missing: the file was not converted completely. Download another conversion of "
            "the model.",
            "zh": "缺少词符化器：该文件转换不完整。请下载此模型的其他版本。",
        },
    ),
    (
        r"key not found in model: (\S+)|missing tensor '([^']*)'|tensor '([^']*)' not found|wrong number of tensors",
        {
            "en": "the file lacks something that its architecture needs ({0}). Download it again, or another "
            "conversion.",
            "zh": "文件缺少该架构所需的内容（{0}）。请重新下载，或换用其他版本。",
        },
    ),
    (
        r"tensor '([^']*)' has wrong shape",
        {
            "en": "its metadata does not match its weights ({0}). Download it again, or another conversion.",
            "zh": "文件的元数据与权重（{0}）不符。请重新下载，或换用其他版本。",
        },
    ),
    (
        r"tensor '([^']*)' is packed otherwise",
        {
            "en": "its weights ({0}) have other bits or another group size than wbits and groupsize say. Set both as "
            "the model's page describes.",
            "zh": "其权重（{0}）的位数或组大小与“权重位数”和“组大小”不符。请按模型页面的说明设置。",
        },
    ),
    (
        r"tensor '[^']*' is in act-order",
        {
            "en": "it was quantized with act-order. Turn on desc_act.",
            "zh": "它是以 act-order 方式量化的。请勾选“按激活递减顺序（act-order）”。",
        },
    ),
    (
        r"tensor '([^']*)' is quantized, which|([\w.-]+) isn't supported yet|(checkpoint_format=\S+)",
        {
            "en": "the package of this loader does not support such models ({0}) and is no longer developed. Use "
            "another loader.",
            "zh": "此加载器的软件包已停止开发，不支持此类模型（{0}）。请改用其他加载器。",
        },
    ),
    (
        r"only support quantize to|Only 2,3,4,8 bits are supported",
        {
            "en": "AutoGPTQ supports 2, 3, 4 and 8 bits only. Check wbits.",
            "zh": "AutoGPTQ 只支持 2、3、4 和 8 位。请检查“权重位数”。",
        },
    ),
    (
        r"logits are not finite",
        {
            "en": "the model produces NaN: its files are damaged, or config.json does not match the weights.",
            "zh": "模型的计算结果为 NaN：其文件已损坏，或 config.json 与权重不符。",
        },
    ),
    (
        r"No module named '([^']*)'|cannot import name '([^']*)'|(undefined symbol)",
        {
            "en": "a required package is missing, damaged, or has the wrong version ({0}). Install the loader's "
            "packages again; if it has a folder in overlays/, delete that first.",
            "zh": "所需的软件包缺失、已损坏或版本不符（{0}）。请重新安装该加载器的软件包；若该加载器在 overlays/ "
            "中有文件夹，请先将其删除。",
        },
    ),
    (
        r"contains custom code which must be executed",
        {
            "en": "it comes with its own Python code. Turn on trust-remote-code if you trust its source.",
            "zh": "它自带 Python 代码。如果信任其来源，请勾选“信任远程代码”。",
        },
    ),
    (
        r"(?:contained in|:) ([^\s/]+/\S+) (?:which must be executed|You can inspect)",
        {
            "en": "its code is in another repository ({0}), and only code in the model's folder is run. Download that "
            "repository's .py files into the folder, and remove “{0}--” from its config.json.",
            "zh": "其代码位于另一个仓库（{0}），而本程序只运行模型文件夹内的代码。请将该仓库的 .py "
            "文件下载到模型文件夹，并删去 config.json 中的“{0}--”。",
        },
    ),
    (
        r"instantiate the backend tokenizer|can't load tokenizer|does not appear to have a file named (tokenizer\S*)",
        {
            "en": "its tokenizer is missing. Download the small files of its repository, such as tokenizer.json.",
            "zh": "缺少词符化器。请同时下载其仓库中的小文件，例如 tokenizer.json。",
        },
    ),
    (
        r"JSONDecodeError|Model missing\. at line|parse ModelProto",
        {
            "en": "one of its small files is damaged or was not downloaded completely, such as tokenizer.json. "
            "Download the small files of its repository again.",
            "zh": "其某个小文件（例如 tokenizer.json）已损坏或未下载完整。请重新下载其仓库中的小文件。",
        },
    ),
    (
        r"no file named model\.safetensors",
        {
            "en": "its folder has no weight files (model.safetensors or pytorch_model.bin). Download them.",
            "zh": "其文件夹中没有权重文件（model.safetensors 或 pytorch_model.bin）。请下载。",
        },
    ),
    (
        r"unrecognized model in|named config\.json",
        {
            "en": "its config.json is missing or does not name the model type. Download it again.",
            "zh": "缺少 config.json，或其中未注明模型类型。请重新下载。",
        },
    ),
    (
        r"unrecognized configuration class <class '[^']*\.(\w+)Config'>",
        {
            "en": "it is not a text generation model ({0}).",
            "zh": "它不是文本生成模型（{0}）。",
        },
    ),
    (
        r"loading an? (GPTQ|AWQ) quantized model requires",
        {
            "en": "{0} models need additional packages. To install: python server.py --install Transformers",
            "zh": "加载 {0} 模型还需要其他软件包。安装命令：python server.py --install Transformers",
        },
    ),
    (
        r"SafetensorError|invalid header or archive is corrupted|failed finding central directory",
        {
            "en": "a weight file is damaged or incomplete. Download it again.",
            "zh": "权重文件已损坏或下载不完整。请重新下载。",
        },
    ),
    (
        r"weights_only|WeightsUnpickler",
        {
            "en": "its .bin file contains more than weights, possibly a program. Get the model as safetensors.",
            "zh": "其 .bin 文件含有权重以外的内容，可能是程序。请改用 safetensors 版本。",
        },
    ),
    (
        r"offload_folder|offload the whole model|offload_dir",
        {
            "en": "it exceeds the memory limits. Raise them, or turn on disk if the loader has that option.",
            "zh": "超出了允许使用的内存。请调高内存上限；若加载器有“卸载到磁盘”选项，也可勾选该选项。",
        },
    ),
    (
        r"ignore_mismatched_sizes",
        {
            "en": "its config.json does not match its weights. Download that file again.",
            "zh": "其 config.json 与权重不符。请重新下载该文件。",
        },
    ),
    (
        r"trying to set a tensor of shape .+? in \"(\w+)\"",
        {
            "en": "its config.json does not match how its weights are packed ({0}). Download that file again.",
            "zh": "其权重的打包方式与 config.json 所说的不符（{0}）。请重新下载该文件。",
        },
    ),
    (
        r"failed to open|permission denied|mmap failed|read error",
        {
            "en": "the file cannot be read. Check that the disk is mounted and that you have permission to read it.",
            "zh": "无法读取该文件。请检查磁盘及读取权限。",
        },
    ),
)
"""Patterns of error messages, tried in order, and the cause with its remedy; {0} is the first group that matched."""


def cause(message: str) -> Words:
    """Return the cause behind a backend's error message, and the remedy, as the end of a sentence."""
    for pattern, words in CAUSES:
        if match := re.search(pattern, message, re.IGNORECASE):
            detail = next(filter(None, match.groups()), "…")
            return {language: sentence.format(detail) for language, sentence in words.items()}
    return UNNAMED
