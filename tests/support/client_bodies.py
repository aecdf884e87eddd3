"""Bodies of requests as clients of the API send them, made after their source code."""

from __future__ import annotations

from typing import Any


def sillytavern(tavern: str) -> dict[str, Any]:
    """Return what SillyTavern sends to a text completion server of the type `tavern`, with its default settings."""
    fields: dict[str, Any] = {
        "prompt": "Hi", "model": "m", "max_new_tokens": 300, "max_tokens": 300, "logprobs": 10, "temperature": 0.7,
        "top_p": 0.5, "typical_p": 1, "typical": 1, "sampler_seed": -1, "min_p": 0, "repetition_penalty": 1.2,
        "frequency_penalty": 0, "presence_penalty": 0, "top_k": 40, "skew": 0, "min_tokens": 0, "add_bos_token": True,
        "dynatemp_low": 0.5, "dynatemp_high": 1.5, "dynatemp_range": 0.5, "dynatemp_exponent": 1,
        "dynamic_temperature": True, "smoothing_factor": 0, "smoothing_curve": 1, "dry_allowed_length": 2,
        "dry_multiplier": 0, "dry_base": 1.75, "dry_sequence_breakers": '["\\n", ":", "\\"", "*"]',
        "dry_penalty_last_n": 0, "max_tokens_second": 0, "stopping_strings": ["\nYou:"], "stop": ["\nYou:"],
        "truncation_length": 2048, "ban_eos_token": False, "skip_special_tokens": True, "include_reasoning": True,
        "top_a": 0, "tfs": 1, "mirostat_mode": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "custom_token_bans": "",
        "banned_strings": [], "api_type": tavern, "api_server": "http://127.0.0.1:5000", "legacy_api": False,
        "xtc_threshold": 0.1, "xtc_probability": 0, "nsigma": 0, "top_n_sigma": 0, "min_keep": 0,
        "adaptive_target": -0.01, "adaptive_decay": 0.9, "rep_pen": 1.2, "rep_pen_range": 0,
        "repetition_penalty_range": 0, "seed": -1, "guidance_scale": 1, "negative_prompt": "", "grammar_string": "",
        "repeat_penalty": 1.2, "tfs_z": 1, "repeat_last_n": 0, "n_predict": 300, "num_predict": 300, "num_ctx": 2048,
        "mirostat": 0, "ignore_eos": False, "n_probs": 10, "rep_pen_slope": 1, "stream": True, "logit_bias": {},
    }  # fmt: skip
    priority = ["temperature", "dynamic_temperature", "quadratic_sampling", "top_k", "top_p", "typical_p", "min_p"]
    ooba = {
        "min_length": 0, "num_beams": 1, "length_penalty": 1, "early_stopping": False, "sampler_priority": priority,
        "epsilon_cutoff": 0, "eta_cutoff": 0, "encoder_repetition_penalty": 1, "no_repeat_ngram_size": 0,
        "penalty_alpha": 0, "temperature_last": True, "do_sample": True,
    }  # fmt: skip
    llamacpp = {"samplers": ["top_k", "min_p"], "logit_bias": [[5, False]], "grammar": "", "cache_prompt": True, "n": 1}
    aphrodite = {"spaces_between_special_tokens": True, "include_stop_str_in_output": False, "guided_grammar": "",
                 "guided_json": "", "dynatemp_min": 0.5, "dynatemp_max": 1.5, "custom_token_bans": []}  # fmt: skip
    tabby = {"repetition_decay": 0, "json_schema": {}, "speculative_ngram": False}
    kobold = {"sampler_order": [6, 0, 1, 3, 4, 2, 5], "trim_stop": True, "dry_sequence_breakers": ["\n", ":"]}
    types = {"ooba": ooba, "llamacpp": llamacpp, "aphrodite": aphrodite, "tabby": tabby, "koboldcpp": kobold}
    return {**fields, **types[tavern]}


READ_FILE = {
    "type": "function",
    "function": {
        "name": "builtin_read_file",
        "description": "Read the contents of an existing file",
        "parameters": {
            "type": "object",
            "required": ["filepath"],
            "properties": {"filepath": {"type": "string", "description": "The path relative to the workspace root."}},
        },
    },
}


def sillytavern_chat(text: str) -> dict[str, Any]:
    """Return what SillyTavern sends to a chat completion server that is "Custom (OpenAI-compatible)", with a tool."""
    return {
        "messages": [
            {"role": "system", "content": "Write Ann's next reply in a fictional chat between Ann and Bob."},
            {"role": "system", "content": "[Start a new Chat]"},
            {"role": "assistant", "content": "Hello", "name": "Ann"},
            {"role": "user", "content": text, "name": "Bob"},
        ],
        "model": "m", "temperature": 1, "max_tokens": 300, "stream": True, "presence_penalty": 0,
        "frequency_penalty": 0, "top_p": 1, "stop": [], "logit_bias": {}, "seed": -1, "n": 1,
        "reasoning_effort": "medium", "include_reasoning": True, "tools": [READ_FILE], "tool_choice": "auto",
    }  # fmt: skip


def continue_chat(text: str) -> dict[str, Any]:
    """Return what continue.dev's editor extension sends for a chat: messages with fields of its own."""
    return {
        "messages": [
            {"role": "system", "content": "You are in chat mode."},
            {"role": "user", "content": "Hi", "id": "a1"},
            {"role": "assistant", "content": " ", "toolCalls": [], "isSummary": False},
            {"role": "user", "content": [{"type": "text", "text": text}], "id": "a2"},
        ],
        "model": "AUTODETECT",
        "max_tokens": 4096,
        "stream": True,
        "stop": ["\n\n\n"],
    }


def continue_agent(text: str) -> dict[str, Any]:
    """Return what continue.dev's agent sends after a call of a tool."""
    call = {"name": "builtin_read_file", "arguments": '{"filepath": "a.py"}'}
    return {
        "messages": [
            {"role": "system", "content": "<important_rules>\nYou are in agent mode.\n</important_rules>"},
            {"role": "user", "content": "Read a.py"},
            {
                "role": "assistant",
                "content": " ",
                "tool_calls": [{"id": "call_abc", "type": "function", "function": call}],
            },
            {"role": "tool", "content": "File: a.py\nprint(1)", "tool_call_id": "call_abc"},
            {"role": "user", "content": text},
        ],
        "model": "AUTODETECT",
        "max_tokens": 4096,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [READ_FILE],
    }
