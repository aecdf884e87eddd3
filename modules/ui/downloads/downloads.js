// Runs when the table of files is drawn. The checkboxes belong to the browser until the button is pressed; what fits and
// what has been downloaded is written into the rows later, so that no selection is lost.
const write = (column) => {
  const source = document.querySelector(`#tx-dl-${column} [data-${column}]`);
  const table = element.querySelector(".tx-dl-table");
  if (!source || !table || source.dataset.commit !== table.dataset.commit) return;
  const cells = JSON.parse(source.dataset[column]);
  for (const row of table.querySelectorAll("[data-name]")) {
    const cell = row.querySelector(`.tx-dl-${column}`);
    const [text, title, kind] = cells[row.dataset.name] || ["", "", ""];
    cell.textContent = text;
    cell.title = title;
    cell.dataset.kind = kind || "";
  }
};
const fill = () => ["fits", "downloaded"].forEach(write);

element.addEventListener("change", () => trigger("select", {}));
watch("value", () => {
  // Gradio only sets the attribute, which has no effect on a checkbox that the user has clicked before.
  for (const box of element.querySelectorAll("input")) box.checked = box.hasAttribute("checked");
  write("fits");
});
document.addEventListener("tx-dl-cells", fill);
