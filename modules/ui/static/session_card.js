// Draws the cards of the Session page from their values: HTML in which the server has escaped all names. What is pressed
// in a card is passed on as an event of its component.
//
//   data-do="event"     triggers that event, with the button's data and the fields of its form
//   data-sure="text"    asks by that text, and acts when pressed again
//   data-copy="id"      copies the text or the value of an element
//   data-look="name"    radio buttons that change the look of this browser
//   data-filter="id"    hides the rows of an element that do not contain what is typed
//   data-form           the fields inside are sent, with "changed" only those that differ from their first value
//   data-opened         the page was opened again: what has been typed and not saved stays
//   data-restarting     waits for another process on the server, and opens its page
const SURE_SECONDS = 6;
const RESTART_SECONDS = 90;
const MOVED_SECONDS = 12;

/** Draw a card. `value` returns its HTML, `watch` and `trigger` are those of Gradio, `events` are the names it emits. */
function show({ element, value, watch, trigger, events }) {
  let drawn = null;

  const holder = () => element.querySelector(".tx-s");
  const valueOf = (field) => (field.type === "checkbox" ? field.checked : field.value);
  const firstValueOf = (field) => {
    if (field.type === "checkbox") return field.defaultChecked;
    if (field.tagName === "SELECT") return ([...field.options].find((option) => option.defaultSelected) ?? field.options[0])?.value;
    return field.defaultValue;
  };
  const isChanged = (field) => field.hasAttribute("data-edited") || valueOf(field) !== firstValueOf(field);

  const say = (text) => {
    const line = element.querySelector(".tx-s-said");
    if (line) line.textContent = text;
  };

  const focusLike = (before) => {
    const same = before?.id ? `#${CSS.escape(before.id)}` : before?.dataset.do ? `[data-do="${before.dataset.do}"]` : "";
    if (same) holder().querySelector(same)?.focus();
  };

  const draw = () => {
    const root = holder();
    if (!root || (value() === drawn && root.childElementCount)) return;
    drawn = value();
    const focused = root.contains(document.activeElement) ? document.activeElement : null;
    const opened = [...root.querySelectorAll("details[open][id]")].map(({ id }) => id);
    const typed = formsOf(root).map((part) => (fieldsOf(part).some(isChanged) ? collected(part) : {}));
    root.innerHTML = value() ?? "";
    if (root.querySelector("[data-opened]")) typed.forEach((fields, number) => fill(formsOf(root)[number], fields));
    for (const id of opened) root.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
    focusLike(focused);
    for (const radio of root.querySelectorAll("[data-look]")) {
      radio.checked = document.documentElement.dataset[radio.dataset.look] === radio.value;
    }
    formsOf(root).forEach(mark);
    for (const end of root.querySelectorAll("[data-to-end]")) end.scrollTop = end.scrollHeight;
    if (root.querySelector("[data-restarting]")) awaitRestart(root.querySelector("[data-restarting]").dataset);
  };

  // -- forms ------------------------------------------------------------------------------------------------------------

  const formsOf = (root) => [...root.querySelectorAll("[data-form]")];
  const fieldsOf = (part) => [...part.querySelectorAll("[name]")];

  const fill = (part, fields) => {
    for (const field of part ? fieldsOf(part) : []) {
      if (!(field.name in fields)) continue;
      if (field.type === "checkbox") field.checked = fields[field.name];
      else field.value = fields[field.name];
    }
  };

  /** Mark what was changed; the buttons with data-needs="change" are there for that. */
  const mark = (part) => {
    const changed = fieldsOf(part).filter(isChanged);
    for (const row of part.querySelectorAll("[data-row]")) {
      row.toggleAttribute("data-changed", changed.some((field) => row.contains(field)));
    }
    for (const button of part.querySelectorAll('[data-needs="change"]')) button.disabled = changed.length === 0;
    for (const counter of part.querySelectorAll("[data-count]")) counter.textContent = changed.length ? `(${changed.length})` : "";
  };

  const collected = (part) => {
    if (!part) return {};
    const fields = fieldsOf(part).filter((field) => part.dataset.form !== "changed" || isChanged(field));
    return Object.fromEntries(fields.map((field) => [field.name, valueOf(field)]));
  };

  const filterRows = (field) => {
    const wanted = field.value.trim().toLowerCase();
    const list = element.querySelector(`#${CSS.escape(field.dataset.filter)}`);
    for (const row of list.querySelectorAll("[data-row]")) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    for (const group of list.querySelectorAll("[data-group]")) {
      const found = group.querySelector("[data-row]:not([hidden])");
      group.hidden = !found;
      if (wanted && found && group.tagName === "DETAILS") group.open = true;
    }
  };

  // -- buttons ----------------------------------------------------------------------------------------------------------

  const act = (button) => {
    if (!events.includes(button.dataset.do)) return;
    const part = button.closest("[data-form]");
    trigger(button.dataset.do, { ...button.dataset, fields: collected(part) });
    if (button.dataset.do !== "discard") return;
    // What the server answers is not drawn if it is what was drawn before.
    for (const field of fieldsOf(part)) fill(part, { [field.name]: firstValueOf(field) });
    mark(part);
  };

  const ask = (button) => {
    const { textContent } = button;
    button.textContent = button.dataset.sure;
    button.dataset.asked = "";
    const forget = () => {
      delete button.dataset.asked;
      button.textContent = textContent;
    };
    setTimeout(forget, SURE_SECONDS * 1000);
  };

  const copy = async (button) => {
    const source = element.querySelector(`#${CSS.escape(button.dataset.copy)}`);
    const text = source.value ?? source.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without https, browsers offer the clipboard only to a selection.
      const area = document.createElement("textarea");
      area.className = "tx-copy-area";
      area.value = text;
      element.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    const { textContent } = button;
    button.textContent = button.dataset.done;
    say(button.dataset.done);
    setTimeout(() => {
      button.textContent = textContent;
      say("");
    }, 2000);
  };

  // -- restart ----------------------------------------------------------------------------------------------------------

  let restarting = false;
  const awaitRestart = async ({ restarting: before, port, late }) => {
    if (restarting) return;
    restarting = true;
    let gone = 0; // when the old process stopped answering
    while (!gone || Date.now() - gone < RESTART_SECONDS * 1000) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      if (!element.querySelector("[data-restarting]")) { // it was cancelled
        restarting = false;
        return;
      }
      const answer = await fetch("/session/process", { cache: "no-store" }).catch(() => null);
      if (!answer) gone ||= Date.now();
      // The page may ask no other address than its own, so it cannot know when the new one answers.
      if (port && gone && Date.now() - gone > MOVED_SECONDS * 1000) {
        location.href = `${location.protocol}//${location.hostname}:${port}${location.pathname}${location.hash}`;
        return;
      }
      const after = answer?.ok ? (await answer.json()).process : before;
      if (answer?.status === 401 || after !== before) location.reload();
    }
    restarting = false;
    say(late);
    const line = element.querySelector("[data-restarting] p");
    if (line) line.textContent = late;
  };

  // -- events -----------------------------------------------------------------------------------------------------------

  element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button || !holder().contains(button)) return;
    if (button.dataset.sure && event.detail > 1) return; // a double click is no answer
    if (button.dataset.copy) copy(button);
    else if (button.dataset.sure && !("asked" in button.dataset)) ask(button);
    else if (button.dataset.do) act(button);
  });
  element.addEventListener("input", ({ target }) => {
    if (target.dataset.filter) filterRows(target);
    const part = target.closest("[data-form]");
    if (part) mark(part);
  });
  element.addEventListener("change", ({ target }) => {
    if (target.dataset.look) {
      document.dispatchEvent(new CustomEvent("tx-look", { detail: { name: target.dataset.look, value: target.value } }));
    } else if (target.dataset.go) location.href = target.dataset.go;
    else if (target.dataset.doOnChange) trigger(target.dataset.doOnChange, { fields: collected(target.closest("[data-form]")) });
  });
  element.addEventListener("keydown", (event) => {
    const button = event.key === "Enter" && event.target.closest("[data-enter]") && element.querySelector(`#${event.target.closest("[data-enter]").dataset.enter}`);
    if (!button || event.isComposing) return;
    event.preventDefault();
    act(button);
  });
  new MutationObserver(() => { // the theme button of the sidebar
    for (const radio of element.querySelectorAll("[data-look]")) {
      radio.checked = document.documentElement.dataset[radio.dataset.look] === radio.value;
    }
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "data-text"] });
  watch("value", draw);
  draw();
}

document.addEventListener("tx-session-card", ({ detail }) => show(detail));
