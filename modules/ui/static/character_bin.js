// The bin of the characters, and that of the personas.
import { openBin } from "./bin.js";
import { get, post } from "./chat_client.js";
import { attempt } from "./conversation_list.js";
import { make } from "./dom.js";
import { icon } from "./icons.js";
import { tr } from "./texts.js";

/** Return a button that shows what of `kind` was deleted, and a function that sets how much that is. */
export function binOf(kind, refresh) {
  const done = async (request) => {
    const answer = await attempt(request);
    if (answer) refresh();
    return Boolean(answer);
  };
  const show = async () => {
    const answer = await attempt(get(`/${kind}/bin`));
    if (!answer) return;
    openBin({
      entries: answer.deleted.map((id) => ({ id, title: id })),
      info: tr("ch_bin_info"),
      sureLabel: tr("ch_empty_bin_yes", { count: answer.deleted.length }),
      restore: (id) => done(post(`/${kind}/${encodeURIComponent(id)}/restore`)),
      empty: () => done(post(`/${kind}/bin/empty`)),
    });
  };
  const label = make("span");
  const button = make("button", { type: "button", class: "tx-button tx-ch-bin", hidden: true, click: show }, icon("bin"), label);
  const update = (count) => {
    button.hidden = !count;
    label.textContent = tr("recently_deleted", { count });
  };
  return { button, update };
}
