// The tables: a click on the name of a column sorts them, a search field filters them. Printing opens all folded parts.

function columnOf(cell) {
  return Array.prototype.indexOf.call(cell.parentNode.children, cell);
}

/** Return the number or text by which a row is sorted, or null if the cell is empty. */
function sortKey(row, column) {
  const cell = row.children[column];
  const text = cell.dataset.value === undefined ? cell.textContent : cell.dataset.value;
  if (text === "") return null;
  return cell.classList.contains("number") || cell.querySelector(".goto") ? Number(text) : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortTable(table, header) {
  const column = columnOf(header);
  const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const rows = Array.from(table.tBodies[0].rows, (row, place) => ({ row, place, key: sortKey(row, column) }));
  rows.sort((a, b) => {
    // Rows without a value come last in both directions.
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
    return direction * compare(a.key, b.key) || a.place - b.place;
  });
  table.tBodies[0].append(...rows.map((entry) => entry.row));
}

function connectTables(part) {
  for (const table of part.querySelectorAll("table.sortable")) {
    for (const button of table.querySelectorAll("button.sort")) {
      button.addEventListener("click", () => sortTable(table, button.closest("th")));
    }
  }
}

connectTables(document);

for (const field of document.querySelectorAll("input[data-filter]")) {
  const table = document.getElementById(field.dataset.filter);
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    }
  });
}

window.addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
