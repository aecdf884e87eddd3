// Create elements without parsing text as HTML.

/** Return a new element: `attributes` are set as such, functions among them as event listeners. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return an element of the HTML that the server has rendered and escaped. */
export function rendered(html, className) {
  const element = make("div", { class: className });
  element.innerHTML = html;
  return element;
}

/** Return a button that shows an icon and is called `label`. */
export const iconButton = (act, label, path, attributes = {}) => {
  const button = make("button", { type: "button", class: "tx-act", "data-act": act, "aria-label": label, title: label, ...attributes });
  button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${path}"/></svg>`;
  return button;
};

export const ICONS = {
  copy: "M9 9h10v10H9zM5 15H4V5h10v1",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  again: "M20 12a8 8 0 1 1-2.3-5.7M20 3v4h-4",
  more: "M5 12h14M13 6l6 6-6 6",
  branch: "M6 4v16M6 12h6a4 4 0 0 0 4-4V5M13 8l3-3 3 3",
  receipt: "M6 3h12v18l-3-2-3 2-3-2-3 2zM9 8h6M9 12h6",
  remove: "M5 7h14M10 11v6M14 11v6M7 7l1 13h8l1-13M9 7V4h6v3",
  previous: "M15 6l-6 6 6 6",
  next: "M9 6l6 6-6 6",
  send: "M5 12h13M12 5l7 7-7 7",
  stop: "M7 7h10v10H7z",
  attach: "M20 11l-8.5 8.5a5 5 0 0 1-7-7L13 4a3.3 3.3 0 0 1 4.7 4.7L9.5 17a1.7 1.7 0 0 1-2.4-2.4L15 6.8",
  down: "M12 5v14M6 13l6 6 6-6",
  close: "M6 6l12 12M18 6L6 18",
  dots: "M6 12h.01M12 12h.01M18 12h.01",
};
