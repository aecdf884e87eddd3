// The files that are attached to the message that is being written: they are uploaded one after the other, and kept by the
// browser as the server has answered their uploads.
import { currentId, events, upload } from "./chat_client.js";
import { iconButton, make } from "./dom.js";
import { area, report } from "./message_box.js";
import { tr } from "./texts.js";

const MAX_FILES = 10;

export const button = iconButton("attach", tr("attach_file"), "attach", { id: "tx-attach" });
export const picker = make("input", { type: "file", multiple: true, hidden: true, tabindex: "-1" });
export const list = make("ul", { id: "tx-attached", class: "tx-attached" });

let home = { id: "" }; // of what is written now: the server gives a new conversation its id later
const uploads = new Set(); // files that are being uploaded: {home, name, done}
const previews = new Map(); // addresses of the pictures that were attached, by hash

// -- what is kept ---------------------------------------------------------------------------------------------------------

const keyOf = (id) => `tx-files-${id}`;
const keptFiles = (id) => JSON.parse(sessionStorage.getItem(keyOf(id)) ?? "[]");
const keepFiles = (id, kept) => (kept.length ? sessionStorage.setItem(keyOf(id), JSON.stringify(kept)) : sessionStorage.removeItem(keyOf(id)));
const noteChange = () => events.dispatchEvent(new CustomEvent("written"));

/** Return the files that are attached to what is written now. */
export const attached = () => keptFiles(home.id);

/** Show what was attached in the open conversation. */
export function recall() {
  home = { id: currentId() };
  draw();
}

/** Note the id that the server has given to the new conversation in which the files are attached. */
export const nameHome = (id) => { home.id = id; };

/** Keep the files of the new conversation for the one that the server has created of it. */
export function move(id) {
  keepFiles(id, keptFiles(""));
  keepFiles("", []);
  nameHome(id);
}

/** Keep of the files of a conversation only those that were attached after `sent`; the server may have given it an id. */
export function forget(sent, before, id) {
  const more = keptFiles(before).filter(({ sha256 }) => !sent.some((one) => one.sha256 === sha256));
  keepFiles(before, []);
  keepFiles(id, more);
  if (before === currentId()) draw();
}

function draw() {
  const kept = attached();
  const everywhere = Object.keys(sessionStorage).filter((key) => key.startsWith(keyOf(""))).map((key) => sessionStorage.getItem(key));
  for (const [hash, address] of previews) {
    if (everywhere.some((one) => one.includes(hash))) continue;
    URL.revokeObjectURL(address);
    previews.delete(hash);
  }
  const shown = kept.map((one, index) => {
    const removeFile = () => {
      keepFiles(home.id, attached().filter((_, at) => at !== index));
      draw();
      noteChange();
    };
    // After a reload of the page, the server still has them.
    const address = previews.get(one.sha256) ?? (one.kind === "image" && `/chat/attachments/${one.sha256}?id=${encodeURIComponent(home.id)}`);
    return make("li", {}, address && make("img", { src: address, alt: "" }), one.name, iconButton("close", tr("remove_file"), "close", { click: removeFile }));
  });
  list.replaceChildren(...shown, ...uploadsHere().map(({ name }) => make("li", { "aria-busy": "true" }, `${name} · ${tr("uploading")}`)));
}

// -- uploads --------------------------------------------------------------------------------------------------------------

const uploadsHere = () => [...uploads].filter((one) => one.home.id === home.id);

/** Wait for the files that are being uploaded. Returns whether all of them were attached, to what is still being written. */
export async function allAttached() {
  const { id } = home;
  const done = await Promise.all(uploadsHere().map(({ done }) => done));
  return done.every(Boolean) && id === home.id;
}

/** Attach files, one after the other, to what is written now. */
function add(chosen) {
  const room = Math.max(MAX_FILES - attached().length - uploadsHere().length, 0);
  const picked = [...chosen];
  const problems = picked.length > room ? [tr("too_many_files", { count: MAX_FILES })] : [];
  if (problems.length) report(problems[0]);
  let before = Promise.all(uploadsHere().map(({ done }) => done));
  for (const file of picked.slice(0, room)) {
    const one = { home, name: file.name };
    one.done = before.then(() => uploadFile(file, one, problems));
    before = one.done;
    uploads.add(one);
  }
  draw();
}

async function uploadFile(file, one, problems) {
  try {
    const added = await upload(`/chat/attachments?id=${encodeURIComponent(one.home.id)}`, file);
    if (added.kind === "image" && !previews.has(added.sha256)) previews.set(added.sha256, URL.createObjectURL(file));
    keepFiles(one.home.id, [...keptFiles(one.home.id), added]);
    return true;
  } catch (error) {
    problems.push(error.message);
    report(problems.join(" "));
    return false;
  } finally {
    uploads.delete(one);
    draw();
    noteChange();
  }
}

// -- picking, dropping and pasting ------------------------------------------------------------------------------------------

export const attachFiles = () => picker.click();
button.addEventListener("click", attachFiles);
picker.addEventListener("change", () => { add(picker.files); picker.value = ""; });

/** Attach the files that are dropped on an element. */
export function acceptDrops(element) {
  element.addEventListener("dragover", (event) => event.preventDefault());
  element.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
}

area.addEventListener("paste", ({ clipboardData: { files: pasted, types } }) => {
  // Office programs offer a picture of the text that was copied, beside the text.
  if (pasted.length && !(types.includes("text/plain") && types.includes("text/html"))) add(pasted);
});
