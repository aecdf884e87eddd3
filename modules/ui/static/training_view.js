// Train a LoRA: data, parameters, the run that is going on, and all runs.
import { make } from "./dom.js";

export const element = make("div", { class: "tx-t-train" });

/** Begin to follow the runs. */
export function show() {}

/** Stop following them. */
export function hide() {}
