// Sorting tables by a column.
function makeSortable(table) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    const button = make('button', {type: 'button', title: head.title || 'Sort by this column'}, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener('click', () => sortBy(table, heads, column));
  });
}

function sortBy(table, heads, column) {
  const before = heads[column].getAttribute('aria-sort');
  const sign = before === 'descending' ? 1 : -1;
  heads.forEach((head) => head.removeAttribute('aria-sort'));
  heads[column].setAttribute('aria-sort', sign === 1 ? 'ascending' : 'descending');
  const body = table.tBodies[0], rows = [...body.rows];
  const number = (row) => { const v = parseFloat(row.cells[column].dataset.value); return Number.isFinite(v) ? v : null; };
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (x !== null && y !== null) return sign * (x - y);
    if (x !== null || y !== null) return x === null ? 1 : -1;
    return -sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent);
  };
  body.append(...rows.sort(compare));
}
