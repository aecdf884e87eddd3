// The icons of the shell, drawn in the color of the text.
const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  sidebar: "M4 5h16v14H4zM10 5v14",
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4.5 4.5",
  chat: "M4 5h16v11H10l-5 4v-4H4z",
  parameters: "M4 8h8M16 8h4M14 6v4M4 16h3M11 16h9M9 14v4",
  model: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  keys: "M3 7h18v10H3zM7 10.5h.01M11 10.5h.01M15 10.5h.01M8 14h8",
  bin: "M5 7h14M10 11v6M14 11v6M7 7l1 13h8l1-13M9 7V4h6v3",
  upload: "M12 16V5M7 9l5-5 5 5M5 19h14",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  pin: "M9 4h6l-1 6 3 3H7l3-3zM12 13v7",
  down: "M7 10l5 5 5-5",
  close: "M6 6l12 12M18 6L6 18",
};

/** Return the icon as an SVG element that screen readers skip. */
export function icon(name) {
  const holder = document.createElement("span");
  holder.className = `tx-icon-${name}`;
  holder.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${PATHS[name]}"/></svg>`;
  return holder.firstElementChild;
}
