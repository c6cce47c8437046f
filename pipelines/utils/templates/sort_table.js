// Sorts by what a cell holds: numbers where both are, empty cells always last.
for (const head of document.querySelectorAll("table.sortable th")) head.firstChild.onclick = () => {
  const table = head.closest("table"), column = head.cellIndex, body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => row.cells[column].textContent, sign = down ? -1 : 1;
  const rows = [...body.rows].sort((a, b) => {
    const x = key(a), y = key(b);
    if (!x || !y) return (!x) - (!y);
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y);
  });
  body.append(...rows);
};
