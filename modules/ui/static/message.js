// One message of the transcript: its element, and what it shows.
import { avatar } from "./avatar.js";
import { currentId } from "./chat_client.js";
import { iconButton, make, rendered } from "./dom.js";
import { tr } from "./texts.js";

/** Replace the blocks of a text from `first` on. */
const blocks = (container, first, htmls) => {
  while (container.children.length > first) container.lastElementChild.remove();
  container.append(...htmls.map((html) => rendered(html, "tx-block")));
};

/** Return the element of a message, which `update` fills. */
export function draw(body) {
  const node = make("article", { class: `tx-msg tx-${body.role === "user" ? "user" : "bot"}`, "data-id": body.id, tabindex: "-1" });
  const speaker = make("div", { class: "tx-speaker", hidden: true });
  const content = make("div", { class: "tx-body tx-md" });
  const facts = make("div", { class: "tx-facts-line" });
  const thoughts = make("div", { class: "tx-thoughts tx-md" });
  const thought = make("details", { class: "tx-thought", hidden: true }, make("summary", {}), thoughts);
  const files = make("ul", { class: "tx-files" });
  node.append(speaker, ...(body.role === "user" ? [files, content] : [thought, content]), make("div", { class: "tx-note" }), make("div", { class: "tx-actions" }), facts);
  node.parts = { speaker, content, facts, thought, thoughts, files };
  return node;
}

/** Return who speaks in messages of `role` by the conversation `setup`; null where nobody plays a character. */
const speakerOf = (role, { mode, character, persona }) => {
  if (!mode || mode === "instruct") return null;
  return role === "user" ? { name: tr("you"), ...persona } : { name: tr("assistant"), ...character };
};

/** Show who speaks in a message of `role` by the conversation `setup`. */
export function nameSpeaker(node, role, setup) {
  const who = speakerOf(role, setup);
  const { speaker } = node.parts;
  const shownNow = who ? `${who.id}\n${who.name}\n${who.picture}` : "";
  if (speaker.dataset.shown === shownNow) return;
  speaker.dataset.shown = shownNow;
  speaker.hidden = !who;
  speaker.replaceChildren(...(who ? [avatar(who), make("span", {}, who.name)] : []));
  node.setAttribute("aria-label", who ? tr("message_of", { name: who.name }) : role === "user" ? tr("message_of_user") : tr("message_of_model"));
}

/** Return a small view of a picture, which opens the whole one in a new tab. */
function pictureOf({ name, size, picture }) {
  const address = `/chat/${encodeURIComponent(currentId())}/picture/${picture}`;
  const image = make("img", { src: address, alt: name, loading: "lazy", decoding: "async" });
  return make("a", { class: "tx-picture", href: address, target: "_blank", rel: "noopener", title: `${name} · ${size}`, "aria-label": tr("open_picture", { name }) }, image);
}

/** Show a message as it is now. The text of one that is being written is left to `grow`, once it is drawn. */
export function update(node, body) {
  const { content, facts, thought, thoughts, files } = node.parts;
  if (!body.writing || node.dataset.message === undefined) {
    blocks(content, 0, body.blocks);
    blocks(thoughts, 0, body.thoughts);
  }
  node.dataset.message = body.id;
  thought.hidden = !body.thoughts.length;
  thought.querySelector("summary").textContent = body.thought_label;
  node.classList.toggle("tx-writing", body.writing);
  if (!body.writing) node.classList.remove("tx-started");
  facts.textContent = body.facts;
  node.querySelector(".tx-note").textContent = body.incomplete ? tr("interrupted") : "";
  files.replaceChildren(...body.attachments.map((one) => make("li", {}, one.picture ? pictureOf(one) : `${one.name} · ${one.size}`)));
  node.querySelector(".tx-actions").replaceChildren(...actions(body));
}

/** Show what has been added to a message that is being written. */
export function grow(node, body) {
  const { content, facts, thought, thoughts } = node.parts;
  blocks(content, body.first, body.blocks);
  blocks(thoughts, body.first_thought, body.thoughts);
  thought.hidden = !thoughts.children.length;
  thought.querySelector("summary").textContent = body.thought_label;
  node.classList.toggle("tx-started", content.children.length + thoughts.children.length > 0);
  node.classList.toggle("tx-thinking", body.phase === "thinking");
  facts.textContent = body.line;
}

/** Return the buttons below a message. */
function actions(body) {
  const { id, role, versions } = body;
  const at = versions.indexOf(id);
  const user = role === "user";
  const steps = versions.length < 2 ? [] : [
    iconButton("previous", tr("previous_version"), "previous", { disabled: at === 0 }),
    make("span", { class: "tx-version" }, `${at + 1}/${versions.length}`),
    iconButton("next", tr("next_version"), "next", { disabled: at === versions.length - 1 }),
  ];
  return [
    ...steps,
    iconButton("copy", tr("copy_message"), "copy"),
    iconButton("edit", tr("edit_message"), "edit"),
    iconButton("again", tr("regenerate"), "again"),
    !user && iconButton("more", tr("continue"), "forward"),
    iconButton("branch", tr("branch_here"), "branch"),
    !user && body.has_receipt && iconButton("receipt", tr("receipt"), "receipt"),
    iconButton("remove", tr("remove_message"), "bin"),
    iconButton("expand", tr("more_actions"), "more"),
  ].filter(Boolean);
}
