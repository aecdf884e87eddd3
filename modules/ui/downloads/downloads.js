// Runs when the table of files is drawn. Ticks are the browser's until the button is pressed; what fits, and what has
// come meanwhile, is written into the rows when it is known, so that no tick is lost by it.
const write = (what) => {
  const told = document.querySelector(`#tx-dl-${what} [data-${what}]`);
  const table = element.querySelector(".tx-dl-table");
  if (!told || !table || told.dataset.commit !== table.dataset.commit) return;
  const words = JSON.parse(told.dataset[what]);
  for (const row of table.querySelectorAll("[data-name]")) {
    const cell = row.querySelector(`.tx-dl-${what}`);
    const [text, title, kind] = words[row.dataset.name] || ["", "", ""];
    cell.textContent = text;
    cell.title = title;
    cell.dataset.kind = kind || "";
  }
};
const fill = () => ["fits", "here"].forEach(write);

element.addEventListener("change", () => trigger("select", {}));
watch("value", () => {
  // Gradio sets the attribute alone, which does nothing to a box that somebody has pressed before.
  for (const box of element.querySelectorAll("input")) box.checked = box.hasAttribute("checked");
  write("fits");
});
document.addEventListener("tx-dl-told", fill);
