"""The generation parameters that only the family of Transformers has. `sampling_options` joins them with the others."""

from __future__ import annotations

from modules.options.option import Option

SAMPLERS = (
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "dry"),
    *("encoder_repetition_penalty", "no_repeat_ngram", "temperature", "dynamic_temperature", "quadratic_sampling"),
    *("top_n_sigma", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "tfs", "top_a", "min_p"),
    *("mirostat", "xtc"),
)
"""The samplers as `sampler_priority` names them, in the order in which they are applied unless it says otherwise."""

_NAME = f"({'|'.join(sorted(SAMPLERS, key=len, reverse=True))})"

TRANSFORMERS = (
    Option(
        "epsilon_cutoff",
        "epsilon_cutoff",
        0.0,
        {"en": "epsilon_cutoff", "zh": "epsilon 截断"},
        {
            "en": "Drop tokens less likely than this, in units of 1e-4. 3 to 9 is usual, 0 turns it off.",
            "zh": "舍去概率低于此值的词符，单位为 1e-4；常用 3 到 9，0 为不启用。",
        },
        minimum=0.0,
        maximum=9.0,
        step=0.01,
        group="cut",
    ),
    Option(
        "eta_cutoff",
        "eta_cutoff",
        0.0,
        {"en": "eta_cutoff", "zh": "eta 截断"},
        {
            "en": "The same with a bound that sinks when the model is unsure, in units of 1e-4. 0 turns it off.",
            "zh": "同上，但模型越犹豫界限越低，单位为 1e-4；0 为不启用。",
        },
        minimum=0.0,
        maximum=20.0,
        step=0.01,
        group="cut",
    ),
    Option(
        "tfs",
        "tfs",
        1.0,
        {"en": "tfs", "zh": "无尾采样"},
        {
            "en": "Tail-free sampling: cuts where the probabilities level off. 1 keeps all.",
            "zh": "无尾采样：在概率曲线趋平处截断；1 为全部保留。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        group="cut",
    ),
    Option(
        "top_a",
        "top_a",
        0.0,
        {"en": "top_a", "zh": "top_a"},
        {
            "en": "Drop tokens less likely than this times the square of the highest probability. 0 turns it off.",
            "zh": "舍去概率低于“此值×最高概率的平方”的词符；0 为不启用。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        group="cut",
    ),
    Option(
        "do_sample",
        "do_sample",
        True,
        {"en": "Draw at random", "zh": "随机采样"},
        {
            "en": "Unticked, the likeliest token is taken every time.",
            "zh": "不勾选时每次都取最可能的词符。",
        },
        group="heat",
    ),
    Option(
        "smoothing_factor",
        "smoothing_factor",
        0.0,
        {"en": "Smoothing factor", "zh": "平滑系数"},
        {
            "en": "Quadratic sampling: low values level the likely tokens out, high ones sharpen. 0 turns it off.",
            "zh": "二次采样：较低时拉平可能的词符，较高时更突出最可能的；0 为不启用。",
        },
        minimum=0.0,
        maximum=10.0,
        step=0.01,
        group="heat",
    ),
    Option(
        "smoothing_curve",
        "smoothing_curve",
        1.0,
        {"en": "Smoothing curve", "zh": "平滑曲线"},
        {
            "en": "With the smoothing factor: above 1 the unlikely tokens fall off more steeply.",
            "zh": "配合平滑系数：大于 1 时不太可能的词符下降更快。",
        },
        minimum=1.0,
        maximum=10.0,
        step=0.01,
        group="heat",
    ),
    Option(
        "temperature_last",
        "temperature_last",
        False,
        {"en": "Temperature last", "zh": "最后应用温度"},
        {
            "en": "Temperature and smoothing come after all cuts instead of before them.",
            "zh": "温度与平滑放在所有截断之后，而不是之前。",
        },
        group="heat",
    ),
    Option(
        "sampler_priority",
        "sampler_priority",
        "\n".join(SAMPLERS),
        {"en": "Order of the samplers", "zh": "采样器顺序"},
        {
            "en": "One a line, from first to last; those that are left out come before them.",
            "zh": "每行一个，从先到后；未列出的排在最前。",
        },
        pattern=rf"{_NAME}(\s*[\n,]\s*{_NAME})*",
        example="temperature\ntop_k\ntop_p",
        multiline=True,
        group="heat",
    ),
    Option(
        "encoder_repetition_penalty",
        "encoder_repetition_penalty",
        1.0,
        {"en": "Encoder repetition penalty", "zh": "编码器重复惩罚"},
        {
            "en": "Above 1, tokens of the prompt become more likely, below 1 less.",
            "zh": "大于 1 时提示词中的词符更易出现，小于 1 时更不易出现。",
        },
        minimum=0.8,
        maximum=1.5,
        step=0.01,
        group="repeat",
    ),
    Option(
        "no_repeat_ngram_size",
        "no_repeat_ngram_size",
        0,
        {"en": "No repeated n-grams", "zh": "禁止重复的词组长度"},
        {
            "en": "No run of this many tokens may occur twice. 0 allows all.",
            "zh": "连续这么多个词符不得重复出现；0 为不限制。",
        },
        minimum=0,
        maximum=20,
        step=1,
        group="repeat",
    ),
    Option(
        "min_length",
        "min_length",
        0,
        {"en": "Min new tokens", "zh": "最少新词符数"},
        {
            "en": "The model may not end its answer before this many tokens.",
            "zh": "回答至少有这么多词符之后，模型才可结束。",
        },
        minimum=0,
        maximum=2000,
        step=1,
        group="limit",
    ),
    Option(
        "guidance_scale",
        "guidance_scale",
        1.0,
        {"en": "Guidance scale", "zh": "指导比例"},
        {
            "en": "CFG: above 1 the answer keeps away from the negative prompt. 1 turns it off, 1.5 is usual.",
            "zh": "CFG：大于 1 时回答远离负面提示词；1 为不启用，常用 1.5。",
        },
        minimum=-0.5,
        maximum=2.5,
        step=0.05,
        group="text",
    ),
    Option(
        "negative_prompt",
        "negative_prompt",
        "",
        {"en": "Negative prompt", "zh": "负面提示词"},
        {
            "en": "With the guidance scale: the prompt to keep away from.",
            "zh": "配合指导比例：要远离的提示词。",
        },
        multiline=True,
        group="text",
    ),
    Option(
        "add_bos_token",
        "add_bos_token",
        True,
        {"en": "Add the beginning token", "zh": "添加开头词符"},
        {
            "en": "Prompts begin with the token that marks a beginning, if the model has one.",
            "zh": "提示词以标记开头的词符开始（若模型有此词符）。",
        },
        group="text",
    ),
    Option(
        "skip_special_tokens",
        "skip_special_tokens",
        True,
        {"en": "Skip special tokens", "zh": "跳过特殊词符"},
        {
            "en": "Tokens that only mark something are not shown. Some models need this unticked.",
            "zh": "不显示仅作标记的词符；个别模型需取消勾选。",
        },
        group="text",
    ),
    Option(
        "prompt_lookup_num_tokens",
        "prompt_lookup_num_tokens",
        0,
        {"en": "Prompt lookup", "zh": "提示词查找"},
        {
            "en": "Guess this many tokens at a time from earlier text: faster where the answer repeats it. 0 = off.",
            "zh": "每次从前文猜测这么多个词符，回答常重复前文时更快；0 为不启用。",
        },
        minimum=0,
        maximum=10,
        step=1,
        group="text",
    ),
)
