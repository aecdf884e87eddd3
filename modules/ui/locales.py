"""The page's own words, by language. Those of options and errors stand where these are defined."""

from __future__ import annotations

from collections.abc import Callable

Tr = Callable[[str], str]

_WORDS: dict[str, tuple[str, str]] = {
    # key: (Chinese, English)
    "chat": ("聊天", "Chat"),
    "model": ("模型", "Model"),
    "other_language": ("English", "中文"),
    "theme": ("切换深色/浅色", "Switch dark/light"),
    "no_model": ("未加载模型", "No model loaded"),
    "loading": ("正在加载", "Loading"),
    "failed": ("加载失败", "Not loaded"),
    # -- Model tab
    "model_info": ("选中后显示该模型的设置。", "Picking a model shows its settings."),
    "load": ("加载", "Load"),
    "unload": ("卸载", "Unload"),
    "cancel_load": ("取消加载", "Cancel loading"),
    "reload": ("重载", "Reload"),
    "save_settings": ("保存设置", "Save settings"),
    "defaults": ("恢复默认", "Restore defaults"),
    "autoload": ("自动加载模型", "Autoload the model"),
    "autoload_info": ("在菜单中选中后立即加载。", "Load it as soon as it is picked."),
    "saved": ("已将 {model} 的设置保存到 {file}。", "Saved the settings of {model} to {file}."),
    "kept_aside": (
        "原文件不是有效的 YAML，已保留为 {file}。",
        " The file there was no valid YAML; it is kept as {file}.",
    ),
    "deadly": (
        "{model} 上次加载时后端崩溃，因此不会自动加载；可点击“加载”再试。",
        "{model} took its backend down last time, so it is not loaded by itself; press Load to try again.",
    ),
    "main_memory": ("内存", "Memory"),
    "memory_fits": ("{device}：约需 {need}，可用 {free}。", "{device}: about {need} needed, {free} free."),
    "memory_tight": (
        "{device}：约需 {need}，可用 {free}，勉强够用，其他程序可能变慢。",
        "{device}: about {need} needed, {free} free: just enough, other programs may slow down.",
    ),
    "memory_short": (
        "{device}：约需 {need}，而可用仅 {free}，放不下。",
        "{device}: about {need} needed, but only {free} free: it will not fit.",
    ),
    "memory_unknown": ("{device}：约需 {need}。", "{device}: about {need} needed."),
    "weights": ("权重", "weights"),
    "cache": ("缓存", "cache"),
    "buffers": ("其他", "the rest"),
    "remedies": ("可改为：", "What helps: "),
    "filter": ("筛选选项", "Filter options"),
    "filter_hint": ("名称或说明", "Name or description"),
    "preset_most": ("最大", "max"),
    "changed": ("项已改", "changed"),
    "reset": ("恢复此项的默认值", "Set this one back to its default"),
    "source_model": ("来自模型文件", "model file"),
    "source_saved": ("已保存", "saved"),
    "source_flag": ("命令行参数", "flag"),
    "source_form": ("已修改，未保存", "changed, not saved"),
    "source_memory": ("已减小：内存不足", "reduced: memory"),
    "trust_by_flag": (
        "只能在启动时用 --trust-remote-code 启用。",
        "Can only be enabled at start, by --trust-remote-code.",
    ),
    "trust_files": (
        "我已查看这些文件：信任它们的当前内容",
        "I have looked at these files: trust them as they are now",
    ),
    "pick_a_model": ("请选择一个模型。", "Pick a model."),
    "no_models": (
        "models/ 中还没有模型。请放入 GGUF 文件后刷新。",
        "There is no model in models/ yet. Put a GGUF file there and refresh.",
    ),
    "loader": ("模型加载器", "Model loader"),
    "unavailable": ("不可用", "not available"),
    "other_loaders": ("其他可用于此模型的加载器", "Other loaders for this model"),
    "refresh": ("刷新模型列表", "Look for new models"),
    "group_common": ("常用选项", "Common options"),
    "group_memory": ("内存与设备", "Memory and devices"),
    "group_context": ("上下文扩展", "Context extension"),
    "group_advanced": ("高级选项", "Advanced"),
    "group_cut": ("更多截断方式", "More cuts of the tail"),
    "group_heat": ("温度、平滑与 mirostat", "Temperature, smoothing and mirostat"),
    "group_repeat": ("防止重复（DRY 等）", "DRY and others against repetition"),
    "group_limit": ("禁用与语法", "Bans and grammar"),
    "group_text": ("停止、引导与词符", "Stops, guidance and tokens"),
    "notes": ("注意事项", "What to know"),
    "calls": ("将对后端进行的调用", "The calls the backend will get"),
    "install_with": ("安装命令：", "To install it: "),
    "cores": ("本机：{physical} 个物理核心，{logical} 个逻辑核心。", "Here: {physical} physical, {logical} logical."),
    "status_empty": ("没有加载模型。", "No model is loaded."),
    "status_freed": ("已卸载，释放 {memory} 内存。", "Unloaded; {memory} of memory returned."),
    "status_ready": (
        "已加载，用时 {seconds} 秒 · 上下文 {context} · 占用内存 {memory}",
        "Loaded in {seconds} s · context {context} · {memory} of memory",
    ),
    "own_words": ("后端的原话", "In the backend's own words"),
    "stage": ("正在读取权重", "Reading weights"),
    "layers": ("{count} 层", "{count} layers"),
    "context": ("上下文 {count}", "context {count}"),
    "state_incomplete": ("不完整", "incomplete"),
    "state_damaged": ("已损坏", "damaged"),
    "state_unsupported": ("不支持", "not supported"),
    "duplicate": ("与 {name} 相同", "the same as {name}"),
    # -- LoRA
    "lora_info": ("可选多个；点击“应用LoRAs”后生效。", "Any number; they act once they are applied."),
    "lora_refresh": ("刷新 LoRA 列表", "Look for new LoRAs"),
    "lora_apply": ("应用LoRAs", "Apply LoRAs"),
    "lora_remove": ("全部移除", "Remove all"),
    "lora_weight": ("权重", "Weight"),
    "lora_rank": ("秩", "rank"),
    "lora_base": ("基于", "made for"),
    "lora_applying": ("正在应用，会等待进行中的回答结束…", "Applying, once the answers under way have ended …"),
    "lora_none": ("没有生效的 LoRA。", "No LoRA is in force."),
    "lora_in_force": ("已生效：", "In force:"),
    "lora_effect": (
        "× {weight}：单独使用时 logits 最大变化 {effect}",
        "× {weight}: by itself it changes a logit by up to {effect}",
    ),
    "lora_weightless": ("× {weight}：权重为 0，不起作用", "× {weight}: of no effect, as its weight says"),
    # -- llamacpp_HF creator
    "creator": ("llamacpp_HF 创建器", "llamacpp_HF creator"),
    "creator_info": (
        "从未量化模型的仓库下载词符化器文件，再将 GGUF 移到同一文件夹，供 llamacpp_HF 使用。",
        "Fetches the tokenizer's files from the unquantised model, then moves the GGUF to them, for llamacpp_HF.",
    ),
    "creator_model": ("GGUF 模型", "GGUF model"),
    "creator_address": ("未量化模型的仓库", "Repository of the unquantised model"),
    "creator_example": ("用户名/模型名 或链接", "user/model or a link"),
    "creator_asking": ("正在查询仓库…", "Asking what the repository has…"),
    "creator_downloading": (
        "正在下载词符化器文件：{done} / {total}",
        "Downloading the tokenizer's files: {done} of {total}",
    ),
    "creator_paused": ("下载已暂停，继续后自动完成。", "The download is paused; resumed, it goes on from there."),
    "creator_done": ("已创建：{model}", "Created: {model}"),
    "submit": ("提交", "Submit"),
    # -- Parameters tab
    "parameters": ("参数", "Parameters"),
    "preset": ("预设", "Preset"),
    "preset_info": (
        "选中后填入其采样参数，下次启动时仍沿用。",
        "Picking one fills in its sampling parameters; it is kept for the next start.",
    ),
    "preset_neutral": ("全部中性", "Neutralise"),
    "preset_delete": ("删除预设", "Delete preset"),
    "preset_name": ("预设名称", "Name of the preset"),
    "preset_name_info": ("留空则覆盖所选预设。", "Left empty, the chosen one is overwritten."),
    "preset_save": ("保存预设", "Save preset"),
    "preset_saved": ("已保存预设 {name}。", "Saved the preset {name}."),
    "preset_deleted": ("已删除预设 {name}。", "Deleted the preset {name}."),
    "preset_lacking": ("{loader} 没有 {names}，不起作用。", "{loader} has no {names}: without effect."),
    "preset_unknown": ("未知的键已忽略：{names}。", "Unknown keys were passed over: {names}."),
    # -- Chat tab
    "hello": ("有什么可以帮您？", "What can I do for you?"),
    "hello_empty": ("请先在“模型”页加载一个模型。", "Load a model in the Model tab first."),
    "write": ("输入消息，回车发送", "Write a message; Enter sends it"),
    "message": ("消息", "Message"),
    "send": ("发送", "Send"),
    "stop": ("停止", "Stop"),
    "regenerate": ("重新生成", "Regenerate"),
    "continue": ("继续", "Continue"),
    "new_chat": ("新对话", "New chat"),
    "system_message": ("系统消息", "System message"),
    "system_info": (
        "每次对话开始前告诉模型的话；留空则由模板决定。",
        "Told to the model first; empty leaves it to the template.",
    ),
    "waiting": ("排队中，第 {place} 位", "Waiting, number {place} in line"),
    "reading": ("正在处理提示词 {percent}%", "Reading the prompt, {percent}%"),
    "speed": (
        "{tokens} 个词符 · {speed} 词符/秒 · 提示词 {prompt}（缓存 {cached}）· 上下文 {used}/{context}",
        "{tokens} tokens · {speed} tok/s · prompt {prompt} ({cached} cached) · context {used}/{context}",
    ),
    "cut": ("已达到“最多新词符数”，可点“继续”。", "Reached the token limit; press Continue to go on."),
    "nothing_to_continue": ("没有可继续的回答。", "There is no answer to go on with."),
    "nothing_to_regenerate": ("没有可重新生成的回答。", "There is no answer to regenerate."),
}

TITLE = "Text Studio"


def translator(language: str) -> Tr:
    """The words of `language`, "zh" or "en", by key; KeyError for a key there is none for."""
    index = ("zh", "en").index(language)
    return lambda key: _WORDS[key][index]


def both_complete() -> bool:
    """Whether every sentence exists in both languages and has the same blanks to fill in."""
    return all(zh and en and zh.count("{") == en.count("{") for zh, en in _WORDS.values())
